"""Distributions over generated weights, and the variational table of codes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hyperfields.codes import Variational
from hyperfields.codes.variational import VariationalCodes
from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Bayes, Chunked, Full, Hypernet, Independent, LowRank, Modulation, WeightTokens
from hyperfields.hypernets.bayes import Factors, implicit_divergence, moments_divergence
from hyperfields.hypernets.init import std_of
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.rendering.image import sample_image
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import load_run
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import Fit, fit
from hyperfields.training.inference import draw_fields, new_code
from hyperfields.training.trainer import Trainer
from hyperfields.weights import linear_spec

from ._analytic import Discs

# These fits are short, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:fit. scene")

SPEC = linear_spec("mlp", (5, 16, 3))
FIELD = ImageField(Fourier(2, 2), hidden=(16,))
GENERATORS = [Full(), LowRank(), Modulation(), Chunked(chunk=32), WeightTokens()]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda generator: type(generator).__name__)
@pytest.mark.parametrize("kind", ["factors", "noise"])
def test_any_generator_can_be_drawn_from(generator, kind: str) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    net, codes = Hypernet(SPEC, 6, generator, bayes=Bayes(kind)), torch.randn(3, 6)  # type: ignore[arg-type]
    mean, again = net(codes), net(codes)
    assert all(torch.equal(mean[name], again[name]) for name in SPEC)  # nothing is drawn
    drawing = rng()
    one, two = net.sample(codes, drawing)[0], net.sample(codes, drawing)[0]
    assert all(not torch.equal(one[name], two[name]) for name in SPEC)
    same, divergence = net.sample(codes, rng())
    assert all(torch.equal(one[name], same[name]) for name in SPEC)
    assert divergence is not None
    assert float(divergence.detach()) > 0.0
    divergence.backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0.0
    if kind == "factors":
        drawing = rng(1)
        drawn = [net.sample(codes, drawing)[0]["mlp.0.weight"] for _ in range(400)]
        std = float((torch.stack(drawn) - mean["mlp.0.weight"]).std().detach())
        assert std == pytest.approx(0.05 * std_of(SPEC["mlp.0.weight"]), rel=0.05)


def test_without_a_distribution_a_sample_is_the_weights() -> None:
    net, codes = Hypernet(SPEC, 6, Full()), torch.randn(3, 6)
    drawn, divergence = net.sample(codes, rng())
    assert divergence is None
    assert all(torch.equal(drawn[name], value) for name, value in net(codes).items())


def test_divergences_are_those_of_torch() -> None:
    mean, deviation = torch.randn(3, 50), torch.rand(3, 50) + 0.1
    wanted = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(3, 50), torch.ones(3, 50)))
    torch.testing.assert_close(moments_divergence(mean, deviation.log()), wanted)
    spec = linear_spec("mlp", (3, 4))
    factors, weights = Factors(spec, 2, Bayes("factors")), {name: torch.zeros(2, *e.shape) for name, e in spec.items()}
    each = -math.log(0.05) + 0.5 * (0.05**2 - 1.0)
    _, divergence = factors(weights, torch.zeros(2, 2), rng())
    assert float(divergence.detach()) == pytest.approx(16 * each, rel=1e-4)
    # Of draws from the prior itself it is 0, of weights that do not vary it is large.
    wide = linear_spec("mlp", (100, 100))
    first, second = ({name: torch.randn(4, *e.shape) * std_of(e) for name, e in wide.items()} for _ in range(2))
    assert abs(float(implicit_divergence(first, second, wide))) < 0.02 * 10100
    assert float(implicit_divergence(first, first, wide)) > 5.0 * 10100


@pytest.mark.parametrize("kind", ["factors", "noise"])
def test_a_fit_of_drawn_weights_is_good_and_knows_a_spread(kind: str, tmp_path: Path) -> None:
    model = ModelConfig(FIELD, Full(), 4, bayes=Bayes(kind, weight=1e-7))  # type: ignore[arg-type]
    fit(Discs(), tmp_path, steps=300, model=model, train=TrainConfig(4, 4 * 256), progress=False)
    run = load_run(tmp_path)
    assert run.model.config.bayes == model.bayes
    pictures = [sample_image(run.bind(name), 1, 16, 16)[0] for name in run.names]
    errors = torch.stack([p - torch.as_tensor(Discs().reference(i)) for i, p in enumerate(pictures)])  # type: ignore[arg-type]
    assert float(errors.square().mean()) < 0.01
    drawn = [sample_image(b, 1, 16, 16)[0] for b in draw_fields(run, run.codes(run.names[0]), samples=4)]
    assert 0.001 < float(torch.stack(drawn).std(0).mean()) < 0.2


def test_deviations_are_learned() -> None:
    model = HyperField(ModelConfig(FIELD, Modulation(), 4, bayes=Bayes("factors")), 2)
    assert model.hypernet.factors is not None
    networks = {id(parameter) for parameter in parameter_groups(model)["networks"]}
    assert {id(parameter) for parameter in model.hypernet.factors.parameters()} <= networks


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="bayes kind 'x': wanted none, factors or noise"):
        Bayes("x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wanted a deviation above 0"):
        Bayes("factors", deviation=0.0)
    with pytest.raises(InputError, match="Independent generates nothing that could be drawn"):
        Hypernet(SPEC, 6, Independent(), bayes=Bayes("factors"))


def test_variational_codes_are_drawn_and_pay() -> None:
    source = VariationalCodes(5, 3, weight=2.0)
    scenes = torch.tensor([4, 1])
    codes, penalty = source.codes(scenes, rng(), torch.sum)
    other, _ = source.codes(scenes, rng(1), torch.sum)
    q = Normal(source.mean.codes[scenes], source.log_std.codes[scenes].exp())
    p = Normal(torch.zeros(2, 3), torch.ones(2, 3))
    torch.testing.assert_close(penalty, 2.0 * kl_divergence(q, p).sum(1).mean())
    assert not torch.equal(codes, other)
    torch.testing.assert_close(source.final_codes(scenes, rng(), torch.sum), source.mean.codes[scenes])


def test_more_weight_brings_codes_to_the_prior_and_new_scenes_are_its_draws() -> None:
    model, train, stds = ModelConfig(FIELD, Full(), 8), TrainConfig(4, 4 * 64), []
    for weight in (1e-6, 1e-2):
        run = fit(Discs(), steps=150, model=model, train=train, codes=Variational(weight), progress=False)
        assert isinstance(run.source, VariationalCodes)
        stds.append(float(run.source.log_std.codes.detach().exp().mean()))
        assert torch.equal(new_code(run, 1), torch.randn(1, 8, generator=rng(1)))
    assert stds[1] > 1.5 * stds[0]


def test_a_penalty_and_a_divergence_are_both_paid() -> None:
    """Two places that add to the loss of a step, neither of which hides the other."""
    model = ModelConfig(FIELD, Full(), 4, bayes=Bayes("factors", weight=1e-3))
    fitting = Fit(Discs(), None, FitSettings(steps=1), model=model, train=TrainConfig(4, 64), codes=Variational(1e-3))
    trainer = fitting.trainer
    assert isinstance(trainer, Trainer)
    trainer.prepare()
    fields = trainer.bind(trainer.local, rng())
    assert fields.codes is None  # no second prior on codes that have a divergence
    assert fields.penalty is not None
    assert fitting.source is not None
    codes, kl = fitting.source.codes(trainer.local, generator := rng(), torch.sum)
    _, divergence = fitting.model.sample(codes, generator)
    assert divergence is not None
    assert kl is not None
    torch.testing.assert_close(fields.penalty, kl + 1e-3 * divergence)
