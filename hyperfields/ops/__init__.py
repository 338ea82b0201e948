"""The numerical operations, and the only place that knows that backends exist: validate, choose, call.

Points come either as one block a scene, `x [s n d]`, or packed, `x [m d]` sorted by scene with `counts [s]`
(int64, on the CPU or where x is). Both give what a loop over scenes gives, to rounding. Counts on another device than
the CPU may add up to less than m: the last points then belong to nobody, and what comes out for them means nothing.
`backend="auto"` takes triton for CUDA tensors and cpu for CPU tensors where they can run the call, else the reference;
tcnn only runs when asked for. A backend asked for by name that cannot run raises and says why. The kernels are
differentiable once; within `twice_differentiable()` auto takes the reference wherever a gradient may be asked for.

Under `torch.autocast("cuda")` matrix products of the triton kernels take 16-bit inputs and add up in float32; tensors
in and out stay float32. With float16, cotangents are bfloat16: their range needs no loss scaling.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Iterator
from contextvars import ContextVar
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
    "encode_mlp",
    "hash_encode",
    "march",
    "march_apart",
    "mix",
    "reach",
    "samples",
    "sight",
    "twice_differentiable",
]

Backend = Literal["auto", "triton", "cpu", "reference", "tcnn"]
Activation = Literal["leaky_relu", "relu", "sine"]


class Composited(NamedTuple):
    """What is left of a ray: premultiplied values, opacity, and opacity-weighted distance."""

    values: Tensor  # [r c]
    alpha: Tensor  # [r]
    depth: Tensor  # [r], sum of weight * distance; divide by alpha for the mean


OLDEST = (7, 5)  # compute capability that the triton kernels are compiled for
_CPU_DTYPES = (torch.float32, torch.float64)
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


_TWICE: ContextVar[bool] = ContextVar("twice", default=False)


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within it, `backend="auto"` takes the reference for all that has derivatives; kernels have first ones."""
    before = _TWICE.set(True)
    try:
        yield
    finally:
        _TWICE.reset(before)


def backends() -> dict[str, str]:
    """Each backend with `""` when it can run here, else with the reason why not and what to do."""
    return {name: _missing(name) for name in ("triton", "cpu", "reference", "tcnn")}


def _missing(backend: str) -> str:
    """Why a backend cannot run here, or nothing."""
    if backend == "triton":
        return _triton_missing()
    if backend == "tcnn":
        from hyperfields.ops import _tcnn

        return _tcnn.missing()
    if backend == "cpu" and not importlib.util.find_spec("numba"):
        return "numba is not installed: pip install numba"
    return ""


