"""Generated MLPs on a GPU: all layers of a tile of points in one program, forward and backward.

Activations never leave the chip: the backward pass computes them again from the points, which costs one more forward
and saves writing and reading every layer. Matrix products take float32 or 16-bit inputs and always add up in float32;
the weights in memory stay what they are (float32 masters in a fit).

Gradients of weights add up in registers over the points of a program where they fit (`KEEP`), and go to memory by
float32 atomics: a few programs share a scene, and the order in which they add, and so the last bits, may change.
Sorting or summing partial results in a fixed order would cost a second pass over as much memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperfields.ops._triton.packing import (
    find_piece,
    launching_on,
    load_rows,
    pieces_of,
    power_of_two,
    store_rows,
)

MLP_POINTS = (256, 1024)  # points of a program, forward and backward: so many read and add to the weights once
KINDS = {"relu": 0, "leaky_relu": 0, "sine": 1}  # relu is leaky, with a slope of 0
# Inputs of matrix products, forward and backward. In a mixed fit activations need the digits of float16, and cotangents
# the range of bfloat16: with it no loss scaling is needed.
DTYPES = {
    "float32": (tl.float32, tl.float32),
    "mixed": (tl.float16, tl.bfloat16),
    "float16": (tl.float16, tl.float16),
    "bfloat16": (tl.bfloat16, tl.bfloat16),
}


class Plan(NamedTuple):
    """Constants that a launch is compiled for.

    Points of a tile, and warps, are those for which the compiled kernels keep what they can in registers, and no warp
    repeats another's work: triton gives each 16 points of its own in the forward pass. What they need is read from them
    by tests/ops/test_triton_compiled.py.
    """

    sizes: tuple[int, ...]
    padded: tuple[int, ...]
    places: tuple[int, ...]  # of each layer's weight among the parameters of a scene
    kind: int
    dtypes: tuple[tl.dtype, tl.dtype]  # of what is multiplied: forward, backward
    tiles: tuple[int, int]
    warps: tuple[int, int]
    keep: bool

    @staticmethod
    def of(sizes: Sequence[int], activation: str, precision: str) -> Plan:
        padded = tuple(power_of_two(size) for size in sizes)
        places = itertools.accumulate((i * o + o for i, o in itertools.pairwise(sizes[:-1])), initial=0)
        widest = max(padded)
        forward = (128, 8) if widest > 64 else (64, 4)
        if precision == "float32":
            backward = (16, 4) if widest <= 32 else (16, 8)
        else:
            added = sum(i * o for i, o in itertools.pairwise(padded))  # gradients that a program keeps
            backward = (64, 4) if added <= 2**13 else (32, 8)
        tiles, warps = zip(forward, backward, strict=True)
        return Plan(
            tuple(sizes), padded, tuple(places), KINDS[activation], DTYPES[precision], tiles, warps, widest <= 64
        )  # fmt: skip

    def constants(self, backward: bool) -> dict[str, object]:
        """Arguments that a kernel is compiled with."""
        half = self.dtypes[backward]
        # Three products of 19-bit parts: as exact as float32, on matrix units.
        exact = "tf32x3" if half == tl.float32 else "ieee"
        return {"SIZES": self.sizes, "PADDED": self.padded, "PLACES": self.places, "KIND": self.kind,
                "HALF": half, "PRECISION": exact, "TILE": self.tiles[backward]}  # fmt: skip

    def options(self, backward: bool) -> dict[str, int]:
        """Options of a launch; pipelining would copy the weights into shared memory once a stage."""
        return {"num_warps": self.warps[backward], "num_stages": 1}


@triton.jit
def _activate(z, slope, KIND: tl.constexpr):
    return tl.sin(z) if KIND == 1 else tl.where(z > 0, z, slope * z)


@triton.jit
def _layer(
    h,
    weights,
    place,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PI: tl.constexpr,
    PO: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`h [n PI]` through the layer whose weight `[OUT IN]` and bias `[OUT]` begin at `place`: `[n PO]`, float32."""
    i, o = tl.arange(0, PI), tl.arange(0, PO)
    inside = (i[:, None] < IN) & (o[None, :] < OUT)
    weight = tl.load(weights + place + o[None, :] * IN + i[:, None], inside, 0.0)  # [PI PO]
    bias = tl.load(weights + place + OUT * IN + o, o < OUT, 0.0).to(tl.float32)
    z = tl.dot(h.to(HALF), weight.to(HALF), input_precision=PRECISION)
    return z + bias[None, :]


