"""march: samples along rays tile what is occupied and nothing else; kernel and reference keep the same."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import each_backend, each_dtype, needs_cpu, threads


def rays_at_random(scenes: int, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rays from outside and inside the box, some of them along an axis, some that miss."""
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(scenes, count, 3, generator=generator) * 1.5
    directions = torch.nn.functional.normalize(torch.rand(scenes, count, 3, generator=generator) - 0.5, dim=-1)
    axes = torch.cat((torch.eye(3), -torch.eye(3)))  # -eye has components that are -0.0
    directions[:, :6] = axes
    origins[:, :6] = -axes * 2.0
    return origins.to(dtype), directions.to(dtype)


def chord(origin: Tensor, direction: Tensor) -> float:
    """Length of a ray inside the box, slab by slab in Python."""
    near, far = 0.0, math.inf
    for o, d in zip(origin.tolist(), direction.tolist(), strict=True):
        if d == 0.0:
            near, far = (near, far) if -1 <= o <= 1 else (0.0, 0.0)
        else:
            a, b = sorted(((-1 - o) / d, (1 - o) / d))
            near, far = max(near, a), min(far, b)
    return max(far - near, 0.0)


def full(scenes: int = 1, size: int = 8) -> Tensor:
    return torch.ones(scenes, size, size, size, dtype=torch.bool)


def one_ray(origin: tuple[float, float, float], direction: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    d = torch.tensor(direction, dtype=torch.float64)
    return torch.tensor(origin, dtype=torch.float64).reshape(1, 1, 3), (d / d.norm()).reshape(1, 1, 3)


@each_backend
@pytest.mark.parametrize("offset", [None, 0.0, 0.25, 0.999])
def test_in_a_full_box_samples_tile_every_ray_from_entry_to_exit(backend: ops.Backend, offset: float | None) -> None:
    origins, directions = rays_at_random(2, 50, torch.float64)
    offsets = None if offset is None else torch.full((2, 50), offset, dtype=torch.float64)
    edges, counts = ops.ray_march(origins, directions, full(2), 0.05, offsets, backend=backend)
    rays = zip(origins.flatten(0, 1), directions.flatten(0, 1), edges.split(counts.tolist()), strict=True)
    hits = 0
    for origin, direction, samples in rays:
        length = chord(origin, direction)
        assert float((samples[:, 1] - samples[:, 0]).sum()) == pytest.approx(length, abs=1e-12)
        if length == 0.0:
            assert len(samples) == 0
            continue
        hits += 1
        torch.testing.assert_close(samples[1:, 0], samples[:-1, 1], rtol=0, atol=1e-12)
        assert float((samples[:, 1] - samples[:, 0]).max()) <= 0.05 + 1e-12
        for point in (origin + samples[0, 0] * direction, origin + samples[-1, 1] * direction):
            assert float(point.abs().max()) <= 1.0 + 1e-12
    assert 20 < hits < 100  # some hit and some miss, otherwise nothing is tested


@each_backend
def test_the_offset_says_where_in_a_step_a_ray_begins(backend: ops.Backend) -> None:
    origin, direction = one_ray((-3.0, 0.1, 0.2), (1.0, 0.0, 0.0))
    offset = torch.tensor([[0.25]], dtype=torch.float64)
    edges, counts = ops.ray_march(origin, direction, full(), 0.5, offset, backend=backend)
    assert counts.tolist() == [5]  # 2 units: a quarter of a step, three whole ones, three quarters
    bounds = [2.0, 2.125, 2.625, 3.125, 3.625, 4.0]
    assert edges.flatten().tolist() == pytest.approx([b for pair in itertools.pairwise(bounds) for b in pair])
    begin, _ = ops.ray_march(origin, direction, full(), 0.5, torch.zeros_like(offset), backend=backend)
    assert begin[:, 0].tolist() == pytest.approx([2.0, 2.5, 3.0, 3.5])


@each_backend
def test_without_an_offset_a_ray_begins_in_the_middle_of_a_step(backend: ops.Backend) -> None:
    origins, directions = rays_at_random(1, 20)
    default = ops.ray_march(origins, directions, full(), 0.1, backend=backend)
    half = ops.ray_march(origins, directions, full(), 0.1, torch.full((1, 20), 0.5), backend=backend)
    assert torch.equal(default[0], half[0])
    assert torch.equal(default[1], half[1])


@each_backend
def test_a_sample_is_kept_when_the_cell_of_its_middle_is_occupied(backend: ops.Backend) -> None:
    origins, directions = rays_at_random(2, 60, torch.float64)
    occupancy = torch.rand(2, 8, 8, 8) < 0.3
    edges, counts = ops.ray_march(origins, directions, occupancy, 0.05, backend=backend)
    everything, all_counts = ops.ray_march(origins, directions, full(2), 0.05, backend=backend)
    ray = torch.repeat_interleave(torch.arange(120), all_counts)
    points = origins.flatten(0, 1)[ray] + everything.mean(1, keepdim=True) * directions.flatten(0, 1)[ray]
    kept = torch.tensor(
        [
            bool(occupancy[int(r) // 60, *(min(int((c + 1) * 4), 7) for c in point.tolist())])
            for r, point in zip(ray, points, strict=True)
        ]
    )
    assert 0.1 < kept.float().mean() < 0.5
    assert torch.equal(edges, everything[kept])
    assert torch.equal(counts, torch.bincount(ray[kept], minlength=120))


@each_backend
def test_each_scene_has_its_own_cells_in_the_order_x_y_z(backend: ops.Backend) -> None:
    occupancy = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    occupancy[0, 0, 1, 2] = True  # x in [-1, -0.5], y in [-0.5, 0], z in [0, 0.5]
    occupancy[1, 3, 1, 2] = True  # x in [0.5, 1]
    origin, direction = one_ray((-2.0, -0.25, 0.25), (1.0, 0.0, 0.0))
    edges, counts = ops.ray_march(
        origin.repeat(2, 1, 1),
        direction.repeat(2, 1, 1),
        occupancy,
        0.125,
        torch.zeros(2, 1).double(),
        backend=backend,
    )
    assert counts.tolist() == [4, 4]
    assert edges[[0, 3, 4, 7], [0, 1, 0, 1]].tolist() == [1.0, 1.5, 2.5, 3.0]


@each_backend
@pytest.mark.parametrize(
    ("origin", "direction", "length"),
    [
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), 2.0),
        ((-3.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 0.0),  # the box is behind
        ((-3.0, 1.5, 0.0), (1.0, 0.0, 0.0), 0.0),  # beside it, parallel to a side
        ((0.0, 0.0, 3.0), (1.0, 0.0, -1.0), 0.0),  # past an edge
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), 1.0),  # from the inside
        ((0.5, 0.0, 0.0), (-1.0, 0.0, 0.0), 1.5),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 3**0.5),
        ((2.0, 2.0, 2.0), (-1.0, -1.0, -1.0), 2 * 3**0.5),
    ],
)
def test_rays_that_miss_or_begin_inside(
    backend: ops.Backend,
    origin: tuple[float, float, float],
    direction: tuple[float, float, float],
    length: float,
) -> None:
    edges, counts = ops.ray_march(*one_ray(origin, direction), full(), 0.07, backend=backend)
    assert float((edges[:, 1] - edges[:, 0]).sum()) == pytest.approx(length, abs=1e-12)
    assert (counts.item() == 0) == (length == 0.0)
    assert not edges.numel() or float(edges.min()) >= 0.0


