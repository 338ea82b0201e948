"""The study of few views, small: every way has its row, for views by number and evenly spread."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperfields.runs.run import load_run

from .cli._families import TINY, make_views, run_cli

SCRIPT = Path(__file__).parents[1] / "scripts" / "few_views.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not here: this is an installed wheel", allow_module_level=True)


def loaded_script() -> Any:
    spec = importlib.util.spec_from_file_location("few_views", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_every_way_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = loaded_script()
    family, out = make_views(tmp_path / "family"), tmp_path / "out"
    small = ("--side", "16", "--steps", "2", "--each", "2", "--unseen", "1", "--views", "1,", "--views", "2")
    monkeypatch.setattr(sys, "argv", ["few_views.py", str(out), "--family", str(family), *small])
    script.main()
    rows = json.loads((out / "few_views.json").read_text())["rows"]
    assert [(row["numbers"], row["way"]) for row in rows] == [
        (numbers, way) for numbers in ([1], [0, 1]) for way in ("code", "refined", "alone")
    ]
    assert all(0.0 < row["mean"]["psnr"] < 60.0 for row in rows)
    assert "code, then all weights" in capsys.readouterr().out
    assert script.chosen("all", family, "disc", (16, 16)) is None


def test_the_time_that_each_way_takes_is_read_off_its_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = loaded_script()
    assert script.reached([(1.0, 20.0), (2.0, 30.0), (4.0, 36.0)], 33.0) == pytest.approx(3.0)
    assert script.reached([(1.0, 20.0), (2.0, 30.0)], 15.0) == pytest.approx(1.0)
    assert script.reached([(1.0, 20.0), (2.0, 30.0)], 31.0) is None
    family, out = make_views(tmp_path / "family"), tmp_path / "out"
    small = ("--side", "16", "--steps", "2", "--unseen", "1", "--views", "2", "--seconds", "0.01,0.02")
    monkeypatch.setattr(sys, "argv", ["few_views.py", str(out), "--family", str(family), *small])
    script.main()
    rows = json.loads((out / "few_views.json").read_text())["rows"]
    assert [row["seconds"] for row in rows] == [0.01] * 3 + [0.02] * 3
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("2 views, alone: ") and line.endswith(" s") for line in lines)


def test_a_fit_takes_the_training_views_that_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, run = make_views(tmp_path / "family"), tmp_path / "run"
    assert run_cli("fit", family, "--out", run, "--views", "1", *TINY) == 0
    assert load_run(run).config.sources[0].views == (1,)
    assert run_cli("fit", family, "--out", run, "--resume", "--steps", "21") == 0  # the same views, or it is refused
    capsys.readouterr()
    assert run_cli("eval", run) == 0
    assert "not those that were fitted" not in capsys.readouterr().out
    assert run_cli("fit", family, "--out", tmp_path / "other", "--views", "7", *TINY) == 2
    assert "training views 0 to 1" in capsys.readouterr().err
