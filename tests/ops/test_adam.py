"""Adam on the CPU kernels against torch's."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperfields.ops.adam import FusedAdam, RowAdam, gradient_norm

from ._parity import needs_cpu, threads

SHAPES = ((3,), (17, 5000), (), (64, 33), (0,), (128, 1000))  # the second and the last take more than one task
SETTINGS: dict[str, Any] = {"lr": 3e-2, "betas": (0.9, 0.99), "eps": 1e-8}


def parameters_of(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def descend(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            slope = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 10.0 ** (step % 3 - 2)
            parameter.grad = None if (step + number) % 4 == 3 else slope  # not every parameter in every step
        optimizer.step()


def values(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    states = [optimizer.state[parameter] for parameter in parameters]
    return [*(p.detach() for p in parameters), *(value for state in states for value in state.values())]


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_steps_are_those_of_torch(dtype: torch.dtype) -> None:
    results = []
    for make in (FusedAdam, lambda groups, **settings: torch.optim.Adam(groups, fused=True, **settings)):
        parameters = parameters_of(dtype)
        groups = [{"params": parameters[:3], "lr": 1e-2, "eps": 1e-15}, {"params": parameters[3:]}]
        optimizer = make(groups, **SETTINGS)
        descend(optimizer, parameters, 9)
        assert {id(parameter) for parameter in optimizer.state} == {id(parameter) for parameter in parameters}
        results.append(values(optimizer, parameters))
    exact = 0
    for ours, torchs in zip(*results, strict=True):
        assert ours.dtype == torchs.dtype
        precision = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 0.0}[dtype]
        torch.testing.assert_close(ours, torchs, rtol=precision, atol=precision)
        exact += torch.equal(ours, torchs)
    assert exact >= len(results[0]) // 2


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    results = []
    for count in (1, 2, 3, 3):
        with threads(count):
            parameters = parameters_of(dtype)
            optimizer = FusedAdam(parameters, **SETTINGS)
            descend(optimizer, parameters, 5)
            norm = gradient_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
            results.append([*values(optimizer, parameters), torch.tensor(norm, dtype=torch.float64)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_cpu
@pytest.mark.parametrize("back", [False, True])
def test_a_saved_state_goes_on_in_the_other(back: bool) -> None:
    """The layout is torch's, so a checkpoint of either is one of both."""

    def torchs(groups: Any, **settings: Any) -> torch.optim.Adam:
        return torch.optim.Adam(groups, fused=True, **settings)

    first, second = (torchs, FusedAdam) if back else (FusedAdam, torchs)
    results = []
    for make in (first, second):
        parameters = parameters_of(torch.float32)
        optimizer: torch.optim.Optimizer = first(parameters, **SETTINGS)
        descend(optimizer, parameters, 4)
        state = copy.deepcopy(optimizer.state_dict())
        optimizer = make(parameters, **SETTINGS)
        optimizer.load_state_dict(state)
        assert optimizer.state_dict()["state"].keys() == state["state"].keys()
        descend(optimizer, parameters, 4, seed=2)
        results.append(values(optimizer, parameters))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@needs_cpu
def test_what_the_kernel_cannot_take_is_a_step_of_torch() -> None:
    for settings in ({"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}):
        results = []
        for make in (FusedAdam, torch.optim.Adam):
            parameter = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())  # not contiguous
            optimizer = make([parameter], **SETTINGS, **settings)
            for _ in range(3):
                optimizer.zero_grad()
                (parameter.square().sum() + parameter.sum()).backward()
                optimizer.step()
            results.append(parameter.detach())
        torch.testing.assert_close(*results)


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_is_that_of_torch(dtype: torch.dtype) -> None:
    gradients = [parameter.detach() for parameter in parameters_of(dtype)]
    expected = float(torch.nn.utils.get_total_norm([g.double() for g in gradients]))
    assert math.isclose(gradient_norm(gradients), expected, rel_tol=1e-7 if dtype == torch.float32 else 1e-12)
    assert math.isclose(gradient_norm([g.t() if g.dim() == 2 else g for g in gradients]), expected, rel_tol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_norm_shows_what_is_not_finite(value: float) -> None:
    gradients = [torch.ones(20000), torch.ones(3, 4)]
    gradients[0][17777] = value
    assert not math.isfinite(gradient_norm(gradients))


# Rows ---------------------------------------------------------------------------------------------

BACKENDS = [pytest.param("auto", marks=needs_cpu), "reference"]  # the second is what other devices run


def table_of(scenes: int, size: int) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(scenes, size, sparse=True)


def row_adam(table: nn.Embedding, backend: Any) -> RowAdam:
    return RowAdam([{"params": [table.weight], "lr": 0.1}], betas=(0.9, 0.99), eps=1e-15, backend=backend)


def row_steps(table: nn.Embedding, optimizer: torch.optim.Optimizer, batches: list[list[int]]) -> None:
    for rows in batches:
        optimizer.zero_grad()
        targets = torch.arange(float(len(rows) * table.embedding_dim)).reshape(len(rows), table.embedding_dim)
        (table(torch.tensor(rows, dtype=torch.int64)) - targets).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([[0, 3, 7], [6, 1, 2, 4], [3, 0, 5]] * 4, id="rows that differ"),
        pytest.param([[0, 0, 0, 1], [5, 0, 5], [2, 2]], id="rows that come more than once"),
        pytest.param([[], [1], []], id="no rows"),
    ],
)
def test_steps_of_rows_are_those_of_sparse_adam(backend: Any, batches: list[list[int]]) -> None:
    table, expected = table_of(9, 5), table_of(9, 5)
    start = table.weight.detach().clone()
    row_steps(table, row_adam(table, backend), batches)
    sparse = torch.optim.SparseAdam([expected.weight], lr=0.1, betas=(0.9, 0.99), eps=1e-13)
    row_steps(expected, sparse, batches)
    torch.testing.assert_close(table.weight, expected.weight, rtol=1e-6, atol=1e-6)
    assert torch.equal(table.weight[8], start[8])  # never asked for


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_go_on_from_a_saved_state(backend: Any) -> None:
    batches = [[1, 1, 3], [0, 2], [3, 3, 1], [2, 0, 2]]
    table, again = table_of(4, 3), table_of(4, 3)
    row_steps(table, row_adam(table, backend), batches)
    optimizer = row_adam(again, backend)
    row_steps(again, optimizer, batches[:2])
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = row_adam(again, backend)
    optimizer.load_state_dict(state)
    row_steps(again, optimizer, batches[2:])
    assert torch.equal(table.weight, again.weight)


def test_rows_on_a_device_are_not_looked_at() -> None:
    """A step on another device reads no number of it: on `meta` there is none."""
    table = nn.Embedding(9, 5, sparse=True, device="meta")
    optimizer = row_adam(table, "auto")
    rows = torch.tensor([[1, 1, 3]], device="meta")
    table.weight.grad = torch.sparse_coo_tensor(rows, torch.ones(3, 5, device="meta"), (9, 5), check_invariants=False)
    optimizer.step()
    assert optimizer.state[table.weight]["exp_avg"].shape == (9, 5)
