"""Fitting: one hypernetwork and a latent a scene, to a whole data set at once. `fit` is the front door.

data -> task.model -> HyperField, source of codes -> Trainer, step by step -> Run
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hyperfields.codes import Codes, CodeSource, FitContext
from hyperfields.codes.table import LatentTable
from hyperfields.configs import parts_of, to_json
from hyperfields.data import SceneDataset, fingerprint, require_scenes
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.ops.devices import Precision, require_float32, saying_what_to_lower
from hyperfields.process import seeded
from hyperfields.runs.config import (
    CONFIG,
    DataSource,
    FitSettings,
    RunConfig,
    read_config,
    require_new,
    versions,
    write_config,
)
from hyperfields.runs.lock import FolderLock
from hyperfields.runs.run import (
    METRICS,
    MODEL,
    Run,
    load_run,
    read_summary,
    write_photographs,
)
from hyperfields.tasks import Objective, Task, TrainConfig, task_of
from hyperfields.tasks.captures import CaptureSettings, SpaceName
from hyperfields.training import asked, outcome
from hyperfields.training.alone import AloneTrainer
from hyperfields.training.cost import require_memory
from hyperfields.training.cuda_graphs import Graphs, graphs_for
from hyperfields.training.curve import Curve, Point, points_of
from hyperfields.training.distributed import ALONE, World, exit_code
from hyperfields.training.interrupt import Terminated, between_steps
from hyperfields.training.log import Log
from hyperfields.training.parts import PartsTrainer, parts_of_fit, parts_trainer
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.regularizers import Penalties, penalties_of
from hyperfields.training.state import StateParts, state_of
from hyperfields.training.symmetry import Watch
from hyperfields.training.trainer import Fields, Length, Progress, Regularizer, Trainer
from hyperfields.training.verdict import in_one_line, verdict

CHECKPOINT_SECONDS, CHECKPOINT_PAUSE = 30.0, 1.5  # at most lost to a kill; as much rarer as writing takes longer
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
    parts: int | None = None,
    world: World = ALONE,
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
        parts: draw batches as so many processes do, whatever their number, which must divide it: docs/scale.md.
        world: processes that fit together, from `hf.distributed`; `out` is then a folder that all of them see.

    Raises:
        InputError: settings that do not go together, a folder that holds another fit or other files or cannot be
            written, a device or a precision that cannot be had.
        FloatingPointError: a loss or a gradient became infinite; the last good state is on disk.
        KeyboardInterrupt: after the state is saved; `resume=True` goes on. SIGTERM ends the program so.

    Warns:
        UserWarning: scenes that came to nothing; with `resume`, that nothing was saved or nothing is left to do;
            steps that cannot be recorded, and why: the fit goes on without graphs.
    """
    capture = CaptureSettings(space, refine_poses, appearance)
    fitting = Fit(
        data, None if out is None else Path(out),
        FitSettings(preset, minutes, steps, seed, individually, capture, parts),
        model=model, train=train, codes=codes, loss=loss, regularizers=regularizers, resume=resume, device=device,
        precision=precision, graphs=graphs, task=task,
        curve=curve, world=world,
    )  # fmt: skip
    with shown(progress if world.first else False, "fit", fitting.done()) as on_step:
        run = fitting.run(lambda state: on_step(dataclasses.replace(state, fraction=fitting.done())))
    if fitting.finished and fitting.config.fit != fitting.settings:  # the same length again is no mistake
        warnings.warn(fitting.nothing_to_do(), stacklevel=2)
    if fitting.remarks:
        warnings.warn(f"fit: {in_one_line(fitting.remarks)}; {REMEDY}", stacklevel=2)
    return run


