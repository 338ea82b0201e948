"""The whole model: latents + hypernetwork + field, and `bind`, which turns a latent into a function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperfields.cameras import Rays
from hyperfields.codes.table import LatentTable
from hyperfields.data import Kind
from hyperfields.fields import Field, RadianceField, kind_of
from hyperfields.hypernets import Bayes, Extension, Generator, Hypernet, Stability
from hyperfields.ops import VisibleSamples
from hyperfields.rendering.occupancy import occupancy_grid
from hyperfields.weights import Weights


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a model is made of; `latent_size` numbers are what one more scene costs, those of extensions among them."""

    field: Field
    generator: Generator
    latent_size: int
    stability: Stability = dataclasses.field(default_factory=Stability)
    bayes: Bayes = dataclasses.field(default_factory=Bayes)
    extensions: tuple[Extension, ...] = ()

    @property
    def unextended(self) -> ModelConfig:
        """The model before scenes were added."""
        numbers = self.latent_size - sum(extension.numbers for extension in self.extensions)
        return dataclasses.replace(self, latent_size=numbers, extensions=())


class BoundField:
    """A field with weights: an ordinary function of points. `s` scenes at once, in the order of the latents.

    Images `fn(x)`, shapes `fn(x)`, views `fn(x, d)`; points `[s n d]`, or packed `[m d]` with `counts [s]`.
    """

    def __init__(self, field: Field, weights: Weights, scenes: int) -> None:
        self.field, self.weights, self.scenes = field, weights, scenes
        self._occupancy: dict[int, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and points have to be."""
        return next(iter(self.weights.values())).device

    def __call__(self, *points_and_counts: Any) -> Any:
        return self.field(self.weights, *points_and_counts)

    def density(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Density alone, `[... 1]`; views only.

        Raises:
            TypeError: for other kinds.
        """
        if not isinstance(self.field, RadianceField):
            raise TypeError(f"density: this is a field of kind {kind_of(self.field)!r}, wanted 'views'")
        return self.field.density(self.weights, x, counts)

    def visible_samples(
        self, rays: Rays, occupancy: Tensor, offset: Tensor | None, opaque: float
    ) -> VisibleSamples | None:
        """The samples of rays `[s r 3]` that can be seen; see `RadianceField.visible_samples`. Views only."""
        assert isinstance(self.field, RadianceField)
        return self.field.visible_samples(self.weights, rays, occupancy, offset, opaque)

    @torch.no_grad()
    def occupancy(self, size: int | None = None) -> Tensor:
        """Cells of the scene box that are not empty, `[s g g g]` bool, `size` a side (default: the field's).

        Looked for once and kept: the weights must not change any more. Views only. Not differentiable.

        Raises:
            TypeError: for other kinds.
        """
        if not isinstance(self.field, RadianceField):
            raise TypeError(f"occupancy: this is a field of kind {kind_of(self.field)!r}, wanted 'views'")
        size = size or self.field.occupancy
        if size not in self._occupancy:
            self._occupancy[size] = occupancy_grid(
                self.density, self.scenes, size, step=self.field.step, device=self.device
            )
        return self._occupancy[size]


class HyperField(nn.Module):
    """A latent code goes into a hypernetwork that generates the weights of a small field."""

    def __init__(self, config: ModelConfig, scenes: int) -> None:
        super().__init__()
        self.config = config
        self.latents = LatentTable(scenes, config.latent_size)
        self.hypernet = Hypernet(
            config.field.spec,
            config.latent_size,
            config.generator,
            config.stability,
            config.bayes,
            config.extensions,
        )

    @property
    def kind(self) -> Kind:
        return kind_of(self.config.field)

    def bind(self, codes: Tensor, residual: Mapping[str, Tensor] | None = None) -> BoundField:
        """Run the hypernetwork once on `codes` `[s z]` and return the fields as one function of points.

        residual: what to add to each scene's weights, from `hypernets.Residual`.

        Differentiable in the codes and in the networks. Wrap it in `torch.no_grad()` for rendering.

        Raises:
            ValueError: when the codes have another size than the model's.
        """
        if codes.dim() != 2 or codes.shape[1] != self.config.latent_size:
            raise ValueError(f"codes: got shape {tuple(codes.shape)}, wanted [s, {self.config.latent_size}]")
        return BoundField(self.config.field, self.hypernet(codes, residual), codes.shape[0])

    def bind_scenes(self, scenes: Tensor) -> tuple[BoundField, Tensor]:
        """The fields of fitted scenes, by number `[s]`, and their codes `[s z]`; gradients reach only those codes."""
        codes = self.latents(scenes)
        return self.bind(codes), codes

    def networks_numel(self) -> int:
        """Numbers shared by all scenes."""
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
