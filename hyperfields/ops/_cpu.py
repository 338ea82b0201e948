"""Compiled CPU kernels (numba), registered as torch operators with first derivatives.

Layout of the work: an op is cut into tasks that do not depend on the number of threads, the tasks run on a small
thread pool (kernels release the GIL), and no two tasks write the same memory. Results are therefore the same at any
number of threads, and no second OpenMP pool fights with torch's.

A second derivative is refused: the backward operators have no autograd formula, so torch raises and names them.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

# NaN and infinity keep their meaning; only the order of sums may change.
_FAST = {"contract", "reassoc", "nsz"}
_U = np.uint64  # unsigned indices need no wrap-around check, which is what lets LLVM vectorise the loops
_ROW = np.uint32  # numbers of table rows, with the wrap-around that the hash wants
_BLOCK = 256  # points that share one pass of index computation: their scratch stays in L1
_B = np.uint64(_BLOCK)
_TILE = np.uint64(128)  # points of an MLP tile, transposed: rows of 128 numbers in L1
_CHUNK = 4096  # points of one task
_RAYS = 512  # rays that are marched at a time: what they may meet stays in L2
_SKIP = 4  # cells along a side of a block that a ray may skip at once

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def _parallel(task: Callable[[int, int], None], count: int) -> None:
    """Run task(lo, hi) over ranges that cover 0 ... count, on as many threads as torch uses.

    A range is a few pieces: entering a kernel from Python (about 10 us) is paid a few times an op, not once a piece.
    """
    global _pool
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        if count:
            task(0, count)
        return
    ranges = min(count, 4 * threads)
    bounds = [count * r // ranges for r in range(ranges + 1)]
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="hyperfields")
    numbers = itertools.count()

    def work() -> None:
        while (index := next(numbers)) < ranges:
            task(bounds[index], bounds[index + 1])

    futures = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        future.result()


def _starts(counts: Tensor) -> np.ndarray:
    starts = np.zeros(counts.shape[0] + 1, np.int64)
    np.cumsum(counts.numpy(), out=starts[1:])
    return starts


def _blocks(starts: np.ndarray, size: int) -> np.ndarray:
    """Cut packed points into pieces of at most `size` that stay within a scene: rows (scene, begin, end)."""
    pieces = [
        (scene, begin, min(begin + size, int(end)))
        for scene, (start, end) in enumerate(itertools.pairwise(starts.tolist()))
        for begin in range(start, end, size)
    ]
    return np.array(pieces, np.int64).reshape(-1, 3)


# ------------------------------------------------------------------------------------------------ hash_encode


# Scratch of a block is flat: a row of _BLOCK numbers for each corner or axis, at offsets that the compiler knows. Only
# then does LLVM see that rows do not overlap, and vectorises.


@njit(nogil=True, cache=True, error_model="numpy")
def _all_inside(x, begin, end):
    """Whether all coordinates of points begin ... end are in [0, 1]."""
    inside = True
    for i in range(_U(begin), _U(end)):
        for d in range(x.shape[1]):
            inside = inside & (x[i, d] >= 0.0) & (x[i, d] <= 1.0)
    return inside


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _corners(x, begin, count, inside, scale, resolution, rows, dense, smooth, index, weight, cell, place, blend):
    """Rows and blend weights of the 2^d corners of `count` points: index and weight [2^d * BLOCK].

    On the way: cell and place in it, [d * BLOCK], and the blend along each axis.
    """
    real = x.dtype.type
    one, two, three = real(1.0), real(2.0), real(3.0)
    first, n = _U(begin), _U(count)
    for d in range(_U(x.shape[1])):
        for i in range(n):
            p = x[first + i, d] * scale + real(0.5)
            whole = np.floor(p)
            place[d * _B + i] = p - whole
            cell[d * _B + i] = np.int32(whole)
    for k in range(_U(x.shape[1]) * _B):
        w = place[k]
        blend[k] = w * w * (three - two * w) if smooth else w
    one_row, all_rows, mask = _ROW(1), _ROW(rows), _ROW(rows - 1)
    stride1 = _ROW(resolution) if dense else _ROW(2654435761)
    stride2 = _ROW(resolution * resolution) if dense else _ROW(805459861)
    b1, b2, b3, b4, b5, b6, b7 = _B, _U(2) * _B, _U(3) * _B, _U(4) * _B, _U(5) * _B, _U(6) * _B, _U(7) * _B
    if x.shape[1] == 3:
        if dense:
            for i in range(n):
                row = _ROW(_ROW(cell[i]) + _ROW(cell[b1 + i]) * stride1 + _ROW(cell[b2 + i]) * stride2)
                index[i], index[b1 + i] = row, _ROW(row + one_row)
                row = _ROW(row + stride1)
                index[b2 + i], index[b3 + i] = row, _ROW(row + one_row)
                row = _ROW(row + stride2)
                index[b6 + i], index[b7 + i] = row, _ROW(row + one_row)
                row = _ROW(row - stride1)
                index[b4 + i], index[b5 + i] = row, _ROW(row + one_row)
        else:
            for i in range(n):
                a, a1, a2 = _ROW(cell[i]), _ROW(_ROW(cell[b1 + i]) * stride1), _ROW(_ROW(cell[b2 + i]) * stride2)
                b, c1, c2 = _ROW(a + one_row), _ROW(a1 + stride1), _ROW(a2 + stride2)
                t = _ROW(a1 ^ a2)
                index[i], index[b1 + i] = _ROW((a ^ t) & mask), _ROW((b ^ t) & mask)
                t = _ROW(c1 ^ a2)
                index[b2 + i], index[b3 + i] = _ROW((a ^ t) & mask), _ROW((b ^ t) & mask)
                t = _ROW(a1 ^ c2)
                index[b4 + i], index[b5 + i] = _ROW((a ^ t) & mask), _ROW((b ^ t) & mask)
                t = _ROW(c1 ^ c2)
                index[b6 + i], index[b7 + i] = _ROW((a ^ t) & mask), _ROW((b ^ t) & mask)
        for i in range(n):
            w0, w1, w2 = blend[i], blend[b1 + i], blend[b2 + i]
            v0, v1, v2 = one - w0, one - w1, one - w2
            weight[i], weight[b1 + i] = v0 * (v1 * v2), w0 * (v1 * v2)
            weight[b2 + i], weight[b3 + i] = v0 * (w1 * v2), w0 * (w1 * v2)
            weight[b4 + i], weight[b5 + i] = v0 * (v1 * w2), w0 * (v1 * w2)
            weight[b6 + i], weight[b7 + i] = v0 * (w1 * w2), w0 * (w1 * w2)
    else:
        for i in range(n):
            a, a1 = _ROW(cell[i]), _ROW(_ROW(cell[b1 + i]) * stride1)
            b, c1 = _ROW(a + one_row), _ROW(a1 + stride1)
            if dense:
                index[i], index[b1 + i] = _ROW(a + a1), _ROW(b + a1)
                index[b2 + i], index[b3 + i] = _ROW(a + c1), _ROW(b + c1)
            else:
                index[i], index[b1 + i] = _ROW((a ^ a1) & mask), _ROW((b ^ a1) & mask)
                index[b2 + i], index[b3 + i] = _ROW((a ^ c1) & mask), _ROW((b ^ c1) & mask)
        for i in range(n):
            w0, w1 = blend[i], blend[b1 + i]
            v0, v1 = one - w0, one - w1
            weight[i], weight[b1 + i] = v0 * v1, w0 * v1
            weight[b2 + i], weight[b3 + i] = v0 * w1, w0 * w1
    if dense:
        for c in range(_U(1) << _U(x.shape[1])):
            if inside:  # a vertex on the far face lies at most one table length too far
                for k in range(c * _B, c * _B + n):
                    index[k] = min(index[k], _ROW(index[k] - all_rows))
            else:
                for k in range(c * _B, c * _B + n):
                    index[k] = index[k] % all_rows


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _encode(x, tables, out, scales, resolutions, offsets, dense, smooth, pieces, lo, hi, corners, unroll):
    """corners and unroll are tuples whose lengths (2^d, f) are known to the compiler, so that it unrolls the loops."""
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        table = tables[scene if tables.shape[0] > 1 else 0]
        _encode_piece(x, table, out, scales, resolutions, offsets, dense, smooth, begin, end, corners, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _encode_piece(x, table, out, scales, resolutions, offsets, dense, smooth, begin, end, corners, unroll):
    index, cell = np.empty(len(corners) * _BLOCK, np.uint32), np.empty(3 * _BLOCK, np.int32)
    weight = np.empty(len(corners) * _BLOCK, x.dtype)
    place, blend = np.empty(3 * _BLOCK, x.dtype), np.empty(3 * _BLOCK, x.dtype)
    features = len(unroll)
    inside = _all_inside(x, begin, end)
    for level in range(scales.shape[0]):  # outside, since the table of one level may fit where those of all do not
        rows = offsets[level + 1] - offsets[level]
        entries = table[offsets[level] * features : offsets[level + 1] * features]
        column = _U(level * features)
        for first in range(begin, end, _BLOCK):
            count = min(_BLOCK, end - first)
            _corners(
                x, first, count, inside, scales[level], resolutions[level], rows, dense[level], smooth,
                index, weight, cell, place, blend,
            )  # fmt: skip
            point = _U(first)
            if features == 2:  # both in one pass: they lie side by side, one load for the two
                for i in range(_U(count)):
                    left, right = x.dtype.type(0.0), x.dtype.type(0.0)
                    for c in range(len(corners)):
                        w, k = weight[_U(c) * _B + i], _U(index[_U(c) * _B + i]) * _U(2)
                        left += w * entries[k]
                        right += w * entries[k + _U(1)]
                    out[point + i, column] = left
                    out[point + i, column + _U(1)] = right
                continue
            for i in range(_U(count)):
                for f in range(features):
                    total = x.dtype.type(0.0)
                    for c in range(len(corners)):
                        k = _U(index[_U(c) * _B + i]) * _U(features) + _U(f)
                        total += weight[_U(c) * _B + i] * entries[k]
                    out[point + i, column + _U(f)] = total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _scatter(x, grad, grad_tables, scales, resolutions, offsets, dense, smooth, bounds, lo, hi, corners, unroll):
    """Tasks are (scene, level) pairs: each owns its rows of one table, so that no two add to the same number."""
    levels = scales.shape[0]
    for number in range(lo, hi):
        scene, level = number // levels, number % levels
        rows = offsets[level + 1] - offsets[level]
        entries = grad_tables[scene, offsets[level] * len(unroll) : offsets[level + 1] * len(unroll)]
        _scatter_level(
            x, grad, entries, level, scales[level], resolutions[level], rows, dense[level], smooth,
            bounds[scene], bounds[scene + 1], corners, unroll,
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _scatter_level(x, grad, entries, level, scale, resolution, rows, dense, smooth, begin, end, corners, unroll):
    index, cell = np.empty(len(corners) * _BLOCK, np.uint32), np.empty(3 * _BLOCK, np.int32)
    weight = np.empty(len(corners) * _BLOCK, x.dtype)
    place, blend = np.empty(3 * _BLOCK, x.dtype), np.empty(3 * _BLOCK, x.dtype)
    features = len(unroll)
    column = _U(level * features)
    entries[:] = x.dtype.type(0.0)  # here, where they are needed in the cache next
    inside = _all_inside(x, begin, end) if dense else True
    for first in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - first)
        _corners(
            x, first, count, inside, scale, resolution, rows, dense, smooth, index, weight, cell, place, blend
        )  # fmt: skip
        point = _U(first)
        if features == 2:
            for i in range(_U(count)):
                left, right = grad[point + i, column], grad[point + i, column + _U(1)]
                for c in range(len(corners)):
                    w, k = weight[_U(c) * _B + i], _U(index[_U(c) * _B + i]) * _U(2)
                    entries[k] += w * left
                    entries[k + _U(1)] += w * right
            continue
        for i in range(_U(count)):
            for c in range(len(corners)):
                k = _U(index[_U(c) * _B + i]) * _U(features)
                for f in range(features):
                    entries[k + _U(f)] += weight[_U(c) * _B + i] * grad[point + i, column + _U(f)]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _differentiate(
    x, tables, grad, grad_x, scales, resolutions, offsets, dense, smooth, pieces, lo, hi, corners, unroll
):
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        table = tables[scene if tables.shape[0] > 1 else 0]
        _point_gradient(
            x, table, grad, grad_x, scales, resolutions, offsets, dense, smooth, begin, end, corners, unroll
        )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _point_gradient(x, table, grad, grad_x, scales, resolutions, offsets, dense, smooth, begin, end, corners, unroll):
    index, cell = np.empty(len(corners) * _BLOCK, np.uint32), np.empty(3 * _BLOCK, np.int32)
    weight = np.empty(len(corners) * _BLOCK, x.dtype)
    place, blend = np.empty(3 * _BLOCK, x.dtype), np.empty(3 * _BLOCK, x.dtype)
    value = np.empty(len(corners), x.dtype)
    features = len(unroll)
    one, six = x.dtype.type(1.0), x.dtype.type(6.0)
    inside = _all_inside(x, begin, end)
    for first in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - first)
        for i in range(count):
            for d in range(x.shape[1]):
                grad_x[first + i, d] = x.dtype.type(0.0)
        for level in range(scales.shape[0]):
            scale, rows = scales[level], offsets[level + 1] - offsets[level]
            _corners(
                x, first, count, inside, scale, resolutions[level], rows, dense[level], smooth,
                index, weight, cell, place, blend,
            )  # fmt: skip
            if smooth:  # from here on the slope of the blend
                for k in range(_U(x.shape[1]) * _B):
                    place[k] = scale * (six * place[k] * (one - place[k]))
            else:
                place[:] = scale
            base = _U(offsets[level] * features)
            for i in range(_U(count)):
                for c in range(len(corners)):
                    total = x.dtype.type(0.0)
                    for f in range(features):
                        entry = table[base + _U(index[_U(c) * _B + i]) * _U(features) + _U(f)]
                        total += entry * grad[_U(first) + i, _U(level * features + f)]
                    value[c] = total
                if x.shape[1] == 3:
                    w0, w1, w2 = blend[i], blend[_B + i], blend[_U(2) * _B + i]
                    v0, v1, v2 = one - w0, one - w1, one - w2
                    d0 = v2 * (v1 * (value[1] - value[0]) + w1 * (value[3] - value[2]))
                    d0 += w2 * (v1 * (value[5] - value[4]) + w1 * (value[7] - value[6]))
                    d1 = v2 * (v0 * (value[2] - value[0]) + w0 * (value[3] - value[1]))
                    d1 += w2 * (v0 * (value[6] - value[4]) + w0 * (value[7] - value[5]))
                    d2 = v1 * (v0 * (value[4] - value[0]) + w0 * (value[5] - value[1]))
                    d2 += w1 * (v0 * (value[6] - value[2]) + w0 * (value[7] - value[3]))
                    grad_x[_U(first) + i, 0] += place[i] * d0
                    grad_x[_U(first) + i, 1] += place[_B + i] * d1
                    grad_x[_U(first) + i, 2] += place[_U(2) * _B + i] * d2
                else:
                    w0, w1 = blend[i], blend[_B + i]
                    d0 = (one - w1) * (value[1] - value[0]) + w1 * (value[3] - value[2])
                    d1 = (one - w0) * (value[2] - value[0]) + w0 * (value[3] - value[1])
                    grad_x[_U(first) + i, 0] += place[i] * d0
                    grad_x[_U(first) + i, 1] += place[_B + i] * d1


class _Levels:
    """The grid's numbers as arrays, in the dtype of the points."""

    def __init__(self, dtype, scales, resolutions, offsets, dims, features):
        self.scales = np.array(scales, dtype)
        self.resolutions = np.array(resolutions, np.int64)
        self.offsets = np.array(offsets, np.int64)
        self.dense = np.diff(self.offsets) >= self.resolutions.astype(object) ** dims
        self.dense = self.dense.astype(np.bool_)
        self.corners = (0,) * 2**dims
        self.unroll = (0,) * features


