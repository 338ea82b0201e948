"""`encode_mlp_error` and `pixel_error`: errors of all scenes together with their gradients, each in one kernel.

Of the first, a task is a scene: its table, its network and the gradients of both stay in the cache from the first point
to the last, and what lies between the points and their errors never reaches memory.
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
    encode_columns,
    encode_scratch,
    flat,
    lengths_of,
    load_points,
    scatter_columns,
)
from hyperfields.ops._cpu.mlp import (
    TILE,
    hidden_size,
    mlp_tile,
    mlp_tile_backward,
    pack_scene,
    packed_size,
    unpack_piece,
    widest,
)
from hyperfields.ops._cpu.operators import with_gradients
from hyperfields.ops._cpu.threads import parallel
from hyperfields.ops._cpu.vectors import FASTMATH, u64
from hyperfields.ops.grid import GridSpec

POINTS_AT_ONCE = ENCODE_POINTS // 2


class Network(NamedTuple):
    """Networks of the scenes, and what is asked of their answers."""

    params: np.ndarray  # [s p]
    sizes: np.ndarray  # widths
    packed: int  # numbers of a packed network
    hidden: int  # numbers of a tile's activations
    slope: np.floating
    shift: np.floating  # added to what comes out
    width: np.floating  # of the relative error; 0: squared


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _load_features(columns, first, count, levels, tile, unroll):
    """tile[level * f + feature, p], from the features by level of `count` points from `first` on; zeros beyond."""
    n = u64(len(unroll))
    for level in range(u64(levels)):
        for f in range(n):
            row, start = (level * n + f) * TILE, (level * STRIDE + first) * n + f
            for p in range(count):
                tile[row + p] = columns[start + p * n]
            for p in range(count, TILE):
                tile[row + p] = 0.0
    for k in range(u64(levels) * n * TILE, (u64(levels) * n + u64(3)) // u64(4) * u64(4) * TILE):
        tile[k] = 0.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _store_features(tile, first, levels, columns, unroll):
    """The reverse of `_load_features`."""
    n = u64(len(unroll))
    for level in range(u64(levels)):
        for f in range(n):
            row, start = (level * n + f) * TILE, (level * STRIDE + first) * n + f
            for p in range(TILE):
                columns[start + p * n] = tile[row + p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _errors(tile, target, begin, count, outputs, shift, width, share):
    """Sum of the errors of a tile of answers, `tile[j, p]`, which become their cotangents times `share`."""
    zero, one, two = tile.dtype.type(0.0), tile.dtype.type(1.0), tile.dtype.type(2.0)
    total = 0.0
    for j in range(u64(outputs)):
        row = j * TILE
        for p in range(u64(count)):
            wanted = target[u64(begin) + p, j]
            off = tile[row + p] + shift - wanted
            if width == zero:
                total += float(off * off)
                tile[row + p] = two * off * share
            else:
                scale = one / (abs(wanted) + width)
                total += float(abs(off) * scale)
                tile[row + p] = off if off == zero or off != off else np.copysign(scale * share, off)
        for p in range(u64(count), TILE):
            tile[row + p] = zero
    for k in range(u64(outputs) * TILE, (u64(outputs) + u64(3)) // u64(4) * u64(4) * TILE):
        tile[k] = zero
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _scenes_errors(
    x, target, each, tables, grid, network, share, sums, grad_tables, grad_params, lo, hi, corners, unroll
):
    """x [s * each, d], target [s * each, c]. share: of a single error in the mean."""
    sizes, levels = network.sizes, grid.scales.shape[0]
    room, outputs = widest(sizes) * int(TILE), sizes[sizes.shape[0] - 1]
    xs = np.empty(x.shape[1] * ENCODE_POINTS, x.dtype)
    scratch = encode_scratch(xs, corners, unroll)
    columns = np.empty(levels * COLUMN_PITCH * len(unroll), x.dtype)
    source, above, below = np.empty(room, x.dtype), np.empty(room, x.dtype), np.empty(room, x.dtype)
    hidden = np.empty(network.hidden, x.dtype)
    weights, transposed = np.zeros(network.packed, x.dtype), np.zeros(network.packed, x.dtype)
    for scene in range(lo, hi):
        pack_scene(network.params[scene], sizes, weights, False)
        pack_scene(network.params[scene], sizes, transposed, True)
        partial, total = np.zeros(network.packed, x.dtype), 0.0
        grad_tables[scene] = 0.0
        for begin in range(scene * each, (scene + 1) * each, POINTS_AT_ONCE):
            end = min(begin + POINTS_AT_ONCE, (scene + 1) * each)
            count, inside, cold = u64(end - begin), load_points(x, begin, end, xs), begin == scene * each
            encode_columns(
                xs, count, inside, cold, tables[scene], grid, 0, levels, columns, scratch, corners,
                unroll,
            )  # fmt: skip
            for first in range(begin, end, int(TILE)):
                place, points = u64(first - begin), min(int(TILE), end - first)
                _load_features(columns, place, u64(points), levels, source, unroll)
                mlp_tile(source, weights, sizes, network.slope, hidden, above)
                total += _errors(above, target, first, points, outputs, network.shift, network.width, share)
                pull = mlp_tile_backward(
                    source, hidden, transposed, sizes, network.slope, partial, True, above, below
                )  # fmt: skip
                _store_features(pull, place, levels, columns, unroll)
            scatter_columns(
                xs, count, inside, columns, 0, grad_tables[scene], grid, 0, levels, scratch, corners,
                unroll,
            )  # fmt: skip
        grad_params[scene] = 0.0
        unpack_piece(partial, sizes, grad_params[scene])
        sums[scene] = total


def encode_mlp_error_cpu(
    table: Tensor,
    params: Tensor,
    x: Tensor,
    target: Tensor,
    grid: GridSpec,
    sizes: list[int],
    slope: float,
    shift: float,
    width: float,
) -> tuple[Tensor, ...]:
    """Mean error [] and its gradients in table [s rows f] and params [s p]; x [s n d], target [s n c]."""
    points = x.detach().contiguous().numpy()
    scenes, each, dims = points.shape
    real, share = points.dtype.type, 1.0 / target.numel()
    layout = Grid.of(points.dtype, grid.scales, grid.resolutions, grid.offsets, grid.smoothstep, dims)
    network = Network(
        params.detach().contiguous().numpy(), np.array(sizes, np.int64), packed_size(sizes), max(hidden_size(sizes), 1),
        real(slope), real(shift), real(width),
    )  # fmt: skip
    gradients = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (table, params)]
    wanted = target.detach().contiguous().numpy().reshape(-1, sizes[-1])
    tables, rows, sums = flat(table), points.reshape(-1, dims), np.empty(scenes)
    results, lengths = [flat(gradient) for gradient in gradients], lengths_of(dims, table.shape[2])

    def task(lo: int, hi: int) -> None:
        _scenes_errors(
            rows, wanted, each, tables, layout, network, real(share), sums, *results, lo, hi,
            *lengths,
        )  # fmt: skip

    parallel(task, scenes)
    return table.new_tensor(sums.sum() * share), *gradients


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def pixels_errors(rgb, alpha, rgba, haze, share, grad_rgb, grad_alpha):
    """Sum of the errors of rays, rgb [r 3], alpha [r] and rgba [r 4]. share: of a single error in the mean."""
    third, zero, total = rgb.dtype.type(1.0 / 3.0), rgb.dtype.type(0.0), 0.0
    for ray in range(alpha.shape[0]):
        denser, white, squares = alpha[ray] - rgba[ray, 3], zero, zero
        for c in range(3):
            on_black = rgb[ray, c] - rgba[ray, c] * rgba[ray, 3]
            on_white = on_black - denser
            squares += on_black * on_black + on_white * on_white
            white += on_white
            grad_rgb[ray, c] = third * (on_black + on_white) * share
        sign = denser if denser == zero or denser != denser else np.copysign(haze, denser)
        grad_alpha[ray] = (sign - third * white) * share
        total += float(0.5 * third * squares + haze * abs(denser))
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _scenes_pixels_errors(rgb, alpha, rgba, haze, share, sums, grad_rgb, grad_alpha, lo, hi):
    """rgb [s r 3], alpha [s r], rgba [s r 4]."""
    for scene in range(lo, hi):
        sums[scene] = pixels_errors(
            rgb[scene], alpha[scene], rgba[scene], haze, share, grad_rgb[scene], grad_alpha[scene]
        )


def pixel_error_cpu(rgb: Tensor, alpha: Tensor, rgba: Tensor, haze: float) -> tuple[Tensor, ...]:
    """Mean error [] and its gradients in rgb [s r 3] and alpha [s r]; rgba [s r 4]."""
    inputs = [part.detach().contiguous().numpy() for part in (rgb, alpha, rgba)]
    gradients = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (rgb, alpha)]
    results, sums, share = [part.numpy() for part in gradients], np.empty(len(rgb)), 1.0 / alpha.numel()
    settings = inputs[0].dtype.type(haze), inputs[0].dtype.type(share)
    parallel(
        lambda lo, hi: _scenes_pixels_errors(*inputs, *settings, sums, *results, lo, hi), len(rgb), 2 * rgba.numel()
    )
    return rgb.new_tensor(sums.sum() * share), *gradients


encode_mlp_error_cpu = with_gradients(encode_mlp_error_cpu, 2)
pixel_error_cpu = with_gradients(pixel_error_cpu, 2)
