"""COLMAP's model files, looked over before its library reads them: damaged ones make it read nonsense without a word,
take all memory, or never come back.

Layout: https://colmap.github.io/format.html and, for rigs and frames, src/colmap/scene/reconstruction_io_binary.cc.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from hyperfields.errors import InputError

# Number -> name and count of parameters of a camera model.
MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}
UNIT = 1e-2  # by which the length of a quaternion may differ from 1
NAMES = {name: count for name, count in MODELS.values()}


class _Reader:
    """Bytes of a file, taken in order."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            empty = not path.stat().st_size  # which cannot be mapped
            self.data = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.path, self.at = path, 0
        self.what = "its count"

    def take(self, form: str) -> tuple[int | float, ...]:
        size = struct.calcsize("<" + form)
        self.skip(size)
        return struct.unpack_from("<" + form, self.data, self.at - size)

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise InputError(f"{self.path}: is cut short, at {self.what}; copy it again")

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise InputError(f"{self.path}: is cut short, at {self.what}; copy it again")
        name, self.at = bytes(self.data[self.at : end]), end + 1
        return name.decode("utf-8", "replace")

    def finish(self) -> None:
        if self.at != len(self.data):
            raise InputError(f"{self.path}: has {len(self.data) - self.at:,} bytes too many; copy it again")