@each_backend
def test_an_empty_grid_gives_no_samples(backend: ops.Backend) -> None:
    origins, directions = rays_at_random(2, 20)
    edges, counts = ops.ray_march(origins, directions, ~full(2), 0.05, backend=backend)
    assert edges.shape == (0, 2)
    assert counts.tolist() == [0] * 40


@each_backend
def test_no_rays_give_no_samples(backend: ops.Backend) -> None:
    edges, counts = ops.ray_march(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3), full(2), 0.05, backend=backend)
    assert edges.shape == (0, 2)
    assert counts.shape == (0,)


@needs_cpu
@each_dtype
@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("step", [0.013, 0.1, 5.0])
def test_the_kernel_keeps_exactly_the_samples_of_the_reference(step: float, size: int, dtype: torch.dtype) -> None:
    origins, directions = rays_at_random(3, 100, dtype)
    occupancy = torch.rand(3, size, size, size) < (0.5 if size > 1 else 0.9)
    offset = torch.rand(3, 100, dtype=dtype)
    for offsets in (offset, None):
        edges, counts = ops.ray_march(origins, directions, occupancy, step, offsets, backend="cpu")
        wanted_edges, wanted_counts = ops.ray_march(origins, directions, occupancy, step, offsets, backend="reference")
        assert edges.dtype == dtype
        assert torch.equal(counts, wanted_counts)
        assert torch.equal(edges, wanted_edges)


