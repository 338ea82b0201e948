"""rendered_error: by hand, and the kernel against the ops that it is made of, with all gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import (
    Call,
    assert_parity,
    each_backend,
    each_dtype,
    needs_cpu,
    outputs_and_gradients,
    random_numbers,
    threads,
)
from .test_mlp import layers_of, parameters
from .test_radiance import directions

LONG = 1500  # samples of one ray: more than are taken at a time
CEILING, HAZE = 2.5, 0.05


def numbers_of(scenes: int, rays: int) -> Tensor:
    """Samples of each ray: none of many, and a ray that is long."""
    counts = torch.randint(-4, 40, (scenes * rays,), generator=torch.Generator().manual_seed(1)).clamp(min=0)
    counts[rays // 2] = LONG
    return counts


class Case:
    """Rays of three scenes, the last of which shows nothing: what is fixed, and what is differentiated."""

    def __init__(self, rays: int = 40, geometry: int = 4, degree: int = 2, hidden: tuple[int, ...] = (8,)) -> None:
        self.counts, self.degree = numbers_of(3, rays), degree
        self.counts[2 * rays :] = 0
        total = int(self.counts.sum())
        self.d = directions(total)
        lengths = torch.rand(total, generator=torch.Generator().manual_seed(2)).double().float().double()
        self.edges = torch.stack((lengths, lengths + 0.02 * lengths), -1)
        self.rgba = torch.rand(3, rays, 4, generator=torch.Generator().manual_seed(4)).double()
        density, color = parameters((6, *hidden, 1 + geometry), 3), parameters((geometry + degree**2, *hidden, 3), 3)
        self.inputs = {"features": random_numbers(total, 6, seed=9)}
        self.inputs |= {f"density {name}": value for name, value in density.items()}
        self.inputs |= {f"color {name}": value for name, value in color.items()}

    def error(self, backend: ops.Backend, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = inputs["features"]
        density, color = (
            layers_of({name.removeprefix(kind): value for name, value in inputs.items() if name.startswith(kind)})
            for kind in ("density ", "color ")
        )
        fixed = (self.d.to(features), self.edges.to(features), self.counts, self.rgba.to(features))
        return ops.rendered_error(
            features, *fixed, density, color, "leaky_relu", degree=self.degree, ceiling=CEILING, haze=HAZE,
            backend=backend,
        )  # fmt: skip

    def call(self) -> Call:
        return lambda backend, **inputs: self.error(backend, **inputs)[0]

    def leaves(self) -> dict[str, Tensor]:
        return {name: value.clone().requires_grad_() for name, value in self.inputs.items()}


def is_kernel(error: Tensor) -> bool:
    return type(error.grad_fn).__name__ == "rendered_error_cpuBackward"


@each_backend
def test_a_ray_is_what_is_computed_by_hand(backend: ops.Backend) -> None:
    """Two samples of log densities 0.5 and 1, red and blue; the other ray meets nothing."""
    density: list[tuple[Tensor, Tensor | None]] = [(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True), None)]
    color: list[tuple[Tensor, Tensor | None]] = [(torch.tensor([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]]), None)]
    features = torch.tensor([[0.5, 2.0], [1.0, -2.0]])
    edges, d = torch.tensor([[1.0, 1.1], [1.3, 1.6]]), torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    rgba = torch.tensor([[[0.9, 0.2, 0.1, 0.5], [1.0, 1.0, 1.0, 0.25]]])
    error, alpha = ops.rendered_error(
        features, d, edges, torch.tensor([2, 0]), rgba, density, color, degree=1, ceiling=8.0, haze=0.1, backend=backend
    )
    first, second = 1 - math.exp(-math.exp(0.5) * 0.1), 1 - math.exp(-math.e * 0.3)
    second *= 1 - first
    red, half = 1 / (1 + math.exp(-2)), 0.5
    shown = [first * red + second * (1 - red), (first + second) * half, first * (1 - red) + second * red]
    off = first + second - 0.5
    black = [got - 0.5 * wanted for got, wanted in zip(shown, (0.9, 0.2, 0.1), strict=True)]
    ray = sum(value**2 + (value - off) ** 2 for value in black) / 6 + 0.1 * abs(off)
    nothing = (3 * 0.25**2 + 0.0) / 6 + 0.1 * 0.25  # right on white
    assert float(error.detach()) == pytest.approx((ray + nothing) / 2, rel=1e-6)
    torch.testing.assert_close(alpha, torch.tensor([[first + second, 0.0]]))
    assert not alpha.requires_grad


@needs_cpu
@each_dtype
@pytest.mark.parametrize(("geometry", "degree", "hidden"), [(15, 3, (32,)), (2, 1, ()), (3, 4, (5, 9))])
def test_kernel_gives_the_error_and_gradients_of_the_ops_one_by_one(
    geometry: int, degree: int, hidden: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = Case(12, geometry, degree, hidden)
    assert is_kernel(case.error("cpu", **{name: value.to(dtype) for name, value in case.leaves().items()})[0])
    assert_parity(case.call(), "cpu", case.inputs, dtype)


@needs_cpu
def test_opacities_are_those_of_the_reference() -> None:
    case = Case()
    (_, known), (_, wanted) = (case.error(backend, **case.leaves()) for backend in ("cpu", "reference"))
    torch.testing.assert_close(known, wanted, rtol=1e-12, atol=1e-12)


@needs_cpu
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    case = Case(150)
    inputs, found = {name: value.float() for name, value in case.inputs.items()}, []
    for number in (1, 2, 5):
        with threads(number):
            outputs, gradients = outputs_and_gradients(case.call(), "cpu", inputs)
            found.append([*outputs, case.error("cpu", **{**inputs, **case.leaves()})[1], *gradients.values()])
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


@needs_cpu
def test_a_second_derivative_is_refused() -> None:
    case = Case(6)
    leaves = case.leaves()
    (gradient,) = torch.autograd.grad(case.error("auto", **leaves)[0].square(), leaves["features"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"hyperfields::rendered_error_cpu_backward .*no autograd formula"):
        torch.autograd.grad(gradient.sum(), leaves["features"])
    with ops.twice_differentiable():
        assert not is_kernel(case.error("auto", **leaves)[0])


@needs_cpu
@pytest.mark.parametrize("name", ["d", "edges", "rgba"])
def test_derivatives_that_the_kernel_has_not_are_left_to_other_ops(name: str) -> None:
    case = Case(6)
    part = getattr(case, name).requires_grad_()
    (slope,) = torch.autograd.grad(case.error("auto", **case.leaves())[0], part)
    assert slope.abs().max() > 0.0


@needs_cpu
def test_no_sample_at_all_is_an_error_like_any_other() -> None:
    case = Case(6)
    case.counts = torch.zeros_like(case.counts)
    case.d, case.edges, case.inputs["features"] = case.d[:0], case.edges[:0], case.inputs["features"][:0]
    found = [case.error(backend, **case.leaves()) for backend in ("auto", "reference")]
    torch.testing.assert_close(found[0], found[1])


@needs_cpu
def test_a_truth_that_is_no_number_shows_in_its_scene_alone() -> None:
    case = Case()
    case.rgba[0, 20, 1] = float("nan")
    leaves = case.leaves()
    error, alpha = case.error("auto", **leaves)
    assert error.isnan()
    assert alpha.isfinite().all()
    error.backward()  # type: ignore[no-untyped-call]
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        if name != "features":
            assert leaf.grad[0].isnan().any()
            assert leaf.grad[1:].isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    case = Case(6)
    case.edges = case.edges[1:]
    with pytest.raises(ValueError, match="edges"):
        case.error("auto", **case.leaves())
    case.counts = case.counts[1:]
    with pytest.raises(ValueError, match=r"rendered_error: got counts \(17,\) for rgba \(3, 6, 4\), wanted \[s\*r\]"):
        case.error("auto", **case.leaves())
