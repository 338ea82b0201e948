"""Kernels of `hash_encode`: multilinear interpolation of table rows, and its gradients to tables and points.

Points are worked on in groups. For a group and a level, one vectorised loop finds the rows of all corners, one copies
those rows to scratch, and one vectorised loop blends them. The copy in between is what makes it fast: it is the only
loop whose addresses are not known in advance, and nothing in it waits for anything else. Levels are outside and groups
inside, since the table of one level may fit in the cache where those of all do not.

Scratch is flat, with rows at offsets that the compiler knows: only then does LLVM see that they do not overlap.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.vectors import FASTMATH, SIDE, add_row, copy_row, transpose, u64

u32 = np.uint32  # indices of table rows, with the wrap-around that the hash wants
_GROUP = 64
ENCODE_POINTS = 8192  # points of a task: their columns stay in L2 until they are written as rows
COLUMN_PITCH = ENCODE_POINTS + 64  # between columns: a power of two would put all of them into the same cache sets
_G, _P, STRIDE = u64(_GROUP), u64(ENCODE_POINTS), u64(COLUMN_PITCH)
_G2, _G3, _G4, _G5, _G6, _G7 = (u64(k * _GROUP) for k in range(2, 8))


class Grid(NamedTuple):
    """Layout of a table, in the dtype of the points."""

    scales: np.ndarray  # [l]
    resolutions: np.ndarray  # [l] int64
    offsets: np.ndarray  # [l + 1] int64, rows
    dense: np.ndarray  # [l] bool
    smooth: bool

    @staticmethod
    @functools.lru_cache
    def of(
        dtype: np.dtype, scales: tuple[float, ...], resolutions: tuple[int, ...], offsets: tuple[int, ...],
        smooth: bool, dims: int,
    ) -> Grid:  # fmt: skip
        """Layout as arrays, from the numbers of a `GridSpec`; kept, since every step asks for the same ones."""
        rows = np.array(offsets, np.int64)
        dense = [n >= r**dims for n, r in zip(np.diff(rows).tolist(), resolutions, strict=True)]
        return Grid(np.array(scales, dtype), np.array(resolutions, np.int64), rows, np.array(dense), smooth)


def lengths_of(dims: int, features: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`corners` and `unroll`, tuples whose lengths 2^d and f kernels are compiled for."""
    return (0,) * 2**dims, (0,) * features


def flat(tensor: Tensor) -> np.ndarray:
    """Tensor `[s ...]` as numpy `[s numbers]`."""
    return tensor.detach().contiguous().flatten(1).numpy()