def interpreting() -> bool:
    """Whether triton's kernels run on the CPU, slowly, for tests: the environment says so."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str:
    if not importlib.util.find_spec("triton"):
        return "triton is not installed: pip install triton (it comes with CUDA builds of torch on Linux)"
    if interpreting():
        return ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device: the triton kernels run on NVIDIA GPUs"
    return "" if torch.version.hip is None else "an AMD GPU: the triton kernels are tested for NVIDIA's alone"


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _refused(backend: str, refusal: str, tensor: Tensor, others: tuple[Tensor | None, ...]) -> str:
    """Why a backend cannot take tensors like these, or nothing; `refusal` is what the operation itself says."""
    device, dtype = tensor.device, tensor.dtype
    if backend == "cpu" and device.type != "cpu":
        return f"tensors are on {device}"
    if backend == "cpu" and dtype not in _CPU_DTYPES:
        return f"dtype is {dtype}, the cpu kernels take float32 and float64"
    if backend in ("triton", "tcnn") and (missing := _missing(backend)):
        return missing
    if backend in ("triton", "tcnn") and device.type != "cuda" and not (backend == "triton" and interpreting()):
        return f"tensors are on {device}, it takes those on a CUDA device"
    if backend in ("triton", "tcnn") and dtype not in _GPU_DTYPES:
        return f"dtype is {dtype}, it takes float32, float16 and bfloat16"
    if device.type == "cuda" and _capability(device) < OLDEST:
        had, wanted = ".".join(map(str, _capability(device))), ".".join(map(str, OLDEST))
        return f"{device} has compute capability {had}, wanted at least {wanted}"
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in (tensor, *others)):
        # torch would give a tangent of zero, silently: an operator without a forward-mode formula loses it.
        return f"forward-mode derivatives (the {backend} kernels have those of reverse mode)"
    return refusal or _missing(backend)


def _choose(
    backend: Backend, tensor: Tensor, *others: Tensor | None, cpu: str = "", triton: str = "", tcnn: str = ""
) -> str:
    """The backend to use; `cpu`, `triton` and `tcnn` say why those cannot take this call, or are empty.

    `tensor` and `others` are all that may carry a derivative; they have one dtype and one device.
    """
    refusals = {"triton": triton, "cpu": cpu, "tcnn": tcnn}
    if backend not in ("auto", "reference", *refusals):
        wanted = ", ".join(map(repr, ("auto", "triton", "cpu", "reference", "tcnn")))
        raise ValueError(f"backend: got {backend!r}, wanted one of {wanted}")
    if backend == "reference" or (backend == "auto" and _TWICE.get() and torch.is_grad_enabled()):
        return "reference"
    chosen = backend if backend != "auto" else "triton" if tensor.device.type == "cuda" else "cpu"
    refusal = _refused(chosen, refusals[chosen], tensor, others)
    if refusal and backend != "auto":
        raise ValueError(f"backend {backend!r} cannot run this call: {refusal}; use backend='reference' or 'auto'")
    return "reference" if refusal else chosen


_NO_TCNN = "tinycudann has no such operation"
_PLAIN_PRODUCTS = "it is matrix products, which torch does well"


def _float32_only(dtype: torch.dtype) -> str:
    return "" if dtype == torch.float32 else f"dtype is {dtype}, along rays the triton kernels take float32"


def _pack(x: Tensor, counts: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """`[s n d]` or packed `[m d]` with counts -> packed and counts."""
    if x.dim() == 3 and counts is None:
        counts = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        return x.reshape(-1, x.shape[-1]), counts
    if x.dim() != 2 or counts is None or counts.dim() != 1:
        got = None if counts is None else tuple(counts.shape)
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)} with counts {got}; wanted [s n d], or [m d] with counts [s]"
        )
    if counts.dtype != torch.int64 or counts.device not in (x.device, torch.device("cpu")):
        where = "cpu" if x.device.type == "cpu" else f"cpu or {x.device}"
        raise TypeError(f"counts: got {counts.dtype} on {counts.device}, wanted torch.int64 on {where}")
    if counts.device.type != "cpu":
        return x, counts  # to look at its numbers would make the host wait for the device
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
    encoded: Tensor | None = None,  # [m l*f], the answer, where `sight` gave it: then only derivatives are computed
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
    _check_grid(packed, table, grid, numbers.shape[0])
    refusal = "" if grid.dims in (2, 3) else f"grids of {grid.dims} dimensions (2 and 3 are compiled)"
    chosen = _choose(backend, x, table, cpu=refusal, triton=refusal)
    spec = list(grid.scales), list(grid.resolutions), list(grid.offsets), grid.smoothstep
    if chosen == "reference":
        result = _reference.hash_encode(packed, table, grid, numbers.to(x.device))
    elif chosen == "triton":
        from hyperfields.ops import _triton

        result = _triton.hash_encode_triton(packed, table, numbers.to(x.device, non_blocking=True), *spec)
    elif chosen == "tcnn":
        from hyperfields.ops import _tcnn

        result = _tcnn.hash_encode(packed, table, grid, numbers.tolist())
    else:
        from hyperfields.ops import _cpu

        if encoded is None:
            result = _cpu.hash_encode_cpu(packed, table, numbers, *spec)
        else:
            _same_shape("encoded", encoded, packed.shape[0], grid.channels)
            result = _cpu.encoded_cpu(packed, table, numbers, encoded, *spec)
    return result.reshape(*x.shape[:-1], grid.channels)


def _same_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, wanted {list(shape)}")


def _check_grid(x: Tensor, table: Tensor, grid: GridSpec, scenes: int) -> None:
    _same_kind(x=x, table=table)
    if x.shape[1] != grid.dims:
        raise ValueError(f"x: got {x.shape[1]} coordinates, wanted the grid's {grid.dims}")
    if table.dim() != 3 or table.shape[0] not in (1, scenes) or table.shape[1:] != (grid.rows, grid.features):
        raise ValueError(f"table: got shape {tuple(table.shape)}, wanted [{scenes} or 1, {grid.rows}, {grid.features}]")


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
    sizes = _check_layers(packed, layers, activation, numbers.shape[0])
    chosen = _choose(
        backend, x, *itertools.chain(*layers), cpu=_no_sine(activation), triton=_too_large(sizes, x),
        tcnn=_not_in_tcnn(sizes, layers, activation) if backend == "tcnn" else "",
    )  # fmt: skip
    slope = _reference.LEAK if activation == "leaky_relu" else 0.0
    if chosen == "reference":
        result = _reference.batched_mlp(packed, layers, activation, numbers).to(x.dtype)
    elif chosen == "triton":
        from hyperfields.ops import _triton

        numbers = numbers.to(x.device, non_blocking=True)
        result = _triton.mlp_triton(
            packed, _flat_layers(layers), numbers, sizes, activation, slope, _product_precision(x)
        )
    elif chosen == "tcnn":
        from hyperfields.ops import _tcnn

        result = _tcnn.batched_mlp(packed, layers, activation, numbers.tolist())
    else:
        from hyperfields.ops import _cpu

        params = _flat_layers(layers)
        keep = torch.is_grad_enabled() and (packed.requires_grad or params.requires_grad)
        result, _ = _cpu.mlp_cpu(packed, params, numbers, sizes, keep, slope)
    return result.reshape(*x.shape[:-1], sizes[-1])


def _check_layers(
    x: Tensor, layers: list[tuple[Tensor, Tensor | None]], activation: Activation, scenes: int
) -> list[int]:
    """Widths of a network whose input is `x [m i]`: the input's, and the output's of every layer."""
    if not layers:
        raise ValueError("layers: got none, wanted at least one")
    if activation not in _reference.ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, wanted one of {', '.join(_reference.ACTIVATIONS)}")
    sizes = [x.shape[1]]
    for number, (weight, bias) in enumerate(layers):
        _same_kind(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
        if weight.dim() != 3 or weight.shape[0] != scenes or weight.shape[2] != sizes[-1]:
            raise ValueError(
                f"layers[{number}] weight: got shape {tuple(weight.shape)}, wanted [{scenes}, out, {sizes[-1]}]"
            )
        sizes.append(weight.shape[1])
        if bias is not None and bias.shape != (scenes, sizes[-1]):
            raise ValueError(f"layers[{number}] bias: got shape {tuple(bias.shape)}, wanted [{scenes}, {sizes[-1]}]")
    return sizes


def _flat_layers(layers: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """`[s numbers]`: each layer's weight `[o i]` and bias `[o]`, zeros where it has none."""
    pieces: list[Tensor] = []
    for weight, bias in layers:
        pieces += [
            weight.flatten(1),
            weight.new_zeros(weight.shape[:2]) if bias is None else bias,
        ]
    return torch.cat(pieces, 1)


