"""Scene folders with a transforms file each, in the layouts of NeRF-synthetic, instant-ngp and nerfstudio, as views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera
from hyperfields.data import View, Views
from hyperfields.errors import InputError
from hyperfields.scenes._background import (
    SCENE,
    Color,
    background_text,
    border_color,
    cut_out,
    is_opaque,
    parse_background,
)
from hyperfields.scenes._box import Box, find_box, outside, sampled_rays, up_of
from hyperfields.scenes._common import (
    as_bytes,
    as_unit,
    plain_name,
    read_rgba,
    resize_area,
    resize_straight,
    select,
    visible_folders,
)
from hyperfields.scenes._transforms import Frame, Hints, read_transforms, transforms_of
from hyperfields.scenes.meshes import axis_of
from hyperfields.scenes.reader import Reader

OUTSIDE = 0.005  # share of what pictures show outside of the box that is worth a line


class _Scene:
    """One scene while it is read: its folder, and what its training pictures say about all of its pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = Box()
        self.background: Color | None = None  # that opaque pictures are cut out of


class _Frames:
    """Reads the views of scene folders, all brought to one size."""

    def __init__(self, scenes: Sequence[_Scene], size: tuple[int, int] | None) -> None:
        self.scenes, self.size = scenes, size
        # The first picture and its size: without `size` all others must agree.
        self.first: tuple[Path, tuple[int, int]] | None = None

    def __call__(self, scene: int, split: str) -> list[View]:
        """The views of a split, in the order of its transforms file."""
        return [self.view(self.scenes[scene], frame) for frame in read_transforms(self.scenes[scene].folder, split)[0]]

    def view(self, scene: _Scene, frame: Frame) -> View:
        """A frame in the scene's box, without its background."""
        camera, pixels = self.picture(frame)
        if scene.background is not None:
            pixels = as_unit(cut_out(as_bytes(pixels), scene.background))
        camera = _posed(camera, scene.box.into(frame.T_world_camera))
        return View(camera, torch.from_numpy(pixels), self.mask(frame, camera.height, camera.width))

    def picture(self, frame: Frame) -> tuple[Camera, NDArray[np.float32]]:
        """A frame's camera, its pose as in the file, and straight rgba `[h w 4]` as in its picture."""
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

    def mask(self, frame: Frame, height: int, width: int) -> torch.Tensor | None:
        """True `[h w]` where a frame's pixels count; None without a mask. Any other value than 0 counts."""
        if frame.mask is None:
            return None
        mask = (as_unit(read_rgba(frame.mask))[..., :3].max(axis=-1, keepdims=True) > 0.0).astype(np.float32)
        if abs(mask.shape[1] * height / (mask.shape[0] * width) - 1.0) > 0.02:
            raise InputError(
                f"{frame.mask}: is {mask.shape[0]}x{mask.shape[1]} (height x width), of another shape than "
                f"{frame.image.name}, which it is the mask of"
            )
        whole = resize_area(mask, (height, width)) > 0.999
        return torch.from_numpy(whole[..., 0])


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
) -> Views:
    """Read a folder whose sub-folders are scenes with a transforms file, or one such scene.

    Per scene and split a file `transforms_<split>.json`, or one `transforms.json` (every eighth picture is then for the
    test), with `camera_angle_x` (radians) or `fl_x` (also read: `camera_angle_y`, `fl_y`, `cx`, `cy`, `w`, `h`, in
    pixels) and `frames`: `file_path`, with or without suffix and inside the scene's folder, and `transform_matrix`,
    camera to world in the OpenGL convention (+Y up, looks along -Z). Pixels where the picture at `mask_path` is 0 are
    neither fitted nor measured. Poses are brought into the box [-1, 1]^3, see `_box`.

    Args:
        size: (height, width) to which pictures and cameras are brought.
        views: numbers of the training pictures to use, default all.
        background: of pictures without alpha: a colour that is cut out, or "scene", every pixel shows the scene.
            Default: the colour of their borders where that is even, else "scene".
        up: the axis of the file that is up in pictures from new cameras, "x", "-y" ...; default found from the cameras.

    Raises:
        InputError: a transforms file is missing, malformed, has no focal length or a key that is not known; a lens with
            distortion; a picture that is missing, broken, outside its scene's folder or of another size than the others
            without `size`; a matrix that is not a rigid pose; a background for pictures with alpha.
    """
    folders = scene_folders(folder)
    if not folders:
        raise InputError(
            f"{folder}: no transforms_train.json in it or in a folder of it; wanted the NeRF-synthetic layout"
        )
    names = select(list(folders), scenes, limit)
    read = _Frames([_Scene(folders[name]) for name in names], size)
    cameras, pictures, masks, ups = [], [], [], []
    backs: dict[str, list[str]] = {}  # how opaque pictures were taken -> scenes
    boxes: dict[str, list[str]] = {}
    lost: dict[str, float] = {}
    for name, scene in zip(names, read.scenes, strict=True):
        frames, hints = read_transforms(scene.folder, "train")
        if views is not None:
            if not views or not all(0 <= view < len(frames) for view in views):
                raise InputError(
                    f"views: {list(views)} came, but {scene.folder} has training views 0 to {len(frames) - 1}"
                )
            frames = [frames[view] for view in views]
        seen = [(camera, as_bytes(pixels)) for camera, pixels in map(read.picture, frames)]  # 8 bits at once: memory
        pixels = np.stack([picture for _, picture in seen])
        kept = [read.mask(frame, *pixels.shape[1:3]) for frame in frames]
        masks.append(None if all(mask is None for mask in kept) else _stacked(kept, pixels.shape[1:3]))
        counting = None if masks[-1] is None else masks[-1].numpy()
        how = _set_background(scene, pixels, counting, background)
        if scene.background is not None:
            objects = np.stack([cut_out(picture, scene.background) for picture in pixels])
            if background is None and not objects[..., 3].any():  # an even picture is a scene of its own
                scene.background, how = None, SCENE
            else:
                pixels = objects
        if how is not None:
            backs.setdefault(how, []).append(name)
        poses = np.stack([frame.T_world_camera for frame in frames])
        share = _set_box(scene, poses, [camera for camera, _ in seen], pixels, counting, hints)
        if share > OUTSIDE:
            lost[name] = share
        if not scene.box.is_identity:
            boxes.setdefault(scene.box.how, []).append(name)
        ups.append(up_of(poses, hints))
        cameras.append([_posed(camera, scene.box.into(pose)) for (camera, _), pose in zip(seen, poses, strict=True)])
        pictures.append(torch.from_numpy(pixels))
    found = [None if s.background is None else background_text(s.background) for s in read.scenes]
    return Views(
        cameras,
        pictures,
        names,
        reference=read,
        masks=masks,
        frames=[(s.box.scale, *map(float, s.box.center)) for s in read.scenes],
        up=axis_of(up) if up is not None else (float(ups[0][0]), float(ups[0][1]), float(ups[0][2])),
        background=background or (found[0] if len(set(found)) == 1 else None),
        notes=_notes(backs, background, boxes, {s: read.scenes[names.index(s)].box for s in names}, lost),
    )


