"""tinycudann: layouts as its source lays them out, and the adapter with a stand-in for its module. No GPU needed."""

from __future__ import annotations

import itertools
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops import _tcnn

from ._parity import random_numbers

SIZES = (5, 20, 31, 3)


def network(sizes: tuple[int, ...] = SIZES, biases: bool = True) -> list[tuple[Tensor, Tensor | None]]:
    return [
        (random_numbers(o, i, seed=n).float(), random_numbers(o, seed=9 + n).float() if biases else None)
        for n, (i, o) in enumerate(itertools.pairwise(sizes))
    ]


# Layouts ----------------------------------------------------------------------------------------------------------


def test_a_network_is_padded_as_theirs() -> None:
    """Inputs and outputs to 16, hidden layers to one width; with biases one more input and one more unit."""
    assert _tcnn.network_shapes((32, 64, 64, 16), False) == [(64, 32), (64, 64), (16, 64)]
    assert _tcnn.network_shapes((32, 64, 64, 16), True) == [(128, 48), (128, 128), (16, 128)]
    assert _tcnn.network_shapes((3, 9, 1), False) == [(16, 16), (16, 16)]
    assert _tcnn.network_shapes((16, 32, 32, 4), True) == [(64, 32), (64, 64), (16, 64)]


def run(flat: Tensor, shapes: list[tuple[int, int]], x: Tensor, slope: float) -> Tensor:
    """What a network without biases does with a parameter vector: row-major [out][in], the input padded with ones."""
    h = torch.nn.functional.pad(x, (0, shapes[0][1] - x.shape[1]), value=1.0)
    for number, ((rows, columns), piece) in enumerate(
        zip(shapes, flat.split([rows * columns for rows, columns in shapes]), strict=True)
    ):
        h = h @ piece.reshape(rows, columns).T
        h = h if number + 1 == len(shapes) else torch.nn.functional.leaky_relu(h, slope)
    return h


@pytest.mark.parametrize("biases", [False, True])
def test_a_packed_network_without_biases_is_ours(biases: bool) -> None:
    layers = network(biases=biases)
    flat, shapes = _tcnn.pack_network(layers), _tcnn.network_shapes(SIZES, biases)
    assert flat.shape == (sum(rows * columns for rows, columns in shapes),)
    x = random_numbers(50, 5).float()
    wanted = ops.batched_mlp(
        x[None], [(w[None], None if b is None else b[None]) for w, b in layers], "leaky_relu", backend="reference"
    )[0]
    got = run(flat, shapes, x, 0.01)
    torch.testing.assert_close(got[:, :3], wanted, rtol=1e-5, atol=1e-5)
    assert not got[:, 3:].any()


@pytest.mark.parametrize("biases", [False, True])
def test_a_network_comes_back_bit_for_bit(biases: bool) -> None:
    layers = network(biases=biases)
    flat = _tcnn.pack_network(layers)
    back = _tcnn.unpack_network(flat, SIZES, biases)
    for (weight, bias), (wanted, wanted_bias) in zip(back, layers, strict=True):
        assert torch.equal(weight, wanted)
        assert bias is None or wanted_bias is None or torch.equal(bias, wanted_bias)
    assert torch.equal(_tcnn.pack_network(back), flat)


def test_gradients_pass_through_packing() -> None:
    layers = [(w.requires_grad_(), b) for w, b in network()]
    _tcnn.pack_network(layers).sum().backward()
    assert all(torch.equal(w.grad, torch.ones_like(w)) for w, _ in layers if w.grad is not None)
    assert layers[0][0].grad is not None


def test_a_vector_of_another_network_is_refused() -> None:
    flat = _tcnn.pack_network(network())
    with pytest.raises(ValueError, match=r"network: got \(\d+,\) parameters, wanted \d+ for widths \[5, 20, 31, 3\]"):
        _tcnn.unpack_network(flat[1:], SIZES, True)
    flat[-1] = 1.0
    with pytest.raises(ValueError, match="network: has weights where ours has none"):
        _tcnn.unpack_network(flat, SIZES, True)


@pytest.mark.parametrize(("sizes", "room"), [((3, 128, 2), 127), ((3, 2), 127)])
def test_networks_that_they_do_not_have_are_refused(sizes: tuple[int, ...], room: int) -> None:
    with pytest.raises(ValueError, match=rf"networks have at least one, up to {room} wide"):
        _tcnn.network_shapes(sizes, True)


