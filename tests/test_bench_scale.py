"""Steps with few and with many scenes, measured in turns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_scale.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not here: this is an installed wheel", allow_module_level=True)


def test_sizes_take_turns_and_only_the_number_of_scenes_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("bench_scale", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    taken: list[int] = []

    def take(trainer: Any, steps: int) -> None:
        taken.append(len(trainer.scenes))

    def now() -> float:
        return sum(2.0 if count == 5 else 3.0 for count in taken)

    monkeypatch.setattr(bench, "take", take)
    monkeypatch.setattr(bench, "CODE", 4)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=now, process_time=now))
    found = bench.step_times([5, 40], rounds=3, steps=8)
    assert taken == [5, 40, 40, 5, 5, 40, 40, 5]  # once before the clock starts
    for clock in ("", "cpu_"):
        assert found[f"{clock}milliseconds_a_step"] == {"5": 250.0, "40": 375.0}
        assert found[f"{clock}step_over_that_of_the_fewest"] == {"5": 1.0, "40": 1.5}
        assert found[f"{clock}middle_half_of_the_rounds"]["40"] == (1.5, 1.5)