@triton.jit
def network(
    h,
    weights,
    slope,
    SIZES: tl.constexpr,
    PADDED: tl.constexpr,
    PLACES: tl.constexpr,
    KIND: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of points `[n PADDED[0]]` through all layers."""
    LAYERS: tl.constexpr = len(PLACES)
    for layer in tl.static_range(LAYERS):
        h = _layer(
            h, weights, PLACES[layer], SIZES[layer], SIZES[layer + 1], PADDED[layer], PADDED[layer + 1], HALF, PRECISION
        )
        if layer + 1 < LAYERS:
            h = _activate(h, slope, KIND)
    return h


@triton.jit(do_not_specialize=["scenes", "size"])
def mlp_forward(
    x,
    layers,
    first,
    starts,
    out,
    scenes,
    size,
    n_params,
    slope,
    SIZES: tl.constexpr,
    PADDED: tl.constexpr,
    PLACES: tl.constexpr,
    KIND: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    LAYERS: tl.constexpr = len(PLACES)
    scene, begin, end = find_piece(first, starts, scenes, size)
    weights = layers + scene * n_params
    for tile in range(begin, end, TILE):
        point = tile + tl.arange(0, TILE)
        h = load_rows(x, point, point < end, SIZES[0], PADDED[0])
        h = network(h, weights, slope, SIZES, PADDED, PLACES, KIND, HALF, PRECISION)
        store_rows(out, h, point, point < end, SIZES[LAYERS], PADDED[LAYERS])


@triton.jit(do_not_specialize=["scenes", "size"])
def mlp_backward(
    grad,
    x,
    layers,
    first,
    starts,
    grad_x,
    grad_params,
    scenes,
    size,
    n_params,
    slope,
    SIZES: tl.constexpr,
    PADDED: tl.constexpr,
    PLACES: tl.constexpr,
    KIND: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    KEEP: tl.constexpr,
    NEED_X: tl.constexpr,
):
    LAYERS: tl.constexpr = len(PLACES)
    scene, begin, end = find_piece(first, starts, scenes, size)
    weights, sums = layers + scene * n_params, grad_params + scene * n_params
    d_weights, d_biases = (), ()  # gradients of the layers so far, last layer first
    if KEEP:
        for back in tl.static_range(LAYERS):
            d_weights += (_zeros(PADDED[LAYERS - back], PADDED[LAYERS - 1 - back]),)
            d_biases += (tl.sum(_zeros(PADDED[LAYERS - back], 1), 1),)
    for tile in range(begin, end, TILE):
        point = tile + tl.arange(0, TILE)
        live = point < end
        h = load_rows(x, point, live, SIZES[0], PADDED[0]).to(tl.float32)
        inputs = (h,)  # of each layer; of a sine what it is taken of: its slope cannot be told from its value
        for layer in tl.static_range(LAYERS - 1):
            z = _layer(
                h,
                weights,
                PLACES[layer],
                SIZES[layer],
                SIZES[layer + 1],
                PADDED[layer],
                PADDED[layer + 1],
                HALF,
                PRECISION,
            )
            h = _activate(z, slope, KIND)
            inputs += (z if KIND == 1 else h.to(HALF),)
        g = load_rows(grad, point, live, SIZES[LAYERS], PADDED[LAYERS]).to(tl.float32)
        more_weights, more_biases = (), ()
        for back in tl.static_range(LAYERS):
            z = inputs[LAYERS - 1 - back]
            h = z if (KIND == 0 or back + 1 == LAYERS) else _activate(z, slope, KIND)
            d_weight = tl.dot(tl.trans(g.to(HALF)), h.to(HALF), input_precision=PRECISION)
            d_bias = tl.sum(g, 0)
            if KEEP:
                more_weights += (d_weights[back] + d_weight,)
                more_biases += (d_biases[back] + d_bias,)
            else:
                _add_layer(
                    sums + PLACES[LAYERS - 1 - back],
                    d_weight,
                    d_bias,
                    SIZES[LAYERS - 1 - back],
                    SIZES[LAYERS - back],
                    PADDED[LAYERS - 1 - back],
                    PADDED[LAYERS - back],
                )
            if back + 1 < LAYERS or NEED_X:
                g = _layer_back(
                    g,
                    weights,
                    PLACES[LAYERS - 1 - back],
                    SIZES[LAYERS - 1 - back],
                    SIZES[LAYERS - back],
                    PADDED[LAYERS - 1 - back],
                    PADDED[LAYERS - back],
                    HALF,
                    PRECISION,
                )
                if back + 1 < LAYERS:
                    g *= _slope_at(z, slope, KIND)
        if KEEP:
            d_weights, d_biases = more_weights, more_biases
        if NEED_X:
            store_rows(grad_x, g, point, live, SIZES[0], PADDED[0])
    if KEEP:  # noqa: SIM102 (decided when it is compiled; without, there is nothing to add)
        if begin < end:
            for back in tl.static_range(LAYERS):
                _add_layer(
                    sums + PLACES[LAYERS - 1 - back],
                    d_weights[back],
                    d_biases[back],
                    SIZES[LAYERS - 1 - back],
                    SIZES[LAYERS - back],
                    PADDED[LAYERS - 1 - back],
                    PADDED[LAYERS - back],
                )


@triton.jit
def _slope_at(z, slope, KIND: tl.constexpr):
    return tl.cos(z) if KIND == 1 else tl.where(z > 0, 1.0, slope)


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), tl.float32)


@triton.jit
def _layer_back(
    g,
    weights,
    place,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PI: tl.constexpr,
    PO: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Cotangents `[n PO]` of a layer's outputs -> those of its inputs `[n PI]`."""
    i, o = tl.arange(0, PI), tl.arange(0, PO)
    inside = (o[:, None] < OUT) & (i[None, :] < IN)
    weight = tl.load(weights + place + o[:, None] * IN + i[None, :], inside, 0.0)  # [PO PI]
    return tl.dot(g.to(HALF), weight.to(HALF), input_precision=PRECISION)


@triton.jit
def _add_layer(sums, d_weight, d_bias, IN: tl.constexpr, OUT: tl.constexpr, PI: tl.constexpr, PO: tl.constexpr):
    i, o = tl.arange(0, PI), tl.arange(0, PO)
    inside = (o[:, None] < OUT) & (i[None, :] < IN)
    tl.atomic_add(sums + o[:, None] * IN + i[None, :], d_weight, inside, sem="relaxed")
    tl.atomic_add(sums + OUT * IN + o, d_bias, o < OUT, sem="relaxed")


@torch.library.custom_op("hyperfields::mlp_triton", mutates_args=())
def mlp_triton(
    x: Tensor, params: Tensor, counts: Tensor, sizes: list[int], activation: str, slope: float, precision: str
) -> Tensor:
    """Outputs [m o]; x [m i], params [s n_params], counts [s] on the same device.

    params: of each scene, layer by layer, weight [o i] and bias [o], flat, and what else there is behind them. If there
    are a multiple of 16, they are read and added four at a time.
    """
    plan = Plan.of(sizes, activation, precision)
    x, params = x.contiguous(), params.contiguous()
    out = x.new_empty(x.shape[0], sizes[-1])
    pieces = pieces_of(counts, x.shape[0], plan.tiles[0], MLP_POINTS[0])
    if pieces.number:
        with launching_on(x):
            mlp_forward[(pieces.number,)](
                x, params, pieces.first, pieces.starts, out, counts.shape[0], pieces.size, params.shape[1], slope,
                **plan.constants(False), **plan.options(False),
            )  # fmt: skip
    return out


@torch.library.custom_op("hyperfields::mlp_triton_backward", mutates_args=())
def mlp_triton_backward(
    grad: Tensor,
    x: Tensor,
    params: Tensor,
    counts: Tensor,
    sizes: list[int],
    activation: str,
    slope: float,
    precision: str,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    plan = Plan.of(sizes, activation, precision)
    grad, x, params = grad.contiguous(), x.contiguous(), params.contiguous()
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0, x.shape[1])
    grad_params = torch.zeros_like(params, dtype=torch.float32)
    pieces = pieces_of(counts, x.shape[0], plan.tiles[1], MLP_POINTS[1])
    if pieces.number:
        with launching_on(x):
            mlp_backward[(pieces.number,)](
                grad, x, params, pieces.first, pieces.starts, grad_x, grad_params, counts.shape[0], pieces.size,
                params.shape[1], slope, **plan.constants(True), KEEP=plan.keep, NEED_X=need_x, **plan.options(True),
            )  # fmt: skip
    return grad_x, grad_params.to(params.dtype)


@mlp_triton.register_fake
def _(x, params, counts, sizes, activation, slope, precision):
    return x.new_empty(x.shape[0], sizes[-1])


@mlp_triton_backward.register_fake
def _(grad, x, params, counts, sizes, activation, slope, precision, need_x):
    return x.new_empty(x.shape if need_x else (0, x.shape[1])), params.new_empty(params.shape)


def _mlp_context(ctx, inputs, output):
    x, params, counts, *ctx.settings = inputs
    ctx.save_for_backward(x, params, counts)


def _mlp_backward(ctx, grad):
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_params = mlp_triton_backward(grad, *ctx.saved_tensors, *ctx.settings, need_x)
    return grad_x if need_x else None, grad_params, None, None, None, None, None


mlp_triton.register_autograd(_mlp_backward, setup_context=_mlp_context)