def _no_sine(activation: Activation) -> str:
    return f"activation {activation!r} (relu and leaky_relu are compiled)" if activation == "sine" else ""


def _not_in_tcnn(sizes: list[int], layers: list[tuple[Tensor, Tensor | None]], activation: Activation) -> str:
    """Why tinycudann cannot run a network."""
    from hyperfields.ops import _tcnn

    try:
        _tcnn.hidden_width(sizes[1:-1], any(bias is not None for _, bias in layers))
    except ValueError as error:
        return str(error)
    return _no_sine(activation)


def _too_large(sizes: list[int], x: Tensor) -> str:
    """Why the triton kernels cannot run a network: it has to fit on the chip."""
    precision, layers, widest = _product_precision(x), len(sizes) - 1, max(sizes)
    # float32 takes twice the registers, and before 8.0 a program has 64 KB of shared memory.
    most = 64 if precision == "float32" or (x.is_cuda and _capability(x.device) < (8, 0)) else 128
    if layers > 5 or widest > most:
        return f"{layers} layers up to {widest} wide in {precision} (up to 5 layers and {most} wide are compiled)"
    return ""


def _product_precision(x: Tensor) -> str:
    """What goes into the matrix products of the triton kernels."""
    if x.dtype != torch.float32:
        return str(x.dtype).removeprefix("torch.")
    if x.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return "float32"
    return "mixed" if torch.get_autocast_dtype("cuda") == torch.float16 else "bfloat16"


