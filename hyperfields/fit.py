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
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields import checkpoint, devices, losses, ops
from hyperfields.budget import FIRST_PER_RAY, Ahead, rays_of, render_budget
from hyperfields.counts import require_memory
from hyperfields.devices import Precision, products, require_precision, saying_what_to_lower, usable_device
from hyperfields.errors import InputError
from hyperfields.families import Family, Mesh, Pixels, Points, View, draw, fingerprint
from hyperfields.fields import Field, RadianceField, ShapeField
from hyperfields.graphs import Graphs
from hyperfields.hypernets import Direct
from hyperfields.latents import CodeSource, RowAdam, gaussian_prior
from hyperfields.model import Bound, HyperField, ModelConfig, parameter_groups
from hyperfields.ops.timing import stage
from hyperfields.presets import Preset, Recipe, preset
from hyperfields.render import OccupancyTracker, render_volume
from hyperfields.weights import flatten, numel

CHECKPOINT_SECONDS = 30.0  # at most this is lost to a kill
WARM_UP = 50  # steps of a rising rate
CLIP = 1.5  # times the running mean of the gradient's norm
FINAL_RATE = 0.01  # of the peak, at the end of the cosine
LOOK = 16  # steps on a GPU from one look of the host at what came of them to the next


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


@dataclasses.dataclass
class Progress:
    """How far a fit is. A `--minutes` fit follows the clock, a `--steps` fit its steps."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan  # smoothed
    fraction: float = 0.0
    scene: int = 0  # the scene at work, when scenes are fitted individually


class Objective:
    """The loss of a batch of scenes, and what changes beside the parameters: the occupancy of views."""

    def __init__(
        self,
        family: Family,
        field: Field,
        recipe: Recipe,
        scenes: int,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.family, self.field, self.recipe = family, field, recipe
        self.device, self.precision = torch.device(device), precision
        if self.device.type != "cpu" and hasattr(family, "to"):
            self.family = family.to(self.device)  # batches are then drawn there
        self.calls = 0
        self.per_ray = FIRST_PER_RAY  # samples that a ray has had lately, to keep the points of a step even
        self.tracker: OccupancyTracker | None = None
        self.ahead: Ahead | None = None
        if isinstance(field, RadianceField):
            self.tracker = OccupancyTracker(scenes, field.occupancy, step=field.step, device=self.device)
            if devices.runs_ahead(self.device):
                self.ahead = Ahead(recipe.samples, min(recipe.scenes, scenes), self.tracker)

    def __call__(self, bound: Bound, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of `bound`, the fields of `scenes` `[s]` (numbers in the family), on fresh samples.

        local: `[s]`, their numbers among the scenes of this objective.
        """
        self.prepare()
        return self.loss(bound, scenes, local, generator)

    def prepare(self) -> Hashable:
        """What the host has to decide before a loss; losses after the same answer do the same with other numbers."""
        self.calls += 1
        return None if self.ahead is None else self.ahead.prepare(self.calls)

    def look(self) -> None:
        """See what became of the last losses, on a GPU: waits for it."""
        if self.ahead is not None:
            self.ahead.look()

    def loss(self, bound: Bound, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """The loss that `prepare` prepared."""
        with products(self.precision, self.device):
            return self._loss(bound, scenes, local, generator)

    def _loss(self, bound: Bound, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        if self.ahead is not None:
            return self._views_ahead(bound, self.ahead, scenes, local, generator)
        if self.tracker is not None:
            return self._views(bound, self.tracker, scenes, local, generator)
        batch = draw(self.family, scenes, max(self.recipe.samples // len(scenes), 1), generator)
        assert isinstance(batch, Points)
        answer = bound(batch.x)
        assert isinstance(answer, Tensor)
        if isinstance(self.field, ShapeField):
            return losses.distance_loss(answer, batch.target).mean()
        return losses.color_loss(answer, batch.target).mean()

    def _views(
        self,
        bound: Bound,
        tracker: OccupancyTracker,
        scenes: Tensor,
        local: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        recipe = self.recipe
        # All cells now and then at first, later a few of them: some per cent of a step.
        if self.calls % 4 == 1:
            parts = 16 if self.calls >= 32 and tracker.knows(local) else 1
            tracker.update(bound.density, local, self.calls // 4 % parts, parts, generator)
        rays = rays_of(recipe.samples, self.per_ray, len(scenes))
        with stage("batch"):
            batch = draw(self.family, scenes, rays, generator)
        assert isinstance(batch, Pixels)
        assert isinstance(self.field, RadianceField)
        offset = torch.rand(len(scenes), rays, generator=generator, device=self.device)
        cells, step = tracker.cells(local), self.field.step
        seen = render_volume(bound, batch.rays, cells, step=step, offset=offset, sight=bound.sight)
        self.per_ray = 0.9 * self.per_ray + 0.1 * max(seen.samples / (len(scenes) * rays), 1.0)
        return losses.pixel_loss(seen.rgb, seen.alpha, batch.rgba).mean()

    def _views_ahead(
        self, bound: Bound, ahead: Ahead, scenes: Tensor, local: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same where the host must not wait."""
        assert isinstance(self.field, RadianceField)
        tracker, rays, step = ahead.tracker, ahead.rays, self.field.step
        if ahead.parts:
            tracker.update(bound.density, local, ahead.part, ahead.parts, generator)
        batch = draw(self.family, scenes, rays, generator)
        assert isinstance(batch, Pixels)
        offset = torch.rand(len(scenes), rays, generator=generator, device=self.device)
        cells = tracker.cells(local)
        seen = render_budget(bound, bound.density, batch.rays, cells, step=step, offset=offset, samples=ahead.budget)
        ahead.count(seen.wanted)
        error = losses.pixel_loss(seen.rgb, seen.alpha, batch.rgba) * seen.whole
        return error.sum() / seen.whole.sum().clamp(min=1)

    def state(self) -> dict[str, Tensor]:
        per_ray = self.per_ray if self.ahead is None else float(self.ahead.per_ray)
        state = {
            "calls": torch.tensor(self.calls),
            "per_ray": torch.tensor(per_ray, dtype=torch.float64),
        }
        if self.tracker is not None:
            state["density"] = self.tracker.density
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        self.calls, self.per_ray = int(state["calls"]), float(state["per_ray"])
        if self.tracker is not None:
            self.tracker.density.copy_(state["density"])
        if self.ahead is not None:
            self.ahead.per_ray.fill_(self.per_ray)
            self.look()


class Optimizers:
    """Adam for grids and networks, a lazy one for latents (only the rows of the batch), one schedule for all."""

    def __init__(self, groups: dict[str, list[nn.Parameter]], recipe: Recipe) -> None:
        rates = {"grid": recipe.rate_grid, "networks": recipe.rate_networks, "latents": recipe.rate_latents}
        # Rows of a table that few points reach have tiny gradients, which a small eps keeps alive; in the networks the
        # same eps blows noise up to full steps, and fits diverge.
        eps = {"grid": 1e-15, "networks": 1e-6}
        settings: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-15}
        dense: list[dict[str, Any]] = [
            {"params": parameters, "lr": rates[name], "peak": rates[name], "eps": eps[name]}
            for name, parameters in groups.items()
            if name != "latents" and parameters
        ]
        self.dense = [parameter for group in dense for parameter in group["params"]]
        self.norm: float | Tensor = math.inf  # running mean of the gradient's norm; on a GPU it stays there
        self.all: list[torch.optim.Optimizer] = []
        if dense:
            self.all.append(torch.optim.Adam(dense, fused=True, **settings))
        if groups.get("latents"):
            rate = rates["latents"]
            self.all.append(RowAdam([{"params": groups["latents"], "lr": rate, "peak": rate}], **settings))
        for device in {p.device for parameters in groups.values() for p in parameters}:
            if devices.runs_ahead(device):
                self._stay_on(device)

    def _stay_on(self, device: torch.device) -> None:
        """Rates and the running norm live on the GPU: a recorded step reads them there."""
        self.norm = torch.full((), math.inf, device=device)
        for optimizer in self.all:
            # torch warns of steps that may be recorded and are not; some are.
            optimizer._warned_capturable_if_run_uncaptured = True
            for group in optimizer.param_groups:
                group["capturable"], group["lr"] = True, torch.zeros((), device=device)

    def step(self, loss: Tensor, factor: float) -> None:
        self.set_rate(factor)
        self.descend(loss)

    def set_rate(self, factor: float) -> None:
        """The rates of the next step; on a GPU they are written to where a graph reads them."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["peak"] * factor)
                else:
                    group["lr"] = group["peak"] * factor

    def descend(self, loss: Tensor) -> None:
        for optimizer in self.all:
            optimizer.zero_grad()
        with stage("rest of backward"):
            loss.backward()
        with stage("optimisers"):
            self._clip()
            for optimizer in self.all:
                optimizer.step()

    def _clip(self) -> None:
        """Cut a gradient that is far larger than the last ones: heads of large codes blow up on a single outlier."""
        gradients = [parameter.grad for parameter in self.dense if parameter.grad is not None]
        if not gradients:
            return
        if isinstance(self.norm, Tensor):
            self._clip_there(gradients, self.norm)
            return
        norm = float(torch.nn.utils.get_total_norm(gradients))
        limit = CLIP * self.norm
        if norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        seen = min(norm, limit)
        self.norm = seen if math.isinf(self.norm) else 0.95 * self.norm + 0.05 * seen

    def _clip_there(self, gradients: list[Tensor], before: Tensor) -> None:
        """The same on a GPU, without asking it for a number."""
        norm = torch.nn.utils.get_total_norm(gradients)
        limit = CLIP * before
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        seen = torch.minimum(norm, limit)
        before.copy_(torch.where(before.isinf(), seen, 0.95 * before + 0.05 * seen))

    def state(self) -> dict[str, Tensor]:
        moments = {
            f"{number}/{index}/{key}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.all)
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        return {"norm": torch.as_tensor(self.norm).detach().double().cpu(), **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.norm, Tensor):
            self.norm.copy_(state["norm"])
        else:
            self.norm = float(state["norm"])
        state = {name: value for name, value in state.items() if name != "norm"}
        for number, optimizer in enumerate(self.all):
            whole = optimizer.state_dict()
            entries: dict[int, dict[str, Any]] = {}
            for name, value in state.items():
                owner, index, key = name.split("/")
                if int(owner) == number:
                    entries.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": entries, "param_groups": whole["param_groups"]})


def rate(progress: Progress) -> float:
    """Share of the peak rate: a short linear warm-up, then half a cosine over the fit."""
    warm = min(1.0, (progress.step + 1) / WARM_UP)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress.fraction, 1.0)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)


class Deck:
    """Scenes in random order without replacement, some a step."""

    def __init__(self, scenes: int, hand: int, device: torch.device | str = "cpu") -> None:
        self.scenes, self.hand = scenes, min(hand, scenes)
        self.order, self.place = torch.arange(scenes, device=device), scenes

    def draw(self, generator: torch.Generator) -> Tensor:
        if self.place + self.hand > self.scenes:
            order = torch.randperm(self.scenes, generator=generator, device=self.order.device)
            self.order, self.place = order, 0
        self.place += self.hand
        return self.order[self.place - self.hand : self.place]


class Optimization:
    """Gradient descent on some scenes of a family: everything that a step reads or changes."""

    def __init__(
        self,
        bind: Callable[[Tensor], tuple[Bound, Tensor | None]],  # numbers among `scenes` -> fields, codes
        groups: dict[str, list[nn.Parameter]],
        objective: Objective,
        scenes: Tensor,  # [s] numbers in the family
        seed: int,
    ) -> None:
        device = objective.device
        self.bind, self.objective, self.scenes = bind, objective, scenes.to(device)
        self.optimizers = Optimizers(groups, objective.recipe)
        self.deck = Deck(len(scenes), objective.recipe.scenes, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.local = torch.zeros(self.deck.hand, dtype=torch.int64, device=device)  # the scenes of this step
        self.data = torch.zeros((), device=device)  # its loss, on a GPU
        self.mean: Tensor | None = None  # smoothed, there
        self.graphs: Graphs | None = None
        self.penalty: Tensor | None = None  # what `bind` wants added to the loss of this step

    def prepare(self) -> Hashable:
        """Begin a step, with what the host does of it; steps of one kind return the same."""
        self.local.copy_(self.deck.draw(self.generator))
        return self.objective.prepare()

    def loss(self) -> tuple[Tensor, Tensor]:
        """(what is minimised, the data's part of it) for the scenes of this step."""
        local = self.local
        with stage("hypernetwork"):
            bound, codes = self.bind(local)
        data = self.objective.loss(bound, self.scenes[local], local, self.generator)
        prior = 0.0 if codes is None else self.objective.recipe.prior * gaussian_prior(codes).mean()
        extra, self.penalty = self.penalty, None
        return data + prior + (0.0 if extra is None else extra), data.detach()

    def rehearse(self) -> None:
        """One step that changes nothing: compiles the kernels before the clock starts."""
        before = self.state()
        self.prepare()
        total = self.loss()[0]
        if total.requires_grad:
            total.backward()
        self.restore(before)

    def step(self, progress: Progress) -> None:
        kind = self.prepare()
        weight = 0.1 if progress.step < 100 else 0.01
        if devices.runs_ahead(self.objective.device):
            self._step_there(kind, progress, weight)
        else:
            total, data = self.loss()
            if total.requires_grad:  # no ray may have met an occupied cell
                self.optimizers.step(total, rate(progress))
            value = _finite(float(data), progress)
            progress.loss = value if math.isnan(progress.loss) else (1 - weight) * progress.loss + weight * value
        progress.step += 1

    def _step_there(self, kind: Hashable, progress: Progress, weight: float) -> None:
        """A step on a GPU, which the host does not wait for; now and then it looks."""
        self.optimizers.set_rate(rate(progress))
        if self.graphs is None:
            self.work()
        else:
            self.graphs(kind, self.work, self.generator)
        if self.mean is None:
            self.mean = self.data.clone() if math.isnan(progress.loss) else torch.full_like(self.data, progress.loss)
        self.mean.lerp_(self.data, weight)
        if progress.step % LOOK == 0:
            self.look(progress)

    def work(self) -> None:
        """What a step does on the device: it reads and writes only what stays in its place, and never waits."""
        total, data = self.loss()
        self.optimizers.descend(total)
        self.data.copy_(data)

    def look(self, progress: Progress) -> None:
        """Bring what the host knows of the last steps up to date: on a GPU it does not look after every one."""
        if self.mean is not None:
            progress.loss = _finite(float(self.mean), progress)
            self.objective.look()

    def state(self) -> dict[str, Tensor]:
        return {
            "generator": self.generator.get_state(),
            "deck.order": self.deck.order.clone(),
            "deck.place": torch.tensor(self.deck.place),
            **{f"optimizer.{name}": value.clone() for name, value in self.optimizers.state().items()},
            **{f"objective.{name}": value.clone() for name, value in self.objective.state().items()},
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.graphs is not None:
            self.graphs.forget()  # the state of optimisers moves to other places
        self.generator.set_state(state["generator"])
        self.deck.order, self.deck.place = state["deck.order"].to(self.deck.order.device), int(state["deck.place"])
        self.optimizers.restore(part(state, "optimizer."))
        self.objective.restore(part(state, "objective."))


def _finite(loss: float, progress: Progress) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at step {progress.step}; lower the rates")
    return loss


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class SceneWeights(nn.Module):
    """The weights of one scene as parameters of their own, for fitting it alone."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.values = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(entry.initial()[None]) for name, entry in field.spec.items()}
        )

    def bind(self, _: Tensor) -> tuple[Bound, None]:
        return Bound(self.field, {name.replace("/", "."): value for name, value in self.values.items()}, 1), None

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
        family: Family,
        out: Path,
        config: FitConfig,
        *,
        model: ModelConfig | None = None,
        recipe: Recipe | None = None,
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
        self.graphs = Graphs(self.device) if graphs and devices.runs_ahead(self.device) else None
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

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> HyperField:
        """Fit to the end, or until Ctrl-C, which saves the state first.

        Raises:
            KeyboardInterrupt: again, after the state is saved.
        """
        saved = started = time.monotonic()
        before = self.progress.seconds
        logged = before
        lower = f"use --preset tiny, fewer scenes (--limit), or a Recipe with fewer samples than {self.recipe.samples}"
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
        bind: Callable[[Tensor], tuple[Bound, Tensor | None]]
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

    def _bind(self, local: Tensor) -> tuple[Bound, Tensor | None]:
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
    return ModelConfig(model.field, Direct(), numel(model.field.spec))


def describe(family: Family) -> dict[str, Any]:
    """What pictures of a family look like, so that a run renders without its data."""
    truth = first_truth(family)
    if isinstance(truth, Mesh):
        meshes = [family.truth(number) for number in range(len(family.names))]
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


def first_truth(family: Family) -> Tensor | Mesh | list[View]:
    """What the first scene looks like, from whichever split there is."""
    for split in ("test", "val", "train"):
        try:
            return family.truth(0, split)
        except InputError:
            if split == "train":
                raise
    raise AssertionError


def fit(
    family: Family,
    out: str | Path,
    config: FitConfig,
    *,
    model: ModelConfig | None = None,
    recipe: Recipe | None = None,
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
