"""Transforms files (NeRF-synthetic, instant-ngp, nerfstudio): JSON with the cameras of a scene's pictures, checked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hyperfields.errors import InputError, NoViews
from hyperfields.scenes._common import IMAGE_SUFFIXES, is_inside, one_line, picture_size, read_json, visible_folders
from hyperfields.scenes._frames import (
    Array,
    Divided,
    Format,
    Frame,
    Hints,
    fitted,
    named,
    require_rigid,
    tensor_pose,
)
from hyperfields.scenes._keys import LISTS, SAID, check_keys, is_set, model_of
from hyperfields.scenes._lenses import FISHEYES, camera_of, is_finite, merged, numbers_of
from hyperfields.scenes._points import read_points
from hyperfields.scenes._splits import SPLITS, Rule

SUFFIXES = ("", *IMAGE_SUFFIXES)  # tried in this order after a frame's file_path
SINGLE = "transforms.json"
PATHS = ("file_path", "mask_path", "ply_file_path", *LISTS.values())
FLIP = np.array([1.0, -1.0, -1.0, 1.0])  # from OpenGL's camera axes (+Y up, +Z backward) to OpenCV's


def transforms_of(folder: Path) -> list[Path]:
    """The transforms files of a folder."""
    return sorted(p for p in folder.glob("transforms*.json") if p.is_file())


class _File:
    """One transforms file, its frames not yet looked at."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        entries = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{path}: has no list of frames; wanted the NeRF-synthetic layout")
        self.path, self.folder, self.content, self.entries = path, path.parent, content, entries
        check_keys(content, str(path))
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(f"{path}: frame {i}: {type(entry).__name__} came, wanted an object with file_path")
        if len({repr(entry.get("time")) for entry in entries}) > 1:
            raise InputError(f"{path}: its frames have several times; a scene that moves is not read, give one a time")
        root = _moved_root(self.folder, content)
        self.numbers = numbers_of(content, str(path))
        self.notes = [f"{path}: {key}: {text}" for key, text in SAID.items() if self._says(key)]
        if root:
            self.notes.append(f"{path}: its paths begin with {root}; what follows is read from {self.folder}")
        self.notes += [f"{link} is a link: pictures are read from {link.resolve()}" for link in self._links()]
        if _moved(content, str(path)):
            self.notes.append(
                f"{path}: exports are in the coordinates of its transform_matrix, which applied_transform and "
                "applied_scale made from those of the capture"
            )

    def _says(self, key: str) -> bool:
        return any(is_set(entry.get(key)) for entry in (self.content, *self.entries))

    def _links(self) -> list[Path]:
        """Folders of the scene that hold pictures and are links."""
        first = {path.parts[0] for path in map(PurePosixPath, self.paths()) if len(path.parts) > 1}
        return [path for path in visible_folders(self.folder) if path.name in first and path.is_symlink()]

    def where(self, number: int) -> str:
        return f"{self.path}: frame {number}"

    def frame(self, number: int) -> Frame:
        """A frame, checked."""
        entry, where = self.entries[number], self.where(number)
        check_keys(entry, where)
        image = _image_path(self.folder, entry.get("file_path"), where, "file_path")
        if image is None:
            raise InputError(
                f"{where}: no picture at file_path {entry['file_path']!r:.200}; restore it or drop the frame"
            )
        mask, hides = self._mask(entry, image, where)
        pose = tensor_pose(_pose(entry, where))
        model = model_of(entry, self.content, where)
        numbers = merged(self.numbers, numbers_of(entry, where)) | _coefficients(entry, self.content, model, where)
        size = picture_size(image)
        camera = camera_of(pose, numbers, model, size, f"{where}: {image.name}")
        return Frame(
            image, fitted(camera, image, "its transforms file", size), mask, hides,
            self._circle(entry, size[1] / camera.width), _beside(image, f"{image.stem}.alpha{image.suffix}"),
        )  # fmt: skip

    def _mask(self, entry: dict[str, Any], image: Path, where: str) -> tuple[Path | None, bool]:
        if entry.get("mask_path"):
            mask = _image_path(self.folder, entry["mask_path"], where, "mask_path")
            if mask is None:
                raise InputError(
                    f"{where}: no picture at mask_path {entry['mask_path']!r:.200}; restore it or drop the key"
                )
            return mask, False
        dynamic = _beside(image, f"dynamic_mask_{image.stem}.png")  # instant-ngp's: white is what moves
        return dynamic, dynamic is not None

    def _circle(self, entry: dict[str, Any], scale: float) -> float | None:
        """The radius in pixels of the picture, which is `scale` times as wide as the file says."""
        radius = entry.get("fisheye_crop_radius", self.content.get("fisheye_crop_radius"))
        if not radius:
            return None
        if not is_finite(radius) or radius < 0:
            raise InputError(f"{self.path}: fisheye_crop_radius is {radius!r:.60}; wanted pixels")
        return float(radius) * scale

    def paths(self) -> list[str]:
        return [_plain(str(entry.get("file_path"))) for entry in self.entries]

    def there(self) -> tuple[list[int], list[str]]:
        """Numbers of the frames whose pictures are there, and the paths of the others."""
        kept, missing = [], []
        for i, entry in enumerate(self.entries):
            found = _image_path(self.folder, entry.get("file_path"), self.where(i), "file_path")
            if found is None:
                missing.append(str(entry["file_path"]))
            else:
                kept.append(i)
        if not kept:
            raise InputError(
                f"{self.path}: none of its {len(missing)} pictures is there ({named(missing)}); restore them"
            )
        return kept, missing

    def distinct(self, numbers: Sequence[int]) -> set[int]:
        """Those of some frames that do not repeat another: a picture must not be both for training and for the test."""
        paths, first = self.paths(), dict[tuple[str, str], int]()
        return {first.setdefault((paths[i], repr(self.entries[i].get("transform_matrix"))), i) for i in numbers}

    def hints(self) -> Hints:
        return _hints(self.content, self.path)


