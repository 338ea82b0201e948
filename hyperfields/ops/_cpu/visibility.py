"""`visible_samples`: from rays to the samples that can be seen, in one kernel from the march to the opacity.

A task is some rays of one scene, whose table then stays in the cache from the first sample to the last. Its rays take
turns, a few samples each, and a ray that is opaque takes no more. Tasks are small, since some scenes have far more
samples than others; what they find goes to rooms that are small, too: the C library gives a thread other than the first
large blocks page by page, and anew each time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.encode_kernels import (
    COLUMN_PITCH,
    ENCODE_POINTS,
    STRIDE,
    Grid,
    copy_features,
    encode_columns,
    encode_scratch,
    flat,
    lengths_of,
)
from hyperfields.ops._cpu.mlp import TILE, hidden_size, mlp_tile, pack_all, widest
from hyperfields.ops._cpu.rays import MARCH_STEPS, enter, exp_minus_one, march_scratch, marching, next_samples
from hyperfields.ops._cpu.threads import parallel, pieces_of, starts_of
from hyperfields.ops._cpu.vectors import FASTMATH, u64
from hyperfields.ops.space import Space

VISIBILITY_RAYS = 256  # of a task, at most
ROOM = 2**15  # samples that there is room for at first
POINTS_AT_ONCE = 2048  # points that are encoded at a time: their features and a table fit in L2


class DensityField(NamedTuple):
    """Grids and networks of the scenes."""

    tables: np.ndarray  # [s | 1, rows * f]
    grid: Grid
    weights: np.ndarray  # [s p] packed
    sizes: np.ndarray  # widths of the network
    hidden: int  # numbers of a tile's activations
    slope: np.floating
    ceiling: np.floating  # of the log density


class Visible(NamedTuple):
    """Room for samples, which come in the order in which they were computed."""

    owners: np.ndarray  # [m 2] int32: the ray, and the rank of the sample on it
    spans: np.ndarray  # [m 2] where each starts and ends
    features: np.ndarray  # [m * l*f]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _log_densities(columns, count, weights, sizes, slope, tiles, logs, unroll):
    """Fills `logs` with the log densities of `count` points, from their features by level, a tile at a time."""
    source, hidden, last = tiles
    n, levels = u64(len(unroll)), u64(sizes[0]) // u64(len(unroll))
    for first in range(u64(0), count, TILE):
        for level in range(levels):
            for f in range(n):
                row, start = (level * n + f) * TILE, (level * STRIDE + first) * n + f
                for p in range(TILE):
                    source[row + p] = columns[start + p * n]
        mlp_tile(source, weights, sizes, slope, hidden, last)
        for p in range(TILE):
            logs[first + p] = last[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _transparencies(logs, starts, stops, scales, contracted, ceiling, count, clear, powers):
    """clear[i] = exp(-length exp(min(log, ceiling))), the length in contracted space where that is asked for."""
    for i in range(count):
        clear[i] = min(logs[i], ceiling)
    exp_minus_one(clear, powers, count)
    for i in range(count):
        clear[i] = (clear[i] + 1.0) * (float(starts[i]) - float(stops[i]))
    if contracted:
        for i in range(count):
            clear[i] *= scales[i]
    exp_minus_one(clear, powers, count)
    for i in range(count):
        clear[i] += 1.0


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _contract(xs, count, scales):
    """Points of space, by axis, become points of the grid in [0, 1]; `scales`: contracted length over length."""
    one, half = xs.dtype.type(1.0), xs.dtype.type(0.5)
    second, third = u64(ENCODE_POINTS), u64(2 * ENCODE_POINTS)
    for i in range(u64(count)):
        size = max(max(abs(xs[i]), abs(xs[second + i])), max(abs(xs[third + i]), one))
        scales[i] = one / (size * size)
        size = half * ((one - half / size) / size)
        xs[i] = xs[i] * size + half
        xs[second + i] = xs[second + i] * size + half
        xs[third + i] = xs[third + i] * size + half


@njit(nogil=True, cache=True, error_model="numpy")
def _visible_samples(rays, cells, field, opaque, tasks, lo, hi, counts, visible, corners, unroll):
    """The first of the tasks lo ... hi that there is no more room for (hi: none), and the number of visible samples of
    those before it, which go to `visible`. counts [r]: how many each ray has.
    """
    origins, directions, tables, sizes = rays.origins, rays.directions, field.tables, field.sizes
    owners, spans, features = visible.owners, visible.spans, visible.features
    real, levels = origins.dtype, field.grid.scales.shape[0]
    width = sizes[0]
    xs = np.empty(3 * ENCODE_POINTS, real)
    scratch, turn = encode_scratch(xs, corners, unroll), march_scratch(origins)
    columns = np.empty(levels * COLUMN_PITCH * len(unroll), real)
    for level in range(levels):  # what lies beyond the points of a tile is computed with, too
        first = level * COLUMN_PITCH * len(unroll)
        columns[first : first + (POINTS_AT_ONCE + int(TILE)) * len(unroll)] = 0.0
    tiles = (
        np.zeros(widest(sizes) * int(TILE), real),
        np.empty(max(field.hidden, 1), real),
        np.empty(widest(sizes) * int(TILE), real),
    )
    logs, starts, stops = (
        np.empty(POINTS_AT_ONCE + int(TILE), real),
        np.empty(POINTS_AT_ONCE, real),
        np.empty(POINTS_AT_ONCE, real),
    )
    clear, powers, scales = np.empty(POINTS_AT_ONCE), np.empty(POINTS_AT_ONCE), np.empty(POINTS_AT_ONCE, real)
    # A point of the box is scaled at once, one of space is contracted first.
    stretch = real.type(1.0) if rays.contracted else real.type(0.5)
    moved = real.type(0.0) if rays.contracted else real.type(0.5)
    # Active rays (slot, next step, transmittance) and the rays of the current batch of points.
    alive, steps, through = (
        np.empty(VISIBILITY_RAYS, np.int64),
        np.empty(VISIBILITY_RAYS, np.int64),
        np.empty(VISIBILITY_RAYS),
    )
    ends = np.empty((VISIBILITY_RAYS, 3), real)
    who, begins = np.empty(POINTS_AT_ONCE + 1, np.int64), np.empty(POINTS_AT_ONCE + 1, np.int64)
    half, total, before = real.type(0.5), 0, -1
    for number in range(lo, hi):
        scene, begin, end = tasks[number]
        owner, finished = scene if tables.shape[0] > 1 else 0, total
        table, cold, before = tables[owner], owner != before, owner
        left = 0
        for ray in range(begin, end):
            counts[ray] = 0
            slot = ray - begin
            k, near, far, last = enter(rays, cells, scene, ray)
            if k >= 0:
                steps[slot], through[slot] = k, 1.0
                ends[slot, 0], ends[slot, 1], ends[slot, 2] = near, far, last
                alive[left] = slot
                left += 1
        while left > 0:
            # A turn: some samples of the rays that are left, as many rays at a time as there is room for.
            position, kept = 0, 0
            while position < left:
                if total + POINTS_AT_ONCE > owners.shape[0]:
                    return number, finished
                count, groups = 0, 0
                while position < left and count + MARCH_STEPS <= POINTS_AT_ONCE:
                    slot = alive[position]
                    position += 1
                    who[groups], begins[groups] = slot, count
                    near, far, last = ends[slot, 0], ends[slot, 1], ends[slot, 2]
                    steps[slot], count = next_samples(
                        rays, cells, scene, begin + slot, steps[slot], near, far, last, turn, starts, stops, count
                    )
                    groups += 1
                begins[groups] = count
                for group in range(groups):
                    ray = begin + who[group]
                    for d in range(3):
                        origin, direction, row = origins[ray, d], directions[ray, d], u64(d * ENCODE_POINTS)
                        for i in range(u64(begins[group]), u64(begins[group + 1])):
                            middle = half * (starts[i] + stops[i])
                            xs[row + i] = (origin + middle * direction) * stretch + moved
                if rays.contracted:
                    _contract(xs, count, scales)
                for d in range(3):
                    xs[u64(d * ENCODE_POINTS) + u64(count) : u64(d * ENCODE_POINTS) + u64(count) + u64(64)] = half
                encode_columns(
                    xs, u64(count), True, cold, table, field.grid, 0, levels, columns, scratch, corners, unroll
                )
                cold = False
                _log_densities(columns, u64(count), field.weights[scene], sizes, field.slope, tiles, logs, unroll)
                _transparencies(logs, starts, stops, scales, rays.contracted, field.ceiling, u64(count), clear, powers)
                for group in range(groups):
                    slot = who[group]
                    ray = begin + slot
                    for i in range(begins[group], begins[group + 1]):
                        if 1.0 - through[slot] >= opaque:
                            break
                        through[slot] *= clear[i]
                        owners[total, 0], owners[total, 1] = ray, counts[ray]
                        spans[total, 0], spans[total, 1] = starts[i], stops[i]
                        copy_features(columns, u64(i), features, u64(total) * u64(width), levels, unroll)
                        counts[ray] += 1
                        total += 1
                    if steps[slot] >= 0 and 1.0 - through[slot] < opaque:
                        alive[kept] = slot
                        kept += 1
            left = kept
    return hi, total


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(rays, first, visible, total, x, d, edges, encoded):
    """Copies samples to where they belong: those of a ray lie side by side, in the order of the rays."""
    origins, directions = rays.origins, rays.directions
    owners, spans, features = visible.owners, visible.spans, visible.features
    half = spans.dtype.type(0.5)
    width = encoded.shape[1]
    for i in range(total):
        ray = owners[i, 0]
        place = first[ray] + owners[i, 1]
        middle = half * (spans[i, 0] + spans[i, 1])
        edges[place, 0], edges[place, 1] = spans[i, 0], spans[i, 1]
        for axis in range(3):
            x[place, axis] = origins[ray, axis] + middle * directions[ray, axis]
            d[place, axis] = directions[ray, axis]
        for k in range(width):
            encoded[place, k] = features[i * width + k]


def _rays_of_task(per_scene: int) -> int:
    """Rays of a task, so that those of a scene are about equal."""
    return max(-(-per_scene // max(-(-per_scene // VISIBILITY_RAYS), 1)), 1)


def visible_samples_cpu(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor,
    table: Tensor,
    scales: tuple[float, ...],
    resolutions: tuple[int, ...],
    offsets: tuple[int, ...],
    smoothstep: bool,
    params: Tensor,
    sizes: list[int],
    slope: float,
    ceiling: float,
    opaque: float,
    space: Space,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Middles [m 3], directions [m 3], edges [m 2], counts [s*r] and features [m l*f] of rays [s r 3].

    Not differentiable.
    """
    scenes, per_scene = origins.shape[:2]
    rays, cells = marching(origins, directions, occupancy, step, offset, space)
    dtype, features = rays.offset.dtype, table.shape[2]
    grid = Grid.of(dtype, scales, resolutions, offsets, smoothstep, 3)
    field = DensityField(
        flat(table), grid, pack_all(params, sizes, False), np.array(sizes, np.int64), hidden_size(sizes),
        dtype.type(slope), dtype.type(ceiling),
    )  # fmt: skip
    counts = torch.zeros(scenes * per_scene, dtype=torch.int64)
    of_ray, parts = counts.numpy(), list[tuple[Visible, int]]()
    tasks = pieces_of(np.arange(scenes + 1) * per_scene, _rays_of_task(per_scene))

    def task(lo: int, hi: int) -> None:
        room, lengths = ROOM, lengths_of(3, features)
        while lo < hi:
            visible = Visible(
                np.empty((room, 2), np.int32), np.empty((room, 2), dtype), np.empty(room * sizes[0], dtype)
            )
            done, total = _visible_samples(rays, cells, field, opaque, tasks, lo, hi, of_ray, visible, *lengths)
            parts.append((visible, total))
            room, lo = room if done > lo else 2 * room, done

    parallel(task, len(tasks))
    first = starts_of(counts)
    outputs = [origins.new_empty(int(first[-1]), width) for width in (3, 3, 2, sizes[0])]
    arrays = [t.numpy() for t in outputs]

    def gather(lo: int, hi: int) -> None:
        for visible, total in parts[lo:hi]:
            _gather(rays, first, visible, total, *arrays)

    parallel(gather, len(parts))
    x, d, edges, encoded = outputs
    return x, d, edges, counts, encoded
