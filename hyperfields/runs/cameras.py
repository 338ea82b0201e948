"""Cameras for pictures of a run: as those of the data that it was fitted to, or a choice for data without pictures."""

from __future__ import annotations

import math
from typing import Protocol

from hyperfields.cameras import Camera, orbit, spiral
from hyperfields.errors import InputError
from hyperfields.runs.config import LARGEST, MOST_PIXELS, RunConfig, is_size

START = math.radians(-135.0)  # azimuth of the first camera: from the front left, as fronts look towards -Y
# Of cameras without pictures: a cube whose side is 1.8, which the longest one is, is seen whole from all sides.
RADIUS, ELEVATION, FOV = 4.7, math.radians(25.0), 0.6911112
SPIRAL = 0.15  # of the distance from the scene: how far a spiral goes to each side
SIZE = (256, 256)  # of pictures of scenes that were not fitted to pictures


class HasConfig(Protocol):
    """A run, as far as cameras need it."""

    @property
    def config(self) -> RunConfig: ...


def native_size(run: HasConfig) -> tuple[int, int]:
    """(height, width) of the pictures that a run was fitted to, or a choice for scenes without pictures."""
    height, width = run.config.picture.get("size", SIZE)
    return int(height), int(width)


def picture_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture; one number is both.

    Raises:
        InputError: other than one or two whole numbers from 1 to `LARGEST`, or more than `MOST_PIXELS` together.
    """
    sides = (size, size) if isinstance(size, int) else size
    if not is_size(sides):
        raise InputError(
            f"size {size!r:.60}: wanted (height, width) or one number, each from 1 to {LARGEST}, and at most "
            f"{MOST_PIXELS:,} pixels"
        )
    return sides[0], sides[1]


def orbit_cameras(run: HasConfig, frames: int, size: tuple[int, int]) -> list[Camera]:
    """`frames` cameras on a circle round the scenes of a run; the first looks from the front left.

    Distance, height and field of view are those of the pictures that a run of views was fitted to.
    """
    picture = run.config.picture
    return orbit(
        frames,
        radius=picture.get("radius", RADIUS),
        elevation=picture.get("elevation", ELEVATION),
        fov=picture.get("fov", FOV),
        up=picture.get("up", (0.0, 0.0, 1.0)),
        start=START,
        height=size[0],
        width=size[1],
    )


def spiral_cameras(run: HasConfig, frames: int, size: tuple[int, int]) -> list[Camera]:
    """`frames` cameras on a spiral round the first one of the orbit, all looking at the middle of the scenes."""
    picture = run.config.picture
    radius = picture.get("radius", RADIUS)
    return spiral(
        frames,
        middle=orbit_cameras(run, 1, size)[0].T_world_camera,
        focus=radius,
        radii=(SPIRAL * radius, SPIRAL * radius, SPIRAL * radius),
        fov=picture.get("fov", FOV),
        height=size[0],
        width=size[1],
    )
