"""The measuring of a GPU, without one: what cannot run says so, and the rest is measured and written."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hyperfields.errors import InputError

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


@pytest.fixture
def card(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script on a card that is not there, whose tensors are on the CPU; sections run in this process."""

    def here(section: str, options: Any, seconds: float) -> Iterator[Any]:
        assert seconds > 0
        try:
            yield from bench.measure(section, options)
        except (RuntimeError, InputError) as error:  # what would end the process of a section
            yield bench.Row(section, "the rest of this section", None, "", bench.reason(error))

    monkeypatch.setattr(bench, "apart", here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda index: None, raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return bench


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_run_says_why_and_the_rest_goes_on(
    card: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[Any]:
        yield card.Row("ceilings", card.COPY, 4.0, "GB/s")
        raise RuntimeError("no such thing\nmore lines")

    def full(*_: object) -> float:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(card, "ceilings", broken)
    monkeypatch.setattr(card, "views", lambda folder, run: full())
    monkeypatch.setattr(card, "step_time", lambda trainer, graphs: full() if graphs else 2.0)
    out = tmp_path / "found.json"
    assert card.main(["--out", str(out)]) == 0
    rows = {(row["section"].split(",")[0], row["what"]): row for row in json.loads(out.read_text())["rows"]}
    assert rows["ceilings", card.COPY]["value"] == 4.0
    assert rows["ceilings", "the rest of this section"]["note"] == "RuntimeError: no such thing"
    assert rows["networks", card.BMM]["value"] == 2.0
    assert "'triton' cannot run this call" in rows["networks", "triton, float32"]["note"]
    assert "'tcnn' cannot run this call: tinycudann" in rows["networks", card.LOOP]["note"]
    assert rows["grids", "reference, one table"]["value"] == 2.0
    assert "out of memory" in rows["views", "the rest of this section"]["note"]
    assert "run" in rows["rendering", "the rest of this section"]["note"]
    assert rows["fitting step", "2 scenes, float32, eager"]["note"] == "1.00 x the time of 1 scene"
    assert rows["fitting step", "2 scenes, float32, graph"]["value"] is None
    assert rows["bars of NUMBERS.md", "2 torch.baddbmm in bfloat16, times our time"]["value"] is None
    assert "Card" in capsys.readouterr().out


def test_bars_are_read_from_the_rows(bench: ModuleType) -> None:
    values = {bench.OURS: 2.0, bench.BMM: 10.0, bench.LOOP: 30.0, bench.MOVED: 8.0, bench.COPY: 16.0, bench.PSNR: 35.0}
    values |= {"forward alone, triton, mixed": 9.0, "800x800, mixed": 70.0}
    values |= {"1 scenes, mixed, graph": 4.0, "2 scenes, mixed, graph": 5.0}
    rows = [bench.Row("some", what, value, "") for what, value in values.items()]
    assert [row.value for row in bench.bars(rows)] == [15.0, 5.0, None, 0.5, None, 35.0, 70.0, 1.25]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_is_fitted_measured_and_rendered(
    card: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the CPU, in its precision: two of the samples of the repository, for a moment."""
    import hyperfields

    def short(data: Any, run: Path, *, minutes: float, device: str, precision: str, progress: bool) -> None:
        assert (minutes, device, precision, progress) == (20.0 / 60.0, "cpu", "mixed", False)
        hyperfields.fit(data, run, steps=2, progress=False)

    monkeypatch.setattr(card, "fit", short)
    monkeypatch.setattr(card, "SECTIONS", ("views", "rendering"))
    for name, value in {"FRAMES": 1, "WARM": 1, "FRAME_SIZES": ((12, 12),)}.items():
        monkeypatch.setattr(card, name, value)
    folder, out = tmp_path / "two", tmp_path / "found.json"
    folder.mkdir()
    for name in ("k_race", "k_taxi"):
        (folder / name).symlink_to(card.SAMPLES / name)
    assert card.main(["--out", str(out), "--views", str(folder), "--scene", "k_taxi"]) == 0
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["steps"]["value"] == 2
    assert 3.0 < rows[card.PSNR]["value"] < 30.0
    assert rows["12x12, mixed"]["value"] > 0.0
    assert rows["12x12, mixed"]["note"] == "k_taxi, bound before"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("seconds", "why"), [(600.0, "ended with 2: error: --device cuda: "), (0.0, "stopped: no time")]
)
def test_a_section_that_ends_early_says_why(bench: ModuleType, seconds: float, why: str, tmp_path: Path) -> None:
    options = argparse.Namespace(device="cuda", run=tmp_path, views=tmp_path, scene=None)
    (row,) = bench.apart("ceilings", options, seconds)
    assert row.note.startswith(why)
    assert row.value is None
