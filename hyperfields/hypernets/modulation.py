"""Modulation: shared weights, every neuron scaled and shifted by the latent.

    h = act(scale(z) * (W0 x) + shift(z))        so W(z) = scale(z)[:, None] * W0,  b(z) = b0 + shift(z)

Source: Perez et al. 2018, "FiLM"; linear heads as in Dupont et al. 2022, "functa", section 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, std_of
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class Modulation(Generator):
    """scale: generate scales beside shifts."""

    rates: ClassVar[Mapping[str, float]] = {"images": 4.0, "shapes": 1.0, "views": 2.0}

    scale: bool = True

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return ModulationGenerator(spec, latent_size, self, share)


class ModulationGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: Modulation, share: float = LATENT_SHARE) -> None:
        super().__init__()
        self.spec, self.scaled = dict(spec), config.scale
        self.base = nn.ParameterDict()
        scales: list[Tensor] = []
        for name, entry in spec.items():
            kept = 1.0
            if len(entry.shape) == 1:
                kept = 1.0 - share
                scales.append(torch.full(entry.shape, std_of(entry)))
            elif config.scale:
                kept = 1.0 / (1.0 + share)
                scales.append(torch.ones(entry.shape[0]))
            self.base[name.replace(".", "/")] = nn.Parameter(entry.initial() * math.sqrt(kept))
        self.head = Head(latent_size, torch.cat(scales) * math.sqrt(share))

    def forward(self, codes: Tensor) -> Weights:
        out = self.head(codes)
        weights: Weights = {}
        place = 0
        for name, entry in self.spec.items():
            base = self.base[name.replace(".", "/")]
            if len(entry.shape) == 1:
                weights[name] = base + out[:, place : place + entry.numel]
            elif self.scaled:
                weights[name] = base * (1.0 + out[:, place : place + entry.shape[0], None])
            else:
                weights[name] = base.expand(codes.shape[0], *entry.shape)
                continue
            place += entry.shape[0]
        return weights
