"""Paths of cameras round scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.cameras.camera import Camera
from hyperfields.cameras.poses import look_at, turned_to
from hyperfields.errors import InputError


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


def spiral(
    frames: int,
    *,
    middle: Tensor,
    focus: float,
    radii: tuple[float, float, float],
    turns: int = 2,
    rate: float = 0.5,
    fov: float = 0.6911112,
    height: int = 128,
    width: int = 128,
) -> list[Camera]:
    """Cameras on a spiral round the place of one camera, all looking at what is before it; the path is closed.

    As Mildenhall et al. 2019, "Local light field fusion", film scenes that are seen from one side.

    Args:
        frames: how many.
        middle: `T_world_camera` `[4 4]` of the camera in the middle.
        focus: how far before it lies the point that all look at, world units.
        radii: how far the path goes to the right, down and ahead, world units.
        turns: round the middle.
        rate: times that the path goes ahead and back, per turn.
        fov: horizontal field of view, radians.
        height: pixels.
        width: pixels.

    Raises:
        InputError: a focus that is not ahead of the path.
    """
    if not focus > abs(radii[2]):
        raise InputError(f"spiral: focus {focus:g} is not ahead of a path that goes {radii[2]:g} ahead")
    focal = 0.5 * width / math.tan(0.5 * fov)
    middle = middle.float()
    target, up = middle[:3, 3] + focus * middle[:3, 2], -middle[:3, 1]
    cameras = []
    for i in range(frames):
        angle = 2.0 * math.pi * turns * i / frames
        shift = [math.cos(angle) * radii[0], -math.sin(angle) * radii[1], -math.sin(rate * angle) * radii[2]]
        position = middle[:3, 3] + middle[:3, :3] @ middle.new_tensor(shift)
        cameras.append(Camera(look_at(position, target, up), focal, focal, 0.5 * width, 0.5 * height, width, height))
    return cameras


def middle_pose(cameras: Sequence[Camera]) -> Tensor:
    """`T_world_camera` `[4 4]` of the mean place, direction and up of cameras.

    Raises:
        InputError: they look all round, so they have no mean direction.
    """
    poses = torch.stack([camera.T_world_camera.detach().cpu().double() for camera in cameras])
    mean = poses.mean(0)
    if float(mean[:3, 2].norm()) < 0.1:
        raise InputError("middle_pose: the cameras look all round, so they have no mean direction; use an orbit")
    position = mean[:3, 3]
    return look_at(position, position + mean[:3, 2], -mean[:3, 1])
