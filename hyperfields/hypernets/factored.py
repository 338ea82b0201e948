"""Factored tables: a shared base plus shared bases, mixed per group of rows by coefficients from the latent.

    table(z)[g] = B0[g] + sum_k a_gk(z) B_k[g],     a(z) = C z + c   (a linear head)

Source: the linear head of HyP-NeRF (Sen et al. 2023, section 3.1) seen as a basis; Factor Fields (Chen et al. 2023).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from hyperfields.weights import WeightEntry


class Factored(nn.Module):
    """Codes `[s z]` -> table `[s rows f]`."""

    def __init__(self, entry: WeightEntry, latent_size: int) -> None:
        super().__init__()
        self.shape = entry.shape
        self.count = entry.bases
        groups = len(entry.groups) - 1
        self.head = nn.Linear(latent_size, groups * entry.bases)
        nn.init.normal_(self.head.weight, std=1.0 / math.sqrt(latent_size))  # coefficients start near N(0, 1)
        nn.init.zeros_(self.head.bias)
        columns = math.prod(entry.shape[1:])
        sizes = [(end - start) * columns for start, end in itertools.pairwise(entry.groups)]
        # The sum keeps the variance that the spec asks for: half of it in the base, half in the mixture.
        self.base = nn.ParameterList((torch.rand(size) * 2 - 1) * entry.bound * math.sqrt(0.5) for size in sizes)
        spread = entry.bound * math.sqrt(0.5 / entry.bases)
        self.bases = nn.ParameterList((torch.rand(entry.bases, size) * 2 - 1) * spread for size in sizes)

    def forward(self, codes: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual `[s groups*bases]` is added to the coefficients."""
        mixed = self.head(codes) if residual is None else self.head(codes) + residual
        coefficients = mixed.split(self.count, 1)
        levels = [
            torch.addmm(base, mix, bases) for base, mix, bases in zip(self.base, coefficients, self.bases, strict=True)
        ]
        return torch.cat(levels, 1).reshape(-1, *self.shape)
