"""encode_mlp_error and pixel_error: the kernels against the reference and its errors, with all gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops import GridSpec
from hyperfields.ops.error import FEWEST

from ._parity import (
    Call,
    assert_parity,
    assert_same_at_any_number_of_threads,
    assert_second_derivative_is_refused,
    each_dtype,
    needs_cpu,
    random_numbers,
)

SCENES, POINTS = FEWEST, 150  # a whole tile and a part of one
GRIDS = {2: GridSpec.make(2, 5, 2, 7, 4, 1.9), 3: GridSpec.make(3, 4, 2, 9, 4, 1.7)}


def inputs_of(dims: int, outputs: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(points, targets, table with weights and biases), as in a fit."""
    grid, numbers = GRIDS[dims], itertools.count(dims)

    def draw(*shape: int) -> Tensor:
        return random_numbers(*shape, seed=next(numbers))

    inputs = {"table": draw(SCENES, grid.rows, grid.features)}
    for i, (before, after) in enumerate(itertools.pairwise([grid.channels, 8, 8, outputs])):
        inputs |= {f"weight {i}": 0.5 * draw(SCENES, after, before), f"bias {i}": draw(SCENES, after)}
    x = torch.rand(SCENES, POINTS, dims, generator=torch.Generator().manual_seed(5)).double()
    return x, draw(SCENES, POINTS, outputs), inputs


def call_of(x: Tensor, target: Tensor, width: float = 0.0) -> Call:
    def call(backend: ops.Backend, **inputs: Tensor) -> Tensor:
        table, *flat = inputs.values()
        layers, kind = list(zip(flat[::2], flat[1::2], strict=True)), table.dtype
        return ops.encode_mlp_error(
            x.to(kind), target.to(kind), table, GRIDS[x.shape[2]], layers, "leaky_relu", shift=0.5, width=width,
            backend=backend,
        )  # fmt: skip

    return call


def is_kernel(error: Tensor) -> bool:
    return type(error.grad_fn).__name__ == "encode_mlp_error_cpuBackward"


@needs_cpu
@each_dtype
@pytest.mark.parametrize(("dims", "outputs", "width"), [(2, 3, 0.0), (3, 1, 0.02)], ids=["colours", "distances"])
def test_kernel_gives_the_error_and_gradients_of_the_reference(
    dims: int, outputs: int, width: float, dtype: torch.dtype
) -> None:
    x, target, inputs = inputs_of(dims, outputs)
    call = call_of(x.to(dtype), target.to(dtype), width)
    assert is_kernel(call("cpu", **{name: value.to(dtype).requires_grad_() for name, value in inputs.items()}))
    assert_parity(call, "cpu", inputs, dtype)


@needs_cpu
def test_results_do_not_depend_on_the_threads() -> None:
    x, target, inputs = inputs_of(2, 3)
    assert_same_at_any_number_of_threads(call_of(x, target), {name: value.float() for name, value in inputs.items()})


@needs_cpu
def test_a_second_derivative_is_refused() -> None:
    x, target, inputs = inputs_of(2, 3)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    (gradient,) = torch.autograd.grad(call_of(x, target)("auto", **leaves).square(), leaves["table"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"hyperfields::encode_mlp_error_cpu_backward .*no autograd formula"):
        torch.autograd.grad(gradient.sum(), leaves["table"])
    with ops.twice_differentiable():
        assert not is_kernel(call_of(x, target)("auto", **leaves))


@needs_cpu
def test_what_the_kernel_has_not_is_left_to_other_ops_or_refused() -> None:
    x, target, inputs = inputs_of(2, 3)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    few = {name: value[:3] for name, value in leaves.items()}
    assert not is_kernel(call_of(x[:3], target[:3])("auto", **few))
    (slope,) = torch.autograd.grad(call_of(x, target.requires_grad_())("auto", **leaves), target)
    assert slope.abs().max() > 0.0
    with pytest.raises(ValueError, match="target"):
        call_of(x, target[:, :9])("auto", **leaves)


@needs_cpu
def test_a_target_that_is_no_number_shows_in_its_scene_alone() -> None:
    x, target, inputs = inputs_of(2, 3)
    target[2, 7, 1] = float("nan")
    error = call_of(x, target)("auto", **(leaves := {name: value.requires_grad_() for name, value in inputs.items()}))
    assert error.isnan()
    (table,) = torch.autograd.grad(error, leaves["table"])
    assert table[2].isnan().any()
    assert table[:2].isfinite().all()


# Rays ---------------------------------------------------------------------------------------------


def rays_of(rays: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    rgba, rgb, alpha = (torch.rand(3, rays, *more, generator=generator).double() for more in ((4,), (3,), ()))
    return rgba, {"rgb": rgb, "alpha": alpha}


def pixel_call(rgba: Tensor) -> Call:
    def call(backend: ops.Backend, rgb: Tensor, alpha: Tensor) -> Tensor:
        return ops.pixel_error(rgb, alpha, rgba.to(rgb.dtype), 0.05, backend=backend)

    return call


@needs_cpu
@each_dtype
def test_kernel_gives_the_error_of_pixels_and_its_gradients(dtype: torch.dtype) -> None:
    rgba, inputs = rays_of(41)
    assert_parity(pixel_call(rgba), "cpu", inputs, dtype)


def test_error_of_pixels_is_that_over_black_and_over_white() -> None:
    rgba, inputs = rays_of(7)
    rgb, alpha = inputs.values()
    truth = rgba[..., :3] * rgba[..., 3:]
    black = (rgb - truth).square().mean()
    white = (rgb + 1.0 - alpha[..., None] - truth - 1.0 + rgba[..., 3:]).square().mean()
    wanted = 0.5 * (black + white) + 0.05 * (alpha - rgba[..., 3]).abs().mean()
    for backend in ("reference", "auto"):
        torch.testing.assert_close(pixel_call(rgba)(backend, **inputs), wanted)


@needs_cpu
def test_a_second_derivative_of_the_error_of_pixels_is_refused() -> None:
    rgba, inputs = rays_of(7)
    assert_second_derivative_is_refused(pixel_call(rgba), inputs, "pixel_error_cpu_backward")


def test_rays_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"pixel_error: got rgb \(2, 5, 3\), alpha \(2, 4\), rgba \(2, 5, 4\); wanted"):
        ops.pixel_error(torch.zeros(2, 5, 3), torch.zeros(2, 4), torch.zeros(2, 5, 4), 0.0)
