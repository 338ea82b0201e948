"""Hypernetworks: each generator follows its formula, and at step 0 the field is normally initialised."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hyperfields.encodings import TABLE, FactoredGrid, Fourier, HashGrid
from hyperfields.fields import ImageField, RadianceField, ShapeField
from hyperfields.hypernets import Direct, Full, Generator, Hypernet, LowRank, Modulation, Residual
from hyperfields.weights import Weights, WeightSpec, flatten, layers, linear_spec, numel

GENERATORS: dict[str, Generator] = {
    "full, linear": Full(),
    "full, hidden": Full(hidden=32),
    "low rank, multiply": LowRank(4, "multiply"),
    "low rank, add": LowRank(4, "add"),
    "scale and shift": Modulation(scale=True),
    "shift only": Modulation(scale=False),
}
SPEC = linear_spec("mlp", (6, 9, 9, 2))

each_generator = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())


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
    moving = [name for name in SPEC if name.endswith("bias") or generator != Modulation(scale=False)]
    for name in moving:
        share = weights[name].var(0).mean() / (SPEC[name].bound ** 2 / 3)
        assert 0.003 < float(share) < 0.15, f"{name}: share {share} of the variance comes from the latent"


# -------------------------------------------------------------------------------------------- every generator


@each_generator
@pytest.mark.parametrize(
    "field",
    [
        ImageField(FactoredGrid(2, 2, 2, 6, 4, 8, bases=3), hidden=(5,)),
        ShapeField(HashGrid(3, 2, 2, 6, 4, 8), hidden=()),
        RadianceField(Fourier(3, 2), hidden=(5, 6), geometry=3, color_hidden=(4,)),
    ],
    ids=["image", "shape", "radiance"],
)
def test_a_batch_of_codes_gives_every_weight_of_every_scene(
    generator: Generator, field: ImageField | ShapeField | RadianceField
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
    net, codes = Hypernet(spec, numel(spec), Direct()), torch.randn(3, numel(spec))
    weights = net(codes)
    assert not list(net.parameters())
    assert weights[TABLE].shape == (3, *spec[TABLE].shape)
    assert torch.equal(flatten(weights, spec), codes)


def test_a_residual_begins_at_nothing_and_then_adds_a_low_rank_to_its_scenes() -> None:
    encoding = FactoredGrid(2, 2, 2, 6, 4, 8, bases=3)
    spec: WeightSpec = encoding.spec | SPEC
    net, codes = Hypernet(spec, 7, Modulation()), torch.randn(2, 7)
    residual, scenes = Residual(spec, 5, rank=2), torch.tensor([4, 1])
    plain, begun = net(codes), net(codes, residual(scenes))
    assert all(torch.equal(plain[name], begun[name]) for name in spec)
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.copy_(torch.randn_like(parameter))
    refined, alone = net(codes, residual(scenes)), net(codes[1:], residual(scenes[1:]))
    for name in spec:
        torch.testing.assert_close(refined[name][1:], alone[name], rtol=1e-5, atol=1e-5)
    change = (refined["mlp.1.weight"] - plain["mlp.1.weight"]).double()
    assert torch.linalg.matrix_rank(change, rtol=1e-5).tolist() == [2, 2]
    torch.testing.assert_close(
        refined["mlp.0.bias"] - plain["mlp.0.bias"],
        residual.plain["mlp/0/bias"][scenes],
        rtol=1e-5,
        atol=1e-5,
    )
    table = net.factored["grid/table"]
    wanted = table(codes, residual.plain["grid/table"][scenes])
    assert torch.equal(refined[TABLE], wanted)
    assert not torch.allclose(refined[TABLE], plain[TABLE])


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="LowRank rank: got 0, wanted at least 1"):
        Hypernet(SPEC, 16, LowRank(0))
