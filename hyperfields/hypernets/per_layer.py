"""Per-layer generation: every layer of the field has a small network of its own that gives its weights.

    W_l(z) = W0_l + H_l(act(G_l z))

Source: Sitzmann, Zollhoefer, Wetzstein 2019, "Scene representation networks", section 3.3 (one network a layer).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.full import Full, FullGenerator
from hyperfields.hypernets.init import LATENT_SHARE, by_layer, require_positive
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class PerLayer(Generator):
    """hidden: width of the hidden ReLU layer of each layer's network."""

    knob: ClassVar[str] = "hidden"
    rates: ClassVar[Mapping[str, float]] = {"images": 4.0, "shapes": 2.0, "views": 2.0}

    hidden: int = 32

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return PerLayerGenerator(spec, latent_size, self, share)


class PerLayerGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: PerLayer, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("PerLayer", hidden=config.hidden)
        self.layers = nn.ModuleList(
            FullGenerator(layer, latent_size, Full(config.hidden), share) for layer in by_layer(spec).values()
        )

    def forward(self, codes: Tensor) -> Weights:
        weights: Weights = {}
        for layer in self.layers:
            weights |= layer(codes)
        return weights
