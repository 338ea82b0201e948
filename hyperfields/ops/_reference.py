"""The definition of each op: plain torch, any device, any float dtype, twice differentiable.

Nothing here is fast, and nothing here imports the fast side. Inputs are validated by `ops/__init__.py`.
Packed points are `[m ...]`, sorted by scene, with `counts [s]`; a table or weight set belongs to each scene. Points
behind the counted ones belong to nobody: they get zeros, and are no part of any ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.ops.grid import PRIMES, GridSpec

_UINT32 = 0xFFFFFFFF
NEGATIVE_SLOPE = 0.01  # slope of leaky_relu below 0

ACTIVATIONS = {
    "leaky_relu": lambda h: torch.nn.functional.leaky_relu(h, NEGATIVE_SLOPE),
    "relu": torch.relu,
    "sine": torch.sin,
}


def hash_encode(x: Tensor, table: Tensor, grid: GridSpec, counts: Tensor) -> Tensor:
    """x `[m d]`, table `[s | 1, rows, f]`, counts `[s]` -> `[m, l*f]`."""
    points, x = x.shape[0], x[: int(counts.sum())]
    scene = _owner(counts) if table.shape[0] > 1 else torch.zeros_like(x[:, 0], dtype=torch.long)
    columns = []
    for level, scale in enumerate(grid.scales):
        position = x * scale + 0.5
        cell = position.detach().floor()
        weight = position - cell
        if grid.smoothstep:
            weight = weight * weight * (3.0 - 2.0 * weight)
        corner_cell = cell.long()
        rows = grid.offsets[level + 1] - grid.offsets[level]
        column = torch.zeros(())
        for corner in range(2**grid.dims):
            high = torch.tensor([corner >> d & 1 for d in range(grid.dims)], device=x.device)
            index = _row(corner_cell + high, grid, level) % rows + grid.offsets[level]
            blend = torch.where(high.bool(), weight, 1.0 - weight).prod(-1, keepdim=True)
            column = blend * table[scene, index] + column.to(x)
        columns.append(column)
    return _with_rest(torch.cat(columns, -1), points)


def _row(vertex: Tensor, grid: GridSpec, level: int) -> Tensor:
    """Row of integer vertices `[m d]` before the modulo, with uint32 wrap-around."""
    row = torch.zeros_like(vertex[:, 0])
    stride = 1
    for d in range(grid.dims):
        coordinate = vertex[:, d] & _UINT32
        if grid.is_dense(level):
            row = (row + coordinate * stride) & _UINT32
            stride *= grid.resolutions[level]
        else:
            row = row ^ (coordinate * PRIMES[d] & _UINT32)
    return row


def batched_mlp(x: Tensor, layers: list[tuple[Tensor, Tensor | None]], activation: str, counts: Tensor) -> Tensor:
    """x `[m i]`, layers of (weight `[s o i]`, bias `[s o]` or None), counts `[s]` -> `[m o]`."""
    act = ACTIVATIONS[activation]
    outputs = []
    for scene, points in enumerate(x[: int(counts.sum())].split(counts.tolist())):
        h = points
        for number, (weight, bias) in enumerate(layers):
            h = h @ weight[scene].T
            if bias is not None:
                h = h + bias[scene]
            if number + 1 < len(layers):
                h = act(h)
        outputs.append(h)
    return _with_rest(torch.cat(outputs), x.shape[0])


class _ClampMax(torch.autograd.Function):
    """min(x, ceiling) with the derivative of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(max=ceiling)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


def truncated_exp(x: Tensor, ceiling: float) -> Tensor:
    """exp(min(x, ceiling)), whose derivative above the ceiling is that at it, so that what is above can come back.

    The derivative of the value would be 0 there. Source: the truncated exponential of torch-ngp (Tang 2022).
    """
    limited: Tensor = _ClampMax.apply(x, ceiling)  # type: ignore[no-untyped-call]
    return torch.exp(limited)


