"""A field with its weights: an ordinary function of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.ops import VisibleSamples
from hyperfields.rendering.occupancy import occupancy_grid
from hyperfields.weights import Weights


class BoundField:
    """The fields of `s` scenes as one function of points, in the order of the latents.

    Call it as the field is called, without the weights: images and shapes `fn(x)`, radiance `fn(x, d)`; points
    `[s n d]`, or packed `[m d]` with `counts [s]`. Differentiable in the points and in the weights.

    `density`, `visible_samples` and `occupancy` are those of radiance fields.
    """

    def __init__(self, field: Any, weights: Weights, scenes: int) -> None:
        self.field, self.weights, self.scenes = field, weights, scenes
        self._occupancy: dict[int, Tensor] = {}

    def detach(self) -> BoundField:
        """The same with weights that no gradient flows to; those to points still do."""
        return BoundField(self.field, {name: value.detach() for name, value in self.weights.items()}, self.scenes)

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which points have to be."""
        return next(iter(self.weights.values())).device

    def __call__(self, x: Tensor, *directions_and_counts: Tensor | None) -> Any:
        """Values `[s n c]` at x `[s n d]`; of radiance, at x and d: density `[s n 1]` and colour `[s n 3]`."""
        return self.field(self.weights, x, *directions_and_counts)

    def density(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Density alone, `[... 1]`.

        Raises:
            TypeError: for fields without a density.
        """
        density: Tensor = self._method("density")(self.weights, x, counts)
        return density

    def cell_density(self, y: Tensor, counts: Tensor | None = None) -> Tensor:
        """Density at points y of the cube that an occupancy grid covers, see `RadianceField.cell_density`.

        Raises:
            TypeError: for fields without a density.
        """
        density: Tensor = self._method("cell_density")(self.weights, y, counts)
        return density

    def visible_samples(
        self, rays: Rays, occupancy: Tensor, offset: Tensor | None, opaque: float
    ) -> VisibleSamples | None:
        """Samples of rays `[s r 3]` that light gets to, see `RadianceField.visible_samples`.

        Raises:
            TypeError: for fields without a density.
        """
        samples: VisibleSamples | None = self._method("visible_samples")(self.weights, rays, occupancy, offset, opaque)
        return samples

    def _method(self, name: str) -> Any:
        if not hasattr(self.field, name):
            raise TypeError(f"{name}: a {type(self.field).__name__} has none; wanted a RadianceField")
        return getattr(self.field, name)

    @torch.no_grad()
    def occupancy(self, size: int | None = None) -> Tensor:
        """Cells of the field's space that are not empty, `[s g g g]` bool, `size` a side (default: the field's).

        Computed once and kept: the weights must not change any more. Not differentiable.

        Raises:
            TypeError: for fields without a density.
        """
        self._method("density")
        size = size or self.field.occupancy
        if size not in self._occupancy:
            self._occupancy[size] = occupancy_grid(
                self.cell_density, self.scenes, size, step=self.field.step, device=self.device
            )
        return self._occupancy[size]
