"""Definition of `distortion`."""

from __future__ import annotations

import torch
from torch import Tensor


def distortion(density: Tensor, edges: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """Spread of what each ray sees, `[r]`; density `[m]`, edges and places `[m 2]`, counts `[r]`.

    sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 d_i with the weights w of `composite`, m the middles and d the lengths
    of `places`; by sums over what lies before, in O(m). Nothing here depends on how many samples are counted.

    Source: Barron et al. 2022, "Mip-NeRF 360", equation 15.
    """
    rays = counts.shape[0]
    ends = counts.cumsum(0)
    ray = torch.searchsorted(ends, torch.arange(density.shape[0], device=density.device), right=True)
    first = torch.cat((ends - counts, ends[-1:] if rays else ends))  # of those behind the last ray, too

    def before(values: Tensor) -> Tensor:
        """Sums over the samples of the same ray that lie before each. In float64: they run over all rays."""
        sums = torch.nn.functional.pad(values.double().cumsum(0), (1, 0))
        return (sums[:-1] - sums[first[ray]]).to(values)

    optical = density * (edges[:, 1] - edges[:, 0])
    optical = torch.where(ray < rays, optical, torch.zeros_like(optical))
    weight = torch.exp(-before(optical)) * -torch.expm1(-optical)
    middle, length = places.mean(-1), places[:, 1] - places[:, 0]
    each = 2.0 * weight * (middle * before(weight) - before(weight * middle)) + weight.square() * length / 3.0
    return each.new_zeros(rays + 1).index_add(0, ray, each)[:rays]
