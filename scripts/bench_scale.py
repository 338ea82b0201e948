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
PARTS = ("steps", "data", "memory", "start")  # what is measured
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
        self.data, self.kind, self.names = data, data.kind, data.names
        self.forget()

    def forget(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Any:
        began = time.perf_counter(), time.thread_time()
        drawn = self.data.batch(scenes, n, generator)
        self.seconds += time.perf_counter() - began[0]
        self.cpu_seconds += time.thread_time() - began[1]
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


def step_times(scenes: list[int], rounds: int, steps: int) -> dict[str, Any]:
    """Steps with each number of scenes in the latent table, and the same model otherwise; `scenes`: ascending.

    All sizes take turns, in either order, and a round's ratio is of times that lie side by side: what slows the machine
    down for a while slows them all. All memory was written to before, as in a fit that has seen every scene.
    """
    fits = {count: fit_of(count, None).trainer for count in scenes}
    clocks = {"": time.perf_counter, "cpu_": time.process_time}
    seconds: dict[str, dict[int, list[float]]] = {clock: {count: [] for count in scenes} for clock in clocks}
    with one_torch_thread():
        for trainer in fits.values():
            take(trainer, steps)
            for optimizer in trainer.optimizers.all:
                for entries in optimizer.state.values():
                    for value in entries.values():
                        value.add_(0)
        for number in range(rounds):
            for count in scenes if number % 2 else reversed(scenes):
                began = {name: clock() for name, clock in clocks.items()}
                take(fits[count], steps)
                for name, clock in clocks.items():
                    seconds[name][count].append((clock() - began[name]) / steps)
    found: dict[str, Any] = {}
    for name, of_count in seconds.items():
        ratios = {
            count: [own / fewest for own, fewest in zip(values, of_count[scenes[0]], strict=True)]
            for count, values in of_count.items()
        }
        found |= {
            f"{name}milliseconds_a_step": {
                str(count): 1e3 * statistics.median(values) for count, values in of_count.items()
            },
            f"{name}step_over_that_of_the_fewest": {
                str(count): statistics.median(values) for count, values in ratios.items()
            },
            f"{name}middle_half_of_the_rounds": {str(count): quartiles(values) for count, values in ratios.items()},
        }
    return found


def take(trainer: Any, steps: int) -> None:
    assert isinstance(trainer, Trainer)
    progress = Progress(step=trainer.steps)
    for _ in range(steps):
        trainer.step(progress)


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the last, of at least two."""
    first, _, last = statistics.quantiles(values, n=4)
    return first, last


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


def data_shares(family: Path, rounds: int, steps: int) -> dict[str, float]:
    """Share of the steps of a fit in which its batches are drawn, by the clock and by the CPU time of this thread, on
    one thread: of more, kernels become quicker and drawing does not. FAMILY may be packed.

    Medians of rounds, after each scene was drawn once at least.
    """
    data = Timed(open_family(family))
    trainer = Fit(data, None, FitSettings(steps=10**6)).trainer
    assert isinstance(trainer, Trainer)
    threads, shares = torch.get_num_threads(), {"": list[float](), "cpu_": list[float]()}
    torch.set_num_threads(1)
    with one_torch_thread():
        take(trainer, steps + 2 * len(data.names) // trainer.sampler.batch_size)
        for _ in range(rounds):
            data.forget()
            began = time.perf_counter(), time.thread_time()
            take(trainer, steps)
            shares[""].append(data.seconds / (time.perf_counter() - began[0]))
            shares["cpu_"].append(data.cpu_seconds / (time.thread_time() - began[1]))
    torch.set_num_threads(threads)
    return {f"{name}data_share_of_a_step": statistics.median(values) for name, values in shares.items()}


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


def scale(family: Path, rounds: int, steps: int, counts: list[int], parts: list[str]) -> dict[str, Any]:
    """What is asked for of `PARTS`; `counts`: numbers of scenes, ascending; steps: of a round."""
    result: dict[str, Any] = {"threads": kernel_threads()}
    if "steps" in parts:
        result |= step_times(counts, rounds, steps)
    if "data" in parts:
        result |= data_shares(family, rounds, steps)
    if "memory" in parts:
        result["costs"] = {}
        for count in counts:
            with tempfile.TemporaryDirectory() as out:
                result["costs"][str(count)] = costs(count, Path(out) / "run")
    if "start" in parts:
        torch_alone = import_seconds("torch")
        result |= {
            "import_hyperfields_over_import_torch": import_seconds("hyperfields") / torch_alone,
            "import_of_everything_that_fits_over_import_torch": import_seconds("hyperfields, hyperfields.model")
            / torch_alone,
            "second_start_seconds": second_start(family),
        }
    return result


def print_scale(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=1))
    for count, ratio in list(result.get("step_over_that_of_the_fewest", {}).items())[1:]:
        low, high = result["middle_half_of_the_rounds"][count]
        print(
            f"a step with {int(count):,} scenes: {ratio:.2f} times that of the fewest (middle half of the rounds "
            f"{low:.2f} to {high:.2f}); by CPU time {result['cpu_step_over_that_of_the_fewest'][count]:.2f} times"
        )
    if "data_share_of_a_step" in result:
        print(
            f"drawing batches: {100 * result['data_share_of_a_step']:.1f} % of a step on one thread, by CPU time "
            f"{100 * result['cpu_data_share_of_a_step']:.1f} %"
        )


if __name__ == "__main__":
    COSTS = {"fit": cost_of_fit, "resume": cost_of_resume}
    print(json.dumps(COSTS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
