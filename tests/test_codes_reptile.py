"""Reptile: from the start that it finds, a few steps do what they do not from a fresh one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields.codes import Reptile
from hyperfields.codes.reptile import ReptileCodes
from hyperfields.data import Kind, Points
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full, Independent
from hyperfields.model import ModelConfig
from hyperfields.tasks import Objective, TrainConfig, task_of
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.weights import split

from ._analytic import FAMILIES, Discs

FIELDS: dict[Kind, Field] = {
    "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
    "shapes": SDFField(Fourier(3, 2), hidden=(16, 16)),
    "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
}


def adapted(source: ReptileCodes, field: Field, objective: Objective, scenes: Tensor, seed: int = 7) -> Tensor:
    """Weights `[s n]` of scenes after the steps of the source."""
    generator = torch.Generator().manual_seed(seed)

    def loss(codes: Tensor) -> Tensor:
        bound = BoundField(field, split(codes, field.spec), len(codes))
        return objective(bound, scenes, scenes, generator) * len(scenes)

    return source.final_codes(scenes, generator, loss)


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_from_its_start_a_few_steps_do_what_they_do_not_from_a_fresh_one(kind: Kind) -> None:
    field, train = FIELDS[kind], TrainConfig(4, 4 * (512 if kind == "views" else 128), rate_networks=5e-2)
    model = ModelConfig(field, Full(), 8)  # its codes would be weights whatever the generator
    run = fit(FAMILIES[kind], steps=40, model=model, train=train, codes=Reptile(), progress=False)
    assert isinstance(run.config.model.generator, Independent)
    assert isinstance(run.source, ReptileCodes)
    scenes, fresh, losses = torch.arange(4), ReptileCodes(field.spec, Reptile()), []
    for source in (run.source, fresh):
        objective = task_of(kind).objective(FAMILIES[kind], field, train, 4)
        start = source.start.detach().clone()
        own = adapted(source, field, objective, scenes)
        assert torch.equal(source.start, start)
        for codes in (own, start.expand(4, -1)):
            bound, generator = BoundField(field, split(codes, field.spec), 4), torch.Generator().manual_seed(1)
            with torch.no_grad():
                losses.append(sum(float(objective(bound, scenes, scenes, generator)) for _ in range(4)) / 4)
    after, common, after_from_fresh, _ = losses
    assert after < 0.7 * after_from_fresh, losses
    assert after < 0.7 * common, losses


def test_a_scene_descends_as_it_would_alone() -> None:
    field, train = ImageField(Fourier(2, 2), hidden=(8,)), TrainConfig(4, 4 * 64)

    class Same(Discs):
        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
            x = torch.linspace(0.05, 0.95, 2 * 64).reshape(1, 64, 2).expand(len(scenes), -1, -1)
            return Points(x, self.color(scenes, x))

    objective, source = task_of("images").objective(Same(), field, train, 4), ReptileCodes(field.spec, Reptile(steps=3))
    together = adapted(source, field, objective, torch.arange(4))
    alone = adapted(source, field, objective, torch.tensor([2]))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_the_start_is_the_way_to_where_scenes_get() -> None:
    field = ImageField(Fourier(2, 2), hidden=(8,))
    source, objective = (
        ReptileCodes(field.spec, Reptile()),
        task_of("images").objective(Discs(), field, TrainConfig(4, 4 * 64), 4),
    )
    scenes, generator = torch.arange(4), torch.Generator().manual_seed(0)

    def loss(codes: Tensor) -> Tensor:
        return objective(BoundField(field, split(codes, field.spec), 4), scenes, scenes, generator) * 4

    codes, penalty = source.codes(scenes, generator, loss)
    assert not codes.requires_grad  # nothing is differentiated twice
    penalty.backward()
    torch.testing.assert_close(source.start.grad, source.start.detach() - codes.mean(0))


def test_a_run_takes_its_few_steps_for_scenes_that_it_has_not_seen() -> None:
    model, train = ModelConfig(ImageField(Fourier(2, 3), hidden=(16,)), Full(), 8), TrainConfig(4, 4 * 128)
    run = fit(Discs(), steps=60, model=model, train=train, codes=Reptile(), progress=False)
    inferred = infer(run, Discs(names=("p", "q", "r", "s")), by="steps", seed=5, progress=False)
    x = torch.rand(4, 400, 2, generator=torch.Generator().manual_seed(3))
    assert run.source is not None
    start = next(run.source.parameters()).detach().expand(4, -1)
    with torch.no_grad():
        errors = [
            float((run.model.bind(codes)(x) - Discs().color(torch.arange(4), x)).square().mean())
            for codes in (inferred.codes, start)
        ]
    assert errors[0] < 0.5 * errors[1]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="wanted at least 1 step and a rate above 0"):
        Reptile(steps=0)
    with pytest.raises(InputError, match="wanted at least 1 step and a rate above 0"):
        Reptile(rate=0.0)
