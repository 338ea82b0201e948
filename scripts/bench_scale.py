"""Costs that grow with the number of scenes, and that of a start. See `bench.py scale`."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.data import Points
from hyperfields.ops.threads import kernel_threads, one_torch_thread
from hyperfields.runs.config import FitSettings
from hyperfields.tasks import preset
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Progress, Trainer

BATCH = 32  # scenes of a step
START = """
import time, sys
from pathlib import Path
from hyperfields.scenes import open_family
from hyperfields.training.fit import fit
import hyperfields.ops._cpu, torch._dynamo  # what torch.optim imports when it is first used
began = time.perf_counter()
fit(open_family(Path(sys.argv[1])), Path(sys.argv[2]), steps=1, progress=False)
print(time.perf_counter() - began)
"""


class Waves:
    """As many pictures as asked for, each a plane wave of its own: nothing is kept of any of them."""

    kind = "images"

    def __init__(self, scenes: int) -> None:
        self.names = tuple(f"wave{number}" for number in range(scenes))

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        phase = (x * scenes[:, None, None]).sum(-1, keepdim=True)
        return Points(x, (0.5 + 0.5 * torch.sin(phase)).expand(-1, -1, 3))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        return torch.zeros(64, 64, 3)


def step_seconds(scenes: list[int], rounds: int, steps: int = 20) -> dict[int, float]:
    """Median seconds of a step with each number of scenes in the latent table; the same model otherwise."""
    model, recipe = preset("default", "images", 100, 64)
    recipe = dataclasses.replace(recipe, scenes=BATCH)
    fits = {
        count: Fit(Waves(count), None, FitSettings(steps=10**6), model=model, train=recipe).trainer for count in scenes
    }
    seconds: dict[int, list[float]] = {count: [] for count in scenes}
    with one_torch_thread():
        for _ in range(rounds + 1):
            for count, trainer in fits.items():
                assert isinstance(trainer, Trainer)
                progress = Progress(step=trainer.steps)
                began = time.perf_counter()
                for _ in range(steps):
                    trainer.step(progress)
                seconds[count].append((time.perf_counter() - began) / steps)
    return {count: statistics.median(values[1:]) for count, values in seconds.items()}


def import_seconds(module: str) -> float:
    """Least of three fresh processes, their own start taken off."""

    def run(code: str) -> float:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            took.append(time.perf_counter() - began)
        return min(took)

    return run(f"import {module}") - run("pass")


def second_start(family: Path) -> float:
    """Seconds from the end of all imports to that of a fit of one step, where the kernels are compiled already."""
    with tempfile.TemporaryDirectory() as out:
        for number in range(2):
            command = [sys.executable, "-c", START, str(family), str(Path(out) / str(number))]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def scale(family: Path, rounds: int) -> dict[str, Any]:
    seconds = step_seconds([100, 100_000], rounds)
    whole, torch_alone = import_seconds("hyperfields, hyperfields.model"), import_seconds("torch")
    return {
        "threads": kernel_threads(),
        "milliseconds_a_step": {str(count): 1e3 * value for count, value in seconds.items()},
        "step_of_100000_scenes_over_100": seconds[100_000] / seconds[100],
        "import_hyperfields_over_import_torch": import_seconds("hyperfields") / torch_alone,
        "import_of_everything_that_fits_over_import_torch": whole / torch_alone,
        "second_start_seconds": second_start(family),
    }


def print_scale(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=1))
