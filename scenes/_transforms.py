"""Transforms files (NeRF-synthetic, instant-ngp, nerfstudio): JSON with the cameras of a scene's pictures, checked.

No key is dropped: each is used, known to change nothing (`HARMLESS`) or nothing while it is not set (`UNSET`), or
refused.
"""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfields.errors import InputError
from hyperfields.scenes._common import IMAGE_SUFFIXES, one_line, read_json

SPLITS = ("train", "val", "test")
SUFFIXES = ("", *IMAGE_SUFFIXES)  # tried in this order after a frame's file_path
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
NUMBERS = ("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", *DISTORTION)
LISTS = {split: f"{split}_filenames" for split in SPLITS}  # nerfstudio's
PINHOLE = ("pinhole", "simple_pinhole", "opencv", "perspective", "simple_radial", "radial", "full_opencv")
HELD_OUT = 8  # of the pictures of a single transforms.json, sorted by file_path, each of this number is for the test

USED = {"frames", "file_path", "transform_matrix", "mask_path", "camera_model", "scale", "offset", "aabb_scale"}
USED |= {"up", "distortion_params", "time", *NUMBERS, *LISTS.values()}
# These say how the file came about, or belong to sensors, renderers and trainings that are not ours.
HARMLESS = {"rotation", "sharpness", "colmap_im_id", "colmap_image_id", "applied_transform", "applied_scale"}
HARMLESS |= {"ply_file_path", "depth_file_path", "depth_path", "normal_file_path", "depth_unit_scale_factor"}
HARMLESS |= {"integer_depth_scale", "enable_depth_loading", "orientation_override", "auto_scale_poses_override"}
HARMLESS |= {"image_id", "camera_id", "name", "timestamp", "version", "comment", "author", "date", "n_frames"}
HARMLESS |= {"wants_importance_sampling", "render_aabb", "fisheye_crop_radius", "near", "far"}
# False, 0 or empty they say nothing; else they mean what is not read.
UNSET = {
    "is_fisheye": "pictures of a fisheye lens are not read; undistort them to pinhole ones (colmap image_undistorter)",
    "is_equirectangular": "pictures of all directions are not read; cut pinhole pictures out of them",
    "rolling_shutter": "a rolling shutter is not read; take the key out if it may be passed over",
    "driver_parameters": "a camera that moves while it exposes is not read",
    "white_transparent": "is not read; give --background white instead and take the key out",
    "black_transparent": "is not read; give --background black instead and take the key out",
    "mask_color": "is not read; give each frame a mask_path instead",
    "fix_premult": "is not read; store straight alpha in the pictures and take the key out",
    "from_mitsuba": "other axes are not read; turn the poses to OpenGL's and take the key out",
    "from_na": "other axes are not read; turn the poses to OpenGL's and take the key out",
    "n_extra_learnable_dims": "is not read: one look a scene is fitted; take the key out if it may be passed over",
    "transform_matrix_start": "a camera that moves while it exposes is not read; give one transform_matrix",
    "transform_matrix_end": "a camera that moves while it exposes is not read; give one transform_matrix",
}


class Frame(NamedTuple):
    """One entry of a transforms file, checked."""

    image: Path
    T_world_camera: NDArray[np.float64]  # [4 4], OpenCV, in the file's unit
    numbers: dict[str, float]  # intrinsics of the file and of the frame
    mask: Path | None = None  # picture that is 0 where nothing counts


class Hints(NamedTuple):
    """What a transforms file says about its scene."""

    scale: float | None = None  # instant-ngp: p * scale + offset lies in the unit cube
    offset: NDArray[np.float64] | None = None  # [3]
    aabb_scale: float | None = None  # side of the cube round (0.5, 0.5, 0.5) that holds the scene
    up: NDArray[np.float64] | None = None  # [3]


def transforms_of(folder: Path) -> list[Path]:
    """The transforms files of a folder."""
    return sorted(p for p in folder.glob("transforms*.json") if p.is_file())


