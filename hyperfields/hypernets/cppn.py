"""Indirect encoding: a weight is a function of where its two neurons are and of the latent.

    w(c, z) = H sin(C sin(A c + a) + G z + b),     c = (layer, neuron that gives, neuron that takes, bias or not)

The function does not grow with the field; weights of near neurons are alike as far as its frequencies let them.
Source: Stanley, D'Ambrosio, Gauci 2009, "A hypercube-based encoding for evolving large-scale neural networks"
(HyperNEAT), section 3; Stanley 2007, "Compositional pattern producing networks"; here it is learned by gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, by_layer, require_positive, stds
from hyperfields.weights import Weights, WeightSpec, split

RADIANS = 1.5  # root of the mean square by which the phase changes from a neuron to the next


@dataclasses.dataclass(frozen=True)
class Cppn(Generator):
    """hidden: width of the function's two layers of sines."""

    rates: ClassVar[Mapping[str, float]] = {"images": 2.0, "shapes": 2.0, "views": 2.0}

    hidden: int = 64

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return CppnGenerator(spec, latent_size, self, share)


class CppnGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    place: Tensor  # [numel(spec) 4]
    stds: Tensor  # [numel(spec)]

    def __init__(self, spec: WeightSpec, latent_size: int, config: Cppn, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("Cppn", hidden=config.hidden)
        self.spec = dict(spec)
        self.register_buffer("place", places(spec), False)
        self.register_buffer("stds", stds(spec), False)
        widest = max(max(entry.shape) for entry in spec.values())
        hidden = config.hidden
        frequency = RADIANS * widest / 2.0
        self.first = Head(4, torch.full((hidden,), frequency * 2.0))  # a Head divides by the root of its 4 inputs
        # Phases of variance 4.5: with less, all weights would have something in common, and signals would grow.
        self.second = Head(hidden, torch.full((hidden,), 3.0))
        # Two scenes whose phases differ by normal numbers of variance 2 d^2 have features that correlate by exp(-d^2).
        self.latent = Head(latent_size, torch.full((hidden,), math.sqrt(-math.log(max(1.0 - share, 1e-2)))))
        self.head = Head(hidden, torch.tensor([math.sqrt(2.0)]))
        with torch.no_grad():
            self.first.bias.uniform_(-math.pi, math.pi)
            self.latent.bias.uniform_(-math.pi, math.pi)

    def forward(self, codes: Tensor) -> Weights:
        shared = self.second(torch.sin(self.first(self.place)))  # [n h]
        features = torch.sin(shared + self.latent(codes)[:, None])  # [s n h]
        return split(self.head(features).squeeze(-1) * self.stds, self.spec)


def places(spec: WeightSpec) -> Tensor:
    """`[numel(spec) 4]`, each in [-1, 1]: layer, neuron that gives, neuron that takes, whether it is a bias."""
    rows = []
    numbered = list(by_layer(spec).values())
    for number, layer in enumerate(numbered):
        for entry in layer.values():
            matrix = len(entry.shape) == 2
            takes = torch.linspace(-1.0, 1.0, entry.shape[0])
            gives = torch.linspace(-1.0, 1.0, entry.shape[1]) if matrix else torch.zeros(1)
            to, by = torch.meshgrid(takes, gives, indexing="ij")
            where = torch.full_like(to, 2.0 * number / max(len(numbered) - 1, 1) - 1.0)
            kind = torch.full_like(to, -1.0 if matrix else 1.0)
            rows.append(torch.stack((where, by, to, kind), -1).flatten(0, -2))
    return torch.cat(rows)
