"""Renderers: each takes a function of points and returns pictures. None of them knows what a field is.

A function answers packed points: `fn(x [m d], counts [s])` for images and distances, `fn(x, d, counts)` for radiance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays

PointFn = Callable[[Tensor, Tensor], Tensor]  # (x [m d], counts [s]) -> [m c]
RadianceFn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, d, counts) -> density [m 1], rgb [m 3]

BLOCK = 2**18  # points that a renderer asks for at a time: bounds the memory of a picture of any size


class Rendered(NamedTuple):
    """What rays saw. Colours are premultiplied: add `(1 - alpha) * background`."""

    rgb: Tensor  # [s r 3]
    alpha: Tensor  # [s r]
    depth: Tensor  # [s r] mean distance along the ray, world units; inf where alpha is 0
    normals: Tensor | None = None  # [s r 3] unit, world frame, zero where nothing was hit
    samples: int = 0  # points that the function was asked for


def on_background(rendered: Rendered, background: float = 1.0) -> Tensor:
    """Colours over an even background, `[s r 3]`."""
    return rendered.rgb + (1.0 - rendered.alpha[..., None]) * background


def pixel_centers(height: int, width: int) -> Tensor:
    """Centres of all pixels in [0, 1]^2, row by row: `[height * width, 2]`, x to the right, y down."""
    v, u = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack((u, v), -1).reshape(-1, 2)


@torch.no_grad()
def sample_image(fn: PointFn, scenes: int, height: int, width: int) -> Tensor:
    """Images `[s h w c]` of `scenes` image functions, in blocks of bounded memory. Not differentiable."""
    x = pixel_centers(height, width)
    rows = []
    for block in x.split(max(BLOCK // scenes, 1)):
        counts = torch.full((scenes,), block.shape[0])
        rows.append(fn(block.repeat(scenes, 1), counts).reshape(scenes, block.shape[0], -1))
    return torch.cat(rows, 1).reshape(scenes, height, width, -1)


@torch.no_grad()
def occupancy_grid(
    density: PointFn,
    scenes: int,
    size: int = 64,
    *,
    threshold: float = 0.01,
    step: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cells of [-1, 1]^3 in which a step of length `step` would have an opacity above `threshold`: `[s g g g]` bool.

    A cell is judged by its centre and its corners, and a cell next to an occupied one is kept, since a thin part may
    pass between those points. Not differentiable.
    """
    corners = torch.linspace(-1.0, 1.0, size + 1)
    centers = (corners[1:] + corners[:-1]) * 0.5
    limit = -math.log1p(-threshold) / step
    found = torch.zeros(scenes, size, size, size, dtype=torch.bool)
    for axis in (centers, corners):
        x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        values = []
        for block in x.split(max(BLOCK // scenes, 1)):
            counts = torch.full((scenes,), block.shape[0])
            values.append(density(block.repeat(scenes, 1), counts).reshape(scenes, -1) > limit)
        dense = torch.cat(values, 1).reshape(scenes, *(len(axis),) * 3)
        if len(axis) == size:
            found |= dense
        else:
            found |= dilate_corners(dense)
    return dilate(found)


def dilate_corners(corners: Tensor) -> Tensor:
    """Corners `[s g+1 g+1 g+1]` bool -> cells `[s g g g]` with at least one true corner."""
    return torch.nn.functional.max_pool3d(corners[:, None].float(), 2, 1)[:, 0] > 0


def dilate(cells: Tensor) -> Tensor:
    """Cells `[s g g g]` and their 26 neighbours."""
    return torch.nn.functional.max_pool3d(cells[:, None].float(), 3, 1, 1)[:, 0] > 0


def render_volume(
    fn: RadianceFn,
    rays: Rays,
    occupancy: Tensor,
    *,
    step: float,
    offset: Tensor | None = None,
) -> Rendered:
    """Volume rendering of radiance functions, one a scene, through samples in occupied cells only.

    Args:
        fn: radiance function of packed points.
        rays: origins and directions `[s r 3]`.
        occupancy: `[s g g g]` bool.
        step: length of a sample, scene units.
        offset: `[s r]` in [0, 1), random while fitting; 0.5 when None.

    Differentiable in whatever `fn` is differentiable in; not in the rays.
    """
    origins, directions = rays
    scenes, count = origins.shape[:2]
    edges, numbers = ops.march(origins, directions, occupancy, step, offset)
    if edges.shape[0] == 0:
        empty = origins.new_zeros(scenes, count)
        return Rendered(torch.zeros_like(origins), empty, torch.full_like(empty, math.inf))
    ray = torch.repeat_interleave(torch.arange(scenes * count), numbers)
    d = directions.reshape(-1, 3)[ray]
    x = torch.addcmul(origins.reshape(-1, 3)[ray], edges.mean(-1, keepdim=True), d)
    density, rgb = fn(x, d, numbers.reshape(scenes, count).sum(1))
    values, alpha, depth = ops.composite(density.squeeze(-1), rgb, edges, counts=numbers)
    mean = torch.where(alpha > 1e-4, depth / alpha.clamp(min=1e-4), torch.full_like(depth, math.inf))
    return Rendered(
        values.reshape(scenes, count, 3),
        alpha.reshape(scenes, count),
        mean.reshape(scenes, count),
        samples=edges.shape[0],
    )


class OccupancyTracker:
    """Which cells of each scene's box are worth sampling while the fields still change.

    Keeps a decaying maximum of the density seen in every cell (Mueller et al. 2022, appendix C), one grid a scene.
    Everything counts as occupied until it was looked at.
    """

    def __init__(self, scenes: int, size: int, *, step: float, threshold: float = 0.01, decay: float = 0.9) -> None:
        self.size, self.decay = size, decay
        self.limit = -math.log1p(-threshold) / step
        self.density = torch.full((scenes, size**3), math.inf)

    def cells(self, scenes: Tensor) -> Tensor:
        """Occupied cells of `scenes` `[s]`: `[s g g g]` bool."""
        occupied = self.density[scenes] > self.limit
        return occupied.reshape(-1, self.size, self.size, self.size)

    @torch.no_grad()
    def update(self, density: PointFn, scenes: Tensor, share: float, generator: torch.Generator) -> None:
        """Look at a random point of a random `share` of the cells of `scenes`; all of a scene's cells when 1."""
        total = self.size**3
        count = max(int(total * share), 1)
        if count < total:
            cell = torch.randint(total, (len(scenes), count), generator=generator)
        else:
            cell = torch.arange(total).expand(len(scenes), total)
        index = torch.stack((cell // self.size**2, cell // self.size % self.size, cell % self.size), -1)
        jitter = torch.rand(index.shape, generator=generator)
        x = ((index + jitter) * (2.0 / self.size) - 1.0).reshape(-1, 3)
        seen = density(x, torch.full((len(scenes),), count)).reshape(len(scenes), count)
        old = self.density[scenes]
        faded = old.gather(1, cell)
        faded = torch.where(faded.isinf(), torch.zeros_like(faded), faded * self.decay)
        self.density[scenes] = old.scatter(1, cell, torch.maximum(faded, seen))