def read_transforms(folder: Path, split: str) -> tuple[list[Frame], Hints]:
    """The frames of a split, in the order of their file.

    A scene with one transforms.json only is divided: by its lists of filenames, else every eighth picture is for the
    test and the others are for training.

    Raises:
        InputError: no such file or split, not the JSON of one, a key that is not known or means what is not read.
    """
    path = folder / f"transforms_{split}.json"
    single = folder / "transforms.json"
    there = [s for s in SPLITS if (folder / f"transforms_{s}.json").is_file()]
    if not path.is_file() and (there or not single.is_file()):
        raise InputError(f"{path}: is missing; splits of this scene: {', '.join(there) or 'none'}; wanted {split!r}")
    divided = not path.is_file()
    path = single if divided else path
    content = read_json(path)
    entries = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: has no list of frames; wanted the NeRF-synthetic layout")
    _check_keys(content, str(path))
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: frame {i}: {type(entry).__name__} came, wanted an object with file_path")
    if len({repr(entry.get("time")) for entry in entries}) > 1:
        raise InputError(f"{path}: its frames have several times; a scene that moves is not read, give one a time")
    if divided:
        entries = _divided(content, entries, split, path)
    shared = _numbers(content, path)
    frames = [_frame(folder, entry, shared, content, f"{path}: frame {i}") for i, entry in enumerate(entries)]
    return frames, _hints(content, path)


def _frame(folder: Path, entry: dict[str, Any], shared: dict[str, float], content: Any, where: str) -> Frame:
    _check_keys(entry, where)
    numbers = shared | _numbers(entry, Path(where))
    bent = [key for key in DISTORTION if numbers.get(key, 0.0) != 0.0]
    if any(entry.get("distortion_params", content.get("distortion_params")) or ()):
        bent.append("distortion_params")
    if bent:
        raise InputError(
            f"{where}: the lens has distortion ({', '.join(bent)}); undistort the pictures first and write these as 0"
        )
    image = _image_path(folder, entry.get("file_path"), where, "file_path")
    mask = _image_path(folder, entry["mask_path"], where, "mask_path") if entry.get("mask_path") else None
    return Frame(image, _pose(entry.get("transform_matrix"), where), numbers, mask)


def _check_keys(entry: dict[str, Any], where: str) -> None:
    """Raises InputError for a key that would be dropped."""
    for key, value in entry.items():
        if key in UNSET and _is_set(value):
            raise InputError(f"{where}: {key}: {UNSET[key]}")
        if key == "camera_model" and str(value).lower() not in PINHOLE:
            raise InputError(
                f"{where}: camera_model {value!r:.60}: only pinhole cameras are read; undistort the pictures "
                "(colmap image_undistorter) or cut pinhole pictures out of them, and write PINHOLE"
            )
        if key not in USED and key not in HARMLESS and key not in UNSET and not key.startswith(("_", "#", "//")):
            raise InputError(f"{where}: key {key!r:.60} is not known here; take it out if it may be passed over")


def _is_set(value: Any) -> bool:
    """True unless a value of JSON is false, 0 or empty, or made of such values."""
    if isinstance(value, dict | list):
        return any(map(_is_set, value.values() if isinstance(value, dict) else value))
    return bool(value)


def _divided(content: dict[str, Any], entries: list[Any], split: str, path: Path) -> list[Any]:
    """The frames of a split of a single transforms.json."""
    if any(content.get(key) for key in LISTS.values()):
        chosen = {_plain(name) for name in content.get(LISTS[split]) or () if isinstance(name, str)}
        part = [entry for entry in entries if _plain(str(entry.get("file_path"))) in chosen]
    else:
        ordered = sorted(entries, key=lambda entry: _plain(str(entry.get("file_path"))))
        held = {id(entry) for entry in ordered[::HELD_OUT]} if len(entries) > 1 else set()
        part = [entry for entry in entries if (id(entry) in held) == (split == "test") and split != "val"]
    if not part:
        raise InputError(f"{path}: none of its {len(entries)} frames is for {split!r}")
    return part


