"""Fronts on even grids: true distances from a surface, and how long the ways within a solid are.

Computed on the CPU, wherever the values lie; nothing here is differentiable.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

FAR = 1e6  # cells: of what is never reached
ROUNDS = 10  # of sweeps; ways that turn more often come out too long


def redistanced(values: Tensor) -> Tensor:
    """The signed distance, in cells, from the surface where values `[n n n]` change their sign: the same shape.

    Beside the surface to second order (the plane through the crossings of the edges), further away to first order.
    """
    from hyperfields.fields import _fronts

    values = values.detach().float().contiguous().cpu()
    distance = torch.full_like(values, FAR)
    _fronts.crossings(values.numpy(), distance.numpy())
    free = distance == FAR
    _fronts.sweep(distance.numpy(), free.numpy(), torch.zeros_like(distance).numpy(), 1)
    return torch.where(values < 0.0, -distance, distance)


def closed(distance: Tensor, radius: float) -> Tensor:
    """The signed distance from a solid without its gaps narrower than twice a radius, of its distance `[n n n]`, in
    cells: its morphological closing by a ball (Serra 1982, "Image analysis and mathematical morphology")."""
    return redistanced(distance - radius) + radius


def travelled(start: Tensor, free: Tensor, before: Tensor | None = None) -> Tensor:
    """When a front arrives at the points of a grid, 1 a cell: `[n n n]`, FAR where it does not.

    start: when it is where it begins, infinite elsewhere. free: points, bool, that it may enter. before: times before
    which it does not enter them.
    """
    from hyperfields.fields import _fronts

    known = start.isfinite()
    time = torch.where(known, start, FAR).float().contiguous()
    before = torch.zeros_like(time) if before is None else before.float().contiguous()
    _fronts.sweep(time.numpy(), (free & ~known).numpy(), before.numpy(), ROUNDS)
    return time


def lengths(distance: Tensor, length: Tensor, within: Tensor, radius: int, least: float) -> Tensor:
    """How long the ways through the points of a grid are, `[n n n]`.

    distance: from where the ways begin. length: of the way that ends at a point. within: points on ways, bool.

    The largest length of what is reached through a point, smooth over `radius` cells, at least `least`, and such that
    the share of a way that is behind, distance / length, does not fall on the way outwards.
    """
    from hyperfields.fields import _fronts

    points = within.flatten().nonzero()[:, 0]
    order = points[distance.flatten()[points].argsort()].numpy()
    length = torch.where(within, length, 0.0).contiguous()
    _fronts.farthest(distance.numpy(), length.numpy(), order)
    length = torch.where(within & (distance > 0.0), length, 0.0)
    around = averaged(widened(length, radius)[None], radius)[0]
    length = torch.maximum(around, length).clamp(min=least).contiguous()
    _fronts.outwards(distance.numpy(), length.numpy(), order)
    return length


def widened(values: Tensor, cells: int) -> Tensor:
    """The largest of values `[n n n]` within so many cells, in a cube."""
    found = values[None, None]
    for axis in range(3):  # a cube in one go would be a window of far more values
        width, margin = [1, 1, 1], [0, 0, 0]
        width[axis], margin[axis] = 1 + 2 * cells, cells
        found = torch.nn.functional.max_pool3d(found, width, 1, margin)
    return found[0, 0]


def averaged(values: Tensor, cells: int, times: int = 1) -> Tensor:
    """The mean of values `[c *n]`, of two or three axes, within so many cells, in a square or cube; so many times."""
    axes = values.dim() - 1
    pool = torch.nn.functional.avg_pool3d if axes == 3 else torch.nn.functional.avg_pool2d
    for _ in range(times):
        values = pool(torch.nn.functional.pad(values, (cells,) * (2 * axes), mode="replicate"), 1 + 2 * cells, 1)
    return values


def extended(values: Tensor, known: Tensor, cells: int) -> Tensor:
    """Values `[n n n]` where they are known, bool; within so many cells of that the mean of neighbours; 0 beyond."""
    weight, values = known.float(), torch.where(known, values, 0.0)
    for _ in range(cells):
        total, count = averaged(torch.stack((values * weight, weight)), 1)
        values = torch.where(weight > 0.0, values, total / count.clamp(min=1e-6))
        weight = (count > 1e-6).float()
        values = values * weight
    return values


def outside(free: Tensor) -> Tensor:
    """Which free points `[*n]`, bool, of a grid are reached from its sides, by steps along the axes."""
    found = torch.ones_like(free)
    found[(slice(1, -1),) * free.dim()] = False
    found &= free
    count = -1
    while count != (count := int(found.sum())):
        for axis in range(free.dim()):
            for order in (1, -1):
                slices = list(zip(found.unbind(axis), free.unbind(axis), strict=True))[::order]
                for (before, _), (here, open_) in itertools.pairwise(slices):
                    here |= before & open_
    return found
