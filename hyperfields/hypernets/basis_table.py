"""Tables from shared bases, combined per group of rows by coefficients from the latent.

    table(z)[g] = sum_k a_gk(z) B_k[g],     a(z) = C z + c   (a linear head; c holds what all scenes share)

Source: the linear head of HyP-NeRF (Sen et al. 2023, section 3.1) seen as a basis; Factor Fields (Chen et al. 2023).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.weights import WeightEntry


class BasisTable(nn.Module):
    """Codes `[s z]` -> table `[s rows f]`."""

    def __init__(self, entry: WeightEntry, latent_size: int, bias: bool = True) -> None:
        super().__init__()
        self.shape = entry.shape
        self.count = entry.bases
        groups = len(entry.groups) - 1
        # Coefficients start near N(0, 1), half of the variance in what scenes share and half in what tells them apart.
        self.head = nn.Linear(latent_size, groups * entry.bases, bias)
        nn.init.normal_(self.head.weight, std=math.sqrt(0.5 / latent_size))
        if bias:
            nn.init.normal_(self.head.bias, std=math.sqrt(0.5))
        columns = math.prod(entry.shape[1:])
        std = entry.bound / math.sqrt(entry.bases)  # the sum has the variance that the spec asks for
        self.bases = nn.ParameterList(
            (torch.rand(entry.bases, (end - start) * columns) * 2 - 1) * std
            for start, end in itertools.pairwise(entry.groups)
        )

    def forward(self, codes: Tensor, shift: Tensor | None = None) -> Tensor:
        """shift `[s groups*bases]` is added to the coefficients."""
        mixed = self.head(codes) if shift is None else self.head(codes) + shift
        coefficients = mixed.reshape(mixed.shape[0], -1, self.count)
        return ops.combine_bases(coefficients, list(self.bases)).reshape(-1, *self.shape)
