"""`radiance_head`: density and colour, and `truncated_exp`: densities of their logarithms."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.mlp import batched_mlp, check_layers, flat_layers, slope_of, why_not_sine
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import radiance as reference
from hyperfields.ops.reference.mlp import Layers
from hyperfields.ops.spherical_harmonics import BANDS


def truncated_exp(x: Tensor, ceiling: float) -> Tensor:
    """Densities exp(min(x, ceiling)) of their logarithms `x [...]`, which have a gradient above the ceiling, too.

    The derivative there is exp(ceiling), so that a density that is too high can come back; it is not that of the value.
    Differentiable twice.
    """
    return reference.truncated_exp(x, ceiling)


@region("radiance_head")
def radiance_head(
    out: Tensor,  # [s n 1+g], or [m 1+g] with counts: log density, and features
    d: Tensor,  # [s n 3], or [m 3], unit
    layers: Layers,  # of the colour network, which reads features and directions
    activation: Activation = "relu",
    *,
    degree: int,  # of the spherical harmonics of the directions
    ceiling: float,  # of the log density
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # density [s n 1] or [m 1], colour [s n 3] or [m 3]
    """Density of points, and their colour as seen from a direction, from the outputs of a density network.

    density = truncated_exp(out_0, ceiling), colour = sigmoid(mlp(out_1 ..., harmonics(d))).
    Differentiable once in out and layers, and in d where no kernel is made for it; the reference twice in all.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Mildenhall et al. 2020, section 3; Mueller et al. 2022, section 5.4.
    """
    dispatch.require_same_kind(out=out, d=d)
    if out.shape[:-1] != d.shape[:-1] or d.shape[-1] != 3:
        raise ValueError(f"radiance_head: got out {tuple(out.shape)}, d {tuple(d.shape)}; wanted [... 1+g], [... 3]")
    packed, counts = dispatch.pack(out, counts, "out")
    sizes = check_color_layers(packed, packed.shape[1], layers, activation, degree, counts.shape[0])
    refusal = "derivatives of directions" if torch.is_grad_enabled() and d.requires_grad else why_not_sine(activation)
    selected = dispatch.select(backend, out, d, *itertools.chain(*layers), cpu=refusal, tcnn=dispatch.NOT_IN_TCNN)
    flat_d = d.reshape(-1, 3)
    if selected == "reference":
        density, rgb = reference.radiance_head(packed, flat_d, layers, activation, degree, ceiling, counts)
    elif selected == "triton":  # of it, the network is a kernel
        log_density, inputs = reference.color_inputs(packed, flat_d, degree)
        density = truncated_exp(log_density, ceiling)
        rgb = torch.sigmoid(batched_mlp(inputs, layers, activation, counts=counts))
    else:
        from hyperfields.ops import _cpu

        density, rgb = _cpu.radiance_head_cpu(
            packed, flat_d, flat_layers(layers), counts, sizes, degree, slope_of(activation), ceiling
        )
    return density.reshape(*out.shape[:-1], 1), rgb.reshape(*out.shape[:-1], 3)


def check_color_layers(
    like: Tensor, width: int, layers: Layers, activation: Activation, degree: int, scenes: int
) -> list[int]:
    """Widths of a colour network behind a density network with so many outputs.

    Raises:
        ValueError, TypeError: harmonics that there are not; layers that do not fit each other, `like` or the scenes.
    """
    if not 1 <= degree <= len(BANDS):
        raise ValueError(f"degree: got {degree}, wanted 1 to {len(BANDS)}")
    sizes = check_layers(like.new_empty(0, width - 1 + degree**2), layers, activation, scenes)
    if sizes[-1] != 3:
        raise ValueError(f"layers: got {sizes[-1]} outputs, wanted 3, a colour")
    return sizes
