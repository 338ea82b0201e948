"""`add`: scenes from another folder, and every verb on the run that they are in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyperfields.runs.run import load_run

from ._families import make_images, run_cli


@pytest.fixture(scope="module")
def added(fits: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(family, family of what was added, run of both). Not to be changed."""
    family, run = fits("images")
    folder = tmp_path_factory.mktemp("added")
    other = make_images(folder / "other", ("ape", "fox"))
    assert run_cli("add", run, other, "--out", folder / "run", "--steps", 3) == 0
    return family, other, folder / "run"


def test_a_run_keeps_where_each_scene_came_from(added: Any) -> None:
    family, other, run = added
    sources = load_run(run).config.sources
    assert [(source.path, source.scenes) for source in sources] == [
        (str(family), ("cat", "dog", "eel")),
        (str(other), ("ape", "fox")),
    ]
    assert all(Path(source.path).is_absolute() for source in sources)


def test_the_report(added: Any) -> None:
    report = json.loads((added[2] / "add.json").read_text())
    assert report.keys() == {"method", "old", "new", "drift", "bytes_per_scene", "steps", "seconds"}
    assert report["old"]["before"]["psnr"] == report["old"]["after"]["psnr"]
    assert report["new"]["scenes"] == ["ape", "fox"]


def test_every_verb_works_on_it(added: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = added[2]
    assert run_cli("eval", run, "--out", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scenes"]) == ["cat", "dog", "eel", "ape", "fox"]
    assert not [note for note in report["notes"] if note.startswith("family")]
    assert run_cli("doctor", run) == 0
    for scene in ("cat", "fox"):
        assert run_cli("render", run, "--scene", scene, "--out", tmp_path / f"{scene}.png") == 0
    assert run_cli("interpolate", run, "cat", "fox", "--out", tmp_path / "walk.gif", "--frames", 3) == 0
    capsys.readouterr()
    assert run_cli("inspect", run, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["sources"]) == 2


def test_one_of_its_folders_has_moved(
    added: Any, fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = fits("images")
    other = make_images(tmp_path / "other", ("gnu",))
    assert run_cli("add", run, other, "--out", tmp_path / "run", "--steps", 2) == 0
    other.rename(tmp_path / "moved")
    capsys.readouterr()
    assert run_cli("eval", tmp_path / "run") == 2
    assert f"{other}: the family of" in capsys.readouterr().err
    assert run_cli("eval", tmp_path / "run", "--family", tmp_path / "moved") == 0
    together = tmp_path / "together"
    shutil.copytree(tmp_path / "moved", together)
    for path in Path(added[0]).iterdir():
        shutil.copy(path, together)
    assert run_cli("eval", tmp_path / "run", "--family", together) == 0


def test_scenes_that_are_in_it_are_not_added_again(added: Any, tmp_path: Path, refused: Any) -> None:
    family, _, run = added
    assert "has all of its scenes already" in refused("add", run, family, "--out", tmp_path / "x", "--steps", 3)
    assert "scenes were added to it" in refused("fit", family, "--out", run, "--resume")


def test_frozen_networks_give_codes(fits: Any, tmp_path: Path) -> None:
    _, run = fits("images")
    other = make_images(tmp_path / "other", ("gnu",))
    out = tmp_path / "codes"
    assert run_cli("add", run, other, "--out", out, "--steps", 4, "--method", "frozen") == 0
    assert {path.name for path in out.iterdir()} == {"codes.safetensors", "add.json"}
    picture = ("--out", tmp_path / "gnu.png")
    assert run_cli("render", run, "--codes", out / "codes.safetensors", "--scene", "gnu", *picture) == 0
