"""displace: points moved by a coarse field, against torch's own interpolation, and on the way of visible_samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from hyperfields import ops
from hyperfields.ops.reference.displace import GAIN

from ._parity import assert_gradient_close, assert_second_derivative_is_refused, each_backend, needs_cpu, random_numbers
from .test_visibility import OPAQUE, scene

CELLS, REACH = 5, 0.2


def fields(scenes: int, dims: int, dtype: torch.dtype = torch.float64) -> tuple[ops.Displacement, Tensor]:
    """Displacements, and the numbers of their vertices `[s d, n ... n]`, last axis x, as pictures have them."""
    grid = ops.displacement_grid(dims, CELLS)
    table = random_numbers(scenes, grid.rows, dims, seed=dims)
    side = CELLS + 2
    vertices = table[:, : side**dims].reshape(scenes, *(side,) * dims, dims)
    inner = vertices[(slice(None), *(slice(1, None),) * dims)]
    return ops.Displacement(table.to(dtype), CELLS, REACH), inner.movedim(-1, 1)


@each_backend
@pytest.mark.parametrize("dims", [2, 3])
def test_displacements_are_those_of_another_library(backend: ops.Backend, dims: int) -> None:
    field, vertices = fields(2, dims)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * dims)
    x = torch.cat((torch.rand(2, 60, dims, dtype=torch.float64), corners.expand(2, -1, -1)), 1).requires_grad_()
    places = (2.0 * x - 1.0).reshape(2, -1, *(1,) * (dims - 1), dims)
    raw = grid_sample(vertices, places, align_corners=True, padding_mode="border").flatten(2).mT
    expected = (x + REACH * torch.tanh(GAIN * raw)).clamp(0.0, 1.0)
    moved = ops.displace(x, field, backend=backend)
    torch.testing.assert_close(moved, expected)
    cotangent = random_numbers(*moved.shape)
    inside = (slice(None), slice(0, 60))  # at the corners slopes differ from side to side
    (slope,) = torch.autograd.grad(moved[inside], x, cotangent[inside], retain_graph=True)
    (wanted,) = torch.autograd.grad(expected[inside], x, cotangent[inside])
    assert_gradient_close(slope, wanted, 1e-9)


@each_backend
def test_displacements_have_the_gradient_of_their_tables(backend: ops.Backend) -> None:
    field, _ = fields(2, 3)
    x, table = torch.rand(7, 3, dtype=torch.float64), field.table.requires_grad_()
    counts = torch.tensor([3, 4])
    direction, cotangent = random_numbers(*table.shape, seed=1), random_numbers(7, 3, seed=2)

    def value(t: Tensor) -> Tensor:
        return (ops.displace(x, field._replace(table=t), counts=counts, backend=backend) * cotangent).sum()

    (gradient,) = torch.autograd.grad(value(table), table)
    with torch.no_grad():
        slope = (value(table + 1e-6 * direction) - value(table - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-9)


def test_displacements_stay_in_reach_and_in_the_box() -> None:
    field, _ = fields(1, 3)
    x = torch.rand(1, 500, 3, dtype=torch.float64)
    moved = ops.displace(x, field._replace(table=1e3 * field.table))
    assert float((moved - x).abs().max()) <= REACH + 1e-12
    assert float(moved.min()) >= 0.0
    assert float(moved.max()) <= 1.0
    assert torch.equal(ops.displace(x, field._replace(table=0.0 * field.table)), x)


@needs_cpu
def test_a_second_derivative_of_the_kernel_is_refused() -> None:
    field, _ = fields(1, 3)

    def call(backend: ops.Backend, x: Tensor, table: Tensor) -> Tensor:
        return ops.displace(x, field._replace(table=table), backend=backend)

    inputs = {"x": torch.rand(1, 8, 3, dtype=torch.float64), "table": field.table}
    assert_second_derivative_is_refused(call, inputs, "hash_encode_cpu_backward")


@needs_cpu
@pytest.mark.parametrize("tables", [1, 3])
def test_visible_samples_of_moved_grids_are_those_of_the_reference(tables: int) -> None:
    rays, cells, offset, table, grid, layers = scene(3, 200, dtype=torch.float64)
    field, _ = fields(tables, 3)

    def seen(backend: ops.Backend, displacement: ops.Displacement | None = field) -> ops.VisibleSamples:
        return ops.visible_samples(
            *rays, cells, 0.03, offset, table, grid, layers, "leaky_relu", ceiling=4.0, opaque=OPAQUE,
            displacement=displacement, backend=backend,
        )  # fmt: skip

    fast, slow = seen("cpu"), seen("reference")
    assert torch.equal(fast.counts, slow.counts)
    assert not torch.equal(fast.counts, seen("cpu", None).counts)
    torch.testing.assert_close(fast.edges, slow.edges)
    counts = fast.counts.reshape(3, -1).sum(1)
    place = ops.displace(fast.x * 0.5 + 0.5, field, counts=counts)
    torch.testing.assert_close(fast.encoded, ops.hash_encode(place, table, grid, counts=counts))
