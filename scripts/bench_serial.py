"""Amdahl's serial share of a fitting step, from 1 and 2 threads. See `bench.py serial`."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hyperfields.ops.profiling import Profiler
from hyperfields.ops.threads import one_torch_thread
from hyperfields.runs.config import FitSettings
from hyperfields.scenes import detect_kind, open_family
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Progress, Trainer

SAMPLES = Path(__file__).parents[1] / "scenes" / "samples"
FAMILIES = {"images": SAMPLES / "emoji", "shapes": SAMPLES / "shapes_cars", "views": SAMPLES / "cars_views"}
WARM_UP = 150  # steps after which most of the empty space of views is known
FRACTION = 0.5  # of a fit, at which every part of its loss is there


def serial(families: list[Path], rounds: int, steps: int) -> list[dict[str, Any]]:
    """The share of each family's step that does not become quicker with a second thread, and its phases."""
    results = []
    for folder in families or FAMILIES.values():
        results.append(serial_share(folder, rounds, steps))
        print_share(results[-1])
    return results


def serial_share(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Fit a while; then time steps with 1 and 2 threads in turns, and profile some with each."""
    size = None if detect_kind(folder) == "shapes" else (64, 64)
    trainer = Fit(open_family(folder, size=size), None, FitSettings(steps=WARM_UP + 1000)).trainer
    assert isinstance(trainer, Trainer)
    with one_torch_thread():
        trainer.warm_up()
    seconds_a_step(trainer, WARM_UP, 2)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, found in times.items():
            found.append(seconds_a_step(trainer, steps, threads))
    one, two = (statistics.median(found) for found in times.values())
    phases = {threads: phases_of(trainer, rounds * steps, threads) for threads in times}
    return {
        "family": folder.name,
        "milliseconds": {threads: 1e3 * statistics.median(found) for threads, found in times.items()},
        "times_as_fast": one / two,
        "serial_share": 2.0 * two / one - 1.0,
        "phases_milliseconds": phases,
    }


def seconds_a_step(trainer: Trainer, steps: int, threads: int) -> float:
    """Seconds of a step whose kernels have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    progress = Progress(step=trainer.steps, fraction=FRACTION)
    with one_torch_thread():
        began = time.perf_counter()
        for _ in range(steps):
            trainer.step(progress)
        seconds = (time.perf_counter() - began) / steps
    torch.set_num_threads(before)
    return seconds


def phases_of(trainer: Trainer, steps: int, threads: int) -> dict[str, float]:
    """Milliseconds of each phase of a step without those within it."""
    with Profiler() as watch:
        whole = seconds_a_step(trainer, steps, threads)
    phases = {name: 1e3 * value / steps for name, value in watch.seconds.items()}
    return {**phases, "everything else": 1e3 * whole - sum(phases.values())}


def print_share(result: dict[str, Any]) -> None:
    one, two = result["phases_milliseconds"].values()
    print(
        f"{result['family']}: a second thread makes a step {result['times_as_fast']:.2f} times as fast: serial share "
        f"{result['serial_share']:.2f} ({result['milliseconds'][1]:.1f} and {result['milliseconds'][2]:.1f} ms)"
    )
    for name, value in sorted(one.items(), key=lambda item: -item[1]):
        again = two.get(name, 0.0)
        print(f"    {100 * value / sum(one.values()):5.1f} %  {value / again if again else 1.0:5.2f} times  {name}")
