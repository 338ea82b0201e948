"""Hash grids on a GPU: forward, gradients to tables and to points, and the encoding with its MLP in one kernel.

A program owns a tile of points of one scene and computes all its columns: the tables of a scene are small, and stay in
the cache while its points pass. Each (point, column) works on its own, so that neighbouring threads read neighbouring
features of a row. The convention is that of `ops/grid.py`.

Gradients to tables are float32 atomics and not sorted sums: a table of a scene has thousands of rows, so that few
threads meet, and sorting corners would move more memory than adding them. The last bits may change from run to run.
"""

from __future__ import annotations

import functools
import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperfields.ops._triton.mlp import Plan, network
from hyperfields.ops._triton.packing import (
    find_piece,
    launching_on,
    load_rows,
    pieces_of,
    power_of_two,
    store_rows,
)

PAIRS_FORWARD, PAIRS_BACKWARD = 1024, 512  # (point, column) pairs of a program: as many as its registers hold
WARPS = 4
ENCODE_POINTS = 256  # points of a program


@triton.jit
def _columns(scales, layout, F: tl.constexpr, C: tl.constexpr, PC: tl.constexpr):
    """Mask, scale, resolution, number of rows, density, and start in the table, of each column."""
    column = tl.arange(0, PC)
    mask = column < C
    level = tl.where(mask, column // F, 0)
    scale = tl.load(scales + level)
    resolution = tl.load(layout + level * 4).to(tl.uint32, bitcast=True)
    offset = tl.load(layout + level * 4 + 1)
    rows = tl.load(layout + level * 4 + 2).to(tl.uint32, bitcast=True)
    dense = tl.load(layout + level * 4 + 3) != 0
    return mask, scale, resolution, rows, dense, offset * F + column % F


@triton.jit
def _axis(x, point, live, d: tl.constexpr, D: tl.constexpr, scale, SMOOTH: tl.constexpr):
    """Cell along axis `d`, weight of its far side, and slope of that weight, for points by columns."""
    coordinate = tl.load(x + point * D + d, live, 0.0).to(tl.float32)
    position = coordinate[:, None] * scale[None, :] + 0.5
    whole = tl.floor(position)
    weight = position - whole
    slope = scale[None, :] + 0.0 * weight
    if SMOOTH:
        slope *= 6.0 * weight * (1.0 - weight)
        weight = weight * weight * (3.0 - 2.0 * weight)
    return whole.to(tl.int32).to(tl.uint32, bitcast=True), weight, slope


@triton.jit
def _row(a, b, c, resolution, rows, dense, D: tl.constexpr):
    """Row of a vertex within its level; uint32 throughout, as the hash wraps around."""
    linear = a + b * resolution[None, :]
    hashed = a ^ (b * 2654435761)
    if D == 3:
        linear += c * (resolution * resolution)[None, :]
        hashed ^= c * 805459861
    return (tl.where(dense[None, :], linear, hashed) % rows[None, :]).to(tl.int32, bitcast=True)


@triton.jit
def _side(weight, corner: tl.constexpr, d: tl.constexpr):
    """The weight of a corner along axis `d`."""
    return weight if (corner >> d) & 1 == 1 else 1.0 - weight


@triton.jit
def features(
    x,
    point,
    live,
    table,
    scales,
    layout,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    PC: tl.constexpr,
    SMOOTH: tl.constexpr,
):
    """Features `[n PC]` of points `[n]`, float32."""
    mask, scale, resolution, rows, dense, place = _columns(scales, layout, F, C, PC)
    a, u, _ = _axis(x, point, live, 0, D, scale, SMOOTH)
    b, v, _ = _axis(x, point, live, 1, D, scale, SMOOTH)
    c, w, _ = _axis(x, point, live, D - 1, D, scale, SMOOTH)
    mask = live[:, None] & mask[None, :]
    total = tl.zeros_like(u)
    for corner in tl.static_range(2**D):
        row = _row(a + (corner & 1), b + (corner >> 1 & 1), c + (corner >> 2 & 1), resolution, rows, dense, D)
        blend = _side(u, corner, 0) * _side(v, corner, 1)
        if D == 3:
            blend *= _side(w, corner, 2)
        total += blend * tl.load(table + place[None, :] + row * F, mask, 0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=["scenes", "size"])
def encode_forward(
    x,
    table,
    first,
    starts,
    scales,
    layout,
    out,
    scenes,
    size,
    stride,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    PC: tl.constexpr,
    SMOOTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """stride: numbers of a scene's table; 0 when all scenes share one."""
    scene, begin, end = find_piece(first, starts, scenes, size)
    for tile in range(begin, end, TILE):
        point = tile + tl.arange(0, TILE)
        live = point < end
        value = features(x, point, live, table + scene * stride, scales, layout, D, F, C, PC, SMOOTH)
        store_rows(out, value, point, live, C, PC)


@triton.jit(do_not_specialize=["scenes", "size"])
def encode_backward(
    grad,
    x,
    table,
    first,
    starts,
    scales,
    layout,
    grad_x,
    grad_table,
    scenes,
    size,
    stride,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    PC: tl.constexpr,
    SMOOTH: tl.constexpr,
    TILE: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_TABLE: tl.constexpr,
):
    scene, begin, end = find_piece(first, starts, scenes, size)
    for tile in range(begin, end, TILE):
        point = tile + tl.arange(0, TILE)
        live = point < end
        mask, scale, resolution, rows, dense, place = _columns(scales, layout, F, C, PC)
        a, u, slope_u = _axis(x, point, live, 0, D, scale, SMOOTH)
        b, v, slope_v = _axis(x, point, live, 1, D, scale, SMOOTH)
        c, w, slope_w = _axis(x, point, live, D - 1, D, scale, SMOOTH)
        mask = live[:, None] & mask[None, :]
        g = load_rows(grad, point, live, C, PC).to(tl.float32)
        du, dv, dw = tl.zeros_like(u), tl.zeros_like(u), tl.zeros_like(u)
        for corner in tl.static_range(2**D):
            row = _row(a + (corner & 1), b + (corner >> 1 & 1), c + (corner >> 2 & 1), resolution, rows, dense, D)
            where = scene * stride + place[None, :] + row * F
            side_u, side_v = _side(u, corner, 0), _side(v, corner, 1)
            side_w = _side(w, corner, 2) if D == 3 else 1.0
            if NEED_TABLE:
                tl.atomic_add(grad_table + where, side_u * side_v * side_w * g, mask, sem="relaxed")
            if NEED_X:
                value = tl.load(table + where, mask, 0.0).to(tl.float32) * g
                du += (2.0 * (corner & 1) - 1.0) * side_v * side_w * value
                dv += (2.0 * (corner >> 1 & 1) - 1.0) * side_u * side_w * value
                if D == 3:
                    dw += (2.0 * (corner >> 2 & 1) - 1.0) * side_u * side_v * value
        if NEED_X:
            tl.store(grad_x + point * D, tl.sum(du * slope_u, 1).to(grad_x.dtype.element_ty), live)
            tl.store(grad_x + point * D + 1, tl.sum(dv * slope_v, 1).to(grad_x.dtype.element_ty), live)
            if D == 3:
                tl.store(grad_x + point * D + 2, tl.sum(dw * slope_w, 1).to(grad_x.dtype.element_ty), live)


@triton.jit(do_not_specialize=["scenes"])
def encode_mlp(
    x,
    table,
    layers,
    first,
    starts,
    scales,
    layout,
    out,
    scenes,
    stride,
    n_params,
    slope,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    SMOOTH: tl.constexpr,
    SIZES: tl.constexpr,
    PADDED: tl.constexpr,
    PLACES: tl.constexpr,
    KIND: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """The encoding of a tile of points goes through the layers without being written."""
    LAYERS: tl.constexpr = len(PLACES)
    scene, begin, end = find_piece(first, starts, scenes, TILE)
    if begin < end:  # one tile: a loop would keep the weights in registers that the encoding needs
        point = begin + tl.arange(0, TILE)
        live = point < end
        h = features(x, point, live, table + scene * stride, scales, layout, D, F, C, PADDED[0], SMOOTH)
        h = network(h, layers + scene * n_params, slope, SIZES, PADDED, PLACES, KIND, HALF, PRECISION)
        store_rows(out, h, point, live, SIZES[LAYERS], PADDED[LAYERS])


@functools.cache  # kept for good: a recorded step goes on reading them
def _layout(
    scales: tuple[float, ...], resolutions: tuple[int, ...], offsets: tuple[int, ...], dims: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Layout of the grid on the device: scales `[l]`; resolution, first row, rows, whether dense `[l 4]` int32."""
    rows = [end - begin for begin, end in itertools.pairwise(offsets)]
    entries = [
        (resolution, offset, count, int(count >= resolution**dims))
        for resolution, offset, count in zip(resolutions, offsets[:-1], rows, strict=True)
    ]
    return (
        torch.tensor(scales, dtype=torch.float32, device=device),
        torch.tensor(entries, dtype=torch.int32, device=device),
    )


def _constants(dims: int, features: int, levels: int, smoothstep: bool) -> dict[str, object]:
    return {"D": dims, "F": features, "C": levels * features, "SMOOTH": smoothstep}


def tile_of(columns: int, backward: bool) -> int:
    """Points of a program."""
    return max(2, min((PAIRS_BACKWARD if backward else PAIRS_FORWARD) // columns, 128))


@torch.library.custom_op("hyperfields::hash_encode_triton", mutates_args=())
def hash_encode_triton(
    x: Tensor,
    table: Tensor,
    counts: Tensor,
    scales: list[float],
    resolutions: list[int],
    offsets: list[int],
    smoothstep: bool,
) -> Tensor:
    """x [m d], table [s | 1, rows, f], counts [s] on the same device -> [m l*f]."""
    x, table = x.contiguous(), table.contiguous()
    dims, features = x.shape[1], table.shape[2]
    out = x.new_empty(x.shape[0], len(scales) * features)
    columns = power_of_two(out.shape[1])
    pieces = pieces_of(counts, x.shape[0], tile_of(columns, False), ENCODE_POINTS)
    layout = _layout(tuple(scales), tuple(resolutions), tuple(offsets), dims, x.device)
    if pieces.number:
        with launching_on(x):
            encode_forward[(pieces.number,)](
                x, table, pieces.first, pieces.starts, *layout, out, counts.shape[0],
                pieces.size, table[0].numel() if table.shape[0] > 1 else 0,
                **_constants(dims, features, len(scales), smoothstep), PC=columns, TILE=tile_of(columns, False),
                num_warps=WARPS,
            )  # fmt: skip
    return out


@torch.library.custom_op("hyperfields::hash_encode_triton_backward", mutates_args=())
def hash_encode_triton_backward(
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
    grad, x, table = grad.contiguous(), x.contiguous(), table.contiguous()
    dims, features = x.shape[1], table.shape[2]
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    grad_table = torch.zeros_like(table, dtype=torch.float32) if need_table else table.new_empty(0).float()
    columns = power_of_two(len(scales) * features)
    pieces = pieces_of(counts, x.shape[0], tile_of(columns, True), ENCODE_POINTS)
    layout = _layout(tuple(scales), tuple(resolutions), tuple(offsets), dims, x.device)
    if pieces.number:
        with launching_on(x):
            encode_backward[(pieces.number,)](
                grad, x, table, pieces.first, pieces.starts, *layout, grad_x, grad_table, counts.shape[0],
                pieces.size, table[0].numel() if table.shape[0] > 1 else 0,
                **_constants(dims, features, len(scales), smoothstep), PC=columns, TILE=tile_of(columns, True),
                NEED_X=need_x, NEED_TABLE=need_table, num_warps=WARPS,
            )  # fmt: skip
    return grad_x, grad_table.to(table.dtype)


@hash_encode_triton.register_fake
def _(x, table, counts, scales, resolutions, offsets, smoothstep):
    return x.new_empty(x.shape[0], len(scales) * table.shape[2])


@hash_encode_triton_backward.register_fake
def _(grad, x, table, counts, scales, resolutions, offsets, smoothstep, need_x, need_table):
    return x.new_empty(x.shape if need_x else 0), table.new_empty(table.shape if need_table else 0)


def _encode_context(ctx, inputs, output):
    x, table, counts, *ctx.grid = inputs
    ctx.save_for_backward(x, table, counts)


def _encode_backward(ctx, grad):
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_x, grad_table = hash_encode_triton_backward(grad, *ctx.saved_tensors, *ctx.grid, need_x, need_table)
    return grad_x if need_x else None, grad_table if need_table else None, None, None, None, None, None


hash_encode_triton.register_autograd(_encode_backward, setup_context=_encode_context)


def encode_mlp_triton(
    x: Tensor,
    table: Tensor,
    params: Tensor,
    counts: Tensor,
    scales: tuple[float, ...],
    resolutions: tuple[int, ...],
    offsets: tuple[int, ...],
    smoothstep: bool,
    plan: Plan,
    slope: float,
) -> Tensor:
    """Encoding and MLP in one kernel. Not differentiable."""
    x, table, params = x.contiguous(), table.contiguous(), params.contiguous()
    out = x.new_empty(x.shape[0], plan.sizes[-1])
    pieces = pieces_of(counts, x.shape[0], plan.tiles[0], plan.tiles[0])
    layout = _layout(scales, resolutions, offsets, x.shape[1], x.device)
    if pieces.number:
        with launching_on(x):
            encode_mlp[(pieces.number,)](
                x, table, params, pieces.first, pieces.starts, *layout, out, counts.shape[0],
                table[0].numel() if table.shape[0] > 1 else 0, params.shape[1], slope,
                **_constants(x.shape[1], table.shape[2], len(scales), smoothstep), **plan.constants(False),
                **plan.options(False),
            )  # fmt: skip
    return out