class _BySplit:
    """A scene with a file for each split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        there = [p for split in SPLITS if (p := folder / f"transforms_{split}.json").is_file()]
        opened = _File(there[0])
        self._files = {there[0]: opened}
        self.hints, self.notes = opened.hints(), (*opened.notes, *_left_alone(folder, there))

    def frames(self, split: str) -> list[Frame]:
        """The frames of a split, in the order of their file."""
        path = self.folder / f"transforms_{split}.json"
        if not path.is_file():
            there = [s for s in SPLITS if (self.folder / f"transforms_{s}.json").is_file()]
            raise NoViews(f"{path}: is missing; splits of this scene: {', '.join(there)}; wanted {split!r}")
        file = self._files[path] = self._files.get(path) or _File(path)
        return [file.frame(i) for i in range(len(file.entries))]


def read_transforms(folder: Path, rule: Rule | None, size: tuple[int, int] | None = None) -> _BySplit | Divided:
    """The pictures of a scene with transforms files: one for each split, or a single transforms.json.

    A single one is divided by its lists of filenames, else by the rule; and with a rule, several are taken together.

    Raises:
        InputError: no such file, not the JSON of one, a key that is not known or means what is not read, a fault.
    """
    by_split = [path for split in SPLITS if (path := folder / f"transforms_{split}.json").is_file()]
    if rule is None and by_split:
        return _BySplit(folder)
    paths = by_split or [path for path in (folder / SINGLE,) if path.is_file()]
    if not paths:
        others = [path.name for path in transforms_of(folder)]
        raise InputError(
            f"{folder / 'transforms_train.json'}: is missing; there is {named(others) or 'none'}; wanted "
            f"transforms_train.json or {SINGLE}"
        )
    files = [_File(path) for path in paths]
    notes = [*(note for file in files for note in file.notes), *_left_alone(folder, paths)]
    listed: list[tuple[str, _File, int]] = []
    for file in files:
        kept, missing = file.there()
        if missing:
            notes.append(
                f"{file.path}: {len(missing)} of {len(file.entries)} pictures are not there and left out "
                f"({named(missing)})"
            )
        here = file.distinct(kept)
        if len(here) < len(kept):
            notes.append(f"{file.path}: {len(kept) - len(here)} frames repeat others and are left out")
        listed += [(path, file, i) for i, path in enumerate(file.paths()) if i in here]
    # Files of several splits may repeat pictures: val and test are often the same.
    listed = list({path: (path, file, i) for path, file, i in reversed(listed)}.values()) if len(files) > 1 else listed
    listed.sort(key=lambda item: item[0])
    lists = _lists(files[0].content, [path for path, _, _ in listed], files[0].path)
    return Divided(
        str(files[0].path) if len(files) == 1 else str(folder),
        [file.frame(i) for _, file, i in listed],
        rule,
        hints=files[0].hints(),
        notes=notes,
        lists=lists,
        names=[path for path, _, _ in listed],
    )


def _left_alone(folder: Path, read: Sequence[Path]) -> list[str]:
    """A line about transforms files that are not read."""
    others = [path.name for path in transforms_of(folder) if path not in read]
    return [f"{folder}: {named([path.name for path in read])} are read, {named(others)} not"] if others else []


def _lists(content: dict[str, Any], names: Sequence[str], path: Path) -> dict[str, set[str]]:
    """nerfstudio's lists of filenames."""
    lists: dict[str, set[str]] = {}
    for split, key in LISTS.items():
        given = content.get(key) or []
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise InputError(f"{path}: {key} is no list of file_paths")
        lists[split] = {_plain(name) for name in given}
        if given and not lists[split] & set(names):
            raise InputError(f"{path}: none of {key} ({named(given)}) is the file_path of a frame")
    return lists


