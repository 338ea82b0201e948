"""`fit`: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperfields.cli import fit as fitting
from hyperfields.runs.config import DataSource, FitSettings
from hyperfields.runs.run import load_run

from ._families import MAKERS, SCENES, TINY, make_images, run_cli, spoil


def test_fit_says_what_it_found_and_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = make_images(tmp_path / "family")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY) == 0
    out = capsys.readouterr().out
    assert "images: 3 scenes, 16x16 (detected)" in out
    assert "20 steps in " in out
    size = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert f"{size / 1e3:,.0f} kB" in out
    assert f"next: hyperfields eval {tmp_path / 'run'}" in out
    names = {"config.json", "model.safetensors", "metrics.jsonl", "summary.json", "state"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


def test_the_run_remembers_its_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, scenes and limit of the fit come back in eval, from where the family is then."""
    family = make_images(tmp_path / "family")
    words = ("--size", "12x14", "--scenes", "dog,e*", "--limit", "1", "--kind", "images")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, *words) == 0
    assert "images: 1 scene, 12x14 (as asked)" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.names == ("dog",)
    assert run.config.sources == (DataSource(str(family), ("dog",), (12, 14)),)
    assert run_cli("eval", run.path, "--out", tmp_path / "report.json") == 0
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert not [note for note in notes if note.startswith("family")]
    family.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run_cli("eval", run.path) == 2
    assert "--family" in capsys.readouterr().err
    assert run_cli("eval", run.path, "--family", tmp_path / "elsewhere") == 0


def test_two_minutes_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "DEFAULT_MINUTES", 0.001)
    assert run_cli("fit", make_images(tmp_path / "family"), "--out", tmp_path / "run") == 0
    assert "fitting for 0.001 minutes; choose with --minutes M or --steps N" in capsys.readouterr().out
    settings = load_run(tmp_path / "run").config.fit
    assert settings == FitSettings("default", minutes=0.001)


@pytest.mark.parametrize("kind", ["images", "views"])
def test_each_alone(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = MAKERS[kind](tmp_path / "family")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, "--individually") == 0
    assert run_cli("eval", tmp_path / "run", "--out", tmp_path / "report.json") == 0
    assert "fitted alone" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["bytes_per_scene"]["amortised"] == report["bytes_per_scene"]["marginal"]
    assert run_cli("render", tmp_path / "run", "--scene", SCENES[kind][1], "--out", tmp_path / "x.png") == 0


def test_images_of_several_sizes_are_resized_when_asked(tmp_path: Path) -> None:
    family = make_images(tmp_path / "family")
    spoil(family, "other size")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, "--size", "8x8") == 0
