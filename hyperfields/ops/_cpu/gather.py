"""Rows of tables in any order, reads that wait for memory; and rays of pixels. On all threads."""

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


@njit(nogil=True, cache=True, error_model="numpy")
def _drawn_pixels(drawn, counts, first, scenes, chosen, valid, pixels, starts, area, packed, image, pixel, lo, hi):
    """Draws lo ... hi of all; returns how many there are not. chosen: only the pixels `valid` count."""
    each, missing = drawn.shape[0] // max(scenes.shape[0], 1), 0
    for i in range(lo, hi):
        scene = scenes[i // each]
        if scene < 0 or scene >= counts.shape[0]:
            missing += 1
            continue
        index = np.int64(drawn[i] * np.float64(counts[scene])) + first[scene]
        if chosen:
            index = valid[index] if 0 <= index < valid.shape[0] else -1
        if index < 0 or index >= pixels.shape[0]:
            missing += 1
            continue
        if area:
            number = index // area
        else:
            number, last = 0, starts.shape[0]  # starts[number] <= index < starts[last]
            while last - number > 1:
                middle = (number + last) // 2
                if starts[middle] <= index:
                    number = middle
                else:
                    last = middle
        packed[i], image[i], pixel[i] = pixels[index], number, index - starts[number]
    return missing


def drawn_pixels_cpu(
    drawn: Tensor, counts: Tensor, first: Tensor, scenes: Tensor, valid: Tensor | None, pixels: Tensor, starts: Tensor,
    area: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Pixels [m], int32, of which picture [m], int64, and where in it [m], int32; drawn [s n] float64 in [0, 1).

    Raises:
        IndexError: a pixel that there is not.
    """
    none = torch.empty(0, dtype=torch.int64)
    results = [drawn.new_empty(drawn.numel(), dtype=dtype) for dtype in (torch.int32, torch.int64, torch.int32)]
    arrays = [part.numpy() for part in (drawn.reshape(-1), counts, first, scenes)]
    rest = (
        valid is not None,
        (none if valid is None else valid).numpy(),
        pixels.numpy(),
        starts.numpy(),
        area or 0,
        *(part.numpy() for part in results),
    )
    missing: list[int] = []
    parallel(
        lambda lo, hi: missing.append(_drawn_pixels(*arrays, *rest, lo, hi)), drawn.numel(), 16 * drawn.numel()
    )  # fmt: skip
    if any(missing):
        raise IndexError(f"pixels: {sum(missing)} of {drawn.numel()} that were drawn are not there")
    return results[0], results[1], results[2]
