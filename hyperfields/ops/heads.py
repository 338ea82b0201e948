"""`linear_heads`: several small linear maps of codes, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import heads as reference


@region("linear_heads")
def linear_heads(
    codes: Tensor,  # [s g k]
    weights: Sequence[Tensor],  # [n k] of each of the g heads
    biases: Sequence[Tensor],  # [n]
    *,
    backend: Backend = "auto",
) -> Tensor:  # [s n], n of all heads
    """Outputs of a linear map for each of the g codes of a scene, side by side.

    Differentiable once in everything; the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    named = {f"weights[{number}]": part for number, part in enumerate(weights)}
    named |= {f"biases[{number}]": part for number, part in enumerate(biases)}
    dispatch.require_same_kind(codes=codes, **named)
    shapes = [(tuple(weight.shape), tuple(bias.shape)) for weight, bias in zip(weights, biases, strict=True)]
    if (
        codes.dim() != 3
        or len(shapes) != codes.shape[1]
        or any(len(shape) != 2 or shape[1] != codes.shape[2] or bias != shape[:1] for shape, bias in shapes)
    ):
        raise ValueError(
            f"linear_heads: got codes {tuple(codes.shape)}, heads {shapes}; wanted [s g k] and g of [n k] and [n]"
        )
    selected = dispatch.select(
        backend, codes, *weights, *biases, triton="it is matrix products, which torch does well",
        tcnn=dispatch.NOT_IN_TCNN,
    )  # fmt: skip
    if selected == "reference":
        return reference.linear_heads(codes, weights, biases)
    from hyperfields.ops import _cpu

    outputs: Tensor = _cpu.linear_heads_cpu(codes, *weights, *biases)
    return outputs
