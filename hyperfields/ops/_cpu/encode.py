"""Operators of `hash_encode`: how its work is cut into tasks, and its derivatives."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from hyperfields.ops._cpu.encode_kernels import (
    ENCODE_POINTS,
    Grid,
    differentiate_points,
    encode_points,
    flat,
    lengths_of,
    scatter_gradients,
)
from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import parallel, pieces_of, starts_of
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import kernel_threads


def hash_encode_cpu(
    x: Tensor,
    table: Tensor,
    counts: Tensor,
    scales: tuple[float, ...],
    resolutions: tuple[int, ...],
    offsets: tuple[int, ...],
    smoothstep: bool,
) -> Tensor:
    out = x.new_empty(x.shape[0], len(scales) * table.shape[2])
    points, tables, result = x.detach().contiguous().numpy(), flat(table), out.numpy().reshape(-1)
    grid = Grid.of(points.dtype, scales, resolutions, offsets, smoothstep, x.shape[1])
    lengths = lengths_of(x.shape[1], table.shape[2])
    pieces = pieces_of(starts_of(counts), ENCODE_POINTS)

    def task(lo: int, hi: int) -> None:
        encode_points(
            points, tables, result, grid, pieces, lo, hi,
            *lengths,
        )  # fmt: skip

    parallel(task, len(pieces))
    return out


def hash_encode_cpu_backward(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    counts: Tensor,
    scales: tuple[float, ...],
    resolutions: tuple[int, ...],
    offsets: tuple[int, ...],
    smoothstep: bool,
    need_x: bool,
    need_table: bool,
) -> tuple[Tensor, Tensor]:
    scenes, _, features = table.shape
    levels = len(scales)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    grad_table = torch.empty_like(table, memory_format=torch.contiguous_format) if need_table else x.new_empty(0)
    points, cotangent = x.detach().contiguous().numpy(), grad.detach().contiguous().numpy().reshape(-1)
    grid = Grid.of(points.dtype, scales, resolutions, offsets, smoothstep, x.shape[1])
    lengths = lengths_of(x.shape[1], features)
    starts = starts_of(counts)
    if need_table:
        tables = flat(grad_table)
        bounds = starts if scenes > 1 else starts[[0, -1]]
        # Several levels a task, since the cotangents of a point lie side by side; fewer where scenes are few.
        parts = min(max(2 * kernel_threads() // max(scenes, 1), 1), levels)
        cuts = [levels * part // parts for part in range(parts + 1)]
        tasks = np.array([(s, *cut) for s in range(scenes) for cut in itertools.pairwise(cuts)], np.int64).reshape(
            -1, 3
        )

        def scatter(lo: int, hi: int) -> None:
            scatter_gradients(
                points, cotangent, tables, grid, bounds, tasks, lo, hi,
                *lengths,
            )  # fmt: skip

        parallel(scatter, len(tasks))
    if need_x:
        tables, result, pieces = flat(table), grad_x.numpy(), pieces_of(starts, ENCODE_POINTS)

        def differentiate(lo: int, hi: int) -> None:
            differentiate_points(
                points, tables, cotangent, result, grid, pieces, lo, hi,
                *lengths,
            )  # fmt: skip

        parallel(differentiate, len(pieces))
    return grad_x, grad_table


def _encode_context(ctx, inputs, output):
    x, table, counts, *ctx.grid = inputs
    ctx.save_for_backward(x, table, counts)


@region("hash_encode, backward")
def _encode_backward(ctx, grad):
    x, table, counts = ctx.saved_tensors
    need_x, need_table = ctx.needs_input_grad[:2]
    scales, resolutions, offsets, smoothstep = ctx.grid
    grad_x, grad_table = hash_encode_cpu_backward(
        grad, x, table, counts, scales, resolutions, offsets, smoothstep, need_x, need_table
    )
    return grad_x if need_x else None, grad_table if need_table else None, None, None, None, None, None


hash_encode_cpu = differentiable(hash_encode_cpu, _encode_context, _encode_backward)


def encoded_cpu(x: Tensor, table: Tensor, counts: Tensor, encoded: Tensor, *grid: object) -> Tensor:
    """`hash_encode_cpu` whose answer is known already: what is left is its backward."""
    return encoded.view_as(encoded)


def _encoded_context(ctx, inputs, output):
    x, table, counts, _, *ctx.grid = inputs
    ctx.save_for_backward(x, table, counts)


encoded_cpu = differentiable(encoded_cpu, _encoded_context, lambda ctx, grad: (*_encode_backward(ctx, grad), None))
