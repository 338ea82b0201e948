"""The one training loop: gradient descent on some scenes of a data set, for fits, inference and added scenes alike.

step:   local <- sampler;  fields = bind(local);  objective.update(fields);  loss = objective(fields) + penalties
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperfields.data import SceneSampler
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.ops import devices
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import one_torch_thread
from hyperfields.tasks import Objective, TrainConfig
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.optim import Optimizers
from hyperfields.training.step import EagerStep, StaticStep
from hyperfields.training.step import Progress as Progress


@dataclasses.dataclass(frozen=True)
class Length:
    """Length of a fit: exactly one of `minutes` and `steps`.

    Raises:
        InputError: none, both, or one that is not a positive number (`steps` a whole one).
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: give one of the two")
        if self.steps is not None and (not isinstance(self.steps, int) or isinstance(self.steps, bool)):
            raise InputError(f"--steps {self.steps!r:.60}: wanted a whole number above 0")
        if self.minutes is not None and not (_is_number(self.minutes) and math.isfinite(self.minutes)):
            raise InputError(f"--minutes {self.minutes!r:.60}: wanted a number above 0")
        if (self.minutes is not None and not self.minutes > 0) or (self.steps is not None and self.steps < 1):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: wanted a positive length")

    def done(self, progress: Progress) -> float:
        """Fraction that is done; 1 and more: finished."""
        if self.steps is not None:
            return progress.step / self.steps
        assert self.minutes is not None
        return progress.seconds / (60.0 * self.minutes)


def _scalar(term: Tensor, regularizer: Regularizer) -> Tensor:
    """What a regularizer gave.

    Raises:
        InputError: it is no scalar.
    """
    if _is_number(term) or (isinstance(term, Tensor) and term.dim() == 0):
        return term
    came = f"shape {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
    name = getattr(regularizer, "__qualname__", None) or type(regularizer).__name__
    raise InputError(f"regularizer {name}: {came} came, wanted a tensor [] or None; take a mean() or a sum()")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Fields(NamedTuple):
    """Fields of a step's scenes, with the codes `[s z]` that regularizers may use and a penalty `[]` of their own."""

    bound: BoundField
    codes: Tensor | None = None
    penalty: Tensor | None = None


class StepState(NamedTuple):
    """A step as regularizers see it."""

    fields: Fields
    scenes: Tensor  # [s] indices in the data set
    step: int
    fraction: float  # of the fit's length
    generator: torch.Generator


Bind = Callable[[Tensor, torch.Generator], Fields]  # indices of scenes among the trainer's -> their fields
Regularizer = Callable[[StepState], Tensor | None]  # -> what is added to the loss, `[]`


