"""linear_heads: the reference against torch's linear layers, the kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyperfields import ops

from ._parity import (
    Call,
    assert_parity,
    assert_same_at_any_number_of_threads,
    assert_second_derivative_is_refused,
    each_dtype,
    needs_cpu,
    random_numbers,
)

OUTPUTS = (700, 3, 129)  # more than a task, less than a tile, a tile and one


def inputs_of(scenes: int, width: int) -> dict[str, Tensor]:
    inputs = {"codes": random_numbers(scenes, len(OUTPUTS), width)}
    inputs |= {f"weight {i}": random_numbers(n, width, seed=i) for i, n in enumerate(OUTPUTS)}
    return inputs | {f"bias {i}": random_numbers(n, seed=9 + i) for i, n in enumerate(OUTPUTS)}


def heads(backend: ops.Backend, **inputs: Tensor) -> Tensor:
    codes, *parts = inputs.values()
    return ops.linear_heads(codes, parts[: len(OUTPUTS)], parts[len(OUTPUTS) :], backend=backend)


call: Call = heads


def test_heads_are_linear_layers() -> None:
    layers, codes = [nn.Linear(5, n) for n in OUTPUTS], torch.randn(4, 3, 5)
    wanted = torch.cat([layer(codes[:, i]) for i, layer in enumerate(layers)], 1)
    found = ops.linear_heads(codes, [layer.weight for layer in layers], [layer.bias for layer in layers])
    torch.testing.assert_close(found, wanted)


@needs_cpu
@each_dtype
@pytest.mark.parametrize(("scenes", "width"), [(1, 1), (6, 10)])
def test_kernel_gives_values_and_gradients_of_the_reference(scenes: int, width: int, dtype: torch.dtype) -> None:
    assert_parity(call, "cpu", inputs_of(scenes, width), dtype)


@needs_cpu
def test_results_do_not_depend_on_the_threads() -> None:
    inputs = {name: value.float() for name, value in inputs_of(200, 16).items()}
    assert_same_at_any_number_of_threads(call, inputs)


@needs_cpu
def test_a_second_derivative_is_refused() -> None:
    assert_second_derivative_is_refused(call, inputs_of(2, 3), "linear_heads_cpu_backward")


def test_no_scenes_are_no_outputs() -> None:
    inputs = {name: value.requires_grad_() for name, value in inputs_of(0, 3).items()}
    outputs = heads("auto", **inputs)
    assert outputs.shape == (0, sum(OUTPUTS))
    assert not any(slope.any() for slope in torch.autograd.grad(outputs.sum(), list(inputs.values())))


def test_shapes_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"linear_heads: got codes \(2, 1, 3\), heads .*; wanted \[s g k\]"):
        ops.linear_heads(torch.zeros(2, 1, 3), [torch.zeros(4, 2)], [torch.zeros(4)])