def _plain(file_path: str) -> str:
    return unicodedata.normalize("NFC", file_path.replace("\\", "/").removeprefix("./"))


def _numbers(entry: dict[str, Any], path: Path) -> dict[str, float]:
    """The camera's numbers that an object of a transforms file holds."""
    numbers = {}
    for key in NUMBERS:
        if key in entry:
            value = entry[key]
            if not _finite(value):
                raise InputError(f"{path}: {key} is {value!r:.60}; wanted a finite number")
            if key in ("fl_x", "fl_y", "w", "h") and value <= 0:
                raise InputError(f"{path}: {key} is {value!r:.60}; wanted a number above 0")
            numbers[key] = float(value)
    for key in ("camera_angle_x", "camera_angle_y"):
        if not 0.0 < numbers.get(key, 1.0) < math.pi:
            raise InputError(f"{path}: {key} is {numbers[key]!r}; wanted radians between 0 and pi")
    return numbers


def _hints(content: dict[str, Any], path: Path) -> Hints:
    values: dict[str, Any] = {}
    for key in ("scale", "aabb_scale"):
        if content.get(key) is not None:
            if not _finite(content[key]) or content[key] <= 0:
                raise InputError(f"{path}: {key} is {content[key]!r:.60}; wanted a number above 0")
            values[key] = float(content[key])
    for key in ("offset", "up"):
        if content.get(key) is not None:
            vector = content[key]
            if not (isinstance(vector, list) and len(vector) == 3 and all(map(_finite, vector))):
                raise InputError(f"{path}: {key} is {vector!r:.60}; wanted 3 finite numbers")
            values[key] = np.array(vector, dtype=np.float64)
    return Hints(**values)


def _finite(value: Any) -> bool:
    # Compared, since `isfinite` takes no integers that are too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _pose(matrix: Any, where: str) -> NDArray[np.float64]:
    """Camera to world, from OpenGL's camera axes (+Y up, +Z backward) to OpenCV's (+Y down, +Z forward)."""
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.empty(0)
    if pose.shape == (3, 4):
        pose = np.concatenate((pose, [[0.0, 0.0, 0.0, 1.0]]))
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise InputError(f"{where}: transform_matrix is not 3 or 4 rows of 4 finite numbers")
    rotation = pose[:3, :3]
    skew = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    straight = np.abs(pose[3] - (0.0, 0.0, 0.0, 1.0)).max() < 1e-3
    if skew > 1e-3 or np.linalg.det(rotation) < 0.0 or not straight:
        raise InputError(
            f"{where}: transform_matrix is not a rigid pose (columns off by {skew:.2g} from orthonormal, "
            f"determinant {np.linalg.det(rotation):.3g}, last row {pose[3].tolist()}); "
            "wanted a rotation, a translation and 0 0 0 1"
        )
    converted: NDArray[np.float64] = pose * np.array([1.0, -1.0, -1.0, 1.0])
    converted[3] = (0.0, 0.0, 0.0, 1.0)
    return converted


def _image_path(folder: Path, file_path: Any, where: str, key: str) -> Path:
    """The picture that a frame names; also with Windows' separators, letters of another case, composed accents."""
    if not isinstance(file_path, str) or not file_path:
        raise InputError(f"{where}: {key} is {file_path!r:.200}; wanted the path of a picture")
    try:
        image = next((p for s in SUFFIXES if (p := folder / (file_path + s)).is_file()), None)
        image = image or _similar(folder, file_path.replace("\\", "/"))
        inside = (image or folder / file_path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {key} {file_path!r:.200} cannot be used ({one_line(error)})") from error
    if not inside:
        raise InputError(f"{where}: {key} {file_path!r:.200} leaves the scene's folder; move the picture there")
    if image is None:
        raise InputError(f"{where}: no picture at {key} {file_path!r:.200}; restore it or drop the frame")
    return image


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
