"""Definition of the contraction of space, of rays in it, and of their inverses.

contract(x) = x where |x| <= 1, else (2 - 1/|x|) x / |x|, with |x| the largest of the three coordinates: all of space
becomes the cube of side 4, of which the scene box [-1, 1]^3 stays as it is. Grids cover that cube: half of it is their
[-1, 1]^3. With the largest coordinate instead of the Euclidean length the whole cube is used, and its middle is the
scene box of bounded scenes, so that meshes and boxes mean the same in both.

A ray is contracted about its point nearest to the centre, which is b along it and rho away: the parameter
s(t) = c((t - b) / r) with r = max(1, rho) and c(v) = v where |v| <= 1, else sign(v) (2 - 1/|v|). Even steps in s are
even near the centre and grow with the square of the distance beyond.

Source: Barron et al. 2022, "Mip-NeRF 360", equations 10 and 11; the largest coordinate: nerfacto (Tancik et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

HORIZON = 1000.0  # of r: where a ray ends


def size_of(x: Tensor) -> Tensor:
    """The largest coordinate of points `[... d]`, at least 1: `[... 1]`."""
    return x.abs().amax(-1, keepdim=True).clamp(min=1.0)


def contract(x: Tensor) -> Tensor:
    """Points `[... 3]` of space in the grid's cube [-1, 1]^3."""
    size = size_of(x)
    return x * ((1.0 - 0.5 / size) / size)


def expand(y: Tensor) -> Tensor:
    """The inverse of `contract`; points on the faces of the cube come to lie at a large distance, not at infinity."""
    size = (2.0 * y).abs().amax(-1, keepdim=True).clamp(min=1.0)
    return 2.0 * y / (size * (2.0 - size).clamp(min=1.0 / HORIZON))


def density_scale(x: Tensor) -> Tensor:
    """Contracted length over length, away from the centre, at `[... 3]`: `[... 1]`, 1 in the scene box."""
    return size_of(x).square().reciprocal()


def ray_frame(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Place b of the point of each ray `[... 3]` that is nearest to the centre, and r: `[...]` each."""
    o0, o1, o2 = origins.unbind(-1)
    d0, d1, d2 = directions.unbind(-1)
    along = -(o0 * d0 + o1 * d1 + o2 * d2)
    across = (o0 + along * d0) ** 2 + (o1 + along * d1) ** 2 + (o2 + along * d2) ** 2
    return along, across.sqrt().clamp(min=1.0)


def contract_1d(v: Tensor) -> Tensor:
    """c(v)."""
    return torch.where(v.abs() <= 1.0, v, torch.copysign(2.0 - 1.0 / v.abs().clamp(min=1.0), v))


def expand_1d(s: Tensor) -> Tensor:
    """The inverse of `contract_1d` for |s| < 2."""
    outer = 1.0 / (2.0 - s.abs().clamp(min=1.0))
    return torch.where(s.abs() <= 1.0, s, torch.copysign(outer, s))
