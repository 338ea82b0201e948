"""The multi-resolution grid, exactly: tiny-cuda-nn's convention, so that tables move between backends.

    scale_l  = base_resolution * per_level_scale^l - 1          resolution_l = ceil(scale_l) + 1
    rows_l   = min(roundup8(resolution_l^D), 2^log2_table)      offset_l     = sum of rows_k, k < l
    position = x * scale_l + 0.5;  cell g = floor(position);  weight w = position - g
    row      = sum_d g_d * resolution_l^d when dense (rows_l >= resolution_l^D), else XOR_d g_d * prime_d; mod rows_l

Source: Mueller et al. 2022, "Instant neural graphics primitives", section 3, and the layout of its public kernels.
"""

from __future__ import annotations

import dataclasses
import math

PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


@dataclasses.dataclass(frozen=True)
class GridSpec:
    """Layout of a table: everything that decides which rows belong to a point. Scales are stored, never recomputed.

    `exp2` differs by an ulp between machines, so a checkpoint keeps `scales` and not how they were made.
    """

    dims: int
    features: int
    scales: tuple[float, ...]  # one a level
    resolutions: tuple[int, ...]
    offsets: tuple[int, ...]  # levels + 1 numbers; the last one is the number of rows
    smoothstep: bool = False

    def __post_init__(self) -> None:
        """Refuses what a kernel could not follow: they read and write tables by these numbers, without a check.

        Raises:
            ValueError: the first number that does not fit, and what would.
        """
        if not _whole(self.dims) or not 1 <= self.dims <= len(PRIMES):
            raise ValueError(f"grid dims: got {self.dims!r}, wanted 1 to {len(PRIMES)}")
        if not _whole(self.features) or self.features < 1:
            raise ValueError(f"grid features: got {self.features!r}, wanted a whole number, at least 1")
        sequences = (self.scales, self.resolutions, self.offsets)
        if not all(isinstance(sequence, tuple) for sequence in sequences) or not (
            len(self.scales) == len(self.resolutions) == len(self.offsets) - 1 > 0
        ):
            raise ValueError("grid: wanted a scale and a resolution of each level, and one more offset, as tuples")
        if not all(map(_whole, self.resolutions)) or not all(map(_whole, self.offsets)) or self.offsets[0] != 0:
            raise ValueError("grid: wanted whole numbers as resolutions and offsets, the first offset 0")
        for level, (scale, resolution) in enumerate(zip(self.scales, self.resolutions, strict=True)):
            if not isinstance(scale, int | float) or not 0.0 <= scale < 2.0**31 - 2.0:
                raise ValueError(f"grid scales[{level}]: got {scale!r}, wanted a number in [0, 2^31 - 2)")
            if resolution != math.ceil(scale) + 1:
                raise ValueError(
                    f"grid resolutions[{level}]: got {resolution}, wanted {math.ceil(scale) + 1} for a scale of {scale}"
                )
            rows = self.offsets[level + 1] - self.offsets[level]
            if rows < 1 or rows % 8:
                raise ValueError(f"grid level {level}: got {rows} rows, wanted a positive multiple of 8")
            if not self.is_dense(level) and rows & (rows - 1):
                raise ValueError(
                    f"grid level {level}: got {rows} rows for {resolution}^{self.dims} vertices, wanted as many, or a "
                    "power of two to hash into"
                )
        if self.rows * self.features >= 2**31:  # indices in kernels have 32 bits
            raise ValueError(f"grid: got {self.rows} rows of {self.features} numbers, wanted fewer than 2^31 numbers")

    @staticmethod
    def make(
        dims: int,
        levels: int,
        features: int,
        log2_table: int,
        base_resolution: int,
        per_level_scale: float,
        smoothstep: bool = False,
    ) -> GridSpec:
        """Levels from `base_resolution`, each `per_level_scale` finer, with at most `2^log2_table` rows.

        Raises:
            ValueError: when an argument is out of its range.
        """
        if not 1 <= dims <= len(PRIMES):
            raise ValueError(f"grid dims: got {dims}, wanted 1 to {len(PRIMES)}")
        if levels < 1 or features < 1 or log2_table < 3 or base_resolution < 2 or per_level_scale < 1.0:
            raise ValueError(
                f"grid: got levels {levels}, features {features}, log2_table {log2_table}, base_resolution "
                f"{base_resolution}, per_level_scale {per_level_scale}; wanted at least 1, 1, 3, 2 and 1.0"
            )
        if levels > 64 or features > 1024 or log2_table > 30 or base_resolution > 2**30 or per_level_scale > 2.0**30:
            raise ValueError(
                f"grid: got levels {levels}, features {features}, log2_table {log2_table}, base_resolution "
                f"{base_resolution}, per_level_scale {per_level_scale:g}; wanted at most 64, 1024, 30, 2^30 and 2^30"
            )
        scales = tuple(2.0 ** (level * math.log2(per_level_scale)) * base_resolution - 1.0 for level in range(levels))
        resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
        offsets = [0]
        for resolution in resolutions:
            rows = min((resolution**dims + 7) // 8 * 8, 2**log2_table)
            offsets.append(offsets[-1] + rows)
        return GridSpec(dims, features, scales, resolutions, tuple(offsets), smoothstep)

    def close_to(self, other: GridSpec) -> bool:
        """True if both have the same layout, up to the rounding of scales on another machine."""
        mine, theirs = (
            (spec.dims, spec.features, spec.resolutions, spec.offsets, spec.smoothstep) for spec in (self, other)
        )
        return mine == theirs and all(
            math.isclose(a, b, rel_tol=1e-6) for a, b in zip(self.scales, other.scales, strict=True)
        )

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def rows(self) -> int:
        """Rows of a table: its shape is `[rows, features]`."""
        return self.offsets[-1]

    @property
    def channels(self) -> int:
        """Width of the encoding, `levels * features`; column `l * features + f`."""
        return self.levels * self.features

    def is_dense(self, level: int) -> bool:
        """True if every vertex of the level has a row of its own."""
        vertices: int = self.resolutions[level] ** self.dims
        return self.offsets[level + 1] - self.offsets[level] >= vertices
