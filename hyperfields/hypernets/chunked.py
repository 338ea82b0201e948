"""Chunked generation: one small network gives all weights, a chunk at a time, told by embeddings which chunk to give.

    chunk_lc(z) = H(tanh(G_z z + G_l e_l + G_c e_c))

The network is shared by the chunks, so its size does not grow with the field. No weight has a base of its own: the
embeddings hold what scenes share. tanh and not ReLU: with features that are never negative all chunks would look alike.
Source: Ha, Dai, Le 2016, "HyperNetworks", section 3.1 (static hypernetworks, layer embeddings); von Oswald et al. 2020,
"Continual learning with hypernetworks", section 2 (chunk embeddings).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, by_layer, require_positive, stds
from hyperfields.weights import Weights, WeightSpec, numel, split

TANH_RMS = 0.6279  # root of the mean square of tanh(x), x standard normal


@dataclasses.dataclass(frozen=True)
class Chunked(Generator):
    """chunk: weights that the network gives at a time. embedding: dimensions of an embedding. hidden: width inside."""

    knob: ClassVar[str] = "hidden"
    rates: ClassVar[Mapping[str, float]] = {"images": 4.0, "shapes": 1.0, "views": 2.0}

    chunk: int = 128
    embedding: int = 16
    hidden: int = 64

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return ChunkedGenerator(spec, latent_size, self, share)


class ChunkedGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`.

    Raises:
        InputError: a chunk larger than every layer.
    """

    owner: Tensor  # [chunks], the layer of each
    stds: Tensor  # [numel(spec)]

    def __init__(self, spec: WeightSpec, latent_size: int, config: Chunked, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("Chunked", chunk=config.chunk, embedding=config.embedding, hidden=config.hidden)
        self.layers = [dict(layer) for layer in by_layer(spec).values()]
        largest = max(numel(layer) for layer in self.layers)
        if config.chunk > largest:
            raise InputError(f"Chunked chunk: got {config.chunk}, but the largest layer has {largest} weights")
        self.counts = [math.ceil(numel(layer) / config.chunk) for layer in self.layers]
        chunks = sum(self.counts)
        owner = torch.tensor([number for number, count in enumerate(self.counts) for _ in range(count)])
        self.register_buffer("owner", owner, False)
        self.register_buffer("stds", torch.cat([stds(layer) for layer in self.layers]), False)
        # Chunks of a layer start with an eighth of their embeddings' power in common: more, and neurons would be alike.
        self.layer_embedding = nn.Parameter(0.5 * torch.randn(len(self.layers), config.embedding))
        self.chunk_embedding = nn.Parameter(math.sqrt(1.75) * torch.randn(chunks, config.embedding))
        self.latent = Head(latent_size, torch.full((config.hidden,), math.sqrt(share)))
        self.place = Head(2 * config.embedding, torch.full((config.hidden,), math.sqrt(1.0 - share)))
        self.head = Head(config.hidden, torch.full((config.chunk,), 1.0 / TANH_RMS))

    def forward(self, codes: Tensor) -> Weights:
        place = torch.cat((self.layer_embedding[self.owner], self.chunk_embedding), 1)
        hidden = torch.tanh(self.latent(codes)[:, None] + self.place(place))  # [s chunks h]
        weights: Weights = {}
        begin = 0
        layers = self.head(hidden).split(self.counts, 1)
        for layer, chunks in zip(self.layers, layers, strict=True):
            count = numel(layer)
            weights |= split(chunks.flatten(1)[:, :count] * self.stds[begin : begin + count], layer)
            begin += count
        return weights
