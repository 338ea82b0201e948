"""`radiance_head`: density and colour from the outputs of the density network, a tile at a time.

Forward keeps nothing: backward runs the colour network of a tile again, which costs less than to write its
activations to memory and to read them back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.mlp import (
    MLP_POINTS,
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
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.rays import exp_minus_one
from hyperfields.ops._cpu.threads import parallel, pieces_of, starts_of
from hyperfields.ops._cpu.vectors import FASTMATH, u64
from hyperfields.ops.profiling import region
from hyperfields.ops.spherical_harmonics import BANDS

_band0, _band1, _band2, _band3 = (njit(nogil=True, fastmath=FASTMATH)(band) for band in BANDS)


class Head(NamedTuple):
    """Colour networks of the scenes, and the layout of what they read."""

    width: int  # outputs of the density network: log density and features
    degree: int  # of the spherical harmonics
    weights: np.ndarray  # [s p] packed
    transposed: np.ndarray  # the same, transposed; anything in the forward pass
    sizes: np.ndarray  # widths of the network
    hidden: int  # numbers of a tile's activations
    slope: np.floating
    ceiling: np.floating  # of the log density

    @classmethod
    def of(
        cls, out: Tensor, params: Tensor, sizes: list[int], degree: int, slope: float, ceiling: float, backward: bool
    ) -> Head:
        """Head from the arguments of an operator, in numpy's types."""
        weights, real = pack_all(params, sizes, False), out.detach().numpy().dtype.type
        transposed = pack_all(params, sizes, True) if backward else weights
        widths, hidden = np.array(sizes, np.int64), hidden_size(sizes)
        return cls(out.shape[1], degree, weights, transposed, widths, hidden, real(slope), real(ceiling))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def load_directions(d, begin, count, degree, tile, row):
    """Spherical harmonics of the directions of a tile, one a row from `row` on; zeros beyond `count`."""
    at, n = u64(row) * TILE, TILE
    for p in range(u64(0), u64(count)):
        k = at + p
        x, y, z = d[u64(begin) + p, 0], d[u64(begin) + p, 1], d[u64(begin) + p, 2]
        (tile[k],) = _band0(x, y, z)
        if degree > 1:
            tile[k + n], tile[k + u64(2) * n], tile[k + u64(3) * n] = _band1(x, y, z)
        if degree > 2:
            k += u64(4) * n
            tile[k], tile[k + n], tile[k + u64(2) * n], tile[k + u64(3) * n], tile[k + u64(4) * n] = _band2(x, y, z)
        if degree > 3:
            k += u64(5) * n
            (
                tile[k], tile[k + n], tile[k + u64(2) * n], tile[k + u64(3) * n], tile[k + u64(4) * n],
                tile[k + u64(5) * n], tile[k + u64(6) * n],
            ) = _band3(x, y, z)  # fmt: skip
    for r in range(u64(degree * degree)):
        for p in range(at + r * n + u64(count), at + (r + u64(1)) * n):
            tile[p] = 0.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def sigmoid_rows(tile, rows, values, powers):
    for first in range(u64(0), u64(rows) * TILE, TILE):
        for p in range(TILE):
            values[p] = -tile[first + p]
        exp_minus_one(values, powers, TILE)
        for p in range(TILE):
            tile[first + p] = 1.0 / (2.0 + values[p])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def densities(tile, ceiling, values, powers):
    """values[p] = exp(min(tile[0, p], ceiling))."""
    for p in range(TILE):
        values[p] = ceiling if tile[p] > ceiling else tile[p]  # NaN stays what it is
    exp_minus_one(values, powers, TILE)
    for p in range(TILE):
        values[p] += 1.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _scratch(real, head):
    """Scratch of a tile: outputs of the density network with harmonics behind them, activations, colours, numbers."""
    room = (widest(head.sizes) + head.width + 4) * int(TILE)
    tile, last = np.zeros(room, real), np.empty(room, real)
    return tile, np.empty(head.hidden, real), last, np.empty(int(TILE)), np.empty(int(TILE))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _color(out, d, first, count, scene, head, scratch):
    """Loads a tile and runs the colour network on it: inputs in `scratch[0]` from row 1 on, colours in `scratch[2]`."""
    tile, hidden, last, values, powers = scratch
    load_tile(out, first, count, head.width, tile)
    load_directions(d, first, count, head.degree, tile, head.width)
    mlp_tile(tile[TILE:], head.weights[scene], head.sizes, head.slope, hidden, last)
    sigmoid_rows(last, 3, values, powers)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _radiance_head(out, d, head, density, rgb, pieces, lo, hi):
    scratch = _scratch(out.dtype, head)
    tile, _, last, values, powers = scratch
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        for first in range(begin, end, int(TILE)):
            count = min(int(TILE), end - first)
            _color(out, d, first, count, scene, head, scratch)
            store_tile(last, first, count, 3, rgb)
            densities(tile, head.ceiling, values, powers)
            for p in range(u64(count)):
                density[u64(first) + p] = values[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _radiance_head_backward(out, d, head, g_density, g_rgb, g_out, partial, pieces, lo, hi):
    scratch = _scratch(out.dtype, head)
    tile, hidden, last, values, powers = scratch
    above, below, joined = np.zeros_like(last), np.empty_like(last), np.empty_like(last)
    one, sizes, width = out.dtype.type(1.0), head.sizes, head.width
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        for first in range(begin, end, int(TILE)):
            count = min(int(TILE), end - first)
            _color(out, d, first, count, scene, head, scratch)
            load_tile(g_rgb, first, count, 3, above)
            for k in range(u64(3) * TILE):
                above[k] *= last[k] * (one - last[k])
            pull = mlp_tile_backward(
                tile[TILE:], hidden, head.transposed[scene], sizes, head.slope, partial[number], True, above, below
            )
            densities(tile, head.ceiling, values, powers)
            for p in range(u64(count)):
                joined[p] = g_density[u64(first) + p] * values[p]  # above the ceiling, too: see `truncated_exp`
            for k in range(TILE, u64(width) * TILE):
                joined[k] = pull[k - TILE]
            store_tile(joined, first, count, width, g_out)


def radiance_head_cpu(
    out: Tensor, d: Tensor, params: Tensor, counts: Tensor, sizes: list[int], degree: int, slope: float, ceiling: float
) -> tuple[Tensor, Tensor]:
    """Density [m] and colour [m 3]; out [m 1+g], d [m 3], params [s p] of the colour network."""
    density, rgb = out.new_empty(out.shape[0]), out.new_empty(out.shape[0], 3)
    inputs = out.detach().contiguous().numpy().reshape(-1), d.contiguous().numpy()
    head = Head.of(out, params, sizes, degree, slope, ceiling, False)
    pieces, results = pieces_of(starts_of(counts), MLP_POINTS), (density.numpy(), rgb.numpy().reshape(-1))
    parallel(lambda lo, hi: _radiance_head(*inputs, head, *results, pieces, lo, hi), len(pieces))
    return density, rgb


def radiance_head_cpu_backward(
    g_density: Tensor, g_rgb: Tensor, out: Tensor, d: Tensor, params: Tensor, counts: Tensor, sizes: list[int],
    degree: int, slope: float, ceiling: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    g_out = torch.empty_like(out, memory_format=torch.contiguous_format)
    g_params = torch.zeros_like(params, memory_format=torch.contiguous_format)
    inputs = out.detach().contiguous().numpy().reshape(-1), d.contiguous().numpy()
    head, pieces = Head.of(out, params, sizes, degree, slope, ceiling, True), pieces_of(starts_of(counts), MLP_POINTS)
    partial = np.zeros((len(pieces), head.transposed.shape[1]), inputs[0].dtype)
    cotangents = g_density.contiguous().numpy(), g_rgb.contiguous().numpy().reshape(-1)
    result = g_out.numpy().reshape(-1)
    parallel(
        lambda lo, hi: _radiance_head_backward(*inputs, head, *cotangents, result, partial, pieces, lo, hi), len(pieces)
    )
    unpack_add(partial, pieces, head.sizes, g_params.numpy())
    return g_out, g_params


def _context(ctx, inputs, output):
    out, d, params, counts, *ctx.settings = inputs
    ctx.save_for_backward(out, d, params, counts)


@region("radiance_head, backward")
def _backward(ctx, g_density, g_rgb):
    g_out, g_params = radiance_head_cpu_backward(g_density, g_rgb, *ctx.saved_tensors, *ctx.settings)
    return g_out, None, g_params, None, None, None, None, None


radiance_head_cpu = differentiable(radiance_head_cpu, _context, _backward)
