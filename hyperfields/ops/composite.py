"""`composite`: colours and opacities of rays from their samples."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import composite as reference


class Composited(NamedTuple):
    """Composited rays: premultiplied values, opacity, and opacity-weighted distance."""

    values: Tensor  # [r c]
    alpha: Tensor  # [r]
    depth: Tensor  # [r], sum of weight * distance; divide by alpha for the mean


@region("composite")
def composite(
    density: Tensor,  # [r k], or [m] with counts
    values: Tensor,  # [r k c], or [m c]
    edges: Tensor,  # [r k 2], or [m 2]: where each sample starts and ends along its ray
    *,
    counts: Tensor | None = None,  # [r] samples of each ray
    backend: Backend = "auto",
) -> Composited:
    """Rays composited front to back: weight_k = (1 - exp(-density_k length_k)) exp(-sum_{j<k} density_j length_j).

    Samples of a ray come in order; gaps between them are empty. Rays without samples give zeros.
    Differentiable once in density, values and edges; the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Max 1995, "Optical models for direct volume rendering"; Mildenhall et al. 2020, equation 3.
    """
    dispatch.require_same_kind(density=density, values=values, edges=edges)
    if values.shape[:-1] != density.shape or edges.shape != (*density.shape, 2):
        raise ValueError(
            f"composite: got density {tuple(density.shape)}, values {tuple(values.shape)}, edges "
            f"{tuple(edges.shape)}; wanted [...], [... c] and [... 2]"
        )
    packed, counts = dispatch.pack(values, counts, "values")
    flat_density, flat_edges = density.reshape(-1), edges.reshape(-1, 2)
    selected = dispatch.select(
        backend, density, values, edges, triton=dispatch.float32_only(density.dtype), tcnn=dispatch.NOT_IN_TCNN
    )
    if selected == "reference":
        return Composited(*reference.composite(flat_density, packed, flat_edges, counts.to(values.device)))
    if selected == "triton":
        from hyperfields.ops import _triton

        counts = counts.to(values.device, non_blocking=True)
        return Composited(*_triton.composite_triton(flat_density, packed, flat_edges, counts))
    from hyperfields.ops import _cpu

    return Composited(*_cpu.composite_cpu(flat_density, packed, flat_edges, counts))
