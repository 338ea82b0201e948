"""Definition of `ray_march`, `ray_march_padded` and `gather_samples`."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops.reference.packing import owners, ranks
from hyperfields.ops.reference.space import HORIZON, contract, contract_1d, expand_1d, ray_frame


def ray_march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor,
    contracted: bool = False,
    nearest: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Edges `[m 2]` (start and end of each sample, in ray order) and counts `[s*r]`.

    origins and directions `[s r 3]`, occupancy `[s g g g]` bool, offset `[s r]` in [0, 1). contracted: steps and cells
    are those of contracted space, from the distance `nearest` on.
    """
    if contracted:
        return _march_contracted(origins, directions, occupancy, step, offset, nearest)
    near, far = box_interval(origins, directions)
    steps = int(torch.ceil(((far - near).amax() / step).clamp(min=0)).item()) + 1 if near.numel() else 0
    size = occupancy.shape[-1]
    k = torch.arange(steps, device=origins.device, dtype=origins.dtype)
    start = near[..., None] + (k + offset[..., None] - 1.0) * step  # the first interval covers the entry
    end = torch.minimum(start + step, far[..., None])
    start = torch.maximum(start, near[..., None])
    middle = 0.5 * (start + end)
    points = origins[..., None, :] + middle[..., None] * directions[..., None, :]
    cell = ((points + 1.0) * (0.5 * size)).floor().long().clamp(0, size - 1)
    scene = torch.arange(occupancy.shape[0], device=origins.device)[:, None, None]
    keep = (end > start) & occupancy[scene, cell[..., 0], cell[..., 1], cell[..., 2]]
    edges = torch.stack((start, end), -1)[keep]
    return edges, keep.sum(-1).reshape(-1)


def _march_contracted(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, nearest: float
) -> tuple[Tensor, Tensor]:
    """The same in contracted space: even steps of a ray's parameter s, see `space`."""
    along, radius = ray_frame(origins, directions)
    near, far = contract_1d((nearest - along) / radius), 2.0 - 1.0 / HORIZON
    steps = int(torch.ceil(((far - near).amax() / step).clamp(min=0)).item()) + 1 if near.numel() else 0
    size = occupancy.shape[-1]
    k = torch.arange(steps, device=origins.device, dtype=origins.dtype)
    start = near[..., None] + (k + offset[..., None] - 1.0) * step
    end = (start + step).clamp(max=far)
    start = torch.maximum(start, near[..., None])
    keep = end > start
    start, end = (along[..., None] + radius[..., None] * expand_1d(s) for s in (start, end))
    middle = 0.5 * (start + end)
    points = contract(origins[..., None, :] + middle[..., None] * directions[..., None, :])
    cell = ((points + 1.0) * (0.5 * size)).floor().long().clamp(0, size - 1)
    scene = torch.arange(occupancy.shape[0], device=origins.device)[:, None, None]
    keep &= occupancy[scene, cell[..., 0], cell[..., 1], cell[..., 2]]
    return torch.stack((start, end), -1)[keep], keep.sum(-1).reshape(-1)


def box_interval(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances `[...]` at which rays `[... 3]` enter and leave the scene box [-1, 1]^3.

    near >= far where they miss it or it lies behind.
    """
    inverse = 1.0 / torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    a, b = (-1.0 - origins) * inverse, (1.0 - origins) * inverse
    near = torch.minimum(a, b).amax(-1).clamp(min=0.0)
    far = torch.maximum(a, b).amin(-1)
    return near, torch.maximum(far, near)


def pad_samples(edges: Tensor, counts: Tensor, room: int) -> Tensor:
    """Edges `[r*room 2]` with the samples of ray i from row `i * room` on, zeros between; edges `[m 2]` packed."""
    ray = owners(counts)
    return edges.new_zeros(len(counts) * room, 2).index_copy(0, ray * room + ranks(counts, ray), edges)


def ray_march_padded(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor,
    room: int,
    contracted: bool = False,
    nearest: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Edges `[s*r*room 2]` of the samples of `ray_march`, `room` rows for each ray, and counts `[s*r]`."""
    edges, counts = ray_march(origins, directions, occupancy, step, offset, contracted, nearest)
    return pad_samples(edges, counts, room), counts


def gather_samples(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Middles `[n 3]`, directions `[n 3]` and edges `[n 2]`, of `counts` samples of each ray from row `first` on.

    origins and directions `[r 3]`, edges `[m 2]`, first and counts `[r]`.
    """
    ray = owners(counts)
    place = torch.arange(ray.shape[0], device=ray.device) + (first - counts.cumsum(0) + counts)[ray]
    span, d = edges[place], directions[ray]
    return origins[ray] + 0.5 * (span[:, :1] + span[:, 1:]) * d, d, span