def encode_mlp(
    x: Tensor,  # [s n d], or [m d] with counts
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    layers: list[tuple[Tensor, Tensor | None]],  # weight [s o i], bias [s o]
    activation: Activation = "relu",
    *,
    counts: Tensor | None = None,  # [s]
    encoded: Tensor | None = None,  # as in `hash_encode`
    backend: Backend = "auto",
) -> Tensor:  # [s n o], or [m o]
    """`batched_mlp` of `hash_encode`. Where no gradient is asked for, triton does both in one kernel: for rendering.

    Differentiable as its two parts are.

    Raises:
        ValueError, TypeError: as its two parts.
    """
    tensors = [x, table, *(t for layer in layers for t in layer if t is not None)]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)) and backend in ("auto", "triton"):
        widths = [grid.channels, *(weight.shape[1] for weight, _ in layers if weight.dim() == 3)]
        # Wider ones do not stay in registers.
        fits = max(widths) <= 64 and grid.channels <= 32 and grid.dims in (2, 3)
        refusal = _too_large(widths, x)
        if fits and (x.device.type == "cuda" or backend == "triton"):
            packed, numbers = _pack(x, counts, "x")
            if _choose(backend, *tensors, triton=refusal) == "triton":
                return _fused(x, packed, table, grid, layers, activation, numbers)
    features = hash_encode(x, table, grid, counts=counts, encoded=encoded, backend=backend)
    return batched_mlp(features, layers, activation, counts=counts, backend=backend)


def _fused(
    x: Tensor,
    packed: Tensor,
    table: Tensor,
    grid: GridSpec,
    layers: list[tuple[Tensor, Tensor | None]],
    activation: Activation,
    numbers: Tensor,
) -> Tensor:
    """`encode_mlp` in one kernel."""
    from hyperfields.ops import _triton

    scenes = numbers.shape[0]
    _check_grid(packed, table, grid, scenes)
    sizes = _check_layers(packed.new_empty(0, grid.channels), layers, activation, scenes)
    plan = _triton.Plan.of(sizes, activation, _product_precision(x))
    slope = _reference.LEAK if activation == "leaky_relu" else 0.0
    result = _triton.encode_mlp_triton(
        packed, table, _flat_layers(layers), numbers.to(x.device, non_blocking=True), grid.scales, grid.resolutions,
        grid.offsets, grid.smoothstep, plan, slope,
    )  # fmt: skip
    return result.reshape(*x.shape[:-1], sizes[-1])


