"""A generator of one's own: one file."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields import Generator
from hyperfields.weights import Weights, WeightSpec, numel, split


@dataclasses.dataclass(frozen=True)
class Sines(Generator):
    """Weights are a base and a mixture of sines of the code."""

    knob: ClassVar[str] = "waves"

    waves: int = 8

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        return SinesGenerator(spec, latent_size, self.waves, share)


class SinesGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, waves: int, share: float) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.read = nn.Linear(latent_size, waves)
        self.base = nn.Parameter(torch.cat([entry.initial().flatten() for entry in spec.values()]))
        self.head = nn.Parameter(torch.randn(waves, numel(spec)) * share / waves)

    def forward(self, codes: Tensor) -> Weights:
        return split(self.base + self.read(codes).sin() @ self.head, self.spec)
