"""Definition of `early_termination` and `visible_samples`."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops.grid import GridSpec
from hyperfields.ops.reference import encode, march, mlp, radiance, space
from hyperfields.ops.reference.packing import owners, ranks


def early_termination(
    density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float
) -> tuple[Tensor, Tensor]:
    """Counts `[r]` of visible samples, and the opacity `[r]` behind the last of them.

    density `[m]`, edges `[m 2]`, counts and opacity (before the first sample) `[r]`.
    """
    ray = owners(counts)
    optical = (density * (edges[:, 1] - edges[:, 0])).double()[: len(ray)]
    longest = int(counts.max()) if counts.numel() else 0
    rows = optical.new_zeros(counts.shape[0], longest + 1).index_put((ray, ranks(counts, ray) + 1), optical)
    behind = 1.0 - (1.0 - opacity.double())[:, None] * torch.exp(-rows.cumsum(-1))  # before sample k, in column k
    kept = torch.minimum((behind[:, :-1] < opaque).sum(-1), counts)
    return kept, behind.gather(1, kept[:, None])[:, 0].to(opacity.dtype)


def visible_samples(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, table: Tensor, grid: GridSpec,
    layers: mlp.Layers, activation: str, ceiling: float, opaque: float,
    contracted: bool = False, nearest: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Middles `[m 3]`, directions `[m 3]`, edges `[m 2]` and counts `[s*r]` of the samples that can be seen.

    origins and directions `[s r 3]`, occupancy `[s g g g]` bool, offset `[s r]`, table `[s | 1, rows, f]`; the last
    layer has one output, the log density at points scaled from [-1, 1] to [0, 1]; contracted: points are contracted
    before, and densities are per contracted length.
    """
    scenes, rays = origins.shape[:2]
    flat_rays = origins.reshape(-1, 3), directions.reshape(-1, 3)
    edges, counts = march.ray_march(origins, directions, occupancy, step, offset, contracted, nearest)
    first = counts.cumsum(0) - counts
    x, _, spans = march.gather_samples(*flat_rays, edges, first, counts)
    of_scene = counts.reshape(scenes, rays).sum(1)
    place = space.contract(x) if contracted else x
    place = place * 0.5 + 0.5
    log_density = encode.encode_mlp(place, table, grid, layers, activation, of_scene)
    density = radiance.truncated_exp(log_density.squeeze(-1), ceiling)
    if contracted:
        density = density * space.density_scale(x).squeeze(-1)
    counts, _ = early_termination(density, spans, counts, density.new_zeros(len(counts)), opaque)
    return *march.gather_samples(*flat_rays, edges, first, counts), counts
