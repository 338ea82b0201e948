"""`combine_bases`: a table a scene from shared bases, `out[s] = sum_k coefficients[s, g, k] bases[k]` in each group g.

A task is some columns: their bases are read once for all scenes, and once more backward together with the cotangents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.mlp import TILE, multiply, outer, pad4
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import ENOUGH, parallel
from hyperfields.ops._cpu.vectors import u64
from hyperfields.ops.profiling import region

BASIS_COLUMNS = 2048  # columns of a task, at most


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def load_columns(matrix, begin, end, tile):
    """tile[i, p] = matrix[i, begin + p]; zeros beyond the end."""
    count, width = u64(end - begin), u64(matrix.shape[1])
    flat, zero = matrix.reshape(-1), matrix.dtype.type(0.0)
    for i in range(u64(matrix.shape[0])):
        source, target = i * width + u64(begin), i * TILE
        for p in range(count):
            tile[target + p] = flat[source + p]
        for p in range(count, TILE):
            tile[target + p] = zero


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def store_columns(tile, begin, end, matrix):
    """matrix[i, begin + p] = tile[i, p]."""
    count, width = u64(end - begin), u64(matrix.shape[1])
    flat = matrix.reshape(-1)
    for i in range(u64(matrix.shape[0])):
        source, target = i * TILE, i * width + u64(begin)
        for p in range(count):
            flat[target + p] = tile[source + p]


@njit(nogil=True, cache=True, error_model="numpy")
def _combine(weights, bases, out, first, pieces, rows, columns):
    """weights [rows*columns]: scenes by bases, padded. first: the column of `out` where the group begins."""
    x, y = np.zeros(columns * int(TILE), bases.dtype), np.empty(rows * int(TILE), bases.dtype)
    for number in range(pieces.shape[0]):
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_columns(bases, begin, end, x)
            y[:] = 0.0
            multiply(weights, 0, x, 0, y, 0, rows, columns)
            store_columns(y, first + begin, first + end, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _combine_backward_columns(transposed, bases, grad, grad_bases, partial, first, pieces, rows, columns):
    """transposed [columns*rows]: bases by scenes. partial [pieces, rows*columns] gets the gradient of the weights."""
    x, d_x = np.zeros(columns * int(TILE), bases.dtype), np.empty(columns * int(TILE), bases.dtype)
    d_y = np.zeros(rows * int(TILE), bases.dtype)
    for number in range(pieces.shape[0]):
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_columns(bases, begin, end, x)
            load_columns(grad, first + begin, first + end, d_y)
            d_x[:] = 0.0
            multiply(transposed, 0, d_y, 0, d_x, 0, columns, rows)
            store_columns(d_x, begin, end, grad_bases)
            outer(d_y, 0, x, 0, partial[number], 0, rows, columns)


@functools.lru_cache
def plan(sizes: tuple[int, ...], most: int) -> tuple[np.ndarray, list[int]]:
    """Pieces (group, begin, end) that cover the columns of all groups, and the first column of each group."""
    pieces = [
        (group, begin, min(begin + most, size)) for group, size in enumerate(sizes) for begin in range(0, size, most)
    ]
    return np.array(pieces, np.int64).reshape(-1, 3), [0, *itertools.accumulate(sizes)]


def by_group(task: Callable[[int, int, int], None], pieces: np.ndarray, numbers: int = ENOUGH) -> None:
    """Run task(group, lo, hi) over ranges of pieces of one group, in parallel; numbers: see `parallel`."""

    def work(lo: int, hi: int) -> None:
        groups = pieces[lo:hi, 0].tolist()
        for group, members in itertools.groupby(range(lo, hi), lambda number: groups[number - lo]):
            indices = list(members)
            task(group, indices[0], indices[-1] + 1)

    parallel(work, len(pieces), numbers)


def padded(matrices: Tensor) -> np.ndarray:
    """Matrices `[g i j]` as numpy `[g, i*j]`, with zeros up to multiples of 4."""
    groups, rows, columns = matrices.shape
    padded = matrices.new_zeros(groups, pad4(rows), pad4(columns))
    padded[:, :rows, :columns] = matrices
    return padded.numpy().reshape(groups, pad4(rows) * pad4(columns))


def of_groups(partial: np.ndarray, pieces: np.ndarray, like: Tensor) -> Tensor:
    """Sums over the pieces of each group, from padded matrices `[pieces, rows*columns]`: shaped as `like` `[s g k]`."""
    scenes, groups, count = like.shape
    rows, columns = pad4(scenes), pad4(count)
    total = like.new_zeros(groups, rows, columns)
    total.index_add_(0, torch.from_numpy(pieces[:, 0]), torch.from_numpy(partial).reshape(len(pieces), rows, columns))
    return total[:, :scenes, :count].transpose(0, 1).contiguous()


def combine_bases_cpu(coefficients: Tensor, *bases: Tensor) -> Tensor:
    """Sums [s n]; coefficients [s g k], bases [k n] of each group."""
    scenes, _, count = coefficients.shape
    pieces, starts = plan(tuple(part.shape[1] for part in bases), BASIS_COLUMNS)
    out = coefficients.new_empty(scenes, starts[-1])
    weights = padded(coefficients.detach().transpose(0, 1))
    inputs, result = [part.detach().contiguous().numpy() for part in bases], out.numpy()

    def task(group: int, lo: int, hi: int) -> None:
        _combine(weights[group], inputs[group], result, starts[group], pieces[lo:hi], pad4(scenes), pad4(count))

    by_group(task, pieces)
    return out


def combine_bases_cpu_backward(grad: Tensor, coefficients: Tensor, *bases: Tensor) -> list[Tensor]:
    """The gradients of the coefficients and of all bases."""
    scenes, _, count = coefficients.shape
    rows, columns = pad4(scenes), pad4(count)
    pieces, starts = plan(tuple(part.shape[1] for part in bases), BASIS_COLUMNS)
    transposed, cotangent = padded(coefficients.detach().permute(1, 2, 0)), grad.detach().contiguous().numpy()
    grads = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in bases]
    inputs, results = [part.detach().contiguous().numpy() for part in bases], [part.numpy() for part in grads]
    partial = np.zeros((len(pieces), rows * columns), cotangent.dtype)

    def task(group: int, lo: int, hi: int) -> None:
        _combine_backward_columns(
            transposed[group], inputs[group], cotangent, results[group], partial[lo:hi], starts[group], pieces[lo:hi],
            rows, columns,
        )  # fmt: skip

    by_group(task, pieces)
    return [of_groups(partial, pieces, coefficients), *grads]


def _context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("combine_bases, backward")
def _backward(ctx, grad):
    return tuple(combine_bases_cpu_backward(grad, *ctx.saved_tensors))


combine_bases_cpu = differentiable(combine_bases_cpu, _context, _backward)
