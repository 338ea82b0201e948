"""Clouds of points of radiance scenes: where the rays of cameras end, with what they see there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix, write_atomically
from hyperfields.runs.images import as_bytes
from hyperfields.runs.scene import Scene

SOLID = 0.9  # opacity from which a ray is taken to end somewhere
ROUNDS = 4  # of rays of a camera, each as many as points are missing


class Cloud(NamedTuple):
    """Points with colours, in the frame of the file that the scene came from."""

    points: Tensor  # [n 3] float64
    colors: Tensor  # [n 3] in [0, 1]


@torch.no_grad()
def point_cloud(
    scene: Scene,
    cameras: Sequence[Camera],
    count: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Cloud:
    """Up to `count` points: pixels of the cameras, drawn at random, at the mean distance of what they see.

    Rays that see less than 90 % of something give none.

    Args:
        cameras: in the frame of the scene's box, such as `data.training_cameras` gives.
        progress: called as (cameras done, in all).

    Raises:
        InputError: a kind without colours along rays, no cameras, or a number of points that cannot be.
    """
    if not hasattr(scene.field.field, "space"):
        raise InputError(f"points: scene {scene.name!r} is one of {scene.run.kind}; wanted radiance (views)")
    if count < 1 or not cameras:
        raise InputError(f"points: {count} of {len(cameras)} cameras; wanted at least 1 of each")
    generator, points, colors = torch.Generator().manual_seed(seed), [], []
    found = 0
    for number, camera in enumerate(cameras):
        rays = camera.to(scene.field.device).rays()
        # What is left, evenly over the cameras that are left: those that see nothing leave their share to others.
        wanted = (count - found - 1) // (len(cameras) - number) + 1
        for _ in range(ROUNDS):
            if not wanted:
                break
            index = torch.randint(len(rays.directions), (wanted,), generator=generator).to(rays.directions.device)
            chosen = Rays(rays.origins[index][None].contiguous(), rays.directions[index][None].contiguous())
            rendered = scene.run.task.render_rays(scene.field, chosen)
            solid = ((rendered.alpha[0] > SOLID) & rendered.depth[0].isfinite()).nonzero().squeeze(1)
            along = rendered.depth[0, solid, None].double() * chosen.directions[0, solid].double()
            points.append((chosen.origins[0, solid].double() + along).cpu())
            colors.append((rendered.rgb[0, solid] / rendered.alpha[0, solid, None]).clamp(0.0, 1.0).cpu())
            found, wanted = found + len(solid), wanted - len(solid)
        if progress is not None:
            progress(number + 1, len(cameras))
    together, frame = torch.cat(points), scene.frame
    if frame is not None:
        together = together * frame[0] + together.new_tensor(frame[1:])
    return Cloud(together, torch.cat(colors))


def write_points(path: str | Path, cloud: Cloud) -> None:
    """Write points as a binary .ply with doubles and colours of 8 bits (Turk, 1994).

    Raises:
        InputError: another suffix, no points, or a file that cannot be written.
    """
    path = Path(path)
    require_suffix(path, (".ply",), "points")
    if not len(cloud.points):
        raise InputError(f"{path}: no ray ends at anything, so there are no points; nothing written")
    names = "".join(f"property double {axis}\n" for axis in "xyz")
    names += "".join(f"property uchar {color}\n" for color in ("red", "green", "blue"))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud.points)}\n{names}end_header\n"
    rows = np.empty(len(cloud.points), dtype=[("place", "<f8", 3), ("color", "u1", 3)])
    rows["place"], rows["color"] = cloud.points.numpy(), as_bytes(cloud.colors[None])[0]
    write_atomically(path, header.encode() + rows.tobytes())
