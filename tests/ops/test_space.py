"""Contracted space: the contraction and its inverse, and rays whose samples follow it, against closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.errors import InputError
from hyperfields.ops.reference.space import HORIZON, contract_1d, expand_1d

from ._parity import each_backend, needs_cpu
from .test_march import full, one_ray, rays_at_random
from .test_visibility import OPAQUE, scene

SPACE = ops.Contracted(near=0.1)


def contracted(x: list[float]) -> list[float]:
    """The definition in Python, halved, as grids cover the cube of side 4."""
    size = max(map(abs, x))
    factor = 1.0 if size <= 1.0 else (2.0 - 1.0 / size) / size
    return [0.5 * factor * v for v in x]


def points(count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2.0 - 1.0
    return unit * 10.0 ** (3.0 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1.0)


def test_the_contraction_is_its_definition_and_stays_in_the_cube() -> None:
    x = points()
    y = SPACE.into(x)
    wanted = torch.tensor([contracted(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(y, wanted, rtol=1e-13, atol=1e-15)
    assert float(y.abs().max()) < 1.0
    assert 0.1 < float((x.abs().amax(1) < 1.0).double().mean()) < 0.9
    inner = x[x.abs().amax(1) <= 1.0]
    assert torch.equal(SPACE.into(inner), 0.5 * inner)


def test_its_inverse_leads_back() -> None:
    x = points()
    torch.testing.assert_close(SPACE.out_of(SPACE.into(x)), x, rtol=1e-9, atol=1e-12)
    corner = SPACE.out_of(torch.ones(1, 3))
    assert bool(corner.isfinite().all())
    assert float(corner.min()) >= HORIZON * 0.99
    v = torch.linspace(-50.0, 50.0, 301, dtype=torch.float64)
    torch.testing.assert_close(expand_1d(contract_1d(v)), v, rtol=1e-12, atol=1e-12)


def test_the_box_is_as_it_is() -> None:
    x = points()
    assert ops.BOX.into(x) is x
    assert ops.BOX.out_of(x) is x


def test_contracted_density_times_contracted_length_is_density_times_length() -> None:
    """The scale is the derivative of the contraction along a ray from the centre, twice what the grid's half is."""
    x = points(50)
    scale = SPACE.density_scale(x)
    outward = torch.nn.functional.normalize(x, dim=-1)
    step = 1e-6 * x.norm(dim=-1, keepdim=True)
    moved = 2.0 * (SPACE.into(x + step * outward) - SPACE.into(x)).norm(dim=-1, keepdim=True) / step
    torch.testing.assert_close(moved, scale, rtol=1e-4, atol=1e-9)


def test_the_contraction_has_gradients() -> None:
    x = points(20).requires_grad_()
    torch.autograd.gradcheck(SPACE.into, (x,))


@each_backend
def test_samples_tile_a_ray_from_the_near_distance_to_the_horizon(backend: ops.Backend) -> None:
    origins, directions = rays_at_random(2, 50, torch.float64)
    offsets = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    edges, counts = ops.ray_march(origins, directions, full(2), 0.05, offsets, space=SPACE, backend=backend)
    rays = zip(origins.flatten(0, 1), directions.flatten(0, 1), edges.split(counts.tolist()), strict=True)
    for origin, direction, samples in rays:
        along = -float(origin @ direction)
        radius = max(float((origin + along * direction).norm()), 1.0)
        assert float(samples[0, 0]) == pytest.approx(SPACE.near, abs=1e-9)
        assert float(samples[-1, 1]) == pytest.approx(along + radius * HORIZON, rel=1e-6)
        torch.testing.assert_close(samples[1:, 0], samples[:-1, 1], rtol=1e-9, atol=1e-9)
        assert float((samples[:, 1] - samples[:, 0]).min()) > 0.0
        s = contract_1d((samples - along) / radius)
        assert float((s[:, 1] - s[:, 0]).max()) <= 0.05 + 1e-9
        torch.testing.assert_close((s[1:-1, 1] - s[1:-1, 0]), torch.full_like(s[1:-1, 0], 0.05), rtol=0, atol=1e-9)


