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

from hyperfields.data import Points, expect
from hyperfields.ops.threads import kernel_threads, one_torch_thread
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import STATE
from hyperfields.scenes import open_family
from hyperfields.tasks import preset
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Progress, Trainer

BATCH, CODE = 32, 128  # scenes of a step, numbers of a code
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


class Timed:
    """A data set that counts the seconds in which batches are drawn."""

    def __init__(self, data: Any) -> None:
        self.data, self.kind, self.names, self.seconds = data, data.kind, data.names, 0.0

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Any:
        began = time.perf_counter()
        drawn = self.data.batch(scenes, n, generator)
        self.seconds += time.perf_counter() - began
        return drawn

    def expect(self, scenes: Tensor) -> None:
        expect(self.data, scenes)

    def reference(self, scene: int, split: str = "test") -> Any:
        return self.data.reference(scene, split)


def fit_of(count: int, out: Path | None, resume: bool = False) -> Fit:
    """A fit of so many waves: the model is that of a hundred images, with codes of 128 numbers."""
    model, recipe = preset("default", "images", 100, 64)
    model, recipe = dataclasses.replace(model, latent_size=CODE), dataclasses.replace(recipe, scenes=BATCH)
    return Fit(Waves(count), out, FitSettings(steps=10**6), model=model, train=recipe, resume=resume)


def step_seconds(scenes: list[int], rounds: int, steps: int = 20) -> dict[int, float]:
    """Median seconds of a step with each number of scenes in the latent table; the same model otherwise."""
    fits = {count: fit_of(count, None).trainer for count in scenes}
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


def costs(count: int, out: Path) -> dict[str, float]:
    """Memory of a fit of so many scenes, its checkpoint and its resumption: each in a process of its own."""
    found: dict[str, float] = {}
    for part in ("fit", "resume"):
        command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), __file__, part, str(count), str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def cost_of_fit(count: int, out: Path) -> dict[str, float]:
    """A few steps and a checkpoint."""
    began = time.perf_counter()
    fitting = fit_of(count, out)
    made = time.perf_counter() - began
    assert isinstance(fitting.trainer, Trainer)
    with one_torch_thread():
        for _ in range(20):
            fitting.trainer.step(fitting.progress)
    resident = memory("VmRSS")
    began = time.perf_counter()
    fitting._save_state()
    return {
        "start_seconds": made, "resident_bytes": resident, "checkpoint_seconds": time.perf_counter() - began,
        "checkpoint_bytes": (out / STATE).stat().st_size, "peak_bytes": memory("VmHWM"),
    }  # fmt: skip


def cost_of_resume(count: int, out: Path) -> dict[str, float]:
    """Going on with it, up to the first step."""
    began = time.perf_counter()
    fitting = fit_of(count, out, resume=True)
    assert isinstance(fitting.trainer, Trainer)
    with one_torch_thread():
        fitting.trainer.warm_up()
        fitting.trainer.step(fitting.progress)
    return {"resume_seconds": time.perf_counter() - began, "resume_peak_bytes": memory("VmHWM")}


def memory(row: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{row}:"):
            return int(line.split()[1]) * 1024
    return 0


def data_share(family: Path, steps: int) -> float:
    """Share of the steps of a fit in which its batches are drawn, on this thread; FAMILY may be packed."""
    data = Timed(open_family(family))
    trainer = Fit(data, None, FitSettings(steps=10**6)).trainer
    assert isinstance(trainer, Trainer)
    progress = Progress()
    with one_torch_thread():
        for _ in range(steps // 4 + 1):
            trainer.step(progress)
        began, data.seconds = time.perf_counter(), 0.0
        for _ in range(steps):
            trainer.step(progress)
    return data.seconds / (time.perf_counter() - began)


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


def scale(family: Path, rounds: int, counts: list[int]) -> dict[str, Any]:
    """All of it; `counts`: numbers of scenes, ascending."""
    seconds = step_seconds(counts, rounds)
    each = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as out:
            each[str(count)] = costs(count, Path(out) / "run")
    whole, torch_alone = import_seconds("hyperfields, hyperfields.model"), import_seconds("torch")
    return {
        "threads": kernel_threads(),
        "milliseconds_a_step": {str(count): 1e3 * value for count, value in seconds.items()},
        "step_over_that_of_the_fewest": {str(count): value / seconds[counts[0]] for count, value in seconds.items()},
        "costs": each,
        "data_share_of_a_step": data_share(family, 20 * rounds),
        "import_hyperfields_over_import_torch": import_seconds("hyperfields") / torch_alone,
        "import_of_everything_that_fits_over_import_torch": whole / torch_alone,
        "second_start_seconds": second_start(family),
    }


def print_scale(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    PARTS = {"fit": cost_of_fit, "resume": cost_of_resume}
    print(json.dumps(PARTS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
