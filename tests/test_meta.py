"""Meta-learning: second order agrees with finite differences, and a few steps find a code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.checkpoint import load_run
from hyperfields.encodings import Fourier, HashGrid, Identity
from hyperfields.errors import InputError
from hyperfields.families import Kind, Points
from hyperfields.fields import Field, ImageField, RadianceField, ShapeField
from hyperfields.fit import Fit, FitConfig, alone
from hyperfields.hypernets import Direct, Full, Modulation
from hyperfields.latents import CodeSource
from hyperfields.meta import (
    CommonStart,
    InnerSteps,
    Meta,
    Reptile,
    adapt,
    adapt_weights,
    infer_by_steps,
    meta_fit,
    reptile_fit,
)
from hyperfields.model import Bound, HyperField, ModelConfig
from hyperfields.objective import Objective
from hyperfields.presets import Recipe

from ._analytic import FAMILIES, Discs

SIREN = ImageField(Identity(2), hidden=(6, 6), activation="sine", frequency=4.0)


def outer_loss(model: HyperField, rates: Tensor, order: int, x: Tensor, target: Tensor) -> Tensor:
    def loss(codes: Tensor) -> Tensor:
        return (model.bind(codes)(x) - target).square().mean((1, 2)).sum()

    codes = adapt(loss, torch.zeros(2, 3, dtype=torch.float64), rates, 3, order)
    return loss(codes)


@pytest.mark.parametrize("order", [1, 2])
def test_second_order_is_the_slope_of_the_whole_and_first_order_is_not(order: int) -> None:
    """Central differences of the loss after the inner steps, along random directions of all parameters."""
    model = HyperField(ModelConfig(SIREN, Modulation(), 3), 2).double()
    x = torch.rand(2, 40, 2, dtype=torch.float64)
    target = Discs().color(torch.tensor([0, 1]), x.float()).double()
    rates = torch.full((3,), 20.0, dtype=torch.float64, requires_grad=True)
    leaves = [*model.hypernet.parameters(), rates]
    gradients = torch.autograd.grad(outer_loss(model, rates, order, x, target), leaves, allow_unused=True)
    worst, h = 0.0, 1e-6
    for _ in range(5):
        directions = [torch.randn_like(leaf) for leaf in leaves]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for leaf, d in zip(leaves, directions, strict=True):
                    leaf += sign * h * d
            values.append(float(outer_loss(model, rates, order, x, target).detach()))
            with torch.no_grad():
                for leaf, d in zip(leaves, directions, strict=True):
                    leaf -= sign * h * d
        wanted = (values[0] - values[1]) / (2.0 * h)
        worst = max(worst, abs(slope - wanted) / abs(wanted))
    assert worst < 1e-5 if order == 2 else worst > 1e-2, worst


@pytest.mark.parametrize(("kind", "order"), [("images", 1), ("images", 2), ("shapes", 1), ("shapes", 2), ("views", 1)])
def test_a_few_steps_find_the_codes(kind: Kind, order: int) -> None:
    fields: dict[Kind, Field] = {
        "images": ImageField(Identity(2), hidden=(16, 16), activation="sine", frequency=6.0),
        "shapes": ShapeField(Identity(3), hidden=(16, 16), activation="sine", frequency=3.0),
        "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
    }
    meta = Meta(order=order, rate={"images": 10.0, "shapes": 0.3, "views": 5.0}[kind])  # type: ignore[arg-type]
    samples = 4 * 1024 if kind == "views" else 4 * 128
    recipe = Recipe(4, samples, rate_networks=1e-2)
    config = ModelConfig(fields[kind], Modulation(), 16)
    found = meta_fit(FAMILIES[kind], config, meta, recipe, steps=120 if kind == "views" else 200)
    objective = Objective(FAMILIES[kind], config.field, recipe, 4)
    scenes, generator = torch.arange(4), torch.Generator().manual_seed(1)
    fresh = found.codes(objective, scenes, scenes, generator).detach()  # from other samples than those of the fit
    with torch.no_grad():
        before, after, swapped = (
            sum(float(objective(found.model.bind(c), scenes, scenes, generator)) for _ in range(4)) / 4
            for c in (torch.zeros_like(fresh), fresh, fresh.roll(1, 0))
        )
    assert after < 0.5 * before
    assert after < 0.5 * swapped


@pytest.mark.parametrize(
    "field",
    [
        ImageField(Identity(2), hidden=(6,)),
        ImageField(HashGrid(2, 2, 2, 6, 4, 8), hidden=(6,), activation="sine"),
        RadianceField(Fourier(3, 2), hidden=(6,), activation="sine"),
    ],
    ids=["relu", "grid", "views"],
)
def test_second_order_is_refused_where_there_is_none(field: Field) -> None:
    with pytest.raises(InputError, match="kernels without a second derivative; take order 1"):
        meta_fit(Discs(), ModelConfig(field, Modulation(), 4), Meta(order=2), Recipe(4, 64), steps=1)


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_from_the_start_that_reptile_finds_a_few_steps_do_what_they_do_not_from_a_fresh_one(kind: Kind) -> None:
    fields: dict[Kind, Field] = {
        "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
        "shapes": ShapeField(Fourier(3, 2), hidden=(16, 16)),
        "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
    }
    field, reptile, recipe = fields[kind], Reptile(), Recipe(4, 4 * (1024 if kind == "views" else 128))
    start = reptile_fit(FAMILIES[kind], field, reptile, recipe, steps=40)
    fresh = {name: entry.initial()[None] for name, entry in field.spec.items()}
    scenes, found = torch.arange(4), []
    for weights in (start, fresh):
        objective, generator = Objective(FAMILIES[kind], field, recipe, 4), torch.Generator().manual_seed(7)
        own, _ = adapt_weights(weights, objective, scenes, reptile, generator)
        assert all(torch.equal(value, start[name]) for name, value in start.items())
        for bound in (
            Bound(field, own, 4),
            Bound(field, {k: v.expand(4, *v.shape[1:]) for k, v in weights.items()}, 4),
        ):
            with torch.no_grad():
                found.append(sum(float(objective(bound, scenes, scenes, generator)) for _ in range(4)) / 4)
    adapted, common, adapted_fresh, _ = found
    assert adapted < 0.6 * adapted_fresh, found
    assert adapted < 0.7 * common, found


def test_a_scene_descends_as_it_would_alone() -> None:
    field, recipe = ImageField(Fourier(2, 2), hidden=(8,)), Recipe(4, 4 * 64)
    start = {name: entry.initial()[None] for name, entry in field.spec.items()}

    class Same(Discs):
        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
            x = torch.linspace(0.05, 0.95, 2 * 64).reshape(1, 64, 2).expand(len(scenes), -1, -1)
            return Points(x, self.color(scenes, x))

    objective = Objective(Same(), field, recipe, 4)
    together, _ = adapt_weights(start, objective, torch.arange(4), Reptile(steps=3), torch.Generator())
    alone, _ = adapt_weights(start, objective, torch.tensor([2]), Reptile(steps=3), torch.Generator())
    for name, value in together.items():
        torch.testing.assert_close(value[2:3], alone[name], rtol=1e-3, atol=1e-4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="wanted at least 1 step, a rate above 0"):
        Reptile(share=0.0)
    with pytest.raises(InputError, match="wanted at least 1 step"):
        Meta(steps=0)
    with pytest.raises(InputError, match="has no networks"):
        meta_fit(Discs(), ModelConfig(SIREN, Direct(), 99), Meta(), Recipe(4, 64), steps=1)


@pytest.mark.parametrize("name", ["cavia", "reptile"])
def test_a_run_knows_how_to_take_its_few_steps(name: str, tmp_path: Path) -> None:
    """Scenes that a fit has seen, found again from other samples by the steps alone."""
    model, recipe = ModelConfig(SIREN, Full(), 8), Recipe(4, 4 * 128, rate_networks=1e-2)
    source: Callable[[ModelConfig], CodeSource] = lambda model: InnerSteps(model, Meta())  # noqa: E731
    if name == "reptile":
        model = alone(model)
        source = lambda model: CommonStart(model, Reptile())  # noqa: E731
    fit = Fit(Discs(), tmp_path, FitConfig(steps=150), model=model, recipe=recipe, source=source)
    fit.run()
    run = load_run(tmp_path)
    found = infer_by_steps(run, Discs(), seed=5)

    def loss(codes: Tensor) -> float:
        x = torch.rand(4, 400, 2, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            return float((run.model.bind(codes)(x) - Discs().color(torch.arange(4), x)).square().mean())

    assert fit.source is not None
    before = torch.zeros(4, 8) if name == "cavia" else next(fit.source.parameters()).detach().expand(4, -1)
    assert loss(found.codes) < 0.4 * loss(before)
    with pytest.raises(InputError, match="holds images, the family holds shapes"):
        infer_by_steps(run, FAMILIES["shapes"])
