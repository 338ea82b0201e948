"""Ops of points: `hash_encode`, `batched_mlp`, both in one, density and colour, tables from shared bases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.ops import _reference
from hyperfields.ops import dispatch as choice
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.profiling import region
from hyperfields.ops.spherical_harmonics import BANDS, spherical_harmonics

_PLAIN_PRODUCTS = "it is matrix products, which torch does well"


@region("hash_encode")
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
    packed, numbers = choice.pack(x, counts, "x")
    check_grid(packed, table, grid, numbers.shape[0])
    refusal = "" if grid.dims in (2, 3) else f"grids of {grid.dims} dimensions (2 and 3 are compiled)"
    chosen = choice.choose(backend, x, table, cpu=refusal, triton=refusal)
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
            if torch.is_grad_enabled() and encoded.requires_grad:
                raise ValueError("encoded: requires a gradient, and gets none; detach it")
            result = _cpu.encoded_cpu(packed, table, numbers, encoded, *spec)
    return result.reshape(*x.shape[:-1], grid.channels)


def _same_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, wanted {list(shape)}")


def check_grid(x: Tensor, table: Tensor, grid: GridSpec, scenes: int) -> None:
    choice.same_kind(x=x, table=table)
    if x.shape[1] != grid.dims:
        raise ValueError(f"x: got {x.shape[1]} coordinates, wanted the grid's {grid.dims}")
    if table.dim() != 3 or table.shape[0] not in (1, scenes) or table.shape[1:] != (grid.rows, grid.features):
        raise ValueError(f"table: got shape {tuple(table.shape)}, wanted [{scenes} or 1, {grid.rows}, {grid.features}]")


@region("batched_mlp")
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
    packed, numbers = choice.pack(x, counts, "x")
    sizes = check_layers(packed, layers, activation, numbers.shape[0])
    chosen = choice.choose(
        backend, x, *itertools.chain(*layers), cpu=no_sine(activation), triton=_too_large(sizes, x),
        tcnn=_not_in_tcnn(sizes, layers, activation) if backend == "tcnn" else "",
    )  # fmt: skip
    slope = _reference.NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0
    if chosen == "reference":
        result = _reference.batched_mlp(packed, layers, activation, numbers).to(x.dtype)
    elif chosen == "triton":
        from hyperfields.ops import _triton

        numbers = numbers.to(x.device, non_blocking=True)
        result = _triton.mlp_triton(
            packed, flat_layers(layers, 16), numbers, sizes, activation, slope, product_precision(x)
        )
    elif chosen == "tcnn":
        from hyperfields.ops import _tcnn

        result = _tcnn.batched_mlp(packed, layers, activation, numbers.tolist())
    else:
        from hyperfields.ops import _cpu

        params = flat_layers(layers)
        keep = torch.is_grad_enabled() and (packed.requires_grad or params.requires_grad)
        result, _ = _cpu.mlp_cpu(packed, params, numbers, sizes, keep, slope)
    return result.reshape(*x.shape[:-1], sizes[-1])


def check_layers(
    x: Tensor, layers: list[tuple[Tensor, Tensor | None]], activation: Activation, scenes: int
) -> list[int]:
    """Widths of a network whose input is `x [m i]`: the input's, and the output's of every layer."""
    if not layers:
        raise ValueError("layers: got none, wanted at least one")
    if activation not in _reference.ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, wanted one of {', '.join(_reference.ACTIVATIONS)}")
    sizes = [x.shape[1]]
    for number, (weight, bias) in enumerate(layers):
        choice.same_kind(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
        if weight.dim() != 3 or weight.shape[0] != scenes or weight.shape[2] != sizes[-1]:
            raise ValueError(
                f"layers[{number}] weight: got shape {tuple(weight.shape)}, wanted [{scenes}, out, {sizes[-1]}]"
            )
        sizes.append(weight.shape[1])
        if bias is not None and bias.shape != (scenes, sizes[-1]):
            raise ValueError(f"layers[{number}] bias: got shape {tuple(bias.shape)}, wanted [{scenes}, {sizes[-1]}]")
    return sizes


def flat_layers(layers: list[tuple[Tensor, Tensor | None]], multiple: int = 1) -> Tensor:
    """`[s numbers]`: each layer's weight `[o i]` and bias `[o]`, zeros where it has none, and up to a multiple."""
    pieces: list[Tensor] = []
    for weight, bias in layers:
        pieces += [
            weight.flatten(1),
            weight.new_zeros(weight.shape[:2]) if bias is None else bias,
        ]
    rest = -sum(piece.shape[1] for piece in pieces) % multiple
    return torch.cat([*pieces, pieces[0].new_zeros(len(pieces[0]), rest)] if rest else pieces, 1)


def no_sine(activation: Activation) -> str:
    return f"activation {activation!r} (relu and leaky_relu are compiled)" if activation == "sine" else ""


def _not_in_tcnn(sizes: list[int], layers: list[tuple[Tensor, Tensor | None]], activation: Activation) -> str:
    """Why tinycudann cannot run a network."""
    from hyperfields.ops import _tcnn

    try:
        _tcnn.hidden_width(sizes[1:-1], any(bias is not None for _, bias in layers))
    except ValueError as error:
        return str(error)
    return no_sine(activation)


