"""Pinhole cameras and the rays of their pixels.

Frames: OpenCV cameras (+X right, +Y down, +Z forward), right-handed worlds with +Z up.
`T_world_camera` takes camera points to the world. Pixel centres are at + 0.5. Angles are radians.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperfields.errors import InputError


class Rays(NamedTuple):
    """Half-lines in the world frame."""

    origins: Tensor  # [... 3]
    directions: Tensor  # [... 3], unit length


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    Raises:
        InputError: a pose of another shape than [4 4].
    """

    T_world_camera: Tensor  # [4 4] float32, rigid; arrays and lists become one
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_world_camera", _as_tensor("T_world_camera", self.T_world_camera, (4, 4)))

    def resized(self, height: int, width: int) -> Camera:
        """The same camera with another number of pixels: same position, same field of view."""
        sx, sy = width / self.width, height / self.height
        return Camera(self.T_world_camera, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)

    def to(self, device: torch.device | str) -> Camera:
        """The same camera with its pose on `device`."""
        return dataclasses.replace(self, T_world_camera=self.T_world_camera.to(device))

    def rays(self) -> Rays:
        """Rays of all pixels, row by row: origins and unit directions `[height * width, 3]`, world frame.

        They are where the pose is.
        """
        device = self.T_world_camera.device
        v, u = torch.meshgrid(
            torch.arange(self.height, dtype=torch.float32, device=device) + 0.5,
            torch.arange(self.width, dtype=torch.float32, device=device) + 0.5,
            indexing="ij",
        )
        local = torch.stack(((u - self.cx) / self.fx, (v - self.cy) / self.fy, torch.ones_like(u)), -1)
        pose = self.T_world_camera.float()
        with torch.autocast(device.type, enabled=False):  # 16 bits are too few for a direction
            directions = torch.nn.functional.normalize(local.reshape(-1, 3) @ pose[:3, :3].T, dim=-1)
        return Rays(pose[:3, 3].expand_as(directions).contiguous(), directions)


def _as_tensor(name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    """A tensor as it is, an array or a list as float32.

    Raises:
        InputError: another shape, or what holds no numbers.
    """
    try:
        tensor = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, dtype=np.float32))
    except (TypeError, ValueError):
        raise InputError(f"{name}: {given!r:.60} came, wanted numbers {list(shape)}") from None
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name}: shape {list(tensor.shape)} came, wanted {list(shape)}")
    return tensor


Vector = Tensor | Sequence[float]  # or an array


def look_at(position: Vector, target: Vector, up: Vector | None = None) -> Tensor:
    """`T_world_camera` `[4 4]` (OpenCV) of a camera at `position` `[3]` that looks at `target` `[3]`.

    up: default +Z, and +Y for a camera that looks straight up or down.

    Raises:
        InputError: when the viewing direction is zero or parallel to an `up` that was given.
    """
    position, target = (_as_tensor(n, v, (3,)).float() for n, v in (("position", position), ("target", target)))
    forward = target - position
    if up is None:
        level = float(forward[:2].norm()) >= 1e-8 * (1.0 + float(forward.norm()))
        up = forward.new_tensor([0.0, 0.0, 1.0] if level else [0.0, 1.0, 0.0])
    up = _as_tensor("up", up, (3,)).to(forward)
    right = torch.linalg.cross(forward, up)
    if float(right.norm()) < 1e-8 * (1.0 + float(forward.norm())):
        raise InputError(f"look_at: direction {forward.tolist()} is zero or parallel to up {up.tolist()}")
    forward, right = forward / forward.norm(), right / right.norm()
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, torch.linalg.cross(forward, right), forward
    pose[:3, 3] = position
    return pose


def turned_to(up: Sequence[float]) -> Tensor | None:
    """The rotation `[3 3]` that takes +Z to the direction `up` the shortest way; None where that is +Z."""
    axis = torch.nn.functional.normalize(torch.tensor([float(value) for value in up], dtype=torch.float64), dim=0)
    if float(axis[2]) > 1.0 - 1e-12:
        return None
    if float(axis[2]) < -1.0 + 1e-12:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]], dtype=torch.float64)
    turn: Tensor = torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1.0 + z)
    return turn.float()


def orbit(
    frames: int,
    *,
    radius: float,
    elevation: float = math.radians(25.0),
    start: float = 0.0,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    fov: float = 0.6911112,
    height: int = 128,
    width: int = 128,
) -> list[Camera]:
    """Cameras on a horizontal circle round the origin, all looking at it; also from straight above or below.

    Args:
        frames: how many, evenly spaced over a full turn.
        radius: distance from the origin, world units.
        elevation: angle above the horizon, radians.
        start: azimuth of the first camera, radians, from +X towards +Y.
        up: direction of the circle's axis; +X and +Y turn with it, the shortest way.
        fov: horizontal field of view, radians.
        height: pixels.
        width: pixels.
    """
    focal = 0.5 * width / math.tan(0.5 * fov)
    turn = turned_to(up)
    cameras = []
    for i in range(frames):
        azimuth = start + 2.0 * math.pi * i / frames
        across, above = [math.cos(azimuth), math.sin(azimuth)], math.sin(elevation)
        flat = math.cos(elevation)
        position = radius * torch.tensor([flat * across[0], flat * across[1], above])
        if abs(flat) > 1e-4:
            pose = look_at(position, torch.zeros(3))
        else:  # above or below: the upper side of the picture is away from where the circle starts
            pose = look_at(
                position, torch.zeros(3), math.copysign(1.0, above) * torch.tensor([-across[0], -across[1], 0.0])
            )
        if turn is not None:
            pose[:3] = turn @ pose[:3]
        cameras.append(Camera(pose, focal, focal, 0.5 * width, 0.5 * height, width, height))
    return cameras
