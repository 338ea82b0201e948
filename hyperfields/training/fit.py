"""Fitting: one hypernetwork and a latent a scene, to a whole family at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.codes.table import CodeSource
from hyperfields.data import Mesh, SceneDataset, View, fingerprint
from hyperfields.errors import InputError
from hyperfields.fields import Field
from hyperfields.hypernets import Independent
from hyperfields.model import BoundField, HyperField, ModelConfig, parameter_groups
from hyperfields.ops import devices
from hyperfields.ops.devices import Precision, require_precision, saying_what_to_lower, usable_device
from hyperfields.ops.threads import one_torch_thread
from hyperfields.runs import checkpoint
from hyperfields.tasks.presets import Preset, TrainConfig, preset
from hyperfields.training.cost import require_memory
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.objective import Objective
from hyperfields.training.optim import Optimization, Progress, part
from hyperfields.weights import flatten, numel

CHECKPOINT_SECONDS = 30.0  # at most this is lost to a kill


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How long and how to fit. Exactly one of `minutes` and `steps`."""

    preset: Preset = "default"
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    individually: bool = False

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: give one of the two")
        if (self.minutes is not None and not self.minutes > 0) or (self.steps is not None and self.steps < 1):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: wanted a positive length")


class SceneWeights(nn.Module):
    """The weights of one scene as parameters of their own, for fitting it alone."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.values = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(entry.initial()[None]) for name, entry in field.spec.items()}
        )

    def bind(self, _: Tensor) -> tuple[BoundField, None]:
        return BoundField(self.field, {name.replace("/", "."): value for name, value in self.values.items()}, 1), None

    def groups(self) -> dict[str, list[nn.Parameter]]:
        shared = {name.replace(".", "/") for name, entry in self.field.spec.items() if entry.source != "generated"}
        return {
            "grid": [value for name, value in self.values.items() if name in shared],
            "networks": [value for name, value in self.values.items() if name not in shared],
        }


class Fit:
    """A fit in its folder: make it, `run` it; a stopped one goes on from its last state.

    Raises:
        InputError: the folder holds another fit, or cannot be written, or there is nothing to resume.
    """

    def __init__(
        self,
        family: SceneDataset,
        out: Path,
        config: FitConfig,
        *,
        model: ModelConfig | None = None,
        recipe: TrainConfig | None = None,
        resume: bool = False,
        note: dict[str, Any] | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        graphs: bool = True,
        source: Callable[[ModelConfig], CodeSource] | None = None,
    ) -> None:
        self.family, self.out, self.config = family, out, config
        self.device, self.precision = usable_device(device), precision
        require_precision(precision, self.device)
        if self.device.type == "cuda" and (reason := ops.backends()["triton"]):
            warnings.warn(f"--device {device}: {reason}; fitting in plain torch, which is far slower", stacklevel=2)
        self.graphs = Graphs(self.device) if graphs and devices.is_async(self.device) else None
        if self.graphs is not None and not hasattr(family, "to"):
            self.graphs.refuse("the family draws its batches on the CPU, as it has no `to`")
        if self.graphs is not None and source is not None:
            self.graphs.refuse("codes that do not come from a table take steps of their own")
        picture = describe(family)
        chosen = preset(config.preset, family.kind, len(family.names), max(picture.get("size", (1, 1))))
        self.recipe = recipe or chosen[1]
        model = model or chosen[0]
        if config.individually:
            model = alone(model)
            if source is not None:
                raise InputError("--individually: fits the weights of each scene, there are no codes; leave it out")
        self.record = {
            "format": checkpoint.FORMAT,
            "kind": family.kind,
            "scenes": list(family.names),
            "fingerprint": fingerprint(family),
            "model": checkpoint.to_json(model),
            "recipe": dataclasses.asdict(self.recipe),
            "fit": dataclasses.asdict(config),
            "device": device,
            "precision": precision,
            "picture": picture,
            "versions": checkpoint.versions(),
            **(note or {}),
        }
        require_memory(model, len(family.names), 1 if config.individually else self.recipe.scenes)
        torch.manual_seed(config.seed)
        self.model = HyperField(model, len(family.names)).to(self.device)
        self.source = None if source is None else source(model).to(self.device)
        self.record["codes"] = None if self.source is None else self.source.settings()
        self.progress = Progress()
        self._begin_optimization()
        state = out / checkpoint.STATE
        if resume:
            self._resume(state)
        elif (out / checkpoint.CONFIG).exists():
            raise InputError(f"{out}: holds a fit already; add --resume to go on with it, or choose another --out")
        else:
            checkpoint.write_config(out, self.record)

    @one_torch_thread()
    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> HyperField:
        """Fit to the end, or until Ctrl-C, which saves the state first.

        Raises:
            KeyboardInterrupt: again, after the state is saved.
        """
        saved = started = time.monotonic()
        before = self.progress.seconds
        logged = before
        lower = (
            f"use --preset tiny, fewer scenes (--limit), or a TrainConfig with fewer samples than {self.recipe.samples}"
        )
        with saying_what_to_lower(lower), between_steps() as stop_if_asked, self._saving_on_interrupt():
            self.optimization.rehearse()
            saved = started = time.monotonic()
            while not self._finished():
                self.optimization.step(self.progress)
                now = time.monotonic()
                self.progress.seconds = before + now - started
                self._advance()
                report(self.progress)
                stop_if_asked()
                if self.progress.seconds - logged > 5.0:
                    logged = self.progress.seconds
                    self._log()
                if now - saved > CHECKPOINT_SECONDS:
                    self._save_state()
                    saved = time.monotonic()
            self.optimization.look(self.progress)
        self._log()
        self._save_state()
        self._settle()
        checkpoint.write_model(self.out, self.model)
        summary = {
            "steps": self.progress.step,
            "seconds": self.progress.seconds,
            "loss": self.progress.loss,
            "parameters": self.model.networks_numel(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        checkpoint.write_atomically(self.out / checkpoint.SUMMARY, json.dumps(summary, indent=1).encode())
        return self.model

    @contextlib.contextmanager
    def _saving_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._save_state()
            raise

    # The clock ------------------------------------------------------------------------------------------------

    def _share(self) -> tuple[float, float]:
        """(first, last) fraction of the fit that belongs to the scene at work; all of it when fitted together."""
        if not self.config.individually:
            return 0.0, 1.0
        count = len(self.family.names)
        return self.progress.scene / count, (self.progress.scene + 1) / count

    def _elapsed(self) -> float:
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        assert self.config.minutes is not None
        return self.progress.seconds / (60.0 * self.config.minutes)

    def _finished(self) -> bool:
        return self.progress.scene >= len(self.family.names) if self.config.individually else self._elapsed() >= 1.0

    def _advance(self) -> None:
        """Move the clock of the schedule; when a scene that is fitted alone is done, keep it and begin the next."""
        first, last = self._share()
        self.progress.fraction = (self._elapsed() - first) / (last - first)
        if self.config.individually and self.progress.fraction >= 1.0:
            assert isinstance(self.module, SceneWeights)
            bound, _ = self.module.bind(torch.zeros(1))
            with torch.no_grad():
                self.model.latents.codes[self.progress.scene] = flatten(bound.weights, bound.field.spec)[0]
            self.progress.scene += 1
            self.progress.fraction = 0.0
            if not self._finished():
                self._begin_optimization()

    # What is optimised ----------------------------------------------------------------------------------------

    def _begin_optimization(self) -> None:
        field = self.model.config.field
        self.module: nn.Module
        bind: Callable[[Tensor], tuple[BoundField, Tensor | None]]
        if self.config.individually:
            torch.manual_seed(self.config.seed + self.progress.scene)
            self.module = SceneWeights(field).to(self.device)
            scenes, bind, groups = torch.tensor([self.progress.scene]), self.module.bind, self.module.groups()
            # One scene does better with more and smaller steps (NUMBERS.md).
            recipe = dataclasses.replace(self.recipe, scenes=1, samples=min(self.recipe.samples, 2**13))
        else:
            self.module, recipe = self.model, self.recipe
            scenes, bind, groups = (
                torch.arange(len(self.family.names)),
                self._bind,
                parameter_groups(self.model),
            )
            if self.source is not None:
                groups["networks"], groups["latents"] = (
                    groups["networks"] + self.source.networks(),
                    self.source.tables(),
                )
        objective = Objective(self.family, field, recipe, len(scenes), self.device, self.precision)
        self.optimization = Optimization(bind, groups, objective, scenes, self.config.seed + self.progress.scene)
        if self.graphs is not None:
            self.graphs.forget()
            self.optimization.graphs = self.graphs

    def _bind(self, local: Tensor) -> tuple[BoundField, Tensor | None]:
        """The fields of a step's scenes, and the codes that the recipe's prior is put on."""
        work, hypernet = self.optimization, self.model.hypernet
        penalty: Tensor | None = None
        if self.source is None:
            codes = self.model.latents(local)
        else:
            codes, penalty = self.source.codes(local, work.generator, self._loss_of(local))
        with hypernet.drawing(work.generator):
            bound = self.model.bind(codes)
        if hypernet.divergence is not None:
            extra = hypernet.bayes.weight * hypernet.divergence
            penalty = extra if penalty is None else penalty + extra
        work.penalty = penalty
        return bound, codes if self.source is None or self.source.prior else None

    def _loss_of(self, local: Tensor) -> Callable[[Tensor], Tensor]:
        """Codes of scenes -> the sum of their losses on fresh samples."""
        work = self.optimization
        return lambda codes: work.objective(self.model.bind(codes), local, local, work.generator) * len(local)

    def _settle(self) -> None:
        """Bring the codes of another source into the table, and write the source beside the model."""
        if self.source is None:
            return
        every = torch.arange(len(self.family.names), device=self.device)
        for scenes in every.split(self.recipe.scenes):
            codes = self.source.settled(scenes, self.optimization.generator, self._loss_of(scenes))
            with torch.no_grad():
                self.model.latents.codes[scenes] = codes
        tensors = {name: value.detach().half().contiguous() for name, value in self.source.state_dict().items()}
        checkpoint.write_atomically(self.out / checkpoint.SOURCE, safetensors.torch.save(tensors))

    # On disk --------------------------------------------------------------------------------------------------

    def _log(self) -> None:
        line = json.dumps(
            {
                "step": self.progress.step,
                "seconds": round(self.progress.seconds, 3),
                "loss": self.progress.loss,
            }
        )
        try:
            with open(self.out / checkpoint.METRICS, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"{self.out / checkpoint.METRICS}: cannot be written: {error.strerror}") from None

    def _save_state(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.config.individually:
            tensors |= {f"module.{name}": value for name, value in self.module.state_dict().items()}
        if self.source is not None:
            tensors |= {f"source.{name}": value for name, value in self.source.state_dict().items()}
        tensors |= self.optimization.state()
        header = {"progress": json.dumps(dataclasses.asdict(self.progress))}
        data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, header)
        checkpoint.write_atomically(self.out / checkpoint.STATE, data)

    def _resume(self, path: Path) -> None:
        old = checkpoint.read_config(self.out)
        for left in path.parent.glob(".*.tmp"):  # by a kill in the middle of a write
            left.unlink()
        if "model" in old:  # settings that are newer than the run have their defaults
            old["model"] = json.loads(json.dumps(checkpoint.to_json(checkpoint.from_json(old["model"]))))
        for key in ("kind", "scenes", "fingerprint", "model", "recipe", "fit", "codes"):
            new = json.loads(json.dumps(self.record[key]))
            if old.get(key) != new:
                raise InputError(
                    f"{self.out}: its {key} differs from this call's; resume with the same family and settings"
                )
        if not path.is_file():
            return  # stopped before the first state was written: begin at the beginning
        tensors, header = checkpoint.read_tensors(path)
        try:
            self.progress = Progress(**json.loads(header["progress"]))
            if not self._finished():
                self._begin_optimization()
                self.module.load_state_dict(part(tensors, "module." if self.config.individually else "model."))
                self.optimization.restore(tensors)
            if self.source is not None:
                self.source.load_state_dict(part(tensors, "source."))
            self.model.load_state_dict(part(tensors, "model."))
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: damaged: {error}; fit again into another folder") from None
        log = self.out / checkpoint.METRICS
        if log.is_file():
            lines = [
                line for line in log.read_text().splitlines(True) if json.loads(line)["step"] <= self.progress.step
            ]
            checkpoint.write_atomically(log, "".join(lines).encode())


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until the yielded function is called, between two steps: what is saved is then exact.

    A second Ctrl-C ends at once and saves nothing; the last state on disk stays good.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise SystemExit(130)
        asked = True

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield stop_if_asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


def alone(model: ModelConfig) -> ModelConfig:
    """The same field without a hypernetwork: every scene owns its table and its networks."""
    return ModelConfig(model.field, Independent(), numel(model.field.spec))


def describe(family: SceneDataset) -> dict[str, Any]:
    """What pictures of a family look like, so that a run renders without its data."""
    truth = first_truth(family)
    if isinstance(truth, Mesh):
        meshes = [family.reference(number) for number in range(len(family.names))]
        frames = [[m.scale, *m.center] for m in meshes if isinstance(m, Mesh)]
        return {"frames": dict(zip(family.names, frames, strict=True))}
    if isinstance(truth, list):
        camera = truth[0].camera
        position = camera.T_world_camera[:3, 3]
        return {
            "size": [camera.height, camera.width],
            "fov": 2.0 * math.atan(0.5 * camera.width / camera.fx),
            "radius": float(position.norm()),
            "elevation": math.asin(float(position[2] / position.norm())),
        }
    return {"size": [truth.shape[0], truth.shape[1]]}


def first_truth(family: SceneDataset) -> Tensor | Mesh | list[View]:
    """What the first scene looks like, from whichever split there is."""
    for split in ("test", "val", "train"):
        try:
            return family.reference(0, split)
        except InputError:
            if split == "train":
                raise
    raise AssertionError


def fit(
    family: SceneDataset,
    out: str | Path,
    config: FitConfig,
    *,
    model: ModelConfig | None = None,
    recipe: TrainConfig | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    device: str = "cpu",
    precision: Precision = "float32",
    graphs: bool = True,
) -> HyperField:
    """Fit a family into the folder `out` and return the model. `model` and `recipe` replace the preset's.

    A fit of so many steps gives the same bits again on the same machine and threads, resumed or not; one of so many
    minutes follows the clock. On a GPU the last bits may change from run to run.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        precision: "mixed" takes 16-bit inputs to the products of generated MLPs (NVIDIA GPUs from 8.0 on).
        graphs: record steps on an NVIDIA GPU as CUDA graphs and replay them.

    Raises:
        InputError: the folder holds another fit, or cannot be written; a device or a precision that cannot be had.
        KeyboardInterrupt: after the state is saved; `resume=True` goes on.

    Warns:
        UserWarning: steps cannot be recorded, and why; the fit goes on without graphs.
    """
    fitting = Fit(
        family, Path(out), config, model=model, recipe=recipe, resume=resume, device=device, precision=precision,
        graphs=graphs,
    )  # fmt: skip
    return fitting.run(report)
