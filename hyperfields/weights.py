"""Weights of generated fields: what they are called, how they look, where they come from.

A field states its `WeightSpec`; a hypernetwork reads it and returns `Weights`. Neither sees the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Weights = dict[str, Tensor]  # name -> [s ...]; the scene axis is always there, also when s == 1

Source = Literal["generated", "shared", "factored"]


@dataclasses.dataclass(frozen=True)
class WeightEntry:
    """One tensor of a field, without its scene axis.

    source: `generated` from the latent; `shared` by all scenes; `factored`: `bases` shared tables
        mixed by coefficients from the latent, one set for each group of rows.
    bound: initial values are uniform in [-bound, bound].
    groups: for `factored`, the row at which each group starts, and the number of rows.
    """

    shape: tuple[int, ...]
    fan_in: int
    bound: float
    source: Source = "generated"
    bases: int = 0
    groups: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """A fresh value `shape`, as the field would have it without a hypernetwork."""
        return (torch.rand(self.shape, generator=generator) * 2.0 - 1.0) * self.bound


WeightSpec = Mapping[str, WeightEntry]


def linear_spec(prefix: str, widths: tuple[int, ...], frequency: float | None = None) -> dict[str, WeightEntry]:
    """Entries of an MLP `widths[0] -> ... -> widths[-1]`: `PREFIX.i.weight [o i]` and `PREFIX.i.bias [o]`.

    Hidden weights keep the variance of ReLU activations (He et al. 2015, equation 10), the last layer that of a
    linear map; biases start as in `torch.nn.Linear`.

    frequency: that of the first layer, for sine activations, whose hidden weights start as those of ReLU (Sitzmann et
        al. 2020, "Implicit neural representations with periodic activation functions", section 3.2). It lies in the
        weights, as `ops.batched_mlp` wants it.
    """
    spec: dict[str, WeightEntry] = {}
    for i in range(len(widths) - 1):
        fan_in, fan_out = widths[i], widths[i + 1]
        gain = 6.0 if i + 2 < len(widths) else 3.0
        bound, bias = math.sqrt(gain / fan_in), 1.0 / math.sqrt(fan_in)
        if frequency is not None and i == 0 and len(widths) > 2:
            # Phases anywhere in a period: what the biases of torch.nn.Linear times the frequency come to.
            bound, bias = frequency / fan_in, math.pi
        spec[f"{prefix}.{i}.weight"] = WeightEntry((fan_out, fan_in), fan_in, bound)
        spec[f"{prefix}.{i}.bias"] = WeightEntry((fan_out,), fan_in, bias)
    return spec


def layers(weights: Weights, prefix: str) -> list[tuple[Tensor, Tensor | None]]:
    """The (weight `[s o i]`, bias `[s o]`) pairs of `PREFIX.0`, `PREFIX.1`, ... as `ops.batched_mlp` wants them."""
    found: list[tuple[Tensor, Tensor | None]] = []
    while f"{prefix}.{len(found)}.weight" in weights:
        name = f"{prefix}.{len(found)}"
        found.append((weights[f"{name}.weight"], weights.get(f"{name}.bias")))
    return found


def numel(spec: WeightSpec) -> int:
    """Number of weights of one scene's field."""
    return sum(entry.numel for entry in spec.values())


def flatten(weights: Weights, spec: WeightSpec) -> Tensor:
    """`[s ...]` each -> `[s, numel(spec)]`, in the order of the spec."""
    return torch.cat([weights[name].flatten(1) for name in spec], 1)


def split(flat: Tensor, spec: WeightSpec) -> Weights:
    """`[s, numel(spec)]` -> `Weights`; the inverse of `flatten`.

    Raises:
        ValueError: when the width is not `numel(spec)`.
    """
    sizes = [entry.numel for entry in spec.values()]
    if flat.shape[1] != sum(sizes):
        raise ValueError(f"split: got {flat.shape[1]} numbers a scene, wanted {sum(sizes)}")
    pieces = flat.split(sizes, 1)
    return {name: piece.reshape(-1, *entry.shape) for (name, entry), piece in zip(spec.items(), pieces, strict=True)}