def _set_background(
    scene: _Scene, pixels: NDArray[np.uint8], counting: NDArray[np.bool_] | None, given: str | None
) -> str | None:
    """Decide about a scene's background by its training pictures `[v h w 4]`; None where alpha says what is scene."""
    if not is_opaque(pixels):
        if given is not None:
            raise InputError(
                f"--background {given}: the pictures of {scene.folder} have alpha, which says what is scene; "
                "leave it out"
            )
        return None
    scene.background = border_color(pixels, counting) if given is None else parse_background(given)
    return SCENE if scene.background is None else background_text(scene.background)


def _set_box(
    scene: _Scene,
    poses: NDArray[np.float64],
    cameras: list[Camera],
    pixels: NDArray[np.uint8],
    counting: NDArray[np.bool_] | None,
    hints: Hints,
) -> float:
    """Decide about a scene's box; the share of what its pictures show that is outside."""
    intrinsics = np.array([[camera.fx, camera.fy, camera.cx, camera.cy] for camera in cameras])
    slopes = np.array([0.5 * min(c.width / c.fx, c.height / c.fy) for c in cameras])
    visible = pixels[..., 3] > 127
    rays = sampled_rays(poses, intrinsics, visible if counting is None else visible & counting)
    scene.box = find_box(poses, slopes, hints, None if is_opaque(pixels) else rays)
    return outside(scene.box, rays)


def _stacked(masks: list[torch.Tensor | None], size: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.ones(size, dtype=torch.bool) if mask is None else mask for mask in masks])


def _notes(
    backs: dict[str, list[str]],
    given: str | None,
    boxes: dict[str, list[str]],
    box_of: dict[str, Box],
    lost: dict[str, float],
) -> tuple[str, ...]:
    """Lines about what was decided."""
    notes = []
    for how, names in backs.items():
        if given is not None:
            continue
        if how == SCENE:
            notes.append(
                f"background: none found on the borders of {_some(names)}, so every pixel shows the scene; "
                "choose with --background white|black|COLOUR|scene"
            )
        else:
            notes.append(
                f"background: {how}, as on the borders of {_some(names)}, is cut out; "
                "choose with --background white|black|COLOUR|scene"
            )
    for how, names in boxes.items():
        box = box_of[names[0]]
        x, y, z = (f"{float(value):.4g}" for value in box.center)
        notes.append(
            f"box: {_some(names)}: side {2 * box.scale:.4g} round ({x}, {y}, {z}) in its own unit, {how}; "
            "exports are in that unit"
        )
    if lost:
        worst = max(lost, key=lambda name: lost[name])
        notes.append(
            f"box: {lost[worst]:.1%} of what the pictures of {worst} show lies outside of the box and cannot be fitted"
        )
    return tuple(notes)


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _posed(camera: Camera, pose: NDArray[np.float64]) -> Camera:
    return Camera(
        torch.from_numpy(pose).float(), camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height
    )


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
    angle = None if "fl_x" in numbers else numbers.get("camera_angle_y")
    fy = numbers.get("fl_y", fx if angle is None else 0.5 * h / math.tan(0.5 * angle))
    cx, cy = numbers.get("cx", 0.5 * w), numbers.get("cy", 0.5 * h)
    pose = torch.from_numpy(frame.T_world_camera).float()
    return Camera(pose, fx, fy, cx, cy, round(w), round(h)).resized(height, width)


def _claims(folder: Path) -> bool:
    return bool(transforms_of(folder))  # pictures beside a transforms file are its views


READER = Reader(
    kind="views",
    name="transforms",
    wants="scene folders with transforms_train.json",
    detect=lambda folder: bool(scene_folders(folder)),
    open=open_views,
    options=frozenset({"size", "views", "background", "up"}),
    claims=_claims,
)
