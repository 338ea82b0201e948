"""Smooth motion: a velocity that carries what one scene has to where another has it, and how it is found.

Both scenes are looked at where they meet, half-way: each is carried by half of the motion, so neither is the first one,
and to go back is to go the other way. The velocity does not change along the way (Arsigny et al. 2006, "A log-Euclidean
framework for statistics on diffeomorphisms"): for every time there is a motion without folds, and its inverse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Mismatch = Callable[[Tensor, Tensor], Tensor]  # values of both [*n c], carried to half-way -> []
SQUARINGS = 3  # the motion in 8 steps


def places(side: int, dims: int, device: torch.device | str = "cpu") -> Tensor:
    """Points of an even grid over [-1, 1]^d, corners included: `[side ... d]`."""
    axis = torch.linspace(-1.0, 1.0, side, device=device)
    return torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), -1)


def values_at(values: Tensor, x: Tensor) -> Tensor:
    """Values `[... c]` of an even grid over [-1, 1]^d, `[*n c]`, at points `[... d]`: linear between, held beyond it.

    Differentiable in both.
    """
    dims = x.shape[-1]
    spread = x.flip(-1).reshape(1, *[1] * (dims - 1), -1, dims)  # torch wants (z, y, x)
    found = torch.nn.functional.grid_sample(
        values.movedim(-1, 0)[None], spread, padding_mode="border", align_corners=True
    )
    return found.flatten(2)[0].T.reshape(*x.shape[:-1], values.shape[-1])


@dataclasses.dataclass(frozen=True)
class Flow:
    """A motion within [-1, 1]^d. `flow.carried(x, 0.5)` is where points are after half of the time.

    velocity: `[*n d]` at the points of an even grid, corners included; linear between them.
    """

    velocity: Tensor

    def displacement(self, time: float) -> Tensor:
        """How far the points of the grid are carried, `[*n d]`. Differentiable in the velocity.

        Arsigny et al. 2006: the motion of 2^-k of the time, composed with itself k times.
        """
        start = places(len(self.velocity), self.velocity.shape[-1], self.velocity.device)
        step = time / 2**SQUARINGS
        moved: Tensor = step * values_at(self.velocity, start + 0.5 * step * self.velocity)
        for _ in range(SQUARINGS):
            moved = moved + values_at(moved, start + moved)
        return moved

    def carried(self, x: Tensor, time: float) -> Tensor:
        """Points `[... d]` after a time, which may be negative; none leaves [-1, 1]^d. Differentiable in x."""
        if time == 0.0:
            return x
        return (x + values_at(self.displacement(time), x)).clamp(-1.0, 1.0)


class Level(NamedTuple):
    """A stage of a registration."""

    cells: int  # of the cubic B-splines that the velocity is made of, along a side
    side: int  # points of the grid on which the scenes are compared
    steps: int


def register(
    first: Tensor, second: Tensor, mismatch: Mismatch, levels: Sequence[Level], *, bending: float, rate: float = 0.03
) -> Flow:
    """The motion that carries the first scene to the second: after half of the time they are as alike as can be.

    Args:
        first, second: what the scenes are compared by, `[*n c]` at the points of an even grid over [-1, 1]^d.
        mismatch: of both, carried to half-way, at the points of a grid.
        levels: coarse to fine.
        bending: price of the mean squared second differences of the velocity, a tenth of it of the first ones.
        rate: of Adam, units of the box; halved at each level, and falls to a tenth of it within one.
    """
    dims = first.dim() - 1
    knots = first.new_zeros(*[levels[0].cells + 3] * dims, dims)
    with torch.enable_grad():
        for number, level in enumerate(levels):
            while knots.shape[0] - 3 < level.cells:
                knots = _refined(knots)
            knots = knots.requires_grad_()
            optimizer = torch.optim.Adam([knots], lr=rate / 2**number, betas=(0.9, 0.99))
            decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, level.steps)
            start = places(level.side, dims, first.device)
            for _ in range(level.steps):
                flow = Flow(_spread(knots, level.side))
                ends = (start + flow.displacement(time) for time in (-0.5, 0.5))
                values = (values_at(scene, end) for scene, end in zip((first, second), ends, strict=True))
                loss = mismatch(*values) + bending * _roughness(knots)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                decay.step()
            knots = knots.detach()
    return Flow(_spread(knots, levels[-1].side))


def _basis(points: int, cells: int, like: Tensor) -> Tensor:
    """Cubic B-splines of `cells` at even points, `[points cells+3]`."""
    place = torch.linspace(0.0, 1.0, points, device=like.device) * cells
    cell = place.long().clamp(max=cells - 1)
    t = place - cell
    weights = torch.stack(((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), -1) / 6.0
    columns = cell[:, None] + torch.arange(4, device=like.device)
    return like.new_zeros(points, cells + 3).scatter_(1, columns, weights.to(like))


def _along_axes(matrix: Tensor, knots: Tensor) -> Tensor:
    """A matrix `[p k]` applied along all axes of `[k ... d]` but the last."""
    for axis in range(knots.dim() - 1):
        knots = torch.tensordot(matrix, knots, ([1], [axis])).movedim(0, axis)
    return knots


def _spread(knots: Tensor, side: int) -> Tensor:
    """Values `[side ... d]` of splines."""
    return _along_axes(_basis(side, knots.shape[0] - 3, knots), knots)


def _refined(knots: Tensor) -> Tensor:
    """The same splines with cells half as long."""
    cells = knots.shape[0] - 3
    coarse, fine = (_basis(8 * cells + 1, count, knots) for count in (cells, 2 * cells))
    return _along_axes(torch.linalg.lstsq(fine, coarse).solution, knots)


def _roughness(knots: Tensor) -> Tensor:
    """Mean squared second derivatives, with a tenth of the mean squared first ones: `[]`."""
    cell, axes = 2.0 / (knots.shape[0] - 3), range(knots.dim() - 1)
    first = sum((knots.diff(dim=axis) / cell).square().mean() for axis in axes)
    second = sum((knots.diff(n=2, dim=axis) / cell**2).square().mean() for axis in axes)
    return torch.as_tensor(second + 0.1 * first)
