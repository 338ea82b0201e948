"""The numerical operations, and the only place that knows that backends exist: validate, choose, call.

Points come either as one block a scene, `x [s n d]`, or packed, `x [m d]` sorted by scene with `counts [s]`
(int64, on the CPU). Both give what a loop over scenes gives, to rounding. `backend="auto"` takes the first one that can
run the call; a backend asked for by name that cannot run raises and says why.
"""

from __future__ import annotations

import importlib.util
import itertools
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hyperfields.ops import _reference
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.timing import stage

__all__ = [
    "Activation",
    "Backend",
    "Composited",
    "GridSpec",
    "Samples",
    "backends",
    "batched_mlp",
    "composite",
    "hash_encode",
    "march",
    "reach",
    "samples",
]

Backend = Literal["auto", "cpu", "reference"]
Activation = Literal["leaky_relu", "relu", "sine"]


class Composited(NamedTuple):
    """What is left of a ray: premultiplied values, opacity, and opacity-weighted distance."""

    values: Tensor  # [r c]
    alpha: Tensor  # [r]
    depth: Tensor  # [r], sum of weight * distance; divide by alpha for the mean


def backends() -> dict[str, str]:
    """Each backend with `""` when it can run here, else with the reason why not and what to do."""
    missing = "" if importlib.util.find_spec("numba") else "numba is not installed: pip install numba"
    return {"cpu": missing, "reference": ""}


def _choose(backend: Backend, refusal: str, tensor: Tensor, *others: Tensor | None) -> str:
    """The backend to use; `refusal` says why the cpu kernels cannot take this call, or is empty.

    `tensor` and `others` are all that may carry a derivative; they have one dtype and one device.
    """
    if backend not in ("auto", "cpu", "reference"):
        raise ValueError(f"backend: got {backend!r}, wanted one of 'auto', 'cpu', 'reference'")
    if backend == "reference":
        return backend
    if tensor.device.type != "cpu":
        refusal = f"tensors are on {tensor.device}"
    elif tensor.dtype not in (torch.float32, torch.float64):
        refusal = f"dtype is {tensor.dtype}, the cpu kernels take float32 and float64"
    elif any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in (tensor, *others)):
        # torch would give a tangent of zero, silently: an operator without a forward-mode formula loses it.
        refusal = "forward-mode derivatives (the cpu kernels have those of reverse mode)"
    refusal = refusal or backends()["cpu"]
    if refusal and backend == "cpu":
        raise ValueError(f"backend 'cpu' cannot run this call: {refusal}; use backend='reference' or 'auto'")
    return "reference" if refusal else "cpu"


def _pack(x: Tensor, counts: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """`[s n d]` or packed `[m d]` with counts -> packed and counts."""
    if x.dim() == 3 and counts is None:
        counts = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64)
        return x.reshape(-1, x.shape[-1]), counts
    if x.dim() != 2 or counts is None or counts.dim() != 1:
        got = None if counts is None else tuple(counts.shape)
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)} with counts {got}; wanted [s n d], or [m d] with counts [s]"
        )
    if counts.dtype != torch.int64 or counts.device.type != "cpu":
        raise TypeError(f"counts: got {counts.dtype} on {counts.device}, wanted torch.int64 on cpu")
    if int(counts.sum()) != x.shape[0] or (counts.numel() > 0 and int(counts.min()) < 0):
        raise ValueError(f"counts: sum is {int(counts.sum())}, wanted the {x.shape[0]} points of {name}, none negative")
    return x, counts


def _same_kind(**tensors: Tensor) -> None:
    kinds = {(t.dtype, t.device) for t in tensors.values()}
    if len(kinds) > 1:
        got = ", ".join(f"{name} {t.dtype} on {t.device}" for name, t in tensors.items())
        raise TypeError(f"got {got}; wanted one dtype and one device")


