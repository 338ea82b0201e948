"""Hypernetworks: each generator follows its formula, and at step 0 the field is normally initialised."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.fields import ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import TABLE, FactoredGrid, Fourier, HashGrid, Identity
from hyperfields.hypernets import (
    Chunked,
    Full,
    Generator,
    Hierarchical,
    Hypernet,
    Independent,
    LowRank,
    Modulation,
    PerLayer,
)
from hyperfields.weights import WeightEntry, Weights, WeightSpec, flatten, layers, linear_spec, numel

from ._generators import generators

GENERATORS = generators(32)
SPEC = linear_spec("mlp", (6, 9, 9, 2))

each_generator = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())


def moves(generator: Generator, name: str) -> bool:
    """Whether a weight depends on the code."""
    if isinstance(generator, LowRank) and generator.layer >= 0:
        return name.startswith(f"mlp.{generator.layer}.")
    return name.endswith("bias") or generator != Modulation(scale=False)


def base_of(net: Hypernet, name: str) -> Tensor:
    """The part of a weight that all scenes share, `[1 ...]`: low rank and modulation."""
    return dict(net.generator.named_parameters())["base." + name.replace(".", "/")].detach()[None]


# -------------------------------------------------------------------------------------------------- at step 0


def activations(weights: Weights, x: Tensor) -> list[Tensor]:
    """Outputs of each layer before its activation, `[s n o]`."""
    found, h = [], x
    for weight, bias in layers(weights, "mlp"):
        h = h @ weight.mT + (0.0 if bias is None else bias[:, None])
        found.append(h)
        h = h.relu()
    return found


@torch.no_grad()
@each_generator
def test_at_step_0_the_activations_are_those_of_a_normally_initialised_field(generator: Generator) -> None:
    encoding = Fourier(2, 3)
    spec = ImageField(encoding, hidden=(32, 32)).spec
    x = encoding(torch.rand(1, 200, 2), {})
    generated, fresh = [], []
    for _ in range(40):
        weights = Hypernet(spec, 16, generator)(torch.randn(4, 16))
        generated.append([float(a.square().mean()) for a in activations(weights, x)])
        weights = {name: torch.stack([entry.initial() for _ in range(4)]) for name, entry in spec.items()}
        fresh.append([float(a.square().mean()) for a in activations(weights, x)])
    for layer, (got, wanted) in enumerate(zip(*torch.tensor([generated, fresh]).mean(1).tolist(), strict=True)):
        assert wanted / 1.5 < got < wanted * 1.5, f"layer {layer}: mean square {got}, wanted about {wanted}"


@torch.no_grad()
@each_generator
def test_at_step_0_a_sine_field_has_the_spread_that_its_sines_keep(generator: Generator) -> None:
    """Sitzmann et al. 2020, theorem 1.8: before each hidden sine a standard normal, after it a variance of a half."""
    spec = ImageField(Identity(2), hidden=(64, 64, 64), activation="sine").spec
    squares = []
    for _ in range(20):
        weights, h = Hypernet(spec, 16, generator)(torch.randn(4, 16)), torch.rand(1, 200, 2) * 2.0 - 1.0
        found = []
        for number, (weight, bias) in enumerate(layers(weights, "mlp")):
            assert bias is not None
            h = h @ weight.mT + bias[:, None]
            if 0 < number < 3:
                found.append(float(h.square().mean()))
            h = h.sin()
            if number < 3:
                assert 0.25 < float(h.var()) < 0.6
        squares.append(found)
    for mean in torch.tensor(squares).mean(0).tolist():
        assert 0.8 < mean < 1.3


@pytest.mark.parametrize(
    "encoding", [HashGrid(2, 4, 2, 10, 8, 64), FactoredGrid(2, 4, 2, 10, 8, 64, bases=3)], ids=repr
)
@torch.no_grad()
def test_at_step_0_tables_have_the_variance_that_the_spec_asks_for(encoding: HashGrid | FactoredGrid) -> None:
    squares = []
    for _ in range(20):
        weights = Hypernet(ImageField(encoding).spec, 16, Full())(torch.randn(4, 16))
        squares.append(weights[TABLE].square().mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(0.1**2 / 3, rel=0.15)


@torch.no_grad()
@each_generator
def test_at_step_0_scenes_differ_but_little(generator: Generator) -> None:
    weights = Hypernet(SPEC, 16, generator)(torch.randn(64, 16))
    for name in SPEC:
        if not moves(generator, name):
            assert torch.equal(weights[name], weights[name][:1].expand_as(weights[name]))
            continue
        share = weights[name].var(0).mean() / (SPEC[name].bound ** 2 / 3)
        assert 0.003 < float(share) < 0.15, f"{name}: share {share} of the variance comes from the latent"


# -------------------------------------------------------------------------------------------- every generator


@each_generator
@pytest.mark.parametrize(
    "field",
    [
        ImageField(FactoredGrid(2, 2, 2, 6, 4, 8, bases=3), hidden=(5,)),
        SDFField(HashGrid(3, 2, 2, 6, 4, 8), hidden=(6,)),
        RadianceField(Fourier(3, 2), hidden=(5, 6), geometry=3, color_hidden=(4,)),
        ImageField(Identity(2), hidden=(5, 6), activation="sine"),
    ],
    ids=["image", "shape", "radiance", "sine"],
)
def test_a_batch_of_codes_gives_every_weight_of_every_scene(
    generator: Generator, field: ImageField | SDFField | RadianceField
) -> None:
    net, codes = Hypernet(field.spec, 7, generator), torch.randn(3, 7)
    weights = net(codes)
    assert set(weights) == set(field.spec)
    for name, entry in field.spec.items():
        scenes = 1 if entry.source == "shared" else 3
        assert weights[name].shape == (scenes, *entry.shape)
        for scene in range(3):
            alone = net(codes[scene : scene + 1])[name][0]
            torch.testing.assert_close(alone, weights[name][scene % scenes], rtol=1e-5, atol=1e-6)


@each_generator
def test_every_parameter_and_the_code_learn(generator: Generator) -> None:
    spec = SPEC | HashGrid(2, 2, 2, 6, 4, 8).spec
    net, codes = Hypernet(spec, 7, generator), torch.randn(5, 7, requires_grad=True)
    sum((value * torch.randn_like(value)).sum() for value in net(codes).values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert codes.grad is not None
    assert codes.grad.abs().sum(1).gt(0).all()


@each_generator
def test_a_saved_generator_gives_the_same_weights_when_loaded(generator: Generator) -> None:
    spec: WeightSpec = SPEC | FactoredGrid(2, 2, 2, 6, 4, 8, bases=3).spec
    one, two, codes = Hypernet(spec, 7, generator), Hypernet(spec, 7, generator), torch.randn(2, 7)
    assert not torch.equal(one(codes)["mlp.0.weight"], two(codes)["mlp.0.weight"])
    two.load_state_dict(one.state_dict())
    a, b = one(codes), two(codes)
    assert all(torch.equal(a[name], b[name]) for name in spec)


# ----------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("generator", [Full(), Modulation(), Modulation(scale=False)], ids=repr)
def test_weights_of_a_linear_head_are_affine_in_the_code(generator: Generator) -> None:
    net = Hypernet(SPEC, 7, generator)
    a, b = torch.randn(2, 1, 7)
    ends, middle = net(torch.cat((a, b))), net(0.3 * a + 0.7 * b)
    for name in SPEC:
        wanted = 0.3 * ends[name][0] + 0.7 * ends[name][1]
        torch.testing.assert_close(middle[name][0], wanted, rtol=1e-5, atol=1e-6)


def test_layers_of_their_own_do_not_share_parameters() -> None:
    net, codes = Hypernet(SPEC, 16, PerLayer(8)), torch.randn(1, 16)
    net(codes)["mlp.1.weight"].sum().backward()
    reached = {name.split(".")[2] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"1"}


def test_weights_of_a_layer_vary_in_no_more_directions_than_its_code_has_numbers() -> None:
    net = Hypernet(SPEC, 16, Hierarchical(3)).double()
    weights = net(torch.randn(40, 16, dtype=torch.float64))
    for i in range(3):
        layer = torch.cat([weights[f"mlp.{i}.weight"].flatten(1), weights[f"mlp.{i}.bias"]], 1)
        assert int(torch.linalg.matrix_rank(layer - layer[:1], rtol=1e-8)) == 3


def test_chunks_are_one_network_told_which_chunk_is_wanted() -> None:
    net = Hypernet(SPEC, 16, Chunked(chunk=10, embedding=4, hidden=8))
    generator = net.generator
    assert generator.head.weight.shape == (10, 8)  # type: ignore[union-attr]
    assert [*generator.counts] == [7, 9, 2]  # type: ignore[union-attr, arg-type]  # layers of 63, 90 and 20 weights
    codes = torch.randn(2, 16)
    before = net(codes)
    with torch.no_grad():
        generator.chunk_embedding[7] += 1.0  # type: ignore[operator, index]  # the first chunk of the second layer
    after = net(codes)
    changed = (before["mlp.1.weight"] - after["mlp.1.weight"])[0].flatten().ne(0)
    assert changed.tolist() == [True] * 10 + [False] * 71
    assert torch.equal(before["mlp.0.weight"], after["mlp.0.weight"])
    assert torch.equal(before["mlp.1.bias"], after["mlp.1.bias"])


def test_low_rank_changes_one_layer_of_each_network_when_asked() -> None:
    spec = linear_spec("density", (6, 9, 3)) | linear_spec("color", (5, 7, 3))
    weights = Hypernet(spec, 16, LowRank(2, layer=1))(torch.randn(3, 16))
    moving = {name for name in spec if not torch.equal(weights[name][0], weights[name][1])}
    assert moving == {"density.1.weight", "density.1.bias", "color.1.weight", "color.1.bias"}


def test_weights_of_a_hidden_layer_are_not_affine_in_the_code() -> None:
    net = Hypernet(SPEC, 7, Full(hidden=16))
    weights = net(torch.stack((torch.ones(7), -torch.ones(7), torch.zeros(7))))["mlp.0.weight"]
    assert not torch.allclose(0.5 * (weights[0] + weights[1]), weights[2], atol=1e-4)


@pytest.mark.parametrize("mode", ["multiply", "add"])
def test_a_low_rank_change_has_its_rank_and_no_more(mode: str) -> None:
    net = Hypernet(SPEC, 16, LowRank(3, mode)).double()  # type: ignore[arg-type]
    weights = net(torch.randn(4, 16, dtype=torch.float64))
    for name, rank in (
        ("mlp.0.weight", 3),
        ("mlp.1.weight", 3),
        ("mlp.2.weight", 2),
    ):  # the last one is [2 9]
        base = base_of(net, name)
        change = weights[name] / base - 1.0 if mode == "multiply" else weights[name] - base
        assert torch.linalg.matrix_rank(change, rtol=1e-8).tolist() == [rank] * 4


def test_a_low_rank_generator_gives_biases_of_their_own() -> None:
    net = Hypernet(SPEC, 16, LowRank())
    biases = net(torch.randn(3, 16))["mlp.1.bias"]
    assert float(biases.std(0).detach().min()) > 0.0


def test_a_zero_code_gives_the_base_of_low_rank_and_modulation() -> None:
    for generator in (LowRank(4, "multiply"), LowRank(4, "add"), Modulation(), Modulation(scale=False)):
        net = Hypernet(SPEC, 16, generator)
        weights = net(torch.zeros(1, 16))
        assert all(torch.equal(weights[name], base_of(net, name)) for name in SPEC)


def test_a_scale_multiplies_whole_neurons() -> None:
    net = Hypernet(SPEC, 16, Modulation(scale=True)).double()
    weights = net(torch.randn(4, 16, dtype=torch.float64))
    factors = weights["mlp.1.weight"] / base_of(net, "mlp.1.weight")
    torch.testing.assert_close(factors, factors[:, :, :1].expand_as(factors), rtol=1e-9, atol=1e-9)
    assert float(factors[:, :, 0].std().detach()) > 0.05


def test_a_shift_leaves_the_matrices_shared_and_moves_the_biases() -> None:
    weights = Hypernet(SPEC, 16, Modulation(scale=False))(torch.randn(4, 16))
    for i in range(3):
        matrix, bias = weights[f"mlp.{i}.weight"], weights[f"mlp.{i}.bias"]
        assert torch.equal(matrix, matrix[:1].expand_as(matrix))
        assert not torch.equal(bias[0], bias[1])


def test_a_factored_table_is_a_mixture_of_each_level_by_itself() -> None:
    encoding = FactoredGrid(2, 3, 2, 8, 4, 16, bases=5)
    net = Hypernet(encoding.spec | SPEC, 16, Full()).double()
    tables = net(torch.randn(40, 16, dtype=torch.float64))[TABLE]
    assert tables.shape == (40, encoding.grid.rows, 2)
    base = net(torch.zeros(1, 16, dtype=torch.float64))[TABLE]
    for begin, end in itertools.pairwise(encoding.grid.offsets):
        change = (tables - base)[:, begin:end].flatten(1)
        assert int(torch.linalg.matrix_rank(change, rtol=1e-8)) == 5
    whole = (tables - base).flatten(1)
    assert int(torch.linalg.matrix_rank(whole, rtol=1e-8)) == 15  # coefficients differ from level to level


def test_a_shared_table_is_one_parameter_for_all_codes() -> None:
    net = Hypernet(HashGrid(2, 3, 2, 8, 4, 16).spec | SPEC, 16, Full())
    a, b = (net(torch.randn(n, 16))[TABLE] for n in (2, 5))
    assert a.shape[0] == 1
    assert torch.equal(a, b)


def test_a_direct_code_is_all_of_its_weights_and_the_network_has_none() -> None:
    spec = SPEC | HashGrid(2, 2, 2, 6, 4, 8).spec  # even what others share is the scene's own
    net, codes = Hypernet(spec, numel(spec), Independent()), torch.randn(3, numel(spec))
    weights = net(codes)
    assert not list(net.parameters())
    assert weights[TABLE].shape == (3, *spec[TABLE].shape)
    assert torch.equal(flatten(weights, spec), codes)


def test_a_residual_is_added_to_the_weights_of_its_scenes() -> None:
    """Generated ones, tables mixed from bases, and tables that all scenes share."""
    spec: WeightSpec = FactoredGrid(2, 2, 2, 6, 4, 8, bases=3).spec | SPEC
    spec = spec | {"other.table": WeightEntry((9, 2), 2, 0.1, "shared")}
    net, codes = Hypernet(spec, 7, Modulation()), torch.randn(2, 7)
    residual = {name: torch.randn(2, *entry.shape) for name, entry in spec.items() if name != "mlp.0.bias"}
    plain, refined = net(codes), net(codes, residual)
    assert plain["other.table"].shape[0] == 1
    assert torch.equal(plain["mlp.0.bias"], refined["mlp.0.bias"])
    for name, change in residual.items():
        assert torch.equal(refined[name], plain[name] + change), name


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        (LowRank(0), "LowRank rank: got 0, wanted at least 1"),
        (LowRank(10), "LowRank rank: got 10, but no matrix that changes has more than 9"),
        (LowRank(3, layer=2), "LowRank rank: got 3, but no matrix that changes has more than 2"),
        (LowRank(2, layer=3), "LowRank layer: got 3, wanted 0 to 2, or -1 for all"),
        (Chunked(chunk=91), "Chunked chunk: got 91, but the largest layer has 90 weights"),
        (Chunked(chunk=0), "Chunked chunk: got 0, wanted at least 1"),
        (PerLayer(0), "PerLayer hidden: got 0, wanted at least 1"),
        (Hierarchical(0), "Hierarchical code: got 0, wanted at least 1"),
    ],
    ids=repr,
)
def test_settings_that_do_not_fit_the_spec_are_refused(generator: Generator, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Hypernet(SPEC, 16, generator)
