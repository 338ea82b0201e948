"""A loss, a schedule, a regularizer and a source of codes of one's own."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from hyperfields import Codes, CodeSource, FitContext, Points, StepState


def absolute(prediction: Tensor, batch: Points) -> Tensor:
    """Errors `[s n]`: a loss without settings is a function."""
    return (prediction - batch.target).abs().mean(-1)


@dataclasses.dataclass(frozen=True)
class Huber:
    """A loss with settings is a frozen dataclass."""

    delta: float = 0.1

    def __call__(self, prediction: Tensor, batch: Points) -> Tensor:
        return nn.functional.huber_loss(prediction, batch.target, reduction="none", delta=self.delta)


@dataclasses.dataclass(frozen=True)
class Steps:
    """A schedule: rates fall in steps."""

    every: float = 0.5

    def __call__(self, step: int, fraction: float) -> float:
        return 0.5 ** int(fraction / self.every)


class Smooth:
    """A regularizer that counts what it was shown: the weights of a step should be small."""

    def __init__(self, weight: float) -> None:
        self.weight, self.steps = weight, list[int]()

    def __call__(self, state: StepState) -> Tensor:
        self.steps.append(state.step)
        return self.weight * torch.stack([v.square().mean() for v in state.fields.bound.weights.values()]).sum()


@dataclasses.dataclass(frozen=True)
class Ring(Codes):
    """Codes on a circle: one angle for each scene."""

    radius: float = 1.0

    def build(self, context: FitContext) -> CodeSource:
        return RingCodes(len(context.data.names), context.latent_size, self.radius)


class RingCodes(CodeSource):
    """Angles `[scenes]` as parameters; codes are cosines and sines of their multiples."""

    def __init__(self, scenes: int, size: int, radius: float) -> None:
        super().__init__()
        self.radius, self.size = radius, size
        self.angles = nn.Parameter(torch.linspace(0.0, 6.0, scenes))

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: object) -> tuple[Tensor, None]:
        multiples = torch.arange(self.size, device=scenes.device) // 2 + 1
        phase = 1.5707963 * (torch.arange(self.size, device=scenes.device) % 2)
        return self.radius * (self.angles[scenes][:, None] * multiples + phase).cos(), None