@stage("mix")
def mix(
    coefficients: Tensor,  # [s g k]
    bases: Tensor,  # [k n]
    groups: list[int],  # where each group of columns begins, and the end: [g + 1], from 0 to n
    *,
    backend: Backend = "auto",
) -> Tensor:  # [s n]
    """Sums of shared bases, with coefficients of their own for each scene and group of columns.

    Differentiable once in coefficients and bases; the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    _same_kind(coefficients=coefficients, bases=bases)
    if coefficients.dim() != 3 or bases.dim() != 2 or coefficients.shape[2] != bases.shape[0]:
        raise ValueError(
            f"mix: got coefficients {tuple(coefficients.shape)}, bases {tuple(bases.shape)}; wanted [s g k] and [k n]"
        )
    count, columns = coefficients.shape[1], bases.shape[1]
    if len(groups) != count + 1 or groups != sorted(groups) or [groups[0], groups[-1]] != [0, columns]:
        raise ValueError(f"groups: got {groups}, wanted {count + 1} rising numbers, 0 to {columns}")
    chosen = _choose(backend, coefficients, bases, triton=_PLAIN_PRODUCTS, tcnn=_NO_TCNN)
    if chosen == "reference":
        return _reference.mix(coefficients, bases, groups)
    from hyperfields.ops import _cpu

    mixed: Tensor = _cpu.mix_cpu(coefficients, bases, groups)
    return mixed


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
    chosen = _choose(backend, density, values, edges, triton=_float32_only(density.dtype), tcnn=_NO_TCNN)
    if chosen == "reference":
        return Composited(*_reference.composite(flat_density, packed, flat_edges, numbers.to(values.device)))
    if chosen == "triton":
        from hyperfields.ops import _triton

        numbers = numbers.to(values.device, non_blocking=True)
        return Composited(*_triton.composite_triton(flat_density, packed, flat_edges, numbers))
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
) -> tuple[Tensor, Tensor]:  # edges [m 2] in ray order, counts [s*r], where the rays are
    """Even steps along each ray through the scene box, without those whose middle lies in an empty cell.

    Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    offset = _check_march(origins, directions, occupancy, step, offset)
    with torch.no_grad():
        chosen = _choose(backend, origins, triton=_float32_only(origins.dtype), tcnn=_NO_TCNN)
        if chosen == "reference":
            return _reference.march(origins, directions, occupancy, step, offset)
        if chosen == "triton":
            from hyperfields.ops import _triton

            return _triton.march_triton(origins, directions, occupancy, step, offset)
        from hyperfields.ops import _cpu

        return _cpu.march_cpu(origins, directions, occupancy, step, offset)


def _check_march(origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor | None) -> Tensor:
    """The offset, with its default filled in."""
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
    return offset


class Apart(NamedTuple):
    """Samples of rays in a place of their own for each ray, as large as any ray may need."""

    edges: Tensor  # [s*r*room 2] where each starts and ends along its ray; between the rays' samples anything
    first: Tensor  # [s*r] int64: the first row of each ray
    counts: Tensor  # [s*r] int64