class Fit:
    """A fit, in a folder or in memory: make it, `run` it; a stopped one goes on from its last state.

    Raises:
        InputError: the folder holds another fit or other files, or cannot be written, or there is nothing to resume.
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
        world: World = ALONE,
    ) -> None:
        self.world, self.out, self.length = world, out, Length(settings.minutes, settings.steps)
        with world.together():
            require_float32()
            require_scenes(data)
            self.data, self.task, codes = data, task or task_of(data.kind), asked.codes_of(codes)
            self.device, self.precision = asked.device_for(world.device(device), precision), precision
            picture = self.task.describe(data)
            model, train = asked.chosen_model(self.task, data, settings, model, train, codes, loss, picture)
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
            self.settings = settings = self._in_parts(settings, curve, resume)
            require_memory(model, len(data.names), 1 if settings.individually else train.scenes)
            self.progress = Progress()
            self.source: CodeSource | None = None
            self.trainer: Trainer | AloneTrainer | PartsTrainer
            self._build(regularizers, graphs)
            self.state = state_of(out, self.model, self.source, self.trainer, len(data.names), world, self.watch)
            self.curve = self._curve() if curve else None
            if out is not None:
                to_json(self.config)  # raises before there is a folder when something has no name to be saved by
        self.on_point: Callable[[Point], None] = lambda point: None  # called with each point of the curve
        self.finished = False  # it was at its end when it was resumed
        self.remarks: list[str] = []  # about scenes that came to nothing, once it has run
        asked.require_alike(self.config, world)
        for value in self.model.hypernet.state_dict().values():  # other processors round first values differently
            world.spread(value)
        self.lock: FolderLock | None = None
        self.log = Log(out if world.first else None)
        with world.together():
            self._open(resume)

    def _in_parts(self, settings: FitSettings, curve: bool, resume: bool) -> FitSettings:
        """The settings, with the number of parts that the fit is made in; the config has them, too."""
        before = None
        if resume and self.out is not None:
            before = read_config(self.out, parts_of(self.config)).fit.parts
        parts = parts_of_fit(settings.parts, before, self.world.size)
        settings = dataclasses.replace(settings, parts=parts)
        self.config = dataclasses.replace(self.config, fit=settings)
        if parts is not None:
            asked.require_parts(self.config, curve, self.out, self.world.size)
        return settings

    def _build(self, regularizers: Sequence[Regularizer], graphs: bool) -> None:
        """The model, with the source of its codes, and the trainer."""
        config, settings, count = self.config, self.settings, len(self.data.names)
        with seeded(settings.seed):  # modules draw their first values from the global generator
            self.model = HyperField(config.model, count if settings.parts is None else 0, sparse=True)
            if config.codes is not None:
                context = FitContext(self.data, self.task, config.model.latent_size, config.model.field.spec)
                self.source = config.codes.build(context).to(self.device)
        self.model.to(self.device)
        self.watch: Watch | None = None
        penalties = penalties_of(config.train, self.model.bind, regularizers)
        if settings.parts is not None:
            self.trainer = parts_trainer(
                self.model, self.data, self.config.train, settings.seed, settings.parts, self.world, self.device,
                bind=self._bind, objective=self._objective, penalties=penalties,
            )  # fmt: skip
        elif settings.individually:
            self.trainer = AloneTrainer(
                self.model, self.data, self.task, config.train, settings.seed, self.device, self.precision
            )
        else:
            made = graphs_for(self.data, self.device, self.source is None) if graphs else None
            self.trainer = self._trainer(penalties, made)
            if self.source is None:
                self.watch = Watch(self.model, self.task, self.trainer, self.data)

    def _trainer(self, penalties: Penalties, graphs: Graphs | None) -> Trainer:
        groups = parameter_groups(self.model)
        if self.source is not None:
            groups["networks"], groups["latents"] = groups["networks"] + self.source.networks(), self.source.tables()
        train, count = self.config.train, len(self.data.names)
        objective = self._objective(self.data, train, count)
        return Trainer(
            self._bind, groups | objective.groups(), objective, torch.arange(count), train, self.settings.seed,
            regularizers=penalties(objective), graphs=graphs,
        )  # fmt: skip

    def _objective(self, data: SceneDataset, train: TrainConfig, scenes: int) -> Objective:
        return self.task.objective(
            data, self.config.model.field, train, scenes, device=self.device, precision=self.precision, loss=train.loss
        )

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
        return Curve(self.data, self.task, self.length, self._tell)

    def _tell(self, point: Point) -> None:
        self.log.point(point, self.progress.loss)
        self.on_point(point)

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
        except Exception:
            self._take_back()
            raise
        finally:
            self._release()

    def _take_back(self) -> None:
        """Free the folder of a fit that failed before a state was saved, so that it can begin with other settings."""
        if self.out is not None and self.world.first and self.state is not None and not self.state.exists():
            for name in (CONFIG, METRICS):
                (self.out / name).unlink(missing_ok=True)

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _run(self, on_step: OnStep) -> Run:
        due_at = [time.monotonic() + CHECKPOINT_SECONDS]
        logged = [self.progress.seconds]

        def look() -> None:
            if self.world.first:
                on_step(self.progress)
            if self.watch is not None:
                self.watch.follow(self.progress)
            stop_if_asked()

        def after_step(progress: Progress) -> float:
            due = self.world.agree(look, time.monotonic() > due_at[0])
            if progress.seconds - logged[0] > LOG_SECONDS:
                logged[0] = progress.seconds
                self.log.line(progress)
            if due:
                due_at[0] = self._save_state() + time.monotonic()
            if self.curve is None or not self.curve.due(progress):
                return 0.0
            self.trainer.sync(progress)  # what a GPU has still to do is the fit's
            return self.curve.measure(progress, self._field_now)

        samples = self.config.train.samples
        lower = f"use --preset tiny, fewer scenes (--limit), or a TrainConfig with fewer samples than {samples}"
        with saying_what_to_lower(lower), between_steps(patient=self.world.size > 1) as stop_if_asked:
            try:
                self.trainer.fit(self.length, self.progress, on_step=after_step)
            except (KeyboardInterrupt, Terminated) as stopped:
                self._save_state()
                self.world.end(stopped, exit_code(stopped))
        if self.curve is not None and self.progress.step:
            self.curve.measure(self.progress, self._field_now)
        self.log.line(self.progress)
        self._save_state()
        return self._finish()

    def _finish(self) -> Run:
        """The run, whole on all ranks."""
        with self.world.together():
            if self.world.first:
                run = self._write_run()
        with self.world.together():
            if not self.world.first:
                assert self.out is not None
                run = load_run(self.out, self.device, trust=parts_of(self.config))
        return run

    def _write_run(self) -> Run:
        """The run: final codes in the table, all values rounded to 16 bits as in files."""
        self._final_codes()
        summary = outcome.summary_of(self.progress, self.model)
        if isinstance(self.trainer, PartsTrainer) and self.world.size > 1:
            summary |= {"ranks": self.world.size, "reduced_bytes_a_step": self.trainer.bytes_a_step}
        if self.watch is not None and self.watch.axis is not None:
            summary["mirror"] = "xyz"[self.watch.axis]
        if self.curve is not None:
            summary["curve"] = [dataclasses.astuple(point) for point in self.curve.points]
        if self.finished and self.out is not None:
            summary = read_summary(self.out)
        elif self.out is not None:
            outcome.write(self.out, self.model, self.source, summary)
        outcome.round_as_files(self.model, self.source)
        self.model.latents.sparse = False
        learned = outcome.learned_photographs(self.trainer)
        if self.out is not None and not self.finished:
            write_photographs(self.out, learned)
        run = Run(self.config, self.model, self.out, self.source, summary, learned)
        self.remarks = verdict(run, self.data)
        return run

    def _final_codes(self) -> None:
        """Final codes of all scenes into the table of the model, in their order."""
        latents = self.model.latents
        if isinstance(self.trainer, PartsTrainer):
            if isinstance(self.state, StateParts) and self.world.size > 1:
                codes = self.state.codes()
            else:
                codes = self.trainer.in_order(latents.codes)
            self.model.latents = LatentTable(len(codes), codes.shape[1], start=codes).to(self.device)
        elif self.source is not None:
            assert isinstance(self.trainer, Trainer)
            for scenes in torch.arange(len(self.data.names), device=self.device).split(self.config.train.scenes):
                found = self.source.final_codes(scenes, self.trainer.generator, self._loss_of(scenes))
                with torch.no_grad():
                    latents.codes[scenes] = found

    # On disk --------------------------------------------------------------------------------------------------

    def _save_state(self) -> float:
        """Write it: seconds until it is due again."""
        began = time.monotonic()
        if self.state is not None:
            self.state.save(self.progress)
        return CHECKPOINT_SECONDS * max(1.0, (time.monotonic() - began) / CHECKPOINT_PAUSE)

    def _open(self, resume: bool) -> None:
        """Take the folder, and what is in it to go on with. Nobody else writes into it until `run` has ended."""
        out = self.out
        if out is not None and self.world.first and not (out.exists() and not out.is_dir()):
            self.lock = FolderLock(out)
        try:
            if resume:
                self._resume()
            elif out is not None and self.world.first:
                require_new(out)
                write_config(out, self.config)
        except BaseException:
            self._release()
            raise

    def _resume(self) -> None:
        if self.out is None or self.state is None:
            raise InputError("resume: wanted the folder of the fit to go on with, out=")
        old = read_config(self.out, parts_of(self.config))
        asked.require_same(self.out, old, self.config)
        self.config = dataclasses.replace(self.config, sources=self.config.sources or old.sources)
        if not self.state.exists():
            warnings.warn(f"{self.out}: stopped before a state was saved; starts again at step 0", stacklevel=2)
        else:
            self.progress = self.state.load()
            whole = (self.out / MODEL).is_file() and read_summary(self.out).get("steps") == self.progress.step
            self.finished = self.length.done(self.progress) >= 1.0 and whole
        if self.finished:
            self.config = dataclasses.replace(self.config, fit=old.fit)
        if self.world.first and json.dumps(to_json(old)) != json.dumps(to_json(self.config)):
            write_config(self.out, self.config)
        lines = self.log.cut(self.progress.step)
        if self.curve is not None:
            self.curve.go_on(points_of(lines), self.progress)

    def nothing_to_do(self) -> str:
        """A line about a fit that is at its end already."""
        return f"{self.out}: already at {asked.nothing_to_do(self.settings, self.progress)}"