@torch.library.custom_op("hyperfields::hash_encode_cpu", mutates_args=())
def hash_encode_cpu(
    x: Tensor,
    table: Tensor,
    counts: Tensor,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    smoothstep: bool,
) -> Tensor:
    features = table.shape[2]
    out = x.new_empty(x.shape[0], len(scales) * features)
    points, tables, result = x.detach().contiguous().numpy(), _flat(table), out.numpy()
    lv = _Levels(points.dtype, scales, resolutions, offsets, x.shape[1], features)
    pieces = _blocks(_starts(counts), _CHUNK)

    def task(lo: int, hi: int) -> None:
        _encode(
            points, tables, result, lv.scales, lv.resolutions, lv.offsets, lv.dense, smoothstep, pieces, lo, hi,
            lv.corners, lv.unroll,
        )  # fmt: skip

    _parallel(task, len(pieces))
    return out


@torch.library.custom_op("hyperfields::hash_encode_cpu_backward", mutates_args=())
def hash_encode_cpu_backward(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    counts: Tensor,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    smoothstep: bool,
    need_x: bool,
    need_table: bool,
) -> tuple[Tensor, Tensor]:
    scenes, _, features = table.shape
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    grad_table = torch.empty_like(table, memory_format=torch.contiguous_format) if need_table else x.new_empty(0)
    points, cotangent = x.detach().contiguous().numpy(), grad.detach().contiguous().numpy()
    lv = _Levels(points.dtype, scales, resolutions, offsets, x.shape[1], features)
    starts = _starts(counts)
    if need_table:
        flat_grad = _flat(grad_table)
        bounds = starts if scenes > 1 else starts[[0, -1]]

        def scatter(lo: int, hi: int) -> None:
            _scatter(
                points, cotangent, flat_grad, lv.scales, lv.resolutions, lv.offsets, lv.dense, smoothstep, bounds,
                lo, hi, lv.corners, lv.unroll,
            )  # fmt: skip

        _parallel(scatter, scenes * len(scales))
    if need_x:
        tables, result, pieces = _flat(table), grad_x.numpy(), _blocks(starts, _CHUNK)

        def differentiate(lo: int, hi: int) -> None:
            _differentiate(
                points, tables, cotangent, result, lv.scales, lv.resolutions, lv.offsets, lv.dense, smoothstep,
                pieces, lo, hi, lv.corners, lv.unroll,
            )  # fmt: skip

        _parallel(differentiate, len(pieces))
    return grad_x, grad_table


