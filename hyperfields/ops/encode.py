"""`hash_encode`: multi-resolution grids, and `encode_mlp`: a grid and the network behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.dispatch import Activation, Backend
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.mlp import batched_mlp, check_layers, flat_layers, product_precision, slope_of, why_too_large
from hyperfields.ops.profiling import region
from hyperfields.ops.reference import encode as reference
from hyperfields.ops.reference.mlp import Layers


@region("hash_encode")
def hash_encode(
    x: Tensor,  # [s n d], or [m d] with counts
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    *,
    counts: Tensor | None = None,  # [s]
    encoded: Tensor | None = None,  # [m l*f], the features, where `visible_samples` gave them: derivatives are left
    backend: Backend = "auto",
) -> Tensor:  # [s n l*f], or [m l*f]
    """Features of points: multilinear interpolation of table rows, column `l * f + feature`.

    Points are in [0, 1]^d; others wrap around as in tiny-cuda-nn. A table with one scene serves all scenes.
    Differentiable once in `table` and in `x` (zero across cell faces is not smoothed); the reference twice.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.

    Source: Mueller et al. 2022, "Instant neural graphics primitives", section 3; see `ops/grid.py`.
    """
    packed, counts = dispatch.pack(x, counts, "x")
    check_grid(packed, table, grid, counts.shape[0])
    refusal = "" if grid.dims in (2, 3) else f"grids of {grid.dims} dimensions (2 and 3 are compiled)"
    selected = dispatch.select(backend, x, table, cpu=refusal, triton=refusal)
    spec = grid.scales, grid.resolutions, grid.offsets, grid.smoothstep
    if selected == "reference":
        result = reference.hash_encode(packed, table, grid, counts.to(x.device))
    elif selected == "triton":
        from hyperfields.ops import _triton

        lists = *(list(numbers) for numbers in spec[:3]), grid.smoothstep
        result = _triton.hash_encode_triton(packed, table, counts.to(x.device, non_blocking=True), *lists)
    elif selected == "tcnn":
        from hyperfields.ops import _tcnn

        result = _tcnn.hash_encode(packed, table, grid, counts.tolist())
    else:
        from hyperfields.ops import _cpu

        if encoded is None:
            result = _cpu.hash_encode_cpu(packed, table, counts, *spec)
        else:
            dispatch.require_shape("encoded", encoded, packed.shape[0], grid.channels)
            dispatch.require_no_gradient("encoded: features require a gradient, which they do not get", encoded)
            result = _cpu.encoded_cpu(packed, table, counts, encoded, *spec)
    return result.reshape(*x.shape[:-1], grid.channels)


def check_grid(x: Tensor, table: Tensor, grid: GridSpec, scenes: int) -> None:
    """Raises ValueError or TypeError unless points `[m d]` and table fit the grid and the scenes.

    Kernels read tables by pointers: a table with fewer rows than the grid has must not reach them.
    """
    dispatch.require_same_kind(x=x, table=table)
    if x.shape[1] != grid.dims:
        raise ValueError(f"x: got {x.shape[1]} coordinates, wanted the grid's {grid.dims}")
    if table.dim() != 3 or table.shape[0] not in (1, scenes) or table.shape[1:] != (grid.rows, grid.features):
        raise ValueError(f"table: got shape {tuple(table.shape)}, wanted [{scenes} or 1, {grid.rows}, {grid.features}]")


def encode_mlp(
    x: Tensor,  # [s n d], or [m d] with counts
    table: Tensor,  # [s | 1, rows, f]
    grid: GridSpec,
    layers: Layers,  # weight [s o i], bias [s o]
    activation: Activation = "relu",
    *,
    counts: Tensor | None = None,  # [s]
    encoded: Tensor | None = None,  # as in `hash_encode`
    backend: Backend = "auto",
) -> Tensor:  # [s n o], or [m o]
    """Outputs of `batched_mlp` for the features of `hash_encode`.

    Where no gradient is asked for, triton does both in one kernel: for rendering. Differentiable as its two parts are.

    Raises:
        ValueError, TypeError: as its two parts.
    """
    tensors = [x, table, *(t for layer in layers for t in layer if t is not None)]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)) and backend in ("auto", "triton"):
        widths = [grid.channels, *(weight.shape[1] for weight, _ in layers if weight.dim() == 3)]
        # Wider ones do not stay in registers.
        fits = max(widths) <= 64 and grid.channels <= 32 and grid.dims in (2, 3)
        refusal = why_too_large(widths, x)
        if fits and (x.device.type == "cuda" or backend == "triton"):
            packed, of_scene = dispatch.pack(x, counts, "x")
            if dispatch.select(backend, *tensors, triton=refusal) == "triton":
                return _in_one_kernel(packed, table, grid, layers, activation, of_scene).reshape(*x.shape[:-1], -1)
    features = hash_encode(x, table, grid, counts=counts, encoded=encoded, backend=backend)
    return batched_mlp(features, layers, activation, counts=counts, backend=backend)


def _in_one_kernel(
    x: Tensor, table: Tensor, grid: GridSpec, layers: Layers, activation: Activation, counts: Tensor
) -> Tensor:
    """Outputs `[m o]` of `encode_mlp` by triton; x `[m d]`."""
    from hyperfields.ops import _triton

    check_grid(x, table, grid, counts.shape[0])
    sizes = check_layers(x.new_empty(0, grid.channels), layers, activation, counts.shape[0])
    return _triton.encode_mlp_triton(
        x, table, flat_layers(layers, 16), counts.to(x.device, non_blocking=True), grid.scales, grid.resolutions,
        grid.offsets, grid.smoothstep, _triton.Plan.of(sizes, activation, product_precision(x)), slope_of(activation),
    )  # fmt: skip
