"""Radiance fields: density and colour for every point of the scene box and every direction."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.errors import InputError
from hyperfields.fields.common import ACTIVATION, FREQUENCY, Layers, encoded_mlp, mlp_spec, require_field
from hyperfields.fields.encodings import TABLE, Encoding, GridEncoding, SphericalHarmonics
from hyperfields.ops.profiling import region
from hyperfields.weights import Weights, WeightSpec, layers, linear_spec

MAX_LOG_DENSITY = 8.0


@dataclasses.dataclass(frozen=True)
class RadianceField:
    """A point and a direction -> density (per scene unit) and colour in [0, 1].

    As in Mildenhall et al. 2020, section 3: density does not depend on the direction. Points are those of its space:
    the scene box [-1, 1]^3, or all of space, contracted.
    """

    kind: ClassVar[str] = "views"

    encoding: Encoding
    hidden: tuple[int, ...] = (32,)
    geometry: int = 15  # features that the density network hands to the colour network
    color_hidden: tuple[int, ...] = (32,)
    directions: SphericalHarmonics = dataclasses.field(default_factory=SphericalHarmonics)
    space: ops.Space = ops.BOX
    step: float = 0.03  # length of a sample along a ray in the scene box, scene units
    occupancy: int = 32  # cells along a side of the grid that skips empty space
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only, of the density network

    def __post_init__(self) -> None:
        require_field(self, (*self.hidden, 1 + self.geometry, *self.color_hidden))
        if not 1e-4 <= self.step < math.inf or not 1 <= self.occupancy <= 512:
            raise InputError(
                f"RadianceField: step {self.step}, occupancy {self.occupancy}: wanted 0.0001 or more, 1 to 512 cells"
            )

    @property
    def dims(self) -> int:
        return 3

    @property
    def networks(self) -> tuple[tuple[int, ...], ...]:
        """Widths of the density network and of the colour network."""
        return (
            (self.encoding.channels, *self.hidden, 1 + self.geometry),
            (self.geometry + self.directions.channels, *self.color_hidden, 3),
        )

    @property
    def spec(self) -> WeightSpec:
        density, color = self.networks
        density_spec = mlp_spec("density", density, self.activation, self.frequency)
        return {**self.encoding.spec, **density_spec, **linear_spec("color", color)}

    def density(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 3]` -> density `[s n 1]`, per scene unit."""
        return self._per_unit(x, self.cell_density(weights, self.space.into(x), counts))

    def cell_density(self, weights: Weights, y: Tensor, counts: Tensor | None = None) -> Tensor:
        """Points y `[s n 3]` of the grid's [-1, 1]^3 -> density `[s n 1]`; in contracted space, per contracted length.

        What the cells of an occupancy grid are judged by: a sample is about as long everywhere.
        """
        # exp with a ceiling: its gradient carries over many orders of magnitude, and it cannot die as ReLU does.
        log_density = self._density_output(weights, y, counts, self._density_only(weights))
        return ops.truncated_exp(log_density, MAX_LOG_DENSITY)

    def _per_unit(self, x: Tensor, density: Tensor) -> Tensor:
        """Density per scene unit at points of space, from that per contracted length."""
        return density * self.space.density_scale(x) if isinstance(self.space, ops.Contracted) else density

    def visible_samples(
        self, weights: Weights, rays: Rays, occupancy: Tensor, offset: Tensor | None, opaque: float
    ) -> ops.VisibleSamples | None:
        """Samples of rays `[s r 3]` that light gets to, by the density alone; None where a field has no grid.

        Args:
            occupancy: `[s g g g]` bool.
            offset: `[s r]` in [0, 1).
            opaque: opacity from which a ray shows no more of what lies behind.
        """
        grid = self.encoding
        if not isinstance(grid, GridEncoding):
            return None
        return ops.visible_samples(
            *rays, occupancy, self.step, offset, weights[TABLE], grid.grid, self._density_only(weights),
            self.activation, ceiling=MAX_LOG_DENSITY, opaque=opaque, space=self.space,
        )  # fmt: skip

    @region("rest of the field")
    def mean_error(
        self, weights: Weights, rays: Rays, occupancy: Tensor, offset: Tensor, opaque: float, rgba: Tensor, haze: float
    ) -> tuple[Tensor, Tensor, int] | None:
        """(mean error `[]` of rays against straight colours `[s r 4]`, opacity `[s r]` without a gradient, samples).

        By the visible samples, see `visible_samples` and `ops.rendered_error`. None for encodings without a grid, in
        contracted space, for truths of another dtype, and where no ray meets an occupied cell.
        """
        grid = self.encoding
        if not isinstance(grid, GridEncoding) or self.space != ops.BOX or rgba.dtype != rays.origins.dtype:
            return None
        seen = self.visible_samples(weights, rays, occupancy, offset, opaque)
        if seen is None or len(seen.edges) == 0:
            return None
        features = ops.hash_encode(
            seen.x * 0.5 + 0.5, weights[TABLE], grid.grid, counts=seen.counts.reshape(rgba.shape[:2]).sum(1),
            encoded=seen.encoded,
        )  # fmt: skip
        error, alpha = ops.rendered_error(
            features, seen.d, seen.edges, seen.counts, rgba, layers(weights, "density"), layers(weights, "color"),
            self.activation, degree=self.directions.degree, ceiling=MAX_LOG_DENSITY, haze=haze,
        )  # fmt: skip
        return error, alpha, len(seen.edges)

    def _density_only(self, weights: Weights) -> Layers:
        """Density network without the features that it hands on."""
        *first, (weight, bias) = layers(weights, "density")
        return [*first, (weight[:, :1], None if bias is None else bias[:, :1])]

    def _density_output(
        self, weights: Weights, x: Tensor, counts: Tensor | None, network: Layers, encoded: Tensor | None = None
    ) -> Tensor:
        """Raw output of the density network at points of the grid's [-1, 1]^3: log density first, then features."""
        return encoded_mlp(self.encoding, weights, network, self.activation, x * 0.5 + 0.5, counts, encoded)

    @region("rest of the field")
    def __call__(
        self, weights: Weights, x: Tensor, d: Tensor, counts: Tensor | None = None, encoded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x and d (unit) `[s n 3]` -> density `[s n 1]`, colour `[s n 3]`; encoded: from `visible_samples`."""
        out = self._density_output(weights, self.space.into(x), counts, layers(weights, "density"), encoded)
        density, rgb = ops.radiance_head(
            out, d, layers(weights, "color"), self.activation, degree=self.directions.degree, ceiling=MAX_LOG_DENSITY,
            counts=counts,
        )  # fmt: skip
        return self._per_unit(x, density), rgb
