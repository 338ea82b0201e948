"""Fields: functions of points whose weights are an argument."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import TABLE, FactoredGrid, Fourier, HashGrid, Identity, SphericalHarmonics
from hyperfields.weights import Weights


def fresh(field: Field, scenes: int = 1) -> Weights:
    """Weights as without a hypernetwork, one set a scene."""
    return {name: torch.stack([e.initial() for _ in range(scenes)]) for name, e in field.spec.items()}


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, 3), dim=-1)


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (ImageField(Identity(2)), "images"),
        (SDFField(Identity(3)), "shapes"),
        (RadianceField(Identity(3)), "views"),
    ],
)
def test_each_field_has_a_kind(field: Field, kind: str) -> None:
    assert field.kind == kind


def test_a_spec_names_the_encoding_and_every_layer() -> None:
    image = ImageField(HashGrid(2, 3, 2), hidden=(16,), channels=4)
    assert {name: entry.shape for name, entry in image.spec.items()} == {
        TABLE: (image.encoding.grid.rows, 2),  # type: ignore[union-attr]
        "mlp.0.weight": (16, 6),
        "mlp.0.bias": (16,),
        "mlp.1.weight": (4, 16),
        "mlp.1.bias": (4,),
    }
    radiance = RadianceField(
        Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(8,), directions=SphericalHarmonics(2)
    )
    shapes = {name: entry.shape for name, entry in radiance.spec.items() if name.endswith("weight")}
    assert shapes == {
        "density.0.weight": (16, 15),
        "density.1.weight": (8, 16),
        "color.0.weight": (8, 7 + 4),
        "color.1.weight": (3, 8),
    }


def test_an_image_of_zero_weights_is_grey() -> None:
    field = ImageField(Identity(2), channels=2)
    weights = {name: torch.zeros_like(value) for name, value in fresh(field).items()}
    assert torch.equal(field(weights, torch.rand(1, 5, 2)), torch.full((1, 5, 2), 0.5))


def test_an_image_without_hidden_layers_is_linear_in_its_encoding() -> None:
    field = ImageField(Identity(2), hidden=(), channels=1)
    weights = {"mlp.0.weight": torch.tensor([[[2.0, 3.0]]]), "mlp.0.bias": torch.tensor([[0.25]])}
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.5]]])  # (-1, -1) and (1, 0) in the encoding
    assert field(weights, x).flatten().tolist() == [-2 - 3 + 0.25 + 0.5, 2 + 0.25 + 0.5]


def test_a_shape_lives_in_the_scene_box() -> None:
    """Points of [-1, 1]^3 go to the encoding's [0, 1]^3, whose Identity brings them back."""
    field = SDFField(Identity(3), hidden=())
    weights = {"mlp.0.weight": torch.tensor([[[1.0, 10.0, 100.0]]]), "mlp.0.bias": torch.zeros(1, 1)}
    x = torch.tensor([[[-1.0, 1.0, 0.0], [0.5, 0.25, -0.5]]])
    torch.testing.assert_close(field(weights, x).flatten(), torch.tensor([9.0, -47.0]))


def test_the_gradient_of_a_distance_is_its_slope() -> None:
    """Normals come from it: compared with central differences in float64."""
    field = SDFField(FactoredGrid(3, 3, 2, 9, 4, 16))
    weights = {name: value.double() for name, value in fresh(field, 2).items()}
    x = (torch.rand(2, 20, 3, dtype=torch.float64) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(field(weights, x).sum(), x)
    steps = 1e-6 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        slope = torch.cat([(field(weights, x + h) - field(weights, x - h)) / 2e-6 for h in steps], -1)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-7)


def test_density_is_the_exponential_of_the_first_output_with_a_ceiling() -> None:
    field = RadianceField(Identity(3), hidden=(), geometry=2)
    weights = fresh(field)
    weights["density.0.weight"] = torch.zeros(1, 3, 3)
    for output, wanted in ((-3.0, 0.049787), (0.0, 1.0), (2.0, 7.389056), (50.0, 2980.958)):
        weights["density.0.bias"] = torch.tensor([[output, 0.3, 0.4]])
        density, _ = field(weights, torch.zeros(1, 4, 3), unit(1, 4))
        torch.testing.assert_close(density, torch.full((1, 4, 1), wanted), rtol=1e-5, atol=0)


def test_density_does_not_depend_on_the_direction_and_colour_does() -> None:
    field, x = RadianceField(Fourier(3, 2)), torch.rand(2, 30, 3) * 2 - 1
    weights = fresh(field, 2)
    density_a, color_a = field(weights, x, unit(2, 30))
    density_b, color_b = field(weights, x, unit(2, 30))
    assert torch.equal(density_a, density_b)
    torch.testing.assert_close(field.density(weights, x), density_a, rtol=1e-6, atol=0.0)  # two kernels
    assert (color_a - color_b).abs().mean() > 0.01
    assert density_a.shape == (2, 30, 1)
    assert color_a.shape == (2, 30, 3)
    assert ((color_a > 0) & (color_a < 1)).all()


def test_colour_depends_on_the_point_too() -> None:
    field, d = RadianceField(Fourier(3, 2)), unit(1, 30)
    weights = fresh(field)
    colors = [field(weights, torch.rand(1, 30, 3), d)[1] for _ in range(2)]
    assert (colors[0] - colors[1]).abs().mean() > 0.01


def test_a_radiance_field_lives_in_the_scene_box() -> None:
    field = RadianceField(Identity(3), hidden=(), geometry=1)
    weights = fresh(field)
    weights["density.0.weight"] = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]])
    weights["density.0.bias"] = torch.zeros(1, 2)
    x = torch.tensor([[[1.0, 0.0, -1.0], [0.5, -0.5, 0.5]]])
    torch.testing.assert_close(field.density(weights, x).log().flatten(), torch.tensor([-2.0, 1.0]))


@pytest.mark.parametrize(
    "field",
    [ImageField(HashGrid(2)), SDFField(HashGrid(3)), RadianceField(HashGrid(3))],
    ids=["image", "shape", "views"],
)
def test_packed_points_give_what_equal_ones_give(field: Field) -> None:
    weights, dims = fresh(field, 2), field.encoding.dims
    weights[TABLE] = weights[TABLE][:1]
    points = [torch.rand(2, 9, dims)] + ([unit(2, 9)] if isinstance(field, RadianceField) else [])
    call: Callable[..., Tensor | tuple[Tensor, Tensor]] = field
    equal = call(weights, *points)
    packed = call(weights, *[p.flatten(0, 1) for p in points], torch.tensor([9, 9]))
    for a, b in zip(*[(r,) if isinstance(r, Tensor) else r for r in (equal, packed)], strict=True):
        assert torch.equal(a.flatten(0, 1), b)
