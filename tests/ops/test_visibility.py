"""visible_samples: one kernel finds what march, encoding, network and early termination find one after another."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops.grid import GridSpec

from ._parity import assert_second_derivative_is_refused, needs_cpu, threads
from .test_march import full, rays_at_random

OPAQUE = 0.99


def scene(
    scenes: int, rays: int, *, dtype: torch.dtype = torch.float32, features: int = 2, tables: int | None = None
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, GridSpec, list[tuple[Tensor, Tensor | None]]]:
    """Rays, cells, offsets, and fields whose opacity comes slowly in some places and at once in others."""
    generator = torch.Generator().manual_seed(1)
    grid = GridSpec.make(3, 4, features, 9, 4, 1.5, smoothstep=features == 1)
    table = torch.randn(tables or scenes, grid.rows, features, generator=generator)
    widths = (grid.channels, 16, 12, 1)
    layers: list[tuple[Tensor, Tensor | None]] = [
        (
            (torch.randn(scenes, o, i, generator=generator) / i**0.5).to(dtype),
            None if o == 12 else torch.randn(scenes, o, generator=generator).to(dtype),
        )
        for i, o in itertools.pairwise(widths)
    ]
    layers[-1] = (20.0 * layers[-1][0], torch.ones(scenes, 1, dtype=dtype))
    cells = torch.rand(scenes, 8, 8, 8, generator=generator) < 0.5
    if scenes > 1:
        cells[1] = False
    offset = torch.rand(scenes, rays, generator=generator, dtype=torch.float32).to(dtype)
    origins, directions = rays_at_random(scenes, max(rays, 6), dtype)
    return (origins[:, :rays], directions[:, :rays]), cells, offset, table.to(dtype), grid, layers


def visible(
    case: tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, GridSpec, list[tuple[Tensor, Tensor | None]]],
    backend: ops.Backend,
    activation: ops.Activation = "leaky_relu",
) -> ops.VisibleSamples:
    rays, cells, offset, table, grid, layers = case
    return ops.visible_samples(
        *rays, cells, 0.03, offset, table, grid, layers, activation, ceiling=4.0, opaque=OPAQUE, backend=backend
    )  # fmt: skip


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_the_kernel_sees_what_the_reference_sees(dtype: torch.dtype, features: int) -> None:
    case = scene(3, 700, dtype=dtype, features=features)  # more rays than a task takes
    fast, slow = visible(case, "cpu"), visible(case, "reference")
    # A ray whose opacity comes within rounding of the limit may keep a sample more or less.
    differ = (fast.counts != slow.counts).float().mean()
    assert float(differ) < (2e-3 if dtype == torch.float32 else 1e-9)
    assert len(slow.x) > 1000
    pairs = zip(fast.counts.tolist(), slow.counts.tolist(), strict=True)
    rows = [
        (a, b)
        for a, b, same in zip(
            fast.edges.split(fast.counts.tolist()), slow.edges.split(slow.counts.tolist()), pairs, strict=True
        )
        if same[0] == same[1]
    ]
    assert all(torch.equal(a, b) for a, b in rows)


@needs_cpu
@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_what_it_finds_is_whole(tables: int, activation: ops.Activation) -> None:
    """Points lie where their edges say, and their features are those of `hash_encode`, number for number."""
    case = scene(3, 130, tables=tables)
    (origins, directions), cells, offset, table, grid, layers = case
    seen = visible(case, "cpu", activation)
    marched, numbers = ops.ray_march(origins, directions, cells, 0.03, offset)
    assert (seen.counts <= numbers).all()
    assert int(seen.counts.sum()) < 0.9 * int(numbers.sum())  # otherwise nothing was left out
    flat = origins.reshape(-1, 3), directions.reshape(-1, 3)
    wanted = ops.gather_samples(*flat, marched, numbers.cumsum(0) - numbers, seen.counts)
    for got, right in zip(seen[:3], wanted, strict=True):
        assert torch.equal(got, right)
    counts = seen.counts.reshape(3, -1).sum(1)
    assert seen.encoded is not None
    features = ops.hash_encode(seen.x * 0.5 + 0.5, table, grid, counts=counts)
    assert torch.equal(seen.encoded, features)
    # All that is left out lies behind what is opaque.
    out = ops.batched_mlp(features, layers, activation, counts=counts).squeeze(-1)
    density = out.clamp(max=4.0).exp()
    _, behind = ops.early_termination(density, seen.edges, seen.counts, torch.zeros(len(seen.counts)), 2.0)
    assert (behind[seen.counts < numbers] > OPAQUE - 1e-4).all()


@needs_cpu
def test_the_answer_does_not_depend_on_the_threads() -> None:
    case = scene(4, 600)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(visible(case, "cpu"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True) if a is not None and b is not None)


@needs_cpu
@pytest.mark.parametrize("room", [1, 2048, 5000])
def test_samples_that_there_is_no_room_for_come_all_the_same(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperfields.ops._cpu import visibility

    case = scene(3, 600)
    wanted = visible(case, "cpu")
    assert len(wanted.x) > 3000
    monkeypatch.setattr(visibility, "ROOM", room)
    for count in (1, 3):
        with threads(count):
            found = visible(case, "cpu")
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True) if a is not None and b is not None)


@needs_cpu
@pytest.mark.parametrize(("scenes", "rays"), [(0, 5), (2, 0), (2, 9)])
def test_nothing_to_see_is_no_samples(scenes: int, rays: int) -> None:
    (origins, directions), _, offset, table, grid, layers = scene(max(scenes, 1), rays)
    inputs = (origins[:scenes], directions[:scenes], ~full(scenes), 0.03, offset[:scenes], table[:scenes], grid)
    networks: list[tuple[Tensor, Tensor | None]] = [(w[:scenes], None if b is None else b[:scenes]) for w, b in layers]
    seen = ops.visible_samples(*inputs, networks, ceiling=8.0, opaque=0.9, backend="cpu")
    assert len(seen.x) == len(seen.d) == len(seen.edges) == 0
    assert seen.counts.tolist() == [0] * (scenes * rays)


@needs_cpu
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["origin", "direction", "offset"])
def test_a_ray_that_is_no_number_sees_nothing(part: str, value: float) -> None:
    """It used to read beyond the table."""
    case = scene(2, 60)
    (origins, directions), cells, offset, table, grid, layers = case
    wanted = visible(case, "cpu").counts.reshape(2, 60)
    origins, directions, offset = origins.clone(), directions.clone(), offset.clone()
    {"origin": origins, "direction": directions, "offset": offset[..., None]}[part][:, 7, 0] = value
    seen = visible(((origins, directions), cells, offset, table, grid, layers), "cpu")
    wanted[:, 7] = 0
    assert torch.equal(seen.counts.reshape(2, 60), wanted)
    assert seen.x.isfinite().all()
    _, counts = ops.ray_march(origins, directions, cells, 0.03, offset, backend="cpu")
    assert not counts.reshape(2, 60)[:, 7].any()


@needs_cpu
def test_features_that_are_known_leave_only_the_derivatives() -> None:
    (_, _), _, _, table, grid, _ = scene(2, 1)
    x, counts = torch.rand(500, 3, requires_grad=True), torch.tensor([200, 300])
    table.requires_grad_()
    pull = torch.randn(500, grid.channels)
    whole = ops.hash_encode(x, table, grid, counts=counts)
    known = ops.hash_encode(x, table, grid, counts=counts, encoded=whole.detach())
    assert torch.equal(known, whole)
    for got, wanted in zip(
        torch.autograd.grad(known, (x, table), pull), torch.autograd.grad(whole, (x, table), pull), strict=True
    ):
        assert torch.equal(got, wanted)
    inputs = {"x": x.detach(), "table": table.detach()}
    features = whole.detach()
    assert_second_derivative_is_refused(
        lambda backend, x, table: ops.hash_encode(
            x, table, grid, counts=counts, encoded=features if backend == "cpu" else None, backend=backend
        ),
        inputs,
        "encoded_cpu_backward",
    )
    with pytest.raises(ValueError, match="encoded: features require a gradient, which they do not get; detach them"):
        ops.hash_encode(x, table, grid, counts=counts, encoded=whole)
    with pytest.raises(ValueError, match=r"encoded: got shape \(3, 8\), wanted \[500, 8\]"):
        ops.hash_encode(x, table, grid, counts=counts, encoded=torch.zeros(3, 8))


@needs_cpu
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_only_rays_must_not_require_a_gradient(backend: ops.Backend) -> None:
    """What is seen decides which points a field is asked for; their own gradients come from there."""
    (origins, directions), cells, offset, table, grid, layers = scene(2, 9)
    table.requires_grad_()
    assert not visible(((origins, directions), cells, offset, table, grid, layers), backend).x.requires_grad
    for moved in ((origins.clone().requires_grad_(), directions), (origins, directions.clone().requires_grad_())):
        with pytest.raises(ValueError, match="rays: require a gradient, which marching does not give"):
            visible((moved, cells, offset, table, grid, layers), backend)


def test_errors_name_the_argument() -> None:
    (origins, directions), cells, offset, table, grid, layers = scene(2, 3)
    with pytest.raises(ValueError, match="layers: got 12 outputs, wanted 1, the logarithm of the density"):
        ops.visible_samples(origins, directions, cells, 0.1, offset, table, grid, layers[:2], ceiling=8.0, opaque=0.9)
    with pytest.raises(ValueError, match=r"occupancy: got torch.bool \(1, 8, 8, 8\), wanted bool \[2 g g g\]"):
        ops.visible_samples(origins, directions, cells[:1], 0.1, offset, table, grid, layers, ceiling=8.0, opaque=0.9)
    with pytest.raises(ValueError, match="backend 'tcnn' cannot run this call"):
        ops.visible_samples(
            origins, directions, cells, 0.1, offset, table, grid, layers, ceiling=8.0, opaque=0.9, backend="tcnn"
        )
