"""Modulation: shared weights, every neuron scaled and shifted by the latent.

    h = act(scale(z) * (W0 x) + shift(z))        so W(z) = scale(z)[:, None] * W0,  b(z) = b0 + shift(z)

Source: Perez et al. 2018, "FiLM"; linear heads as in Dupont et al. 2022, "functa", section 3.1.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from hyperfields.hypernets.full import LATENT_SHARE
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class Modulation:
    """scale: generate scales beside shifts."""

    scale: bool = True


class ModulationGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: Modulation) -> None:
        super().__init__()
        self.spec, self.scaled = dict(spec), config.scale
        self.base = nn.ParameterDict()
        scales: list[Tensor] = []
        for name, entry in spec.items():
            self.base[name.replace(".", "/")] = nn.Parameter(entry.initial() * math.sqrt(1.0 - LATENT_SHARE))
            if len(entry.shape) == 1:
                scales.append(torch.full(entry.shape, entry.bound / math.sqrt(3.0)))
            elif config.scale:
                scales.append(torch.ones(entry.shape[0]))
        scale = torch.cat(scales) * math.sqrt(LATENT_SHARE / latent_size)
        self.head = nn.Linear(latent_size, scale.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(scale.shape[0], latent_size) * scale[:, None])
            self.head.bias.zero_()

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
