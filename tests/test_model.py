"""The whole model: a batch of scenes is a loop over scenes, for every field, generator and encoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields.fields import BoundField, Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import TABLE, Encoding, FactoredGrid, Fourier, HashGrid, Identity
from hyperfields.hypernets import Bayes, Full, Generator, Independent, LowRank
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.weights import numel

from ._generators import generators

GENERATORS = {name: made for name, made in generators(8).items() if name != "low rank, one layer"}
FIELDS = ("images", "shapes", "views")
ENCODINGS = ("hash grid", "factored grid", "fourier", "identity")


def encoding_of(name: str, dims: int) -> Encoding:
    if name == "hash grid":
        return HashGrid(dims, 3, 2, 7, 4, 16)
    if name == "factored grid":
        return FactoredGrid(dims, 3, 2, 7, 4, 16, bases=3)
    return Fourier(dims, 2) if name == "fourier" else Identity(dims)


def field_of(kind: str, encoding: str) -> Field:
    if kind == "images":
        return ImageField(encoding_of(encoding, 2), hidden=(7, 6))
    if kind == "shapes":
        return SDFField(encoding_of(encoding, 3), hidden=(9,))
    return RadianceField(encoding_of(encoding, 3), hidden=(7,), geometry=5, color_hidden=(6,))


def model_of(kind: str, encoding: str, generator: Generator, scenes: int = 3) -> HyperField:
    """In float64, so that a batch and a loop differ by rounding only, and a wrong one by much more."""
    return HyperField(ModelConfig(field_of(kind, encoding), generator, 5), scenes).double()


def points_of(kind: str, *shape: int) -> list[Tensor]:
    """What a bound function takes: points in its box, and unit directions for views."""
    if kind == "images":
        return [torch.rand(*shape, 2, dtype=torch.float64)]
    points = [torch.rand(*shape, 3, dtype=torch.float64) * 2 - 1]
    if kind == "views":
        points.append(torch.nn.functional.normalize(torch.randn(*shape, 3, dtype=torch.float64), dim=-1))
    return points


def columns(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Everything that a function answers, side by side."""
    return result if isinstance(result, Tensor) else torch.cat(result, -1)


