"""`combine_bases`: tables of scenes from bases that all share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import basis as reference


@region("combine_bases")
def combine_bases(
    coefficients: Tensor,  # [s g k]
    bases: Sequence[Tensor],  # [k n] of each of the g groups
    *,
    backend: Backend = "auto",
) -> Tensor:  # [s n], n of all groups
    """Sums of shared bases, with coefficients of their own for each scene and group of columns.

    Differentiable once in coefficients and bases; the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    named = {f"bases[{number}]": part for number, part in enumerate(bases)}
    dispatch.require_same_kind(coefficients=coefficients, **named)
    shapes = [tuple(part.shape) for part in bases]
    if (
        coefficients.dim() != 3
        or len(bases) != coefficients.shape[1]
        or any(len(shape) != 2 or shape[0] != coefficients.shape[2] for shape in shapes)
    ):
        raise ValueError(
            f"combine_bases: got coefficients {tuple(coefficients.shape)}, bases {shapes}; wanted [s g k] and g of "
            "[k n]"
        )
    selected = dispatch.select(
        backend, coefficients, *bases, triton="it is matrix products, which torch does well", tcnn=dispatch.NOT_IN_TCNN
    )
    if selected == "reference":
        return reference.combine_bases(coefficients, bases)
    from hyperfields.ops import _cpu

    combined: Tensor = _cpu.combine_bases_cpu(coefficients, *bases)
    return combined