def _coefficients(entry: dict[str, Any], content: dict[str, Any], model: str | None, where: str) -> dict[str, float]:
    """distortion_params, nerfstudio's k1 k2 k3 k4 p1 p2, by name."""
    given = entry.get("distortion_params", content.get("distortion_params"))
    if not is_set(given):
        return {}
    if not isinstance(given, list) or not all(map(is_finite, given)):
        raise InputError(f"{where}: distortion_params is {given!r:.60}; wanted k1, k2, k3, k4, p1, p2")
    fisheye = model is not None and model.upper() in FISHEYES
    if len(given) != 6 and not (fisheye and len(given) == 4):
        raise InputError(f"{where}: distortion_params has {len(given)} numbers; wanted k1, k2, k3, k4, p1, p2")
    return dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), map(float, given), strict=False))


def _moved(content: dict[str, Any], where: str) -> bool:
    """True when the file says that its poses were brought from other coordinates; checked."""
    given, scale = content.get("applied_transform"), content.get("applied_scale")
    if scale is not None and (not is_finite(scale) or scale <= 0):
        raise InputError(f"{where}: applied_scale is {scale!r:.60}; wanted a number above 0")
    if given is None:
        return scale not in (None, 1)
    matrix = _matrix(given)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < 4:
        raise InputError(f"{where}: applied_transform is not 3 rows of 4 finite numbers that can be undone")
    return scale not in (None, 1) or not np.allclose(matrix, np.eye(4))


def _plain(file_path: str) -> str:
    return unicodedata.normalize("NFC", file_path.replace("\\", "/").removeprefix("./"))


def _hints(content: dict[str, Any], path: Path) -> Hints:
    values: dict[str, Any] = {}
    for key in ("scale", "aabb_scale"):
        if content.get(key) is not None:
            if not is_finite(content[key]) or content[key] <= 0:
                raise InputError(f"{path}: {key} is {content[key]!r:.60}; wanted a number above 0")
            values[key] = float(content[key])
    for key in ("offset", "up"):
        if content.get(key) is not None:
            vector = content[key]
            if not (isinstance(vector, list) and len(vector) == 3 and all(map(is_finite, vector))):
                raise InputError(f"{path}: {key} is {vector!r:.60}; wanted 3 finite numbers")
            values[key] = np.array(vector, dtype=np.float64)
    if content.get("ply_file_path"):
        values["points"] = read_points(path.parent, content["ply_file_path"], f"{path}: ply_file_path")
    return Hints(**values)


def _matrix(given: Any) -> Array:
    """A matrix of 3 or 4 rows as `[4 4]`; empty when it is none."""
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)
    return np.concatenate((matrix, [[0.0, 0.0, 0.0, 1.0]])) if matrix.shape == (3, 4) else matrix


