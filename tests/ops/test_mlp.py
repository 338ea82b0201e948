"""batched_mlp: the reference by hand and against torch's own layers, every backend against the reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import (
    Call,
    assert_forward_derivative_is_refused_or_right,
    assert_parity,
    assert_same_at_any_number_of_threads,
    assert_second_derivative_is_refused,
    each_backend,
    each_dtype,
    needs_cpu,
    random_numbers,
)

# Kernels pad sizes to multiples of 4: sizes on, below and above them, and 1.
WIDTHS = {
    "one layer": (4, 8),
    "one layer, odd": (7, 3),
    "one number": (1, 1),
    "multiples of 4": (8, 16, 16, 4),
    "no multiples of 4": (5, 13, 33, 3),
    "narrow middle": (6, 1, 7),
    "deep": (3, 9, 9, 9, 9, 2),
}


SLOPES = {"relu": 0.0, "leaky_relu": 0.01}  # below 0: the activations that are compiled
each_activation = pytest.mark.parametrize("activation", SLOPES)


def parameters(widths: tuple[int, ...], scenes: int, biases: str = "all") -> dict[str, Tensor]:
    """Weights `w0`, `w1`, ... `[s o i]` and biases `b0`, ... `[s o]` for the layers that have one."""
    made: dict[str, Tensor] = {}
    for i in range(len(widths) - 1):
        # Rounded to float32, so that both precisions start from the same numbers.
        weight = random_numbers(scenes, widths[i + 1], widths[i], seed=10 + i) * (2.0 / widths[i]) ** 0.5
        made[f"w{i}"] = weight.float().double()
        if biases == "all" or (biases == "some" and i % 2 == 0):
            made[f"b{i}"] = (0.5 * random_numbers(scenes, widths[i + 1], seed=50 + i)).float().double()
    return made


def layers_of(named: dict[str, Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    return [(named[f"w{i}"], named.get(f"b{i}")) for i in range(sum(name[0] == "w" for name in named))]


def points_of(named: dict[str, Tensor], counts: list[int], slope: float = 0.0) -> Tensor:
    """`[m i]`, N(0, 1), none so near to a kink of a (leaky) ReLU that float32 may take its other side."""
    found = []
    for scene, count in enumerate(counts):
        x = random_numbers(2 * count + 64, named["w0"].shape[2], seed=scene)
        clear, h = torch.ones(len(x), dtype=torch.bool), x
        for weight, bias in layers_of(named)[:-1]:
            h = h @ weight[scene].T + (0.0 if bias is None else bias[scene])
            clear &= (h.abs() > 1e-5).all(1)
            h = torch.nn.functional.leaky_relu(h, slope)
        assert int(clear.sum()) >= count
        found.append(x[clear][:count])
    return torch.cat(found)


def mlp(counts: list[int] | None = None, activation: ops.Activation = "relu") -> Call:
    numbers = None if counts is None else torch.tensor(counts)

    def call(backend: ops.Backend, x: Tensor, **named: Tensor) -> Tensor:
        return ops.batched_mlp(x, layers_of(named), activation, counts=numbers, backend=backend)

    return call


# ---------------------------------------------------------------------------------------------------- by hand


@each_backend
def test_a_small_network_is_what_is_computed_by_hand(backend: ops.Backend) -> None:
    first = torch.tensor([[[1.0, 2.0], [-1.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    second = torch.tensor([[[3.0, 5.0]], [[1.0, -1.0]]])
    biases = torch.tensor([[0.5, 0.0], [0.0, 0.0]]), torch.tensor([[10.0], [20.0]])
    x = torch.tensor([[[1.0, 1.0], [-1.0, 0.0]], [[2.0, 3.0], [-4.0, 3.0]]])
    result = ops.batched_mlp(x, [(first, biases[0]), (second, biases[1])], backend=backend)
    # scene 0: relu 3.5, 0 -> 10.5 + 10; relu -0.5, 1 -> 5 + 10. scene 1: 3 - 2 + 20; 3 - 0 + 20.
    assert result.tolist() == [[[20.5], [15.0]], [[21.0], [23.0]]]


@each_backend
@pytest.mark.parametrize("biases", ["all", "none"])
def test_a_network_is_the_same_as_torch_layers(backend: ops.Backend, biases: str) -> None:
    widths = WIDTHS["no multiples of 4"]
    named = parameters(widths, 2, biases)
    x = random_numbers(2, 200, widths[0])
    h = x
    for i, (weight, bias) in enumerate(layers_of(named)):
        h = torch.stack([torch.nn.functional.linear(h[s], weight[s]) for s in range(2)])
        h = h if bias is None else h + bias[:, None]
        h = h if i + 2 == len(widths) else h.relu()
    torch.testing.assert_close(mlp()(backend, x, **named), h, rtol=1e-12, atol=1e-12)


@each_backend
def test_a_leaky_relu_lets_a_hundredth_of_what_is_negative_through(backend: ops.Backend) -> None:
    layers: list[tuple[Tensor, Tensor | None]] = [
        (torch.tensor([[[1.0], [-1.0]]]), None),
        (torch.tensor([[[1.0, 10.0]]]), None),
    ]
    x = torch.tensor([[[2.0], [-3.0], [0.0]]], requires_grad=True)
    result = ops.batched_mlp(x, layers, "leaky_relu", backend=backend)
    torch.testing.assert_close(result.flatten(), torch.tensor([2.0 - 0.2, -0.03 + 30.0, 0.0]))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    # At the kink itself the slope is the one below it, as in torch.
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0 - 0.1, 0.01 - 10.0, 0.01 - 0.1]))


def test_sine_is_the_sine_between_layers_and_not_after_the_last() -> None:
    named = parameters((2, 3, 1), 1)
    x = random_numbers(1, 5, 2)
    wanted = torch.sin(x[0] @ named["w0"][0].T + named["b0"][0]) @ named["w1"][0].T + named["b1"][0]
    torch.testing.assert_close(mlp(activation="sine")("auto", x, **named)[0], wanted)


@each_backend
def test_where_an_activation_is_exactly_zero_the_gradient_is_zero(backend: ops.Backend) -> None:
    named = {"w0": torch.zeros(1, 5, 2), "b0": torch.zeros(1, 5), "w1": torch.ones(1, 3, 5)}
    x = torch.ones(1, 4, 2, requires_grad=True)
    weight = named["w0"].requires_grad_()
    gradients = torch.autograd.grad(mlp()(backend, x, **named).sum(), (x, weight))
    assert not any(g.any() for g in gradients)


# ----------------------------------------------------------------------------------------------------- parity


@each_backend
@each_dtype
@each_activation
@pytest.mark.parametrize("biases", ["all", "none", "some"])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
def test_forward_and_gradients_are_those_of_the_reference(
    widths: tuple[int, ...], biases: str, activation: ops.Activation, dtype: torch.dtype, backend: str
) -> None:
    named = parameters(widths, 3, biases)
    x = points_of(named, [200] * 3, SLOPES[activation]).reshape(3, 200, widths[0])
    assert_parity(mlp(activation=activation), backend, {"x": x, **named}, dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("n", [0, 1, 128, 1001])
@pytest.mark.parametrize("scenes", [1, 3])
def test_any_number_of_points_gives_what_the_reference_gives(
    scenes: int, n: int, dtype: torch.dtype, backend: str
) -> None:
    named = parameters((5, 13, 9, 3), scenes)
    x = points_of(named, [n] * scenes).reshape(scenes, n, 5)
    assert_parity(mlp(), backend, {"x": x, **named}, dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("counts", [[300, 0, 701], [0, 5], [0, 0, 0], [127, 129]], ids=str)
def test_ragged_points_are_those_of_the_reference(counts: list[int], dtype: torch.dtype, backend: str) -> None:
    named = parameters((5, 13, 3), len(counts), "some")
    assert_parity(mlp(counts), backend, {"x": points_of(named, counts), **named}, dtype)


@each_backend
def test_a_sine_network_is_refused_or_that_of_the_reference(backend: str) -> None:
    named = parameters((3, 9, 2), 2)
    inputs = {"x": random_numbers(2, 31, 3), **named}
    if backend == "cpu":
        with pytest.raises(ValueError, match=r"activation 'sine' \(relu and leaky_relu are compiled\); use"):
            mlp(activation="sine")(backend, **inputs)
    else:
        assert_parity(mlp(activation="sine"), backend, inputs, torch.float32)


@needs_cpu
def test_many_points_are_those_of_the_reference() -> None:
    """More than one task a scene, whose gradients are summed; the last tile is not full."""
    counts = [4097, 0, 8200]
    named = parameters((3, 8, 2), 3)
    assert_parity(mlp(counts), "cpu", {"x": points_of(named, counts), **named}, torch.float32)


@each_backend
def test_memory_order_does_not_matter(backend: ops.Backend) -> None:
    named = parameters((5, 8, 6), 2)
    x = points_of(named, [40, 40]).reshape(2, 40, 5)
    plain = {"x": x, **named}
    strange = {name: t.mT.contiguous().mT if t.dim() == 3 else t for name, t in plain.items()}
    assert not strange["x"].is_contiguous()
    assert not strange["w0"].is_contiguous()
    results = []
    for inputs in (plain, strange):
        leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
        output = mlp()(backend, **leaves)
        results.append((output, *torch.autograd.grad(output.sum(), list(leaves.values()))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


@each_backend
@pytest.mark.parametrize("wanted", ["x", "w0", "b1"])
def test_one_gradient_alone_is_the_one_of_all(backend: ops.Backend, wanted: str) -> None:
    named = parameters((5, 8, 6), 2)
    inputs = {"x": points_of(named, [40, 40]).reshape(2, 40, 5), **named}
    gradients = []
    for alone in (False, True):
        leaves = {n: t.clone().requires_grad_(n == wanted or not alone) for n, t in inputs.items()}
        gradients.append(torch.autograd.grad(mlp()(backend, **leaves).square().sum(), leaves[wanted])[0])
    assert gradients[0].any()
    assert torch.equal(*gradients)


@each_backend
def test_without_gradients_the_result_is_the_same(backend: ops.Backend) -> None:
    named = {name: t.requires_grad_() for name, t in parameters((5, 8, 8, 6), 2).items()}
    x = random_numbers(2, 300, 5)
    with torch.no_grad():
        plain = mlp()(backend, x, **named)
    assert not plain.requires_grad
    assert torch.equal(plain, mlp()(backend, x, **named))


@each_backend
def test_a_number_that_is_none_stays_so_through_the_activations(backend: ops.Backend) -> None:
    """A ReLU that turned it into zero would hide a fit that diverged."""
    named = parameters((5, 8, 8, 6), 2)
    x = random_numbers(2, 30, 5)
    clean = mlp()(backend, x, **named)
    x[0, 7, 1] = math.nan
    result = mlp()(backend, x, **named)
    assert result[0, 7].isnan().all()
    assert torch.equal(result[1], clean[1])
    assert not result[0, :7].isnan().any()
    named["w0"][1] = math.nan
    assert mlp()(backend, x, **named)[1].isnan().all()


@each_backend
@each_activation
def test_an_infinite_number_stays_infinite(activation: ops.Activation, backend: ops.Backend) -> None:
    """With sizes that need no padding: in others it becomes no number, which is as good a sign."""
    result = ops.batched_mlp(*through_ones(math.inf), activation, backend=backend)
    assert result.flatten().tolist() == [math.inf] * 4


@each_backend
def test_minus_infinity_passes_a_leaky_relu(backend: ops.Backend) -> None:
    result = ops.batched_mlp(*through_ones(-math.inf), "leaky_relu", backend=backend)
    assert result.flatten().tolist() == [-math.inf] * 4


@each_backend
def test_minus_infinity_does_not_pass_a_relu(backend: ops.Backend) -> None:
    result = ops.batched_mlp(*through_ones(-math.inf), "relu", backend=backend)
    assert result.flatten().tolist() == [0.0] * 4


def through_ones(number: float) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """One point with that coordinate, and two layers of ones."""
    return torch.tensor([[[number, 1.0, 1.0, 1.0]]]), [(torch.ones(1, 4, 4), None), (torch.ones(1, 4, 4), None)]


@each_backend
def test_scenes_in_one_batch_are_the_scenes_one_by_one(backend: ops.Backend) -> None:
    counts, named = [4, 0, 9], parameters((5, 8, 6), 3)
    x = random_numbers(13, 5)
    loop = [
        mlp()(backend, piece[None], **{name: t[scene : scene + 1] for name, t in named.items()})[0]
        for scene, piece in enumerate(x.split(counts))
    ]
    torch.testing.assert_close(mlp(counts)(backend, x, **named), torch.cat(loop), rtol=1e-14, atol=1e-14)


@needs_cpu
@each_activation
def test_the_number_of_threads_does_not_change_a_bit(activation: ops.Activation) -> None:
    counts, named = [9000, 0, 5000], parameters((5, 13, 3), 3)
    inputs = {"x": random_numbers(sum(counts), 5).float(), **{n: t.float() for n, t in named.items()}}
    assert_same_at_any_number_of_threads(mlp(counts, activation), inputs)


# ------------------------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sine"])
@pytest.mark.parametrize("biases", ["all", "none"])
def test_the_reference_has_first_and_second_derivatives(activation: ops.Activation, biases: str) -> None:
    named = parameters((2, 4, 3, 2), 2, biases)
    inputs = {"x": points_of(named, [2, 1]), **named}
    call = mlp([2, 1], activation)

    def positional(*values: Tensor) -> Tensor:
        result = call("reference", **dict(zip(inputs, values, strict=True)))
        assert isinstance(result, Tensor)
        return result

    leaves = [t.clone().requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(positional, leaves)
    assert torch.autograd.gradgradcheck(positional, leaves)


@needs_cpu
@each_activation
def test_the_cpu_kernels_refuse_a_second_derivative(activation: ops.Activation) -> None:
    named = parameters((5, 8, 6), 2)
    inputs = {"x": random_numbers(2, 7, 5), **named}
    assert_second_derivative_is_refused(mlp(activation=activation), inputs, "mlp_cpu_backward")


@needs_cpu
def test_an_eikonal_loss_raises_on_the_kernels_and_is_right_on_the_reference() -> None:
    """The second derivative goes through the encoding and the MLP together, as in a fit of distances."""
    grid = ops.GridSpec.make(3, 2, 2, 7, 4, 2.0)
    table, named = random_numbers(1, grid.rows, 2), parameters((4, 8, 1), 1)
    x = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(3)).double().requires_grad_()

    def loss(table: Tensor, backend: ops.Backend) -> Any:
        features = ops.hash_encode(x, table, grid, backend=backend)
        distance = ops.batched_mlp(features, layers_of(named), backend=backend)
        (slope,) = torch.autograd.grad(distance.sum(), x, create_graph=True)
        return (slope.norm(dim=-1) - 1.0).square().sum()

    assert torch.autograd.gradcheck(lambda t: loss(t, "reference"), (table.clone().requires_grad_(),))
    with pytest.raises(RuntimeError, match="no autograd formula"):
        loss(table.requires_grad_(), "cpu").backward()


@needs_cpu
def test_a_forward_mode_derivative_is_refused_or_right() -> None:
    inputs = {"x": random_numbers(2, 7, 5), **parameters((5, 8, 6), 2)}
    assert_forward_derivative_is_refused_or_right(mlp(), inputs)


# ---------------------------------------------------------------------------------------------------- refusal


def test_a_dtype_that_is_not_compiled_is_refused_by_name_and_taken_by_the_reference() -> None:
    inputs = {name: t.bfloat16() for name, t in {"x": random_numbers(1, 3, 2), **parameters((2, 3), 1)}.items()}
    with pytest.raises(ValueError, match=r"dtype is torch\.bfloat16, the cpu kernels take float32 and float64; use"):
        mlp()("cpu", **inputs)
    assert torch.equal(mlp()("auto", **inputs), mlp()("reference", **inputs))


W0, B0, W1 = torch.zeros(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 1, 4)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "layers: got none, wanted at least one"),
        (
            [(W0[:, :, :2], None)],
            ValueError,
            r"layers\[0\] weight: got shape \(2, 4, 2\), wanted \[2, out, 3\]",
        ),
        ([(W0[:1], None)], ValueError, r"layers\[0\] weight: got shape \(1, 4, 3\), wanted \[2, out, 3\]"),
        ([(W0[0], None)], ValueError, r"layers\[0\] weight: got shape \(4, 3\), wanted \[2, out, 3\]"),
        (
            [(W0, None), (W0, None)],
            ValueError,
            r"layers\[1\] weight: got shape \(2, 4, 3\), wanted \[2, out, 4\]",
        ),
        ([(W0, B0[:, :3])], ValueError, r"layers\[0\] bias: got shape \(2, 3\), wanted \[2, 4\]"),
        (
            [(W0, B0), (W1.double(), None)],
            TypeError,
            r"got x torch\.float32 on cpu, weight torch\.float64 on cpu;",
        ),
        (
            [(W0, B0.double())],
            TypeError,
            r"weight torch\.float32 on cpu, bias torch\.float64 on cpu; wanted one",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    layers: list[tuple[Tensor, Tensor | None]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.batched_mlp(torch.zeros(2, 5, 3), layers)


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="activation: got 'tanh', wanted one of leaky_relu, relu, sine"):
        ops.batched_mlp(torch.zeros(2, 5, 3), [(W0, B0)], "tanh")  # type: ignore[arg-type]
