"""distortion: the O(n) form and its kernel, against the definition as a double sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import assert_second_derivative_is_refused, each_backend, needs_cpu, threads


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Density `[m]`, edges, places `[m 2]` and counts of rays, some of which have no samples."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([0, 5, 1, 0, 40, 130, 2, 0])
    total = int(counts.sum())
    ends = torch.cat(
        [torch.rand(2 * int(n), generator=generator, dtype=torch.float64).sort().values * 3.0 for n in counts]
    )
    edges = ends.reshape(total, 2)
    density = torch.rand(total, generator=generator, dtype=torch.float64) * 20.0
    places = edges / (1.0 + edges)
    return density.to(dtype), edges.to(dtype), places.to(dtype), counts


def double_sum(density: Tensor, edges: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """Equation 15 of Mip-NeRF 360, term by term."""
    result = []
    for sigma, span, place in zip(*(t.split(counts.tolist()) for t in (density, edges, places)), strict=True):
        optical = sigma * (span[:, 1] - span[:, 0])
        before = torch.nn.functional.pad(optical.cumsum(0), (1, 0))[:-1]
        weight = torch.exp(-before) * (1.0 - torch.exp(-optical))
        middle, length = place.mean(-1), place[:, 1] - place[:, 0]
        between = (weight[:, None] * weight[None] * (middle[:, None] - middle[None]).abs()).sum()
        result.append(between + (weight.square() * length).sum() / 3.0)
    return torch.stack(result)


@each_backend
def test_it_is_the_double_sum(backend: ops.Backend) -> None:
    inputs = case()
    spread = ops.distortion(*inputs, backend=backend)
    torch.testing.assert_close(spread, double_sum(*inputs), rtol=1e-10, atol=1e-12)
    assert float(spread[4]) > 1e-3
    assert float(spread[0]) == 0.0


@each_backend
def test_its_gradient_is_that_of_the_double_sum(backend: ops.Backend) -> None:
    density, *rest = case()
    cotangent = torch.randn(len(rest[2]), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = []
    for fn in (lambda d: ops.distortion(d, *rest, backend=backend), lambda d: double_sum(d, *rest)):
        leaf = density.clone().requires_grad_()
        (fn(leaf) * cotangent).sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    error = float((grads[0] - grads[1]).norm() / grads[1].norm())
    assert error < 1e-9
    assert int((grads[1] != 0.0).sum()) > 100


@needs_cpu
def test_the_kernel_in_float32_at_any_number_of_threads() -> None:
    inputs = case(torch.float32)
    one = []
    for count in (1, 3):
        with threads(count):
            one.append(ops.distortion(*inputs, backend="cpu"))
    assert torch.equal(one[0], one[1])
    torch.testing.assert_close(one[0].double(), double_sum(*case()), rtol=1e-4, atol=1e-6)


def test_rows_behind_the_last_ray_belong_to_nobody() -> None:
    density, edges, places, counts = case()
    padded = [torch.cat((t, torch.full_like(t[:7], 3.0))) for t in (density, edges, places)]
    from hyperfields.ops.reference import distortion as reference

    torch.testing.assert_close(
        reference.distortion(*padded, counts), reference.distortion(density, edges, places, counts)
    )


def test_what_has_no_derivative_is_refused() -> None:
    density, edges, places, counts = case()
    with pytest.raises(ValueError, match="edges or places require a gradient"):
        ops.distortion(density, edges.requires_grad_(), places, counts)


@needs_cpu
def test_a_second_derivative_is_refused() -> None:
    density, *rest = case()

    def call(backend: ops.Backend, density: Tensor) -> Tensor:
        return ops.distortion(density, *rest, backend=backend)

    assert_second_derivative_is_refused(call, {"density": density}, "distortion_cpu_backward")


def test_shapes_that_do_not_fit_are_refused() -> None:
    density, edges, places, counts = case()
    with pytest.raises(ValueError, match=r"wanted \[m\], \[m 2\] and \[m 2\]"):
        ops.distortion(density, edges[:-1], places, counts)
