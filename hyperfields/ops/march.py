"""Ops that lead rays through space: `ray_march`, `ray_march_padded` and `gather_samples`.

None of them gives a gradient; rays that require one are refused.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Backend
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import march as reference
from hyperfields.ops.space import BOX, Space, samples_on_ray

NO_GRADIENT = "rays: require a gradient, which marching does not give"


@region("ray_march")
def ray_march(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool: cells of the scene box [-1, 1]^3, axis order x, y, z
    step: float,
    offset: Tensor | None = None,  # [s r] in [0, 1): where in a step each ray begins; default 0.5
    *,
    space: Space = BOX,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # edges [m 2] in ray order, counts [s*r], where the rays are
    """Edges of even steps along each ray through the scene box, without those whose middle lies in an empty cell.

    In contracted space steps grow with the distance from the centre, and the cells are those of the contracted cube.
    Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, rays that require a gradient, or a backend
            that cannot run.
    """
    offset = check_rays(origins, directions, occupancy, step, offset)
    with torch.no_grad():
        selected = dispatch.select(
            backend, origins, triton=dispatch.float32_only(origins.dtype), tcnn=dispatch.NOT_IN_TCNN
        )
        if selected == "reference":
            return reference.ray_march(origins, directions, occupancy, step, offset, space.contracted, space.near)
        if selected == "triton":
            from hyperfields.ops import _triton

            return _triton.ray_march_triton(origins, directions, occupancy, step, offset, space)
        from hyperfields.ops import _cpu

        return _cpu.ray_march_cpu(origins, directions, occupancy, step, offset, space)


def check_rays(origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor | None) -> Tensor:
    """Offsets `[s r]` of rays, 0.5 where there are none.

    Raises:
        ValueError, TypeError: as `ray_march`.
    """
    dispatch.require_no_gradient(NO_GRADIENT, origins, directions, offset)
    dispatch.require_same_kind(origins=origins, directions=directions)
    if origins.dim() != 3 or origins.shape != directions.shape or origins.shape[-1] != 3:
        raise ValueError(
            f"rays: got origins {tuple(origins.shape)}, directions {tuple(directions.shape)}; wanted [s r 3]"
        )
    cells = (origins.shape[0], *occupancy.shape[-1:] * 3)
    if occupancy.shape != cells or 0 in cells[1:] or occupancy.dtype != torch.bool:
        raise ValueError(
            f"occupancy: got {occupancy.dtype} {tuple(occupancy.shape)}, wanted bool [{origins.shape[0]} g g g]"
        )
    if not step > 0:
        raise ValueError(f"step: got {step}, wanted a positive length")
    offset = torch.full_like(origins[..., 0], 0.5) if offset is None else offset
    dispatch.require_same_kind(origins=origins, offset=offset)
    dispatch.require_shape("offset", offset, *origins.shape[:2])
    return offset


class PaddedSamples(NamedTuple):
    """Samples of rays, each ray with as many rows as any ray may need."""

    edges: Tensor  # [s*r*room 2] where each starts and ends along its ray; between the rays' samples anything
    first: Tensor  # [s*r] int64: the first row of each ray
    counts: Tensor  # [s*r] int64


def ray_march_padded(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool
    step: float,
    offset: Tensor,  # [s r]
    *,
    space: Space = BOX,
) -> PaddedSamples:
    """Samples of `ray_march` in a tensor whose size does not depend on how many there are: nobody waits for a device.

    Not differentiable to any input.

    Raises:
        ValueError, TypeError: as `ray_march`.
    """
    offset = check_rays(origins, directions, occupancy, step, offset)
    rays = origins.shape[0] * origins.shape[1]
    room = samples_on_ray(space, step)
    first = torch.arange(0, rays * room, room, device=origins.device)
    with torch.no_grad():
        selected = dispatch.select("auto", origins, triton=dispatch.float32_only(origins.dtype))
        if selected == "reference":
            edges, counts = reference.ray_march_padded(
                origins, directions, occupancy, step, offset, room, space.contracted, space.near
            )
        elif selected == "triton":
            from hyperfields.ops import _triton

            edges, counts = _triton.ray_march_padded_triton(
                origins, directions, occupancy, step, offset, first, room, space.contracted, space.near
            )
        else:
            from hyperfields.ops import _cpu

            packed, counts = _cpu.ray_march_cpu(origins, directions, occupancy, step, offset, space)
            edges = reference.pad_samples(packed, counts, room)
    return PaddedSamples(edges, first, counts)


class Samples(NamedTuple):
    """Packed samples, in the order of their rays."""

    x: Tensor  # [n 3] middles
    d: Tensor  # [n 3] directions of their rays
    edges: Tensor  # [n 2] where each starts and ends along its ray


@region("gather_samples")
def gather_samples(
    origins: Tensor,  # [r 3]
    directions: Tensor,  # [r 3]
    edges: Tensor,  # [m 2], from `ray_march`
    first: Tensor,  # [r] int64: the first sample to take of each ray, a row of edges
    counts: Tensor,  # [r] int64: how many to take, from there on
    *,
    total: int | None = None,  # rows of the result, at least as many as are taken; default: just as many
    backend: Backend = "auto",
) -> Samples:
    """Samples of `ray_march`, some of each ray, with their points in space. Not differentiable to any input.

    With `total` nobody waits for a device to say how many there are. Rows behind the last sample hold anything.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, rays that require a gradient, or a backend
            that cannot run.
    """
    dispatch.require_no_gradient(NO_GRADIENT, origins, directions, edges)
    _check_gather(origins, directions, edges, first, counts)
    with torch.no_grad():
        selected = dispatch.select(
            backend, origins, edges, triton=dispatch.float32_only(origins.dtype), tcnn=dispatch.NOT_IN_TCNN
        )
        if selected != "cpu":
            first, counts = first.to(origins.device), counts.to(origins.device)
        if selected == "triton":
            from hyperfields.ops import _triton

            total = int(counts.sum()) if total is None else total
            return Samples(*_triton.gather_samples_triton(origins, directions, edges, first, counts, total))
        if selected == "reference":
            samples = reference.gather_samples(origins, directions, edges, first, counts)
        else:
            from hyperfields.ops import _cpu

            samples = _cpu.gather_samples_cpu(origins, directions, edges, first, counts)
        more = 0 if total is None else total - len(samples[0])
        return Samples(*(torch.nn.functional.pad(t, (0, 0, 0, more)) if more else t for t in samples))


def _check_gather(origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor) -> None:
    dispatch.require_same_kind(origins=origins, directions=directions, edges=edges)
    rays = origins.shape[:1]
    if origins.shape != (*rays, 3) or directions.shape != origins.shape or edges.dim() != 2 or edges.shape[1] != 2:
        raise ValueError(
            f"gather_samples: got origins {tuple(origins.shape)}, directions {tuple(directions.shape)}, edges "
            f"{tuple(edges.shape)}; wanted [r 3], [r 3] and [m 2]"
        )
    if first.shape != rays or counts.shape != rays or first.dtype != torch.int64 or counts.dtype != torch.int64:
        raise ValueError(
            f"gather_samples: got first {first.dtype} {tuple(first.shape)}, counts {counts.dtype} "
            f"{tuple(counts.shape)}; wanted int64 {list(rays)}"
        )
    outside = (first < 0) | (first + counts > edges.shape[0])
    # On another device the answer would make the host wait for it.
    if counts.device.type == "cpu" and bool(((counts < 0) | (counts > 0) & outside).any()):
        raise ValueError(f"gather_samples: first and counts leave the {edges.shape[0]} rows of edges")
