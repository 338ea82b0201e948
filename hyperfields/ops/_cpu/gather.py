"""Rows of two tables in any order, reads that wait for memory; and rays of pixels. On all threads."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.threads import parallel


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _copy(table, row, full, out, i):
    """True if the table has the row, which then is `out[i]`."""
    if row < 0 or row >= table.shape[0]:
        return False
    for j in range(table.shape[1]):
        out[i, j] = np.float32(table[row, j]) / full
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(first, first_each, first_full, second, second_each, second_full, scenes, index, x, y, lo, hi):
    """Pairs of scenes lo ... hi; returns how many there are not."""
    missing, count = 0, index.shape[1]
    for s in range(lo, hi):
        for k in range(count):
            i = s * count + k
            a = _copy(first, scenes[s] * first_each + index[s, k], first_full, x, i)
            b = _copy(second, scenes[s] * second_each + index[s, k], second_full, y, i)
            if not (a and b):
                missing += 1
    return missing


def gather_pairs_cpu(
    first: tuple[Tensor, int], second: tuple[Tensor, int], scenes: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows `scene * each + index` of tables [k c] -> [s n c] float32; scenes [s], index [s n] int64.

    Raises:
        IndexError: a row that a table has not.
    """
    results = [torch.empty(*index.shape, table.shape[1]) for table, _ in (first, second)]
    x, y = (result.view(-1, result.shape[-1]).numpy() for result in results)
    tables = [
        part
        for table, each in (first, second)
        for part in (table.detach().numpy(), each, np.float32(255.0 if table.dtype == torch.uint8 else 1.0))
    ]
    owners, rows = scenes.numpy(), index.contiguous().numpy()
    missing: list[int] = []

    def task(lo: int, hi: int) -> None:
        missing.append(_gather(*tables, owners, rows, x, y, lo, hi))

    parallel(task, len(owners), 4 * (x.size + y.size))  # a read from anywhere takes as long as several
    if any(missing):
        raise IndexError(f"rows: {sum(missing)} of {index.numel()} are not in the tables")
    return results[0], results[1]


@njit(nogil=True, cache=True, error_model="numpy")
def _pixel_rays(tables, widths, image, pixel, origins, directions, lo, hi):
    half, one = tables.dtype.type(0.5), tables.dtype.type(1.0)
    for i in range(lo, hi):
        number, width = image[i], widths[image[i]]
        row = pixel[i] // width
        u, v, square = np.float32(pixel[i] - row * width) + half, np.float32(row) + half, np.float32(0.0)
        for axis in range(3):
            along = tables[number, 6 + axis] + tables[number, axis] * u + tables[number, 3 + axis] * v
            directions[i, axis], origins[i, axis] = along, tables[number, 9 + axis]
            square += along * along
        scale = one / np.sqrt(square)
        for axis in range(3):
            directions[i, axis] *= scale


def pixel_rays_cpu(tables: Tensor, widths: Tensor, image: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [m 3]; tables [p 12] float32, widths [p] int32, image [m] int64, pixel [m] int32."""
    rays = torch.empty(len(pixel), 3), torch.empty(len(pixel), 3)
    arrays = [part.numpy() for part in (tables, widths, image, pixel, *rays)]
    parallel(lambda lo, hi: _pixel_rays(*arrays, lo, hi), len(pixel), 16 * len(pixel))
    return rays
