"""`add`: new scenes are learned, old ones are kept, and nothing of the old run changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields.checkpoint import Run, load_run
from hyperfields.cli import main
from hyperfields.continual import add, format_added, grow
from hyperfields.encodings import FactoredGrid, Fourier
from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.fit import FitConfig, fit
from hyperfields.hypernets import Direct, Full, LowRank
from hyperfields.infer import load_codes
from hyperfields.model import ModelConfig
from hyperfields.presets import Recipe
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
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    made: dict[str, Run] = {}

    def run_of(name: str) -> Run:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name
            torch.manual_seed(0)
            model = ModelConfig(FIELDS[name], LowRank(3), 8)
            fit(OLD, folder, FitConfig(steps=300), model=model, recipe=Recipe(2, 2 * 256, rate_networks=1e-2))
            made[name] = load_run(folder)
        return made[name]

    return run_of


@pytest.mark.parametrize("name", FIELDS)
def test_old_scenes_are_kept_and_new_ones_learned(name: str, runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs(name)
    held, naive = (
        add(run, NEW, tmp_path / method, old_family=OLD, steps=300, method=method)  # type: ignore[arg-type]
        for method in ("output", "naive")
    )
    before = held["old"]["before"]["psnr"]
    assert before > 28.0
    assert held["old"]["after"]["psnr"] > min(before - 1.5, 40.0)
    assert held["new"]["after"]["psnr"] > 26.0
    assert naive["old"]["after"]["psnr"] < before - 8.0  # otherwise nothing is shown
    assert held["drift"] < 0.1 * naive["drift"]
    added = load_run(tmp_path / "output")
    assert added.names == (*OLD.names, *NEW.names)
    assert torch.equal(added.codes(*OLD.names), run.codes(*OLD.names))
    assert json.loads((tmp_path / "output/add.json").read_text()) == json.loads(json.dumps(held))
    assert "2 old scenes: psnr" in format_added(held)


def test_frozen_networks_lose_nothing(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("fourier")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    found = add(run, NEW, tmp_path / "out", old_family=OLD, steps=300, method="frozen")
    assert found["old"]["before"] == found["old"]["after"]
    assert found["new"]["after"]["psnr"] > 20.0
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    codes = load_codes(tmp_path / "out/codes.safetensors", run)
    assert codes.names == NEW.names
    assert codes.residual


def test_without_their_data_old_scenes_are_not_measured(runs: Callable[[str], Run], tmp_path: Path) -> None:
    found = add(runs("fourier"), NEW, tmp_path / "out", steps=2)
    assert found["old"]["after"] is None
    assert "n/a without their data" in format_added(found)


@pytest.mark.parametrize("name", FIELDS)
@torch.no_grad()
def test_a_grown_model_gives_old_scenes_as_before(name: str, runs: Callable[[str], Run]) -> None:
    run = runs(name)
    model = grow(run, NEW.names, bases=2)
    assert model.latents.codes.shape == (4, 8)
    x = torch.rand(2, 50, 2)
    scenes = torch.arange(2)
    torch.testing.assert_close(model.bind_scenes(scenes)[0](x), run.model.bind_scenes(scenes)[0](x))
    if name == "factored":
        assert model.config.field.encoding.bases == 5  # type: ignore[union-attr]


def test_bad_additions_are_refused(runs: Callable[[str], Run], tmp_path: Path) -> None:
    run = runs("fourier")
    cases: list[tuple[Any, str]] = [
        (Balls(), "holds images, the family holds views; add scenes of images"),
        (OLD, r"scene 'red': is in .* already \(2 are\); choose with --scenes"),
    ]
    for family, said in cases:
        with pytest.raises(InputError, match=said):
            add(run, family, tmp_path / "out", steps=2)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("")
    with pytest.raises(InputError, match="is in use"):
        add(run, NEW, tmp_path / "used", steps=2)
    with pytest.raises(InputError, match="give one of the two"):
        add(run, NEW, tmp_path / "out")
    alone = ModelConfig(FIELDS["fourier"], Direct(), numel(FIELDS["fourier"].spec))
    fit(OLD, tmp_path / "alone", FitConfig(steps=2, individually=True), model=alone, recipe=Recipe(1, 64))
    with pytest.raises(InputError, match="it has no networks to add scenes to"):
        add(load_run(tmp_path / "alone"), NEW, tmp_path / "out", steps=2)
    assert not (tmp_path / "out").exists()


def test_an_added_run_is_not_gone_on_with_by_mistake(runs: Callable[[str], Run], tmp_path: Path) -> None:
    add(runs("fourier"), NEW, tmp_path / "out", steps=2)
    with pytest.raises(InputError, match="differs from this call's"):
        fit(
            Discs(),
            tmp_path / "out",
            FitConfig(steps=300),
            model=ModelConfig(FIELDS["fourier"], Full(), 8),
            resume=True,
        )


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hyperfields.export import write_image

    (tmp_path / "discs").mkdir()
    for number, name in enumerate(Discs().names):
        write_image(tmp_path / f"discs/{name}.png", Discs().truth(number))
    discs, run = str(tmp_path / "discs"), str(tmp_path / "run")
    assert main(["fit", discs, "--out", run, "--preset", "tiny", "--steps", "3", "--scenes", "red,blue"]) == 0
    assert main(["add", run, discs, "--out", str(tmp_path / "more"), "--steps", "3"]) == 0
    assert "2 new scenes: psnr" in capsys.readouterr().out
    assert load_run(tmp_path / "more").names == ("blue", "red", "green", "yellow")
    assert main(["eval", str(tmp_path / "more")]) == 0
    assert main(["add", str(tmp_path / "more"), discs, "--out", str(tmp_path / "x"), "--steps", "3"]) == 2
    assert "has all of its scenes already" in capsys.readouterr().err
