"""Types that all renderers share: functions of points, rendered rays, and the size of a block of points.

A function answers packed points: `fn(x [m d], counts [s])` for images and distances, `fn(x, d, counts)` for radiance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays

PointFn = Callable[[Tensor, Tensor], Tensor]  # (x [m d], counts [s]) -> [m c]
# (x, d, counts) -> density [m 1], rgb [m 3]; also with `encoded` of ops.VisibleSamples
RadianceFn = Callable[..., tuple[Tensor, Tensor]]
# (rays, occupancy, offset, opaque) -> the visible samples, or None for all
VisibleSamplesFn = Callable[[Rays, Tensor, Tensor | None, float], ops.VisibleSamples | None]

POINTS_PER_BLOCK = 2**18  # evaluated at a time: bounds the memory of a picture of any size


class Rendered(NamedTuple):
    """Rendered rays. Colours are premultiplied: add `(1 - alpha) * background`."""

    rgb: Tensor  # [s r 3]
    alpha: Tensor  # [s r]
    depth: Tensor  # [s r] mean distance along the ray, world units; inf where alpha is 0
    normals: Tensor | None = None  # [s r 3] unit, world frame, zero where nothing was hit
    samples: int = 0  # points that the function was asked for
    distortion: Tensor | None = None  # [s r] spread of what is seen, see `ops.distortion`, where it was asked for


def points_per_block(device: torch.device) -> int:
    """Points that a renderer asks for at a time; of few, a GPU spends its time on launches and on waiting."""
    return POINTS_PER_BLOCK if device.type == "cpu" else 8 * POINTS_PER_BLOCK


def on_background(rendered: Rendered, background: float | Tensor = 1.0) -> Tensor:
    """Colours over a background, a grey level or colours that broadcast to it, `[s r 3]`."""
    return rendered.rgb + (1.0 - rendered.alpha[..., None]) * background
