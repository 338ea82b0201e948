"""`distortion`: how far what a ray sees is spread along it."""

from __future__ import annotations

from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import distortion as reference


@region("distortion")
def distortion(
    density: Tensor,  # [m]
    edges: Tensor,  # [m 2]: where each sample starts and ends along its ray
    places: Tensor,  # [m 2]: the same in the parameter in which the spread is measured, growing
    counts: Tensor,  # [r] samples of each ray
    *,
    backend: Backend = "auto",
) -> Tensor:  # [r]
    """Spread of the weights of `composite`: sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 d_i, in O(m).

    m and d are middles and lengths of `places`. As a loss it draws what a ray sees together, and clears fog.
    Differentiable once in density, the reference twice; edges and places that require a gradient are refused.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Barron et al. 2022, "Mip-NeRF 360", equation 15.
    """
    dispatch.require_no_gradient(
        "distortion: edges or places require a gradient, which it does not give", edges, places
    )
    dispatch.require_same_kind(density=density, edges=edges, places=places)
    if edges.shape != (*density.shape, 2) or places.shape != edges.shape or density.dim() != 1:
        raise ValueError(
            f"distortion: got density {tuple(density.shape)}, edges {tuple(edges.shape)}, places "
            f"{tuple(places.shape)}; wanted [m], [m 2] and [m 2]"
        )
    dispatch.pack(edges, counts, "edges")
    selected = dispatch.select(
        backend, density, edges, places, triton="no kernel of it: the reference runs on a GPU",
        tcnn=dispatch.NOT_IN_TCNN,
    )  # fmt: skip
    if selected == "reference":
        return reference.distortion(density, edges, places, counts.to(density.device))
    from hyperfields.ops import _cpu

    spread: Tensor = _cpu.distortion_cpu(density, edges, places, counts)
    return spread
