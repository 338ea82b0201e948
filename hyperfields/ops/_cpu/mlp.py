"""`batched_mlp`: a small network a scene, in tiles that stay in the cache.

Points of a tile are transposed, so that every loop runs over 128 points with scalar weights. Sizes are padded to
multiples of 4 (with zeros); four rows of inputs update four rows of outputs at a time, which keeps the
multiply-add units busy without a matrix library.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import parallel, pieces_of, starts_of
from hyperfields.ops._cpu.vectors import FASTMATH, SIDE, transpose, u64
from hyperfields.ops.profiling import region

TILE = u64(128)
MLP_POINTS = 4096  # points of a task


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def multiply(w, w0, x, x0, y, y0, n_out, n_in):
    """y[j, p] += sum_i w[j, i] x[i, p]; w0, x0, y0: where the matrices start in the flat arrays."""
    n_out, n_in, w0, x0, y0 = u64(n_out), u64(n_in), u64(w0), u64(x0), u64(y0)
    one, two, three, four = u64(1), u64(2), u64(3), u64(4)
    for j in range(u64(0), n_out, four):
        ya = y0 + j * TILE
        yb, yc, yd = ya + TILE, ya + two * TILE, ya + three * TILE
        for i in range(u64(0), n_in, four):
            a = w0 + j * n_in + i
            b, c, d = a + n_in, a + two * n_in, a + three * n_in
            a0, a1, a2, a3 = w[a], w[a + one], w[a + two], w[a + three]
            b0, b1, b2, b3 = w[b], w[b + one], w[b + two], w[b + three]
            c0, c1, c2, c3 = w[c], w[c + one], w[c + two], w[c + three]
            d0, d1, d2, d3 = w[d], w[d + one], w[d + two], w[d + three]
            xa = x0 + i * TILE
            xb, xc, xd = xa + TILE, xa + two * TILE, xa + three * TILE
            for p in range(TILE):
                v0, v1, v2, v3 = x[xa + p], x[xb + p], x[xc + p], x[xd + p]
                y[ya + p] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                y[yb + p] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                y[yc + p] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                y[yd + p] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def outer(g, g0, x, x0, w, w0, n_out, n_in):
    """w[j, i] += sum_p g[j, p] x[i, p]."""
    n_out, n_in, w0, x0, g0 = u64(n_out), u64(n_in), u64(w0), u64(x0), u64(g0)
    one, two, three, four = u64(1), u64(2), u64(3), u64(4)
    zero = x.dtype.type(0.0)
    for j in range(u64(0), n_out, four):
        ga = g0 + j * TILE
        gb, gc, gd = ga + TILE, ga + two * TILE, ga + three * TILE
        for i in range(u64(0), n_in, four):
            xa = x0 + i * TILE
            xb, xc, xd = xa + TILE, xa + two * TILE, xa + three * TILE
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
            for p in range(TILE):
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


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def load_tile(source, begin, count, width, tile):
    """tile[i, p] = source[begin + p, i], of a flat source with rows of `width`; zeros in the padding."""
    zero, side = source.dtype.type(0.0), u64(SIDE)
    first, n, points = u64(begin) * u64(width), u64(width), u64(count)
    blocks, whole = n // side * side, points // side * side
    for p in range(u64(0), whole, side):
        for i in range(u64(0), blocks, side):
            transpose(source, first + p * n + i, n, tile, i * TILE + p, TILE)
    for i in range(n):
        row = i * TILE
        for p in range(whole if i < blocks else u64(0), points):
            tile[row + p] = source[first + p * n + i]
        for p in range(points, TILE):
            tile[row + p] = zero
    for k in range(n * TILE, (n + u64(3)) // u64(4) * u64(4) * TILE):
        tile[k] = zero


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def store_tile(tile, begin, count, width, target):
    """target[begin + p, i] = tile[i, p], of a flat target with rows of `width`."""
    side = u64(SIDE)
    first, n, points = u64(begin) * u64(width), u64(width), u64(count)
    blocks, whole = n // side * side, points // side * side
    for p in range(u64(0), whole, side):
        for i in range(u64(0), blocks, side):
            transpose(tile, i * TILE + p, TILE, target, first + p * n + i, n)
    for p in range(points):
        for i in range(blocks if p < whole else u64(0), n):
            target[first + p * n + i] = tile[i * TILE + p]


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(params, sizes, packed, transposed, lo, hi):
    for scene in range(lo, hi):
        pack_scene(params[scene], sizes, packed[scene], transposed)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def pack_scene(params, sizes, packed, transposed):
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
def unpack_add(partial, pieces, sizes, params):
    """Sum the pieces of each scene, always in the same order."""
    for number in range(pieces.shape[0]):
        unpack_piece(partial[number], sizes, params[pieces[number, 0]])


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def unpack_piece(packed, sizes, params):
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


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _mlp(x, weights, sizes, slope, out, hidden, keep, tiles, pieces, lo, hi):
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        _mlp_piece(x, weights[scene], sizes, slope, out, hidden, keep, tiles[number], begin, end)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _mlp_piece(x, weights, sizes, slope, out, hidden, keep, first_tile, begin, end):
    """Forward for points begin ... end of one scene; hidden [tiles, ...] keeps the activations when asked to."""
    layers, room = sizes.shape[0] - 1, widest(sizes) * int(TILE)
    source, last = np.empty(room, x.dtype), np.empty(room, x.dtype)
    tile = first_tile
    for first in range(begin, end, int(TILE)):
        count = min(int(TILE), end - first)
        load_tile(x, first, count, sizes[0], source)
        mlp_tile(source, weights, sizes, slope, hidden[tile] if keep else hidden[0], last)
        store_tile(last, first, count, sizes[layers], out)
        tile += 1


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def widest(sizes):
    """Rows of the largest layer, with padding."""
    most = 4
    for size in sizes:
        most = max(most, (size + 3) // 4 * 4)
    return most


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def mlp_tile(source, weights, sizes, slope, hidden, last):
    """A tile of points through a packed network: `source[i, p]` -> `last[j, p]`; `hidden` gets the activations."""
    layers, zero = sizes.shape[0] - 1, source.dtype.type(0.0)
    inputs, x0, place, w0 = source, 0, 0, 0
    for layer in range(layers):
        p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
        final = layer + 1 == layers
        target = last if final else hidden
        y0 = 0 if final else place
        bias = w0 + p_in * p_out
        for j in range(p_out):
            value = weights[bias + j]
            row = u64(y0) + u64(j) * TILE
            for p in range(TILE):
                target[row + p] = value
        multiply(weights, w0, inputs, x0, target, y0, p_out, p_in)
        if not final:
            if slope == zero:  # 0 * -infinity is no number
                for k in range(u64(y0), u64(y0) + u64(p_out) * TILE):
                    target[k] = zero if target[k] < zero else target[k]
            else:
                for k in range(u64(y0), u64(y0) + u64(p_out) * TILE):
                    target[k] = max(target[k], slope * target[k])
            place += p_out * int(TILE)
        inputs, x0 = target, y0
        w0 = bias + p_out


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _mlp_backward_pieces(
    x, grad, hidden, transposed_weights, sizes, slope, partial, grad_x, need_x, tiles, pieces, lo, hi
):
    for number in range(lo, hi):
        scene, begin, end = pieces[number]
        _mlp_piece_backward(
            x,
            grad,
            hidden,
            transposed_weights[scene],
            sizes,
            slope,
            partial[number],
            grad_x,
            need_x,
            tiles[number],
            begin,
            end,
        )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _mlp_piece_backward(
    x, grad, hidden, transposed_weights, sizes, slope, partial, grad_x, need_x, first_tile, begin, end
):
    """Gradients for points begin ... end of one scene: weights into `partial` (padded), points into grad_x."""
    layers, room = sizes.shape[0] - 1, widest(sizes) * int(TILE)
    source, above, below = np.empty(room, x.dtype), np.empty(room, x.dtype), np.empty(room, x.dtype)
    tile = first_tile
    for first in range(begin, end, int(TILE)):
        count = min(int(TILE), end - first)
        load_tile(x, first, count, sizes[0], source)
        load_tile(grad, first, count, sizes[layers], above)
        pull = mlp_tile_backward(source, hidden[tile], transposed_weights, sizes, slope, partial, need_x, above, below)
        if need_x:
            store_tile(pull, first, count, sizes[0], grad_x)
        tile += 1


# Functions that kernels call are inlined, in all of _cpu. Kernels that are loaded from the cache share a function of
# one name, that of whichever was loaded first, and in each the compiler orders a sum as it likes: bits would depend on
# what else a process has run.
@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def row_total(values, row, scratch):
    """Sum of a row of a tile, by halves."""
    half = TILE // u64(2)
    for k in range(half):
        scratch[k] = values[row + k] + values[row + half + k]
    while half > 1:
        half //= u64(2)
        for k in range(half):
            scratch[k] += scratch[half + k]
    return scratch[0]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def mlp_tile_backward(source, hidden, transposed_weights, sizes, slope, partial, need_x, above, below):
    """Cotangents of a tile's inputs, in `above` or `below`, from those of its outputs, `above[j, p]`.

    hidden: the activations of `mlp_tile`. partial: the gradient of the weights is added to it.
    """
    layers, zero = sizes.shape[0] - 1, source.dtype.type(0.0)
    w0, h0 = 0, 0
    for layer in range(layers):
        p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
        w0 += p_in * p_out + p_out
        if layer + 1 < layers:
            h0 += p_out * int(TILE)
    for layer in range(layers - 1, -1, -1):
        p_in, p_out = (sizes[layer] + 3) // 4 * 4, (sizes[layer + 1] + 3) // 4 * 4
        w0 -= p_in * p_out + p_out
        inputs = source if layer == 0 else hidden
        if layer > 0:
            h0 -= p_in * int(TILE)
        outer(above, 0, inputs, h0, partial, w0, p_out, p_in)
        for j in range(p_out):
            partial[w0 + p_in * p_out + j] += row_total(above, u64(j) * TILE, below)
        if layer == 0 and not need_x:
            break
        for k in range(u64(p_in) * TILE):
            below[k] = zero
        multiply(transposed_weights, w0, above, 0, below, 0, p_in, p_out)
        if layer > 0:
            start = u64(h0)
            for k in range(u64(p_in) * TILE):
                below[k] = below[k] if inputs[start + k] > zero else slope * below[k]
        above, below = below, above
    return above


def pad4(size: int) -> int:
    return (size + 3) // 4 * 4


def packed_size(sizes: list[int]) -> int:
    return sum(pad4(i) * pad4(o) + pad4(o) for i, o in itertools.pairwise(sizes))


def hidden_size(sizes: list[int]) -> int:
    return sum(pad4(size) for size in sizes[1:-1]) * int(TILE)


def pack_all(params: Tensor, sizes: list[int], transposed: bool) -> np.ndarray:
    packed = np.zeros((params.shape[0], packed_size(sizes)), params.detach().numpy().dtype)
    flat, shape = params.detach().contiguous().numpy(), np.array(sizes, np.int64)
    parallel(lambda lo, hi: _pack(flat, shape, packed, transposed, lo, hi), len(packed), packed.size)
    return packed


def _tiles(pieces: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of the first tile of each piece, and how many tiles there are."""
    sizes = -(-(pieces[:, 2] - pieces[:, 1]) // int(TILE))
    return np.cumsum(sizes) - sizes, int(sizes.sum())


def mlp_cpu(
    x: Tensor, params: Tensor, counts: Tensor, sizes: list[int], keep: bool, slope: float = 0.0
) -> tuple[Tensor, Tensor]:
    """params [s, numbers]: each layer's weight [o i] and bias [o], flat. Returns the output and what backward needs."""
    out = x.new_empty(x.shape[0], sizes[-1])
    pieces = pieces_of(starts_of(counts), MLP_POINTS)
    first, tiles = _tiles(pieces)
    hidden = x.new_empty(tiles if keep else 0, max(hidden_size(sizes), 1))
    kept, points, result = hidden.numpy(), x.detach().contiguous().numpy().reshape(-1), out.numpy().reshape(-1)
    weights, shape = pack_all(params, sizes, False), np.array(sizes, np.int64)

    def task(lo: int, hi: int) -> None:
        room = kept if keep else np.empty((1, kept.shape[1]), points.dtype)
        _mlp(points, weights, shape, points.dtype.type(slope), result, room, keep, first, pieces, lo, hi)

    parallel(task, len(pieces))
    return out, hidden


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
    pieces = pieces_of(starts_of(counts), MLP_POINTS)
    first, _ = _tiles(pieces)
    points, cotangent = (t.detach().contiguous().numpy().reshape(-1) for t in (x, grad))
    kept, result, total = hidden.numpy(), grad_x.numpy().reshape(-1), grad_params.numpy()
    transposed_weights, shape = pack_all(params, sizes, True), np.array(sizes, np.int64)
    partial = np.zeros((len(pieces), transposed_weights.shape[1]), points.dtype)

    def task(lo: int, hi: int) -> None:
        _mlp_backward_pieces(
            points,
            cotangent,
            kept,
            transposed_weights,
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

    parallel(task, len(pieces))
    unpack_add(partial, pieces, shape, total)
    return grad_x, grad_params


def _mlp_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    x, params, counts, ctx.sizes, _, ctx.slope = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, params, output[1], counts)


@region("batched_mlp, backward")
def _mlp_backward(ctx, grad, _hidden):
    x, params, hidden, counts = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_params = mlp_cpu_backward(grad, x, params, hidden, counts, ctx.sizes, need_x, ctx.slope)
    return grad_x if need_x else None, grad_params, None, None, None, None


mlp_cpu = differentiable(mlp_cpu, _mlp_context, _mlp_backward)
