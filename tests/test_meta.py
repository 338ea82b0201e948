"""Meta-learning: second order agrees with finite differences, and a few steps find a code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields.encodings import Fourier, HashGrid, Identity
from hyperfields.errors import InputError
from hyperfields.families import Kind
from hyperfields.fields import Field, ImageField, RadianceField, ShapeField
from hyperfields.fit import Objective
from hyperfields.hypernets import Direct, Modulation
from hyperfields.meta import Meta, adapt, meta_fit
from hyperfields.model import HyperField, ModelConfig
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


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="wanted at least 1 step"):
        Meta(steps=0)
    with pytest.raises(InputError, match="has no networks"):
        meta_fit(Discs(), ModelConfig(SIREN, Direct(), 99), Meta(), Recipe(4, 64), steps=1)
