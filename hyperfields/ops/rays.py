"""Ops of rays: `composite`, and what leads them through space: `march`, `samples`, `reach`, `sight`."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.ops import _reference
from hyperfields.ops import dispatch as choice
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.points import check_grid, check_layers, encode_mlp, flat_layers, no_sine
from hyperfields.ops.profiling import region


class Composited(NamedTuple):
    """What is left of a ray: premultiplied values, opacity, and opacity-weighted distance."""

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
    """Front-to-back alpha compositing: weight_k = (1 - exp(-density_k length_k)) exp(-sum_{j<k} density_j length_j).

    Samples of a ray come in order; gaps between them are empty. Rays without samples give zeros.
    Differentiable once in density, values and edges; the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Max 1995, "Optical models for direct volume rendering"; Mildenhall et al. 2020, equation 3.
    """
    choice.same_kind(density=density, values=values, edges=edges)
    if values.shape[:-1] != density.shape or edges.shape != (*density.shape, 2):
        raise ValueError(
            f"composite: got density {tuple(density.shape)}, values {tuple(values.shape)}, edges "
            f"{tuple(edges.shape)}; wanted [...], [... c] and [... 2]"
        )
    packed, numbers = choice.pack(values, counts, "values")
    flat_density, flat_edges = density.reshape(-1), edges.reshape(-1, 2)
    chosen = choice.choose(
        backend, density, values, edges, triton=choice.float32_only(density.dtype), tcnn=choice.NO_TCNN
    )
    if chosen == "reference":
        return Composited(*_reference.composite(flat_density, packed, flat_edges, numbers.to(values.device)))
    if chosen == "triton":
        from hyperfields.ops import _triton

        numbers = numbers.to(values.device, non_blocking=True)
        return Composited(*_triton.composite_triton(flat_density, packed, flat_edges, numbers))
    from hyperfields.ops import _cpu

    return Composited(*_cpu.composite_cpu(flat_density, packed, flat_edges, numbers))


@region("ray_march")
def ray_march(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool: cells of the scene box [-1, 1]^3, axis order x, y, z
    step: float,
    offset: Tensor | None = None,  # [s r] in [0, 1): where in a step each ray begins; default 0.5
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # edges [m 2] in ray order, counts [s*r], where the rays are
    """Even steps along each ray through the scene box, without those whose middle lies in an empty cell.

    Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    offset = _check_march(origins, directions, occupancy, step, offset)
    with torch.no_grad():
        chosen = choice.choose(backend, origins, triton=choice.float32_only(origins.dtype), tcnn=choice.NO_TCNN)
        if chosen == "reference":
            return _reference.march(origins, directions, occupancy, step, offset)
        if chosen == "triton":
            from hyperfields.ops import _triton

            return _triton.march_triton(origins, directions, occupancy, step, offset)
        from hyperfields.ops import _cpu

        return _cpu.march_cpu(origins, directions, occupancy, step, offset)


_LOST = "rays: require a gradient, which marching does not give"


def _check_march(origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor | None) -> Tensor:
    """The offset, with its default filled in."""
    choice.without_gradient(_LOST, origins, directions, offset)
    choice.same_kind(origins=origins, directions=directions)
    if origins.dim() != 3 or origins.shape != directions.shape or origins.shape[-1] != 3:
        raise ValueError(
            f"march: got origins {tuple(origins.shape)}, directions {tuple(directions.shape)}; wanted [s r 3]"
        )
    cells = (origins.shape[0], *occupancy.shape[-1:] * 3)
    if occupancy.shape != cells or 0 in cells[1:] or occupancy.dtype != torch.bool:
        raise ValueError(
            f"occupancy: got {occupancy.dtype} {tuple(occupancy.shape)}, wanted bool [{origins.shape[0]} g g g]"
        )
    if not step > 0:
        raise ValueError(f"step: got {step}, wanted a positive length")
    offset = torch.full_like(origins[..., 0], 0.5) if offset is None else offset
    choice.same_kind(origins=origins, offset=offset)
    if offset.shape != origins.shape[:2]:
        raise ValueError(f"offset: got shape {tuple(offset.shape)}, wanted {list(origins.shape[:2])}")
    return offset


