"""How far answers are from what they should be: `encode_mlp_error` of a grid and its network, `pixel_error` of rays,
`rendered_error` of rays by the features of their samples.

On a CPU a kernel finds the gradients of such an error together with it.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.composite import composite
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.encode import check_grid, encode_mlp
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.mlp import batched_mlp, check_layers, flat_layers, slope_of, why_not_sine
from hyperfields.ops.profiling import region
from hyperfields.ops.radiance import check_color_layers, radiance_head
from hyperfields.ops.reference import error as reference
from hyperfields.ops.reference.mlp import Layers

FEWEST = 8  # scenes from which the kernel pays, whose tasks are whole scenes


@region("encode_mlp_error")
def encode_mlp_error(
    x: Tensor,  # [s n d]
    target: Tensor,  # [s n c]
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    layers: Layers,  # weight [s o i], bias [s o]
    activation: Activation = "relu",
    *,
    shift: float = 0.0,
    width: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:  # []
    """Mean error of the answers `y = encode_mlp(x) + shift`: (y - target)^2, or abs(y - target) / (abs(target) + width)
    for a width above 0.

    Many scenes with tables of their own are one kernel on a CPU, which finds the gradients with the error; it is not
    taken for points and targets that require a gradient. Differentiable as `encode_mlp` is.

    Raises:
        ValueError, TypeError: as `encode_mlp`; targets that do not fit.
    """
    sizes = check_layers(x.new_empty(0, grid.channels), layers, activation, len(x))
    if x.dim() != 3 or target.shape != (*x.shape[:2], sizes[-1]):
        raise ValueError(
            f"target: got {tuple(target.shape)} for x {tuple(x.shape)}, wanted [s n {sizes[-1]}] for [s n d]"
        )
    dispatch.require_same_kind(x=x, target=target)
    tensors = [table, *(t for layer in layers for t in layer if t is not None)]
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    refusal = _why_not_in_kernel(x, target, table, grid, activation) or ("" if wanted else "no gradient is asked for")
    if not refusal and backend in ("auto", "cpu") and dispatch.select(backend, x, target, *tensors) == "cpu":
        from hyperfields.ops import _cpu

        check_grid(x.reshape(-1, x.shape[2]), table, grid, len(x))
        error: Tensor = _cpu.encode_mlp_error_cpu(
            table, flat_layers(layers), x, target, grid, sizes, slope_of(activation), shift, width
        )[0]
        return error
    off = encode_mlp(x, table, grid, layers, activation, backend=backend) + shift - target
    error = off.square() if not width else off.abs() / (target.abs() + width)
    return error.mean(-1).mean()


def _why_not_in_kernel(x: Tensor, target: Tensor, table: Tensor, grid: GridSpec, activation: Activation) -> str:
    """Reason why the kernel cannot take a call, or `""`."""
    if grid.dims not in (2, 3):
        return f"grids of {grid.dims} dimensions (2 and 3 are compiled)"
    if table.shape[0] != len(x) or len(x) < FEWEST or not target.numel():
        return f"tables of {table.shape[0]} scenes (a table for each of at least {FEWEST} is compiled)"
    if x.requires_grad or target.requires_grad:
        return "points or targets require a gradient"
    return why_not_sine(activation)


@region("pixel_error")
def pixel_error(
    rgb: Tensor,  # [s r 3], premultiplied
    alpha: Tensor,  # [s r]
    rgba: Tensor,  # [s r 4], straight
    haze: float,
    *,
    backend: Backend = "auto",
) -> Tensor:  # []
    """Mean over rays of the squared errors on black and on white, averaged, plus `haze` abs(error of opacity).

    Differentiable once in rgb and alpha, and in rgba where the kernel is not taken; the reference twice in all.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    dispatch.require_same_kind(rgb=rgb, alpha=alpha, rgba=rgba)
    if alpha.dim() != 2 or rgb.shape != (*alpha.shape, 3) or rgba.shape != (*alpha.shape, 4):
        raise ValueError(
            f"pixel_error: got rgb {tuple(rgb.shape)}, alpha {tuple(alpha.shape)}, rgba {tuple(rgba.shape)}; wanted "
            "[s r 3], [s r] and [s r 4]"
        )
    refusal = "a derivative of the truth" if torch.is_grad_enabled() and rgba.requires_grad else ""
    triton = "it is a few sums, which torch does well"
    selected = dispatch.select(backend, rgb, alpha, rgba, cpu=refusal, triton=triton, tcnn=dispatch.NOT_IN_TCNN)
    if selected == "cpu" and alpha.numel():
        from hyperfields.ops import _cpu

        error: Tensor = _cpu.pixel_error_cpu(rgb, alpha, rgba, haze)[0]
        return error
    return reference.pixel_error(rgb, alpha, rgba, haze).mean()