def march_apart(
    origins: Tensor,  # [s r 3]
    directions: Tensor,  # [s r 3], unit
    occupancy: Tensor,  # [s g g g] bool
    step: float,
    offset: Tensor,  # [s r]
) -> Apart:
    """The samples of `march`, in a tensor whose size does not depend on what is found: nobody waits for a device.

    Not differentiable to any input.

    Raises:
        ValueError: a backend that cannot run.
    """
    rays = origins.shape[0] * origins.shape[1]
    room = math.ceil(2.0 * math.sqrt(3.0) / step) + 2  # a diagonal of the box, and one sample more at each end
    first = torch.arange(0, rays * room, room, device=origins.device)
    if _choose("auto", origins, triton=_float32_only(origins.dtype)) == "triton":
        from hyperfields.ops import _triton

        edges, counts = _triton.march_apart_triton(origins, directions, occupancy, step, offset, first, room)
        return Apart(edges, first, counts)
    packed, counts = march(origins, directions, occupancy, step, offset)
    return Apart(_reference.apart(packed, counts, room), first, counts)


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
    total: int | None = None,  # rows of the result, at least as many as are taken; default: just as many
    backend: Backend = "auto",
) -> Samples:
    """Some of the samples of `march`, with their points in space. Not differentiable to any input.

    With `total` nobody waits for a device to say how many there are. Rows behind the last sample hold anything.

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
    # On another device the answer would make the host wait for it.
    if counts.device.type == "cpu" and bool(((counts < 0) | (counts > 0) & outside).any()):
        raise ValueError(f"samples: first and counts leave the {edges.shape[0]} rows of edges")
    with torch.no_grad():
        chosen = _choose(backend, origins, edges, triton=_float32_only(origins.dtype), tcnn=_NO_TCNN)
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
        chosen = _choose(backend, density, edges, opacity, triton=_float32_only(density.dtype), tcnn=_NO_TCNN)
        if chosen == "reference":
            return _reference.reach(density, edges, counts.to(density.device), opacity, opaque)
        if chosen == "triton":
            from hyperfields.ops import _triton

            kept, behind = _triton.reach_triton(density, edges, counts.to(density.device), opacity, opaque)
            return kept, behind
        from hyperfields.ops import _cpu

        return _cpu.reach_cpu(density, edges, counts, opacity, opaque)


class Sight(NamedTuple):
    """The samples of rays that can be seen, packed, in the order of their rays."""

    x: Tensor  # [m 3] middles
    d: Tensor  # [m 3] directions of their rays
    edges: Tensor  # [m 2] where each starts and ends along its ray
    counts: Tensor  # [s*r] how many each ray has
    encoded: Tensor | None  # [m l*f] what `hash_encode` says of them, where that came of itself


@stage("sight")
@torch.no_grad()
def sight(
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
) -> Sight:
    """The samples of `march` before which the opacity of their ray is below `opaque`: all that a picture needs.

    The grid is encoded at points scaled from [-1, 1] to [0, 1]. Not differentiable to any input.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    scenes, rays = origins.shape[:2]
    _check_grid(origins.reshape(-1, 3), table, grid, scenes)
    sizes = _check_layers(origins.new_empty(0, grid.channels), layers, activation, scenes)
    if sizes[-1] != 1:
        raise ValueError(f"layers: got {sizes[-1]} outputs, wanted 1, the logarithm of the density")
    chosen = _choose(backend, origins, table, *itertools.chain(*layers), cpu=_no_sine(activation), tcnn=_NO_TCNN)
    if chosen == "cpu":
        from hyperfields.ops import _cpu

        offset = _check_march(origins, directions, occupancy, step, offset)
        slope = _reference.LEAK if activation == "leaky_relu" else 0.0
        return Sight(
            *_cpu.sight_cpu(
                origins, directions, occupancy, step, offset, table, grid.scales, grid.resolutions, grid.offsets,
                grid.smoothstep, _flat_layers(layers), sizes, slope, ceiling, opaque,
            )
        )  # fmt: skip
    part: Backend = "reference" if chosen == "reference" else "auto"
    edges, counts = march(origins, directions, occupancy, step, offset, backend=part)
    flat = origins.reshape(-1, 3), directions.reshape(-1, 3)
    first = counts.cumsum(0) - counts
    there = samples(*flat, edges, first, counts, backend=part)
    x, numbers = there.x * 0.5 + 0.5, counts.reshape(scenes, rays).sum(1)
    out = encode_mlp(x, table, grid, layers, activation, counts=numbers, backend=part)
    density = torch.exp(out.squeeze(-1).clamp(max=ceiling))
    counts, _ = reach(density, there.edges, counts, density.new_zeros(len(counts)), opaque, backend=part)
    return Sight(*samples(*flat, edges, first, counts, backend=part), counts, None)
