"""radiance_head: density and colour from the outputs of a density network; the kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import (
    Call,
    assert_parity,
    assert_same_at_any_number_of_threads,
    assert_second_derivative_is_refused,
    each_backend,
    each_dtype,
    needs_cpu,
    random_numbers,
)
from .test_mlp import layers_of, parameters, points_of

MAX_LOG_DENSITY = 1.5


def radiance_head(d: Tensor, degree: int, activation: ops.Activation = "relu", counts: list[int] | None = None) -> Call:
    numbers = None if counts is None else torch.tensor(counts)

    def call(backend: ops.Backend, out: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
        return ops.radiance_head(
            out, d.to(out), layers_of(named), activation, degree=degree, ceiling=MAX_LOG_DENSITY, counts=numbers,
            backend=backend,
        )  # fmt: skip

    return call


def directions(count: int, seed: int = 7) -> Tensor:
    return torch.nn.functional.normalize(random_numbers(count, 3, seed=seed), dim=-1).float().double()


def case(
    counts: list[int], degree: int, geometry: int, hidden: tuple[int, ...], slope: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Directions, and inputs whose colour network is nowhere near a kink."""
    named = parameters((geometry + degree**2, *hidden, 3), len(counts))
    features = points_of(named, counts, slope)  # as if directions were free numbers: most points stay clear of kinks
    log = 2.0 * random_numbers(sum(counts), 1, seed=3)
    assert sum(counts) < 8 or bool((log > MAX_LOG_DENSITY).any())
    return directions(sum(counts)), {"out": torch.cat((log, features[:, :geometry]), 1).float().double(), **named}