@region("rendered_error")
def rendered_error(
    features: Tensor,  # [m i] of samples, those of a ray side by side
    d: Tensor,  # [m 3], unit
    edges: Tensor,  # [m 2]: where each sample starts and ends along its ray
    counts: Tensor,  # [s*r] samples of each ray
    rgba: Tensor,  # [s r 4], straight: what the rays should show
    density: Layers,  # features -> log density, and features of the colour network
    color: Layers,
    activation: Activation = "relu",
    *,
    degree: int,
    ceiling: float,
    haze: float,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # [], [s r]
    """(`pixel_error` of rays composited from `radiance_head(batched_mlp(features))`, their opacity).

    One kernel on a CPU, which finds the gradients with the error; it is not taken for directions, edges and truths that
    require a gradient. The error is differentiable as its parts are, the opacity not at all.

    Raises:
        ValueError, TypeError: as its parts; counts that are not those of the rays.
    """
    if rgba.dim() != 3 or counts.shape != (rgba.shape[0] * rgba.shape[1],):
        raise ValueError(
            f"rendered_error: got counts {tuple(counts.shape)} for rgba {tuple(rgba.shape)}, wanted [s*r] for [s r 4]"
        )
    networks = [*itertools.chain(*density, *color)]
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (features, *networks))
    fixed = not (d.requires_grad or edges.requires_grad or rgba.requires_grad) and features.numel() > 0
    possible = wanted and fixed and not why_not_sine(activation) and backend in ("auto", "cpu")
    if possible and dispatch.select(backend, features, d, edges, rgba, *networks) == "cpu":
        return _rendered_in_kernel(
            features, d, edges, counts, rgba, density, color, activation, degree, ceiling, haze
        )  # fmt: skip
    of_scene = counts.reshape(rgba.shape[:2]).sum(1)
    out = batched_mlp(features, density, activation, counts=of_scene, backend=backend)
    sigma, colors = radiance_head(
        out, d, color, activation, degree=degree, ceiling=ceiling, counts=of_scene, backend=backend
    )  # fmt: skip
    rgb, alpha, _ = composite(sigma.squeeze(-1), colors, edges, counts=counts, backend=backend)
    rgb, alpha = rgb.reshape(*rgba.shape[:2], 3), alpha.reshape(rgba.shape[:2])
    return pixel_error(rgb, alpha, rgba, haze, backend=backend), alpha.detach()


def _rendered_in_kernel(
    features: Tensor, d: Tensor, edges: Tensor, counts: Tensor, rgba: Tensor, density: Layers, color: Layers,
    activation: Activation, degree: int, ceiling: float, haze: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from hyperfields.ops import _cpu

    dispatch.require_same_kind(features=features, d=d, edges=edges, rgba=rgba)
    dispatch.pack(features, counts, "features")
    for name, part, shape in (("d", d, (len(features), 3)), ("edges", edges, (len(features), 2))):
        dispatch.require_shape(name, part, *shape)
    dispatch.require_shape("rgba", rgba, *rgba.shape[:2], 4)
    sizes = check_layers(features, density, activation, len(rgba))
    color_sizes = check_color_layers(features, sizes[-1], color, activation, degree, len(rgba))
    error, *_, alpha = _cpu.rendered_error_cpu(
        features, flat_layers(density), flat_layers(color), d, edges, counts, rgba, sizes, color_sizes, degree,
        slope_of(activation), ceiling, haze,
    )  # fmt: skip
    return error, alpha
