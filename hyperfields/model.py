"""The whole model: latents, a hypernetwork and a field; `bind` turns codes into functions of points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperfields.codes.table import LatentTable
from hyperfields.fields import BoundField
from hyperfields.hypernets import Bayes, Extension, Hypernet, Stability


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of a model. `latent_size` numbers are what one more scene costs, those of extensions among them.

    field: a config with the members of `fields.Field`. generator: one on `hypernets.Generator`.
    """

    field: Any
    generator: Any
    latent_size: int
    stability: Stability = dataclasses.field(default_factory=Stability)
    bayes: Bayes = dataclasses.field(default_factory=Bayes)
    extensions: tuple[Extension, ...] = ()

    @property
    def unextended(self) -> ModelConfig:
        """The model before scenes were added."""
        extra = sum(extension.numbers for extension in self.extensions)
        return dataclasses.replace(self, latent_size=self.latent_size - extra, extensions=())


class HyperField(nn.Module):
    """Latents of `scenes` scenes and the hypernetwork that generates the weights of their fields.

        model = HyperField(config, scenes=100)
        field = model(torch.tensor([3, 7]))   # the fields of two scenes as one function of points

    sparse: gradients of the latent table are sparse, for optimisers that take them; with the default, any optimiser
    works.
    """

    def __init__(self, config: ModelConfig, scenes: int, *, sparse: bool = False) -> None:
        super().__init__()
        self.config = config
        self.latents = LatentTable(scenes, config.latent_size, sparse=sparse)
        self.hypernet = Hypernet(
            config.field.spec,
            config.latent_size,
            config.generator,
            config.stability,
            config.bayes,
            config.extensions,
        )

    @property
    def kind(self) -> str:
        """Kind of the scenes, the name of their task."""
        return str(self.config.field.kind)

    def forward(self, scenes: Tensor) -> BoundField:
        """Fields of fitted scenes, by number `[s]` int64. Differentiable in the networks and in the codes of these
        scenes.
        """
        return self.bind(self.latents(scenes))

    def bind(self, codes: Tensor, residual: Mapping[str, Tensor] | None = None) -> BoundField:
        """Fields of codes `[s z]` as one function of points; the hypernetwork runs once.

        residual: what to add to weights of these scenes, `[s ...]` each by name.

        Differentiable in the codes and in the networks. Wrap it in `torch.no_grad()` for rendering.

        Raises:
            ValueError: when the codes have another size than the model's.
        """
        self._check(codes)
        return BoundField(self.config.field, self.hypernet(codes, residual), codes.shape[0])

    def sample(
        self, codes: Tensor, generator: torch.Generator, residual: Mapping[str, Tensor] | None = None
    ) -> tuple[BoundField, Tensor | None]:
        """(fields whose weights are drawn from their distribution, its divergence from the prior `[]`), see `Bayes`.

        Without a distribution these are the fields of `bind`, and None.
        """
        self._check(codes)
        weights, divergence = self.hypernet.sample(codes, generator, residual)
        return BoundField(self.config.field, weights, codes.shape[0]), divergence

    def _check(self, codes: Tensor) -> None:
        if codes.dim() != 2 or codes.shape[1] != self.config.latent_size:
            raise ValueError(f"codes: got shape {tuple(codes.shape)}, wanted [s, {self.config.latent_size}]")

    def networks_numel(self) -> int:
        """Count of the numbers that all scenes share."""
        return sum(p.numel() for p in self.hypernet.parameters())

    def bytes_per_scene(self, scenes: int | None = None, *, bytes_per_number: int = 2) -> tuple[float, int]:
        """(amortised, marginal): networks and codes over `scenes`, and one more code; 16 bits a number by default."""
        scenes = scenes or self.latents.codes.shape[0]
        marginal = self.config.latent_size * bytes_per_number
        return self.networks_numel() * bytes_per_number / scenes + marginal, marginal


def parameter_groups(model: HyperField) -> dict[str, list[nn.Parameter]]:
    """Parameters by their role: `grid` (tables and bases), `networks` (heads and base weights), `latents`."""
    hypernet = model.hypernet
    grid, networks = [*hypernet.shared.parameters()], [*hypernet.generator.parameters()]
    if hypernet.factors is not None:
        networks += hypernet.factors.parameters()
    for part in (hypernet.factored, hypernet.extensions):
        for name, parameter in part.named_parameters():
            (grid if ".bases." in name else networks).append(parameter)
    return {"grid": grid, "networks": networks, "latents": [model.latents.codes]}
