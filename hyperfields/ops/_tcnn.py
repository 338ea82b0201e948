"""tinycudann as a backend, for those who have it: its layouts, and its modules with parameters that are an argument.

Layouts are plain tensors and need neither a GPU nor the package (tests/ops/test_tcnn.py). What runs needs both. The
package's modules own their parameters; generated ones enter through `_module_function`, a private name, so it is used
in one place and looked for when first needed. One call takes one parameter vector: scenes are a loop.

Networks of tinycudann have no biases and hidden layers of one width. A network with biases becomes one without by a
hidden unit that is always 1: its weights from an input that is 1 are 1, layer after layer, and the biases are what the
other units read from it. ReLU and LeakyReLU leave 1 as it is.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.ops.dispatch import TCNN_GUIDE
from hyperfields.ops.grid import GridSpec

WIDTHS = (16, 32, 64, 128)  # of hidden layers, in its fully fused networks
NEAREST = 16  # steps of a growth's last bit, about, within which one is sought that gives the levels of a grid
GRANULE = 256  # points of a call are padded to a multiple of this
ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU"}  # the slope of its LeakyReLU is 0.01, as ours


# Layouts --------------------------------------------------------------------------------------------------------------


def padded16(size: int) -> int:
    return (size + 15) // 16 * 16


def hidden_width(hidden: Sequence[int], biases: bool) -> int:
    """Width of its hidden layers for ours, with a place for the unit that is 1 when there are biases.

    Raises:
        ValueError: no hidden layer, or one that is too wide.
    """
    needed = max(hidden, default=0) + biases
    if not hidden or needed > WIDTHS[-1]:
        room = WIDTHS[-1] - biases
        raise ValueError(f"hidden layers {list(hidden)}: tinycudann's networks have at least one, up to {room} wide")
    return next(width for width in WIDTHS if width >= needed)


def network_shapes(sizes: Sequence[int], biases: bool) -> list[tuple[int, int]]:
    """(rows, columns) of its weight matrices, in the order in which they lie in the parameter vector.

    sizes: inputs, hidden layers, outputs of ours.
    """
    width = hidden_width(sizes[1:-1], biases)
    inputs, outputs = padded16(sizes[0] + biases), padded16(sizes[-1])
    return [(width, inputs), *[(width, width)] * (len(sizes) - 3), (outputs, width)]


def pack_network(layers: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Parameter vector of one scene from its weights `[o i]` and biases `[o]`. Differentiable.

    With biases, the input has one more column behind ours, and that is 1.
    """
    sizes = [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]
    biases = any(bias is not None for _, bias in layers)
    parts = []
    for number, ((weight, bias), (rows, columns)) in enumerate(zip(layers, network_shapes(sizes, biases), strict=True)):
        o, i = weight.shape
        one = i if number == 0 else columns - 1  # the column of what is 1
        matrix = torch.nn.functional.pad(weight, (0, columns - i, 0, rows - o))
        if biases:
            extra = matrix.new_zeros(rows, columns)
            if number + 1 < len(layers):
                extra[rows - 1, one] = 1.0
            if bias is not None:
                place = torch.nn.functional.one_hot(torch.tensor(one, device=weight.device), columns).to(weight)
                extra = extra + torch.nn.functional.pad(bias, (0, rows - o))[:, None] * place
            matrix = matrix + extra
        parts.append(matrix.reshape(-1))
    return torch.cat(parts)


def unpack_network(flat: Tensor, sizes: Sequence[int], biases: bool) -> list[tuple[Tensor, Tensor | None]]:
    """Weights `[o i]` and biases `[o]` from a parameter vector: the inverse of `pack_network`, bit for bit.

    Raises:
        ValueError: another number of parameters, or numbers where the layout has none.
    """
    shapes = network_shapes(sizes, biases)
    wanted = sum(rows * columns for rows, columns in shapes)
    if flat.shape != (wanted,):
        raise ValueError(f"network: got {tuple(flat.shape)} parameters, wanted {wanted} for widths {list(sizes)}")
    layers: list[tuple[Tensor, Tensor | None]] = []
    pieces = flat.split([rows * columns for rows, columns in shapes])
    for number, ((i, o), (rows, columns), piece) in enumerate(
        zip(itertools.pairwise(sizes), shapes, pieces, strict=True)
    ):
        matrix = piece.reshape(rows, columns)
        one = i if number == 0 else columns - 1
        layers.append((matrix[:o, :i].clone(), matrix[:o, one].clone() if biases else None))
    if not torch.equal(pack_network(layers), flat):
        raise ValueError(
            "network: has weights where ours has none; only what `export --format tcnn` wrote can come back"
        )
    return layers


