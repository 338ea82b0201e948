"""Weights: names, initial values, and the way to one flat vector and back."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfields.weights import WeightEntry, flatten, layers, linear_spec, numel, split

SPEC = linear_spec("mlp", (5, 7, 2))


def test_an_mlp_has_a_weight_and_a_bias_for_each_layer() -> None:
    assert {name: entry.shape for name, entry in SPEC.items()} == {
        "mlp.0.weight": (7, 5),
        "mlp.0.bias": (7,),
        "mlp.1.weight": (2, 7),
        "mlp.1.bias": (2,),
    }
    assert [entry.fan_in for entry in SPEC.values()] == [5, 5, 7, 7]
    assert {entry.source for entry in SPEC.values()} == {"generated"}
    assert numel(SPEC) == 7 * 5 + 7 + 2 * 7 + 2


def test_hidden_layers_start_like_he_and_the_last_one_like_a_linear_map() -> None:
    bounds = [SPEC[f"mlp.{i}.weight"].bound for i in range(2)]
    assert bounds == pytest.approx([math.sqrt(6 / 5), math.sqrt(3 / 7)])  # variances 2 / fan_in and 1 / fan_in
    assert SPEC["mlp.1.bias"].bound == pytest.approx(1 / math.sqrt(7))


def test_a_fresh_value_is_uniform_within_its_bound() -> None:
    entry = WeightEntry((400, 250), 250, 0.3)
    value = entry.initial()
    assert value.shape == (400, 250)
    assert float(value.abs().max()) <= 0.3
    assert float(value.abs().max()) > 0.299
    assert float(value.mean()) == pytest.approx(0.0, abs=0.003)
    assert float(value.var()) == pytest.approx(0.3**2 / 3, rel=0.02)


def test_a_fresh_value_comes_from_the_generator_that_is_given() -> None:
    entry = SPEC["mlp.0.weight"]
    a, b, c = (entry.initial(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_mlp_keeps_the_mean_square_of_its_input() -> None:
    """What the bounds are for: a ReLU halves the mean square, so hidden layers double it."""
    spec = linear_spec("mlp", (64, 64, 64, 64))
    h = torch.randn(2000, 64)
    for i in range(3):
        a = h @ spec[f"mlp.{i}.weight"].initial().T
        assert float(a.square().mean()) == pytest.approx(2.0 if i < 2 else 1.0, rel=0.35)
        h = a.relu()


def test_flatten_and_split_are_inverses() -> None:
    flat = torch.randn(3, numel(SPEC))
    weights = split(flat, SPEC)
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        name: (3, *entry.shape) for name, entry in SPEC.items()
    }
    assert torch.equal(flatten(weights, SPEC), flat)
    shuffled = {name: weights[name] for name in reversed(list(weights))}
    assert torch.equal(flatten(shuffled, SPEC), flat)  # the order is the spec's
    again = split(flatten(weights, SPEC), SPEC)
    assert all(torch.equal(again[name], weights[name]) for name in SPEC)


def test_split_reads_the_vector_in_the_order_of_the_spec() -> None:
    weights = split(torch.arange(float(numel(SPEC)))[None], SPEC)
    assert weights["mlp.0.weight"][0, 1].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]
    assert weights["mlp.0.bias"][0].tolist() == list(range(35, 42))
    assert weights["mlp.1.bias"][0].tolist() == [56.0, 57.0]


@pytest.mark.parametrize("width", [numel(SPEC) - 1, numel(SPEC) + 1])
def test_split_refuses_a_vector_of_another_length(width: int) -> None:
    with pytest.raises(ValueError, match=f"split: got {width} numbers a scene, wanted 58"):
        split(torch.zeros(1, width), SPEC)


def test_layers_are_found_in_order_with_or_without_bias() -> None:
    weights = split(torch.randn(2, numel(SPEC)), SPEC) | {"other.0.weight": torch.zeros(2, 1, 1)}
    del weights["mlp.1.bias"]
    (w0, b0), (w1, b1) = layers(weights, "mlp")
    assert w0 is weights["mlp.0.weight"]
    assert b0 is weights["mlp.0.bias"]
    assert w1 is weights["mlp.1.weight"]
    assert b1 is None
    assert layers(weights, "nothing") == []
