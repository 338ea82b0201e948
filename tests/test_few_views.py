"""The study of few views, small: every way has its row, for views by number and evenly spread."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from .cli._families import make_views

SCRIPT = Path(__file__).parents[1] / "scripts" / "few_views.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not here: this is an installed wheel", allow_module_level=True)


def test_every_way_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("few_views", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
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
