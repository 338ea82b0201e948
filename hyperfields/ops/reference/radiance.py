"""Definition of `radiance_head` and `truncated_exp`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfields.ops.reference import mlp
from hyperfields.ops.spherical_harmonics import spherical_harmonics


class _ClampMax(torch.autograd.Function):
    """min(x, ceiling) with the derivative of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(max=ceiling)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


def truncated_exp(x: Tensor, ceiling: float) -> Tensor:
    """exp(min(x, ceiling)), whose derivative above the ceiling is that at it, so that what is above can come back.

    The derivative of the value would be 0 there. Source: the truncated exponential of torch-ngp (Tang 2022).
    """
    limited: Tensor = _ClampMax.apply(x, ceiling)  # type: ignore[no-untyped-call]
    return torch.exp(limited)


def color_inputs(out: Tensor, d: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Log density `[... 1]`, and what the colour network reads `[... g + degree^2]`: features and harmonics."""
    log_density, features = out.split((1, out.shape[-1] - 1), -1)  # one piece backward, where two slices would be two
    return log_density, torch.cat((features, spherical_harmonics(d, degree)), -1)


def radiance_head(
    out: Tensor, d: Tensor, layers: mlp.Layers, activation: str, degree: int, ceiling: float, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Density `[m 1]` and colour `[m 3]` from out `[m 1+g]` (log density, features) and directions d `[m 3]`."""
    log_density, inputs = color_inputs(out, d, degree)
    return truncated_exp(log_density, ceiling), torch.sigmoid(mlp.batched_mlp(inputs, layers, activation, counts))