@pytest.mark.parametrize("counts", [None, [6, 0, 11]], ids=["equal", "ragged"])
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FIELDS)
def test_a_batch_of_scenes_is_a_loop_over_scenes(
    kind: str, encoding: str, generator: Generator, counts: list[int] | None
) -> None:
    """Values, the gradient of every code, and the gradient of every parameter."""
    model = model_of(kind, encoding, generator)
    codes = model.latents(torch.arange(3)).detach().requires_grad_()
    if counts is None:
        points = points_of(kind, 3, 8)
        batch = columns(model.bind(codes)(*points)).flatten(0, 1)
        pieces = [[p[scene : scene + 1] for p in points] for scene in range(3)]
    else:
        points = points_of(kind, sum(counts))
        batch = columns(model.bind(codes)(*points, torch.tensor(counts)))
        pieces = [list(t) for t in zip(*[p.split(counts) for p in points], strict=True)]
        pieces = [[p[None] for p in piece] for piece in pieces]
    loop = torch.cat([columns(model.bind(codes[s : s + 1])(*pieces[s]))[0] for s in range(3)])
    torch.testing.assert_close(batch, loop, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(batch[:6], batch[6:12], atol=1e-6)  # scenes differ, otherwise nothing is tested

    cotangent, leaves = torch.randn_like(batch), [codes, *model.hypernet.parameters()]
    gradients = [torch.autograd.grad(result, leaves, cotangent) for result in (batch, loop)]
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert (gradients[0][0].norm(dim=1) > 0).tolist() == [counts is None or count > 0 for count in counts or [1] * 3]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FIELDS)
def test_a_batch_of_scenes_that_share_nothing_is_a_loop_over_them(kind: str, encoding: str) -> None:
    field = field_of(kind, encoding)
    model = HyperField(ModelConfig(field, Independent(), numel(field.spec)), 3).double()
    codes, points = model.latents.codes.detach() * 0.3, points_of(kind, 3, 8)
    batch = columns(model.bind(codes)(*points))
    for s in range(3):
        alone = columns(model.bind(codes[s : s + 1])(*[p[s : s + 1] for p in points]))
        torch.testing.assert_close(batch[s : s + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_batch_of_refined_scenes_is_a_loop_over_them(encoding: str) -> None:
    model = model_of("views", encoding, LowRank())
    points = points_of("views", 3, 8)
    spec = model.config.field.spec
    residual = {name: 0.3 * torch.randn(3, *entry.shape).double() for name, entry in spec.items()}
    codes = model.latents.codes
    batch = columns(model.bind(codes, residual)(*points))
    assert not torch.allclose(batch, columns(model.bind(codes)(*points)), atol=1e-3)
    for s in range(3):
        fn = model.bind(codes[s : s + 1], {name: value[s : s + 1] for name, value in residual.items()})
        alone = columns(fn(*[p[s : s + 1] for p in points]))
        torch.testing.assert_close(batch[s : s + 1], alone, rtol=1e-12, atol=1e-12)


def test_fitted_scenes_are_bound_by_number() -> None:
    model, points = model_of("images", "hash grid", Full()), points_of("images", 2, 6)
    fn, codes = model(torch.tensor([2, 0])), model.latents.codes[[2, 0]]
    assert torch.equal(columns(fn(*points)), columns(model.bind(codes)(*points)))
    columns(fn(*points)).sum().backward()
    gradient = model.latents.codes.grad
    assert gradient is not None
    assert gradient.norm(dim=1).gt(0.0).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", FIELDS)
def test_a_model_has_the_kind_of_its_field(kind: str) -> None:
    assert model_of(kind, "identity", Full()).kind == kind


def test_a_loop_of_ones_own_needs_no_optimiser_of_ours() -> None:
    """Hooks, and any optimiser of torch over all parameters."""
    model, points = model_of("images", "hash grid", Full()), points_of("images", 3, 32)
    calls = []
    model.register_forward_hook(lambda module, args, bound: calls.append(bound.scenes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (columns(model(torch.arange(3))(*points)) - 0.7).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert calls == [3] * 20


def test_a_model_of_a_distribution_draws_from_the_generator_that_is_given() -> None:
    config = ModelConfig(field_of("images", "fourier"), Full(), 5, bayes=Bayes("factors"))
    model, x = HyperField(config, 2).double(), points_of("images", 2, 6)[0]
    codes = model.latents.codes.detach()
    drawn = [model.sample(codes, torch.Generator().manual_seed(seed))[0](x) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(model.bind(codes)(x), model.bind(codes)(x))


def test_a_bound_scene_keeps_its_weights_when_the_model_changes() -> None:
    model, points = model_of("images", "fourier", Full()), points_of("images", 1, 4)
    fn = model.bind(model.latents.codes[:1])
    before = columns(fn(*points))
    with torch.no_grad():
        model.latents.codes.add_(1.0)
    assert torch.equal(columns(fn(*points)), before)
    assert not torch.allclose(columns(model.bind(model.latents.codes[:1])(*points)), before)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_density_alone_is_the_density_with_colour(encoding: str) -> None:
    model = model_of("views", encoding, LowRank())
    fn = model.bind(model.latents.codes)
    x, d = points_of("views", 17)
    counts = torch.tensor([10, 0, 7])
    result = fn(x, d, counts)
    assert isinstance(result, tuple)
    torch.testing.assert_close(fn.density(x, counts), result[0], rtol=1e-12, atol=0.0)  # two kernels


def test_density_of_another_kind_is_refused_by_name() -> None:
    model = model_of("shapes", "identity", Full())
    with pytest.raises(TypeError, match="density: a SDFField has none; wanted a RadianceField"):
        model.bind(model.latents.codes).density(torch.zeros(3, 1, 3).double())


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (1, 2, 5)], ids=str)
def test_codes_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"codes: got shape \(.*\), wanted \[s, 5\]"):
        model_of("images", "identity", Full()).bind(torch.zeros(shape).double())


def test_a_scene_costs_its_code_and_its_share_of_the_networks() -> None:
    field = ImageField(FactoredGrid(2, 3, 2, 7, 4, 16, bases=3), hidden=(7,))
    model = HyperField(ModelConfig(field, Full(), 5), scenes=10)
    rows = field.encoding.grid.rows  # type: ignore[union-attr]
    table = rows * 2 * 3 + 3 * 3 * (5 + 1)  # 3 bases; coefficients of 3 levels from 5 numbers
    mlp = (6 * 7 + 7 + 7 * 3 + 3) * (5 + 1)
    assert model.networks_numel() == table + mlp
    assert model.bytes_per_scene() == ((table + mlp) * 2 / 10 + 10, 10)
    assert model.bytes_per_scene(40, bytes_per_number=4) == ((table + mlp) * 4 / 40 + 20, 20)


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_parameter_has_exactly_one_role(encoding: str, generator: Generator) -> None:
    model = model_of("images", encoding, generator)
    groups = parameter_groups(model)
    assert set(groups) == {"grid", "networks", "latents"}
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert groups["latents"] == [model.latents.codes]
    spec = model.config.field.spec
    rows = spec[TABLE].numel if TABLE in spec else 0
    assert sum(p.numel() for p in groups["grid"]) == rows * (3 if encoding == "factored grid" else 1)


def test_a_bound_function_says_how_many_scenes_it_has() -> None:
    model = model_of("images", "identity", Full())
    fn = model.bind(model.latents.codes[[0, 2]])
    assert isinstance(fn, BoundField)
    assert fn.scenes == 2
    assert fn.field is model.config.field
