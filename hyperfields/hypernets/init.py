"""Parts of generators: heads that start with the standard deviation that the spec asks for.

Initialisation is that of Chang, Flaxman, Lipson 2020, "Principled weight initialization for hypernetworks", section 4:
a generated weight starts with the variance that its fan-in asks for, so the head's own weights are smaller by the
number and power of what it reads. A base beside it (Ortiz, Guttag, Dalca 2023, section 4.2) holds what scenes share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.weights import WeightEntry, WeightSpec

# Share of the initial variance that comes from the latent; the rest is the base, equal for all scenes.
LATENT_SHARE = 0.05


class Head(nn.Linear):
    """Features `[s w]` of mean square 1 -> numbers `[s n]`; `stds` `[n]` are their standard deviations at first."""

    def __init__(self, width: int, stds: Tensor) -> None:
        super().__init__(width, len(stds))
        with torch.no_grad():
            self.weight.copy_(torch.randn(len(stds), width) * stds[:, None] / math.sqrt(width))
            self.bias.zero_()


def trunk(width: int, hidden: int) -> nn.Sequential:
    """Numbers `[s w]` -> features `[s h]`; both have mean square 1 at first (He et al. 2015, equation 10)."""
    layer = nn.Linear(width, hidden)
    nn.init.normal_(layer.weight, std=math.sqrt(2.0 / width))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU())


def std_of(entry: WeightEntry) -> float:
    """Standard deviation of the initial values of a weight."""
    return entry.bound / math.sqrt(3.0)


def stds(spec: WeightSpec) -> Tensor:
    """`[numel(spec)]`, the standard deviation of each weight, in the order of the spec."""
    return torch.cat([torch.full((entry.numel,), std_of(entry)) for entry in spec.values()])


def initials(spec: WeightSpec) -> Tensor:
    """`[numel(spec)]`, fresh values of all weights, in the order of the spec."""
    return torch.cat([entry.initial().flatten() for entry in spec.values()])


def by_layer(spec: WeightSpec) -> dict[str, WeightSpec]:
    """The weights of each layer of a field, its matrix and its bias, under the layer's name (`mlp.0`)."""
    found: dict[str, dict[str, WeightEntry]] = {}
    for name, entry in spec.items():
        found.setdefault(name.rpartition(".")[0], {})[name] = entry
    return dict(found)


def require_positive(owner: str, **values: int) -> None:
    """Raises:
    InputError: a setting of a generator that is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{owner} {name}: got {value}, wanted at least 1")
