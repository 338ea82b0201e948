"""A folder of scene folders in the NeRF-synthetic layout as a family of views."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera
from hyperfields.data import View, Views
from hyperfields.errors import InputError
from hyperfields.scenes._common import as_bytes, as_unit, one_line, read_rgba, resize_straight, select
from hyperfields.scenes.reader import Reader

SPLITS = ("train", "val", "test")
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".exr")  # tried in this order after a frame's file_path
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


class Frame(NamedTuple):
    """One entry of a transforms file, checked."""

    image: Path
    T_world_camera: NDArray[np.float64]  # [4 4], OpenCV
    numbers: dict[str, float]  # intrinsics of the file and of the frame


class _Frames:
    """Reads the views of scene folders, all brought to one size."""

    def __init__(self, folders: Sequence[Path], size: tuple[int, int] | None) -> None:
        self.folders, self.size = folders, size
        # The first picture and its size: without `size` all others must agree.
        self.first: tuple[Path, tuple[int, int]] | None = None

    def __call__(self, scene: int, split: str) -> list[View]:
        """The views of a split, in the order of its transforms file."""
        views = [self.view(frame) for frame in _read_transforms(self.folders[scene], split)]
        return [View(camera, torch.from_numpy(pixels)) for camera, pixels in views]

    def view(self, frame: Frame) -> tuple[Camera, NDArray[np.float32]]:
        """A frame's camera and straight rgba `[h w 4]`."""
        rgba = as_unit(read_rgba(frame.image))
        height, width = rgba.shape[:2]
        if self.size is None:
            path, size = self.first = self.first or (frame.image, (height, width))
            if size != (height, width):
                raise InputError(
                    f"{frame.image}: is {height}x{width} but {path} is {size[0]}x{size[1]} (height x width); "
                    "pass --size HxW to bring all to one size"
                )
        camera = _camera(frame, height, width)
        if self.size is None or self.size == (height, width):
            return camera, rgba
        return camera.resized(*self.size), resize_straight(rgba, self.size)


def scene_folders(path: Path) -> dict[str, Path]:
    """Scene name -> folder: `path` itself if it holds a transforms file, else its sub-folders if one does."""
    if any(path.glob("transforms*.json")):
        return {path.resolve().name: path}
    folders = {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    return folders if any(any(p.glob("transforms*.json")) for p in folders.values()) else {}


def open_views(
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    views: Sequence[int] | None = None,
) -> Views:
    """Read a folder whose sub-folders are scenes in the NeRF-synthetic layout, or one such scene.

    Per scene and split a file `transforms_<split>.json` with `camera_angle_x` (radians) or `fl_x` (also read:
    `fl_y`, `cx`, `cy`, `w`, `h`, in pixels) and `frames`: `file_path`, with or without suffix and inside the
    scene's folder, and `transform_matrix`, camera to world in the OpenGL convention (+Y up, looks along -Z).

    Args:
        size: (height, width) to which pictures and cameras are brought.
        views: numbers of the training pictures to use, default all.

    Raises:
        InputError: a transforms file is missing, malformed or has no focal length; a lens with distortion; a
            picture that is missing, broken, outside its scene's folder or of another size than the others
            without `size`; a matrix that is not a rigid pose.
    """
    folders = scene_folders(folder)
    if not folders:
        raise InputError(
            f"{folder}: no transforms_train.json in it or in a folder of it; wanted the NeRF-synthetic layout"
        )
    names = select(list(folders), scenes, limit)
    read = _Frames([folders[name] for name in names], size)
    cameras, pictures = [], []
    for folder in read.folders:
        frames = _read_transforms(folder, "train")
        if views is not None:
            if not views or not all(0 <= view < len(frames) for view in views):
                raise InputError(f"views: {list(views)} came, but {folder} has training views 0 to {len(frames) - 1}")
            frames = [frames[view] for view in views]
        seen = [(camera, as_bytes(pixels)) for camera, pixels in map(read.view, frames)]  # 8 bits at once: memory
        cameras.append([camera for camera, _ in seen])
        pictures.append(torch.from_numpy(np.stack([pixels for _, pixels in seen])))
    return Views(cameras, pictures, names, reference=read)


def _read_transforms(folder: Path, split: str) -> list[Frame]:
    path = folder / f"transforms_{split}.json"
    if not path.is_file():
        there = [s for s in SPLITS if (folder / f"transforms_{s}.json").is_file()]
        raise InputError(f"{path}: is missing; splits of this scene: {', '.join(there) or 'none'}; wanted {split!r}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({one_line(error)})") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path}: has no list of frames; wanted the NeRF-synthetic layout")
    shared = _numbers(content, path)
    checked = []
    for i, frame in enumerate(frames):
        where = f"{path}: frame {i}"
        if not isinstance(frame, dict):
            raise InputError(f"{where}: {type(frame).__name__} came, wanted an object with file_path")
        numbers = shared | _numbers(frame, path)
        if bent := [key for key in DISTORTION if numbers.get(key, 0.0) != 0.0]:
            raise InputError(
                f"{where}: the lens has distortion ({', '.join(bent)}); undistort the pictures first "
                "and write these as 0"
            )
        pose = _pose(frame.get("transform_matrix"), where)
        checked.append(Frame(_image_path(folder, frame.get("file_path"), where), pose, numbers))
    return checked


