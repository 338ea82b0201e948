"""`combine_bases`: a table a scene from shared bases, `out[s] = sum_k coefficients[s, g, k] bases[k]` in each group g.

A task is some columns: their bases are read once for all scenes, and once more backward together with the cotangents.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numba import carray, njit
from torch import Tensor

from hyperfields.ops._cpu.addresses import addresses_of, contiguous, pointer
from hyperfields.ops._cpu.mlp import TILE, multiply, outer
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import parallel
from hyperfields.ops._cpu.vectors import u64
from hyperfields.ops.profiling import region

BASIS_COLUMNS = 2048  # columns of a task, at most


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def load_columns(matrix, rows, width, begin, end, tile):
    """tile[i, p] = matrix[i, begin + p], of a flat matrix [rows*width]; zeros beyond the end."""
    count, zero = u64(end - begin), matrix.dtype.type(0.0)
    for i in range(u64(rows)):
        source, target = i * u64(width) + u64(begin), i * TILE
        for p in range(count):
            tile[target + p] = matrix[source + p]
        for p in range(count, TILE):
            tile[target + p] = zero


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def store_columns(tile, rows, width, begin, end, matrix):
    """matrix[i, begin + p] = tile[i, p]."""
    count = u64(end - begin)
    for i in range(u64(rows)):
        source, target = i * TILE, i * u64(width) + u64(begin)
        for p in range(count):
            matrix[target + p] = tile[source + p]


@njit(nogil=True, cache=True, error_model="numpy")
def _combine(weights, bases, widths, firsts, pieces, out, scenes, count):
    """weights [g, rows*columns]: scenes by bases, padded. bases [g]: addresses. out [scenes*n]."""
    rows, columns = padded(scenes), padded(count)
    x, y = np.zeros(columns * int(TILE), out.dtype), np.empty(rows * int(TILE), out.dtype)
    for number in range(pieces.shape[0]):
        group = pieces[number, 0]
        shared, first, all_columns = (
            carray(pointer(bases[group], out), count * widths[group]),
            firsts[group],
            firsts[-1],
        )
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_columns(shared, count, widths[group], begin, end, x)
            y[:] = 0.0
            multiply(weights[group], 0, x, 0, y, 0, rows, columns)
            store_columns(y, scenes, all_columns, first + begin, first + end, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _combine_backward(transposed, bases, grad, widths, firsts, pieces, partial, scenes, count):
    """transposed [g, columns*rows]: bases by scenes. bases [2, g]: addresses, of the gradients, too. grad [scenes*n].

    partial [pieces, rows*columns] gets the gradient of the weights.
    """
    rows, columns = padded(scenes), padded(count)
    x, d_x = np.zeros(columns * int(TILE), grad.dtype), np.empty(columns * int(TILE), grad.dtype)
    d_y = np.zeros(rows * int(TILE), grad.dtype)
    for number in range(pieces.shape[0]):
        group = pieces[number, 0]
        size, first, all_columns = count * widths[group], firsts[group], firsts[-1]
        shared, result = carray(pointer(bases[0, group], grad), size), carray(pointer(bases[1, group], grad), size)
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_columns(shared, count, widths[group], begin, end, x)
            load_columns(grad, scenes, all_columns, first + begin, first + end, d_y)
            d_x[:] = 0.0
            multiply(transposed[group], 0, d_y, 0, d_x, 0, columns, rows)
            store_columns(d_x, count, widths[group], begin, end, result)
            outer(d_y, 0, x, 0, partial[number], 0, rows, columns)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def padded(size):
    return (size + 3) // 4 * 4


@njit(nogil=True, cache=True, error_model="numpy")
def _by_group(values, transposed):
    """values [s g k] -> [g, s*k], or [g, k*s] transposed, with zeros up to multiples of 4."""
    scenes, groups, count = values.shape
    rows, columns = padded(scenes), padded(count)
    found = np.zeros((groups, rows * columns), values.dtype)
    for group in range(groups):
        for s in range(scenes):
            for k in range(count):
                found[group, k * rows + s if transposed else s * columns + k] = values[s, group, k]
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _sums(partial, pieces, total):
    """Adds the pieces [pieces, s*k] of each group to total [s g k], always in the same order."""
    scenes, _, count = total.shape
    columns = padded(count)
    for number in range(pieces.shape[0]):
        group = pieces[number, 0]
        for s in range(scenes):
            for k in range(count):
                total[s, group, k] += partial[number, s * columns + k]


@functools.lru_cache
def plan(sizes: tuple[int, ...], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces (group, begin, end) that cover the columns of all groups, the groups' sizes, and the first column of each
    among those of all, and the end.
    """
    pieces = [
        (group, begin, min(begin + most, size)) for group, size in enumerate(sizes) for begin in range(0, size, most)
    ]
    firsts = np.array([0, *itertools.accumulate(sizes)], np.int64)
    return np.array(pieces, np.int64).reshape(-1, 3), np.array(sizes, np.int64), firsts


def by_group(values: Tensor, transposed: bool = False) -> np.ndarray:
    """Numbers `[s g k]` as padded matrices `[g, s*k]`, or `[g, k*s]`."""
    matrices: np.ndarray = _by_group(values.detach().contiguous().numpy(), transposed)
    return matrices


def of_groups(partial: np.ndarray, pieces: np.ndarray, values: Tensor) -> Tensor:
    """Sums over the pieces of each group, from padded matrices `[pieces, s*k]`: shaped as `values` `[s g k]`."""
    total = values.new_zeros(values.shape)
    _sums(partial, pieces, total.numpy())
    return total


def combine_bases_cpu(coefficients: Tensor, *bases: Tensor) -> Tensor:
    """Sums [s n]; coefficients [s g k], bases [k n] of each group."""
    scenes, _, count = coefficients.shape
    pieces, widths, firsts = plan(tuple(part.shape[1] for part in bases), BASIS_COLUMNS)
    out = coefficients.new_empty(scenes, int(firsts[-1]))
    weights, inputs, result = by_group(coefficients), contiguous(bases), out.numpy().reshape(-1)
    places = addresses_of(inputs)[0]

    def task(lo: int, hi: int) -> None:
        _combine(weights, places, widths, firsts, pieces[lo:hi], result, scenes, count)

    parallel(task, len(pieces))
    return out


def combine_bases_cpu_backward(grad: Tensor, coefficients: Tensor, *bases: Tensor) -> list[Tensor]:
    """The gradients of the coefficients and of all bases."""
    scenes, _, count = coefficients.shape
    pieces, widths, firsts = plan(tuple(part.shape[1] for part in bases), BASIS_COLUMNS)
    transposed, cotangent = by_group(coefficients, True), grad.detach().contiguous().numpy().reshape(-1)
    grads, inputs = [part.new_empty(part.shape) for part in bases], contiguous(bases)
    places, partial = addresses_of(inputs, grads), np.zeros((len(pieces), transposed.shape[1]), cotangent.dtype)

    def task(lo: int, hi: int) -> None:
        _combine_backward(
            transposed, places, cotangent, widths, firsts, pieces[lo:hi], partial[lo:hi], scenes, count
        )  # fmt: skip

    parallel(task, len(pieces))
    return [of_groups(partial, pieces, coefficients), *grads]


def _context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("combine_bases, backward")
def _backward(ctx, grad):
    return tuple(combine_bases_cpu_backward(grad, *ctx.saved_tensors))


combine_bases_cpu = differentiable(combine_bases_cpu, _context, _backward)