def _too_large(sizes: list[int], x: Tensor) -> str:
    """Why the triton kernels cannot run a network: it has to fit on the chip."""
    precision, layers, widest = product_precision(x), len(sizes) - 1, max(sizes)
    most = 64 if precision == "float32" else 128  # it takes twice the registers
    if layers > 5 or widest > most:
        return f"{layers} layers up to {widest} wide in {precision} (up to 5 layers and {most} wide are compiled)"
    return ""


def product_precision(x: Tensor) -> str:
    """What goes into the matrix products of the triton kernels: 16 bits only where these reach matrix units."""
    if x.device.type == "cuda" and choice.capability(x.device) < (8, 0):
        return "float32"
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
            packed, numbers = choice.pack(x, counts, "x")
            if choice.choose(backend, *tensors, triton=refusal) == "triton":
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
    check_grid(packed, table, grid, scenes)
    sizes = check_layers(packed.new_empty(0, grid.channels), layers, activation, scenes)
    plan = _triton.Plan.of(sizes, activation, product_precision(x))
    slope = _reference.NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0
    result = _triton.encode_mlp_triton(
        packed, table, flat_layers(layers, 16), numbers.to(x.device, non_blocking=True), grid.scales, grid.resolutions,
        grid.offsets, grid.smoothstep, plan, slope,
    )  # fmt: skip
    return result.reshape(*x.shape[:-1], sizes[-1])


def truncated_exp(x: Tensor, ceiling: float) -> Tensor:
    """Densities exp(min(x, ceiling)) of their logarithms `x [...]`, which have a gradient above the ceiling, too.

    The derivative there is exp(ceiling), so that a density that is too high can come back; it is not that of the value.
    Differentiable twice.
    """
    return _reference.truncated_exp(x, ceiling)


@region("radiance_head")
def radiance_head(
    out: Tensor,  # [s n 1+g], or [m 1+g] with counts: the logarithm of the density, and features
    d: Tensor,  # [s n 3], or [m 3], unit
    layers: list[tuple[Tensor, Tensor | None]],  # of the colour network, which reads features and directions
    activation: Activation = "relu",
    *,
    degree: int,  # of the spherical harmonics of the directions
    ceiling: float,  # of the logarithm of the density
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # density [s n 1] or [m 1], colour [s n 3] or [m 3]
    """What a density network says of points -> density and the colour that is seen from a direction.

    density = truncated_exp(out_0, ceiling), colour = sigmoid(mlp(out_1 ..., harmonics(d))).
    Differentiable once in out and layers, and in d where no kernel is made for it; the reference twice in all.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Mildenhall et al. 2020, section 3; Mueller et al. 2022, section 5.4.
    """
    choice.same_kind(out=out, d=d)
    if out.shape[:-1] != d.shape[:-1] or d.shape[-1] != 3 or not 1 <= degree <= len(BANDS):
        raise ValueError(
            f"emission: got out {tuple(out.shape)}, d {tuple(d.shape)}, degree {degree}; wanted [... 1+g], [... 3] "
            f"and 1 to {len(BANDS)}"
        )
    packed, numbers = choice.pack(out, counts, "out")
    width = packed.shape[1] - 1 + degree**2
    sizes = check_layers(packed.new_empty(0, width), layers, activation, numbers.shape[0])
    if sizes[-1] != 3:
        raise ValueError(f"layers: got {sizes[-1]} outputs, wanted 3, a colour")
    refusal = "derivatives of directions" if torch.is_grad_enabled() and d.requires_grad else no_sine(activation)
    chosen = choice.choose(backend, out, d, *itertools.chain(*layers), cpu=refusal, tcnn=choice.NO_TCNN)
    if chosen == "cpu":
        from hyperfields.ops import _cpu

        slope = _reference.NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0
        density, rgb = _cpu.emission_cpu(
            packed, d.reshape(-1, 3), flat_layers(layers), numbers, sizes, degree, slope, ceiling
        )
        return density.reshape(*out.shape[:-1], 1), rgb.reshape(*out.shape[:-1], 3)
    part: Backend = "reference" if chosen == "reference" else "auto"
    log, features = out.split((1, out.shape[-1] - 1), -1)  # one piece backward, where two slices would be two
    features = torch.cat((features, spherical_harmonics(d, degree)), -1)
    color = batched_mlp(features, layers, activation, counts=counts, backend=part)
    return truncated_exp(log, ceiling), torch.sigmoid(color)


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
    choice.same_kind(coefficients=coefficients, **{f"bases[{number}]": part for number, part in enumerate(bases)})
    shapes = [tuple(part.shape) for part in bases]
    if (
        coefficients.dim() != 3
        or len(bases) != coefficients.shape[1]
        or any(len(shape) != 2 or shape[0] != coefficients.shape[2] for shape in shapes)
    ):
        raise ValueError(
            f"mix: got coefficients {tuple(coefficients.shape)}, bases {shapes}; wanted [s g k] and g of [k n]"
        )
    chosen = choice.choose(backend, coefficients, *bases, triton=_PLAIN_PRODUCTS, tcnn=choice.NO_TCNN)
    if chosen == "reference":
        return _reference.mix(coefficients, bases)
    from hyperfields.ops import _cpu

    mixed: Tensor = _cpu.mix_cpu(coefficients, list(bases))
    return mixed
