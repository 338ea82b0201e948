"""`emission`: from what the density network says to density and colour, a tile at a time.

Forward keeps nothing: backward runs the colour network of a tile again, which costs less than to write its
activations to memory and to read them back.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.mlp import (
    PIECE,
    TILE,
    hidden_size,
    load_tile,
    mlp_tile,
    mlp_tile_backward,
    pack_all,
    store_tile,
    unpack_add,
    widest,
)
from hyperfields.ops._cpu.rays import exp_minus_one
from hyperfields.ops._cpu.threads import FAST, U, parallel, pieces_of, starts_of
from hyperfields.ops.profiling import region
from hyperfields.ops.spherical_harmonics import BANDS

_band0, _band1, _band2, _band3 = (njit(nogil=True, fastmath=FAST)(band) for band in BANDS)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _directions(d, begin, count, degree, tile, row):
    """Spherical harmonics of the directions of a tile, one a row from `row` on; zeros beyond `count`."""
    at, n = U(row) * TILE, TILE
    for p in range(U(0), U(count)):
        k = at + p
        x, y, z = d[U(begin) + p, 0], d[U(begin) + p, 1], d[U(begin) + p, 2]
        (tile[k],) = _band0(x, y, z)
        if degree > 1:
            tile[k + n], tile[k + U(2) * n], tile[k + U(3) * n] = _band1(x, y, z)
        if degree > 2:
            k += U(4) * n
            tile[k], tile[k + n], tile[k + U(2) * n], tile[k + U(3) * n], tile[k + U(4) * n] = _band2(x, y, z)
        if degree > 3:
            k += U(5) * n
            (
                tile[k], tile[k + n], tile[k + U(2) * n], tile[k + U(3) * n], tile[k + U(4) * n], tile[k + U(5) * n],
                tile[k + U(6) * n],
            ) = _band3(x, y, z)  # fmt: skip
    for r in range(U(degree * degree)):
        for p in range(at + r * n + U(count), at + (r + U(1)) * n):
            tile[p] = 0.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _sigmoid(tile, rows, values, powers):
    for first in range(U(0), U(rows) * TILE, TILE):
        for p in range(TILE):
            values[p] = -tile[first + p]
        exp_minus_one(values, powers, TILE)
        for p in range(TILE):
            tile[first + p] = 1.0 / (2.0 + values[p])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _density(tile, ceiling, values, powers):
    """values[p] = exp(min(tile[0, p], ceiling))."""
    for p in range(TILE):
        values[p] = ceiling if tile[p] > ceiling else tile[p]  # NaN stays what it is
    exp_minus_one(values, powers, TILE)
    for p in range(TILE):
        values[p] += 1.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _scratch(real, sizes, said, hidden):
    """Room for a tile: what the density network said with the directions behind it, activations, colours, numbers."""
    room = (widest(sizes) + said + 4) * int(TILE)
    return np.zeros(room, real), np.empty(hidden, real), np.empty(room, real), np.empty(int(TILE)), np.empty(int(TILE))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _color(out, d, first, count, said, degree, weights, sizes, slope, scratch):
    """Load a tile and run the colour network on it: what went in, in `scratch[0]` from row 1 on, and colours."""
    tile, hidden, last, values, powers = scratch
    load_tile(out, first, count, said, tile)
    _directions(d, first, count, degree, tile, said)
    mlp_tile(tile[TILE:], weights, sizes, slope, hidden, last)
    _sigmoid(last, 3, values, powers)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _emit(out, d, said, degree, weights, sizes, slope, ceiling, density, rgb, room, pieces, lo, hi):
    scratch = _scratch(out.dtype, sizes, said, room)
    tile, _, last, values, powers = scratch
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        for first in range(begin, end, int(TILE)):
            count = min(int(TILE), end - first)
            _color(out, d, first, count, said, degree, weights[scene], sizes, slope, scratch)
            store_tile(last, first, count, 3, rgb)
            _density(tile, ceiling, values, powers)
            for p in range(U(count)):
                density[U(first) + p] = values[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def _emit_backward(
    out, d, said, degree, weights, flipped, sizes, slope, ceiling, g_density, g_rgb, g_out, partial, room,
    pieces, lo, hi,
):  # fmt: skip
    scratch = _scratch(out.dtype, sizes, said, room)
    tile, hidden, last, values, powers = scratch
    above, below, joined = np.zeros_like(last), np.empty_like(last), np.empty_like(last)
    one = out.dtype.type(1.0)
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        for first in range(begin, end, int(TILE)):
            count = min(int(TILE), end - first)
            _color(out, d, first, count, said, degree, weights[scene], sizes, slope, scratch)
            load_tile(g_rgb, first, count, 3, above)
            for k in range(U(3) * TILE):
                above[k] *= last[k] * (one - last[k])
            pull = mlp_tile_backward(
                tile[TILE:], hidden, flipped[scene], sizes, slope, partial[number], True, above, below
            )
            _density(tile, ceiling, values, powers)
            for p in range(U(count)):
                joined[p] = g_density[U(first) + p] * values[p]  # above the ceiling, too: see `truncated_exp`
            for k in range(TILE, U(said) * TILE):
                joined[k] = pull[k - TILE]
            store_tile(joined, first, count, said, g_out)


@torch.library.custom_op("hyperfields::emission_cpu", mutates_args=())
def emission_cpu(
    out: Tensor, d: Tensor, params: Tensor, counts: Tensor, sizes: list[int], degree: int, slope: float, ceiling: float
) -> tuple[Tensor, Tensor]:
    """out [m 1+g], d [m 3], params [s numbers] of the colour network -> density [m], colour [m 3]."""
    density, rgb = out.new_empty(out.shape[0]), out.new_empty(out.shape[0], 3)
    said, directions = out.detach().contiguous().numpy().reshape(-1), d.contiguous().numpy()
    weights, shape, real = pack_all(params, sizes, False), np.array(sizes, np.int64), said.dtype.type
    pieces, results = pieces_of(starts_of(counts), PIECE), (density.numpy(), rgb.numpy().reshape(-1))

    def task(lo: int, hi: int) -> None:
        _emit(
            said, directions, out.shape[1], degree, weights, shape, real(slope), real(ceiling), *results,
            hidden_size(sizes), pieces, lo, hi,
        )  # fmt: skip

    parallel(task, len(pieces))
    return density, rgb


@torch.library.custom_op("hyperfields::emission_cpu_backward", mutates_args=())
def emission_cpu_backward(
    g_density: Tensor, g_rgb: Tensor, out: Tensor, d: Tensor, params: Tensor, counts: Tensor, sizes: list[int],
    degree: int, slope: float, ceiling: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    g_out = torch.empty_like(out, memory_format=torch.contiguous_format)
    g_params = torch.zeros_like(params, memory_format=torch.contiguous_format)
    said, directions = out.detach().contiguous().numpy().reshape(-1), d.contiguous().numpy()
    weights, flipped = (pack_all(params, sizes, transposed) for transposed in (False, True))
    shape, real, pieces = np.array(sizes, np.int64), said.dtype.type, pieces_of(starts_of(counts), PIECE)
    partial = np.zeros((len(pieces), flipped.shape[1]), said.dtype)
    pulls = g_density.contiguous().numpy(), g_rgb.contiguous().numpy().reshape(-1)

    def task(lo: int, hi: int) -> None:
        _emit_backward(
            said, directions, out.shape[1], degree, weights, flipped, shape, real(slope), real(ceiling), *pulls,
            g_out.numpy().reshape(-1), partial, hidden_size(sizes), pieces, lo, hi,
        )  # fmt: skip

    parallel(task, len(pieces))
    unpack_add(partial, pieces, shape, g_params.numpy())
    return g_out, g_params


@emission_cpu.register_fake
def _(out, d, params, counts, sizes, degree, slope, ceiling):
    return out.new_empty(out.shape[0]), out.new_empty(out.shape[0], 3)


@emission_cpu_backward.register_fake
def _(g_density, g_rgb, out, d, params, counts, sizes, degree, slope, ceiling):
    return out.new_empty(out.shape), params.new_empty(params.shape)


def _emission_context(ctx, inputs, output):
    out, d, params, counts, *ctx.settings = inputs
    ctx.save_for_backward(out, d, params, counts)


@region("emission, backward")
def _emission_backward(ctx, g_density, g_rgb):
    g_out, g_params = emission_cpu_backward(g_density, g_rgb, *ctx.saved_tensors, *ctx.settings)
    return g_out, None, g_params, None, None, None, None, None


emission_cpu.register_autograd(_emission_backward, setup_context=_emission_context)
