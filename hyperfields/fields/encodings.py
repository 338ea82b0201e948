"""Encodings of points and directions. Each is a frozen config with a `spec` and a call; none owns a parameter.

An encoding of your own is a frozen dataclass with the members of `Encoding`. Its tensors are named by its `spec`, say
where they come from (generated, shared, factored), and arrive in the `weights` of the call.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.errors import InputError
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.spherical_harmonics import spherical_harmonics
from hyperfields.weights import WeightEntry, Weights

TABLE = "grid.table"  # the name under which a grid finds its table among the weights


@runtime_checkable
class Encoding(Protocol):
    """Points in [0, 1]^d -> features. An optional attribute `flops` counts the operations for one point (default 0)."""

    @property
    def dims(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def spec(self) -> Mapping[str, WeightEntry]: ...

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        """x `[s n d]`, or packed `[m d]` with counts `[s]` -> `[... channels]`."""
        ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """The coordinates themselves, scaled from [0, 1] to [-1, 1]."""

    dims: int

    @property
    def channels(self) -> int:
        return self.dims

    @property
    def flops(self) -> int:
        return 2 * self.dims

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
    def flops(self) -> int:
        """Operations for one point: the coordinates, and an angle, its sine and its cosine for each frequency."""
        return 2 * self.dims + 3 * self.dims * self.frequencies

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
    """Real spherical harmonics of unit directions of the bands l < `degree`, which is 1 to 4.

    Columns run l = 0 ... degree - 1, m = -l ... l. Source: see `ops/spherical_harmonics.py`.
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
class GridEncoding:
    """Levels in geometric progression from `coarsest` to `finest` cells along a side.

    grid: the exact layout. It follows from the other settings; a run stores it, since `exp2` differs by an ulp between
        machines, and one that was stored decides.
    """

    dims: int
    levels: int = 8
    features: int = 2
    log2_table: int = 12
    coarsest: int = 8
    finest: int = 128
    smoothstep: bool = False
    grid: GridSpec = dataclasses.field(default=None, kw_only=True, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        # A hair less, or rounding makes the finest level one cell too fine.
        growth = max((self.finest / self.coarsest * (1.0 - 1e-9)) ** (1.0 / max(self.levels - 1, 1)), 1.0)
        computed = GridSpec.make(
            self.dims, self.levels, self.features, self.log2_table, self.coarsest, growth, self.smoothstep
        )
        # Of `dataclasses.replace` with other settings the layout is computed anew.
        if self.grid is None or not self.grid.close_to(computed):
            object.__setattr__(self, "grid", computed)

    @property
    def spec(self) -> Mapping[str, WeightEntry]:
        """The table, under the name `TABLE`."""
        raise NotImplementedError(f"{type(self).__name__}.spec")

    @property
    def channels(self) -> int:
        return self.grid.channels

    @property
    def flops(self) -> int:
        """Operations for one point: of each level the cell, corner weights (d - 1 products), a step of the sum."""
        corners: int = 2**self.dims
        return self.levels * (3 * self.dims + corners * (self.dims - 1 + 2 * self.features))

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        """x `[s n d]` in [0, 1], or packed with counts -> `[s n l*f]`."""
        return ops.hash_encode(x, weights[TABLE], self.grid, counts=counts)


@dataclasses.dataclass(frozen=True)
class HashGrid(GridEncoding):
    """A multi-resolution hash grid whose table all scenes share (Mueller et al. 2022)."""

    @property
    def spec(self) -> dict[str, WeightEntry]:
        shape = (self.grid.rows, self.features)
        return {TABLE: WeightEntry(shape, self.features, 0.1, "shared")}


@dataclasses.dataclass(frozen=True)
class FactoredGrid(GridEncoding):
    """A hash grid of each scene's own: `bases` shared tables, combined per level with coefficients from the code.

    Every scene then owns a plain hash-grid table. A linear head that emits a whole table is this with as many bases
    as it has inputs (HyP-NeRF); shared bases with local coefficients are Factor Fields (Chen et al. 2023).
    """

    bases: int = 16

    def __post_init__(self) -> None:
        if self.bases < 1:
            raise InputError(f"FactoredGrid: bases {self.bases}: wanted at least one; HashGrid is a table without")
        super().__post_init__()

    @property
    def spec(self) -> dict[str, WeightEntry]:
        shape = (self.grid.rows, self.features)
        return {TABLE: WeightEntry(shape, self.features, 0.1, "factored", self.bases, self.grid.offsets)}
