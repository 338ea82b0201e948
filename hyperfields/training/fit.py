"""Fitting: one hypernetwork and a latent a scene, to a whole data set at once. `fit` is the front door.

data -> task.model -> HyperField, source of codes -> Trainer, step by step -> Run
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.codes import Codes, CodeSource, FitContext
from hyperfields.configs import parts_of, to_json
from hyperfields.data import SceneDataset, fingerprint, require_scenes, stays_on_device
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import shares_networks
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.ops import devices
from hyperfields.ops.devices import Precision, require_float32, require_precision, saying_what_to_lower, usable_device
from hyperfields.process import seeded
from hyperfields.runs import codec
from hyperfields.runs.atomic import append, write_atomically
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import CONFIG, DataSource, FitSettings, RunConfig, read_config, versions, write_config
from hyperfields.runs.lock import FolderLock
from hyperfields.runs.run import (
    METRICS,
    MODEL,
    STATE,
    SUMMARY,
    Run,
    read_summary,
    write_model,
    write_photographs,
    write_source,
)
from hyperfields.tasks import Task, TrainConfig, task_of
from hyperfields.tasks.captures import CaptureSettings, SpaceName
from hyperfields.training.alone import AloneTrainer
from hyperfields.training.asked import alone, codes_of, difference, name_of, require_model
from hyperfields.training.cost import require_memory
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.curve import Curve, Point, points_of
from hyperfields.training.interrupt import Terminated, between_steps
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.regularizers import GaussianPrior, MixedCodes
from hyperfields.training.symmetry import Watch
from hyperfields.training.trainer import Fields, Length, Progress, Regularizer, Trainer, with_prefix
from hyperfields.training.verdict import in_one_line, verdict

CHECKPOINT_SECONDS = 30.0  # at most this is lost to a kill
LOG_SECONDS = 5.0
REMEDY = "fit longer or with another seed, and look at the data: cameras, unit and background"


@torch.inference_mode(False)  # wherever it is called
@torch.enable_grad()
def fit(
    data: SceneDataset,
    out: str | Path | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    preset: str = "default",
    model: ModelConfig | None = None,
    train: TrainConfig | None = None,
    codes: Codes | str | None = None,
    loss: Callable[..., Tensor] | None = None,
    regularizers: Sequence[Regularizer] = (),
    individually: bool = False,
    space: SpaceName | None = None,
    refine_poses: bool = False,
    appearance: bool = False,
    curve: bool = False,
    seed: int = 0,
    resume: bool = False,
    progress: bool | OnStep = True,
    device: str = "cpu",
    precision: Precision = "float32",
    graphs: bool = True,
    task: Task | None = None,
) -> Run:
    """A run: one hypernetwork fitted to all scenes of `data`, ready to be rendered and measured.

        run = hf.fit(hf.Images(pixels), minutes=1)
        picture = run["3"].render()

    A fit of so many steps gives the same bits again on the same machine, resumed or not; one of so many minutes follows
    the clock. On a GPU the last bits may change from run to run. No global random state is read or changed.

    Where scenes of views have eight pictures or fewer and turn out to be symmetric, each picture also counts as its
    mirror image; `Run.summary["mirror"]` then has the axis.

    Args:
        data: scenes of one kind, see `data.SceneDataset`: `hf.Images`, `hf.Shapes`, `hf.Views`, `hf.open_family`, or
            your own.
        out: folder for the run, new or empty; without, it stays in memory (`Run.save` writes it).
        minutes: length of the fit, unless `steps` are given.
        steps: length of the fit, unless `minutes` are given.
        preset: "tiny", "default" or "faithful": a named model and recipe for the kind of data.
        model: instead of the preset's; see `hf.preset`.
        train: instead of the preset's.
        codes: where codes come from: `hf.Variational()`, `hf.Encoder()`, `hf.CAVIA()`, `hf.Sequence()`,
            a name as on the command line such as "vae", or your own; default a table that is fitted with the networks
            (an auto-decoder).
        loss: `loss(prediction, batch)` -> unreduced errors, instead of the task's; see `tasks.Task.objective`.
        regularizers: callables of a `StepState`, added to the loss.
        individually: every scene alone, without a hypernetwork, in an even share of the time: the baseline.
        space: of views: "box", the scene box alone; "contracted", all of space; default: contracted where the pictures
            show what is all round.
        refine_poses: of views: also learn corrections of the poses of training pictures.
        appearance: of views: also learn how the colours of each training picture differ.
        curve: of views: measure held-out pixels at moments along the fit; `Run.summary["curve"]` then has (step,
            seconds, psnr in dB) of each. It takes time that is not the fit's, and changes nothing of the result.
        resume: go on with the fit in `out`, with the same data and settings; the length may be another.
        progress: True shows a bar; or called with the `Progress` after each step.
        device: "cpu", "cuda" or "cuda:N".
        precision: "mixed" takes 16-bit inputs to the products of generated MLPs (NVIDIA GPUs from 8.0 on).
        graphs: record steps on an NVIDIA GPU as CUDA graphs and replay them.
        task: of a kind that is your own.

    Raises:
        InputError: settings that do not go together, a folder that holds another fit or cannot be written, a device or
            a precision that cannot be had.
        FloatingPointError: a loss or a gradient became infinite; the last good state is on disk.
        KeyboardInterrupt: after the state is saved; `resume=True` goes on. SIGTERM ends the program so.

    Warns:
        UserWarning: scenes that came to nothing; with `resume`, that nothing was saved or nothing is left to do;
            steps that cannot be recorded, and why: the fit goes on without graphs.
    """
    capture = CaptureSettings(space, refine_poses, appearance)
    fitting = Fit(
        data, None if out is None else Path(out), FitSettings(preset, minutes, steps, seed, individually, capture),
        model=model, train=train, codes=codes, loss=loss, regularizers=regularizers, resume=resume, device=device,
        precision=precision, graphs=graphs, task=task,
        curve=curve,
    )  # fmt: skip
    with shown(progress, "fit", fitting.done()) as on_step:
        run = fitting.run(lambda state: on_step(dataclasses.replace(state, fraction=fitting.done())))
    if fitting.finished and fitting.config.fit != fitting.settings:  # the same length again is no mistake
        warnings.warn(fitting.nothing_to_do(), stacklevel=2)
    if fitting.remarks:
        warnings.warn(f"fit: {in_one_line(fitting.remarks)}; {REMEDY}", stacklevel=2)
    return run


class Fit:
    """A fit, in a folder or in memory: make it, `run` it; a stopped one goes on from its last state.

    Raises:
        InputError: the folder holds another fit, or cannot be written, or there is nothing to resume.
    """

    def __init__(
        self,
        data: SceneDataset,
        out: Path | None,
        settings: FitSettings,
        *,
        model: ModelConfig | None = None,
        train: TrainConfig | None = None,
        codes: Codes | str | None = None,
        loss: Callable[..., Tensor] | None = None,
        regularizers: Sequence[Regularizer] = (),
        resume: bool = False,
        sources: tuple[DataSource, ...] = (),
        device: str = "cpu",
        precision: Precision = "float32",
        graphs: bool = True,
        task: Task | None = None,
        curve: bool = False,
    ) -> None:
        require_float32()
        require_scenes(data)
        codes = codes_of(codes)
        self.data, self.out, self.settings = data, out, settings
        self.length = Length(settings.minutes, settings.steps)
        self.device, self.task = usable_device(device), task or task_of(data.kind)
        require_precision(precision, self.device)
        if self.device.type == "cuda" and (reason := ops.backends()["triton"]):
            warnings.warn(f"--device {device}: {reason}; fitting in plain torch, which is far slower", stacklevel=2)
        picture = self.task.describe(data)
        model, train = self._model(model, train, codes, loss, picture)
        self.config = RunConfig(
            kind=data.kind,
            scenes=tuple(data.names),
            model=model,
            train=train,
            fit=settings,
            codes=codes,
            regularizers=tuple(getattr(part, "__qualname__", None) or repr(part) for part in regularizers),
            picture=picture,
            sources=sources,
            fingerprint=fingerprint(data),
            device=device,
            precision=precision,
            versions=versions(),
            task=task,
        )
        require_memory(model, len(data.names), 1 if settings.individually else train.scenes)
        with seeded(settings.seed):  # modules draw their first values from the global generator
            self.model = HyperField(model, len(data.names), sparse=True).to(self.device)
            context = FitContext(data, self.task, model.latent_size, model.field.spec)
            self.source: CodeSource | None = None if codes is None else codes.build(context).to(self.device)
        self.progress = Progress()
        self.on_point: Callable[[Point], None] = lambda point: None  # called with each point of the curve
        self.finished = False  # it was at its end when it was resumed
        self.curve = self._curve() if curve else None
        self.remarks: list[str] = []  # about scenes that came to nothing, once it has run
        self.trainer: Trainer | AloneTrainer
        if settings.individually:
            self.trainer = AloneTrainer(self.model, data, self.task, train, settings.seed, self.device, precision)
        else:
            self.trainer = self._trainer(regularizers, precision, self._graphs(graphs))
        self.watch = None
        if isinstance(self.trainer, Trainer) and self.source is None:
            self.watch = Watch(self.model, self.task, self.trainer, data)
        if out is not None:
            to_json(self.config)  # raises before there is a folder when something has no name to be saved by
        # From here on nobody else writes into the folder, until `run` has ended.
        self.lock = None if out is None or (out.exists() and not out.is_dir()) else FolderLock(out)
        try:
            if resume:
                self._resume()
            elif out is not None:
                if (out / CONFIG).exists():
                    raise InputError(
                        f"{out}: holds a fit already; add --resume to go on with it, or choose another --out"
                    )
                write_config(out, self.config)
        except BaseException:
            self._release()
            raise

    def _model(
        self,
        model: ModelConfig | None,
        train: TrainConfig | None,
        codes: Codes | None,
        loss: Callable[..., Tensor] | None,
        picture: dict[str, Any],
    ) -> tuple[ModelConfig, TrainConfig]:
        """The preset's model and recipe with what was asked for instead."""
        capture = self.settings.capture
        options = capture.model_options(self.data.kind, picture)
        if self.settings.individually and codes is not None:
            raise InputError("--individually: fits the weights of each scene, there are no codes; leave it out")
        side = max(picture.get("size", (1, 1)))
        chosen = self.task.model(self.settings.preset, len(self.data.names), side, **options)
        if train is not None and not isinstance(train, TrainConfig):
            raise InputError(f"train: {name_of(train)} came, wanted a TrainConfig, such as hf.preset(...)[1]")
        if train is None:
            train = chosen[1] if codes is None else codes.adapt_recipe(chosen[1])
        train = capture.recipe(dataclasses.replace(train, loss=loss or train.loss or self.task.loss))
        if self.settings.individually and (train.photographs.poses or train.photographs.appearance):
            raise InputError(
                "--individually: learns nothing of single pictures; leave --refine-poses, --appearance out"
            )
        model = model or chosen[0]
        require_model(model, self.task)
        if self.settings.individually and shares_networks(model.generator):
            model = alone(model)
        if codes is not None and not shares_networks(model.generator):
            name = type(model.generator).__name__
            raise InputError(
                f"codes: {type(codes).__name__} needs networks to serve, {name} has none; take another generator"
            )
        return model, train

    def _graphs(self, wanted: bool) -> Graphs | None:
        if not wanted or not devices.is_async(self.device):
            return None
        graphs = Graphs(self.device)
        if not stays_on_device(self.data):
            graphs.disable("the data set draws its batches on the CPU, as it has no `to`")
        if self.source is not None:
            graphs.disable("codes that do not come from a table take steps of their own")
        return graphs

    def _trainer(self, regularizers: Sequence[Regularizer], precision: Precision, graphs: Graphs | None) -> Trainer:
        groups = parameter_groups(self.model)
        if self.source is not None:
            groups["networks"], groups["latents"] = groups["networks"] + self.source.networks(), self.source.tables()
        train, count = self.config.train, len(self.data.names)
        objective = self.task.objective(
            self.data, self.config.model.field, train, count, device=self.device, precision=precision, loss=train.loss
        )
        mixed = (MixedCodes(self.model.bind, objective),) if train.between.weight else ()
        return Trainer(
            self._bind, groups | objective.groups(), objective, torch.arange(count), train, self.settings.seed,
            regularizers=(GaussianPrior(train.prior), *mixed, *regularizers), graphs=graphs,
        )  # fmt: skip

    def _bind(self, local: Tensor, generator: torch.Generator) -> Fields:
        penalty: Tensor | None = None
        if self.source is None:
            codes = self.model.latents(local)
        else:
            codes, penalty = self.source.codes(local, generator, self._loss_of(local))
        bound, divergence = self.model.sample(codes, generator)
        if divergence is not None:
            weighted = self.config.model.bayes.weight * divergence
            penalty = weighted if penalty is None else penalty + weighted
        return Fields(bound, codes if self.source is None or self.source.prior else None, penalty)

    def _loss_of(self, local: Tensor) -> Callable[[Tensor], Tensor]:
        """Codes of scenes -> the sum of their losses on fresh samples."""
        trainer = self.trainer
        assert isinstance(trainer, Trainer)
        return lambda codes: trainer.objective(self.model.bind(codes), local, local, trainer.generator) * len(local)

    def _curve(self) -> Curve:
        if self.source is not None or (self.settings.individually and len(self.data.names) > 1):
            how = "--individually" if self.source is None else f"codes by {type(self.config.codes).__name__}"
            raise InputError(f"--curve: cannot be had along a fit with {how}; leave it out")
        return Curve(self.data, self.task, self.length, self._log_point)

    @torch.no_grad()
    def _field_now(self, scene: int) -> BoundField:
        """The field of a scene as it is now, nothing rounded."""
        if isinstance(self.trainer, AloneTrainer):
            return self.trainer.bound()
        return self.model.bind(self.model.latents(torch.tensor([scene], device=self.device))).detach()

    def done(self) -> float:
        """Fraction of the whole fit that is done."""
        return min(self.length.done(self.progress), 1.0)

    def run(self, on_step: OnStep = lambda progress: None) -> Run:
        """Fit to the end, or until Ctrl-C or SIGTERM, which save the state first.

        Raises:
            KeyboardInterrupt, interrupt.Terminated: after the state is saved.
            FloatingPointError: see `fit`.
        """
        try:
            return self._finish() if self.finished else self._run(on_step)
        finally:
            self._release()

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _run(self, on_step: OnStep) -> Run:
        saved = [time.monotonic()]
        logged = [self.progress.seconds]

        def after_step(progress: Progress) -> float:
            on_step(progress)
            if self.watch is not None:
                self.watch.follow(progress)
            stop_if_asked()
            if progress.seconds - logged[0] > LOG_SECONDS:
                logged[0] = progress.seconds
                self._log()
            if time.monotonic() - saved[0] > CHECKPOINT_SECONDS:
                self._save_state()
                saved[0] = time.monotonic()
            if self.curve is None or not self.curve.due(progress):
                return 0.0
            self.trainer.sync(progress)  # what a GPU has still to do is the fit's
            return self.curve.measure(progress, self._field_now)

        samples = self.config.train.samples
        lower = f"use --preset tiny, fewer scenes (--limit), or a TrainConfig with fewer samples than {samples}"
        with saying_what_to_lower(lower), between_steps() as stop_if_asked:
            try:
                self.trainer.fit(self.length, self.progress, on_step=after_step)
            except (KeyboardInterrupt, Terminated):
                self._save_state()
                raise
        if self.curve is not None and self.progress.step:
            self.curve.measure(self.progress, self._field_now)
        self._log()
        self._save_state()
        return self._finish()

    def _finish(self) -> Run:
        """The run: final codes in the table, all values rounded to 16 bits as in files."""
        if self.source is not None:
            assert isinstance(self.trainer, Trainer)
            for scenes in torch.arange(len(self.data.names), device=self.device).split(self.config.train.scenes):
                codes = self.source.final_codes(scenes, self.trainer.generator, self._loss_of(scenes))
                with torch.no_grad():
                    self.model.latents.codes[scenes] = codes
        summary: dict[str, Any] = {
            "steps": self.progress.step,
            "seconds": self.progress.seconds,
            "loss": self.progress.loss,
            "parameters": self.model.networks_numel(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if self.watch is not None and self.watch.axis is not None:
            summary["mirror"] = "xyz"[self.watch.axis]
        if self.curve is not None:
            summary["curve"] = [dataclasses.astuple(point) for point in self.curve.points]
        if self.finished and self.out is not None:
            summary = read_summary(self.out)
        elif self.out is not None:
            digest = write_model(self.out, self.model)
            if self.source is not None:
                write_source(self.out, self.source, digest)
            # Last: without it, or with that of a shorter fit, the files above are written again.
            write_atomically(self.out / SUMMARY, json.dumps(summary, indent=1).encode())
        # What is rendered is what `evaluate` measures and what files hold.
        for module in (self.model, self.source):
            if module is not None:
                module.load_state_dict({name: codec.round_trip(value) for name, value in module.state_dict().items()})
                module.eval()
        self.model.latents.sparse = False
        learned = self._photographs()
        if self.out is not None and not self.finished:
            write_photographs(self.out, learned)
        run = Run(self.config, self.model, self.out, self.source, summary, learned)
        self.remarks = verdict(run, self.data)
        return run

    def _photographs(self) -> dict[str, Tensor]:
        """What was learned of the training pictures; see `Run`."""
        objective = getattr(self.trainer, "objective", None)
        learned = getattr(objective, "photographs", None)
        return {} if learned is None else learned.learned()

    # On disk --------------------------------------------------------------------------------------------------

    def _log(self) -> None:
        if self.out is None:
            return
        line = {
            "step": self.progress.step,
            "seconds": round(self.progress.seconds, 3),
            "loss": self.progress.loss,
        }
        append(self.out / METRICS, json.dumps(line) + "\n")

    def _log_point(self, point: Point) -> None:
        """A line of the log with a point of the curve."""
        if self.out is not None:
            line = {"step": point.step, "seconds": round(point.seconds, 3), "loss": self.progress.loss}
            append(self.out / METRICS, json.dumps({**line, "held_out_psnr": round(point.psnr, 4)}) + "\n")
        self.on_point(point)

    def _save_state(self) -> None:
        if self.out is None:
            return
        self.trainer.sync(self.progress)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.source is not None:
            tensors |= {f"source.{name}": value for name, value in self.source.state_dict().items()}
        tensors |= {f"trainer.{name}": value for name, value in self.trainer.state_dict().items()}
        if self.watch is not None:
            tensors |= {f"symmetry.{name}": value for name, value in self.watch.state().items()}
        header = {"progress": json.dumps(dataclasses.asdict(self.progress))}
        write_atomically(self.out / STATE, codec.pieces(tensors, header))  # of very many scenes it is gigabytes

    def _resume(self) -> None:
        if self.out is None:
            raise InputError("resume: wanted the folder of the fit to go on with, out=")
        path = self.out / STATE
        old = read_config(self.out, parts_of(self.config))
        for key in ("kind", "scenes", "fingerprint", "model", "train", "fit", "codes", "regularizers"):
            ours, theirs = getattr(self.config, key), getattr(old, key)
            if key == "fit" and not self.settings.individually:  # its length may be another
                theirs = dataclasses.replace(theirs, minutes=ours.minutes, steps=ours.steps)
            if found := difference(to_json(theirs), to_json(ours), key):
                if key == "fingerprint":
                    found = "other data or another size"
                raise InputError(f"{self.out}: holds another fit: {found}; resume with the same family and settings")
        self.config = dataclasses.replace(self.config, sources=self.config.sources or old.sources)
        if not path.is_file():
            warnings.warn(f"{self.out}: stopped before a state was saved; starts again at step 0", stacklevel=2)
        else:
            self._read_state(path)
            written = (self.out / MODEL).is_file() and read_summary(self.out).get("steps") == self.progress.step
            self.finished = self.length.done(self.progress) >= 1.0 and written
        if self.finished:
            self.config = dataclasses.replace(self.config, fit=old.fit)
        if json.dumps(to_json(old)) != json.dumps(to_json(self.config)):
            write_config(self.out, self.config)
        self._cut_log()

    def _read_state(self, path: Path) -> None:
        """Take over a state that was saved."""
        tensors, header = read_tensors(path)
        try:
            self.progress = Progress(**json.loads(header["progress"]))
            self.progress.check()
            self.model.load_state_dict(with_prefix(tensors, "model."))
            if self.source is not None:
                self.source.load_state_dict(with_prefix(tensors, "source."))
            self.trainer.load_state_dict(with_prefix(tensors, "trainer."))
            if self.watch is not None:
                self.watch.restore(with_prefix(tensors, "symmetry."))
        except (KeyError, ValueError, RuntimeError, TypeError) as error:  # RecursionError is one
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{path}: damaged: {reason}; fit again into another folder") from None

    def nothing_to_do(self) -> str:
        """A line about a fit that is at its end already."""
        if self.settings.steps is not None:
            at, more = f"{self.progress.step:,} steps", f"--steps above {self.progress.step}"
        else:
            minutes = f"{self.progress.seconds / 60.0:.3g}"
            at, more = f"{minutes} minutes ({self.progress.step:,} steps)", f"--minutes above {minutes}"
        return f"{self.out}: already at {at}, nothing to do; give {more}"

    def _cut_log(self) -> None:
        """Drop lines of the log after the state that is gone on with, and one that was cut by a kill or a full disk."""
        assert self.out is not None
        log = self.out / METRICS
        if not log.is_file():
            return
        kept, lines = [], []
        for line in log.read_text(errors="replace").splitlines(True):
            try:
                entry = json.loads(line)
                if entry["step"] <= self.progress.step:
                    kept.append(line)
                    lines.append(entry)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_atomically(log, "".join(kept).encode())
        if self.curve is not None:
            self.curve.go_on(points_of(lines), self.progress)
