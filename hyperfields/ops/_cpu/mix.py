"""`mix`: a table a scene from bases that all share, `out[s] = sum_k coefficients[s, g, k] bases[k]` in each group g.

A task is some columns: their bases are read once for all scenes, and once more backward together with the cotangents.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.batched_mlp import TILE, multiply, outer, pad4
from hyperfields.ops._cpu.tasks import U, parallel
from hyperfields.ops.timing import stage

_PIECE = 2048  # columns of a task, at most


@njit(nogil=True, cache=True, error_model="numpy")
def _load_columns(matrix, begin, end, tile):
    """tile[i, p] = matrix[i, begin + p]; zeros beyond the end."""
    count, width = U(end - begin), U(matrix.shape[1])
    flat, zero = matrix.reshape(-1), matrix.dtype.type(0.0)
    for i in range(U(matrix.shape[0])):
        source, target = i * width + U(begin), i * TILE
        for p in range(count):
            tile[target + p] = flat[source + p]
        for p in range(count, TILE):
            tile[target + p] = zero


@njit(nogil=True, cache=True, error_model="numpy")
def _store_columns(tile, begin, end, matrix):
    """matrix[i, begin + p] = tile[i, p]."""
    count, width = U(end - begin), U(matrix.shape[1])
    flat = matrix.reshape(-1)
    for i in range(U(matrix.shape[0])):
        source, target = i * TILE, i * width + U(begin)
        for p in range(count):
            flat[target + p] = tile[source + p]


@njit(nogil=True, cache=True, error_model="numpy")
def _mix(weights, bases, out, pieces, rows, columns, lo, hi):
    """weights [g, rows*columns]: a matrix of scenes by bases a group, padded."""
    x, y = np.zeros(columns * int(TILE), bases.dtype), np.empty(rows * int(TILE), bases.dtype)
    for number in range(lo, hi):
        group, start, stop = pieces[number]
        for begin in range(start, stop, int(TILE)):
            end = min(begin + int(TILE), stop)
            _load_columns(bases, begin, end, x)
            y[:] = 0.0
            multiply(weights[group], 0, x, 0, y, 0, rows, columns)
            _store_columns(y, begin, end, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _unmix(flipped, bases, grad, grad_bases, partial, pieces, rows, columns, lo, hi):
    """flipped [g, columns*rows]: bases by scenes. partial [pieces, rows*columns] gets the gradient of the weights."""
    x, d_x = np.zeros(columns * int(TILE), bases.dtype), np.empty(columns * int(TILE), bases.dtype)
    d_y = np.zeros(rows * int(TILE), bases.dtype)
    for number in range(lo, hi):
        group, start, stop = pieces[number]
        for begin in range(start, stop, int(TILE)):
            end = min(begin + int(TILE), stop)
            _load_columns(bases, begin, end, x)
            _load_columns(grad, begin, end, d_y)
            d_x[:] = 0.0
            multiply(flipped[group], 0, d_y, 0, d_x, 0, columns, rows)
            _store_columns(d_x, begin, end, grad_bases)
            outer(d_y, 0, x, 0, partial[number], 0, rows, columns)


@functools.lru_cache
def _pieces(groups: tuple[int, ...]) -> np.ndarray:
    """Rows (group, begin, end) that cover the columns of all groups."""
    pieces = [
        (group, begin, min(begin + _PIECE, end))
        for group, (start, end) in enumerate(itertools.pairwise(groups))
        for begin in range(start, end, _PIECE)
    ]
    return np.array(pieces, np.int64).reshape(-1, 3)


def _padded(matrices: Tensor) -> np.ndarray:
    """`[g i j]` -> numpy `[g, i*j]`, with zeros up to multiples of 4."""
    groups, rows, columns = matrices.shape
    padded = matrices.new_zeros(groups, pad4(rows), pad4(columns))
    padded[:, :rows, :columns] = matrices
    return padded.numpy().reshape(groups, -1)


@torch.library.custom_op("hyperfields::mix_cpu", mutates_args=())
def mix_cpu(coefficients: Tensor, bases: Tensor, groups: list[int]) -> Tensor:
    """coefficients [s g k], bases [k n], groups: where each begins among the n columns, and the end -> [s n]."""
    scenes, _, count = coefficients.shape
    out = bases.new_empty(scenes, bases.shape[1])
    weights = _padded(coefficients.detach().transpose(0, 1))
    inputs, result, pieces = bases.detach().contiguous().numpy(), out.numpy(), _pieces(tuple(groups))
    parallel(
        lambda lo, hi: _mix(weights, inputs, result, pieces, pad4(scenes), pad4(count), lo, hi), len(pieces)
    )  # fmt: skip
    return out


@torch.library.custom_op("hyperfields::mix_cpu_backward", mutates_args=())
def mix_cpu_backward(grad: Tensor, coefficients: Tensor, bases: Tensor, groups: list[int]) -> tuple[Tensor, Tensor]:
    scenes, _, count = coefficients.shape
    rows, columns = pad4(scenes), pad4(count)
    flipped = _padded(coefficients.detach().permute(1, 2, 0))
    inputs, cotangent = (t.detach().contiguous().numpy() for t in (bases, grad))
    grad_bases, pieces = torch.empty_like(bases, memory_format=torch.contiguous_format), _pieces(tuple(groups))
    partial = np.zeros((len(pieces), rows * columns), inputs.dtype)
    result = grad_bases.numpy()
    parallel(
        lambda lo, hi: _unmix(flipped, inputs, cotangent, result, partial, pieces, rows, columns, lo, hi), len(pieces)
    )  # fmt: skip
    total = bases.new_zeros(len(groups) - 1, rows, columns)
    total.index_add_(0, torch.from_numpy(pieces[:, 0]), torch.from_numpy(partial).reshape(-1, rows, columns))
    return total[:, :scenes, :count].transpose(0, 1).contiguous(), grad_bases


@mix_cpu.register_fake
def _(coefficients, bases, groups):
    return bases.new_empty(coefficients.shape[0], bases.shape[1])


@mix_cpu_backward.register_fake
def _(grad, coefficients, bases, groups):
    return coefficients.new_empty(coefficients.shape), bases.new_empty(bases.shape)


def _mix_context(ctx, inputs, output):
    coefficients, bases, ctx.groups = inputs
    ctx.save_for_backward(coefficients, bases)


@stage("mix, backward")
def _mix_backward(ctx, grad):
    return *mix_cpu_backward(grad, *ctx.saved_tensors, ctx.groups), None


mix_cpu.register_autograd(_mix_backward, setup_context=_mix_context)
