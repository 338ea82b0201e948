"""Whole weights by a few gradient steps from a learned start, without any derivative of a derivative.

    W <- Adam(W, W - mean_s U_k(W; s)),      U_k: k steps of Adam on the weights of scene s

Source: Nichol, Achiam, Schulman 2018, "On first-order meta-learning algorithms", section 3, its batched form. The way
from the start to where scenes get is handed to the outer Adam as if it were a gradient, as that section suggests.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.codes.source import Codes, CodesLoss, CodeSource, FitContext
from hyperfields.errors import InputError
from hyperfields.weights import WeightSpec


@dataclasses.dataclass(frozen=True)
class Reptile(Codes):
    """steps, rate: of a scene's own descent (Adam)."""

    independent: ClassVar[bool] = True
    at_once: ClassVar[bool] = True

    steps: int = 8
    rate: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0.0:
            raise InputError(f"{self}: wanted at least 1 step and a rate above 0")

    def build(self, context: FitContext) -> CodeSource:
        return ReptileCodes(context.spec, self)


class ReptileCodes(CodeSource):
    """Codes that are the weights themselves (`hypernets.Independent`), some steps from a learned start `[n]`."""

    prior = False

    def __init__(self, spec: WeightSpec, config: Reptile) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.cat([entry.initial().flatten() for entry in spec.values()]))

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, Tensor]:
        own = self.start.detach().expand(len(scenes), -1).clone().requires_grad_()
        # Adam scales each number by itself, so that sums and means over scenes do the same.
        optimizer = torch.optim.Adam([own], lr=self.config.rate, betas=(0.0, 0.99), eps=1e-15)
        for _ in range(self.config.steps):
            optimizer.zero_grad()
            total = loss(own)
            if total.requires_grad:  # no ray may have met an occupied cell
                total.backward()
                optimizer.step()
        weights = own.detach()
        return weights, 0.5 * (self.start - weights.mean(0)).square().sum()
