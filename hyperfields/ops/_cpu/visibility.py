"""`sight`: which samples of rays can be seen, in one kernel from the march to the opacity.

A task is some rays of one scene, whose table then stays in the cache from the first sample to the last. Its rays take
turns, a few samples each, and a ray that is opaque takes no more.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.encode import (
    PIECE,
    PITCH,
    STRIDE,
    Grid,
    copy_features,
    encode_columns,
    encode_scratch,
    flat,
)
from hyperfields.ops._cpu.mlp import TILE, hidden_size, mlp_tile, pack_all, widest
from hyperfields.ops._cpu.rays import GROUP, March, enter, exp_minus_one, march_scratch, next_samples
from hyperfields.ops._cpu.threads import FAST, U, parallel, starts_of

_RAYS = 1024  # of a task
_AT_ONCE = 2048  # points that are encoded at a time: their features and a table fit in L2


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _log_densities(columns, count, weights, sizes, slope, tiles, logs, unroll):
    """Features of `count` points by level -> what the network says of them, a tile at a time."""
    source, hidden, last = tiles
    n, levels = U(len(unroll)), U(sizes[0]) // U(len(unroll))
    for first in range(U(0), count, TILE):
        for level in range(levels):
            for f in range(n):
                row, start = (level * n + f) * TILE, (level * STRIDE + first) * n + f
                for p in range(TILE):
                    source[row + p] = columns[start + p * n]
        mlp_tile(source, weights, sizes, slope, hidden, last)
        for p in range(TILE):
            logs[first + p] = last[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _transparencies(logs, starts, stops, ceiling, count, clear, powers):
    """clear[i] = exp(-length exp(min(log, ceiling)))."""
    for i in range(count):
        clear[i] = min(logs[i], ceiling)
    exp_minus_one(clear, powers, count)
    for i in range(count):
        clear[i] = (clear[i] + 1.0) * (float(starts[i]) - float(stops[i]))
    exp_minus_one(clear, powers, count)
    for i in range(count):
        clear[i] += 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def _look(
    origins, directions, cells, side, low, high, step, offset,
    tables, grid, dense, smooth, weights, sizes, hidden, slope, ceiling, opaque,
    tasks, lo, hi, counts, owners, spans, features, corners, unroll,
):  # fmt: skip
    """The visible samples of tasks lo ... hi, in the order in which they were found; returns how many there are.

    owners [m 2]: the ray, and the number of the sample on it. counts [r]: how many each ray has.
    """
    real, levels = origins.dtype, grid[0].shape[0]
    width = sizes[0]
    xs = np.empty(3 * PIECE, real)
    scratch, turn = encode_scratch(xs, corners, unroll), march_scratch(origins)
    columns = np.zeros(levels * PITCH * len(unroll), real)
    tiles = (
        np.zeros(widest(sizes) * int(TILE), real),
        np.empty(max(hidden, 1), real),
        np.empty(widest(sizes) * int(TILE), real),
    )
    logs, starts, stops = np.empty(_AT_ONCE + int(TILE), real), np.empty(_AT_ONCE, real), np.empty(_AT_ONCE, real)
    clear, powers = np.empty(_AT_ONCE), np.empty(_AT_ONCE)
    # Rays under way: which, where each is and how much light is left; and those in the points at hand.
    alive, steps, through = np.empty(_RAYS, np.int64), np.empty(_RAYS, np.int64), np.empty(_RAYS)
    ends = np.empty((_RAYS, 3), real)
    who, begins = np.empty(_AT_ONCE + 1, np.int64), np.empty(_AT_ONCE + 1, np.int64)
    half, total, before = real.type(0.5), 0, -1
    for number in range(lo, hi):
        scene, begin, end = tasks[number]
        owner = scene if tables.shape[0] > 1 else 0
        table, cold, before = tables[owner], owner != before, owner
        left = 0
        for ray in range(begin, end):
            counts[ray] = 0
            slot = ray - begin
            k, near, far, last = enter(origins, directions, low, high, step, offset, scene, ray)
            if k >= 0:
                steps[slot], through[slot] = k, 1.0
                ends[slot, 0], ends[slot, 1], ends[slot, 2] = near, far, last
                alive[left] = slot
                left += 1
        while left > 0:
            # A turn: some samples of the rays that are left, as many rays at a time as there is room for.
            position, kept = 0, 0
            while position < left:
                count, groups = 0, 0
                while position < left and count + GROUP <= _AT_ONCE:
                    slot = alive[position]
                    position += 1
                    who[groups], begins[groups] = slot, count
                    near, far, last = ends[slot, 0], ends[slot, 1], ends[slot, 2]
                    steps[slot], count = next_samples(
                        origins, directions, cells, side, step, offset, scene, begin + slot,
                        steps[slot], near, far, last, turn, starts, stops, count,
                    )  # fmt: skip
                    groups += 1
                begins[groups] = count
                for group in range(groups):
                    ray = begin + who[group]
                    for d in range(3):
                        origin, direction, row = origins[ray, d], directions[ray, d], U(d * PIECE)
                        for i in range(U(begins[group]), U(begins[group + 1])):
                            middle = half * (starts[i] + stops[i])
                            xs[row + i] = (origin + middle * direction) * half + half
                for d in range(3):
                    xs[U(d * PIECE) + U(count) : U(d * PIECE) + U(count) + U(64)] = half
                encode_columns(
                    xs, U(count), True, cold, table, grid, dense, smooth, 0, levels, columns, scratch, corners, unroll
                )
                cold = False
                _log_densities(columns, U(count), weights[scene], sizes, slope, tiles, logs, unroll)
                _transparencies(logs, starts, stops, ceiling, U(count), clear, powers)
                for group in range(groups):
                    slot = who[group]
                    ray = begin + slot
                    for i in range(begins[group], begins[group + 1]):
                        if 1.0 - through[slot] >= opaque:
                            break
                        through[slot] *= clear[i]
                        owners[total, 0], owners[total, 1] = ray, counts[ray]
                        spans[total, 0], spans[total, 1] = starts[i], stops[i]
                        copy_features(columns, U(i), features, U(total) * U(width), levels, unroll)
                        counts[ray] += 1
                        total += 1
                    if steps[slot] >= 0 and 1.0 - through[slot] < opaque:
                        alive[kept] = slot
                        kept += 1
            left = kept
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(origins, directions, first, owners, spans, features, total, x, d, edges, encoded):
    """What was found, each sample where it belongs: those of a ray lie side by side, in the order of the rays."""
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


def sight_cpu(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Not differentiable. origins [s r 3] -> x [m 3], d [m 3], edges [m 2], counts [s*r], features [m l*f]."""
    scenes, rays = origins.shape[:2]
    plan = March.of(origins, directions, occupancy, step, offset)
    dtype = plan.offset.dtype
    grid = Grid(dtype, scales, resolutions, offsets, 3, table.shape[2])
    tables, weights, shape = flat(table), pack_all(params, sizes, False), np.array(sizes, np.int64)
    counts = torch.zeros(scenes * rays, dtype=torch.int64)
    numbers, real = counts.numpy(), dtype.type
    tasks = np.array(
        [
            (scene, scene * rays + begin, scene * rays + min(begin + _RAYS, rays))
            for scene in range(scenes)
            for begin in range(0, rays, _RAYS)
        ],
        np.int64,
    ).reshape(-1, 3)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []

    def task(lo: int, hi: int) -> None:
        # Room for all that there could be; memory that is not written to is not taken.
        most = int((tasks[lo:hi, 2] - tasks[lo:hi, 1]).sum()) * plan.longest
        owners, spans = np.empty((most, 2), np.int32), np.empty((most, 2), dtype)
        features = np.empty(most * sizes[0], dtype)
        total = _look(
            *plan.rays, *plan.cells, *plan.box, plan.step, plan.offset,
            tables, grid.arrays, grid.dense, smoothstep, weights, shape, hidden_size(sizes), real(slope), real(ceiling),
            opaque, tasks, lo, hi, numbers, owners, spans, features, grid.corners, grid.unroll,
        )  # fmt: skip
        found.append((owners, spans, features, total))

    parallel(task, len(tasks))
    first = starts_of(counts)
    outputs = [origins.new_empty(int(first[-1]), width) for width in (3, 3, 2, sizes[0])]
    arrays = [t.numpy() for t in outputs]

    def gather(lo: int, hi: int) -> None:
        for part in found[lo:hi]:
            _gather(*plan.rays, first, *part, *arrays)

    parallel(gather, len(found))
    x, d, edges, encoded = outputs
    return x, d, edges, counts, encoded
