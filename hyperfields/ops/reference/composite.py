"""Definition of `composite`: emission and absorption, piecewise constant along a ray."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops.reference.packing import owners, ranks


def composite(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values `[r c]`, opacity `[r]` and depth sum `[r]`; density `[m]`, values `[m c]`, edges `[m 2]`, counts `[r]`.

    Source: Max 1995, "Optical models for direct volume rendering".
    """
    ray = owners(counts)
    density, values, edges = (t[: len(ray)] for t in (density, values, edges))
    optical = density * (edges[:, 1] - edges[:, 0])
    # One row a ray, so that sums never run across rays.
    place = ranks(counts, ray)
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
