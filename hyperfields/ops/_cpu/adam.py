"""Adam: all dense parameters in one call, and the rows of a table that have a gradient.

A task is some thousands of numbers of one tensor, read and written once. Rounding is that of torch's fused Adam,
product by product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import carray, njit
from numba.extending import intrinsic
from torch import Tensor

from hyperfields.ops._cpu.addresses import addresses_of, like_of, pointer
from hyperfields.ops._cpu.threads import FAST, U, parallel

_PIECE = 2**14  # numbers of a task, at most
_BLOCK = 2**10  # numbers whose squares are added up at their own precision


@intrinsic
def _muladd(typing, a, b, c):
    """a * b + c, rounded once where the processor can."""

    def call(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        function = builder.module.declare_intrinsic("llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, args)

    return a(a, a, a), call


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _sum_of_squares(pieces, addresses, like, sums):
    """sums [pieces], in float64; blocks of a piece are added up as they come."""
    zero = like.dtype.type(0.0)
    for number in range(pieces.shape[0]):
        total = 0.0
        for begin in range(pieces[number, 1], pieces[number, 2], _BLOCK):
            count = min(pieces[number, 2] - begin, _BLOCK)
            values = carray(pointer(addresses[0, pieces[number, 0]] + begin * like.itemsize, like), count)
            part = zero
            for i in range(U(count)):
                part += values[i] * values[i]
            total += np.float64(part)
        sums[number] = total


@njit(nogil=True, cache=True, error_model="numpy")
def _adam(pieces, addresses, settings, like):
    """addresses [4, tensors]: gradients, parameters, first and second moments. settings [tensors, 5]."""
    for number in range(pieces.shape[0]):
        tensor, begin, size = pieces[number, 0], pieces[number, 1], pieces[number, 2] - pieces[number, 1]
        offset = begin * like.itemsize
        grads = carray(pointer(addresses[0, tensor] + offset, like), size)
        params = carray(pointer(addresses[1, tensor] + offset, like), size)
        means = carray(pointer(addresses[2, tensor] + offset, like), size)
        squares = carray(pointer(addresses[3, tensor] + offset, like), size)
        length, root = like.dtype.type(settings[tensor, 0]), like.dtype.type(settings[tensor, 1])
        eps = like.dtype.type(settings[tensor, 2])
        c1, c2 = like.dtype.type(1.0 - settings[tensor, 3]), like.dtype.type(1.0 - settings[tensor, 4])
        b2 = like.dtype.type(settings[tensor, 4])
        for i in range(U(size)):
            grad = grads[i]
            mean = _muladd(c1, grad - means[i], means[i])
            square = _muladd(c2 * grad, grad, squares[i] * b2)
            means[i], squares[i] = mean, square
            params[i] -= length * mean / (np.sqrt(square) / root + eps)


@njit(nogil=True, cache=True, error_model="numpy")
def _row_adam(order, rows, grads, table, means, squares, settings):
    """order: entries by their row; gradients of the same row are added up in that order first."""
    length, eps = table.dtype.type(settings[0]), table.dtype.type(settings[1])
    c1, c2 = table.dtype.type(1.0 - settings[2]), table.dtype.type(1.0 - settings[3])
    total = np.empty(table.shape[1], table.dtype)
    first = 0
    while first < order.shape[0]:
        row = rows[order[first]]
        total[:] = grads[order[first]]
        first += 1
        while first < order.shape[0] and rows[order[first]] == row:
            total += grads[order[first]]
            first += 1
        for i in range(U(total.shape[0])):
            grad = total[i]
            mean = _muladd(c1, grad - means[row, i], means[row, i])
            square = _muladd(c2, grad * grad - squares[row, i], squares[row, i])
            means[row, i], squares[row, i] = mean, square
            table[row, i] -= length * mean / (np.sqrt(square) + eps)


@njit(nogil=True, cache=True, error_model="numpy")
def _advance(addresses, like, steps):
    """Adds one to the number at each address; steps: what they then are."""
    for i in range(addresses.shape[0]):
        value = carray(pointer(addresses[i], like), 1)
        value[0] += like.dtype.type(1.0)
        steps[i] = value[0]


@functools.lru_cache
def _pieces(sizes: tuple[int, ...]) -> np.ndarray:
    """Rows (tensor, begin, end) that cover all numbers."""
    rows = [(t, begin, min(begin + _PIECE, size)) for t, size in enumerate(sizes) for begin in range(0, size, _PIECE)]
    return np.array(rows, np.int64).reshape(-1, 3)


def gradient_norm_cpu(gradients: Sequence[Tensor]) -> float:
    """Euclidean norm of contiguous tensors of one dtype together. Parts are added up in float64, in a fixed order."""
    pieces, addresses, like = (
        _pieces(tuple(g.numel() for g in gradients)),
        addresses_of(gradients),
        like_of(gradients[0]),
    )
    sums = np.empty(len(pieces))

    def task(lo: int, hi: int) -> None:
        _sum_of_squares(pieces[lo:hi], addresses, like, sums[lo:hi])

    parallel(task, len(pieces), sum(g.numel() for g in gradients) // 4)  # read once: quicker than most ops
    return float(np.sqrt(sums.sum()))


def advance_cpu(steps: Sequence[Tensor]) -> list[float]:
    """Numbers of a step, float32 `[]` each, which are one more than they were."""
    numbers = np.empty(len(steps))
    _advance(addresses_of(steps)[0], like_of(steps[0]), numbers)
    return numbers.tolist()


def adam_cpu(
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    settings: Sequence[tuple[float, float, float, float, float]],
) -> None:
    """A step in place, for contiguous tensors of one dtype.

    settings: of each tensor (rate / (1 - b1^t), sqrt(1 - b2^t), eps, b1, b2).
    """
    pieces, addresses = (
        _pieces(tuple(g.numel() for g in gradients)),
        addresses_of(gradients, parameters, means, squares),
    )
    values, like = np.array(settings, np.float64), like_of(gradients[0])

    def task(lo: int, hi: int) -> None:
        _adam(pieces[lo:hi], addresses, values, like)

    parallel(task, len(pieces), 4 * sum(g.numel() for g in gradients))  # roots and quotients


def row_adam_cpu(
    rows: Tensor, gradients: Tensor, table: Tensor, means: Tensor, squares: Tensor, settings: tuple[float, ...]
) -> None:
    """A step in place of some rows `[k]` of a table, with gradients `[k z]`; rows may come more than once.

    settings: (rate * sqrt(1 - b2^t) / (1 - b1^t), eps, b1, b2).
    """
    numbers = rows.numpy()
    _row_adam(
        np.argsort(numbers, kind="stable"), numbers, gradients.numpy(), table.detach().numpy(), means.numpy(),
        squares.numpy(), np.array(settings),
    )  # fmt: skip
