"""Full generation: every weight is a function of the latent of its own.

    W(z) = W0 + H(z)

Source: Ha, Dai, Le 2016, "HyperNetworks", section 3; the base W0 is the residual form of Ortiz et al. 2023.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from hyperfields.weights import Weights, WeightSpec, numel, split

# Share of the initial variance that comes from the latent; the rest is the base, equal for all scenes.
LATENT_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class Full:
    """All weights from one head; `hidden` 0 makes it linear, otherwise one hidden ReLU layer of that width."""

    hidden: int = 0


class FullGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: Full) -> None:
        super().__init__()
        self.spec = dict(spec)
        width = config.hidden or latent_size
        self.trunk = nn.Sequential(nn.Linear(latent_size, width), nn.ReLU()) if config.hidden else nn.Identity()
        self.head = nn.Linear(width, numel(spec))
        power = 1.0 / 6.0 if config.hidden else 1.0  # mean square of what the head reads: ReLU of a default Linear
        rows, base = [], []
        for entry in spec.values():
            spread = entry.bound / math.sqrt(3.0)  # standard deviation of the uniform distribution
            rows.append(torch.full((entry.numel,), spread * math.sqrt(LATENT_SHARE / (width * power))))
            base.append(entry.initial().flatten() * math.sqrt(1.0 - LATENT_SHARE))
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(numel(spec), width) * torch.cat(rows)[:, None])
            self.head.bias.copy_(torch.cat(base))

    def forward(self, codes: Tensor) -> Weights:
        return split(self.head(self.trunk(codes)), self.spec)
