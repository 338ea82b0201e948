"""Every generator fits a small analytic family of images, of shapes and of views, each scene by its own code."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hyperfields import hypernets
from hyperfields.data import Kind
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Fourier, Identity
from hyperfields.hypernets import Dynamic, Generator, Independent, LowRank, Modulation, PerLayer
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.tasks import TrainConfig, task_of
from hyperfields.training.trainer import Fields, Length, Progress, Trainer
from hyperfields.weights import numel

from ._analytic import FAMILIES
from ._generators import generators

GENERATORS: dict[str, Generator] = {
    **generators(16),
    "dynamic, recurrent": Dynamic("recurrent"),
    "dynamic, outer": Dynamic("outer"),
    "direct": Independent(),
}
FIELDS: dict[Kind, Field] = {
    "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
    "shapes": SDFField(Fourier(3, 2), hidden=(16, 16)),
    "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
}
RECIPES: dict[Kind, TrainConfig] = {
    "images": TrainConfig(4, 4 * 128, rate_networks=1e-2),
    "shapes": TrainConfig(4, 4 * 128, rate_networks=1e-2),
    "views": TrainConfig(4, 4 * 1024, rate_networks=1e-2),
}
STEPS: dict[Kind, int] = {"images": 300, "shapes": 200, "views": 150}
BAR: dict[Kind, float] = {"images": 0.005, "shapes": 0.15, "views": 0.04}  # of the loss


def model_of(field: Field, generator: Generator) -> HyperField:
    """A model of four scenes; codes that are the weights themselves start as weights do."""
    if not isinstance(generator, Independent):
        return HyperField(ModelConfig(field, generator, 8), 4)
    model = HyperField(ModelConfig(field, generator, numel(field.spec)), 4)
    codes = [torch.cat([entry.initial().flatten() for entry in field.spec.values()]) for _ in range(4)]
    model.latents.codes.data.copy_(torch.stack(codes))
    return model


def fitted(model: HyperField, kind: Kind, recipe: TrainConfig, steps: int) -> tuple[float, float]:
    """Losses after a short fit: (of the scenes, of the scenes with each other's codes)."""
    objective = task_of(kind).objective(FAMILIES[kind], model.config.field, recipe, 4)
    groups = parameter_groups(model)
    model.latents.sparse = True
    trainer = Trainer(lambda s, generator: Fields(model(s)), groups, objective, torch.arange(4), recipe, 0)
    trainer.fit(Length(steps=steps), Progress())
    scenes, generator = torch.arange(4), torch.Generator().manual_seed(1)
    codes = model.latents.codes
    with torch.no_grad():
        right, swapped = (
            sum(float(objective(model.bind(c), scenes, scenes, generator)) for _ in range(4)) / 4
            for c in (codes, codes.roll(1, 0))
        )
    return right, swapped


def test_every_generator_is_here() -> None:
    named = {**hypernets.GENERATORS, **hypernets.OF_TIME}
    assert {type(generator) for generator in GENERATORS.values()} == {type(make()) for make in named.values()}


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())
def test_it_fits_a_small_family(generator: Generator, kind: Kind) -> None:
    recipe = RECIPES[kind]
    if isinstance(generator, Independent):
        recipe = dataclasses.replace(recipe, rate_latents=1e-2, prior=0.0)  # of weights
    right, swapped = fitted(model_of(FIELDS[kind], generator), kind, recipe, STEPS[kind])
    assert right < BAR[kind]
    assert right < swapped / 4.0


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("generator", [Modulation(), Modulation(scale=False), LowRank(2), PerLayer(16)], ids=repr)
def test_it_fits_a_small_family_of_sine_fields(generator: Generator, kind: Kind) -> None:
    """SIREN: coordinates themselves, sines between layers."""
    dims = 2 if kind == "images" else 3
    field = dataclasses.replace(FIELDS[kind], encoding=Identity(dims), activation="sine", frequency=6.0)
    model = HyperField(ModelConfig(field, generator, 8), 4)
    right, swapped = fitted(model, kind, RECIPES[kind], STEPS[kind])
    assert right < BAR[kind]
    assert right < swapped / 4.0
