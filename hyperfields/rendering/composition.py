"""Several radiance functions in one picture, each in a place of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.errors import InputError
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.volume import OPAQUE, VISIBLE_RAYS, all_samples, mean_depth

TOLERANCE = 1e-4  # of a rotation


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a scene stands: p_world = scale * rotation p_scene + position.

    Raises:
        InputError: no rotation, a scale that is not above 0, numbers that are not finite.
    """

    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    scale: float = 1.0

    def __post_init__(self) -> None:
        try:
            rotation = torch.tensor(self.rotation, dtype=torch.float64)
            numbers = torch.tensor([*self.position, self.scale], dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise InputError(f"placement {self!s:.120}: wanted numbers") from None
        if len(numbers) != 4 or not bool(numbers.isfinite().all()) or not self.scale > 0.0:
            raise InputError(f"placement: position {self.position}, scale {self.scale}; wanted x y z and one above 0")
        sound = rotation.shape == (3, 3) and bool(rotation.isfinite().all())
        if not sound or float((rotation @ rotation.T - torch.eye(3)).abs().max()) > TOLERANCE or rotation.det() < 0:
            raise InputError("placement: its rotation is none; wanted 3 orthonormal rows that do not mirror")

    def into(self, rays: Rays) -> Rays:
        """Rays `[... 3]` of the world in the frame of the scene, where distances are shorter by `scale`."""
        rotation = rays.origins.new_tensor(self.rotation)
        origins = (rays.origins - rays.origins.new_tensor(self.position)) @ rotation / self.scale
        return Rays(origins.contiguous(), (rays.directions @ rotation).contiguous())


def turned(degrees: float) -> tuple[tuple[float, float, float], ...]:
    """The rotation about +Z, counterclockwise seen from above."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cosine, -sine, 0.0), (sine, cosine, 0.0), (0.0, 0.0, 1.0)


class _Samples(NamedTuple):
    """Samples of one function, in the unit of the world."""

    ray: Tensor  # [m] their rays
    edges: Tensor  # [m 2]
    density: Tensor  # [m]
    rgb: Tensor  # [m 3]


class Composition:
    """Fields of one scene each, with their placements: what `render_union` shows, and tasks take for a field.

    Raises:
        InputError: none, or several whose space has no end; they would stand in one another.
    """

    scenes = 1

    def __init__(self, parts: Sequence[tuple[Any, Placement]]) -> None:
        self.parts = tuple(parts)
        if not self.parts:
            raise InputError("compose: no scene came, wanted at least one")
        endless = sum(bool(bound.field.space.contracted) for bound, _ in self.parts)
        if endless > 1:
            raise InputError(f"compose: {endless} scenes fill all of space, wanted one at most, as the background")

    @property
    def device(self) -> torch.device:
        device: torch.device = self.parts[0][0].device
        return device

    def render(self, rays: Rays, cells: int) -> Rendered:
        """See `render_union`."""
        return render_union(self.parts, rays, cells)


@torch.no_grad()
def render_union(parts: Sequence[tuple[Any, Placement]], rays: Rays, cells: int) -> Rendered:
    """Volume rendering of all parts together, rays `[1 r 3]`: samples of each, merged by distance. Not differentiable.

    Where parts overlap, light passes through both: opacity is that of the sum of their densities, and colours are in
    order to the length of a sample.

    Args:
        parts: bound fields of one scene each, with their placements.
        cells: along a side of the grids that skip empty space.
    """
    blocks = []
    for begin in range(0, max(rays.origins.shape[1], 1), VISIBLE_RAYS):
        blocks.append(_block(parts, Rays(*(part[:, begin : begin + VISIBLE_RAYS] for part in rays)), cells))
    rgb, alpha, depth = (torch.cat(values, 1) for values in zip(*(block[:3] for block in blocks), strict=True))
    return Rendered(rgb, alpha, depth, samples=sum(block.samples for block in blocks))


def _block(parts: Sequence[tuple[Any, Placement]], rays: Rays, cells: int) -> Rendered:
    count = rays.origins.shape[1]
    found = [_samples(bound, placement, rays, cells) for bound, placement in parts]
    together = _Samples(*(torch.cat(values) for values in zip(*found, strict=True)))
    order = together.edges.sum(1).argsort(stable=True)
    order = order[together.ray[order].argsort(stable=True)]
    counts = torch.bincount(together.ray, minlength=count)
    if not len(order):
        empty = rays.origins.new_zeros(1, count)
        return Rendered(torch.zeros_like(rays.origins), empty, torch.full_like(empty, math.inf))
    edges = together.edges[order].contiguous()
    values, alpha, depth = ops.composite(
        together.density[order].contiguous(), together.rgb[order].contiguous(), edges, counts=counts
    )
    return Rendered(values[None], alpha[None], mean_depth(depth, alpha)[None], samples=len(order))


def _samples(bound: Any, placement: Placement, rays: Rays, cells: int) -> _Samples:
    """Samples of one part that are not hidden by itself."""
    local, occupancy = placement.into(rays), bound.occupancy(cells)
    seen = bound.visible_samples(local, occupancy, None, OPAQUE)
    if seen is None:
        seen = all_samples(local, occupancy, bound.field.step, None, bound.field.space)
    ray = torch.repeat_interleave(torch.arange(len(seen.counts), device=seen.counts.device), seen.counts)
    if not len(ray):
        return _Samples(ray, seen.edges, seen.edges[:, 0], seen.edges.new_zeros(0, 3))
    known = () if seen.encoded is None else (seen.encoded,)
    density, rgb = bound(seen.x, seen.d, seen.counts.sum()[None], *known)
    return _Samples(ray, seen.edges * placement.scale, density.squeeze(-1) / placement.scale, rgb)
