"""Full generation: every weight is a function of the latent of its own, all from one head.

    W(z) = W0 + H(z)

Source: Ha, Dai, Le 2016, "HyperNetworks", section 3; the base W0 is the residual form of Ortiz et al. 2023.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, initials, stds, trunk
from hyperfields.weights import Weights, WeightSpec, split


@dataclasses.dataclass(frozen=True)
class Full(Generator):
    """All weights from one head; `hidden` 0 makes it linear, otherwise one hidden ReLU layer of that width."""

    rates: ClassVar[Mapping[str, float]] = {"images": 2.0, "shapes": 4.0, "views": 1.0}

    hidden: int = 0

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return FullGenerator(spec, latent_size, self, share)


class FullGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, config: Full, share: float = LATENT_SHARE) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.trunk = trunk(latent_size, config.hidden) if config.hidden else nn.Identity()
        base = initials(spec)
        self.head = Head(config.hidden or latent_size, stds(spec) * math.sqrt(share))
        with torch.no_grad():
            self.head.bias.copy_(base * math.sqrt(1.0 - share))

    def forward(self, codes: Tensor) -> Weights:
        return split(self.head(self.trunk(codes)), self.spec)