@each_backend
def test_a_point_is_what_is_computed_by_hand(backend: ops.Backend) -> None:
    weight = torch.zeros(1, 3, 2 + 4)
    weight[0, 0, 0], weight[0, 1, 1], weight[0, 2, 3] = 1.0, -1.0, 1.0  # two features; the harmonic of -y
    d = torch.tensor([[[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]])
    out = torch.tensor([[[0.5, 2.0, 3.0], [9.0, 0.0, 0.0]]])
    density, rgb = ops.radiance_head(out, d, [(weight, None)], degree=2, ceiling=2.0, backend=backend)
    torch.testing.assert_close(density, torch.tensor([[[0.5], [2.0]]]).exp())  # the second is cut at the ceiling
    wanted = torch.tensor([[[2.0, -3.0, -0.4886025119 * 0.6], [0.0, 0.0, 0.0]]]).sigmoid()
    torch.testing.assert_close(rgb, wanted)


@each_backend
@each_dtype
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize(("geometry", "hidden"), [(15, (32,)), (7, ()), (1, (5, 9))])
def test_values_and_gradients_are_those_of_the_reference(
    geometry: int, hidden: tuple[int, ...], degree: int, dtype: torch.dtype, backend: str
) -> None:
    counts = [130, 0, 257]
    d, inputs = case(counts, degree, geometry, hidden)
    assert_parity(radiance_head(d, degree, counts=counts), backend, inputs, dtype)


@each_backend
@pytest.mark.parametrize("counts", [[0], [1], [1001], [0, 0, 0], [5, 128, 3000]])
def test_any_number_of_points_in_any_number_of_scenes(counts: list[int], backend: str) -> None:
    d, inputs = case(counts, 3, 15, (32,), 0.01)
    assert_parity(radiance_head(d, 3, "leaky_relu", counts), backend, inputs, torch.float32)


@each_backend
def test_a_density_above_the_ceiling_can_come_back(backend: ops.Backend) -> None:
    out = torch.tensor([[[9.0, 0.0], [1.0, 0.0], [float("inf"), 0.0], [float("nan"), 0.0]]], requires_grad=True)
    d = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(1, 4, 3)
    layers: list[tuple[Tensor, Tensor | None]] = [(torch.zeros(1, 3, 1 + 9), None)]
    density, _ = ops.radiance_head(out, d, layers, degree=3, ceiling=2.0, backend=backend)
    (gradient,) = torch.autograd.grad(density.sum(), out)
    wanted = torch.tensor([2.0, 1.0, 2.0, float("nan")]).exp()
    torch.testing.assert_close(density[0, :, 0], wanted, equal_nan=True)
    torch.testing.assert_close(gradient[0, :, 0], wanted, equal_nan=True)  # that of the value is 0 above the ceiling


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own use of it
def test_the_truncated_exponential_has_all_kinds_of_derivatives() -> None:
    x, tangent = torch.tensor([-1.0, 3.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    wanted = torch.tensor([-1.0, 2.0], dtype=torch.float64).exp()

    def f(x: Tensor) -> Tensor:
        return ops.truncated_exp(x, 2.0)

    assert torch.equal(f(x), wanted)
    assert torch.equal(torch.func.jvp(f, (x,), (tangent,))[1], wanted)
    assert torch.equal(torch.func.vmap(torch.func.grad(f))(x), wanted)
    assert torch.autograd.gradgradcheck(f, x[:1].requires_grad_())


@needs_cpu
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    counts = [5000, 300, 9000]
    d, inputs = case(counts, 3, 15, (32,))
    assert_same_at_any_number_of_threads(radiance_head(d, 3, counts=counts), inputs)


@needs_cpu
@pytest.mark.parametrize("part", [0, 1])
def test_one_output_alone_has_its_gradient(part: int) -> None:
    d, inputs = case([300], 3, 15, (32,))
    found = []
    for backend in ("cpu", "reference"):
        out = inputs["out"].clone().requires_grad_()
        result = radiance_head(d, 3, counts=[300])(backend, **{**inputs, "out": out})
        (gradient,) = torch.autograd.grad(result[part].sum(), out)
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@needs_cpu
def test_derivatives_of_directions_are_refused_by_the_kernel_and_right_without_it() -> None:
    d, inputs = case([20], 3, 4, (8,))
    d.requires_grad_()
    with pytest.raises(ValueError, match="backend 'cpu' cannot run this call: derivatives of directions"):
        radiance_head(d, 3, counts=[20])("cpu", **inputs)
    rgb = radiance_head(d, 3, counts=[20])("auto", **inputs)[1]
    (gradient,) = torch.autograd.grad(rgb.sum(), d)
    nudged = d.detach().clone()
    nudged[3, 1] += 1e-6
    change = radiance_head(nudged, 3, counts=[20])("auto", **inputs)[1].sum() - rgb.sum().detach()
    assert float(gradient[3, 1]) == pytest.approx(float(change) / 1e-6, rel=1e-4)


@needs_cpu
def test_the_cpu_kernel_refuses_a_second_derivative() -> None:
    d, inputs = case([12], 2, 3, (4,))
    assert_second_derivative_is_refused(radiance_head(d, 2, counts=[12]), inputs, "radiance_head_cpu_backward")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": torch.zeros(2, 4, 3)}, r"radiance_head: got out \(2, 5, 4\), d \(2, 4, 3\); wanted"),
        ({"degree": 5}, r"degree: got 5, wanted 1 to 4"),
        (
            {"layers": [(torch.zeros(2, 3, 9), None)]},
            r"layers\[0\] weight: got shape \(2, 3, 9\), wanted \[2, out, 7\]",
        ),
        ({"layers": [(torch.zeros(2, 4, 7), None)]}, r"layers: got 4 outputs, wanted 3, a colour"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    call = {
        "out": torch.zeros(2, 5, 4),
        "d": torch.zeros(2, 5, 3),
        "layers": [(torch.zeros(2, 3, 7), None)],
        "degree": 2,
        "ceiling": 8.0,
    }
    with pytest.raises(ValueError, match=message):
        ops.radiance_head(**{**call, **change})  # type: ignore[arg-type]
