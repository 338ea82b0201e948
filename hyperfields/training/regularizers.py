"""Regularizers: what a fit adds to the loss of the data. Each takes a `StepState` and returns a scalar, or None.

One of your own is any such callable: `fit(..., regularizers=[mine])`.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from hyperfields.codes.table import gaussian_prior
from hyperfields.training.trainer import StepState


@dataclasses.dataclass(frozen=True)
class GaussianPrior:
    """weight * mean over scenes of -log N(code | 0, 1), where the step has codes that the prior is put on."""

    weight: float

    def __call__(self, state: StepState) -> Tensor | None:
        if state.fields.codes is None:
            return None
        return self.weight * gaussian_prior(state.fields.codes).mean()