def test_the_grid_of_their_documentation_has_their_number_of_parameters() -> None:
    grid = ops.GridSpec.make(3, 16, 2, 19, 16, 1.51572)
    config = _tcnn.encoding_config(grid)
    assert grid.rows * grid.features == 13_074_912
    assert _tcnn.offsets(config, 3) == grid.offsets
    assert (config["log2_hashmap_size"], config["base_resolution"]) == (19, 16)
    assert config["per_level_scale"] == pytest.approx(1.51572, abs=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("levels", "log2", "coarsest", "finest"), [(6, 12, 5, 64), (8, 13, 8, 128), (1, 10, 9, 9)])
def test_grids_of_the_presets_are_theirs(dims: int, levels: int, log2: int, coarsest: int, finest: int) -> None:
    from hyperfields.fields.encodings import HashGrid

    grid = HashGrid(dims, levels, 2, log2, coarsest, finest).grid
    config = _tcnn.encoding_config(grid)
    assert _tcnn.resolutions(config) == grid.resolutions
    assert _tcnn.offsets(config, dims) == grid.offsets
    assert config["interpolation"] == "Linear"


def test_a_grid_that_their_rules_do_not_make_is_refused() -> None:
    odd = ops.GridSpec(2, 2, (3.0, 4.0, 30.0), (4, 5, 31), (0, 16, 48, 1016))
    with pytest.raises(ValueError, match=r"grid: its levels \[4, 5, 31\] are not those that tinycudann makes"):
        _tcnn.encoding_config(odd)


# The adapter ------------------------------------------------------------------------------------------------------


class StandIn:
    """A module of theirs, as far as the adapter sees it: native module, precision, scale of the loss."""

    dtype, loss_scale, jit_fusion = torch.float32, 128.0, True

    def __init__(self, kind: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
        self.native_tcnn_module = (kind, arguments)


def stand_in(native: tuple[str, tuple[Any, ...]], x: Tensor, params: Tensor, scale: float) -> Tensor:
    assert x.shape[0] % 256 == 0
    assert x.dtype == torch.float32
    inputs, outputs, config = native[1]
    sizes = (inputs, *[config["n_neurons"]] * config["n_hidden_layers"], outputs)
    return run(params, _tcnn.network_shapes(sizes, False), x, 0.01)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    package, modules = types.ModuleType("tinycudann"), types.ModuleType("tinycudann.modules")
    package.Network = lambda *a: StandIn("network", *a)  # type: ignore[attr-defined]
    modules._module_function = types.SimpleNamespace(apply=stand_in)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", package)
    monkeypatch.setitem(sys.modules, "tinycudann.modules", modules)
    _tcnn._module.cache_clear()
    return modules


@pytest.mark.usefixtures("installed")
def test_generated_networks_pass_through_the_adapter() -> None:
    layers = [(torch.stack((w, -w)), None if b is None else torch.stack((b, b))) for w, b in network()]
    inputs = [t.requires_grad_() for layer in layers for t in layer if t is not None]
    x = random_numbers(301, 5).float().requires_grad_()
    counts = torch.tensor([300, 1])
    got = _tcnn.batched_mlp(x, layers, "leaky_relu", counts.tolist())
    wanted = ops.batched_mlp(x, layers, "leaky_relu", counts=counts, backend="reference")
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    cotangent = torch.randn_like(got)
    gradients = (torch.autograd.grad(result, [x, *inputs], cotangent) for result in (got, wanted))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("installed")
def test_second_derivatives_are_refused() -> None:
    layers = [(w[None], None if b is None else b[None]) for w, b in network()]
    x = random_numbers(4, 5).float().requires_grad_()
    result = _tcnn.batched_mlp(x, layers, "relu", [4]).sum()
    with pytest.raises(RuntimeError, match="backend 'tcnn' has no second derivatives"):
        torch.autograd.grad(result, x, create_graph=True)


def test_a_version_without_what_is_needed_is_named(installed: types.ModuleType) -> None:
    del installed._module_function
    layers = [(w[None], None) for w, _ in network()]
    with pytest.raises(ValueError, match=r"backend 'tcnn' cannot run this call: this tinycudann takes no parameters"):
        _tcnn.batched_mlp(torch.zeros(4, 5), layers, "relu", [4])


def test_without_it_the_reason_and_its_guide_are_given() -> None:
    if not ops.backends()["tcnn"]:
        pytest.skip("tinycudann is usable here")
    x = torch.zeros(1, 4, 5)
    layers: list[tuple[Tensor, Tensor | None]] = [(torch.zeros(1, 8, 5), None), (torch.zeros(1, 2, 8), None)]
    with pytest.raises(ValueError, match=r"'tcnn' cannot run this call: tinycudann .*; use backend='reference'"):
        ops.batched_mlp(x, layers, backend="tcnn")
    assert math.isfinite(float(ops.batched_mlp(x, layers).sum()))
