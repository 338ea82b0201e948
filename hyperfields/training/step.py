"""Steps of a device: eager, with the loss read by the host after each, or asynchronous with static shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Protocol

import torch
from torch import Tensor

from hyperfields.tasks import Objective, TrainConfig
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.optim import Optimizers

SYNC_STEPS = 16  # GPU steps between host synchronisations


@dataclasses.dataclass
class Progress:
    """Progress of a fit. A fit of so many minutes follows the clock, one of so many steps its steps."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan  # smoothed
    fraction: float = 0.0  # of the schedule
    scene: int = 0  # the scene at work, when scenes are fitted each alone

    def check(self) -> None:
        """Raises ValueError for values from a file that cannot be."""
        numbers = (self.step, self.seconds, self.loss, self.fraction, self.scene)
        whole = all(type(number) is int and 0 <= number < 2**53 for number in (self.step, self.scene))
        if not whole or any(type(number) not in (int, float) for number in numbers) or not 0.0 <= self.seconds < 1e12:
            raise ValueError(f"its progress is {self!s:.200}")


class Steppable(Protocol):
    """A trainer, as a step needs it."""

    config: TrainConfig
    objective: Objective
    optimizers: Optimizers
    generator: torch.Generator
    steps: int

    def loss(self) -> tuple[Tensor, Tensor]:
        """(loss to minimise, the data's part of it), `[]` each."""


class EagerStep:
    """A step whose loss and norms the host reads: on CPUs, and on GPUs without triton."""

    def __init__(self, trainer: Steppable) -> None:
        self.trainer = trainer

    def __call__(self, plan: Hashable, progress: Progress) -> None:
        trainer = self.trainer
        total, data = trainer.loss()
        value = finite(float(data), progress)
        if total.requires_grad:  # no ray may have met an occupied cell
            trainer.optimizers.set_rate(trainer.config.schedule(trainer.steps, progress.fraction))
            try:
                trainer.optimizers.backward_and_step(total)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} at step {progress.step}; lower the rates") from None
        weight = smoothing(trainer.steps)
        progress.loss = value if math.isnan(progress.loss) else (1 - weight) * progress.loss + weight * value

    def rehearse(self) -> None:
        """Forward and backward without a step."""
        total = self.trainer.loss()[0]
        if total.requires_grad:
            total.backward()

    def sync(self, progress: Progress) -> None:
        """Bring up to date what the host knows; here it always is."""

    def reset(self) -> None:
        """Forget recorded steps; here there are none."""


class StaticStep:
    """A step on a GPU that the host does not wait for, recorded as CUDA graphs where that is possible."""

    def __init__(self, trainer: Steppable, graphs: Graphs | None) -> None:
        self.trainer, self.graphs = trainer, graphs
        self.data = torch.zeros((), device=trainer.objective.device)  # loss of the last step
        self.mean: Tensor | None = None  # smoothed

    def __call__(self, plan: Hashable, progress: Progress) -> None:
        trainer = self.trainer
        trainer.optimizers.set_rate(trainer.config.schedule(trainer.steps, progress.fraction))
        if self.graphs is None:
            self.work()
        else:
            self.graphs(plan, self.work, trainer.generator)
        if self.mean is None:
            self.mean = self.data.clone() if math.isnan(progress.loss) else torch.full_like(self.data, progress.loss)
        self.mean.lerp_(self.data, smoothing(trainer.steps))
        if trainer.steps % SYNC_STEPS == 0:
            self.sync(progress)

    def work(self) -> None:
        """The step on the device: it reads and writes only what stays in its place, and never waits."""
        total, data = self.trainer.loss()
        self.trainer.optimizers.backward_and_step(total)
        self.data.copy_(data)

    def rehearse(self) -> None:
        """Forward and backward without a step."""

        def once() -> None:
            total = self.trainer.loss()[0]
            if total.requires_grad:
                total.backward()

        if self.graphs is None:
            once()
        else:
            self.graphs.call(once)

    def sync(self, progress: Progress) -> None:
        """Bring up to date what the host knows of the last steps: waits for the device.

        Raises:
            FloatingPointError: a loss was not finite.
        """
        if self.mean is not None:
            progress.loss = finite(float(self.mean), progress)
            self.trainer.objective.sync()

    def reset(self) -> None:
        """Forget recorded steps: the state of optimisers moves to other places."""
        if self.graphs is not None:
            self.graphs.reset()


def smoothing(step: int) -> float:
    """Weight of a step's loss in the running mean that is shown."""
    return 0.1 if step < 100 else 0.01


def finite(loss: float, progress: Progress) -> float:
    """The loss.

    Raises:
        FloatingPointError: it is not finite.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at step {progress.step}; lower the rates")
    return loss
