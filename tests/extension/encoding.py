"""An encoding of one's own, with a table that scenes share beside a generated frequency: one file."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hyperfields.weights import WeightEntry, Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class Planes:
    """Cosines along directions that all scenes share, with phases of each scene's own."""

    dims: int = 2
    waves: int = 8

    @property
    def channels(self) -> int:
        return self.waves

    @property
    def flops(self) -> int:
        return self.waves * (2 * self.dims + 2)

    @property
    def spec(self) -> WeightSpec:
        return {
            "planes.directions": WeightEntry((self.waves, self.dims), self.dims, 6.0, "shared"),
            "planes.phases": WeightEntry((self.waves,), 1, 3.0),
        }

    def __call__(self, x: Tensor, weights: Weights, counts: Tensor | None = None) -> Tensor:
        directions, phases = weights["planes.directions"], weights["planes.phases"]
        if counts is None:
            return torch.cos(x @ directions.mT + phases[:, None])
        return torch.cos(x @ directions[0].T + phases.repeat_interleave(counts, 0))