def check_model(folder: Path) -> None:
    """Nothing, when the files of a model are whole.

    Raises:
        InputError: a file that is missing, cut short, has bytes or words too many, or a camera model that is unknown.
    """
    suffix = suffix_of(folder)
    checks = BINARY if suffix == ".bin" else TEXT
    for name in ("cameras", "images", "points3D", "rigs", "frames"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            try:
                checks[name](path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        elif name in ("cameras", "images", "points3D"):
            raise InputError(f"{path}: is missing; a model of COLMAP has cameras, images and points3D")


def suffix_of(folder: Path) -> str:
    """Whether a model is in binary or in text: binary where both are there, as in COLMAP."""
    whole = all((folder / f"{name}.bin").is_file() for name in ("cameras", "images"))
    return ".bin" if whole or not (folder / "cameras.txt").is_file() else ".txt"


def names_in(folder: Path) -> dict[int, str]:
    """Number -> name of the pictures of a model in text: the library cuts names at a space. Empty for binary ones."""
    if suffix_of(folder) == ".bin":
        return {}
    words = [line.split(None, 9) for _, line, _ in _image_lines(folder / "images.txt")]
    return {int(parts[0]): parts[9] for parts in words}


def count_images(folder: Path) -> int:
    """How many pictures a model says that it has."""
    path = folder / f"images{suffix_of(folder)}"
    if not path.is_file():
        return 0  # a pipe would be waited for
    try:
        if path.suffix == ".bin":
            with path.open("rb") as stream:
                return int(struct.unpack("<Q", stream.read(8))[0])
        return len(_image_lines(path))
    except (OSError, struct.error):
        return 0  # what is wrong is said when it is read


def _cameras(path: Path) -> None:
    reader = _Reader(path)
    [count] = reader.take("Q")
    for i in range(int(count)):
        reader.what = f"camera {i + 1} of {count}"
        identity, model, _, _ = reader.take("IiQQ")
        if model not in MODELS:
            raise InputError(f"{path}: camera {identity}: model number {model} is not known")
        reader.skip(8 * MODELS[int(model)][1])
    reader.finish()


def _images(path: Path) -> None:
    reader = _Reader(path)
    [count] = reader.take("Q")
    for i in range(int(count)):
        reader.what = f"picture {i + 1} of {count}"
        _, *pose, _ = reader.take("I7dI")
        reader.what += f" ({reader.text()})"
        _check_pose(pose, f"{path}: {reader.what}")
        [points] = reader.take("Q")
        reader.skip(24 * int(points))
    reader.finish()


def _points(path: Path) -> None:
    reader = _Reader(path)
    [count] = reader.take("Q")
    for i in range(int(count)):
        reader.what = f"point {i + 1} of {count}"
        reader.skip(8 + 24 + 3 + 8)
        [track] = reader.take("Q")
        reader.skip(8 * int(track))
    reader.finish()


def _rigs(path: Path) -> None:
    reader = _Reader(path)
    [count] = reader.take("Q")
    for i in range(int(count)):
        reader.what = f"rig {i + 1} of {count}"
        _, sensors = reader.take("II")
        reader.skip(8 * min(int(sensors), 1))
        for _ in range(int(sensors) - 1):
            reader.skip(8)
            [posed] = reader.take("B")
            reader.skip(56 if posed else 0)
    reader.finish()


def _frames(path: Path) -> None:
    reader = _Reader(path)
    [count] = reader.take("Q")
    for i in range(int(count)):
        reader.what = f"frame {i + 1} of {count}"
        _check_pose(reader.take("II7d")[2:], f"{path}: {reader.what}")
        [parts] = reader.take("I")
        reader.skip(16 * int(parts))
    reader.finish()


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbers and texts of the lines that are no comments; checks the count that COLMAP writes into one of these."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise InputError(f"{path}: is no text ({str(error)[:80]}); copy it again") from error
    return [(i + 1, line.strip()) for i, line in enumerate(text.splitlines()) if not line.lstrip().startswith("#")]


def _said(path: Path) -> int | None:
    """The number of entries that a comment of the file says, as in "# Number of images: 7, mean ...\""""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for line in stream:
            if not line.startswith("#"):
                break
            head, colon, rest = line.partition(":")
            number = rest.split(",")[0].strip()
            if colon and head.startswith("# Number of") and number.isdecimal():
                return int(number)
    return None


def _check_count(path: Path, count: int) -> None:
    said = _said(path)
    if said is not None and count < said:
        raise InputError(f"{path}: is cut short: says {said} entries, holds {count}; copy it again")


def _camera_lines(path: Path) -> None:
    lines = [(i, line) for i, line in _lines(path) if line]
    for i, line in lines:
        words = line.split()
        if len(words) < 4 or not _numeric(words[2:]):
            raise InputError(f"{path}: line {i}: {line!r:.60} came, wanted CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        if words[1] not in NAMES:
            raise InputError(f"{path}: line {i}: camera {words[0]}: model {words[1]!r:.40} is not known")
        if len(words) - 4 != NAMES[words[1]]:
            raise InputError(
                f"{path}: line {i}: camera {words[0]}: {len(words) - 4} parameters came, {words[1]} has "
                f"{NAMES[words[1]]}; is the line cut short?"
            )
    _check_count(path, len(lines))


def _image_lines(path: Path) -> list[tuple[int, str, str]]:
    """Number and text of the first line of each picture, and its second one."""
    lines = _lines(path)
    while lines and not lines[-1][1] and (len(lines) % 2 or not lines[-2][1]):
        lines.pop()  # empty ones at the end that belong to none
    pairs = []
    for k in range(0, len(lines), 2):
        i, line = lines[k]
        pairs.append((i, line, lines[k + 1][1] if k + 1 < len(lines) else ""))
    return pairs


def _check_image_lines(path: Path) -> None:
    pairs = _image_lines(path)
    for i, line, points in pairs:
        words = line.split(None, 9)
        if len(words) < 10 or not _numeric(words[:9]):
            raise InputError(
                f"{path}: line {i}: {line!r:.60} came, wanted IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            )
        _check_pose([float(word) for word in words[1:8]], f"{path}: line {i} ({words[9]})")
        if len(points.split()) % 3:
            raise InputError(f"{path}: line {i + 1}: the points of {words[9]} are no triples; is the line cut short?")
    _check_count(path, len(pairs))


def _point_lines(path: Path) -> None:
    lines = [(i, line) for i, line in _lines(path) if line]
    for i, line in lines:
        count = len(line.split())
        if count < 8 or count % 2:
            raise InputError(f"{path}: line {i}: {line!r:.60} came, wanted POINT3D_ID X Y Z R G B ERROR TRACK")
    _check_count(path, len(lines))


def _rig_lines(path: Path) -> None:
    _check_count(path, len([line for _, line in _lines(path) if line]))


def _frame_lines(path: Path) -> None:
    lines = [(i, line) for i, line in _lines(path) if line]
    for i, line in lines:
        words = line.split()
        if len(words) < 10 or not _numeric(words[:9]):
            raise InputError(f"{path}: line {i}: {line!r:.60} came, wanted FRAME_ID RIG_ID QW QX QY QZ TX TY TZ DATA")
        _check_pose([float(word) for word in words[2:9]], f"{path}: line {i}")
    _check_count(path, len(lines))


def _check_pose(numbers: Sequence[float], where: str) -> None:
    """Raises InputError for QW QX QY QZ TX TY TZ that are no rotation and translation: the library takes anything."""
    length = math.sqrt(sum(value * value for value in numbers[:4])) if all(map(math.isfinite, numbers)) else math.nan
    if not abs(length - 1.0) <= UNIT:
        raise InputError(
            f"{where}: the pose {list(numbers)} is not rigid: wanted a quaternion of length 1 and a translation"
        )


def _numeric(words: list[str]) -> bool:
    try:
        return all(float(word) is not None for word in words)
    except ValueError:
        return False


BINARY: dict[str, Callable[[Path], None]] = {
    "cameras": _cameras,
    "images": _images,
    "points3D": _points,
    "rigs": _rigs,
    "frames": _frames,
}
TEXT: dict[str, Callable[[Path], None]] = {
    "cameras": _camera_lines,
    "images": _check_image_lines,
    "points3D": _point_lines,
    "rigs": _rig_lines,
    "frames": _frame_lines,
}
