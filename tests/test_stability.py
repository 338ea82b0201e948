"""Stability settings of any generator: each does what it says, wherever it is switched on."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfields.configs import to_json
from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full, Generator, Hypernet, LowRank, Modulation, PerLayer, Stability
from hyperfields.hypernets.stability import SpectralLimit
from hyperfields.model import ModelConfig
from hyperfields.runs.config import config_from_json as from_json
from hyperfields.weights import linear_spec

from ._generators import generators

SPEC = linear_spec("mlp", (12, 24, 24, 3))
GENERATORS = {
    name: made
    for name, made in generators(16).items()
    if name not in ("full, hidden", "low rank, one layer", "shift only")  # like their neighbours here
}
each_generator = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())


def variances(generator: Generator, stability: Stability) -> dict[str, tuple[float, float]]:
    """Of each weight at step 0, in units of what the spec asks for: (mean square, variance between scenes)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(60):
        weights = Hypernet(SPEC, 32, generator, stability)(torch.randn(8, 32))
        for name, value in weights.items():
            wanted = SPEC[name].bound ** 2 / 3.0
            found.setdefault(name, []).append(
                (float(value.square().mean()) / wanted, float(value.var(0).mean()) / wanted)
            )
    return {name: tuple(torch.tensor(values).mean(0).tolist()) for name, values in found.items()}


@torch.no_grad()
@each_generator
@pytest.mark.parametrize(
    "stability",
    [
        Stability(),
        Stability(share=0.5),
        Stability(latent="invariant"),
        Stability(spectral=2.0),
        Stability(bound=6.0),
        Stability(normalize=True),
    ],
    ids=lambda s: next((f"{k} {v}" for k, v in vars(s).items() if v != vars(Stability())[k]), "defaults"),
)
def test_no_setting_changes_the_variance_at_step_0(generator: Generator, stability: Stability) -> None:
    if stability.normalize and isinstance(generator, Modulation):
        with pytest.raises(InputError, match="would undo the scales of Modulation"):
            Hypernet(SPEC, 32, generator, stability)
        return
    for name, (whole, between) in variances(generator, stability).items():
        assert 0.75 < whole < 1.3, f"{name}: {whole} of the variance that the spec asks for"
        wanted = stability.share if stability.share > 0.1 else 0.05
        assert wanted / 3.0 < between < wanted * 1.6, f"{name}: {between} between scenes"


@torch.no_grad()
def test_plain_initialisation_is_that_of_torch() -> None:
    whole = variances(Full(), Stability(init="plain"))["mlp.1.weight"][0]
    assert not 0.5 < whole < 2.0  # Linear(32): weights and biases of variance 1/96, codes of 32 numbers


def test_an_invariant_latent_has_one_length_for_all_codes() -> None:
    stability = Stability(latent="invariant")
    read = stability.read(torch.randn(20, 7) * 5.0)
    assert read.shape == (20, stability.features(7))
    torch.testing.assert_close(read.norm(dim=1), torch.full((20,), math.sqrt(14.0)))
    assert float(stability.read(torch.zeros(1, 3)).sum()) == pytest.approx(3 * math.sqrt(2.0))


@torch.no_grad()
def test_a_bound_holds_for_codes_of_any_size() -> None:
    net = Hypernet(SPEC, 8, Full(), Stability(bound=3.0))
    for name, value in net(torch.randn(4, 8) * 1e4).items():
        assert float(value.abs().max()) <= 3.0 * SPEC[name].bound / math.sqrt(3.0) * 1.0001


@torch.no_grad()
def test_normalized_rows_have_the_length_of_the_initialisation() -> None:
    net = Hypernet(SPEC, 8, LowRank(2), Stability(normalize=True))
    weights = net(torch.randn(4, 8) * 100.0)
    wanted = SPEC["mlp.1.weight"].bound / math.sqrt(3.0) * math.sqrt(24.0)
    torch.testing.assert_close(weights["mlp.1.weight"].norm(dim=2), torch.full((4, 24), wanted))


def test_a_spectral_limit_holds_the_largest_singular_value_and_nothing_below() -> None:
    weight = torch.randn(30, 8)
    first = float(torch.linalg.matrix_norm(weight, 2))
    limit = SpectralLimit(weight, 2.0)
    torch.testing.assert_close(limit(1.5 * weight), 1.5 * weight)
    held = limit(7.0 * weight)
    assert float(torch.linalg.matrix_norm(held, 2)) == pytest.approx(2.0 * first, rel=0.02)
    torch.testing.assert_close(held / held.norm(), weight / weight.norm())


def test_a_limited_generator_is_the_same_when_loaded() -> None:
    stability = Stability(spectral=1.5, latent="invariant", bound=4.0)
    one, two = (Hypernet(SPEC, 8, PerLayer(8), stability) for _ in range(2))
    two.load_state_dict(one.state_dict())
    codes = torch.randn(3, 8)
    a, b = one.eval()(codes), two.eval()(codes)
    assert all(torch.equal(a[name], b[name]) for name in SPEC)


def test_settings_are_part_of_a_model() -> None:
    config = ModelConfig(ImageField(Fourier(2, 2)), Full(), 8, Stability(latent="invariant", bound=4.0))
    assert from_json(to_json(config)) == config
    old = to_json(config)
    del old["stability"]  # a run from before there were any
    assert from_json(old).stability == Stability()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init": "zero"}, "stability init 'zero': wanted hyperfan or plain"),
        ({"latent": "unit"}, "stability latent 'unit': wanted plain or invariant"),
        ({"share": 0.0}, "stability share 0.0: wanted a number above 0 and at most 1"),
        ({"spectral": 0.5}, "stability spectral 0.5: wanted at least 1, or 0 for no limit"),
        ({"bound": 0.1}, "stability bound 0.1: wanted at least 1, or 0 for none"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Stability(**settings)  # type: ignore[arg-type]
