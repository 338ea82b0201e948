"""No sharing at all: the code of a scene *is* its weights. What "fit each alone" is stored as."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from hyperfields.hypernets.base import Generator
from hyperfields.weights import Weights, WeightSpec, split


@dataclasses.dataclass(frozen=True)
class Independent(Generator):
    """Every scene owns all its weights; the latent size is `weights.numel(spec)`."""

    shares_networks: ClassVar[bool] = False

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return IndependentGenerator(spec)


class IndependentGenerator(nn.Module):
    """Codes `[s, numel(spec)]` -> weights of `spec`, by cutting; it has no parameters."""

    def __init__(self, spec: WeightSpec) -> None:
        super().__init__()
        self.spec = dict(spec)

    def forward(self, codes: Tensor) -> Weights:
        return split(codes, self.spec)