@hash_encode_cpu.register_fake
def _(x, table, counts, scales, resolutions, offsets, smoothstep):
    return x.new_empty(x.shape[0], len(scales) * table.shape[2])


@hash_encode_cpu_backward.register_fake
def _(grad, x, table, counts, scales, resolutions, offsets, smoothstep, need_x, need_table):
    return (x.new_empty(x.shape if need_x else 0), x.new_empty(table.shape if need_table else 0))


def _encode_context(ctx, inputs, output):
    x, table, counts, *ctx.grid = inputs
    ctx.save_for_backward(x, table, counts)


def _encode_backward(ctx, grad):
    x, table, counts = ctx.saved_tensors
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_x, grad_table = hash_encode_cpu_backward(grad, x, table, counts, *ctx.grid, need_x, need_table)
    return grad_x if need_x else None, grad_table if need_table else None, None, None, None, None, None


hash_encode_cpu.register_autograd(_encode_backward, setup_context=_encode_context)


def _flat(tensor: Tensor) -> np.ndarray:
    """[s, ...] -> numpy [s, numbers]."""
    return tensor.detach().contiguous().reshape(tensor.shape[0], -1).numpy()


# ------------------------------------------------------------------------------------------------ batched_mlp
# Points of a tile are transposed, so that every loop runs over 128 points with scalar weights. Sizes are padded to
# multiples of 4 (with zeros); four rows of inputs update four rows of outputs at a time, which keeps the
# multiply-add units busy without a matrix library.


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _multiply(w, w0, x, x0, y, y0, n_out, n_in):
    """y[j, p] += sum_i w[j, i] x[i, p]; w0, x0, y0: where the matrices start in the flat arrays."""
    n_out, n_in, w0, x0, y0 = _U(n_out), _U(n_in), _U(w0), _U(x0), _U(y0)
    one, two, three, four = _U(1), _U(2), _U(3), _U(4)
    for j in range(_U(0), n_out, four):
        ya = y0 + j * _TILE
        yb, yc, yd = ya + _TILE, ya + two * _TILE, ya + three * _TILE
        for i in range(_U(0), n_in, four):
            a = w0 + j * n_in + i
            b, c, d = a + n_in, a + two * n_in, a + three * n_in
            a0, a1, a2, a3 = w[a], w[a + one], w[a + two], w[a + three]
            b0, b1, b2, b3 = w[b], w[b + one], w[b + two], w[b + three]
            c0, c1, c2, c3 = w[c], w[c + one], w[c + two], w[c + three]
            d0, d1, d2, d3 = w[d], w[d + one], w[d + two], w[d + three]
            xa = x0 + i * _TILE
            xb, xc, xd = xa + _TILE, xa + two * _TILE, xa + three * _TILE
            for p in range(_TILE):
                v0, v1, v2, v3 = x[xa + p], x[xb + p], x[xc + p], x[xd + p]
                y[ya + p] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                y[yb + p] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                y[yc + p] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                y[yd + p] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _outer(g, g0, x, x0, w, w0, n_out, n_in):
    """w[j, i] += sum_p g[j, p] x[i, p]."""
    n_out, n_in, w0, x0, g0 = _U(n_out), _U(n_in), _U(w0), _U(x0), _U(g0)
    one, two, three, four = _U(1), _U(2), _U(3), _U(4)
    zero = x.dtype.type(0.0)
    for j in range(_U(0), n_out, four):
        ga = g0 + j * _TILE
        gb, gc, gd = ga + _TILE, ga + two * _TILE, ga + three * _TILE
        for i in range(_U(0), n_in, four):
            xa = x0 + i * _TILE
            xb, xc, xd = xa + _TILE, xa + two * _TILE, xa + three * _TILE
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
            for p in range(_TILE):
                v0, v1, v2, v3 = x[xa + p], x[xb + p], x[xc + p], x[xd + p]
                ha, hb, hc, hd = g[ga + p], g[gb + p], g[gc + p], g[gd + p]
                a0 += ha * v0
                a1 += ha * v1
                a2 += ha * v2
                a3 += ha * v3
                b0 += hb * v0
                b1 += hb * v1
                b2 += hb * v2
                b3 += hb * v3
                c0 += hc * v0
                c1 += hc * v1
                c2 += hc * v2
                c3 += hc * v3
                d0 += hd * v0
                d1 += hd * v1
                d2 += hd * v2
                d3 += hd * v3
            a = w0 + j * n_in + i
            b, c, d = a + n_in, a + two * n_in, a + three * n_in
            w[a] += a0
            w[a + one] += a1
            w[a + two] += a2
            w[a + three] += a3
            w[b] += b0
            w[b + one] += b1
            w[b + two] += b2
            w[b + three] += b3
            w[c] += c0
            w[c + one] += c1
            w[c + two] += c2
            w[c + three] += c3
            w[d] += d0
            w[d + one] += d1
            w[d + two] += d2
            w[d + three] += d3


