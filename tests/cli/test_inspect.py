"""`inspect` and `doctor`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields.cli import diagnose
from hyperfields.runs.run import load_run

from ._families import MAKERS, SCENES, run_cli


@pytest.mark.parametrize("kind", MAKERS)
def test_inspect(kind: str, fits: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits(kind)
    capsys.readouterr()
    assert run_cli("inspect", run) == 0
    text = capsys.readouterr().out
    for word in (kind, SCENES[kind][0], "Modulation", "HashGrid", "20 steps", "bytes a scene", "last loss"):
        assert word in text
    assert run_cli("inspect", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = load_run(run).model
    assert sum(found["parameters"].values()) == sum(p.numel() for p in model.parameters())
    assert found["bytes_per_scene"]["amortised"] == model.bytes_per_scene()[0]
    assert found["finished"] is True
    assert found["files"]["model.safetensors"] == (run / "model.safetensors").stat().st_size


def test_inspect_an_unfinished_run(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    for name in ("model.safetensors", "summary.json"):
        (tmp_path / "run" / name).unlink()
    capsys.readouterr()
    assert run_cli("inspect", tmp_path / "run") == 0
    assert "not finished" in capsys.readouterr().out
    assert run_cli("inspect", tmp_path / "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = load_run(run).model
    assert sum(found["parameters"].values()) == sum(p.numel() for p in model.parameters())


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    found = {re.split(r"\s{2,}", line)[0]: line for line in lines}
    assert torch.__version__.split("+")[0] in found["torch"]
    assert found["backend reference"].endswith("usable")
    for name in ("python", "numba", "open3d", "websockets", "threads", "cache", "device cuda", "lpips weights"):
        assert name in found


def test_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(module: str) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else object())
    monkeypatch.setattr(importlib, "import_module", gone)
    monkeypatch.setattr(diagnose, "_loads", lambda library: library not in ("libEGL.so.1", "libGL.so.1"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert "missing: pip install 'hyperfields[video]'" in diagnose._optional("av")
    assert "apt-get install -y --no-install-recommends libegl1 libgl1" in diagnose._optional("open3d")
