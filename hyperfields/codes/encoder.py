"""Codes by an encoder: a transformer turns observations of a scene into its code, for scenes not fitted as well.

    code = R transformer([embedded observations; learned tokens]),  weights = hypernetwork(code),  all fitted together

Source: Chen, Wang 2022, "Transformers as meta-learners for implicit neural representations" (TransINR), section 3. With
the generator `WeightTokens` the second half of it stands in the hypernetwork; any other generator can be taken. The
observations are those of `tasks.Task.observe`: patches of a picture, points of a shape, rays of views.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfields.codes.source import Codes, CodesLoss, CodeSource, FitContext
from hyperfields.hypernets.attention import Block
from hyperfields.hypernets.init import require_positive


@dataclasses.dataclass(frozen=True)
class Encoder(Codes):
    """width, depth, heads: of the transformer. tokens: learned ones that the code is read from.

    patch: side of a picture's patches, pixels. points: centres (shapes) or rays (views) that are observed.
    near: points of a centre's patch, itself among them.
    """

    at_once: ClassVar[bool] = True

    width: int = 64
    depth: int = 2
    heads: int = 4
    tokens: int = 4
    patch: int = 4
    points: int = 128
    near: int = 8

    def __post_init__(self) -> None:
        require_positive("Encoder", **dataclasses.asdict(self))

    def build(self, context: FitContext) -> CodeSource:
        return EncoderCodes(context, self)


class EncoderCodes(CodeSource):
    """Codes that a transformer reads off observations of the data."""

    def __init__(self, context: FitContext, config: Encoder) -> None:
        super().__init__()
        self.data, self.task, self.config = context.data, context.task, config
        self.encoder = TransformerEncoder(context.task.observed_features(config), context.latent_size, config)

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, None]:
        drawing, device = generator, generator.device
        if device.type != "cpu":  # observations are made where the data are
            seed = int(torch.randint(2**62, (), generator=generator, device=device))
            scenes, drawing = scenes.cpu(), torch.Generator().manual_seed(seed)
        observations: Tensor = self.task.observe(self.data, scenes, self.config, drawing)
        codes: Tensor = self.encoder(observations.to(device))
        return codes, None


class TransformerEncoder(nn.Module):
    """Observations `[s m features]` -> codes `[s z]`, each number of standard deviation about 1."""

    def __init__(self, features: int, latent_size: int, config: Encoder) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Sequential(nn.Linear(features, config.width), nn.GELU(), nn.Linear(config.width, config.width))
        self.tokens = nn.Parameter(torch.randn(config.tokens, config.width))
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.read = nn.Linear(config.tokens * config.width, latent_size)
        nn.init.normal_(self.read.weight, std=(config.tokens * config.width) ** -0.5)

    def forward(self, observations: Tensor) -> Tensor:
        tokens = torch.cat((self.tokens.expand(len(observations), -1, -1), self.embed(observations)), 1)
        tokens = self.norm(self.blocks(tokens)[:, : len(self.tokens)])
        codes: Tensor = self.read(tokens.flatten(1))
        return codes