@njit(nogil=True, cache=True, error_model="numpy")
def _load_tile(source, begin, count, tile):
    """tile[i, p] = source[begin + p, i]; zeros in the padding."""
    width = source.shape[1]
    zero = source.dtype.type(0.0)
    padded = (width + 3) // 4 * 4
    for i in range(width):
        row = _U(i) * _TILE
        for p in range(count):
            tile[row + _U(p)] = source[begin + p, i]
        for p in range(count, int(_TILE)):
            tile[row + _U(p)] = zero
    for k in range(_U(width) * _TILE, _U(padded) * _TILE):
        tile[k] = zero


@njit(nogil=True, cache=True, error_model="numpy")
def _store_tile(tile, begin, count, target):
    for p in range(count):
        for i in range(target.shape[1]):
            target[begin + p, i] = tile[_U(i) * _TILE + _U(p)]


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(params, sizes, packed, transposed, lo, hi):
    for scene in range(lo, hi):
        _pack_scene(params[scene], sizes, packed[scene], transposed)


@njit(nogil=True, cache=True, error_model="numpy")
def _pack_scene(params, sizes, packed, transposed):
    """One scene's weights [o i] and biases into zero-padded matrices; transposed ones without biases."""
    source = 0
    target = 0
    for layer in range(sizes.shape[0] - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        p_in, p_out = (n_in + 3) // 4 * 4, (n_out + 3) // 4 * 4
        for j in range(n_out):
            for i in range(n_in):
                place = i * p_out + j if transposed else j * p_in + i
                packed[target + place] = params[source + j * n_in + i]
        source += n_in * n_out
        target += p_in * p_out
        for j in range(n_out):
            packed[target + j] = params[source + j]
        source += n_out
        target += p_out


@njit(nogil=True, cache=True, error_model="numpy")
def _unpack_add(partial, pieces, sizes, params):
    """Sum the pieces of each scene, always in the same order."""
    for number in range(pieces.shape[0]):
        _unpack_piece(partial[number], sizes, params[pieces[number, 0]])


@njit(nogil=True, cache=True, error_model="numpy")
def _unpack_piece(packed, sizes, params):
    source = 0
    target = 0
    for layer in range(sizes.shape[0] - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        p_in, p_out = (n_in + 3) // 4 * 4, (n_out + 3) // 4 * 4
        for j in range(n_out):
            for i in range(n_in):
                params[target + j * n_in + i] += packed[source + j * p_in + i]
        source += p_in * p_out
        target += n_in * n_out
        for j in range(n_out):
            params[target + j] += packed[source + j]
        source += p_out
        target += n_out


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _mlp(x, weights, sizes, slope, out, hidden, keep, tiles, pieces, lo, hi):
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        _mlp_piece(x, weights[scene], sizes, slope, out, hidden, keep, tiles[number], begin, end)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _mlp_piece(x, weights, sizes, slope, out, hidden, keep, first_tile, begin, end):
    """Forward for points begin ... end of one scene; hidden [tiles, ...] keeps the activations when asked to."""
    widest = 4
    for size in sizes:
        widest = max(widest, (size + 3) // 4 * 4)
    layers = sizes.shape[0] - 1
    source = np.empty(widest * int(_TILE), x.dtype)
    last = np.empty(widest * int(_TILE), x.dtype)
    tile = first_tile
    for first in range(begin, end, int(_TILE)):
        count = min(int(_TILE), end - first)
        _load_tile(x, first, count, source)
        kept = hidden[tile] if keep else hidden[0]
        inputs, x0, place, w0 = source, 0, 0, 0
        for layer in range(layers):
            p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
            final = layer + 1 == layers
            target = last if final else kept
            y0 = 0 if final else place
            bias = w0 + p_in * p_out
            for j in range(p_out):
                value = weights[bias + j]
                row = _U(y0) + _U(j) * _TILE
                for p in range(_TILE):
                    target[row + p] = value
            _multiply(weights, w0, inputs, x0, target, y0, p_out, p_in)
            if not final:
                for k in range(_U(y0), _U(y0) + _U(p_out) * _TILE):
                    target[k] = max(target[k], slope * target[k])
                place += p_out * int(_TILE)
            inputs, x0 = target, y0
            w0 = bias + p_out
        _store_tile(last, first, count, out)
        tile += 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _mlp_backward_pieces(x, grad, hidden, flipped, sizes, slope, partial, grad_x, need_x, tiles, pieces, lo, hi):
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        _mlp_piece_backward(
            x,
            grad,
            hidden,
            flipped[scene],
            sizes,
            slope,
            partial[number],
            grad_x,
            need_x,
            tiles[number],
            begin,
            end,
        )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _mlp_piece_backward(x, grad, hidden, flipped, sizes, slope, partial, grad_x, need_x, first_tile, begin, end):
    """Gradients for points begin ... end of one scene: weights into `partial` (padded), points into grad_x."""
    widest = 4
    for size in sizes:
        widest = max(widest, (size + 3) // 4 * 4)
    layers = sizes.shape[0] - 1
    source = np.empty(widest * int(_TILE), x.dtype)
    above = np.empty(widest * int(_TILE), x.dtype)
    below = np.empty(widest * int(_TILE), x.dtype)
    zero = x.dtype.type(0.0)
    end_w, end_h = 0, 0
    for layer in range(layers):
        p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
        end_w += p_in * p_out + p_out
        if layer + 1 < layers:
            end_h += p_out * int(_TILE)
    tile = first_tile
    for first in range(begin, end, int(_TILE)):
        count = min(int(_TILE), end - first)
        _load_tile(x, first, count, source)
        _load_tile(grad, first, count, above)
        w0, h0 = end_w, end_h
        for layer in range(layers - 1, -1, -1):
            p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
            w0 -= p_in * p_out + p_out
            inputs = source if layer == 0 else hidden[tile]
            if layer > 0:
                h0 -= p_in * int(_TILE)
            _outer(above, 0, inputs, h0, partial, w0, p_out, p_in)
            for j in range(p_out):
                total = zero
                row = _U(j) * _TILE
                for p in range(_TILE):
                    total += above[row + p]
                partial[w0 + p_in * p_out + j] += total
            if layer == 0 and not need_x:
                break
            for k in range(_U(p_in) * _TILE):
                below[k] = zero
            _multiply(flipped, w0, above, 0, below, 0, p_in, p_out)
            if layer > 0:
                start = _U(h0)
                for k in range(_U(p_in) * _TILE):
                    below[k] = below[k] if inputs[start + k] > zero else slope * below[k]
            above, below = below, above
        if need_x:
            _store_tile(above, first, count, grad_x)
        tile += 1


def _pad4(size: int) -> int:
    return (size + 3) // 4 * 4


def _packed_size(sizes: list[int]) -> int:
    return sum(_pad4(i) * _pad4(o) + _pad4(o) for i, o in itertools.pairwise(sizes))


def _hidden_size(sizes: list[int]) -> int:
    return sum(_pad4(size) for size in sizes[1:-1]) * int(_TILE)


def _pack_all(params: Tensor, sizes: list[int], transposed: bool) -> np.ndarray:
    packed = np.zeros((params.shape[0], _packed_size(sizes)), params.detach().numpy().dtype)
    flat, shape = params.detach().contiguous().numpy(), np.array(sizes, np.int64)
    _parallel(lambda lo, hi: _pack(flat, shape, packed, transposed, lo, hi), len(packed))
    return packed


def _tiles(pieces: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of the first tile of each piece, and how many tiles there are."""
    sizes = -(-(pieces[:, 2] - pieces[:, 1]) // int(_TILE))
    return np.cumsum(sizes) - sizes, int(sizes.sum())


@torch.library.custom_op("hyperfields::mlp_cpu", mutates_args=())
def mlp_cpu(
    x: Tensor, params: Tensor, counts: Tensor, sizes: list[int], keep: bool, slope: float = 0.0
) -> tuple[Tensor, Tensor]:
    """params [s, numbers]: each layer's weight [o i] and bias [o], flat. Returns the output and what backward needs."""
    out = x.new_empty(x.shape[0], sizes[-1])
    pieces = _blocks(_starts(counts), _CHUNK)
    first, tiles = _tiles(pieces)
    hidden = x.new_empty(tiles if keep else 0, max(_hidden_size(sizes), 1))
    kept, points, result = hidden.numpy(), x.detach().contiguous().numpy(), out.numpy()
    weights, shape = _pack_all(params, sizes, False), np.array(sizes, np.int64)

    def task(lo: int, hi: int) -> None:
        room = kept if keep else np.empty((1, kept.shape[1]), points.dtype)
        _mlp(points, weights, shape, points.dtype.type(slope), result, room, keep, first, pieces, lo, hi)

    _parallel(task, len(pieces))
    return out, hidden


@torch.library.custom_op("hyperfields::mlp_cpu_backward", mutates_args=())
def mlp_cpu_backward(
    grad: Tensor,
    x: Tensor,
    params: Tensor,
    hidden: Tensor,
    counts: Tensor,
    sizes: list[int],
    need_x: bool,
    slope: float = 0.0,
) -> tuple[Tensor, Tensor]:
    grad_x = x.new_empty(x.shape if need_x else (0, x.shape[1]))
    grad_params = torch.zeros_like(params, memory_format=torch.contiguous_format)
    pieces = _blocks(_starts(counts), _CHUNK)
    first, _ = _tiles(pieces)
    points, cotangent = x.detach().contiguous().numpy(), grad.detach().contiguous().numpy()
    kept, result, total = hidden.numpy(), grad_x.numpy(), grad_params.numpy()
    flipped, shape = _pack_all(params, sizes, True), np.array(sizes, np.int64)
    partial = np.zeros((len(pieces), flipped.shape[1]), points.dtype)

    def task(lo: int, hi: int) -> None:
        _mlp_backward_pieces(
            points,
            cotangent,
            kept,
            flipped,
            shape,
            points.dtype.type(slope),
            partial,
            result,
            need_x,
            first,
            pieces,
            lo,
            hi,
        )

    _parallel(task, len(pieces))
    _unpack_add(partial, pieces, shape, total)
    return grad_x, grad_params


@mlp_cpu.register_fake
def _(x, params, counts, sizes, keep, slope=0.0):
    tiles = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return x.new_empty(x.shape[0], sizes[-1]), x.new_empty(tiles, max(_hidden_size(sizes), 1))


@mlp_cpu_backward.register_fake
def _(grad, x, params, hidden, counts, sizes, need_x, slope=0.0):
    return x.new_empty(x.shape if need_x else (0, x.shape[1])), x.new_empty(params.shape)


def _mlp_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    x, params, counts, ctx.sizes, _, ctx.slope = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, params, output[1], counts)


def _mlp_backward(ctx, grad, _hidden):
    x, params, hidden, counts = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_params = mlp_cpu_backward(grad, x, params, hidden, counts, ctx.sizes, need_x, ctx.slope)
    return grad_x if need_x else None, grad_params, None, None, None, None


mlp_cpu.register_autograd(_mlp_backward, setup_context=_mlp_context)


# -------------------------------------------------------------------------------------------------- composite


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays(density, values, edges, starts, rgb, alpha, depth, begin, end):
    for ray in range(begin, end):
        through = 1.0
        for c in range(values.shape[1]):
            rgb[ray, c] = 0.0
        opacity = 0.0
        distance = 0.0
        for k in range(starts[ray], starts[ray + 1]):
            weight = -through * np.expm1(-float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0])))
            for c in range(values.shape[1]):
                rgb[ray, c] += weight * values[k, c]
            opacity += weight
            distance += weight * 0.5 * (edges[k, 0] + edges[k, 1])
            through -= weight
        alpha[ray] = opacity
        depth[ray] = distance


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays_backward(
    density, values, edges, starts, g_rgb, g_alpha, g_depth, d_density, d_values, d_edges, begin, end
):
    for ray in range(begin, end):
        # dL/dtau_k = g_k T_{k+1} - sum_{j > k} g_j w_j, with g_k = dL/dw_k; first the whole sum, then what is left.
        rest = 0.0
        through = 1.0
        for k in range(starts[ray], starts[ray + 1]):
            weight = -through * np.expm1(-float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0])))
            pull = g_alpha[ray] + g_depth[ray] * 0.5 * (edges[k, 0] + edges[k, 1])
            for c in range(values.shape[1]):
                pull += g_rgb[ray, c] * values[k, c]
            rest += weight * pull
            through -= weight
        through = 1.0
        for k in range(starts[ray], starts[ray + 1]):
            length = float(edges[k, 1]) - float(edges[k, 0])
            weight = -through * np.expm1(-float(density[k]) * length)
            pull = g_alpha[ray] + g_depth[ray] * 0.5 * (edges[k, 0] + edges[k, 1])
            for c in range(values.shape[1]):
                pull += g_rgb[ray, c] * values[k, c]
                d_values[k, c] = weight * g_rgb[ray, c]
            rest -= weight * pull
            through -= weight
            d_optical = pull * through - rest
            d_density[k] = d_optical * length
            d_edges[k, 0] = 0.5 * weight * g_depth[ray] - d_optical * density[k]
            d_edges[k, 1] = 0.5 * weight * g_depth[ray] + d_optical * density[k]


