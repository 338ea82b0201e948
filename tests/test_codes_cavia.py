"""CAVIA: second order agrees with finite differences, and a few steps find a code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.codes import CAVIA
from hyperfields.codes.cavia import CAVIACodes, adapt
from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, Identity
from hyperfields.hypernets import Full, Hierarchical, Independent, Modulation
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs.run import load_run
from hyperfields.tasks import TrainConfig, task_of
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.weights import numel

from ._analytic import FAMILIES, Discs

# These fits are short, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:fit. scene")

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
    rates = torch.full((4,), task_of(model.kind).inner_rate, requires_grad=True)
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
    rates = torch.full((4,), task_of(kind).inner_rate, requires_grad=True)
    with pytest.raises(RuntimeError, match="hyperfields"):
        loss_after_steps(model, rates, 2).backward()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_few_steps_find_the_codes(kind: Kind, order: Literal[1, 2]) -> None:
    fields: dict[Kind, Field] = {
        "images": ImageField(Identity(2), hidden=(16, 16), activation="sine", frequency=6.0),
        "shapes": SDFField(Identity(3), hidden=(16, 16), activation="sine", frequency=3.0),
        "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
    }
    train = TrainConfig(4, 4 * (1024 if kind == "views" else 128), rate_networks=1e-2)
    model, steps = ModelConfig(fields[kind], Modulation(), 16), 120 if kind == "views" else 200
    run = fit(FAMILIES[kind], steps=steps, model=model, train=train, codes=CAVIA(order=order), progress=False)
    fresh = infer(run, FAMILIES[kind], by="steps", seed=1, progress=False).codes  # from samples of its own
    objective = task_of(kind).objective(FAMILIES[kind], model.field, train, 4)
    scenes, generator = torch.arange(4), torch.Generator().manual_seed(1)
    with torch.no_grad():
        before, after, swapped = (
            sum(float(objective(run.model.bind(c), scenes, scenes, generator)) for _ in range(4)) / 4
            for c in (torch.zeros_like(fresh), fresh, fresh.roll(1, 0))
        )
    assert after < 0.5 * before
    assert after < 0.5 * swapped


def test_rates_are_learned_and_codes_have_no_second_prior() -> None:
    model, train = ModelConfig(SIREN, Full(), 8), TrainConfig(4, 4 * 128, rate_networks=1e-2)
    run = fit(Discs(), steps=30, model=model, train=train, codes=CAVIA(), progress=False)
    assert isinstance(run.source, CAVIACodes)
    assert run.source.log_rates.detach().abs().min() > 0.0
    assert not run.source.prior
    assert run.source.config.rate == run.task.inner_rate


def test_a_step_of_a_code_has_a_longest_length() -> None:
    def steep(codes: Tensor) -> Tensor:
        return 1e6 * codes.sum()

    codes = adapt(steep, torch.zeros(3, 5), torch.ones(5), 1, 1, longest=0.3)
    torch.testing.assert_close(codes.square().mean(1).sqrt(), torch.full((3,), 0.3))


def test_scenes_that_a_run_has_seen_are_found_again_from_its_file(tmp_path: Path) -> None:
    model, train = ModelConfig(SIREN, Full(), 8), TrainConfig(4, 4 * 128, rate_networks=1e-2)
    fit(Discs(), tmp_path / "run", steps=150, model=model, train=train, codes=CAVIA(), progress=False)
    run = load_run(tmp_path / "run")
    inferred = infer(run, Discs(), by="steps", seed=5, progress=False)

    def loss(codes: Tensor) -> float:
        x = torch.rand(4, 400, 2, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            return float((run.model.bind(codes)(x) - Discs().color(torch.arange(4), x)).square().mean())

    assert loss(inferred.codes) < 0.4 * loss(torch.zeros(4, 8))
    with pytest.raises(InputError, match="holds images, the family holds shapes"):
        infer(run, FAMILIES["shapes"], by="steps")
    with pytest.raises(InputError, match="fitted without an encoder"):
        infer(run, Discs(), by="encoder")
    with pytest.raises(InputError, match="--minutes and --steps have no meaning"):
        infer(run, Discs(), by="steps", steps=3)
    (tmp_path / "run/codes.safetensors").unlink()
    with pytest.raises(InputError, match=r"codes\.safetensors: cannot be read"):
        infer(load_run(tmp_path / "run"), Discs(), by="steps")


def test_bad_settings_are_refused() -> None:
    for settings in ({"steps": 0}, {"order": 3}, {"rate": -1.0}, {"longest": 0.0}):
        with pytest.raises(InputError, match="wanted at least 1 step, order 1 or 2"):
            CAVIA(**settings)  # type: ignore[arg-type]
    model = ModelConfig(SIREN, Independent(), numel(SIREN.spec))
    with pytest.raises(InputError, match="CAVIA needs networks to serve, Independent has none"):
        fit(Discs(), steps=1, model=model, train=TrainConfig(4, 64), codes=CAVIA())