class PaddedSamples(NamedTuple):
    """Samples of rays in a place of their own for each ray, as large as any ray may need."""

    edges: Tensor  # [s*r*room 2] where each starts and ends along its ray; between the rays' samples anything
    first: Tensor  # [s*r] int64: the first row of each ray
    counts: Tensor  # [s*r] int64


def ray_march_padded(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool
    step: float,
    offset: Tensor,  # [s r]
) -> PaddedSamples:
    """The samples of `march`, in a tensor whose size does not depend on what is found: nobody waits for a device.

    Not differentiable to any input.

    Raises:
        ValueError: a backend that cannot run.
    """
    choice.without_gradient(_LOST, origins, directions, offset)
    rays = origins.shape[0] * origins.shape[1]
    room = math.ceil(2.0 * math.sqrt(3.0) / step) + 2  # a diagonal of the box, and one sample more at each end
    first = torch.arange(0, rays * room, room, device=origins.device)
    if choice.choose("auto", origins, triton=choice.float32_only(origins.dtype)) == "triton":
        from hyperfields.ops import _triton

        edges, counts = _triton.march_apart_triton(origins, directions, occupancy, step, offset, first, room)
        return PaddedSamples(edges, first, counts)
    packed, counts = ray_march(origins, directions, occupancy, step, offset)
    return PaddedSamples(_reference.apart(packed, counts, room), first, counts)


class Samples(NamedTuple):
    """Packed samples, in the order of their rays."""

    x: Tensor  # [n 3] middles
    d: Tensor  # [n 3] directions of their rays
    edges: Tensor  # [n 2] where each starts and ends along its ray


@region("gather_samples")
def gather_samples(
    origins: Tensor,  # [r 3]
    directions: Tensor,  # [r 3]
    edges: Tensor,  # [m 2], from `march`
    first: Tensor,  # [r] int64: the first sample to take of each ray, a row of edges
    counts: Tensor,  # [r] int64: how many to take, from there on
    *,
    total: int | None = None,  # rows of the result, at least as many as are taken; default: just as many
    backend: Backend = "auto",
) -> Samples:
    """Some of the samples of `march`, with their points in space. Not differentiable to any input.

    With `total` nobody waits for a device to say how many there are. Rows behind the last sample hold anything.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    choice.without_gradient(_LOST, origins, directions, edges)
    choice.same_kind(origins=origins, directions=directions, edges=edges)
    rays = origins.shape[:1]
    if origins.shape != (*rays, 3) or directions.shape != origins.shape or edges.dim() != 2 or edges.shape[1] != 2:
        raise ValueError(
            f"samples: got origins {tuple(origins.shape)}, directions {tuple(directions.shape)}, edges "
            f"{tuple(edges.shape)}; wanted [r 3], [r 3] and [m 2]"
        )
    if first.shape != rays or counts.shape != rays or first.dtype != torch.int64 or counts.dtype != torch.int64:
        raise ValueError(
            f"samples: got first {first.dtype} {tuple(first.shape)}, counts {counts.dtype} {tuple(counts.shape)}; "
            f"wanted int64 {list(rays)}"
        )
    outside = (first < 0) | (first + counts > edges.shape[0])
    # On another device the answer would make the host wait for it.
    if counts.device.type == "cpu" and bool(((counts < 0) | (counts > 0) & outside).any()):
        raise ValueError(f"samples: first and counts leave the {edges.shape[0]} rows of edges")
    with torch.no_grad():
        chosen = choice.choose(backend, origins, edges, triton=choice.float32_only(origins.dtype), tcnn=choice.NO_TCNN)
        if chosen != "cpu":
            first, counts = first.to(origins.device), counts.to(origins.device)
        if chosen == "triton":
            from hyperfields.ops import _triton

            total = int(counts.sum()) if total is None else total
            return Samples(*_triton.samples_triton(origins, directions, edges, first, counts, total))
        if chosen == "reference":
            found = _reference.samples(origins, directions, edges, first, counts)
        else:
            from hyperfields.ops import _cpu

            found = _cpu.samples_cpu(origins, directions, edges, first, counts)
        more = 0 if total is None else total - len(found[0])
        return Samples(*(torch.nn.functional.pad(t, (0, 0, 0, more)) if more else t for t in found))


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
    """How many samples of each ray can be seen: those before which the opacity is below `opaque`.

    Also the opacity behind the last of them. Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    choice.without_gradient(
        "early_termination: densities and opacities require a gradient, which it does not give", density, edges, opacity
    )
    choice.same_kind(density=density, edges=edges, opacity=opacity)
    choice.pack(edges, counts, "edges")
    if density.shape != edges.shape[:1] or edges.shape[1] != 2 or opacity.shape != counts.shape:
        raise ValueError(
            f"reach: got density {tuple(density.shape)}, edges {tuple(edges.shape)}, opacity {tuple(opacity.shape)}; "
            f"wanted [m], [m 2] and [{counts.shape[0]}]"
        )
    with torch.no_grad():
        chosen = choice.choose(
            backend, density, edges, opacity, triton=choice.float32_only(density.dtype), tcnn=choice.NO_TCNN
        )
        if chosen == "reference":
            return _reference.reach(density, edges, counts.to(density.device), opacity, opaque)
        if chosen == "triton":
            from hyperfields.ops import _triton

            kept, behind = _triton.reach_triton(density, edges, counts.to(density.device), opacity, opaque)
            return kept, behind
        from hyperfields.ops import _cpu

        return _cpu.reach_cpu(density, edges, counts, opacity, opaque)