@stage("hash_encode")
def hash_encode(
    x: Tensor,  # [s n d], or [m d] with counts
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    *,
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> Tensor:  # [s n l*f], or [m l*f]
    """Multi-resolution grid encoding: multilinear interpolation of table rows, column `l * f + feature`.

    Points are in [0, 1]^d; others wrap around as in tiny-cuda-nn. A table with one scene serves all scenes.
    Differentiable once in `table` and in `x` (zero across cell faces is not smoothed); the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Mueller et al. 2022, "Instant neural graphics primitives", section 3; see `ops/grid.py`.
    """
    packed, numbers = _pack(x, counts, "x")
    _same_kind(x=x, table=table)
    scenes = numbers.shape[0]
    if packed.shape[1] != grid.dims:
        raise ValueError(f"x: got {packed.shape[1]} coordinates, wanted the grid's {grid.dims}")
    if table.dim() != 3 or table.shape[0] not in (1, scenes) or table.shape[1:] != (grid.rows, grid.features):
        raise ValueError(f"table: got shape {tuple(table.shape)}, wanted [{scenes} or 1, {grid.rows}, {grid.features}]")
    refusal = "" if grid.dims in (2, 3) else f"grids of {grid.dims} dimensions (2 and 3 are compiled)"
    if _choose(backend, refusal, x, table) == "reference":
        result = _reference.hash_encode(packed, table, grid, numbers.to(x.device))
    else:
        from hyperfields.ops import _cpu

        result = _cpu.hash_encode_cpu(
            packed,
            table,
            numbers,
            list(grid.scales),
            list(grid.resolutions),
            list(grid.offsets),
            grid.smoothstep,
        )
    return result.reshape(*x.shape[:-1], grid.channels)


@stage("batched_mlp")
def batched_mlp(
    x: Tensor,  # [s n i], or [m i] with counts
    layers: list[tuple[Tensor, Tensor | None]],  # weight [s o i], bias [s o]
    activation: Activation = "relu",
    *,
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> Tensor:  # [s n o], or [m o]
    """One small MLP a scene, all scenes in one call; `activation` between layers, the last one linear.

    Differentiable once in everything; the reference twice. `"leaky_relu"` has slope 0.01 below 0;
    `"sine"` is sin(x): its frequency belongs in the weights.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    packed, numbers = _pack(x, counts, "x")
    scenes, width = numbers.shape[0], packed.shape[1]
    if not layers:
        raise ValueError("layers: got none, wanted at least one")
    if activation not in _reference.ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, wanted one of {', '.join(_reference.ACTIVATIONS)}")
    for number, (weight, bias) in enumerate(layers):
        _same_kind(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
        if weight.dim() != 3 or weight.shape[0] != scenes or weight.shape[2] != width:
            raise ValueError(
                f"layers[{number}] weight: got shape {tuple(weight.shape)}, wanted [{scenes}, out, {width}]"
            )
        width = weight.shape[1]
        if bias is not None and bias.shape != (scenes, width):
            raise ValueError(f"layers[{number}] bias: got shape {tuple(bias.shape)}, wanted [{scenes}, {width}]")
    refusal = f"activation {activation!r} (relu and leaky_relu are compiled)" if activation == "sine" else ""
    if _choose(backend, refusal, x, *itertools.chain(*layers)) == "reference":
        result = _reference.batched_mlp(packed, layers, activation, numbers)
    else:
        from hyperfields.ops import _cpu

        pieces: list[Tensor] = []
        for weight, bias in layers:
            pieces += [
                weight.reshape(scenes, -1),
                weight.new_zeros(weight.shape[:2]) if bias is None else bias,
            ]
        params = torch.cat(pieces, 1)
        keep = torch.is_grad_enabled() and (packed.requires_grad or params.requires_grad)
        sizes = [packed.shape[1], *(weight.shape[1] for weight, _ in layers)]
        slope = _reference.LEAK if activation == "leaky_relu" else 0.0
        result, _ = _cpu.mlp_cpu(packed, params, numbers, sizes, keep, slope)
    return result.reshape(*x.shape[:-1], width)


@stage("composite")
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
    _same_kind(density=density, values=values, edges=edges)
    if values.shape[:-1] != density.shape or edges.shape != (*density.shape, 2):
        raise ValueError(
            f"composite: got density {tuple(density.shape)}, values {tuple(values.shape)}, edges "
            f"{tuple(edges.shape)}; wanted [...], [... c] and [... 2]"
        )
    packed, numbers = _pack(values, counts, "values")
    flat_density, flat_edges = density.reshape(-1), edges.reshape(-1, 2)
    if _choose(backend, "", density, values, edges) == "reference":
        return Composited(*_reference.composite(flat_density, packed, flat_edges, numbers.to(values.device)))
    from hyperfields.ops import _cpu

    return Composited(*_cpu.composite_cpu(flat_density, packed, flat_edges, numbers))


@stage("march")
def march(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool: cells of the scene box [-1, 1]^3, axis order x, y, z
    step: float,
    offset: Tensor | None = None,  # [s r] in [0, 1): where in a step each ray begins; default 0.5
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # edges [m 2] in ray order, counts [s*r]
    """Even steps along each ray through the scene box, without those whose middle lies in an empty cell.

    Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    _same_kind(origins=origins, directions=directions)
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
    _same_kind(origins=origins, offset=offset)
    if offset.shape != origins.shape[:2]:
        raise ValueError(f"offset: got shape {tuple(offset.shape)}, wanted {list(origins.shape[:2])}")
    with torch.no_grad():
        if _choose(backend, "", origins) == "reference":
            edges, numbers = _reference.march(origins, directions, occupancy, step, offset)
            return edges, numbers.cpu()
        from hyperfields.ops import _cpu

        return _cpu.march_cpu(origins, directions, occupancy, step, offset)


class Samples(NamedTuple):
    """Packed samples, in the order of their rays."""

    x: Tensor  # [n 3] middles
    d: Tensor  # [n 3] directions of their rays
    edges: Tensor  # [n 2] where each starts and ends along its ray


@stage("samples")
def samples(
    origins: Tensor,  # [r 3]
    directions: Tensor,  # [r 3]
    edges: Tensor,  # [m 2], from `march`
    first: Tensor,  # [r] int64: the first sample to take of each ray, a row of edges
    counts: Tensor,  # [r] int64: how many to take, from there on
    *,
    backend: Backend = "auto",
) -> Samples:
    """Some of the samples of `march`, with their points in space. Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    _same_kind(origins=origins, directions=directions, edges=edges)
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
    if bool(((counts < 0) | (counts > 0) & outside).any()):
        raise ValueError(f"samples: first and counts leave the {edges.shape[0]} rows of edges")
    with torch.no_grad():
        if _choose(backend, "", origins, edges) == "reference":
            device = origins.device
            return Samples(*_reference.samples(origins, directions, edges, first.to(device), counts.to(device)))
        from hyperfields.ops import _cpu

        return Samples(*_cpu.samples_cpu(origins, directions, edges, first, counts))


@stage("reach")
def reach(
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
    _same_kind(density=density, edges=edges, opacity=opacity)
    _pack(edges, counts, "edges")
    if density.shape != edges.shape[:1] or edges.shape[1] != 2 or opacity.shape != counts.shape:
        raise ValueError(
            f"reach: got density {tuple(density.shape)}, edges {tuple(edges.shape)}, opacity {tuple(opacity.shape)}; "
            f"wanted [m], [m 2] and [{counts.shape[0]}]"
        )
    with torch.no_grad():
        if _choose(backend, "", density, edges, opacity) == "reference":
            kept, after = _reference.reach(density, edges, counts.to(density.device), opacity, opaque)
            return kept.cpu(), after
        from hyperfields.ops import _cpu

        return _cpu.reach_cpu(density, edges, counts, opacity, opaque)
