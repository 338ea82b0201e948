"""`add`: new scenes are learned, old ones are kept, and nothing of the old run changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields.cli import main
from hyperfields.data import Images, Kind
from hyperfields.errors import InputError
from hyperfields.evaluation.added import add_and_measure, format_added
from hyperfields.evaluation.health import doctor
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, HashGrid
from hyperfields.hypernets import GENERATORS, Bayes, Extension, Full, Hypernet, Independent, LowRank, Stability
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.run import Run, load_run
from hyperfields.tasks import TrainConfig
from hyperfields.training.continual import Drift, add, drift, extend
from hyperfields.training.cost import count
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.training.trainer import Fields, StepState
from hyperfields.weights import numel

from ._analytic import Balls, Discs


@dataclasses.dataclass(frozen=True)
class Some(Discs):
    """Two of the four discs."""

    first: int = 0

    def color(self, scenes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().color(scenes + self.first, x)


OLD, NEW = Some(names=("red", "green")), Some(names=("blue", "yellow"), first=2)
FIELDS = {
    "fourier": ImageField(Fourier(2, 3), hidden=(16, 16)),
    "factored": ImageField(FactoredGrid(2, 3, 2, 8, 4, 16, bases=3), hidden=(16,)),
    "shared": ImageField(HashGrid(2, 3, 2, 8, 4, 16), hidden=(16,)),
}
KINDS: dict[Kind, Field] = {
    "images": ImageField(FactoredGrid(2, 3, 2, 8, 4, 16, bases=3), hidden=(32,)),
    "shapes": SDFField(HashGrid(3, 2, 2, 6, 2, 4), hidden=(32,)),
    "views": RadianceField(FactoredGrid(3, 2, 2, 6, 2, 4, bases=3), (32,), 7, (32,), step=0.1, occupancy=8),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    made: dict[str, Run] = {}

    def run_of(name: str) -> Run:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name
            torch.manual_seed(0)
            model = ModelConfig(FIELDS[name], LowRank(3), 8)
            train = TrainConfig(2, 2 * 256, rate_networks=1e-2)
            made[name] = fit(OLD, folder, steps=300, model=model, train=train, progress=False)
        return made[name]

    return run_of


@pytest.mark.parametrize("name", FIELDS)
def test_old_scenes_are_kept_and_new_ones_learned(name: str, runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs(name)
    report = add_and_measure(run, NEW, tmp_path / "out", old_data=OLD, method="extension", steps=300, progress=False)
    assert report["old"]["before"] == report["old"]["after"]
    assert report["new"]["after"]["psnr"] > 26.0
    assert report["drift"] == 0.0
    added = load_run(tmp_path / "out")
    assert added.names == (*OLD.names, *NEW.names)
    before, after = run.bind(*OLD.names).weights, added.bind(*OLD.names).weights
    assert all(torch.equal(value.expand_as(after[key]), after[key]) for key, value in before.items())
    assert json.loads((tmp_path / "out/add.json").read_text()) == json.loads(json.dumps(report))
    assert "2 old scenes: psnr" in format_added(report)


def test_held_outputs_are_kept_and_naive_ones_forgotten(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("factored")
    held, naive = (
        add_and_measure(run, NEW, tmp_path / method, old_data=OLD, steps=300, method=method, progress=False)  # type: ignore[arg-type]
        for method in ("output", "naive")
    )
    before = held["old"]["before"]["psnr"]
    assert before > 28.0
    assert held["old"]["after"]["psnr"] > min(before - 1.5, 40.0)
    assert held["new"]["after"]["psnr"] > 26.0
    assert naive["old"]["after"]["psnr"] < before - 8.0  # otherwise nothing is shown
    assert held["drift"] < 0.1 * naive["drift"]


def test_scenes_are_added_twice(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("factored")
    blue, yellow = (Some(names=(name,), first=2 + number) for number, name in enumerate(NEW.names))
    once = add(run, blue, tmp_path / "once", steps=200, numbers=4, bases=2, progress=False)
    old = Some(names=("red", "green", "blue"))
    report = add_and_measure(
        once, yellow, tmp_path / "twice", old_data=old, method="extension", steps=200, progress=False
    )
    twice = load_run(tmp_path / "twice")
    assert twice.names == Discs().names
    assert report["old"]["before"] == report["old"]["after"]
    assert report["new"]["after"]["psnr"] > 26.0
    for names, before in ((OLD.names, run), (once.names, once)):
        wanted, held = before.bind(*names).weights, twice.bind(*names).weights
        assert all(torch.equal(value, held[key]) for key, value in wanted.items())


def test_an_extended_run_is_an_ordinary_one(runs: Callable[[str], Run], tmp_path: Path) -> None:
    added = add(runs("factored"), Some(names=("blue",), first=2), tmp_path / "out", steps=100, progress=False)
    assert added.model.config.extensions == (Extension(16, 1),)
    yellow = Some(names=("yellow",), first=3)
    codes = infer(added, yellow, tmp_path / "codes.safetensors", steps=200, refine=True, progress=False)
    picture = codes.bind("yellow")(torch.full((1, 1, 2), 0.5))
    assert (picture - torch.tensor([0.9, 0.9, 0.1])).abs().max() < 0.5
    looked = doctor(load_run(tmp_path / "out"), Some(names=("red", "green", "blue")))
    assert all(norm > 0.0 for norms in looked["gradients"].values() for norm in norms.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "direct"])
@torch.no_grad()
def test_every_generator_takes_extensions(name: str, kind: Kind) -> None:
    """Old codes with 0 after them give the same bits, other numbers change every weight."""
    config = ModelConfig(KINDS[kind], GENERATORS[name](), 8)
    extended = dataclasses.replace(config, latent_size=15, extensions=(Extension(4, 2), Extension(3, 0)))
    old, new = (HyperField(each, 5).hypernet for each in (config, extended))
    new.load_state_dict({**new.state_dict(), **old.state_dict()})
    codes = torch.randn(5, 8)
    wanted, held = old(codes), new(torch.cat((codes, torch.zeros(5, 7)), 1))
    assert all(torch.equal(value.expand_as(held[key]), held[key]) for key, value in wanted.items())
    for numbers in ((0, 4), (4, 7)):
        u = torch.zeros(5, 7)
        u[:, slice(*numbers)] = torch.randn(5, numbers[1] - numbers[0])
        moved = new(torch.cat((codes, u), 1))
        still = {key for key, value in wanted.items() if torch.equal(value.expand_as(moved[key]), moved[key])}
        # The second extension has no bases: a table that all scenes share stays as it is.
        assert still == ({"grid.table"} if numbers[0] and kind == "shapes" else set())


@torch.no_grad()
def test_extensions_stay_in_bounds_and_are_drawn(runs: Callable[[str], Run]) -> None:
    spec = FIELDS["fourier"].spec
    bound = Hypernet(spec, 6, Full(), Stability(bound=1.5), extensions=(Extension(2, 0),))
    for name, value in bound(100.0 * torch.randn(4, 6)).items():
        assert value.abs().max() <= 1.5 * spec[name].bound / 3.0**0.5 + 1e-6
    drawn = Hypernet(spec, 6, Full(), bayes=Bayes("factors"), extensions=(Extension(2, 0),))
    generator = torch.Generator().manual_seed(0)
    one, two = (drawn.sample(torch.ones(1, 6), generator)[0]["mlp.0.weight"] for _ in range(2))
    assert not torch.equal(one, two)


def test_the_regularizer_of_held_outputs_is_looser_at_first(runs: Callable[[str], Run]) -> None:
    run = runs("factored")
    with torch.random.fork_rng():
        new = extend(run, 2, Extension(4, 2))
    assert float(drift(run.model, new, torch.arange(2)).detach()) == 0.0
    with torch.no_grad():
        for parameter in new.hypernet.generator.parameters():
            parameter.add_(0.1)
    held, fields = Drift(run.model, new, 2.0, 2), Fields(new(torch.arange(2)))
    first, last = (
        float(held(StepState(fields, torch.arange(2), 0, fraction, torch.Generator())).detach())
        for fraction in (0.0, 1.0)
    )
    assert last == pytest.approx(10.0 * first)
    assert last == pytest.approx(2.0 * float(drift(run.model, new, torch.arange(2)).detach()))


def test_counts_of_an_extended_model_are_those_of_its_tensors(runs: Callable[[str], Run]) -> None:
    model = extend(runs("factored"), 2, Extension(4, 2))
    counted = count(model.config, 4)
    tensors = model.state_dict()
    assert sum(counted.parameters.values()) == sum(value.numel() for value in tensors.values())
    assert 4 * counted.amortised == 2 * sum(value.numel() for value in tensors.values())
    assert (counted.marginal, counted.amortised) == (24, model.bytes_per_scene()[0])
    groups = parameter_groups(model)
    grid = model.config.field.encoding.grid  # type: ignore[union-attr]
    assert sum(p.numel() for p in groups["grid"]) == (3 + 2) * grid.rows * 2
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in model.parameters()}


def test_frozen_networks_lose_nothing(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("fourier")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    report = add_and_measure(run, NEW, tmp_path / "out", old_data=OLD, steps=300, method="frozen", progress=False)
    assert report["old"]["before"] == report["old"]["after"]
    assert report["new"]["after"]["psnr"] > 20.0
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    codes = load_codes(tmp_path / "out/codes.safetensors", run)
    assert codes.names == NEW.names
    assert codes.residual
    packed = add_and_measure(
        run, NEW, tmp_path / "packed", steps=20, method="frozen", bytes_per_scene=150, progress=False
    )
    assert packed["bytes_per_scene"]["marginal"] <= 150
    assert load_codes(tmp_path / "packed/codes.safetensors", run).packed
    with pytest.raises(InputError, match="--bytes: goes with --method frozen, not with extension"):
        add(run, NEW, tmp_path / "no", steps=2, bytes_per_scene=150)


def test_without_their_data_old_scenes_are_not_measured(runs: Callable[[str], Run], tmp_path: Path) -> None:
    report = add_and_measure(runs("fourier"), NEW, tmp_path / "out", method="extension", steps=2, progress=False)
    assert report["old"]["after"] is None
    assert "n/a without their data" in format_added(report)


def test_bad_additions_are_refused(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("fourier")
    cases: list[tuple[Any, str]] = [
        (Balls(), "holds images, the family holds views; give a family of images"),
        (OLD, r"scene 'red': is in .* already \(2 are\); choose with --scenes"),
    ]
    for family, said in cases:
        with pytest.raises(InputError, match=said):
            add(run, family, tmp_path / "out", steps=2)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        add(run, NEW, tmp_path / "used", steps=2)
    with pytest.raises(InputError, match="give one of the two"):
        add(run, NEW, tmp_path / "out")
    with pytest.raises(InputError, match="extension numbers 0: wanted at least 1"):
        add(run, NEW, tmp_path / "out", steps=2, numbers=0)
    with pytest.raises(InputError, match="extension bases -1: wanted 0 or more"):
        add(run, NEW, tmp_path / "out", steps=2, bases=-1)
    alone = ModelConfig(FIELDS["fourier"], Independent(), numel(FIELDS["fourier"].spec))
    train = TrainConfig(1, 64)
    each_alone = fit(OLD, steps=2, individually=True, model=alone, train=train, progress=False)
    with pytest.raises(InputError, match="it has no networks to add scenes to"):
        add(each_alone, NEW, tmp_path / "out", steps=2)
    assert not (tmp_path / "out").exists()


def test_an_added_run_is_not_gone_on_with_by_mistake(runs: Callable[[str], Run], tmp_path: Path) -> None:
    add(runs("fourier"), NEW, tmp_path / "out", steps=2, progress=False)
    with pytest.raises(InputError, match="holds another fit: "):
        fit(
            Discs(),
            tmp_path / "out",
            steps=300,
            model=ModelConfig(FIELDS["fourier"], Full(), 8),
            resume=True,
        )


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hyperfields.runs.images import write_image

    (tmp_path / "discs").mkdir()
    for number, name in enumerate(Discs().names):
        write_image(tmp_path / f"discs/{name}.png", Discs().reference(number))
    discs, run = str(tmp_path / "discs"), str(tmp_path / "run")
    assert main(["fit", discs, "--out", run, "--preset", "tiny", "--steps", "3", "--scenes", "red,blue"]) == 0
    assert main(["add", run, discs, "--out", str(tmp_path / "more"), "--steps", "3"]) == 0
    assert "2 new scenes: psnr" in capsys.readouterr().out
    assert load_run(tmp_path / "more").names == ("blue", "red", "green", "yellow")
    more = str(tmp_path / "more")
    capsys.readouterr()
    assert main(["inspect", more]) == 0
    assert "numbers 16, bases 1" in capsys.readouterr().out
    picture = str(tmp_path / "red.png")
    for verb in (["eval", more], ["doctor", more], ["render", more, "--scene", "red", "--out", picture],
                 ["interpolate", more, "red", "green", "--out", str(tmp_path / "walk.gif"), "--frames", "3"],
                 ["export", more, "--scene", "green", "--out", str(tmp_path / "green.safetensors")]):  # fmt: skip
        assert main(verb) == 0
    assert main(["add", str(tmp_path / "more"), discs, "--out", str(tmp_path / "x"), "--steps", "3"]) == 2
    assert "has all of its scenes already" in capsys.readouterr().err


def test_pictures_of_another_size_than_are_shown_are_refused(tmp_path: Path) -> None:
    """Fields of images are asked at the pixels of the run alone: others would be fitted in vain."""
    run = fit(Images(torch.rand(2, 6, 8, 3)), steps=1, preset="tiny", progress=False)
    for size in ((8, 6), (12, 16)):
        with pytest.raises(InputError, match=r"pictures of \d+x\d+ came, this run was fitted to 6x8; resize them"):
            add(run, Images(torch.rand(1, *size, 3), ["new"]), tmp_path / "out", steps=1, progress=False)
        with pytest.raises(InputError, match="resize them"):
            infer(run, Images(torch.rand(2, *size, 3)), steps=1, progress=False)
    assert not (tmp_path / "out").exists()
