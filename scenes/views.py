"""Scene folders with a transforms file each, in the layouts of NeRF-synthetic, instant-ngp and nerfstudio, as views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from hyperfields.cameras import Camera
from hyperfields.data import Views
from hyperfields.data.pictures import MEMORY
from hyperfields.data.shapes import Progress
from hyperfields.errors import InputError
from hyperfields.scenes._box import hinted_box, hinted_up, largest_box
from hyperfields.scenes._common import picture_size, plain_name, select, visible_folders
from hyperfields.scenes._posed import Capture, Frame, open_posed
from hyperfields.scenes._transforms import Frame as Entry
from hyperfields.scenes._transforms import read_transforms, transforms_of
from hyperfields.scenes.meshes import axis_of
from hyperfields.scenes.reader import Reader


def scene_folders(path: Path) -> dict[str, Path]:
    """Scene name -> folder: `path` itself if it holds a transforms file, else its sub-folders if one does."""
    if transforms_of(path):
        return {plain_name(path.resolve().name): path}
    folders = {plain_name(p.name): p for p in visible_folders(path)}
    return folders if any(transforms_of(p) for p in folders.values()) else {}


def open_views(
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    views: Sequence[int] | None = None,
    background: str | None = None,
    up: str | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Views:
    """Read a folder whose sub-folders are scenes with a transforms file, or one such scene.

    Per scene and split a file `transforms_<split>.json`, or one `transforms.json` (every eighth picture is then for the
    test), with `camera_angle_x` (radians) or `fl_x` (also read: `camera_angle_y`, `fl_y`, `cx`, `cy`, `w`, `h`, in
    pixels) and `frames`: `file_path`, with or without suffix and inside the scene's folder, and `transform_matrix`,
    camera to world in the OpenGL convention (+Y up, looks along -Z). Pixels where the picture at `mask_path` is 0 are
    neither fitted nor measured. Poses are brought into the box [-1, 1]^3, see `data.boxes`.

    Args:
        size: (height, width) to which pictures and cameras are brought; by default each picture keeps its own.
        views: numbers of the training pictures to use, default all.
        background: of pictures without alpha: a colour that is cut out, or "scene", every pixel shows the scene.
            Default: the colour of their borders where that is even, else "scene".
        up: the axis of the file that is up in pictures from new cameras, "x", "-y" ...; default found from the cameras.
        memory: bytes of training pictures that are kept in memory; more go to a temporary file.
        progress: called as (pictures done, in all, scene).

    Raises:
        InputError: a transforms file is missing, malformed, has no focal length or a key that is not known; a lens with
            distortion; a picture that is missing, broken or outside its scene's folder; a matrix that is not a rigid
            pose; a background for pictures with alpha; a full disk.
    """
    folders = scene_folders(folder)
    if not folders:
        raise InputError(
            f"{folder}: no transforms_train.json in it or in a folder of it; wanted the NeRF-synthetic layout"
        )
    return open_posed(
        [_capture(name, folders[name]) for name in select(list(folders), scenes, limit)],
        size=size,
        views=views,
        background=background,
        up=None if up is None else axis_of(up),
        memory=memory,
        progress=progress,
    )


def _capture(name: str, folder: Path) -> Capture:
    """A scene; its training frames are read now."""
    training, hints = read_transforms(folder, "train")

    def frames(split: str) -> list[Frame]:
        entries = training if split == "train" else read_transforms(folder, split)[0]
        return [Frame(entry.image, _camera(entry), entry.mask) for entry in entries]

    return Capture(name, frames, hinted_box(hints), largest_box(hints), hinted_up(hints))


def _camera(entry: Entry) -> Camera:
    """The camera of an entry, for as many pixels as the file's own `w` and `h` say, else as its picture has."""
    numbers = entry.numbers
    if {"w", "h"} <= numbers.keys():
        w, h = numbers["w"], numbers["h"]
    else:
        h, w = map(float, picture_size(entry.image))
    if "fl_x" in numbers:
        fx = numbers["fl_x"]
    elif "camera_angle_x" in numbers:
        fx = 0.5 * w / math.tan(0.5 * numbers["camera_angle_x"])
    else:
        raise InputError(f"{entry.image}: its transforms file has neither camera_angle_x (radians) nor fl_x (pixels)")
    angle = None if "fl_x" in numbers else numbers.get("camera_angle_y")
    fy = numbers.get("fl_y", fx if angle is None else 0.5 * h / math.tan(0.5 * angle))
    cx, cy = numbers.get("cx", 0.5 * w), numbers.get("cy", 0.5 * h)
    return Camera(torch.from_numpy(entry.T_world_camera), fx, fy, cx, cy, round(w), round(h))


def _claims(folder: Path) -> bool:
    return bool(transforms_of(folder))  # pictures beside a transforms file are its views


READER = Reader(
    kind="views",
    name="transforms",
    wants="scene folders with transforms_train.json",
    detect=lambda folder: bool(scene_folders(folder)),
    open=open_views,
    options=frozenset({"size", "views", "background", "up", "progress"}),
    claims=_claims,
)
