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


@dataclasses.dataclass(frozen=True)
class GridSpec:
    """Everything that decides where a point looks in a table. Scales are stored, never recomputed.

    `exp2` differs by an ulp between machines, so a checkpoint keeps `scales` and not how they were made.
    """

    dims: int
    features: int
    scales: tuple[float, ...]  # one a level
    resolutions: tuple[int, ...]
    offsets: tuple[int, ...]  # levels + 1 numbers; the last one is the number of rows
    smoothstep: bool = False

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
        scales = tuple(2.0 ** (level * math.log2(per_level_scale)) * base_resolution - 1.0 for level in range(levels))
        resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
        offsets = [0]
        for resolution in resolutions:
            rows = min((resolution**dims + 7) // 8 * 8, 2**log2_table)
            offsets.append(offsets[-1] + rows)
        return GridSpec(dims, features, scales, resolutions, tuple(offsets), smoothstep)

    def close_to(self, other: GridSpec) -> bool:
        """Whether both have the same layout, up to the rounding of scales on another machine."""
        return dataclasses.replace(self, scales=other.scales) == other and all(
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
        """Whether every vertex of the level has a row of its own."""
        vertices: int = self.resolutions[level] ** self.dims
        return self.offsets[level + 1] - self.offsets[level] >= vertices