class Trainer:
    """Gradient descent on some scenes of a data set: everything that a step reads or changes.

    Args:
        bind: fields of scenes, by their indices in `scenes`.
        groups: parameters by role; `latents` get sparse gradients.
        objective: loss of fields on fresh samples, from `tasks.Task.objective`.
        scenes: `[s]` indices in the data set.
        regularizers: added to the loss in every step, in their order.
    """

    def __init__(
        self,
        bind: Bind,
        groups: dict[str, list[nn.Parameter]],
        objective: Objective,
        scenes: Tensor,
        config: TrainConfig,
        seed: int,
        *,
        regularizers: Sequence[Regularizer] = (),
        graphs: Graphs | None = None,
    ) -> None:
        device = objective.device
        self.bind, self.objective, self.scenes, self.config = bind, objective, scenes.to(device), config
        self.regularizers = tuple(regularizers)
        self.optimizers = Optimizers(groups, config)
        self.sampler = SceneSampler(len(scenes), config.scenes, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.local = torch.zeros(self.sampler.batch_size, dtype=torch.int64, device=device)  # scenes of this step
        self.steps, self.fraction = 0, 0.0  # taken so far; of the schedule
        # The only two classes that know how a device takes a step.
        self.execute = StaticStep(self, graphs) if devices.is_async(device) else EagerStep(self)

    def fit(
        self,
        length: Length,
        progress: Progress,
        *,
        stage: tuple[float, float] = (0.0, 1.0),
        on_step: Callable[[Progress], float | None] = lambda progress: None,
    ) -> None:
        """Steps until `progress` has come to the end of a stage, whose schedule runs from 0 to 1.

        Args:
            stage: (first, last) fraction of the whole length.
            on_step: called after each step; what it raises ends the fit between two steps, and the seconds that it
                gives back are not counted as the fit's.

        Raises:
            FloatingPointError: a loss or a gradient that is not finite; nothing of that step was applied.
        """
        first, last = stage
        if self.steps == 0:
            progress.loss = math.nan
        with one_torch_thread():
            self.warm_up()
            started, before = time.monotonic(), progress.seconds
            while (done := length.done(progress)) < last:
                progress.fraction = (done - first) / (last - first)
                self.step(progress)
                progress.seconds = before + time.monotonic() - started
                progress.fraction = (length.done(progress) - first) / (last - first)
                started += on_step(progress) or 0.0
            self.execute.sync(progress)

    def sync(self, progress: Progress) -> None:
        """Bring up to date what the host knows of the last steps.

        Raises:
            FloatingPointError: a loss was not finite.
        """
        self.execute.sync(progress)

    def step(self, progress: Progress) -> None:
        """One step of descent."""
        self.fraction = progress.fraction
        self.execute(self.prepare(), progress)
        self.steps += 1
        progress.step += 1

    def prepare(self) -> Hashable:
        """Host's part of a step: draws its scenes. Steps of equal plans launch identical kernels."""
        self.local.copy_(self.sampler.draw(self.generator))
        if (following := self.sampler.upcoming()) is not None:
            self.objective.expect(self.scenes[following])
        plan = self.objective.plan(self.steps)
        # Regularizers that launch other kernels at other times say so.
        asked = (getattr(part, "phase", None) for part in self.regularizers)
        phases = [phase(self.fraction) for phase in asked if callable(phase)]
        return (plan, *phases) if phases else plan

    def loss(self) -> tuple[Tensor, Tensor]:
        """(loss to minimise, the data's part of it) of the scenes of this step, `[]` each."""
        local, scenes = self.local, self.scenes[self.local]
        with region("hypernetwork"):
            fields = self.bind(local, self.generator)
        self.objective.update(fields.bound, local, self.steps, self.generator)
        data = self.objective(fields.bound, scenes, local, self.generator)
        total = data
        state = StepState(fields, scenes, self.steps, self.fraction, self.generator)
        for regularizer in self.regularizers:
            term = regularizer(state)
            total = total if term is None else total + _scalar(term, regularizer)
        if fields.penalty is not None:
            total = total + fields.penalty
        return total, data.detach()

    def warm_up(self) -> None:
        """One step that changes nothing: compiles the kernels before the clock starts."""
        # Nothing is applied, so the moments, which of very many scenes are gigabytes, stay as they are.
        state = self.state_dict()
        before = {name: value if name.startswith("optimizer.") else value.clone() for name, value in state.items()}
        self.prepare()
        self.execute.rehearse()
        self.load_state_dict(before)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a step reads beside the parameters, by flat names."""
        return {
            "steps": torch.tensor(self.steps),
            "generator": self.generator.get_state(),
            "sampler.order": self.sampler.order,
            "sampler.place": torch.tensor(self.sampler.place),
            **{f"optimizer.{name}": value for name, value in self.optimizers.state().items()},
            **{f"objective.{name}": value for name, value in self.objective.state().items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.execute.reset()
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"])
        self.sampler.order = state["sampler.order"].to(self.sampler.order.device)
        self.sampler.place = int(state["sampler.place"])
        self.optimizers.restore(with_prefix(state, "optimizer."))
        self.objective.restore(with_prefix(state, "objective."))


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
