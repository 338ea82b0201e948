"""`batched_mlp`: one small MLP a scene."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import mlp as reference
from hyperfields.ops.reference.mlp import ACTIVATIONS, NEGATIVE_SLOPE, Layers


@region("batched_mlp")
def batched_mlp(
    x: Tensor,  # [s n i], or [m i] with counts
    layers: Layers,  # weight [s o i], bias [s o]
    activation: Activation = "relu",
    *,
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> Tensor:  # [s n o], or [m o]
    """Outputs of one small MLP a scene, all scenes in one call; `activation` between layers, the last one linear.

    Differentiable once in everything; the reference twice. `"leaky_relu"` has slope 0.01 below 0;
    `"sine"` is sin(x): its frequency belongs in the weights.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    packed, counts = dispatch.pack(x, counts, "x")
    sizes = check_layers(packed, layers, activation, counts.shape[0])
    selected = dispatch.select(
        backend, x, *itertools.chain(*layers), cpu=why_not_sine(activation), triton=why_too_large(sizes, x),
        tcnn=_why_not_in_tcnn(sizes, layers, activation) if backend == "tcnn" else "",
    )  # fmt: skip
    if selected == "reference":
        result = reference.batched_mlp(packed, layers, activation, counts)
    elif selected == "triton":
        from hyperfields.ops import _triton

        counts, precision = counts.to(x.device, non_blocking=True), product_precision(x)
        params = flat_layers(layers, 16)
        result = _triton.mlp_triton(packed, params, counts, sizes, activation, slope_of(activation), precision)
    elif selected == "tcnn":
        from hyperfields.ops import _tcnn

        result = _tcnn.batched_mlp(packed, layers, activation, counts.tolist())
    else:
        from hyperfields.ops import _cpu

        params = flat_layers(layers)
        keep = torch.is_grad_enabled() and (packed.requires_grad or params.requires_grad)
        result, _ = _cpu.mlp_cpu(packed, params, counts, sizes, keep, slope_of(activation))
    return result.reshape(*x.shape[:-1], sizes[-1])


def slope_of(activation: Activation) -> float:
    """Slope below 0 of a piecewise linear activation."""
    return NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0


def check_layers(x: Tensor, layers: Layers, activation: Activation, scenes: int) -> list[int]:
    """Widths of a network whose input is `x [m i]`: the input's, and the output's of every layer.

    Raises:
        ValueError, TypeError: layers that do not fit each other, x or the scenes; an unknown activation.
    """
    if not layers:
        raise ValueError("layers: got none, wanted at least one")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, wanted one of {', '.join(ACTIVATIONS)}")
    sizes = [x.shape[1]]
    for number, (weight, bias) in enumerate(layers):
        dispatch.require_same_kind(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
        if weight.dim() != 3 or weight.shape[0] != scenes or weight.shape[2] != sizes[-1]:
            raise ValueError(
                f"layers[{number}] weight: got shape {tuple(weight.shape)}, wanted [{scenes}, out, {sizes[-1]}]"
            )
        sizes.append(weight.shape[1])
        if bias is not None:
            dispatch.require_shape(f"layers[{number}] bias", bias, scenes, sizes[-1])
    return sizes


def flat_layers(layers: Layers, multiple: int = 1) -> Tensor:
    """Parameters `[s p]`: each layer's weight `[o i]` and bias `[o]`, zeros where it has none, and up to a multiple."""
    pieces: list[Tensor] = []
    for weight, bias in layers:
        pieces += [
            weight.flatten(1),
            weight.new_zeros(weight.shape[:2]) if bias is None else bias,
        ]
    rest = -sum(piece.shape[1] for piece in pieces) % multiple
    return torch.cat([*pieces, pieces[0].new_zeros(len(pieces[0]), rest)] if rest else pieces, 1)


def why_not_sine(activation: Activation) -> str:
    """Reason why kernels of piecewise linear networks cannot run an activation, or `""`."""
    return f"activation {activation!r} (relu and leaky_relu are compiled)" if activation == "sine" else ""


def _why_not_in_tcnn(sizes: list[int], layers: Layers, activation: Activation) -> str:
    """Reason why tinycudann cannot run a network, or `""`."""
    from hyperfields.ops import _tcnn

    try:
        _tcnn.hidden_width(sizes[1:-1], any(bias is not None for _, bias in layers))
    except ValueError as error:
        return str(error)
    return why_not_sine(activation)


def why_too_large(sizes: list[int], x: Tensor) -> str:
    """Reason why the triton kernels cannot run a network, or `""`: it has to fit on the chip."""
    precision, layers, widest = product_precision(x), len(sizes) - 1, max(sizes)
    most = 64 if precision == "float32" else 128  # it takes twice the registers
    if layers > 5 or widest > most:
        return f"{layers} layers up to {widest} wide in {precision} (up to 5 layers and {most} wide are compiled)"
    return ""


def product_precision(x: Tensor) -> str:
    """Precision of what enters matrix products of the triton kernels: 16 bits only where these reach matrix units."""
    if x.device.type == "cuda" and dispatch.capability(x.device) < (8, 0):
        return "float32"
    if x.dtype != torch.float32:
        return str(x.dtype).removeprefix("torch.")
    if x.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return "float32"
    return "mixed" if torch.get_autocast_dtype("cuda") == torch.float16 else "bfloat16"