def _pose(entry: dict[str, Any], where: str) -> Array:
    """Camera to world, OpenCV."""
    key = "transform_matrix"
    ends = [entry.get(f"{key}_{end}") for end in ("start", "end")]  # instant-ngp's, of a camera that moves
    if any(end is not None for end in ends):
        still = key not in entry or np.allclose(_matrix(entry[key])[:3], _matrix(ends[0])[:3])
        if ends[0] != ends[1] or not still:
            raise InputError(f"{where}: {key}_start: a camera that moves while it exposes is not read; give one {key}")
    pose = _matrix(entry.get(key, ends[0]))
    require_rigid(pose, f"{where}: {key}")
    converted: Array = pose * FLIP
    converted[3] = (0.0, 0.0, 0.0, 1.0)
    return converted


def _beside(image: Path, name: str) -> Path | None:
    path = image.parent / name
    return path if path.is_file() else None


def _image_path(folder: Path, file_path: Any, where: str, key: str) -> Path | None:
    """The picture that a frame names, None where there is none; also with Windows' separators, letters of another case,
    composed accents."""
    if not isinstance(file_path, str) or not file_path:
        raise InputError(f"{where}: {key} is {file_path!r:.200}; wanted the path of a picture")
    try:
        image = _there(folder, file_path) or _similar(folder, file_path.replace("\\", "/"))
        inside = is_inside(folder, image or folder / file_path)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {key} {file_path!r:.200} cannot be used ({one_line(error)})") from error
    if not inside:
        remedy = "move the picture there, or link its folder"
        if _ABSOLUTE.match(file_path):
            beside = "/".join(file_path.replace("\\", "/").split("/")[-2:])
            remedy = f"put the pictures there, this one at {folder / beside}"
        raise InputError(f"{where}: {key} {file_path!r:.200} leaves the scene's folder; {remedy}")
    return image


_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


def _moved_root(folder: Path, content: dict[str, Any]) -> str | None:
    """The folder of another place, or of another machine, that a file's absolute paths begin with, which are made
    relative: what follows it is in the scene's folder. None for relative paths, and where nothing follows so."""
    entries = content["frames"]
    named = (str(entry.get("file_path")).replace("\\", "/") for entry in entries)
    roots = (root for path in named if _ABSOLUTE.match(path) and (root := _root_of(folder, path)))
    if (root := next(roots, None)) is None:
        return None

    def here(value: Any) -> Any:
        if isinstance(value, list):
            return [here(one) for one in value]
        path = value.replace("\\", "/") if isinstance(value, str) else ""
        return path.removeprefix(root) if path.startswith(root) else value

    for part in (content, *entries):
        part.update({key: here(part[key]) for key in PATHS if key in part})
    return None if Path(root).resolve() == folder.resolve() else root


def _root_of(folder: Path, path: str) -> str | None:
    """The beginning of an absolute path, as short as can be, that what is in the folder follows."""
    parts = path.split("/")
    try:
        tails = ((k, "/".join(parts[k:])) for k in range(1, len(parts)) if parts[k])
        found = next((k for k, tail in tails if _there(folder, tail) or _similar(folder, tail)), None)
    except (OSError, ValueError):  # said where the path is used
        return None
    return None if found is None else "/".join(parts[:found]) + "/"


def _there(folder: Path, path: str) -> Path | None:
    return next((p for s in SUFFIXES if (p := folder / (path + s)).is_file()), None)


def _similar(folder: Path, file_path: str) -> Path | None:
    """The picture whose path differs from `file_path` in case, in how accents are stored, or by a suffix only."""
    *parents, last = [part for part in file_path.split("/") if part not in ("", ".")] or [""]
    for part in parents:
        child = folder / part
        if not child.is_dir():
            alike = [p for p in folder.iterdir() if p.is_dir() and _folded(p.name) == _folded(part)]
            if len(alike) != 1:
                return None
            child = alike[0]
        folder = child
    if not folder.is_dir():
        return None
    files = {_folded(p.name): p for p in folder.iterdir() if p.is_file() and not p.name.startswith("._")}
    return next((files[name] for s in SUFFIXES if (name := _folded(last + s)) in files), None)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


TRANSFORMS = Format(
    name="transforms",
    wants="transforms_train.json or transforms.json",
    detect=lambda folder: bool(transforms_of(folder)),
    read=read_transforms,
)