@torch.library.custom_op("hyperfields::composite_cpu", mutates_args=())
def composite_cpu(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rays = counts.shape[0]
    outputs = values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)
    inputs = [t.detach().contiguous().numpy() for t in (density, values, edges)]
    arrays, starts = [t.numpy() for t in outputs], _starts(counts)
    _parallel(lambda lo, hi: _composite_rays(*inputs, starts, *arrays, lo, hi), rays)
    return outputs


@torch.library.custom_op("hyperfields::composite_cpu_backward", mutates_args=())
def composite_cpu_backward(
    g_rgb: Tensor,
    g_alpha: Tensor,
    g_depth: Tensor,
    density: Tensor,
    values: Tensor,
    edges: Tensor,
    counts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    flat = torch.contiguous_format
    outputs = (
        torch.empty_like(density, memory_format=flat),
        torch.empty_like(values, memory_format=flat),
        torch.empty_like(edges, memory_format=flat),
    )
    inputs = [t.detach().contiguous().numpy() for t in (density, values, edges)]
    grads = [t.detach().contiguous().numpy() for t in (g_rgb, g_alpha, g_depth)]
    arrays, starts = [t.numpy() for t in outputs], _starts(counts)
    _parallel(lambda lo, hi: _composite_rays_backward(*inputs, starts, *grads, *arrays, lo, hi), counts.shape[0])
    return outputs


@composite_cpu.register_fake
def _(density, values, edges, counts):
    rays = counts.shape[0]
    return values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)