# -------------------------------------------------------------------------------------------- one group


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def load_points(x, begin, end, xs):
    """True if points begin ... end are all in [0, 1]; they go to `xs[d * ENCODE_POINTS + i]`, zeros up to a group."""
    inside = True
    count = u64(end - begin)
    for d in range(x.shape[1]):
        row = u64(d) * _P
        for i in range(count):
            xs[row + i] = x[u64(begin) + i, d]
            inside = inside & (xs[row + i] >= 0.0) & (xs[row + i] <= 1.0)
        for i in range(row + count, row + (count + _G - u64(1)) // _G * _G):
            xs[i] = 0.0
    return inside


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _rows(xs, first, scale, resolution, rows, dense, inside, index, place, corners):
    """Rows of the corners of a group of points, `index[c * GROUP + i]`, and where in its cell each lies, `place`."""
    half = xs.dtype.type(0.5)
    one, last, mask = u32(1), u32(rows), u32(rows - 1)
    stride1 = u32(resolution) if dense else u32(2654435761)
    stride2 = u32(resolution * resolution) if dense else u32(805459861)
    if len(corners) == 8 and dense:
        for i in range(_G):
            p0, p1, p2 = (
                xs[first + i] * scale + half,
                xs[_P + first + i] * scale + half,
                xs[_P + _P + first + i] * scale + half,
            )
            f0, f1, f2 = np.floor(p0), np.floor(p1), np.floor(p2)
            place[i], place[_G + i], place[_G2 + i] = p0 - f0, p1 - f1, p2 - f2
            a = u32(u32(np.int32(f0)) + u32(np.int32(f1)) * stride1 + u32(np.int32(f2)) * stride2)
            b = u32(a + stride1)
            c, d = u32(a + stride2), u32(b + stride2)
            index[i], index[_G + i], index[_G2 + i], index[_G3 + i] = a, u32(a + one), b, u32(b + one)
            index[_G4 + i], index[_G5 + i], index[_G6 + i], index[_G7 + i] = c, u32(c + one), d, u32(d + one)
    elif len(corners) == 8:
        for i in range(_G):
            p0, p1, p2 = (
                xs[first + i] * scale + half,
                xs[_P + first + i] * scale + half,
                xs[_P + _P + first + i] * scale + half,
            )
            f0, f1, f2 = np.floor(p0), np.floor(p1), np.floor(p2)
            place[i], place[_G + i], place[_G2 + i] = p0 - f0, p1 - f1, p2 - f2
            a, b, c = u32(np.int32(f0)), u32(u32(np.int32(f1)) * stride1), u32(u32(np.int32(f2)) * stride2)
            a1, b1, c1 = u32(a + one), u32(b + stride1), u32(c + stride2)
            index[i], index[_G + i] = u32((a ^ b ^ c) & mask), u32((a1 ^ b ^ c) & mask)
            index[_G2 + i], index[_G3 + i] = u32((a ^ b1 ^ c) & mask), u32((a1 ^ b1 ^ c) & mask)
            index[_G4 + i], index[_G5 + i] = u32((a ^ b ^ c1) & mask), u32((a1 ^ b ^ c1) & mask)
            index[_G6 + i], index[_G7 + i] = u32((a ^ b1 ^ c1) & mask), u32((a1 ^ b1 ^ c1) & mask)
    else:
        for i in range(_G):
            p0, p1 = xs[first + i] * scale + half, xs[_P + first + i] * scale + half
            f0, f1 = np.floor(p0), np.floor(p1)
            place[i], place[_G + i] = p0 - f0, p1 - f1
            a, b = u32(np.int32(f0)), u32(u32(np.int32(f1)) * stride1)
            a1, b1 = u32(a + one), u32(b + stride1)
            if dense:
                index[i], index[_G + i], index[_G2 + i], index[_G3 + i] = (
                    u32(a + b),
                    u32(a1 + b),
                    u32(a + b1),
                    u32(a1 + b1),
                )
            else:
                index[i], index[_G + i] = u32((a ^ b) & mask), u32((a1 ^ b) & mask)
                index[_G2 + i], index[_G3 + i] = u32((a ^ b1) & mask), u32((a1 ^ b1) & mask)
    if dense and inside:  # a vertex on the far face lies at most one table length too far
        for k in range(u64(len(corners)) * _G):
            index[k] = min(index[k], u32(index[k] - last))
    elif dense:
        for k in range(u64(len(corners)) * _G):
            index[k] = index[k] % last


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _smooth(place, slope, axes):
    """Smoothstep of `place`, and its slope."""
    real = place.dtype.type
    for k in range(u64(axes) * _G):
        w = place[k]
        slope[k] = real(6.0) * w * (real(1.0) - w)
        place[k] = w * w * (real(3.0) - real(2.0) * w)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _fetch(table, index, fetched, corners, unroll):
    """The rows of a group: `fetched[(c * GROUP + i) * f + feature]`."""
    n = u64(len(unroll))
    for k in range(u64(len(corners)) * _G):
        copy_row(table, u64(index[k]) * n, fetched, k * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _blend(fetched, place, columns, at, corners, unroll):
    """Interpolate the rows of a group into `columns[(at + i) * f + feature]`."""
    n = u64(len(unroll))
    for i in range(_G):
        w0, w1 = place[i], place[_G + i]
        for ff in range(len(unroll)):
            k = i * n + u64(ff)
            a, b, c, d = fetched[k], fetched[_G * n + k], fetched[_G2 * n + k], fetched[_G3 * n + k]
            a += w0 * (b - a)
            c += w0 * (d - c)
            a += w1 * (c - a)
            if len(corners) == 8:
                e, g, h, j = fetched[_G4 * n + k], fetched[_G5 * n + k], fetched[_G6 * n + k], fetched[_G7 * n + k]
                e += w0 * (g - e)
                h += w0 * (j - h)
                e += w1 * (h - e)
                a += place[_G2 + i] * (e - a)
            columns[(at + i) * n + u64(ff)] = a


# ---------------------------------------------------------------------------------------------- forward


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _prefetch(entries):
    """Sum of one number of each cache line: sequential reads are several times cheaper than the misses of a gather."""
    total, line = entries.dtype.type(0.0), u64(64 // entries.itemsize)
    for at in range(u64(0), u64(entries.shape[0]), line):
        total += entries[at]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def encode_columns(xs, count, inside, cold, table, grid, low, high, columns, scratch, corners, unroll):
    """Points by axis -> features of levels low ... high, `columns[((level - low) * STRIDE + i) * f + feature]`.

    cold: the table was not read lately, so that it pays to prefetch the levels of which many rows are read.
    """
    scales, resolutions, offsets = grid.scales, grid.resolutions, grid.offsets
    n = u64(len(unroll))
    index, place, slope, fetched = scratch
    for level in range(low, high):
        rows = offsets[level + 1] - offsets[level]
        entries = table[u64(offsets[level]) * n : u64(offsets[level + 1]) * n]
        column = columns[u64(level - low) * STRIDE * n : u64(level - low + 1) * STRIDE * n]
        if cold and count * u64(len(corners)) * u64(64 // entries.itemsize) > u64(len(entries)):  # a read for each line
            fetched[0] = _prefetch(entries)  # or the compiler would leave it out
        for first in range(u64(0), count, _G):
            _rows(xs, first, scales[level], resolutions[level], rows, grid.dense[level], inside, index, place, corners)
            if grid.smooth:
                _smooth(place, slope, len(xs) // ENCODE_POINTS)
            _fetch(entries, index, fetched, corners, unroll)
            _blend(fetched, place, column, first, corners, unroll)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def encode_scratch(xs, corners, unroll):
    """Scratch of `encode_columns`: indices of table rows, places and slopes, the rows themselves."""
    real = xs.dtype
    return (
        np.empty(len(corners) * _GROUP, np.uint32),
        np.empty(3 * _GROUP, real),
        np.empty(3 * _GROUP, real),
        np.empty(len(corners) * _GROUP * len(unroll), real),
    )


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def copy_features(columns, i, out, line, levels, unroll):
    """The features of point i as a row of `out`, from the number `line` on."""
    n = u64(len(unroll))
    for level in range(u64(levels)):
        copy_row(columns, (level * STRIDE + i) * n, out, line + level * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _store_rows(columns, begin, count, levels, low, high, out, unroll):
    """The features of levels low ... high of a piece, to its rows of `out` from row `begin` on."""
    n, wide, side = u64(len(unroll)), u64(levels), u64(SIDE)
    first, some, whole = u64(low), u64(high - low), u64(0)
    if len(unroll) * columns.itemsize == 8 and some == side:  # a row of the table is as long as one number
        whole = count // side * side
        source, target = columns.view(np.float64), out.view(np.float64)
        for i in range(u64(0), whole, side):
            transpose(source, i, STRIDE, target, (begin + i) * wide + first, wide)
    for i in range(whole, count):
        for level in range(some):
            copy_row(columns, (level * STRIDE + i) * n, out, ((begin + i) * wide + first + level) * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def encode_points(x, tables, out, grid, pieces, lo, hi, corners, unroll):
    levels = grid.scales.shape[0]
    xs = np.empty(x.shape[1] * ENCODE_POINTS, x.dtype)
    scratch = encode_scratch(xs, corners, unroll)
    columns, before = np.empty(SIDE * COLUMN_PITCH * len(unroll), x.dtype), -1
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        owner = scene if tables.shape[0] > 1 else 0
        inside, cold = load_points(x, begin, end, xs), owner != before
        count, before = u64(end - begin), owner
        # Some levels at a time: their columns stay in the cache, and of each row a cache line is written at once.
        for low in range(0, levels, SIDE):
            high = min(low + SIDE, levels)
            encode_columns(
                xs, count, inside, cold, tables[owner], grid, low, high, columns, scratch, corners,
                unroll,
            )  # fmt: skip
            _store_rows(columns, u64(begin), count, levels, low, high, out, unroll)


# --------------------------------------------------------------------------------------------- backward


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _load_rows(grad, begin, end, levels, low, high, cotangents, unroll):
    """The first level that was loaded, at most `low`.

    Cotangents `grad[(i * levels + level) * f + feature]` of points begin ... end and levels low ... high go by level to
    `cotangents[((level - first) * STRIDE + i) * f + feature]`, with zeros up to a whole group.
    """
    n, wide, side, count = u64(len(unroll)), u64(levels), u64(SIDE), u64(end - begin)
    some = u64(high - low)
    blocks, whole = u64(0), u64(0)
    if len(unroll) * grad.itemsize == 8:
        if (some + side - u64(1)) // side * side <= wide:  # eight by eight, be it more levels than are asked for
            some = (some + side - u64(1)) // side * side
            low = min(low, levels - int(some))
        blocks, whole = some // side * side, count // side * side
        source, target = grad.view(np.float64), cotangents.view(np.float64)
        for i in range(u64(0), whole, side):
            for level in range(u64(0), blocks, side):
                place = (u64(begin) + i) * wide + u64(low) + level
                transpose(source, place, wide, target, level * STRIDE + i, STRIDE)
    for i in range(count):
        for level in range(blocks if i < whole else u64(0), some):
            place = ((u64(begin) + i) * wide + u64(low) + level) * n
            copy_row(grad, place, cotangents, (level * STRIDE + i) * n, unroll)
    for level in range(some):
        for k in range((level * STRIDE + count) * n, (level * STRIDE + (count + _G - u64(1)) // _G * _G) * n):
            cotangents[k] = 0.0
    return low


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _corner_gradients(cotangents, at, place, corner_grads, corners, unroll):
    """Gradient of each corner of a group, to `corner_grads[(c * GROUP + i) * f + feature]`."""
    n = u64(len(unroll))
    for i in range(_G):
        w0, w1 = place[i], place[_G + i]
        for ff in range(len(unroll)):
            f = u64(ff)
            whole = cotangents[(at + i) * n + f]
            b = whole * w0
            a = whole - b
            c, d = a * w1, b * w1
            a, b = a - c, b - d
            if len(corners) == 8:
                w2 = place[_G2 + i]
                e, g, h, j = a * w2, b * w2, c * w2, d * w2
                a, b, c, d = a - e, b - g, c - h, d - j
                corner_grads[(_G4 + i) * n + f], corner_grads[(_G5 + i) * n + f] = e, g
                corner_grads[(_G6 + i) * n + f], corner_grads[(_G7 + i) * n + f] = h, j
            corner_grads[i * n + f], corner_grads[(_G + i) * n + f] = a, b
            corner_grads[(_G2 + i) * n + f], corner_grads[(_G3 + i) * n + f] = c, d


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def scatter_columns(xs, count, inside, cotangents, base, table, grid, low, high, scratch, corners, unroll):
    """Adds cotangents of levels low ... high, `cotangents[((level - base) * STRIDE + i) * f + feature]`, to the rows of
    `table` that points by axis are interpolated from. Cotangents are 0 from `count` up to a whole group.
    """
    scales, resolutions, offsets = grid.scales, grid.resolutions, grid.offsets
    n = u64(len(unroll))
    index, place, slope, corner_grads = scratch
    for level in range(low, high):
        rows = offsets[level + 1] - offsets[level]
        entries = table[u64(offsets[level]) * n : u64(offsets[level + 1]) * n]
        for first in range(u64(0), count, _G):
            _rows(xs, first, scales[level], resolutions[level], rows, grid.dense[level], inside, index, place, corners)
            if grid.smooth:
                _smooth(place, slope, len(xs) // ENCODE_POINTS)
            _corner_gradients(cotangents, u64(level - base) * STRIDE + first, place, corner_grads, corners, unroll)
            for k in range(u64(len(corners)) * _G):
                add_row(corner_grads, k * n, entries, u64(index[k]) * n, unroll)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def scatter_gradients(x, grad, tables, grid, bounds, tasks, lo, hi, corners, unroll):
    """A task is some levels of a scene: it owns their rows, so that no two tasks add to the same number."""
    levels, offsets = grid.scales.shape[0], grid.offsets
    xs = np.empty(x.shape[1] * ENCODE_POINTS, x.dtype)
    scratch = encode_scratch(xs, corners, unroll)
    cotangents = np.empty(levels * COLUMN_PITCH * len(unroll), x.dtype)
    for number in range(lo, hi):
        scene, low, high = tasks[number]
        table = tables[scene]
        table[offsets[low] * len(unroll) : offsets[high] * len(unroll)] = 0.0
        for begin in range(bounds[scene], bounds[scene + 1], ENCODE_POINTS // 2):
            end = min(begin + ENCODE_POINTS // 2, bounds[scene + 1])
            inside = load_points(x, begin, end, xs)
            base = _load_rows(grad, begin, end, levels, low, high, cotangents, unroll)
            scatter_columns(
                xs, u64(end - begin), inside, cotangents, base, table, grid, low, high, scratch, corners,
                unroll,
            )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _slope(fetched, cotangents, start, place, slope, gradient, at, corners, unroll):
    """Add the gradient of a group of points by axis, `gradient[d * ENCODE_POINTS + at + i]`."""
    n, zero = u64(len(unroll)), place.dtype.type(0.0)
    for i in range(_G):
        a = b = c = d = e = g = h = j = zero  # corners: what they hold times what is asked of it
        for ff in range(len(unroll)):
            w, k = cotangents[(start + i) * n + u64(ff)], i * n + u64(ff)
            a += w * fetched[k]
            b += w * fetched[_G * n + k]
            c += w * fetched[_G2 * n + k]
            d += w * fetched[_G3 * n + k]
            if len(corners) == 8:
                e += w * fetched[_G4 * n + k]
                g += w * fetched[_G5 * n + k]
                h += w * fetched[_G6 * n + k]
                j += w * fetched[_G7 * n + k]
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


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def differentiate_points(x, tables, grad, grad_x, grid, pieces, lo, hi, corners, unroll):
    scales, resolutions, offsets = grid.scales, grid.resolutions, grid.offsets
    n = u64(len(unroll))
    xs, place, slope = (
        np.empty(3 * ENCODE_POINTS, x.dtype),
        np.empty(3 * _GROUP, x.dtype),
        np.empty(3 * _GROUP, x.dtype),
    )
    index, fetched = np.empty(len(corners) * _GROUP, np.uint32), np.empty(len(corners) * _GROUP * len(unroll), x.dtype)
    levels, gradient = scales.shape[0], np.empty(3 * ENCODE_POINTS, x.dtype)
    cotangents = np.empty(levels * COLUMN_PITCH * len(unroll), x.dtype)
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        table = tables[scene if tables.shape[0] > 1 else 0]
        inside = load_points(x, begin, end, xs)
        _load_rows(grad, begin, end, levels, 0, levels, cotangents, unroll)
        gradient[:] = 0.0
        for level in range(levels):
            rows = offsets[level + 1] - offsets[level]
            entries = table[u64(offsets[level]) * n : u64(offsets[level + 1]) * n]
            for first in range(u64(0), u64(end - begin), _G):
                _rows(
                    xs, first, scales[level], resolutions[level], rows, grid.dense[level], inside, index, place, corners
                )
                if grid.smooth:
                    _smooth(place, slope, x.shape[1])
                    for k in range(3 * _GROUP):
                        slope[k] *= scales[level]
                else:
                    slope[:] = scales[level]
                _fetch(entries, index, fetched, corners, unroll)
                _slope(fetched, cotangents, u64(level) * STRIDE + first, place, slope, gradient, first, corners, unroll)
        for i in range(u64(end - begin)):
            for d in range(x.shape[1]):
                grad_x[u64(begin) + i, d] = gradient[u64(d) * _P + i]
