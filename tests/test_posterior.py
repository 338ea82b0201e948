"""Distributions over codes: they are wide where nothing is known, and predicted deviations rank the errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.codes.table import gaussian_kl
from hyperfields.data import Points
from hyperfields.errors import InputError
from hyperfields.evaluation.uncertainty import rank_correlation
from hyperfields.fields import BoundField, ImageField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full
from hyperfields.model import ModelConfig
from hyperfields.rendering.image import sample_image
from hyperfields.runs.checkpoint import load_run
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.fit import FitConfig, fit
from hyperfields.training.posterior import infer_posterior, predict

from ._analytic import Balls, Discs


@dataclasses.dataclass(frozen=True)
class Halves(Discs):
    """Pictures whose left and right halves have greys of their own; only the part left of `seen` is looked at."""

    names: tuple[str, ...] = tuple(f"p{i}" for i in range(16))
    first: int = 0
    seen: float = 1.0

    def color(self, scenes: Tensor, x: Tensor) -> Tensor:
        numbers = scenes + self.first
        left, right = (numbers % 4).float() / 4 + 0.1, (numbers // 4 % 4).float() / 4 + 0.1
        mix = torch.sigmoid((x[..., :1] - 0.5) * 30.0)
        return (left[:, None, None] * (1.0 - mix) + right[:, None, None] * mix).expand(*x.shape[:2], 3)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        x[..., 0] *= self.seen
        return Points(x, self.color(scenes, x))


def test_what_was_not_seen_is_uncertain(tmp_path: Path) -> None:
    model = ModelConfig(ImageField(Fourier(2, 2), hidden=(16,)), Full(), 4)
    fit(Halves(), tmp_path / "run", FitConfig(steps=500), model=model, recipe=TrainConfig(16, 16 * 64, prior=1e-3))
    run = load_run(tmp_path / "run")
    unseen = Halves(names=("a", "b", "c"), first=5, seen=0.4)
    posterior = infer_posterior(run, unseen, steps=300, weight=1e-3)
    again = infer_posterior(run, unseen, steps=300, weight=1e-3)
    assert torch.equal(posterior.mean, again.mean)

    def draw(bound: BoundField) -> Tensor:
        return sample_image(bound, 1, 16, 16)[0]

    errors, spreads = [], []
    for number, name in enumerate(unseen.names):
        mean, deviation = predict(run, posterior, name, draw, samples=32)
        assert mean.shape == deviation.shape == (16, 16, 3)
        errors.append((mean - unseen.reference(number)).mean(-1))
        spreads.append(deviation.mean(-1))
    spread = torch.stack(spreads)
    assert float(spread[:, :, 10:].mean()) > 1.4 * float(spread[:, :, :6].mean())
    assert rank_correlation(torch.stack(errors).abs(), spread) > 0.4
    with pytest.raises(InputError, match="scene 'x': not among the inferred ones: a, b, c"):
        posterior.sample("x", 2)
    with pytest.raises(InputError, match="holds images, the family holds views"):
        infer_posterior(run, Balls(), steps=1)


def test_the_divergence_is_that_of_torch() -> None:
    from torch.distributions import Normal, kl_divergence

    mean, deviation = torch.randn(3, 5), torch.rand(3, 5) + 0.1
    wanted = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(3, 5), torch.ones(3, 5))).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, deviation), wanted)
