"""gather_samples and early_termination: samples of rays in space, and those of them that can be seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import TOLERANCE, each_backend, each_dtype, needs_cpu, threads

COUNTS = torch.tensor([3, 0, 5, 1])
FIRST = torch.tensor([0, 3, 3, 8])


def some_samples(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, directions and edges of four rays with `COUNTS` samples."""
    generator = torch.Generator().manual_seed(0)
    origins, directions = (torch.randn(4, 3, generator=generator, dtype=dtype) for _ in range(2))
    start = torch.rand(9, generator=generator, dtype=dtype).sort().values
    return origins, directions, torch.stack((start, start + 0.1), 1)


@each_backend
def test_points_lie_in_the_middle_of_their_samples(backend: ops.Backend) -> None:
    origins, directions, edges = some_samples(torch.float64)
    x, d, spans = ops.gather_samples(origins, directions, edges, FIRST, COUNTS, backend=backend)
    assert torch.equal(spans, edges)
    for k, ray in enumerate([0, 0, 0, 2, 2, 2, 2, 2, 3]):
        assert torch.equal(d[k], directions[ray])
        torch.testing.assert_close(x[k], origins[ray] + edges[k].mean() * directions[ray])


@each_backend
def test_any_run_of_samples_can_be_taken(backend: ops.Backend) -> None:
    origins, directions, edges = some_samples()
    whole = ops.gather_samples(origins, directions, edges, FIRST, COUNTS, backend=backend)
    some = ops.gather_samples(origins, directions, edges, FIRST + 1, torch.tensor([1, 0, 3, 0]), backend=backend)
    for part, everything in zip(some, whole, strict=True):
        assert torch.equal(part, everything[[1, 4, 5, 6]])


@each_backend
def test_rays_without_samples_and_no_rays_give_nothing(backend: ops.Backend) -> None:
    origins, directions, edges = some_samples()
    none = ops.gather_samples(origins, directions, edges, FIRST, torch.zeros_like(COUNTS), backend=backend)
    assert [part.shape for part in none] == [(0, 3), (0, 3), (0, 2)]
    nobody = ops.gather_samples(origins[:0], directions[:0], edges, FIRST[:0], COUNTS[:0], backend=backend)
    assert [part.shape for part in nobody] == [(0, 3), (0, 3), (0, 2)]


@each_backend
def test_samples_before_the_ray_is_opaque_can_be_seen(backend: ops.Backend) -> None:
    # Each sample lets half of the light through: behind n of them the opacity is 1 - 2^-n.
    edges = torch.tensor([[0.0, 0.5]]).repeat(9, 1)
    density = torch.full((9,), 2.0 * math.log(2.0))
    before = torch.tensor([0.0, 0.3, 0.0, 0.9])
    kept, behind = ops.early_termination(density, edges, COUNTS, before, 0.85, backend=backend)
    assert kept.tolist() == [3, 0, 3, 0]  # the third ray is opaque behind its third sample, the last one before any
    assert behind.tolist() == pytest.approx([0.875, 0.3, 0.875, 0.9])


@each_backend
def test_an_infinite_density_hides_everything_behind_it(backend: ops.Backend) -> None:
    density = torch.tensor([0.0, math.inf, 1.0])
    edges = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    kept, behind = ops.early_termination(density, edges, torch.tensor([3]), torch.zeros(1), 0.999, backend=backend)
    assert (kept.tolist(), behind.tolist()) == ([2], [1.0])


@each_backend
def test_waves_see_what_whole_rays_see(backend: ops.Backend) -> None:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randint(0, 12, (50,), generator=generator)
    first = numbers.cumsum(0) - numbers
    edges = torch.rand(int(numbers.sum()), 1, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 0.1])
    density = 20 * torch.rand(len(edges), generator=generator, dtype=torch.float64)
    whole, opacity = ops.early_termination(density, edges, numbers, torch.zeros(50).double(), 0.99, backend=backend)
    assert 0 < int(whole.sum()) < len(edges)
    seen, so_far = torch.zeros_like(numbers), torch.zeros(50).double()
    for done in range(0, 12, 3):
        take = (numbers - done).clamp(0, 3)
        place = torch.cat([torch.arange(f, f + n) for f, n in zip(first + done, take, strict=True)])
        part, so_far = ops.early_termination(density[place], edges[place], take, so_far, 0.99, backend=backend)
        seen += part
    assert torch.equal(seen, whole)
    torch.testing.assert_close(so_far, opacity)


