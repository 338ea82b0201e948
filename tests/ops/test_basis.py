"""combine_bases: sums of shared bases; kernel and reference agree in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import each_backend, needs_cpu, threads

SIZES = [16, 5000, 333, 2048, 129, 1]  # columns of a group: below, at and above a tile and a task


def bases_of(count: int, groups: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(count, size, dtype=dtype, requires_grad=True) for size in SIZES[:groups]]


@each_backend
def test_each_group_has_coefficients_of_its_own(backend: ops.Backend) -> None:
    bases = [torch.tensor([[1.0, 2.0], [10.0, 20.0]]), torch.tensor([[3.0], [30.0]])]
    coefficients = torch.tensor([[[1.0, 0.0], [0.5, 1.0]], [[0.0, 0.0], [0.0, -1.0]]])
    mixed = ops.combine_bases(coefficients, bases, backend=backend)
    assert mixed.tolist() == [[1.0, 2.0, 31.5], [0.0, 0.0, -30.0]]


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scenes", "groups", "count"), [(1, 1, 1), (5, 3, 7), (32, 2, 6), (107, 6, 15)])
def test_the_kernel_agrees_with_the_reference(dtype: torch.dtype, scenes: int, groups: int, count: int) -> None:
    torch.manual_seed(0)
    coefficients = torch.randn(scenes, groups, count, dtype=dtype, requires_grad=True)
    bases = bases_of(count, groups, dtype)
    pull = torch.randn(scenes, sum(SIZES[:groups]), dtype=dtype)
    results = []
    for backend in ("cpu", "reference"):
        mixed = ops.combine_bases(coefficients, bases, backend=backend)  # type: ignore[arg-type]
        results.append((mixed, *torch.autograd.grad(mixed, (coefficients, *bases), pull)))
    for got, wanted in zip(*results, strict=True):
        assert float((got - wanted).detach().norm() / wanted.detach().norm()) < (
            1e-5 if dtype == torch.float32 else 1e-13
        )


@needs_cpu
def test_the_answer_does_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    coefficients, bases = torch.randn(9, 6, 5, requires_grad=True), bases_of(5, 6)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            mixed = ops.combine_bases(coefficients, bases, backend="cpu")
            results.append((mixed, *torch.autograd.grad(mixed.square().sum(), (coefficients, *bases))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@needs_cpu
def test_the_kernel_refuses_a_second_derivative() -> None:
    coefficients, bases = torch.randn(3, 2, 4, requires_grad=True), bases_of(4, 2)
    for leaf in (coefficients, bases[1]):
        (gradient,) = torch.autograd.grad(
            ops.combine_bases(coefficients, bases).square().sum(), leaf, create_graph=True
        )
        with pytest.raises(RuntimeError, match=r"hyperfields(\.|::)combine_bases_cpu_backward\b.*no autograd formula"):
            torch.autograd.grad(gradient.square().sum(), coefficients, allow_unused=True)


@pytest.mark.parametrize("shapes", [[(3, 5)], [(3, 5), (4, 2)], [(3, 5), (3, 2), (3, 1)], [(3, 5), (3,)]])
def test_shapes_have_to_fit(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(
        ValueError, match=r"combine_bases: got coefficients \(2, 2, 3\), bases \[.*\]; wanted \[s g k\]"
    ):
        ops.combine_bases(torch.zeros(2, 2, 3), [torch.zeros(shape) for shape in shapes])
