"""mix: sums of shared bases; kernel and reference agree in values and gradients."""

from __future__ import annotations

import pytest
import torch

from hyperfields import ops

from ._parity import each_backend, needs_cpu, threads

SIZES = [16, 5000, 333, 2048, 129, 1]  # columns of a group: below, at and above a tile and a task


def groups_of(count: int) -> list[int]:
    return [sum(SIZES[:number]) for number in range(count + 1)]


@each_backend
def test_each_group_has_coefficients_of_its_own(backend: ops.Backend) -> None:
    bases = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    coefficients = torch.tensor([[[1.0, 0.0], [0.5, 1.0]], [[0.0, 0.0], [0.0, -1.0]]])
    mixed = ops.mix(coefficients, bases, [0, 2, 3], backend=backend)
    assert mixed.tolist() == [[1.0, 2.0, 31.5], [0.0, 0.0, -30.0]]


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scenes", "groups", "count"), [(1, 1, 1), (5, 3, 7), (32, 2, 6), (107, 6, 15)])
def test_the_kernel_agrees_with_the_reference(dtype: torch.dtype, scenes: int, groups: int, count: int) -> None:
    torch.manual_seed(0)
    ends = groups_of(groups)
    coefficients = torch.randn(scenes, groups, count, dtype=dtype, requires_grad=True)
    bases = torch.randn(count, ends[-1], dtype=dtype, requires_grad=True)
    pull = torch.randn(scenes, ends[-1], dtype=dtype)
    results = []
    for backend in ("cpu", "reference"):
        mixed = ops.mix(coefficients, bases, ends, backend=backend)  # type: ignore[arg-type]
        results.append((mixed, *torch.autograd.grad(mixed, (coefficients, bases), pull)))
    for got, wanted in zip(*results, strict=True):
        assert float((got - wanted).detach().norm() / wanted.detach().norm()) < (
            1e-5 if dtype == torch.float32 else 1e-13
        )


@needs_cpu
def test_the_answer_does_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    ends = groups_of(6)
    coefficients, bases = torch.randn(9, 6, 5, requires_grad=True), torch.randn(5, ends[-1], requires_grad=True)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            mixed = ops.mix(coefficients, bases, ends, backend="cpu")
            results.append((mixed, *torch.autograd.grad(mixed.square().sum(), (coefficients, bases))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("groups", [[0, 5], [0, 3, 2, 5], [1, 3, 5], [0, 3, 4]])
def test_groups_have_to_cover_the_columns(groups: list[int]) -> None:
    with pytest.raises(ValueError, match="groups: got"):
        ops.mix(torch.zeros(2, 2, 3), torch.zeros(3, 5), groups)


def test_shapes_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"mix: got coefficients \(2, 2, 4\), bases \(3, 5\); wanted"):
        ops.mix(torch.zeros(2, 2, 4), torch.zeros(3, 5), [0, 2, 5])
