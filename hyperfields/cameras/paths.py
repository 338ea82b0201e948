"""Paths of cameras round scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hyperfields.cameras.camera import Camera
from hyperfields.cameras.poses import look_at, turned_to


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