@composite_cpu_backward.register_fake
def _(g_rgb, g_alpha, g_depth, density, values, edges, counts):
    return tuple(t.new_empty(t.shape) for t in (density, values, edges))


def _composite_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _composite_backward(ctx, g_rgb, g_alpha, g_depth):
    return *composite_cpu_backward(g_rgb, g_alpha, g_depth, *ctx.saved_tensors), None


composite_cpu.register_autograd(_composite_backward, setup_context=_composite_context)


# ------------------------------------------------------------------------------------------------------ march


@njit(nogil=True, cache=True, error_model="numpy")
def _march_rays(origins, directions, cells, blocks, low, high, step, offset, edges, counts, begin, end):
    """Edges of the samples of rays begin ... end, one after another; returns how many there are.

    Same arithmetic in the same order as the reference, so that both keep the same samples; what is skipped in between
    is skipped with a step to spare.
    """
    size = cells.shape[1]
    rays = counts.shape[0] // cells.shape[0]
    real = origins.dtype.type
    half, one, zero = real(0.5), real(1.0), real(0.0)
    scale = half * real(size)
    inverse = np.empty(3, origins.dtype)
    total = 0
    for ray in range(begin, end):
        counts[ray] = 0
        scene = ray // rays
        near, far = zero, real(np.inf)  # of the scene's box
        first, last = -real(np.inf), real(np.inf)  # of the box round what is occupied
        for d in range(3):
            direction = directions[ray, d]
            inverse[d] = one / (real(1e-12) if abs(direction) < real(1e-12) else direction)
            a, b = (-one - origins[ray, d]) * inverse[d], (one - origins[ray, d]) * inverse[d]
            near, far = max(near, min(a, b)), min(far, max(a, b))
            a, b = (low[scene, d] - origins[ray, d]) * inverse[d], (high[scene, d] - origins[ray, d]) * inverse[d]
            first, last = max(first, min(a, b)), min(last, max(a, b))
        last += step
        if not (near < far and first < last):
            continue
        before = total
        k = max(int(np.floor((first - near) / step - offset[ray])) - 1, 0)
        while True:
            start = near + (real(k) + offset[ray] - one) * step
            if not (start < far and start < last):
                break
            stop = min(start + step, far)
            start = max(start, near)
            k += 1
            middle = half * (start + stop)
            a = int(np.floor((origins[ray, 0] + middle * directions[ray, 0] + one) * scale))
            b = int(np.floor((origins[ray, 1] + middle * directions[ray, 1] + one) * scale))
            c = int(np.floor((origins[ray, 2] + middle * directions[ray, 2] + one) * scale))
            a, b, c = min(max(a, 0), size - 1), min(max(b, 0), size - 1), min(max(c, 0), size - 1)
            if cells[scene, a, b, c]:
                if stop > start:
                    edges[total, 0] = start
                    edges[total, 1] = stop
                    total += 1
            elif not blocks[scene, a // _SKIP, b // _SKIP, c // _SKIP]:
                leave = far
                for d in range(3):
                    block = (a if d == 0 else b if d == 1 else c) // _SKIP
                    wall = real(_SKIP * (block + 1 if inverse[d] > zero else block)) / scale - one
                    leave = min(leave, (wall - origins[ray, d]) * inverse[d])
                k = max(k, int(np.floor((leave - near) / step - offset[ray])) - 1)
        counts[ray] = total - before
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _survey(cells, blocks, low, high, begin, end):
    """Blocks of cells in which any is occupied, and the box round all that are."""
    size = cells.shape[1]
    for scene in range(begin, end):
        blocks[scene] = False
        low[scene] = 1.0
        high[scene] = -1.0
        for a in range(size):
            for b in range(size):
                for c in range(size):
                    if cells[scene, a, b, c]:
                        blocks[scene, a // _SKIP, b // _SKIP, c // _SKIP] = True
                        for d in range(3):
                            cell = a if d == 0 else b if d == 1 else c
                            low[scene, d] = min(low[scene, d], 2.0 * cell / size - 1.0)
                            high[scene, d] = max(high[scene, d], 2.0 * (cell + 1) / size - 1.0)


def march_cpu(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Not differentiable. origins [s r 3] -> edges [m 2], counts [s*r]."""
    scenes, rays = origins.shape[:2]
    flat = [t.reshape(scenes * rays, *t.shape[2:]).contiguous().numpy() for t in (origins, directions, offset)]
    dtype = flat[0].dtype
    cells, width = occupancy.contiguous().numpy(), dtype.type(step)
    blocks = np.empty((scenes, *[-(-size // _SKIP) for size in cells.shape[1:]]), np.bool_)
    low, high = np.empty((scenes, 3), dtype), np.empty((scenes, 3), dtype)
    _parallel(lambda lo, hi: _survey(cells, blocks, low, high, lo, hi), scenes)
    # Most samples of a ray: through the diagonal of the box, and more where a direction is shorter than it should be.
    shortest = float(torch.linalg.vector_norm(directions, dim=-1).min()) if rays * scenes else 1.0
    longest = int(2.0 * math.sqrt(3.0) / (step * max(shortest, 1e-12))) + 3
    counts = torch.zeros(scenes * rays, dtype=torch.int64)
    numbers = counts.numpy()
    found: dict[int, np.ndarray] = {}

    def task(lo: int, hi: int) -> None:
        room = np.empty((min(_RAYS, hi - lo) * longest, 2), dtype)
        for begin in range(lo, hi, _RAYS):
            total = _march_rays(
                *flat[:2], cells, blocks, low, high, width, flat[2], room, numbers, begin, min(begin + _RAYS, hi)
            )
            found[begin] = room[:total].copy()

    _parallel(task, scenes * rays)
    edges = origins.new_empty(sum(map(len, found.values())), 2)
    if found:
        np.concatenate([found[begin] for begin in sorted(found)], out=edges.numpy())
    return edges, counts


@njit(nogil=True, cache=True, error_model="numpy")
def _place_samples(origins, directions, edges, first, starts, x, d, spans, begin, end):
    half = edges.dtype.type(0.5)
    for ray in range(begin, end):
        source = first[ray]
        for place in range(starts[ray], starts[ray + 1]):
            spans[place, 0] = edges[source, 0]
            spans[place, 1] = edges[source, 1]
            middle = half * (edges[source, 0] + edges[source, 1])
            for axis in range(3):
                x[place, axis] = origins[ray, axis] + middle * directions[ray, axis]
                d[place, axis] = directions[ray, axis]
            source += 1


def samples_cpu(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Not differentiable. origins [r 3], first and counts [r] -> x [n 3], d [n 3], edges [n 2]."""
    starts = _starts(counts)
    total = int(starts[-1])
    outputs = edges.new_empty(total, 3), edges.new_empty(total, 3), edges.new_empty(total, 2)
    inputs = [t.contiguous().numpy() for t in (origins, directions, edges, first)]
    arrays = [t.numpy() for t in outputs]
    _parallel(lambda lo, hi: _place_samples(*inputs, starts, *arrays, lo, hi), counts.shape[0])
    return outputs


@njit(nogil=True, cache=True, error_model="numpy")
def _reach_rays(density, edges, starts, opacity, opaque, counts, after, begin, end):
    for ray in range(begin, end):
        through = 1.0 - float(opacity[ray])
        kept = 0
        for k in range(starts[ray], starts[ray + 1]):
            if 1.0 - through >= opaque:
                break
            through *= np.exp(-float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0])))
            kept += 1
        counts[ray] = kept
        after[ray] = 1.0 - through


def reach_cpu(density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float) -> tuple[Tensor, Tensor]:
    """Not differentiable. density [m], counts and opacity [r] -> counts [r], opacity [r]."""
    kept, after = torch.empty_like(counts), torch.empty_like(opacity)
    inputs = [t.detach().contiguous().numpy() for t in (density, edges)]
    behind, arrays, starts = opacity.contiguous().numpy(), (kept.numpy(), after.numpy()), _starts(counts)
    _parallel(lambda lo, hi: _reach_rays(*inputs, starts, behind, opaque, *arrays, lo, hi), counts.shape[0])
    return kept, after
