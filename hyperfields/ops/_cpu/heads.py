"""`linear_heads`: a task is some outputs of a head for all scenes, in the tiles of `batched_mlp`."""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.basis import by_group, load_columns, of_groups, padded, plan, store_columns
from hyperfields.ops._cpu.mlp import TILE, load_tile, multiply, outer, pad4, store_tile
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.vectors import u64
from hyperfields.ops.profiling import region

OUTPUTS = 512  # of a task, at most


@njit(nogil=True, cache=True, error_model="numpy")
def _heads(codes, weight, bias, out, first, pieces, rows, columns, width):
    """codes [rows*columns]: scenes by numbers of a code, padded. first: the column of `out` where the head begins."""
    x, y = np.empty(columns * int(TILE), out.dtype), np.empty(rows * int(TILE), out.dtype)
    for number in range(pieces.shape[0]):
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_tile(weight, begin, end - begin, width, x)
            for row in range(u64(rows)):
                for p in range(u64(end - begin)):
                    y[row * TILE + p] = bias[u64(begin) + p]
                for p in range(u64(end - begin), TILE):
                    y[row * TILE + p] = 0.0
            multiply(codes, 0, x, 0, y, 0, rows, columns)
            store_columns(y, first + begin, first + end, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _heads_backward(
    transposed, weight, grad, grad_weight, grad_bias, partial, first, pieces, rows, columns, width
):  # fmt: skip
    """transposed [columns*rows]: numbers of a code by scenes. partial [pieces, rows*columns]: gradient of the codes."""
    x, d_x = np.empty(columns * int(TILE), grad.dtype), np.empty(columns * int(TILE), grad.dtype)
    d_y = np.zeros(rows * int(TILE), grad.dtype)
    for number in range(pieces.shape[0]):
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_tile(weight, begin, end - begin, width, x)
            load_columns(grad, first + begin, first + end, d_y)
            d_x[:] = 0.0
            multiply(transposed, 0, d_y, 0, d_x, 0, columns, rows)
            store_tile(d_x, begin, end - begin, width, grad_weight)
            outer(d_y, 0, x, 0, partial[number], 0, rows, columns)
            for p in range(u64(end - begin)):
                total = grad.dtype.type(0.0)
                for row in range(u64(grad.shape[0])):
                    total += d_y[row * TILE + p]
                grad_bias[u64(begin) + p] = total


def linear_heads_cpu(codes: Tensor, *heads: Tensor) -> Tensor:
    """Outputs [s n]; codes [s g k], heads: the weights [n k] of the g of them, then the biases [n]."""
    scenes, groups, width = codes.shape
    pieces, starts = plan(tuple(len(weight) for weight in heads[:groups]), OUTPUTS)
    out = codes.new_empty(scenes, starts[-1])
    rows, result = padded(codes.detach().transpose(0, 1)), out.numpy()
    inputs = [part.detach().contiguous().numpy().reshape(-1) for part in heads]

    def task(group: int, lo: int, hi: int) -> None:
        _heads(
            rows[group], inputs[group], inputs[groups + group], result, starts[group], pieces[lo:hi], pad4(scenes),
            pad4(width), width,
        )  # fmt: skip

    by_group(task, pieces, 4 * out.numel())
    return out


def linear_heads_cpu_backward(grad: Tensor, codes: Tensor, *heads: Tensor) -> list[Tensor]:
    """The gradients of codes, weights and biases."""
    scenes, groups, width = codes.shape
    rows, columns = pad4(scenes), pad4(width)
    pieces, starts = plan(tuple(len(weight) for weight in heads[:groups]), OUTPUTS)
    transposed, cotangent = padded(codes.detach().permute(1, 2, 0)), grad.detach().contiguous().numpy()
    grads = [part.new_empty(part.shape) for part in heads]
    inputs = [part.detach().contiguous().numpy().reshape(-1) for part in heads[:groups]]
    results = [part.numpy().reshape(-1) for part in grads]
    partial = np.zeros((len(pieces), rows * columns), cotangent.dtype)

    def task(group: int, lo: int, hi: int) -> None:
        _heads_backward(
            transposed[group], inputs[group], cotangent, results[group], results[groups + group], partial[lo:hi],
            starts[group], pieces[lo:hi], rows, columns, width,
        )  # fmt: skip

    by_group(task, pieces, 8 * grad.numel())
    return [of_groups(partial, pieces, codes), *grads]


def _context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("linear_heads, backward")
def _backward(ctx, grad):
    return tuple(linear_heads_cpu_backward(grad, *ctx.saved_tensors))


linear_heads_cpu = differentiable(linear_heads_cpu, _context, _backward)