def encoding_config(grid: GridSpec) -> dict[str, Any]:
    """tinycudann's settings of a grid.

    Raises:
        ValueError: when its rules give other levels than the grid has.
    """
    base = round(grid.scales[0] + 1.0)
    growth = (grid.scales[-1] + 1.0) / (grid.scales[0] + 1.0)
    growth = growth ** (1.0 / (grid.levels - 1)) if grid.levels > 1 else 1.0
    most = max(end - begin for begin, end in itertools.pairwise(grid.offsets))
    config = {
        "otype": "HashGrid",
        "n_levels": grid.levels,
        "n_features_per_level": grid.features,
        "log2_hashmap_size": max(math.ceil(math.log2(most)), 3),
        "base_resolution": base,
        "per_level_scale": growth,
        "interpolation": "Smoothstep" if grid.smoothstep else "Linear",
    }
    # In float32 a level that should end on a whole number may be rounded up to one more: then the nearest growth is
    # taken with which none is, and positions move by less than a thousandth of a cell.
    for ulps in (0, *(sign * step for step in range(1, NEAREST) for sign in (-1, 1))):
        config["per_level_scale"] = growth * (1.0 + ulps * 2.0**-24)
        if (resolutions(config), offsets(config, grid.dims)) == (grid.resolutions, grid.offsets):
            break
    else:
        raise ValueError(
            f"grid: its levels {list(grid.resolutions)} are not those that tinycudann makes from "
            f"base_resolution {base} and per_level_scale {growth:.9g}"
        )
    return config


def resolutions(config: dict[str, Any]) -> tuple[int, ...]:
    """Vertices a side of its levels; it computes their scales in float32."""
    f = torch.float32
    log2 = torch.log2(torch.tensor(config["per_level_scale"], dtype=f))
    levels = torch.arange(config["n_levels"], dtype=f)
    scales = torch.exp2(levels * log2) * config["base_resolution"] - 1.0
    return tuple(int(resolution) for resolution in scales.ceil() + 1.0)


def offsets(config: dict[str, Any], dims: int) -> tuple[int, ...]:
    """The first row of each of its levels, and the number of rows."""
    most = 2 ** config["log2_hashmap_size"]
    rows = [min((resolution**dims + 7) // 8 * 8, most) for resolution in resolutions(config)]
    return tuple(itertools.accumulate(rows, initial=0))


def network_config(sizes: Sequence[int], activation: str, biases: bool) -> dict[str, Any]:
    """tinycudann's settings of a network."""
    return {
        "otype": "FullyFusedMLP",
        "activation": ACTIVATIONS[activation],
        "output_activation": "None",
        "n_neurons": hidden_width(sizes[1:-1], biases),
        "n_hidden_layers": len(sizes) - 2,
    }


# Running --------------------------------------------------------------------------------------------------------------


@functools.cache
def _module(kind: str, inputs: int, outputs: int, config: str) -> Any:
    """One of its modules; its own parameters are not used."""
    import json

    tcnn = importlib.import_module("tinycudann")
    settings = json.loads(config)
    if kind == "encoding":
        module = tcnn.Encoding(inputs, settings, dtype=torch.float32)
    else:
        module = tcnn.Network(inputs, outputs, settings)
    if hasattr(module, "jit_fusion"):
        module.jit_fusion = False  # it compiles for parameters of its own
    return module


def _call(module: Any, x: Tensor, params: Tensor) -> Tensor:
    """Outputs `[n o]`, float32, of `module` with parameters `params` at points `x [n i]`. Differentiable once.

    Raises:
        ValueError: a tinycudann that lacks what this needs.
    """
    function = getattr(importlib.import_module("tinycudann.modules"), "_module_function", None)
    if function is None or not hasattr(module, "native_tcnn_module"):
        raise ValueError(
            "backend 'tcnn' cannot run this call: this tinycudann takes no parameters from outside "
            f"(no modules._module_function); use another version ({TCNN_GUIDE}) or backend='auto'"
        )
    n = x.shape[0]
    points = torch.nn.functional.pad(x.float(), (0, 0, 0, -n % GRANULE)).contiguous()
    weights = params.to(module.dtype).contiguous()
    out: Tensor = function.apply(module.native_tcnn_module, points, weights, module.loss_scale)
    result: Tensor = _Once.apply(out[:n].float())  # type: ignore[no-untyped-call]
    return result


class _Once(torch.autograd.Function):
    """The identity, whose gradient has no gradient: tinycudann's second derivatives can be zero without a word."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("backend 'tcnn' has no second derivatives: use backend='reference' for them")
        return grad


def hash_encode(x: Tensor, table: Tensor, grid: GridSpec, counts: list[int]) -> Tensor:
    """Features `[m l*f]` of x `[m d]`, a call a scene; table `[s | 1, rows, f]`."""
    import json

    module = _module("encoding", grid.dims, grid.channels, json.dumps(encoding_config(grid)))
    parts = [
        _call(module, points, table[scene if table.shape[0] > 1 else 0].reshape(-1))[:, : grid.channels]
        for scene, points in enumerate(x.split(counts))
        if len(points)
    ]
    return torch.cat(parts).to(x.dtype) if parts else x.new_empty(0, grid.channels)


def batched_mlp(x: Tensor, layers: list[tuple[Tensor, Tensor | None]], activation: str, counts: list[int]) -> Tensor:
    """Outputs `[m o]` for x `[m i]`, a call a scene; layers of (weight `[s o i]`, bias `[s o]` or None)."""
    import json

    sizes = [x.shape[1], *(weight.shape[1] for weight, _ in layers)]
    biases = any(bias is not None for _, bias in layers)
    inputs = sizes[0] + biases
    module = _module("network", inputs, sizes[-1], json.dumps(network_config(sizes, activation, biases)))
    if biases:
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    parts = []
    for scene, points in enumerate(x.split(counts)):
        if len(points):
            flat = pack_network([(w[scene], None if b is None else b[scene]) for w, b in layers])
            parts.append(_call(module, points, flat)[:, : sizes[-1]])
    return torch.cat(parts).to(x.dtype) if parts else x.new_empty(0, sizes[-1])