def _numbers(entry: dict[str, Any], path: Path) -> dict[str, float]:
    """The camera's numbers that an object of a transforms file holds."""
    numbers = {}
    for key in ("camera_angle_x", "fl_x", "fl_y", "cx", "cy", "w", "h", *DISTORTION):
        if key in entry:
            value = entry[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{path}: {key} is {value!r}; wanted a finite number")
            if key in ("fl_x", "fl_y", "w", "h") and value <= 0:
                raise InputError(f"{path}: {key} is {value!r}; wanted a number above 0")
            numbers[key] = float(value)
    if not 0.0 < numbers.get("camera_angle_x", 1.0) < math.pi:
        raise InputError(f"{path}: camera_angle_x is {numbers['camera_angle_x']!r}; wanted radians between 0 and pi")
    return numbers


def _pose(matrix: Any, where: str) -> NDArray[np.float64]:
    """Camera to world, from OpenGL's camera axes (+Y up, +Z backward) to OpenCV's (+Y down, +Z forward)."""
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise InputError(f"{where}: transform_matrix is not 4 rows of 4 finite numbers")
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


def _image_path(folder: Path, file_path: Any, where: str) -> Path:
    if not isinstance(file_path, str) or not file_path:
        raise InputError(f"{where}: file_path is {file_path!r}; wanted the path of a picture")
    try:
        found = next((p for s in SUFFIXES if (p := folder / (file_path + s)).is_file()), None)
        inside = (found or folder / file_path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: file_path {file_path!r} cannot be used ({one_line(error)})") from error
    if not inside:
        raise InputError(f"{where}: file_path {file_path!r} leaves the scene's folder; move the picture there")
    if found is None:
        raise InputError(f"{where}: no picture at file_path {file_path!r}; restore it or drop the frame")
    return found


def _camera(frame: Frame, height: int, width: int) -> Camera:
    """The camera of a frame whose picture has `height` by `width` pixels.

    Focal lengths and centre count in pixels of the file's own `w` and `h`, if given, which may be larger or
    smaller than the picture.
    """
    numbers = frame.numbers
    w, h = (numbers["w"], numbers["h"]) if {"w", "h"} <= numbers.keys() else (width, height)
    if abs(w * height / (h * width) - 1.0) > 0.02:
        raise InputError(
            f"{frame.image}: is {height}x{width} (height x width) but its transforms file says {h:g}x{w:g}; "
            "mend h and w"
        )
    if "fl_x" in numbers:
        fx = numbers["fl_x"]
    elif "camera_angle_x" in numbers:
        fx = 0.5 * w / math.tan(0.5 * numbers["camera_angle_x"])
    else:
        raise InputError(f"{frame.image}: its transforms file has neither camera_angle_x (radians) nor fl_x (pixels)")
    fy = numbers.get("fl_y", fx)
    cx, cy = numbers.get("cx", 0.5 * w), numbers.get("cy", 0.5 * h)
    pose = torch.from_numpy(frame.T_world_camera).float()
    return Camera(pose, fx, fy, cx, cy, round(w), round(h)).resized(height, width)


READER = Reader(
    kind="views",
    name="transforms",
    wants="scene folders with transforms_train.json",
    detect=lambda folder: bool(scene_folders(folder)),
    open=open_views,
    options=frozenset({"size", "views"}),
    claims=lambda folder: any(folder.glob("transforms*.json")),  # pictures beside a transforms file are its views
)
