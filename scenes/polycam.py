"""Scene folders of Polycam's raw data: keyframes/images with keyframes/cameras, or the corrected ones beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._common import IMAGE_SUFFIXES, read_json, visible_files
from hyperfields.scenes._frames import (
    Divided,
    Format,
    Frame,
    Hints,
    fitted,
    lists_of_names,
    named,
    require_rigid,
    tensor_pose,
)
from hyperfields.scenes._lenses import colmap_camera, is_finite
from hyperfields.scenes._splits import Rule

KEYS = [f"t_{i}{j}" for i in range(3) for j in range(4)]  # camera to world; OpenGL's camera axes, +Y is up
NUMBERS = ("fx", "fy", "cx", "cy", "width", "height")


def _folders(folder: Path) -> tuple[Path, Path] | None:
    """The pictures and their cameras, those that Polycam corrected first."""
    for prefix in ("corrected_", ""):
        pictures, cameras = (folder / "keyframes" / f"{prefix}{name}" for name in ("images", "cameras"))
        if pictures.is_dir() and cameras.is_dir():
            return pictures, cameras
    return None


def read_polycam(folder: Path, rule: Rule | None, size: tuple[int, int] | None = None) -> Divided:
    """The pictures of a scene, by name.

    Raises:
        InputError: a camera without a number that it needs, a pose that is not rigid, no picture with a camera.
    """
    found = _folders(folder)
    if found is None:
        raise InputError(f"{folder}: no keyframes/images with keyframes/cameras; wanted Polycam's raw data")
    pictures = {path.stem: path for path in visible_files(found[0], IMAGE_SUFFIXES)}
    cameras = {path.stem: path for path in visible_files(found[1], (".json",))}
    frames = []
    for stem in sorted(pictures.keys() & cameras.keys()):
        path = cameras[stem]
        content = read_json(path)
        values = [_number(content, key, path) for key in (*KEYS, *NUMBERS)]
        pose = np.eye(4)
        pose[:3] = np.array(values[:12]).reshape(3, 4) * np.array([1.0, -1.0, -1.0, 1.0])
        require_rigid(pose, f"{path}: the pose")
        fx, fy, cx, cy, width, height = values[12:]
        shape = round(height), round(width)
        camera = colmap_camera(tensor_pose(pose), "PINHOLE", (fx, fy, cx, cy), shape, str(path))
        frames.append(Frame(pictures[stem], fitted(camera, pictures[stem], path.name)))
    notes = []
    for place, these, others, what in (
        (found[0], pictures, cameras, "pictures without a camera"),
        (found[1], cameras, pictures, "cameras without a picture"),
    ):  # fmt: skip
        if lone := sorted(path.name for stem, path in these.items() if stem not in others):
            notes.append(f"{place}: {len(lone)} {what} are left out ({named(lone)})")
    hints = Hints(up=np.array([0.0, 1.0, 0.0]))
    return Divided(str(found[1]), frames, rule, hints=hints, notes=notes, lists=lists_of_names(folder))


def _number(content: Any, key: str, path: Path) -> float:
    value: Any = content.get(key) if isinstance(content, dict) else None
    if not is_finite(value):
        raise InputError(f"{path}: {key} is {value!r:.60}; wanted a finite number")
    return float(value)


POLYCAM = Format(
    name="polycam",
    wants="keyframes of Polycam's raw data",
    detect=lambda folder: _folders(folder) is not None,
    read=read_polycam,
)
