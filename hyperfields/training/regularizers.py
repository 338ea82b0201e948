"""Regularizers: what a fit adds to the loss of the data. Each takes a `StepState` and returns a scalar, or None.

One of your own is any such callable: `fit(..., regularizers=[mine])`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyperfields.codes.table import gaussian_prior
from hyperfields.fields import BoundField
from hyperfields.tasks import Objective, TrainConfig
from hyperfields.training.trainer import Regularizer, StepState

Penalties = Callable[[Objective], Sequence[Regularizer]]


@dataclasses.dataclass(frozen=True)
class GaussianPrior:
    """weight * mean over scenes of -log N(code | 0, 1), where the step has codes that the prior is put on."""

    weight: float

    def __call__(self, state: StepState) -> Tensor | None:
        if state.fields.codes is None:
            return None
        return self.weight * gaussian_prior(state.fields.codes).mean()


class MixedCodes:
    """What the objective asks of fields between scenes, see `tasks.between`: pairs of the step's scenes, mixed.

    Codes get no gradient of it: where scenes lie is for the data to say.
    """

    def __init__(self, bind: Callable[[Tensor], BoundField], objective: Objective) -> None:
        """bind: codes `[p z]` -> their fields."""
        self.bind, self.objective, self.config = bind, objective, objective.config.between

    def phase(self, fraction: float) -> bool:
        """True at fractions of a fit at which there is a term; see `Trainer.prepare`."""
        return self.config.weight > 0.0 and fraction >= self.config.start

    def __call__(self, state: StepState) -> Tensor | None:
        codes = state.fields.codes
        if codes is None or len(codes) < 2 or not self.phase(state.fraction):
            return None
        pairs = min(self.config.pairs, len(codes) // 2)
        share = torch.rand(pairs, generator=state.generator, device=codes.device)
        first, second = codes[: 2 * pairs].detach().chunk(2)
        mixed = self.bind(torch.lerp(first, second, share[:, None]))
        term = self.objective.between(state.fields.bound, mixed, share, state.scenes, state.generator)
        return self.config.weight * term


def penalties_of(train: TrainConfig, bind: Callable[[Tensor], BoundField], own: Sequence[Regularizer]) -> Penalties:
    """Objective -> all regularizers of a fit: the recipe's, then the caller's `own`. bind: see `MixedCodes`."""

    def penalties(objective: Objective) -> tuple[Regularizer, ...]:
        mixed = (MixedCodes(bind, objective),) if train.between.weight else ()
        return GaussianPrior(train.prior), *mixed, *own

    return penalties
