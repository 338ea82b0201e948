"""Meta-learning: second order agrees with finite differences, and a few steps find a code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.codes.cavia import (
    RATES,
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
from hyperfields.codes.table import CodeSource
from hyperfields.data import Kind, Points
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, Identity
from hyperfields.hypernets import Full, Hierarchical, Independent, Modulation
from hyperfields.model import BoundField, HyperField, ModelConfig
from hyperfields.runs.checkpoint import load_run
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.fit import Fit, FitConfig, alone

from ._analytic import FAMILIES, Discs

SIREN = ImageField(Identity(2), hidden=(6, 6), activation="sine", frequency=4.0)


GRID = FactoredGrid(2, 3, 2, 6, 4, 8, bases=2)
SOLID = FactoredGrid(3, 2, 2, 6, 4, 8, bases=2)
TINY_FIELDS: dict[str, Field] = {
    "sine": SIREN,
    "images": ImageField(GRID, hidden=(8,)),
    "shapes": SDFField(SOLID, hidden=(8,)),
    "views": RadianceField(SOLID, hidden=(8,), geometry=3, color_hidden=(8,), step=0.2, occupancy=4),
}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss_after_steps(model: HyperField, rates: Tensor, order: int) -> Tensor:
    """On the same samples whenever it is called."""
    objective = task_of(model.kind).objective(FAMILIES[model.kind], model.config.field, TrainConfig(2, 256), 2)
    scenes = torch.arange(2)

    def loss(codes: Tensor) -> Tensor:
        return objective(model.bind(codes), scenes, scenes, torch.Generator().manual_seed(1)) * 2

    return loss(adapt(loss, torch.zeros(2, 4), rates, 3, order))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("field", TINY_FIELDS.values(), ids=TINY_FIELDS)
@pytest.mark.usefixtures("double")
def test_second_order_is_the_slope_of_the_whole_and_first_order_is_not(field: Field, order: int) -> None:
    """Central differences of the loss after the inner steps, along random directions of all parameters."""
    model = HyperField(ModelConfig(field, Hierarchical(3), 4), 2)
    rates = torch.full((4,), RATES[model.kind], requires_grad=True)
    leaves = [*model.hypernet.parameters(), rates]
    gradients = torch.autograd.grad(loss_after_steps(model, rates, order), leaves, allow_unused=True)
    slopes, differences, h = [], [], 1e-7  # crosses no kink of leaky ReLU
    for _ in range(5):
        directions = [torch.randn_like(leaf) for leaf in leaves]
        slopes.append(sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None))
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for leaf, d in zip(leaves, directions, strict=True):
                    leaf += sign * h * d
            values.append(float(loss_after_steps(model, rates, order).detach()))
            with torch.no_grad():
                for leaf, d in zip(leaves, directions, strict=True):
                    leaf -= sign * h * d
        differences.append((values[0] - values[1]) / (2.0 * h))
    found, wanted = torch.tensor(slopes), torch.tensor(differences)
    relative = float((found - wanted).norm() / wanted.norm())
    print(f"order {order}: {relative:.1e} from central differences")
    assert relative < 1e-6 if order == 2 else relative > 1e-3


@pytest.mark.parametrize("kind", FAMILIES)
def test_on_the_kernels_second_order_is_refused_and_not_wrong(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "twice_differentiable", contextlib.nullcontext)
    model = HyperField(ModelConfig(TINY_FIELDS[kind], Hierarchical(3), 4), 2)
    rates = torch.full((4,), RATES[kind], requires_grad=True)
    with pytest.raises(RuntimeError, match="hyperfields"):
        loss_after_steps(model, rates, 2).backward()


@pytest.mark.parametrize(
    ("kind", "order"), [("images", 1), ("images", 2), ("shapes", 1), ("shapes", 2), ("views", 1), ("views", 2)]
)
def test_a_few_steps_find_the_codes(kind: Kind, order: int) -> None:
    fields: dict[Kind, Field] = {
        "images": ImageField(Identity(2), hidden=(16, 16), activation="sine", frequency=6.0),
        "shapes": SDFField(Identity(3), hidden=(16, 16), activation="sine", frequency=3.0),
        "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
    }
    meta = Meta(order=order, rate=RATES[kind])  # type: ignore[arg-type]
    samples = 4 * 1024 if kind == "views" else 4 * 128
    recipe = TrainConfig(4, samples, rate_networks=1e-2)
    config = ModelConfig(fields[kind], Modulation(), 16)
    found = meta_fit(FAMILIES[kind], config, meta, recipe, steps=120 if kind == "views" else 200)
    objective = task_of(kind).objective(FAMILIES[kind], config.field, recipe, 4)
    scenes, generator = torch.arange(4), torch.Generator().manual_seed(1)
    fresh = found.codes(objective, scenes, scenes, generator).detach()  # from other samples than those of the fit
    with torch.no_grad():
        before, after, swapped = (
            sum(float(objective(found.model.bind(c), scenes, scenes, generator)) for _ in range(4)) / 4
            for c in (torch.zeros_like(fresh), fresh, fresh.roll(1, 0))
        )
    assert after < 0.5 * before
    assert after < 0.5 * swapped


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_from_the_start_that_reptile_finds_a_few_steps_do_what_they_do_not_from_a_fresh_one(kind: Kind) -> None:
    fields: dict[Kind, Field] = {
        "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
        "shapes": SDFField(Fourier(3, 2), hidden=(16, 16)),
        "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
    }
    field, reptile, recipe = fields[kind], Reptile(), TrainConfig(4, 4 * (1024 if kind == "views" else 128))
    start = reptile_fit(FAMILIES[kind], field, reptile, recipe, steps=40)
    fresh = {name: entry.initial()[None] for name, entry in field.spec.items()}
    scenes, found = torch.arange(4), []
    for weights in (start, fresh):
        objective, generator = (
            task_of(kind).objective(FAMILIES[kind], field, recipe, 4),
            torch.Generator().manual_seed(7),
        )
        own, _ = adapt_weights(weights, objective, scenes, reptile, generator)
        assert all(torch.equal(value, start[name]) for name, value in start.items())
        for bound in (
            BoundField(field, own, 4),
            BoundField(field, {k: v.expand(4, *v.shape[1:]) for k, v in weights.items()}, 4),
        ):
            with torch.no_grad():
                found.append(sum(float(objective(bound, scenes, scenes, generator)) for _ in range(4)) / 4)
    adapted, common, adapted_fresh, _ = found
    assert adapted < 0.6 * adapted_fresh, found
    assert adapted < 0.7 * common, found


def test_a_scene_descends_as_it_would_alone() -> None:
    field, recipe = ImageField(Fourier(2, 2), hidden=(8,)), TrainConfig(4, 4 * 64)
    start = {name: entry.initial()[None] for name, entry in field.spec.items()}

    class Same(Discs):
        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
            x = torch.linspace(0.05, 0.95, 2 * 64).reshape(1, 64, 2).expand(len(scenes), -1, -1)
            return Points(x, self.color(scenes, x))

    objective = task_of(Same().kind).objective(Same(), field, recipe, 4)
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
        meta_fit(Discs(), ModelConfig(SIREN, Independent(), 99), Meta(), TrainConfig(4, 64), steps=1)


@pytest.mark.parametrize("name", ["cavia", "reptile"])
def test_a_run_knows_how_to_take_its_few_steps(name: str, tmp_path: Path) -> None:
    """Scenes that a fit has seen, found again from other samples by the steps alone."""
    model, recipe = ModelConfig(SIREN, Full(), 8), TrainConfig(4, 4 * 128, rate_networks=1e-2)
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
