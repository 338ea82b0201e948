"""Weight tokens: each group of neurons has a token; a transformer lets tokens see each other, heads make them columns.

    t_g = T_g + P_g z,   t = transformer(t),   w_n = w0_n * (1 + H_l t_g(n)),   w_n: what neuron n reads, with its bias

Source: Chen, Wang 2022, "Transformers as meta-learners for implicit neural representations" (TransINR), sections 3.2
and 3.3. There the tokens stand beside those of the observations and the rows are brought to unit length. Here a code
lies between, so that a scene stays `z` numbers: `encoder.Encoder` turns observations into codes by the other half of
the transformer, and rows of constant length are the setting `normalize` of `Stability`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.hypernets.attention import Block
from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, by_layer, require_positive
from hyperfields.weights import Weights, WeightSpec

OWN = 0.5  # standard deviation of the part of a token that all scenes share, against 1 of the scene's


@dataclasses.dataclass(frozen=True)
class WeightTokens(Generator):
    """width: of a token. groups: tokens of a layer, at most one a neuron. depth, heads: of the transformer."""

    knob: ClassVar[str] = "width"
    rates: ClassVar[Mapping[str, float]] = {"images": 2.0, "shapes": 1.0, "views": 2.0}

    width: int = 32
    groups: int = 8
    depth: int = 1
    heads: int = 4

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return WeightTokensGenerator(spec, latent_size, self, share)


class WeightTokensGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`.

    Raises:
        InputError: a setting below 1, or a width that the heads do not divide.
    """

    def __init__(self, spec: WeightSpec, latent_size: int, config: WeightTokens, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("WeightTokens", **dataclasses.asdict(config))
        self.layers, width = by_layer(spec), config.width
        self.base = nn.ParameterDict(
            {name.replace(".", "/"): entry.initial() / math.sqrt(1.0 + share) for name, entry in spec.items()}
        )
        self.heads = nn.ModuleList()
        self.groups: list[int] = []
        for layer in self.layers.values():
            self.groups.append(min(config.groups, next(iter(layer.values())).shape[0]))
            columns = sum(entry.numel // entry.shape[0] for entry in layer.values())
            self.heads.append(Head(width, torch.full((columns,), math.sqrt(share))))
        count = sum(self.groups)
        self.own = nn.Parameter(OWN * torch.randn(count, width))
        self.read = Head(latent_size, torch.ones(count * width))
        self.blocks = nn.Sequential(*(Block(width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, codes: Tensor) -> Weights:
        tokens = self.own + self.read(codes).unflatten(1, self.own.shape)
        tokens = self.norm(self.blocks(tokens))  # [s t w]
        weights: Weights = {}
        mine = tokens.split(self.groups, 1)
        for layer, head, token in zip(self.layers.values(), self.heads, mine, strict=True):
            change = head(token)  # [s g columns]
            neurons = next(iter(layer.values())).shape[0]
            group = torch.arange(neurons, device=codes.device) * token.shape[1] // neurons
            pieces = change[:, group].split([entry.numel // entry.shape[0] for entry in layer.values()], 2)
            for (name, entry), piece in zip(layer.items(), pieces, strict=True):
                base = self.base[name.replace(".", "/")]
                weights[name] = base * (1.0 + piece.reshape(-1, *entry.shape))
        return weights