@each_backend
def test_through_the_centre_steps_are_even_and_then_grow(backend: ops.Backend) -> None:
    origin, direction = one_ray((-0.5, 0.0, 0.0), (1.0, 0.0, 0.0))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    space = dataclasses.replace(SPACE, near=0.0)
    edges, _ = ops.ray_march(origin, direction, full(), 0.25, zero + 0.999999, space=space, backend=backend)
    ends = edges[:, 1] - 0.5  # where they are on the x axis
    assert ends[1:6].tolist() == pytest.approx([-0.0, 0.25, 0.5, 0.75, 1.0], abs=1e-5)
    assert ends[6:9].tolist() == pytest.approx([1.0 / 0.75, 1.0 / 0.5, 1.0 / 0.25], abs=1e-3)


@each_backend
def test_a_sample_is_kept_where_its_contracted_cell_is_occupied(backend: ops.Backend) -> None:
    origins, directions = rays_at_random(2, 60, torch.float64)
    occupancy = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.3
    edges, counts = ops.ray_march(origins, directions, occupancy, 0.05, space=SPACE, backend=backend)
    everything, all_counts = ops.ray_march(origins, directions, full(2), 0.05, space=SPACE, backend=backend)
    ray = torch.repeat_interleave(torch.arange(120), all_counts)
    place = origins.flatten(0, 1)[ray] + everything.mean(1, keepdim=True) * directions.flatten(0, 1)[ray]
    kept = torch.tensor(
        [
            bool(occupancy[int(r) // 60, *(min(int((c + 1) * 4), 7) for c in contracted(point.tolist()))])
            for r, point in zip(ray, place, strict=True)
        ]
    )
    assert 0.1 < kept.float().mean() < 0.5
    assert torch.equal(counts, torch.bincount(ray[kept], minlength=120))
    torch.testing.assert_close(edges, everything[kept], rtol=1e-12, atol=1e-12)


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_marches_as_the_reference_does(dtype: torch.dtype) -> None:
    origins, directions = rays_at_random(3, 400, dtype)
    occupancy = torch.rand(3, 16, 16, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    offset = torch.rand(3, 400, dtype=dtype, generator=torch.Generator().manual_seed(4))
    fast, slow = (
        ops.ray_march(origins, directions, occupancy, 0.02, offset, space=SPACE, backend=backend)
        for backend in ("cpu", "reference")
    )
    same = fast[1] == slow[1]  # rounding may put the middle of a sample into the next cell
    assert float(same.float().mean()) > (0.9 if dtype == torch.float32 else 0.999)
    for a, b, equal in zip(fast[0].split(fast[1].tolist()), slow[0].split(slow[1].tolist()), same, strict=True):
        if equal:
            torch.testing.assert_close(a, b, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-5)
    padded = ops.ray_march_padded(origins, directions, occupancy, 0.02, offset, space=SPACE)
    assert torch.equal(padded.counts, fast[1])
    assert torch.equal(padded.edges[padded.first[5] : padded.first[5] + fast[1][5]], fast[0].split(fast[1].tolist())[5])


@needs_cpu
def test_visible_samples_see_what_the_reference_sees() -> None:
    (origins, directions), cells, offset, table, grid, layers = scene(3, 400, dtype=torch.float64)
    fast, slow = (
        ops.visible_samples(
            origins, directions, cells, 0.03, offset, table, grid, layers, "leaky_relu", ceiling=4.0, opaque=OPAQUE,
            space=SPACE, backend=backend,
        )
        for backend in ("cpu", "reference")
    )  # fmt: skip
    marched, _ = ops.ray_march(origins, directions, cells, 0.03, offset, space=SPACE)
    assert len(slow.x) > 1000
    assert float((fast.counts != slow.counts).float().mean()) < 2e-3
    if torch.equal(fast.counts, slow.counts):
        torch.testing.assert_close(fast.x, slow.x, rtol=1e-9, atol=1e-9)
    assert len(fast.x) < 0.9 * len(marched)
    assert fast.encoded is not None
    of_scene = fast.counts.reshape(3, -1).sum(1)
    features = ops.hash_encode(SPACE.into(fast.x) * 0.5 + 0.5, table, grid, counts=of_scene)
    torch.testing.assert_close(fast.encoded, features, rtol=1e-6, atol=1e-9)


def test_a_near_distance_that_cannot_be_is_refused() -> None:
    for near in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match=r"Contracted: near .*wanted a distance of 0 or more"):
            ops.Contracted(near=near)
