"""What each rank of `test_distributed` does, with a task and a folder, in the environment that torchrun sets."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hyperfields as hf
import hyperfields.training.distributed as distributed
import hyperfields.training.fit as fitting
from hyperfields.cameras import Rays
from hyperfields.cli import main
from hyperfields.data import Pixels, Points
from hyperfields.errors import InputError
from hyperfields.runs import shards
from hyperfields.runs.config import FitSettings
from hyperfields.training.distributed import ALONE, World
from hyperfields.training.fit import Fit
from hyperfields.training.parts import PartsTrainer
from hyperfields.training.trainer import Progress

from ._analytic import Balls, Discs

STEPS = {"images": 200, "views": 40}  # of the fits that are compared
END, KILLED_AT = 24, 5  # steps of the fit that is killed
TINY = ("--preset", "tiny", "--steps", str(END))
NAMES = tuple(f"scene{number}" for number in range(11))
IMAGES = hf.ModelConfig(hf.ImageField(hf.FactoredGrid(2, 2, 2, 6, 4, 8, bases=3), hidden=(8,)), hf.Full(), 4)
VIEWS = hf.ModelConfig(
    hf.RadianceField(hf.Fourier(3, 2), hidden=(8,), geometry=3, color_hidden=(8,), step=0.2, occupancy=4), hf.Full(), 4
)
RECIPE = hf.TrainConfig(5, 5 * 24)


@dataclasses.dataclass(frozen=True)
class Many:
    """More scenes than there are formulas."""

    base: Any
    names: tuple[str, ...] = NAMES
    dtype: torch.dtype = torch.float64

    @property
    def kind(self) -> str:
        return str(self.base.kind)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        batch = self.base.batch(scenes % 4, n, generator)
        if isinstance(batch, Points):
            return Points(*(part.to(self.dtype) for part in batch))
        return Pixels(Rays(*(part.to(self.dtype) for part in batch.rays)), batch.rgba.to(self.dtype))

    def reference(self, scene: int, split: str = "test") -> Any:
        return self.base.reference(scene % 4, split)


def make(
    data: Any, out: Path | None, world: World = ALONE, steps: int = END, parts: int | None = None, **more: Any
) -> Fit:
    """A fit in the numbers of the data."""
    model, settings = IMAGES if data.kind == "images" else VIEWS, FitSettings(steps=steps, parts=parts)
    fit = Fit(data, out, settings, model=model, train=RECIPE, world=world, **more)
    fit.model.to(data.dtype)
    return fit


FAMILIES = {"images": Many(Discs()), "views": Many(Balls(), dtype=torch.float32)}  # occupancy is drawn in 32 bits


def refused(what: Callable[[], Any]) -> Any:
    """What came of something that must not go well: a line, or an exit code."""
    try:
        what()
    except SystemExit as ended:
        return ended.code
    except (InputError, FloatingPointError) as error:
        return str(error)
    return None


class Spoilt(Many):
    """Its samples are not finite on one rank."""

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        batch = super().batch(scenes, n, generator)
        assert isinstance(batch, Points)
        return batch._replace(target=batch.target * float("nan" if 1 in scenes.tolist() else 1.0))


def many_things(folder: Path, world: World) -> dict[str, Any]:
    """Fits that go well, and bad input."""
    found: dict[str, Any] = {}
    for data in FAMILIES.values():
        fit = make(data, folder / data.kind, world, STEPS[data.kind])
        run = fit.run()
        found[data.kind] = {"loss": fit.progress.loss, "summary": run.summary, "names": run.names}

    few = Many(Discs(), NAMES[:1])
    found["few"] = refused(lambda: make(few, folder / "few", world))
    other = Many(Discs(), NAMES if world.first else NAMES[:-1])
    found["other family"] = refused(lambda: make(other, folder / "other", world))
    found["other settings"] = refused(lambda: make(Many(Discs()), folder / "other", world, steps=3 + world.rank))
    found["not finite"] = refused(make(Spoilt(Discs()), folder / "nan", world).run)
    found["no folder"] = refused(lambda: make(Many(Discs()), None, world))

    fit = make(Many(Discs()), folder / "stopped", world)
    step = fit.trainer.step

    def signalled(progress: Progress) -> None:
        if world.rank == 1 and progress.step == 3:
            signal.raise_signal(signal.SIGTERM)
        step(progress)

    fit.trainer.step = signalled  # type: ignore[method-assign]
    found["stopped"] = refused(fit.run)

    assert isinstance(world, distributed.Ranks)
    world.compress = "bf16"
    found["short"] = make(Many(Discs()), folder / "short", world, steps=STEPS["images"]).run().summary
    world.compress = None

    write = shards.write_file

    def full(*arguments: Any) -> Any:
        if world.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "disk")
        return write(*arguments)

    shards.write_file = full
    found["full disk"] = refused(make(Many(Discs()), folder / "full", world, steps=3).run)
    shards.write_file = write
    return found


def killed(folder: Path) -> int:
    """A fit by the command, of which one rank dies: the exit code of the other."""
    fitting.CHECKPOINT_SECONDS = 0.0
    step = PartsTrainer.step

    def dies(self: PartsTrainer, progress: Progress) -> None:
        if self.world.rank == 1 and progress.step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, progress)

    PartsTrainer.step = dies  # type: ignore[method-assign]
    return main(["fit", str(folder / "family"), "--out", str(folder / "killed"), *TINY])


def resumed(folder: Path, world: World) -> dict[str, Any]:
    """The same fit on another number of ranks."""
    data = hf.open_family(folder / "family")
    fit = Fit(data, folder / "on three", FitSettings("tiny", steps=END), resume=True, world=world)
    assert isinstance(fit.trainer, PartsTrainer)
    begun, codes = fit.progress.step, fit.model.latents.codes.detach()
    parts = world.gather((fit.trainer.scenes.tolist(), codes.tolist()))
    fit.run()
    return {"codes": parts, "step": begun, "parts": fit.settings.parts}


if __name__ == "__main__":
    distributed.HEAD_START = 0.0
    task, folder = sys.argv[1], Path(sys.argv[2])
    if task == "killed":
        raise SystemExit(killed(folder))
    with hf.distributed() as world:
        result = {"many": many_things, "resumed": resumed}[task](folder, world)
        (folder / f"{task}-{world.rank}.json").write_text(json.dumps(result))