@needs_cpu
@each_dtype
def test_the_kernels_give_what_the_references_give(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randint(0, 9, (300,), generator=generator)
    origins, directions = (torch.randn(300, 3, generator=generator, dtype=dtype) for _ in range(2))
    edges = torch.rand(int(numbers.sum()), 2, generator=generator, dtype=dtype).sort(1).values
    arguments = (origins, directions, edges, numbers.cumsum(0) - numbers, numbers)
    for got, wanted in zip(*(ops.gather_samples(*arguments, backend=b) for b in ("cpu", "reference")), strict=True):
        torch.testing.assert_close(got, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    density, opacity = 9 * torch.rand(len(edges), dtype=dtype), torch.rand(300, dtype=dtype)
    (kept, behind), (wanted_kept, wanted_behind) = (
        ops.early_termination(density, edges, numbers, opacity, 0.9, backend=b) for b in ("cpu", "reference")
    )
    assert torch.equal(kept, wanted_kept)
    torch.testing.assert_close(behind, wanted_behind, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    results = []
    for number in (1, 2):
        with threads(number):
            results.append(
                (*ops.gather_samples(*arguments), *ops.early_termination(density, edges, numbers, opacity, 0.9))
            )
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@each_backend
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_requires_a_gradient_is_refused(part: int, backend: ops.Backend) -> None:
    arguments = [*some_samples()]
    arguments[part].requires_grad_()
    with pytest.raises(ValueError, match="rays: require a gradient, which marching does not give; detach them"):
        ops.gather_samples(*arguments, FIRST, COUNTS, backend=backend)
    with torch.no_grad():
        assert not ops.gather_samples(*arguments, FIRST, COUNTS, backend=backend).x.requires_grad
    arguments = [torch.ones(9), some_samples()[2], torch.zeros(4)]
    arguments[part].requires_grad_()
    density, edges, opacity = arguments
    with pytest.raises(ValueError, match="densities and opacities require a gradient, which it does not give"):
        ops.early_termination(density, edges, COUNTS, opacity, 0.9, backend=backend)
    with torch.no_grad():
        assert not ops.early_termination(density, edges, COUNTS, opacity, 0.9, backend=backend)[1].requires_grad


def test_inputs_that_do_not_fit_are_refused() -> None:
    origins, directions, edges = some_samples()
    with pytest.raises(ValueError, match=r"gather_samples: got origins \(4, 3\), directions \(3, 3\)"):
        ops.gather_samples(origins, directions[:3], edges, FIRST, COUNTS)
    with pytest.raises(
        ValueError, match=r"got first torch\.int64 \(3,\), counts torch\.int64 \(4,\); wanted int64 \[4\]"
    ):
        ops.gather_samples(origins, directions, edges, FIRST[:3], COUNTS)
    for first, counts in ((FIRST + 1, COUNTS), (FIRST - 1, COUNTS), (FIRST, -COUNTS)):
        with pytest.raises(ValueError, match=r"gather_samples: first and counts leave the 9 rows of edges"):
            ops.gather_samples(origins, directions, edges, first, counts)
    with pytest.raises(ValueError, match=r"early_termination: got density \(8,\), edges \(9, 2\), opacity \(4,\)"):
        ops.early_termination(torch.ones(8), edges, COUNTS, torch.zeros(4), 0.9)
    with pytest.raises(ValueError, match=r"opacity \(3,\); wanted \[m\], \[m 2\] and \[4\]"):
        ops.early_termination(torch.ones(9), edges, COUNTS, torch.zeros(3), 0.9)
    with pytest.raises(ValueError, match="counts: sum is 9, wanted the 8 points"):
        ops.early_termination(torch.ones(8), edges[:8], COUNTS, torch.zeros(4), 0.9)
    with pytest.raises(TypeError, match=r"density torch\.float32 on cpu, edges torch\.float64 on cpu"):
        ops.early_termination(torch.ones(9), edges.double(), COUNTS, torch.zeros(4), 0.9)