@needs_cpu
def test_directions_shorter_than_unit_have_room_for_all_of_their_samples() -> None:
    origins, directions = rays_at_random(2, 600)
    occupancy = full(2)
    (edges, counts), (wanted_edges, wanted_counts) = (
        ops.ray_march(origins, 0.1 * directions, occupancy, 0.05, backend=backend) for backend in ("cpu", "reference")
    )
    assert int(counts.max()) > 2 * math.sqrt(3) / 0.05
    assert torch.equal(counts, wanted_counts)
    assert torch.equal(edges, wanted_edges)


@needs_cpu
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    origins, directions = rays_at_random(2, 300)
    occupancy = torch.rand(2, 8, 8, 8) < 0.5
    results = []
    for number in (1, 2):
        with threads(number):
            results.append(ops.ray_march(origins, directions, occupancy, 0.02, backend="cpu"))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@each_backend
@pytest.mark.parametrize("part", [0, 1, 2])
def test_rays_that_require_a_gradient_are_refused(part: int, backend: ops.Backend) -> None:
    """There would be none, without a word: a pose would stay where it is."""
    arguments = [*rays_at_random(1, 8), torch.rand(1, 8)]
    arguments[part].requires_grad_()
    origins, directions, offset = arguments
    with pytest.raises(ValueError, match="rays: require a gradient, which marching does not give; detach them"):
        ops.ray_march(origins, directions, full(), 0.1, offset, backend=backend)
    with pytest.raises(ValueError, match="rays: require a gradient"):
        ops.ray_march_padded(origins, directions, full(), 0.1, offset)
    with torch.no_grad():
        edges, _ = ops.ray_march(origins, directions, full(), 0.1, offset, backend=backend)
    assert not edges.requires_grad


O, D = torch.zeros(2, 5, 3), torch.ones(2, 5, 3)  # noqa: E741


@pytest.mark.parametrize(
    ("origins", "directions", "occupancy", "step", "error", "message"),
    [
        (
            O[0],
            D[0],
            full(2),
            0.1,
            ValueError,
            r"rays: got origins \(5, 3\), directions \(5, 3\); wanted \[s r 3\]",
        ),
        (O, D[:, :4], full(2), 0.1, ValueError, r"directions \(2, 4, 3\); wanted \[s r 3\]"),
        (
            O,
            D.double(),
            full(2),
            0.1,
            TypeError,
            r"origins torch\.float32 on cpu, directions torch\.float64 on cpu",
        ),
        (
            O,
            D,
            full(3),
            0.1,
            ValueError,
            r"occupancy: got torch\.bool \(3, 8, 8, 8\), wanted bool \[2 g g g\]",
        ),
        (
            O,
            D,
            full(2).float(),
            0.1,
            ValueError,
            r"occupancy: got torch\.float32 \(2, 8, 8, 8\), wanted bool",
        ),
        (O, D, full(2), 0.0, ValueError, r"step: got 0\.0, wanted a positive length"),
        (O, D, full(2), math.nan, ValueError, "step: got nan, wanted a positive length"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.ray_march(origins, directions, occupancy, step)


@pytest.mark.parametrize(
    ("cells", "offset", "error", "message"),
    [
        (
            (2, 8, 2, 2),
            None,
            ValueError,
            r"occupancy: got torch\.bool \(2, 8, 2, 2\), wanted bool \[2 g g g\]",
        ),
        ((2, 0, 0, 0), None, ValueError, r"occupancy: got torch\.bool \(2, 0, 0, 0\), wanted bool"),
        ((2, 8, 8, 8), torch.zeros(2, 4), ValueError, r"offset: got shape \(2, 4\), wanted \[2, 5\]"),
        ((2, 8, 8, 8), torch.zeros(2, 1), ValueError, r"offset: got shape \(2, 1\), wanted \[2, 5\]"),
        (
            (2, 8, 8, 8),
            torch.zeros(2, 5).double(),
            TypeError,
            r"offset torch\.float64 on cpu; wanted one dtype",
        ),
    ],
    ids=["no cube", "no cells", "too few offsets", "offsets to broadcast", "offsets of another dtype"],
)
def test_a_grid_or_an_offset_that_does_not_fit_is_refused(
    cells: tuple[int, ...], offset: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.ray_march(O, D, torch.ones(cells, dtype=torch.bool), 0.1, offset)


def test_a_dtype_that_is_not_compiled_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"backend 'cpu' cannot run this call: dtype is torch\.float16"):
        ops.ray_march(O.half(), D.half(), full(2), 0.1, backend="cpu")
