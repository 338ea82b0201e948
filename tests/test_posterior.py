"""Distributions over codes: they are wide where nothing is known, and predicted deviations rank the errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.checkpoint import load_run
from hyperfields.encodings import Fourier
from hyperfields.errors import InputError
from hyperfields.evaluate import render_views
from hyperfields.families import Points
from hyperfields.fields import ImageField, RadianceField
from hyperfields.fit import FitConfig, fit
from hyperfields.hypernets import Full
from hyperfields.model import Bound, ModelConfig
from hyperfields.posterior import (
    Misfit,
    calibrate,
    gaussian_divergence,
    infer_posterior,
    misfit,
    predict,
    total_deviation,
    uncertainty_image,
    view_places,
)
from hyperfields.presets import Recipe
from hyperfields.render import sample_image

from ._analytic import RADII, Balls, Discs


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
    fit(Halves(), tmp_path / "run", FitConfig(steps=500), model=model, recipe=Recipe(16, 16 * 64, prior=1e-3))
    run = load_run(tmp_path / "run")
    unseen = Halves(names=("a", "b", "c"), first=5, seen=0.4)
    posterior = infer_posterior(run, unseen, steps=300, weight=1e-3)
    again = infer_posterior(run, unseen, steps=300, weight=1e-3)
    assert torch.equal(posterior.mean, again.mean)

    def draw(bound: Bound) -> Tensor:
        return sample_image(bound, 1, 16, 16)[0]

    errors, spreads = [], []
    for number, name in enumerate(unseen.names):
        mean, deviation = predict(run, posterior, name, draw, samples=32)
        assert mean.shape == deviation.shape == (16, 16, 3)
        errors.append((mean - unseen.truth(number)).mean(-1))
        spreads.append(deviation.mean(-1))
    spread = torch.stack(spreads)
    assert float(spread[:, :, 10:].mean()) > 1.4 * float(spread[:, :, :6].mean())
    found = calibrate(torch.stack(errors), spread)
    assert found.rank_correlation > 0.4, found
    assert float(uncertainty_image(spreads[0][..., None].expand(16, 16, 3)).max()) == pytest.approx(1.0)
    with pytest.raises(InputError, match="scene 'x': not among the inferred ones: a, b, c"):
        posterior.sample("x", 2)
    with pytest.raises(InputError, match="holds images, the family holds views"):
        infer_posterior(run, Balls(), steps=1)


@dataclasses.dataclass(frozen=True)
class Painted(Balls):
    """Balls whose halves differ in brightness, by steps in height: no code of a run of plain ones shows that."""

    names: tuple[str, ...] = ("a", "b")

    def rgba(self, scenes: Tensor, rays: Rays) -> Tensor:
        plain = super().rgba(scenes, rays)
        along = -(rays.origins * rays.directions).sum(-1)
        nearest = (rays.origins + along[..., None] * rays.directions).norm(dim=-1)
        front = along - ((RADII[scenes][:, None] + 0.2).square() - nearest.square()).clamp(min=0.0).sqrt()
        height = rays.origins[..., 2:] + front[..., None] * rays.directions[..., 2:]
        return torch.cat((plain[..., :3] * (height > 0.1), plain[..., 3:]), -1)


def test_errors_that_no_code_can_mend_are_expected_where_they_were_seen(tmp_path: Path) -> None:
    field = RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=16)
    model, recipe = ModelConfig(field, Full(), 6), Recipe(4, 4 * 1024, rate_networks=1e-2)
    fit(Balls(), tmp_path / "run", FitConfig(steps=200), model=model, recipe=recipe)
    run, unseen = load_run(tmp_path / "run"), Painted()
    posterior = infer_posterior(run, unseen, steps=60, weight=1e-4)
    for number, name in enumerate(unseen.names):
        views = unseen.truth(number)
        rgba = torch.stack([view.rgba for view in views])
        mean, code = predict(run, posterior, name, lambda bound: render_views(bound, views), samples=4)  # noqa: B023
        found = misfit(run, posterior, unseen, name)
        middle = run.model.bind(posterior.mean[number][None])
        places = view_places(middle, views)
        assert places.shape == (2, 16, 16, 3)
        total = total_deviation(code, found.at(places))
        ball = rgba[..., 3] > 0.5
        error = (mean - rgba[..., :3] * rgba[..., 3:] - 1.0 + rgba[..., 3:]).abs().mean(-1)[ball]
        assert calibrate(error, total.mean(-1)[ball]).rank_correlation > 0.5
        assert calibrate(error, total.mean(-1)[ball]).within_two > 0.8
    with pytest.raises(InputError, match="scene 'x': not among the inferred ones: a, b"):
        misfit(run, posterior, unseen, "x")


def test_a_misfit_is_local_and_far_away_the_mean() -> None:
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    found = Misfit(places, torch.tensor([0.1, 0.7]), 0.05).at(torch.tensor([[0.01, 0.0], [1.0, 0.0], [9.0, 9.0]]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.7, 0.5]), rtol=0.02, atol=0.0)
    both = total_deviation(torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]))
    torch.testing.assert_close(both, torch.tensor([[5.0, 4.0]]))


def test_a_misfit_of_pictures_lies_in_their_plane(tmp_path: Path) -> None:
    model = ModelConfig(ImageField(Fourier(2, 2), hidden=(8,)), Full(), 4)
    fit(Discs(), tmp_path / "run", FitConfig(steps=20), model=model, recipe=Recipe(4, 4 * 64))
    run = load_run(tmp_path / "run")
    posterior = infer_posterior(run, Discs(), steps=5)
    found = misfit(run, posterior, Discs(), "blue")
    with torch.no_grad():
        wanted = (
            (
                run.model.bind(posterior.mean[2:3])(found.places[None])[0]
                - Discs().color(torch.tensor([2]), found.places[None])[0]
            )
            .square()
            .mean(-1)
            .sqrt()
        )
    torch.testing.assert_close(found.error, wanted)


def test_the_divergence_is_that_of_torch() -> None:
    from torch.distributions import Normal, kl_divergence

    mean, deviation = torch.randn(3, 5), torch.rand(3, 5) + 0.1
    wanted = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(3, 5), torch.ones(3, 5))).sum(1)
    torch.testing.assert_close(gaussian_divergence(mean, deviation), wanted)


def test_calibration_of_errors_that_follow_their_deviations() -> None:
    deviation = torch.rand(20_000) + 0.1
    found = calibrate(torch.randn(20_000) * deviation, deviation)
    assert found.within_one == pytest.approx(0.683, abs=0.02)
    assert found.within_two == pytest.approx(0.954, abs=0.01)
    assert found.rank_correlation > 0.3
    assert calibrate(deviation, deviation * 2.0).rank_correlation == pytest.approx(1.0)
    assert calibrate(deviation, -deviation).rank_correlation == pytest.approx(-1.0)
    ties = calibrate(torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 3.0, 4.0]))
    assert ties.rank_correlation == pytest.approx(1.0)
