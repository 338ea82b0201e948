"""Low-rank generation: a shared weight changed by two thin generated factors; biases are generated.

    multiply: W(z) = W0 * (1 + A(z) B(z))        add: W(z) = W0 + A(z) B(z)        A [o r], B [r i]

Source: multiplicative, Sitzmann et al. 2021, "Light field networks", section 3.1; additive, Hu et al. 2021, "LoRA".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn

from hyperfields.hypernets.full import LATENT_SHARE
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class LowRank:
    """rank: of the change of each weight matrix, cut to the matrix's own rank. mode: see the formulas above."""

    rank: int = 4
    mode: Literal["multiply", "add"] = "multiply"


class LowRankGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`: matrices by factors, vectors directly, all from one linear head."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: LowRank) -> None:
        super().__init__()
        if config.rank < 1:
            raise ValueError(f"LowRank rank: got {config.rank}, wanted at least 1")
        self.spec, self.mode = dict(spec), config.mode
        self.base = nn.ParameterDict()
        self.ranks: dict[str, int] = {}
        scales: list[Tensor] = []
        for name, entry in spec.items():
            share = math.sqrt(1.0 - LATENT_SHARE)
            self.base[name.replace(".", "/")] = nn.Parameter(entry.initial() * share)
            spread = entry.bound / math.sqrt(3.0)
            if len(entry.shape) == 2:
                rank = self.ranks[name] = min(config.rank, *entry.shape)
                # var(sum_r A B) = r a^2 b^2 = LATENT_SHARE of the entry's variance (of 1 when it multiplies)
                target = math.sqrt(LATENT_SHARE) * (1.0 if config.mode == "multiply" else spread)
                scales.append(torch.full((rank * sum(entry.shape),), math.sqrt(target / math.sqrt(rank))))
            else:
                scales.append(torch.full((entry.numel,), spread * math.sqrt(LATENT_SHARE)))
        scale = torch.cat(scales)
        self.head = nn.Linear(latent_size, scale.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(scale.shape[0], latent_size) * scale[:, None] / math.sqrt(latent_size))
            self.head.bias.zero_()

    def forward(self, codes: Tensor) -> Weights:
        out = self.head(codes)
        weights: Weights = {}
        place = 0
        for name, entry in self.spec.items():
            base = self.base[name.replace(".", "/")]
            if len(entry.shape) == 2:
                rank, (rows, columns) = self.ranks[name], entry.shape
                a = out[:, place : place + rows * rank].reshape(-1, rows, rank)
                place += rows * rank
                b = out[:, place : place + rank * columns].reshape(-1, rank, columns)
                place += rank * columns
                change = a @ b
                weights[name] = base * (1.0 + change) if self.mode == "multiply" else base + change
            else:
                weights[name] = base + out[:, place : place + entry.numel].reshape(-1, *entry.shape)
                place += entry.numel
        return weights
