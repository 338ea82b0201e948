"""The forms in which posed pictures come: cameras and pictures of scenes, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data.base import as_colors
from hyperfields.data.pictures import Pictures
from hyperfields.errors import InputError


class Posed(NamedTuple):
    """The pictures of a scene."""

    cameras: list[Camera]
    pictures: Sequence[Tensor]  # [h w 4] uint8 each; none where they are in `Pictures`


def posed_scenes(cameras: Any, rgba: Any, what: str) -> list[Posed]:
    """Per scene its cameras and its pictures, checked."""
    if isinstance(rgba, Tensor) and rgba.ndim == 4:
        rgba = rgba[None]
    elif isinstance(rgba, Tensor) and rgba.ndim != 5:
        raise InputError(f"{what}: {tuple(rgba.shape)} came, wanted [v h w 4] for one scene, [s v h w 4] for several")
    one = _is_pair(cameras)
    if _is_pair(cameras):
        poses, intrinsics = cameras
        one = poses.ndim != 4
        if one:
            cameras = [cameras]
        else:  # all scenes at once
            each = [intrinsics] * len(poses) if intrinsics.ndim == 1 else list(intrinsics)
            cameras = list(zip(poses, each, strict=False))
    elif isinstance(cameras, Sequence) and len(cameras) and all(isinstance(camera, Camera) for camera in cameras):
        cameras, one = [cameras], True
    cameras = list(cameras)
    if isinstance(rgba, Pictures):
        return _of_pictures(cameras, rgba, what)
    if one and not isinstance(rgba, Tensor) and len(rgba) and all(np.ndim(picture) == 3 for picture in rgba):
        rgba = [rgba]  # pictures of several sizes of one scene
    rgba = list(rgba)
    if not rgba or len(rgba) != len(cameras):
        raise InputError(f"{what}: pictures of {len(rgba)} scenes came with cameras of {len(cameras)}")
    return [
        _posed(given, pictures, f"{what}, scene {number}")
        for number, (given, pictures) in enumerate(zip(cameras, rgba, strict=True))
    ]


def _of_pictures(cameras: list[Any], pictures: Pictures, what: str) -> list[Posed]:
    if sum(map(len, cameras)) != len(pictures) or not len(pictures):
        raise InputError(f"{what}: {len(pictures)} pictures came with {sum(map(len, cameras))} cameras")
    sizes = iter(pictures.sizes)
    return [
        Posed([_checked(camera, *next(sizes), f"{what}, scene {s}, camera {i}") for i, camera in enumerate(given)], [])
        for s, given in enumerate(cameras)
    ]


def _posed(given: Any, pictures: Any, where: str) -> Posed:
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise InputError(f"{where}: no pictures came, wanted at least one")
        whole = [_colors(torch.as_tensor(picture), 3, f"{where}, picture {i}") for i, picture in enumerate(pictures)]
        return Posed(_cameras(given, [(p.shape[0], p.shape[1]) for p in whole], where), whole)
    stacked = _colors(torch.as_tensor(pictures), 4, where)
    return Posed(_cameras(given, [(stacked.shape[1], stacked.shape[2])] * len(stacked), where), list(stacked))


def _colors(pixels: Tensor, dims: int, where: str) -> Tensor:
    """Straight rgba in 8 bits."""
    if pixels.ndim != dims or pixels.shape[-1] not in (3, 4) or 0 in pixels.shape:
        wanted = "[v h w 4]: views, rows, columns, RGBA" if dims == 4 else "[h w 4]: rows, columns, RGBA"
        raise InputError(f"{where}: {tuple(pixels.shape)} came, wanted {wanted}")
    pixels = as_colors(where, pixels)
    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255.0 + 0.5).to(torch.uint8)
    return torch.cat((pixels, torch.full_like(pixels[..., :1], 255)), -1) if pixels.shape[-1] == 3 else pixels


def as_masks(given: Any, sizes: Sequence[tuple[int, int]], where: str) -> list[NDArray[np.bool_] | None]:
    """Per picture of a scene where it counts, or None: everywhere."""
    if given is None:
        return [None] * len(sizes)
    masks = [None if mask is None else torch.as_tensor(mask) for mask in given]
    for number, mask in enumerate(masks):
        if (
            mask is not None
            and number < len(sizes)
            and (mask.dtype != torch.bool or tuple(mask.shape) != sizes[number])
        ):
            raise InputError(f"masks, {where}: {mask.dtype} {tuple(mask.shape)} came, wanted bool {sizes[number]}")
    if len(masks) != len(sizes):
        raise InputError(f"masks, {where}: {len(masks)} came for {len(sizes)} pictures")
    return [None if mask is None else mask.cpu().numpy() for mask in masks]


def _is_pair(cameras: Any) -> bool:
    """True for poses with intrinsics."""
    return isinstance(cameras, tuple) and len(cameras) == 2 and all(isinstance(part, Tensor) for part in cameras)


def _cameras(given: Any, sizes: Sequence[tuple[int, int]], where: str) -> list[Camera]:
    """The cameras of one scene, checked."""
    if _is_pair(given):
        poses, intrinsics = given
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or intrinsics.shape not in ((4,), (len(poses), 4)):
            raise InputError(
                f"{where}: poses {tuple(poses.shape)} and intrinsics {tuple(intrinsics.shape)} came, "
                "wanted [v 4 4] and [4] or [v 4]"
            )
        rows = intrinsics.expand(len(poses), 4).tolist()
        cameras = []
        for i, (pose, (fx, fy, cx, cy), (height, width)) in enumerate(zip(poses, rows, sizes, strict=False)):
            try:
                cameras.append(Camera(pose, fx, fy, cx, cy, width, height))
            except InputError as error:
                raise InputError(f"{where}, {str(error).replace('camera', f'camera {i}', 1)}") from None
    else:
        cameras = list(given)
    if len(cameras) != len(sizes):
        raise InputError(f"{where}: {len(cameras)} cameras came for {len(sizes)} pictures, wanted one for each")
    return [
        _checked(camera, *size, f"{where}, camera {i}")
        for i, (camera, size) in enumerate(zip(cameras, sizes, strict=True))
    ]


def _checked(camera: Any, height: int, width: int, where: str) -> Camera:
    if not isinstance(camera, Camera):
        raise InputError(f"{where}: {type(camera).__name__} came, wanted a Camera")
    if (camera.height, camera.width) != (height, width):
        raise InputError(
            f"{where}: is for {camera.height}x{camera.width} pixels but its picture has {height}x{width} "
            "(height x width); bring it there with Camera.resized"
        )
    pose = camera.T_world_camera.detach().cpu().double()
    rotation = pose[:3, :3]
    skew = float((rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max())
    straight = bool((pose[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().max() < 1e-3)
    if skew > 1e-3 or float(torch.linalg.det(rotation)) < 0.0 or not straight:
        raise InputError(
            f"{where}: T_world_camera is not a rigid pose (columns off by {skew:.2g} from orthonormal, determinant "
            f"{float(torch.linalg.det(rotation)):.3g}); wanted a rotation, a translation and 0 0 0 1"
        )
    return camera
