"""`linear_heads`: a task is some outputs of a head for all scenes, in the tiles of `batched_mlp`."""

from __future__ import annotations

import numpy as np
from numba import carray, njit
from torch import Tensor

from hyperfields.ops._cpu.addresses import addresses_of, contiguous, pointer
from hyperfields.ops._cpu.basis import by_group, load_columns, of_groups, padded, plan, store_columns
from hyperfields.ops._cpu.mlp import TILE, load_tile, multiply, outer, store_tile
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import parallel
from hyperfields.ops._cpu.vectors import u64
from hyperfields.ops.profiling import region

OUTPUTS = 512  # of a task, at most


@njit(nogil=True, cache=True, error_model="numpy")
def _heads(codes, heads, sizes, firsts, pieces, out, scenes, width):
    """codes [g, rows*columns]: scenes by numbers of a code, padded. heads [g + g]: addresses of weights, then biases.

    out [scenes*n]: outputs of all heads side by side.
    """
    rows, columns, groups = padded(scenes), padded(width), codes.shape[0]
    x, y = np.empty(columns * int(TILE), out.dtype), np.empty(rows * int(TILE), out.dtype)
    for number in range(pieces.shape[0]):
        head = pieces[number, 0]
        weight = carray(pointer(heads[head], out), sizes[head] * width)
        bias, first = carray(pointer(heads[groups + head], out), sizes[head]), firsts[head]
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_tile(weight, begin, end - begin, width, x)
            for row in range(u64(rows)):
                for p in range(u64(end - begin)):
                    y[row * TILE + p] = bias[u64(begin) + p]
                for p in range(u64(end - begin), TILE):
                    y[row * TILE + p] = 0.0
            multiply(codes[head], 0, x, 0, y, 0, rows, columns)
            store_columns(y, scenes, firsts[-1], first + begin, first + end, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _heads_backward(transposed, heads, grad, sizes, firsts, pieces, partial, scenes, width):
    """transposed [g, columns*rows]: numbers of a code by scenes. heads [2, g + g]: addresses, of the gradients, too.

    grad [scenes*n]. partial [pieces, rows*columns] gets the gradient of the codes.
    """
    rows, columns, groups = padded(scenes), padded(width), transposed.shape[0]
    x, d_x = np.empty(columns * int(TILE), grad.dtype), np.empty(columns * int(TILE), grad.dtype)
    d_y = np.zeros(rows * int(TILE), grad.dtype)
    for number in range(pieces.shape[0]):
        head = pieces[number, 0]
        count, first = sizes[head], firsts[head]
        weight, grad_weight = (
            carray(pointer(heads[0, head], grad), count * width),
            carray(pointer(heads[1, head], grad), count * width),
        )
        grad_bias = carray(pointer(heads[1, groups + head], grad), count)
        for begin in range(pieces[number, 1], pieces[number, 2], int(TILE)):
            end = min(begin + int(TILE), pieces[number, 2])
            load_tile(weight, begin, end - begin, width, x)
            load_columns(grad, scenes, firsts[-1], first + begin, first + end, d_y)
            d_x[:] = 0.0
            multiply(transposed[head], 0, d_y, 0, d_x, 0, columns, rows)
            store_tile(d_x, begin, end - begin, width, grad_weight)
            outer(d_y, 0, x, 0, partial[number], 0, rows, columns)
            for p in range(u64(end - begin)):
                total = grad.dtype.type(0.0)
                for row in range(u64(scenes)):
                    total += d_y[row * TILE + p]
                grad_bias[u64(begin) + p] = total


def linear_heads_cpu(codes: Tensor, *heads: Tensor) -> Tensor:
    """Outputs [s n]; codes [s g k], heads: the weights [n k] of the g of them, then the biases [n]."""
    scenes, groups, width = codes.shape
    pieces, sizes, firsts = plan(tuple(len(weight) for weight in heads[:groups]), OUTPUTS)
    out = codes.new_empty(scenes, int(firsts[-1]))
    rows, inputs, result = by_group(codes), contiguous(heads), out.numpy().reshape(-1)
    places = addresses_of(inputs)[0]

    def task(lo: int, hi: int) -> None:
        _heads(rows, places, sizes, firsts, pieces[lo:hi], result, scenes, width)

    parallel(task, len(pieces), 4 * out.numel())
    return out


def linear_heads_cpu_backward(grad: Tensor, codes: Tensor, *heads: Tensor) -> list[Tensor]:
    """The gradients of codes, weights and biases."""
    scenes, groups, width = codes.shape
    pieces, sizes, firsts = plan(tuple(len(weight) for weight in heads[:groups]), OUTPUTS)
    transposed, cotangent = by_group(codes, True), grad.detach().contiguous().numpy().reshape(-1)
    grads, inputs = [part.new_empty(part.shape) for part in heads], contiguous(heads)
    places, partial = addresses_of(inputs, grads), np.zeros((len(pieces), transposed.shape[1]), cotangent.dtype)

    def task(lo: int, hi: int) -> None:
        _heads_backward(transposed, places, cotangent, sizes, firsts, pieces[lo:hi], partial[lo:hi], scenes, width)

    parallel(task, len(pieces), 8 * grad.numel())
    return [of_groups(partial, pieces, codes), *grads]


def _context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("linear_heads, backward")
def _backward(ctx, grad):
    return tuple(linear_heads_cpu_backward(grad, *ctx.saved_tensors))


linear_heads_cpu = differentiable(linear_heads_cpu, _context, _backward)
