"""Extensions: extra dimensions of a code for added scenes, with linear maps beside networks that stay as they are.

    z' = [z | u]:   coefficients a(z) + A u,   table(z) + sum_k c_k(u) B'_k,   W(z) + D u      (A, c, D: without bias)

Scenes that were there before have u = 0 and are generated exactly as before, whatever A, c, B', D are.
Source: the columns of Rusu et al. 2016, "Progressive neural networks", brought to a hypernetwork.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.hypernets.basis_table import BasisTable
from hyperfields.hypernets.init import LATENT_SHARE, stds
from hyperfields.weights import Weights, WeightSpec, split


@dataclasses.dataclass(frozen=True)
class Extension:
    """numbers: extra dimensions of a code. bases: extra tables that only they combine; 0 for none."""

    numbers: int
    bases: int

    def __post_init__(self) -> None:
        if self.numbers < 1:
            raise InputError(f"extension numbers {self.numbers}: wanted at least 1")
        if self.bases < 0:
            raise InputError(f"extension bases {self.bases}: wanted 0 or more")


class Added(NamedTuple):
    """Changes by an extension, by the name of the weight: of coefficients, tables, generated weights `[s ...]`."""

    coefficients: dict[str, Tensor]
    tables: Weights
    weights: Weights


class Extended(nn.Module):
    """Numbers `[s u]` -> `Added`; numbers of 0 add 0.

    `spec` is the whole field's, `generated` the part of it that comes from a generator.
    """

    def __init__(self, spec: WeightSpec, generated: WeightSpec, config: Extension) -> None:
        super().__init__()
        self.spec = dict(generated)
        self.coefficients, self.tables = nn.ModuleDict(), nn.ModuleDict()
        for name, entry in spec.items():
            if name in generated:
                continue
            key = name.replace(".", "/")
            if entry.source == "factored":
                count = (len(entry.groups) - 1) * entry.bases
                self.coefficients[key] = _linear(config.numbers, torch.full((count,), math.sqrt(0.5)))
            if config.bases:  # also for a table that all scenes share so far
                groups = entry.groups or (0, entry.shape[0])
                table = dataclasses.replace(entry, source="factored", bases=config.bases, groups=groups)
                self.tables[key] = BasisTable(table, config.numbers, bias=False)
        self.weights = _linear(config.numbers, stds(generated) * math.sqrt(LATENT_SHARE))

    def forward(self, numbers: Tensor) -> Added:
        return Added(
            {key.replace("/", "."): shift(numbers) for key, shift in self.coefficients.items()},
            {key.replace("/", "."): table(numbers) for key, table in self.tables.items()},
            split(self.weights(numbers), self.spec),
        )


def _linear(width: int, stds: Tensor) -> nn.Linear:
    """A linear map without bias; `stds` are the standard deviations of what it gives, from numbers of mean square 1."""
    made = nn.Linear(width, len(stds), bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.randn(len(stds), width) * stds[:, None] / math.sqrt(width))
    return made
