"""Ops that tell which samples of rays can be seen: `early_termination`, and `visible_samples` in one call.

None of them gives a gradient: what is seen decides which points a field is asked for, and gradients come from there.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.encode import check_grid, encode_mlp
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.march import check_rays, gather_samples, ray_march
from hyperfields.ops.mlp import check_layers, flat_layers, slope_of, why_not_sine
from hyperfields.ops.profiling import region
from hyperfields.ops.radiance import truncated_exp
from hyperfields.ops.reference import visibility as reference
from hyperfields.ops.reference.mlp import Layers
from hyperfields.ops.space import BOX, Contracted, Space


@region("early_termination")
def early_termination(
    density: Tensor,  # [m]
    edges: Tensor,  # [m 2]
    counts: Tensor,  # [r] int64: samples of each ray
    opacity: Tensor,  # [r] of what lies before them
    opaque: float,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # counts [r], opacity [r]
    """Counts of the samples of each ray that can be seen: those before which the opacity is below `opaque`.

    Also the opacity behind the last of them. Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, inputs that require a gradient, or a backend
            that cannot run.
    """
    dispatch.require_no_gradient(
        "early_termination: densities and opacities require a gradient, which it does not give", density, edges, opacity
    )
    dispatch.require_same_kind(density=density, edges=edges, opacity=opacity)
    dispatch.pack(edges, counts, "edges")
    if density.shape != edges.shape[:1] or edges.shape[1] != 2 or opacity.shape != counts.shape:
        raise ValueError(
            f"early_termination: got density {tuple(density.shape)}, edges {tuple(edges.shape)}, opacity "
            f"{tuple(opacity.shape)}; wanted [m], [m 2] and [{counts.shape[0]}]"
        )
    with torch.no_grad():
        selected = dispatch.select(
            backend, density, edges, opacity, triton=dispatch.float32_only(density.dtype), tcnn=dispatch.NOT_IN_TCNN
        )
        if selected == "reference":
            return reference.early_termination(density, edges, counts.to(density.device), opacity, opaque)
        if selected == "triton":
            from hyperfields.ops import _triton

            kept, behind = _triton.early_termination_triton(density, edges, counts.to(density.device), opacity, opaque)
            return kept, behind
        from hyperfields.ops import _cpu

        return _cpu.early_termination_cpu(density, edges, counts, opacity, opaque)


class VisibleSamples(NamedTuple):
    """Samples of rays that can be seen, packed, in the order of their rays."""

    x: Tensor  # [m 3] middles
    d: Tensor  # [m 3] directions of their rays
    edges: Tensor  # [m 2] where each starts and ends along its ray
    counts: Tensor  # [s*r] samples of each ray
    encoded: Tensor | None  # [m l*f] features by `hash_encode`, where a kernel computed them on the way


@region("visible_samples")
def visible_samples(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool
    step: float,
    offset: Tensor | None,  # [s r]
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    layers: Layers,  # of a network with one output: the log density
    activation: Activation = "relu",
    *,
    ceiling: float,  # of the log density
    opaque: float,
    space: Space = BOX,
    backend: Backend = "auto",
) -> VisibleSamples:
    """Samples of `ray_march` before which the opacity of their ray is below `opaque`: all that a picture needs.

    The grid is encoded at points scaled from [-1, 1] to [0, 1]; in contracted space they are contracted before, and the
    network gives densities per contracted length. Not differentiable to any input; table and layers may require a
    gradient, which is that of what a field says of the samples.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, rays that require a gradient, or a backend
            that cannot run.
    """
    offset = check_rays(origins, directions, occupancy, step, offset)
    scenes = origins.shape[0]
    check_grid(origins.reshape(-1, 3), table, grid, scenes)
    sizes = check_layers(origins.new_empty(0, grid.channels), layers, activation, scenes)
    if sizes[-1] != 1:
        raise ValueError(f"layers: got {sizes[-1]} outputs, wanted 1, the logarithm of the density")
    with torch.no_grad():
        selected = dispatch.select(
            backend, origins, table, *itertools.chain(*layers), cpu=why_not_sine(activation), tcnn=dispatch.NOT_IN_TCNN
        )
        rays = origins, directions, occupancy, step, offset
        field = table, grid, layers, activation
        if selected == "reference":
            near = space.contracted, space.near
            return VisibleSamples(*reference.visible_samples(*rays, *field, ceiling, opaque, *near), None)
        if selected == "triton":
            return _by_parts(*rays, *field, ceiling, opaque, space)
        from hyperfields.ops import _cpu

        return VisibleSamples(
            *_cpu.visible_samples_cpu(
                *rays, table, grid.scales, grid.resolutions, grid.offsets, grid.smoothstep, flat_layers(layers), sizes,
                slope_of(activation), ceiling, opaque, space,
            )
        )  # fmt: skip


def _by_parts(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, table: Tensor, grid: GridSpec,
    layers: Layers, activation: Activation, ceiling: float, opaque: float, space: Space,
) -> VisibleSamples:  # fmt: skip
    """The definition, with each of its ops by the best backend."""
    scenes, rays = origins.shape[:2]
    flat_rays = origins.reshape(-1, 3), directions.reshape(-1, 3)
    edges, counts = ray_march(origins, directions, occupancy, step, offset, space=space)
    first = counts.cumsum(0) - counts
    x, _, spans = gather_samples(*flat_rays, edges, first, counts)
    place = space.into(x) * 0.5 + 0.5
    of_scene = counts.reshape(scenes, rays).sum(1)
    log_density = encode_mlp(place, table, grid, layers, activation, counts=of_scene)
    density = truncated_exp(log_density.squeeze(-1), ceiling)
    if isinstance(space, Contracted):
        density = density * space.density_scale(x).squeeze(-1)
    counts, _ = early_termination(density, spans, counts, density.new_zeros(len(counts)), opaque)
    return VisibleSamples(*gather_samples(*flat_rays, edges, first, counts), counts, None)
