"""Encodings of points and directions. Each is a frozen config with a `spec` and a call; none owns a parameter."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.spherical_harmonics import spherical_harmonics
from hyperfields.weights import WeightEntry, Weights

TABLE = "grid.table"  # the name under which a grid finds its table among the weights


@dataclasses.dataclass(frozen=True)
class Identity:
    """The coordinates themselves, scaled from [0, 1] to [-1, 1]."""

    dims: int

    @property
    def channels(self) -> int:
        return self.dims

    @property
    def spec(self) -> dict[str, WeightEntry]:
        return {}

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        """x `[... d]` -> `[... d]`."""
        return x * 2.0 - 1.0


@dataclasses.dataclass(frozen=True)
class Fourier:
    """The coordinates and sin, cos of 2^k pi x, k < frequencies (Mildenhall et al. 2020, equation 4)."""

    dims: int
    frequencies: int = 6

    @property
    def channels(self) -> int:
        return self.dims * (1 + 2 * self.frequencies)

    @property
    def spec(self) -> dict[str, WeightEntry]:
        return {}

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        """x `[... d]` in [0, 1] -> `[... d * (1 + 2 * frequencies)]`."""
        x = x * 2.0 - 1.0
        angles = (x[..., None] * (2.0 ** torch.arange(self.frequencies, device=x.device).to(x) * math.pi)).flatten(-2)
        return torch.cat((x, angles.sin(), angles.cos()), -1)


@dataclasses.dataclass(frozen=True)
class SphericalHarmonics:
    """Real spherical harmonics of unit directions up to `degree` (1 to 4, exclusive of the constant's scale).

    Columns run l = 0 ... degree - 1, m = -l ... l. Source: see `ops/sphere.py`.
    """

    degree: int = 3

    @property
    def channels(self) -> int:
        return self.degree**2

    def __call__(self, d: Tensor) -> Tensor:
        """d `[... 3]`, unit length -> `[... degree^2]`.

        Raises:
            ValueError: when the degree is not 1 to 4.
        """
        if not 1 <= self.degree <= 4:
            raise ValueError(f"SphericalHarmonics degree: got {self.degree}, wanted 1 to 4")
        return spherical_harmonics(d, self.degree)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Levels in geometric progression from `coarsest` to `finest` cells along a side."""

    dims: int
    levels: int = 8
    features: int = 2
    log2_table: int = 12
    coarsest: int = 8
    finest: int = 128
    smoothstep: bool = False

    @functools.cached_property
    def grid(self) -> GridSpec:
        # A hair less, or rounding makes the finest level one cell too fine.
        growth = max((self.finest / self.coarsest * (1.0 - 1e-9)) ** (1.0 / max(self.levels - 1, 1)), 1.0)
        return GridSpec.make(
            self.dims, self.levels, self.features, self.log2_table, self.coarsest, growth, self.smoothstep
        )

    @property
    def channels(self) -> int:
        return self.grid.channels

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        """x `[s n d]` in [0, 1], or packed with counts -> `[s n l*f]`."""
        return ops.hash_encode(x, weights[TABLE], self.grid, counts=counts)


@dataclasses.dataclass(frozen=True)
class HashGrid(_Grid):
    """A multi-resolution hash grid whose table all scenes share (Mueller et al. 2022)."""

    @property
    def spec(self) -> dict[str, WeightEntry]:
        shape = (self.grid.rows, self.features)
        return {TABLE: WeightEntry(shape, self.features, 0.1, "shared")}


@dataclasses.dataclass(frozen=True)
class FactoredGrid(_Grid):
    """A hash grid of each scene's own: `bases` shared tables, mixed per level by the latent.

    Every scene then owns a plain hash-grid table. A linear head that emits a whole table is this with as many bases
    as it has inputs (HyP-NeRF); shared bases with local coefficients are Factor Fields (Chen et al. 2023).
    """

    bases: int = 16

    @property
    def spec(self) -> dict[str, WeightEntry]:
        shape = (self.grid.rows, self.features)
        return {TABLE: WeightEntry(shape, self.features, 0.1, "factored", self.bases, self.grid.offsets)}


Encoding = Identity | Fourier | HashGrid | FactoredGrid
