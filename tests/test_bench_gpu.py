"""The measuring of a GPU, without one: what cannot run says so, and the rest is measured and written."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_gpu.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not here: this is an installed wheel", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, small, and with a clock of its own."""
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_gpu", module)
    spec.loader.exec_module(module)

    def once(call: Any, rounds: int = 1) -> float:
        call()
        return 2.0

    small = {"DEVICE": "cpu", "SCENES": 2, "POINTS": 8, "STEP_SCENES": (1, 2), "STEP_POINTS": 64, "milliseconds": once}
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(torch, "compile", lambda call: call)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_it_is_one_line_and_2(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --device cuda: torch sees no CUDA device here")
    assert said.err.count("\n") == 1
    assert not said.out
    assert bench.main(["--device", "cpu"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_run_says_why_and_the_rest_goes_on(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[Any]:
        raise RuntimeError("no such thing\nmore lines")

    monkeypatch.setattr(bench, "ceilings", broken)
    monkeypatch.setattr(bench, "usable_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    out = tmp_path / "found.json"
    assert bench.main(["--out", str(out)]) == 0
    rows = {(row["section"].split(",")[0], row["what"]): row for row in json.loads(out.read_text())["rows"]}
    assert rows["ceilings", "ceilings"]["note"] == "RuntimeError: no such thing"
    assert rows["networks", "torch.baddbmm, bfloat16"]["value"] == 2.0
    assert "'triton' cannot run this call" in rows["networks", "triton, float32"]["note"]
    assert "'tcnn' cannot run this call: tinycudann" in rows["networks", "loop over tinycudann (no biases)"]["note"]
    assert rows["grids", "reference, one table"]["value"] == 2.0
    assert rows["fitting step", "2 scenes, 64 points, float32, eager"]["note"] == "1.00 x the time of 1 scene"
    assert rows["fitting step", "2 scenes, 64 points, float32, graph"]["value"] is None
    assert rows["rendering", "frames"]["note"].startswith("give a run")
    assert "Card" in capsys.readouterr().out
