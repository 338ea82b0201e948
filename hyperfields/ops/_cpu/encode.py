"""`hash_encode`: multilinear reads from tables, and what they leave behind for tables and points.

Points are worked on in groups. For a group and a level, one vectorised loop finds the rows of all corners, one copies
those rows to scratch, and one vectorised loop blends them. The copy in between is what makes it fast: it is the only
loop whose addresses are not known in advance, and nothing in it waits for anything else. Levels are outside and groups
inside, since the table of one level may fit in the cache where those of all do not.

Scratch is flat, with rows at offsets that the compiler knows: only then does LLVM see that they do not overlap.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.threads import FAST, U, parallel, pieces_of, starts_of
from hyperfields.ops._cpu.vectors import SIDE, add_row, copy_row, transpose
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import kernel_threads

_ROW = np.uint32  # numbers of table rows, with the wrap-around that the hash wants
_GROUP = 64
PIECE = 8192  # points of a task: their columns stay in L2 until they are written as rows
PITCH = PIECE + 64  # points from one column to the next: a power of two would put all of them into the same cache sets
_G, _P, STRIDE = U(_GROUP), U(PIECE), U(PITCH)
_G2, _G3, _G4, _G5, _G6, _G7 = (U(k * _GROUP) for k in range(2, 8))


# -------------------------------------------------------------------------------------------- one group


@njit(nogil=True, cache=True, error_model="numpy")
def _load(x, begin, end, xs):
    """Points begin ... end by axis, `xs[d * PIECE + i]`, zeros up to a whole group; whether all are in [0, 1]."""
    inside = True
    count = U(end - begin)
    for d in range(x.shape[1]):
        row = U(d) * _P
        for i in range(count):
            xs[row + i] = x[U(begin) + i, d]
            inside = inside & (xs[row + i] >= 0.0) & (xs[row + i] <= 1.0)
        for i in range(row + count, row + (count + _G - U(1)) // _G * _G):
            xs[i] = 0.0
    return inside


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _rows(xs, first, scale, resolution, rows, dense, inside, index, place, corners):
    """Rows of the corners of a group of points, `index[c * GROUP + i]`, and where in its cell each lies, `place`."""
    half = xs.dtype.type(0.5)
    one, last, mask = _ROW(1), _ROW(rows), _ROW(rows - 1)
    stride1 = _ROW(resolution) if dense else _ROW(2654435761)
    stride2 = _ROW(resolution * resolution) if dense else _ROW(805459861)
    if len(corners) == 8 and dense:
        for i in range(_G):
            p0, p1, p2 = (
                xs[first + i] * scale + half,
                xs[_P + first + i] * scale + half,
                xs[_P + _P + first + i] * scale + half,
            )
            f0, f1, f2 = np.floor(p0), np.floor(p1), np.floor(p2)
            place[i], place[_G + i], place[_G2 + i] = p0 - f0, p1 - f1, p2 - f2
            a = _ROW(_ROW(np.int32(f0)) + _ROW(np.int32(f1)) * stride1 + _ROW(np.int32(f2)) * stride2)
            b = _ROW(a + stride1)
            c, d = _ROW(a + stride2), _ROW(b + stride2)
            index[i], index[_G + i], index[_G2 + i], index[_G3 + i] = a, _ROW(a + one), b, _ROW(b + one)
            index[_G4 + i], index[_G5 + i], index[_G6 + i], index[_G7 + i] = c, _ROW(c + one), d, _ROW(d + one)
    elif len(corners) == 8:
        for i in range(_G):
            p0, p1, p2 = (
                xs[first + i] * scale + half,
                xs[_P + first + i] * scale + half,
                xs[_P + _P + first + i] * scale + half,
            )
            f0, f1, f2 = np.floor(p0), np.floor(p1), np.floor(p2)
            place[i], place[_G + i], place[_G2 + i] = p0 - f0, p1 - f1, p2 - f2
            a, b, c = _ROW(np.int32(f0)), _ROW(_ROW(np.int32(f1)) * stride1), _ROW(_ROW(np.int32(f2)) * stride2)
            a1, b1, c1 = _ROW(a + one), _ROW(b + stride1), _ROW(c + stride2)
            index[i], index[_G + i] = _ROW((a ^ b ^ c) & mask), _ROW((a1 ^ b ^ c) & mask)
            index[_G2 + i], index[_G3 + i] = _ROW((a ^ b1 ^ c) & mask), _ROW((a1 ^ b1 ^ c) & mask)
            index[_G4 + i], index[_G5 + i] = _ROW((a ^ b ^ c1) & mask), _ROW((a1 ^ b ^ c1) & mask)
            index[_G6 + i], index[_G7 + i] = _ROW((a ^ b1 ^ c1) & mask), _ROW((a1 ^ b1 ^ c1) & mask)
    else:
        for i in range(_G):
            p0, p1 = xs[first + i] * scale + half, xs[_P + first + i] * scale + half
            f0, f1 = np.floor(p0), np.floor(p1)
            place[i], place[_G + i] = p0 - f0, p1 - f1
            a, b = _ROW(np.int32(f0)), _ROW(_ROW(np.int32(f1)) * stride1)
            a1, b1 = _ROW(a + one), _ROW(b + stride1)
            if dense:
                index[i], index[_G + i], index[_G2 + i], index[_G3 + i] = (
                    _ROW(a + b),
                    _ROW(a1 + b),
                    _ROW(a + b1),
                    _ROW(a1 + b1),
                )
            else:
                index[i], index[_G + i] = _ROW((a ^ b) & mask), _ROW((a1 ^ b) & mask)
                index[_G2 + i], index[_G3 + i] = _ROW((a ^ b1) & mask), _ROW((a1 ^ b1) & mask)
    if dense and inside:  # a vertex on the far face lies at most one table length too far
        for k in range(U(len(corners)) * _G):
            index[k] = min(index[k], _ROW(index[k] - last))
    elif dense:
        for k in range(U(len(corners)) * _G):
            index[k] = index[k] % last


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _smooth(place, slope, axes):
    """Smoothstep of `place`, and its slope."""
    real = place.dtype.type
    for k in range(U(axes) * _G):
        w = place[k]
        slope[k] = real(6.0) * w * (real(1.0) - w)
        place[k] = w * w * (real(3.0) - real(2.0) * w)


@njit(nogil=True, cache=True, error_model="numpy")
def _fetch(table, index, got, corners, unroll):
    """The rows of a group: `got[(c * GROUP + i) * f + feature]`."""
    n = U(len(unroll))
    for k in range(U(len(corners)) * _G):
        copy_row(table, U(index[k]) * n, got, k * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _blend(got, place, columns, at, corners, unroll):
    """Interpolate the rows of a group into `columns[(at + i) * f + feature]`."""
    n = U(len(unroll))
    for i in range(_G):
        w0, w1 = place[i], place[_G + i]
        for ff in range(len(unroll)):
            k = i * n + U(ff)
            a, b, c, d = got[k], got[_G * n + k], got[_G2 * n + k], got[_G3 * n + k]
            a += w0 * (b - a)
            c += w0 * (d - c)
            a += w1 * (c - a)
            if len(corners) == 8:
                e, g, h, j = got[_G4 * n + k], got[_G5 * n + k], got[_G6 * n + k], got[_G7 * n + k]
                e += w0 * (g - e)
                h += w0 * (j - h)
                e += w1 * (h - e)
                a += place[_G2 + i] * (e - a)
            columns[(at + i) * n + U(ff)] = a


# ---------------------------------------------------------------------------------------------- forward


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _bring(entries):
    """Read one number of each cache line: in order, that takes a fraction of what the misses of scattered reads do."""
    total, line = entries.dtype.type(0.0), U(64 // entries.itemsize)
    for at in range(U(0), U(entries.shape[0]), line):
        total += entries[at]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def encode_columns(xs, count, inside, cold, table, grid, dense, smooth, low, high, columns, scratch, corners, unroll):
    """Points by axis -> features of levels low ... high, `columns[((level - low) * STRIDE + i) * f + feature]`.

    cold: the table was not read lately, so that it pays to bring the levels of which many rows are read.
    """
    scales, resolutions, offsets = grid
    n = U(len(unroll))
    index, place, slope, got = scratch
    for level in range(low, high):
        rows = offsets[level + 1] - offsets[level]
        entries = table[U(offsets[level]) * n : U(offsets[level + 1]) * n]
        column = columns[U(level - low) * STRIDE * n : U(level - low + 1) * STRIDE * n]
        if cold and count * U(len(corners)) * U(64 // entries.itemsize) > U(len(entries)):  # a read for each line
            got[0] = _bring(entries)  # or the compiler would leave it out
        for first in range(U(0), count, _G):
            _rows(xs, first, scales[level], resolutions[level], rows, dense[level], inside, index, place, corners)
            if smooth:
                _smooth(place, slope, len(xs) // PIECE)
            _fetch(entries, index, got, corners, unroll)
            _blend(got, place, column, first, corners, unroll)


@njit(nogil=True, cache=True, error_model="numpy")
def encode_scratch(xs, corners, unroll):
    """What `encode_columns` works with: rows of the table, places and slopes, what was read."""
    real = xs.dtype
    return (
        np.empty(len(corners) * _GROUP, np.uint32),
        np.empty(3 * _GROUP, real),
        np.empty(3 * _GROUP, real),
        np.empty(len(corners) * _GROUP * len(unroll), real),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def copy_features(columns, i, out, line, levels, unroll):
    """The features of point i as a row of `out`, from the number `line` on."""
    n = U(len(unroll))
    for level in range(U(levels)):
        copy_row(columns, (level * STRIDE + i) * n, out, line + level * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy")
def _store_rows(columns, begin, count, levels, low, high, out, unroll):
    """The features of levels low ... high of a piece, to its rows of `out` from row `begin` on."""
    n, wide, side = U(len(unroll)), U(levels), U(SIDE)
    first, some, whole = U(low), U(high - low), U(0)
    if len(unroll) * columns.itemsize == 8 and some == side:  # a row of the table is as long as one number
        whole = count // side * side
        source, target = columns.view(np.float64), out.view(np.float64)
        for i in range(U(0), whole, side):
            transpose(source, i, STRIDE, target, (begin + i) * wide + first, wide)
    for i in range(whole, count):
        for level in range(some):
            copy_row(columns, (level * STRIDE + i) * n, out, ((begin + i) * wide + first + level) * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _encode(x, tables, out, grid, dense, smooth, pieces, lo, hi, corners, unroll):
    levels = grid[0].shape[0]
    xs = np.empty(x.shape[1] * PIECE, x.dtype)
    scratch = encode_scratch(xs, corners, unroll)
    columns, before = np.empty(SIDE * PITCH * len(unroll), x.dtype), -1
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        owner = scene if tables.shape[0] > 1 else 0
        inside, cold = _load(x, begin, end, xs), owner != before
        count, before = U(end - begin), owner
        # Some levels at a time: their columns stay in the cache, and of each row a cache line is written at once.
        for low in range(0, levels, SIDE):
            high = min(low + SIDE, levels)
            encode_columns(
                xs, count, inside, cold, tables[owner], grid, dense, smooth, low, high, columns, scratch, corners,
                unroll,
            )  # fmt: skip
            _store_rows(columns, U(begin), count, levels, low, high, out, unroll)


# --------------------------------------------------------------------------------------------- backward


@njit(nogil=True, cache=True, error_model="numpy")
def _load_rows(grad, begin, end, levels, low, high, pulls, unroll):
    """Cotangents `grad[(i * levels + level) * f + feature]` of points begin ... end and levels low ... high, by level:
    `pulls[((level - first) * STRIDE + i) * f + feature]`, zeros up to a whole group; returns `first`, at most low."""
    n, wide, side, count = U(len(unroll)), U(levels), U(SIDE), U(end - begin)
    some = U(high - low)
    blocks, whole = U(0), U(0)
    if len(unroll) * grad.itemsize == 8:
        if (some + side - U(1)) // side * side <= wide:  # eight by eight, be it more levels than are asked for
            some = (some + side - U(1)) // side * side
            low = min(low, levels - int(some))
        blocks, whole = some // side * side, count // side * side
        source, target = grad.view(np.float64), pulls.view(np.float64)
        for i in range(U(0), whole, side):
            for level in range(U(0), blocks, side):
                place = (U(begin) + i) * wide + U(low) + level
                transpose(source, place, wide, target, level * STRIDE + i, STRIDE)
    for i in range(count):
        for level in range(blocks if i < whole else U(0), some):
            place = ((U(begin) + i) * wide + U(low) + level) * n
            copy_row(grad, place, pulls, (level * STRIDE + i) * n, unroll)
    for level in range(some):
        for k in range((level * STRIDE + count) * n, (level * STRIDE + (count + _G - U(1)) // _G * _G) * n):
            pulls[k] = 0.0
    return low


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _share(pulls, at, place, shares, corners, unroll):
    """What each corner of a group gets: `shares[(c * GROUP + i) * f + feature]`."""
    n = U(len(unroll))
    for i in range(_G):
        w0, w1 = place[i], place[_G + i]
        for ff in range(len(unroll)):
            f = U(ff)
            whole = pulls[(at + i) * n + f]
            b = whole * w0
            a = whole - b
            c, d = a * w1, b * w1
            a, b = a - c, b - d
            if len(corners) == 8:
                w2 = place[_G2 + i]
                e, g, h, j = a * w2, b * w2, c * w2, d * w2
                a, b, c, d = a - e, b - g, c - h, d - j
                shares[(_G4 + i) * n + f], shares[(_G5 + i) * n + f] = e, g
                shares[(_G6 + i) * n + f], shares[(_G7 + i) * n + f] = h, j
            shares[i * n + f], shares[(_G + i) * n + f] = a, b
            shares[(_G2 + i) * n + f], shares[(_G3 + i) * n + f] = c, d


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _scatter(x, grad, tables, grid, dense, smooth, bounds, tasks, lo, hi, corners, unroll):
    """A task is some levels of a scene: it owns their rows, so that no two tasks add to the same number."""
    scales, resolutions, offsets = grid
    n = U(len(unroll))
    xs, place, slope = np.empty(3 * PIECE, x.dtype), np.empty(3 * _GROUP, x.dtype), np.empty(3 * _GROUP, x.dtype)
    index, levels = np.empty(len(corners) * _GROUP, np.uint32), scales.shape[0]
    pulls = np.empty(levels * PITCH * len(unroll), x.dtype)
    shares = np.empty(len(corners) * _GROUP * len(unroll), x.dtype)
    for number in range(lo, hi):
        scene, low, high = tasks[number]
        table = tables[scene]
        table[offsets[low] * len(unroll) : offsets[high] * len(unroll)] = 0.0
        for begin in range(bounds[scene], bounds[scene + 1], PIECE // 2):
            end = min(begin + PIECE // 2, bounds[scene + 1])
            inside = _load(x, begin, end, xs)
            base = _load_rows(grad, begin, end, levels, low, high, pulls, unroll)
            for level in range(low, high):
                rows = offsets[level + 1] - offsets[level]
                entries = table[U(offsets[level]) * n : U(offsets[level + 1]) * n]
                for first in range(U(0), U(end - begin), _G):
                    _rows(
                        xs, first, scales[level], resolutions[level], rows, dense[level], inside, index, place, corners
                    )
                    if smooth:
                        _smooth(place, slope, x.shape[1])
                    _share(pulls, U(level - base) * STRIDE + first, place, shares, corners, unroll)
                    for k in range(U(len(corners)) * _G):
                        add_row(shares, k * n, entries, U(index[k]) * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _slope(got, pulls, start, place, slope, gradient, at, corners, unroll):
    """Add the gradient of a group of points by axis, `gradient[d * PIECE + at + i]`."""
    n, zero = U(len(unroll)), place.dtype.type(0.0)
    for i in range(_G):
        a = b = c = d = e = g = h = j = zero  # corners: what they hold times what is asked of it
        for ff in range(len(unroll)):
            w, k = pulls[(start + i) * n + U(ff)], i * n + U(ff)
            a += w * got[k]
            b += w * got[_G * n + k]
            c += w * got[_G2 * n + k]
            d += w * got[_G3 * n + k]
            if len(corners) == 8:
                e += w * got[_G4 * n + k]
                g += w * got[_G5 * n + k]
                h += w * got[_G6 * n + k]
                j += w * got[_G7 * n + k]
        w0, w1 = place[i], place[_G + i]
        along0, other0 = (b - a) + w1 * ((d - c) - (b - a)), (g - e) + w1 * ((j - h) - (g - e))
        low, high = a + w0 * (b - a), c + w0 * (d - c)
        if len(corners) == 8:
            w2 = place[_G2 + i]
            low2, high2 = e + w0 * (g - e), h + w0 * (j - h)
            middle, middle2 = low + w1 * (high - low), low2 + w1 * (high2 - low2)
            gradient[_P + _P + at + i] += slope[_G2 + i] * (middle2 - middle)
            along0 += w2 * (other0 - along0)
            low, high = low + w2 * (low2 - low), high + w2 * (high2 - high)
        gradient[at + i] += slope[i] * along0
        gradient[_P + at + i] += slope[_G + i] * (high - low)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _differentiate(x, tables, grad, grad_x, grid, dense, smooth, pieces, lo, hi, corners, unroll):
    scales, resolutions, offsets = grid
    n = U(len(unroll))
    xs, place, slope = np.empty(3 * PIECE, x.dtype), np.empty(3 * _GROUP, x.dtype), np.empty(3 * _GROUP, x.dtype)
    index, got = np.empty(len(corners) * _GROUP, np.uint32), np.empty(len(corners) * _GROUP * len(unroll), x.dtype)
    levels, gradient = scales.shape[0], np.empty(3 * PIECE, x.dtype)
    pulls = np.empty(levels * PITCH * len(unroll), x.dtype)
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        table = tables[scene if tables.shape[0] > 1 else 0]
        inside = _load(x, begin, end, xs)
        _load_rows(grad, begin, end, levels, 0, levels, pulls, unroll)
        gradient[:] = 0.0
        for level in range(levels):
            rows = offsets[level + 1] - offsets[level]
            entries = table[U(offsets[level]) * n : U(offsets[level + 1]) * n]
            for first in range(U(0), U(end - begin), _G):
                _rows(xs, first, scales[level], resolutions[level], rows, dense[level], inside, index, place, corners)
                if smooth:
                    _smooth(place, slope, x.shape[1])
                    for k in range(3 * _GROUP):
                        slope[k] *= scales[level]
                else:
                    slope[:] = scales[level]
                _fetch(entries, index, got, corners, unroll)
                _slope(got, pulls, U(level) * STRIDE + first, place, slope, gradient, first, corners, unroll)
        for i in range(U(end - begin)):
            for d in range(x.shape[1]):
                grad_x[U(begin) + i, d] = gradient[U(d) * _P + i]


# -------------------------------------------------------------------------------------------- operators


class Grid:
    """The grid's numbers as arrays, in the dtype of the points, and the tuples that kernels are compiled for."""

    def __init__(self, dtype, scales, resolutions, offsets, dims, features):
        rows = np.array(offsets, np.int64)
        self.arrays = np.array(scales, dtype), np.array(resolutions, np.int64), rows
        self.dense = np.array([n >= r**dims for n, r in zip(np.diff(rows).tolist(), resolutions, strict=True)])
        self.corners, self.unroll = (0,) * 2**dims, (0,) * features


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
    out = x.new_empty(x.shape[0], len(scales) * table.shape[2])
    points, tables, result = x.detach().contiguous().numpy(), flat(table), out.numpy().reshape(-1)
    grid = Grid(points.dtype, scales, resolutions, offsets, x.shape[1], table.shape[2])
    pieces = pieces_of(starts_of(counts), PIECE)

    def task(lo: int, hi: int) -> None:
        _encode(
            points, tables, result, grid.arrays, grid.dense, smoothstep, pieces, lo, hi,
            grid.corners, grid.unroll,
        )  # fmt: skip

    parallel(task, len(pieces))
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
    levels = len(scales)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    grad_table = torch.empty_like(table, memory_format=torch.contiguous_format) if need_table else x.new_empty(0)
    points, cotangent = x.detach().contiguous().numpy(), grad.detach().contiguous().numpy().reshape(-1)
    grid = Grid(points.dtype, scales, resolutions, offsets, x.shape[1], features)
    starts = starts_of(counts)
    if need_table:
        tables = flat(grad_table)
        bounds = starts if scenes > 1 else starts[[0, -1]]
        # Several levels a task, since the cotangents of a point lie side by side; fewer where scenes are few.
        parts = min(max(2 * kernel_threads() // max(scenes, 1), 1), levels)
        cuts = [levels * part // parts for part in range(parts + 1)]
        tasks = np.array([(s, *cut) for s in range(scenes) for cut in itertools.pairwise(cuts)], np.int64).reshape(
            -1, 3
        )

        def scatter(lo: int, hi: int) -> None:
            _scatter(
                points, cotangent, tables, grid.arrays, grid.dense, smoothstep, bounds, tasks, lo, hi,
                grid.corners, grid.unroll,
            )  # fmt: skip

        parallel(scatter, len(tasks))
    if need_x:
        tables, result, pieces = flat(table), grad_x.numpy(), pieces_of(starts, PIECE)

        def differentiate(lo: int, hi: int) -> None:
            _differentiate(
                points, tables, cotangent, result, grid.arrays, grid.dense, smoothstep, pieces, lo, hi,
                grid.corners, grid.unroll,
            )  # fmt: skip

        parallel(differentiate, len(pieces))
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


@region("hash_encode, backward")
def _encode_backward(ctx, grad):
    x, table, counts = ctx.saved_tensors
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_x, grad_table = hash_encode_cpu_backward(grad, x, table, counts, *ctx.grid, need_x, need_table)
    return grad_x if need_x else None, grad_table if need_table else None, None, None, None, None, None


hash_encode_cpu.register_autograd(_encode_backward, setup_context=_encode_context)


class _Encoded(torch.autograd.Function):
    """Not an operator of torch's, which must not return its input.

    Its backward is one, and recorded as such: a second derivative raises as that of `hash_encode_cpu` does.
    """

    @staticmethod
    def forward(ctx, x, table, counts, encoded, *grid):
        ctx.grid = grid
        ctx.save_for_backward(x, table, counts)
        return encoded.view_as(encoded)

    @staticmethod
    def backward(ctx, grad):
        return *_encode_backward(ctx, grad), None


def encoded_cpu(x: Tensor, table: Tensor, counts: Tensor, encoded: Tensor, *grid: object) -> Tensor:
    """`hash_encode_cpu` whose answer is known already: what is left is its backward."""
    result: Tensor = _Encoded.apply(x, table, counts, encoded, *grid)
    return result


def flat(tensor: Tensor) -> np.ndarray:
    """[s, ...] -> numpy [s, numbers]."""
    return tensor.detach().contiguous().flatten(1).numpy()
