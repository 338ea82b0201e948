"""`keep_densities`: a task is a scene."""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.threads import parallel


@njit(nogil=True, cache=True, error_model="numpy")
def _keep(density, occupied, peak, scenes, cells, new, decay, limit, lo, hi):
    for number in range(lo, hi):
        row, flags = density[scenes[number]], occupied[scenes[number]]
        for k in range(len(cells)):
            old, told = row[cells[k]], new[number, k]
            kept = old * decay
            row[cells[k]] = told if np.isinf(old) or told > kept or told != told else kept  # NaN stays one
        total, most = 0.0, row[0]
        for value in row:
            total += value
            most = value if value > most or value != value else most
        peak[scenes[number]] = most
        mean = row.dtype.type(total / len(row))
        bound = limit if mean > limit else mean
        for k in range(len(cells)):
            flags[cells[k]] = row[cells[k]] >= bound


def keep_densities_cpu(
    density: Tensor, occupied: Tensor, peak: Tensor, scenes: Tensor, cells: Tensor, new: Tensor, decay: float,
    limit: float,
) -> None:  # fmt: skip
    """See `ops.keep_densities`; all contiguous."""
    arrays = [part.numpy() for part in (density, occupied, peak, scenes, cells, new)]
    settings = arrays[0].dtype.type(decay), arrays[0].dtype.type(limit)
    parallel(lambda lo, hi: _keep(*arrays, *settings, lo, hi), len(scenes), len(scenes) * density.shape[1])