class VisibleSamples(NamedTuple):
    """The samples of rays that can be seen, packed, in the order of their rays."""

    x: Tensor  # [m 3] middles
    d: Tensor  # [m 3] directions of their rays
    edges: Tensor  # [m 2] where each starts and ends along its ray
    counts: Tensor  # [s*r] how many each ray has
    encoded: Tensor | None  # [m l*f] what `hash_encode` says of them, where that came of itself


@region("visible_samples")
def visible_samples(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool
    step: float,
    offset: Tensor | None,  # [s r]
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    layers: list[tuple[Tensor, Tensor | None]],  # of a network with one output: the logarithm of the density
    activation: Activation = "relu",
    *,
    ceiling: float,  # of that logarithm
    opaque: float,
    backend: Backend = "auto",
) -> VisibleSamples:
    """The samples of `march` before which the opacity of their ray is below `opaque`: all that a picture needs.

    The grid is encoded at points scaled from [-1, 1] to [0, 1]. Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    choice.without_gradient(_LOST, origins, directions, offset)
    with torch.no_grad():
        return _visible_samples(
            origins, directions, occupancy, step, offset, table, grid, layers, activation, ceiling, opaque, backend
        )


def _visible_samples(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor | None,
    table: Tensor,
    grid: GridSpec,
    layers: list[tuple[Tensor, Tensor | None]],
    activation: Activation,
    ceiling: float,
    opaque: float,
    backend: Backend,
) -> VisibleSamples:
    scenes, rays = origins.shape[:2]
    check_grid(origins.reshape(-1, 3), table, grid, scenes)
    sizes = check_layers(origins.new_empty(0, grid.channels), layers, activation, scenes)
    if sizes[-1] != 1:
        raise ValueError(f"layers: got {sizes[-1]} outputs, wanted 1, the logarithm of the density")
    chosen = choice.choose(
        backend, origins, table, *itertools.chain(*layers), cpu=no_sine(activation), tcnn=choice.NO_TCNN
    )
    if chosen == "cpu":
        from hyperfields.ops import _cpu

        offset = _check_march(origins, directions, occupancy, step, offset)
        slope = _reference.NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0
        return VisibleSamples(
            *_cpu.sight_cpu(
                origins, directions, occupancy, step, offset, table, grid.scales, grid.resolutions, grid.offsets,
                grid.smoothstep, flat_layers(layers), sizes, slope, ceiling, opaque,
            )
        )  # fmt: skip
    part: Backend = "reference" if chosen == "reference" else "auto"
    edges, counts = ray_march(origins, directions, occupancy, step, offset, backend=part)
    flat = origins.reshape(-1, 3), directions.reshape(-1, 3)
    first = counts.cumsum(0) - counts
    there = gather_samples(*flat, edges, first, counts, backend=part)
    x, numbers = there.x * 0.5 + 0.5, counts.reshape(scenes, rays).sum(1)
    out = encode_mlp(x, table, grid, layers, activation, counts=numbers, backend=part)
    density = _reference.truncated_exp(out.squeeze(-1), ceiling)
    counts, _ = early_termination(density, there.edges, counts, density.new_zeros(len(counts)), opaque, backend=part)
    return VisibleSamples(*gather_samples(*flat, edges, first, counts, backend=part), counts, None)