def composite(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """density `[m]`, values `[m c]`, edges `[m 2]`, counts `[r]` -> values `[r c]`, alpha `[r]`, depth `[r]`.

    Max 1995, "Optical models for direct volume rendering", emission and absorption, piecewise constant.
    """
    ray = _owner(counts)
    density, values, edges = (t[: len(ray)] for t in (density, values, edges))
    optical = density * (edges[:, 1] - edges[:, 0])
    # One row a ray, so that sums never run across rays.
    place = torch.arange(ray.shape[0], device=ray.device) - (counts.cumsum(0) - counts)[ray]
    longest = int(counts.max()) if counts.numel() else 0
    rows = optical.new_zeros(counts.shape[0], longest).index_put((ray, place), optical)
    # Shifted, not reduced by what is its own: infinite - infinite is no number.
    before = torch.nn.functional.pad(rows.cumsum(-1), (1, 0))[ray, place]
    weight = torch.exp(-before) * -torch.expm1(-optical)
    rays = counts.shape[0]
    rgb = values.new_zeros(rays, values.shape[1]).index_add(0, ray, weight[:, None] * values)
    alpha = density.new_zeros(rays).index_add(0, ray, weight)
    depth = density.new_zeros(rays).index_add(0, ray, weight * edges.mean(-1))
    return rgb, alpha, depth


def mix(coefficients: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """coefficients `[s g k]`, bases `[k n]` of each group -> `[s n]`, n of all groups."""
    return torch.cat([coefficients[:, group] @ part for group, part in enumerate(bases)], 1)


def march(origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor) -> tuple[Tensor, Tensor]:
    """origins and directions `[s r 3]`, occupancy `[s g g g]` bool, offset `[s r]` in [0, 1).

    Returns edges `[m 2]` (start and end of each sample, in ray order) and counts `[s*r]`.
    """
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


def apart(edges: Tensor, counts: Tensor, room: int) -> Tensor:
    """edges `[m 2]` of `march` -> `[r*room 2]`: the samples of ray i from row `i * room` on, zeros between them."""
    ray = _owner(counts)
    place = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]
    return edges.new_zeros(len(counts) * room, 2).index_copy(0, ray * room + place, edges)


def samples(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """origins and directions `[r 3]`, edges `[m 2]`, first and counts `[r]` -> x `[n 3]`, d `[n 3]`, edges `[n 2]`."""
    ray = _owner(counts)
    place = torch.arange(ray.shape[0], device=ray.device) + (first - counts.cumsum(0) + counts)[ray]
    span, d = edges[place], directions[ray]
    return origins[ray] + 0.5 * (span[:, :1] + span[:, 1:]) * d, d, span


def reach(density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float) -> tuple[Tensor, Tensor]:
    """density `[m]`, edges `[m 2]`, counts and opacity `[r]` -> counts `[r]` of what can be seen, opacity `[r]`."""
    ray = _owner(counts)
    optical = (density * (edges[:, 1] - edges[:, 0])).double()[: len(ray)]
    place = torch.arange(ray.shape[0], device=ray.device) - (counts.cumsum(0) - counts)[ray]
    longest = int(counts.max()) if counts.numel() else 0
    rows = optical.new_zeros(counts.shape[0], longest + 1).index_put((ray, place + 1), optical)
    behind = 1.0 - (1.0 - opacity.double())[:, None] * torch.exp(-rows.cumsum(-1))  # before sample k, in column k
    kept = torch.minimum((behind[:, :-1] < opaque).sum(-1), counts)
    return kept, behind.gather(1, kept[:, None])[:, 0].to(opacity.dtype)


def box_interval(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays `[... 3]` enter and leave the scene box [-1, 1]^3; near >= far when they miss it or it lies behind."""
    inverse = 1.0 / torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    a, b = (-1.0 - origins) * inverse, (1.0 - origins) * inverse
    near = torch.minimum(a, b).amax(-1).clamp(min=0.0)
    far = torch.maximum(a, b).amin(-1)
    return near, torch.maximum(far, near)


def _with_rest(found: Tensor, points: int) -> Tensor:
    """`[m c]` -> `[points c]`, zeros for those that belong to nobody."""
    return torch.nn.functional.pad(found, (0, 0, 0, points - len(found))) if points > len(found) else found


def _owner(counts: Tensor) -> Tensor:
    """Index of the scene or ray that owns each packed element."""
    return torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)
