"""Posed pictures of one size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data.base import IDENTITY, Kind, Pixels, View, as_colors, scene_names, shortened
from hyperfields.errors import InputError

Reference = Callable[[int, str], list[View]]  # (scene, split) -> the views of that split


class Views:
    """Posed pictures of scenes, all of one size.

    The fields live in the box [-1, 1]^3 of the frame of the cameras: what is outside the box is not seen. Training
    pictures are in memory with 8 bits a channel.

    Args:
        cameras: per scene a list of `Camera`, or a pair of poses `T_world_camera` `[v 4 4]` (OpenCV: +X right, +Y down,
            +Z forward) and intrinsics `[4]` or `[v 4]` (fx, fy, cx, cy in pixels); or such a pair for all scenes,
            `[s v 4 4]` with `[4]` or `[s v 4]`. With one scene the outer list may be left out.
        rgba: per scene `[v h w 4]`, straight alpha, uint8 or floats in [0, 1]; `[v h w 3]` is opaque. One tensor
            `[s v h w c]` for scenes with as many views, or `[v h w c]` for one scene.
        names: one per scene, by default "0", "1", ...
        test: (cameras, rgba) of views that are held out, in the same forms.
        reference: gives the views of a split when they are asked for, as (scene, split) -> list of `View`: for a
            reader that leaves them on the disk. By default "train" and "test" are those given here.
        masks: per scene `[v h w]` bool, false where pixels of the training pictures do not count, or None.
        frames: per scene (scale, centre x y z) that lead back to where it came from: p_file = p * scale + centre.
        up: the direction that is up in pictures from new cameras.
        background: that opaque pictures were cut out of, as text; for the record.
        notes: lines for people about what a reader decided.

    Raises:
        InputError: shapes that do not fit, several sizes, NaN, values outside [0, 1], a pose that is not a rotation and
            a translation, a focal length that is not above 0; names that do not fit.
    """

    kind: Kind = "views"

    def __init__(
        self,
        cameras: Any,
        rgba: Any,
        names: Iterable[str] | None = None,
        *,
        test: tuple[Any, Any] | None = None,
        reference: Reference | None = None,
        masks: Sequence[Tensor | None] | None = None,
        frames: Sequence[tuple[float, ...]] | None = None,
        up: tuple[float, float, float] = (0.0, 0.0, 1.0),
        background: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        scenes = _scenes(cameras, rgba, "rgba")
        self.names = scene_names(names, len(scenes))
        held_out = None if test is None else _scenes(*test, "test")
        if held_out is not None and len(held_out) != len(scenes):
            raise InputError(f"test: {len(held_out)} scenes came, wanted {len(scenes)} as for training")
        self._reference = reference or _InMemory(self.names, {"train": scenes, "test": held_out})
        self.height, self.width = (int(side) for side in scenes[0][1].shape[1:3])
        # A pixel is one int32 (four bytes), so drawing a batch is one gather of single numbers.
        pixels = torch.cat([pictures for _, pictures in scenes])
        self._pixels = pixels.contiguous().reshape(-1, 4).view(torch.int32).reshape(-1)
        self._tables = torch.stack([_ray_table(camera) for cameras, _ in scenes for camera in cameras])  # [images 12]
        self._counts = torch.tensor([len(cameras) for cameras, _ in scenes])  # [s] images
        self._first = torch.cumsum(self._counts, 0) - self._counts  # [s] first image of each scene
        self.frames = tuple(frames) if frames is not None else (IDENTITY,) * len(scenes)
        self.up, self.background, self.notes = up, background, tuple(notes)
        self._valid: _Valid | None = None
        if masks is not None and any(mask is not None for mask in masks):
            self._valid = _Valid.of(masks, scenes, self.names)

    def __repr__(self) -> str:
        return f"Views({shortened(self.names)}; {len(self._tables):,} pictures of {self.height}x{self.width})"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Pixels:
        """`n` rays per scene, uniform over all pixels of its training pictures that count, with replacement.

        Args:
            scenes: `[s]` int64.

        Returns:
            rays `[s n 3]` (unit directions) in the scene frame and straight rgba `[s n 4]` in [0, 1].
        """
        each = self.height * self.width
        first, counts = (self._first, self._counts) if self._valid is None else self._valid[1:]
        scale = each if self._valid is None else 1
        # float64: float32 has too few steps to reach every pixel of a large scene.
        drawn = torch.rand(len(scenes), n, generator=generator, dtype=torch.float64, device=generator.device)
        index = ((drawn * (counts[scenes] * scale)[:, None]).long() + first[scenes][:, None] * scale).reshape(-1)
        if self._valid is not None:
            index = self._valid.pixels.index_select(0, index)
        packed = self._pixels.index_select(0, index)
        image = torch.div(index, each, rounding_mode="floor")
        pixel = (index - image * each).int()
        v = torch.div(pixel, self.width, rounding_mode="floor")
        u = (pixel - v * self.width).float() + 0.5
        table = self._tables.index_select(0, image)
        directions = torch.addcmul(table[:, 6:9], table[:, 0:3], u[:, None])
        directions.addcmul_(table[:, 3:6], (v.float() + 0.5)[:, None])
        directions /= torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
        shape = (len(scenes), n)
        rgba = packed.view(torch.uint8).reshape(*shape, 4).float() / 255.0
        origins = table[:, 9:12].contiguous()
        return Pixels(Rays(origins.reshape(*shape, 3), directions.reshape(*shape, 3)), rgba, image.reshape(shape))

    def to(self, device: torch.device | str) -> Views:
        """The same with its pictures on `device`, where batches then come from; `generator` must be there too."""
        moved = copy.copy(self)
        moved._pixels, moved._tables = self._pixels.to(device), self._tables.to(device)
        moved._counts, moved._first = self._counts.to(device), self._first.to(device)
        moved._valid = None if self._valid is None else _Valid(*(part.to(device) for part in self._valid))
        return moved

    def reference(self, scene: int, split: str = "test") -> list[View]:
        """The views of a split, on the CPU.

        Raises:
            InputError: the scene has no such split, or it cannot be read.
        """
        return self._reference(scene, split)


class _Valid(NamedTuple):
    """Pixels that count, of all scenes in one row."""

    pixels: Tensor  # [p] int64, their numbers
    first: Tensor  # [s] first one of each scene
    counts: Tensor  # [s]

    @classmethod
    def of(
        cls, masks: Sequence[Tensor | None], scenes: list[tuple[list[Camera], Tensor]], names: tuple[str, ...]
    ) -> _Valid:
        parts, counts = [], []
        for name, mask, (_, pictures) in zip(names, masks, scenes, strict=True):
            part = torch.ones(pictures.shape[:3], dtype=torch.bool) if mask is None else mask
            if part.dtype != torch.bool or part.shape != pictures.shape[:3]:
                raise InputError(
                    f"masks, {name}: {part.dtype} {tuple(part.shape)} came, wanted bool {tuple(pictures.shape[:3])}"
                )
            if not bool(part.any()):
                raise InputError(f"masks, {name}: no pixel counts; mend the masks: 0 is what is left out")
            parts.append(part.reshape(-1))
            counts.append(int(part.sum()))
        number = torch.tensor(counts)
        return cls(torch.cat(parts).nonzero().squeeze(1), torch.cumsum(number, 0) - number, number)


class _InMemory:
    """The views of splits that are in memory."""

    def __init__(self, names: tuple[str, ...], splits: dict[str, list[tuple[list[Camera], Tensor]] | None]) -> None:
        self.names, self.splits = names, {name: scenes for name, scenes in splits.items() if scenes is not None}

    def __call__(self, scene: int, split: str) -> list[View]:
        if split not in self.splits:
            raise InputError(
                f"scene {self.names[scene]}: has no views to test with; splits: {', '.join(self.splits)}; "
                f"wanted {split!r}: give Views(..., test=(cameras, rgba))"
            )
        cameras, pictures = self.splits[split][scene]
        return [View(c, p.float() / 255.0) for c, p in zip(cameras, pictures, strict=True)]


def _scenes(cameras: Any, rgba: Any, what: str) -> list[tuple[list[Camera], Tensor]]:
    """Per scene its cameras and its pictures `[v h w 4]` uint8, checked."""
    if isinstance(rgba, Tensor) and rgba.ndim == 4:
        rgba = rgba[None]
    elif isinstance(rgba, Tensor) and rgba.ndim != 5:
        raise InputError(f"{what}: {tuple(rgba.shape)} came, wanted [v h w 4] for one scene, [s v h w 4] for several")
    if _is_pair(cameras):
        poses, intrinsics = cameras
        if poses.ndim == 4:  # all scenes at once
            each = [intrinsics] * len(poses) if intrinsics.ndim == 1 else list(intrinsics)
            cameras = list(zip(poses, each, strict=False))
        else:
            cameras = [cameras]
    elif isinstance(cameras, Sequence) and len(cameras) and all(isinstance(camera, Camera) for camera in cameras):
        cameras = [cameras]
    rgba, cameras = list(rgba), list(cameras)
    if not rgba or len(rgba) != len(cameras):
        raise InputError(f"{what}: pictures of {len(rgba)} scenes came with cameras of {len(cameras)}")
    scenes: list[tuple[list[Camera], Tensor]] = []
    for number, (poses, pictures) in enumerate(zip(cameras, rgba, strict=True)):
        where = f"{what}, scene {number}"
        pictures = torch.as_tensor(pictures)
        if pictures.ndim != 4 or pictures.shape[3] not in (3, 4) or 0 in pictures.shape:
            raise InputError(f"{where}: {tuple(pictures.shape)} came, wanted [v h w 4]: views, rows, columns, RGBA")
        size = int(pictures.shape[1]), int(pictures.shape[2])
        if scenes and size != (first := tuple(scenes[0][1].shape[1:3])):
            raise InputError(f"{where}: is {size[0]}x{size[1]} but scene 0 is {first[0]}x{first[1]} (height x width)")
        pictures = as_colors(where, pictures)
        if pictures.dtype != torch.uint8:
            pictures = (pictures * 255.0 + 0.5).to(torch.uint8)
        if pictures.shape[3] == 3:
            pictures = torch.cat((pictures, torch.full_like(pictures[..., :1], 255)), dim=-1)
        scenes.append((_cameras(poses, len(pictures), *size, where), pictures))
    return scenes


def _is_pair(cameras: Any) -> bool:
    """True for poses with intrinsics."""
    return isinstance(cameras, tuple) and len(cameras) == 2 and all(isinstance(part, Tensor) for part in cameras)


def _cameras(given: Any, count: int, height: int, width: int, where: str) -> list[Camera]:
    """The cameras of one scene, checked."""
    if _is_pair(given):
        poses, intrinsics = given
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or intrinsics.shape not in ((4,), (len(poses), 4)):
            raise InputError(
                f"{where}: poses {tuple(poses.shape)} and intrinsics {tuple(intrinsics.shape)} came, "
                "wanted [v 4 4] and [4] or [v 4]"
            )
        rows = intrinsics.expand(len(poses), 4).tolist()
        cameras = [Camera(T, fx, fy, cx, cy, width, height) for T, (fx, fy, cx, cy) in zip(poses, rows, strict=True)]
    else:
        cameras = list(given)
    if len(cameras) != count:
        raise InputError(f"{where}: {len(cameras)} cameras came for {count} pictures, wanted one for each")
    return [_checked(camera, height, width, f"{where}, camera {i}") for i, camera in enumerate(cameras)]


def _checked(camera: Any, height: int, width: int, where: str) -> Camera:
    if not isinstance(camera, Camera):
        raise InputError(f"{where}: {type(camera).__name__} came, wanted a Camera")
    if (camera.height, camera.width) != (height, width):
        raise InputError(
            f"{where}: is for {camera.height}x{camera.width} pixels but its picture has {height}x{width} "
            "(height x width); bring it there with Camera.resized"
        )
    focal = (camera.fx, camera.fy)
    if not all(math.isfinite(value) for value in (*focal, camera.cx, camera.cy)) or min(focal) <= 0.0:
        raise InputError(
            f"{where}: fx {camera.fx:.4g}, fy {camera.fy:.4g}, cx {camera.cx:.4g}, cy {camera.cy:.4g} came, "
            "wanted finite pixels and focal lengths above 0"
        )
    pose = camera.T_world_camera.detach().cpu().double()
    if pose.shape != (4, 4) or not bool(torch.isfinite(pose).all()):
        raise InputError(f"{where}: T_world_camera is not 4 rows of 4 finite numbers")
    rotation = pose[:3, :3]
    skew = float((rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max())
    straight = bool((pose[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().max() < 1e-3)
    if skew > 1e-3 or float(torch.linalg.det(rotation)) < 0.0 or not straight:
        raise InputError(
            f"{where}: T_world_camera is not a rigid pose (columns off by {skew:.2g} from orthonormal, determinant "
            f"{float(torch.linalg.det(rotation)):.3g}); wanted a rotation, a translation and 0 0 0 1"
        )
    return camera


def _ray_table(camera: Camera) -> Tensor:
    """`[12]`, turns a pixel into a ray: direction = u * t[0:3] + v * t[3:6] + t[6:9], origin = t[9:12]."""
    pose = camera.T_world_camera.detach().cpu()
    rotation = pose[:3, :3].double()
    across, down = rotation[:, 0] / camera.fx, rotation[:, 1] / camera.fy
    corner = rotation[:, 2] - camera.cx * across - camera.cy * down
    return torch.cat((across, down, corner, pose[:3, 3].double())).float()
