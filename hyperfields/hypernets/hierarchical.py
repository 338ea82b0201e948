"""Hierarchical generation: the scene's code gives a short code for each layer, which gives the layer's weights.

    c_l(z) = C_l z + c_l,     W_l(z) = W0_l + H_l(c_l(z))

The short codes are the bottleneck: a layer's head grows with them and not with the scene's code.
Source: the two stages of Ha, Dai, Le 2016, "HyperNetworks", equations 2 and 3, with layer codes made from the scene.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.full import Full, FullGenerator
from hyperfields.hypernets.init import LATENT_SHARE, Head, by_layer, require_positive
from hyperfields.weights import Weights, WeightSpec, split


@dataclasses.dataclass(frozen=True)
class Hierarchical(Generator):
    """code: dimensions of a layer's code."""

    knob: ClassVar[str] = "code"
    rates: ClassVar[Mapping[str, float]] = {"images": 2.0, "shapes": 2.0, "views": 2.0}

    code: int = 8

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return HierarchicalGenerator(spec, latent_size, self, share)


class HierarchicalGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: Hierarchical, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("Hierarchical", code=config.code)
        layers = by_layer(spec)
        self.spec = {name: entry for layer in layers.values() for name, entry in layer.items()}
        self.codes = Head(latent_size, torch.full((len(layers) * config.code,), math.sqrt(0.5)))
        nn.init.normal_(self.codes.bias, std=math.sqrt(0.5))
        # Half of a layer's code tells scenes apart: for their share of the weights the heads get twice as much.
        self.layers = nn.ModuleList(
            FullGenerator(layer, config.code, Full(), min(2.0 * share, 1.0)) for layer in layers.values()
        )

    def forward(self, codes: Tensor) -> Weights:
        heads: list[Any] = [layer.head for layer in self.layers]
        of_layers = self.codes(codes).unflatten(1, (len(heads), -1))
        flat = ops.linear_heads(of_layers, [head.weight for head in heads], [head.bias for head in heads])
        return split(flat, self.spec)
