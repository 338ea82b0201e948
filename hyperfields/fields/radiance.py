"""Fields: functions of points whose weights are an argument. They own no parameters: a config, a `spec`, a call.

Points are `[s n d]`, or packed `[m d]` with `counts [s]`; the answer has the same leading axes.
"""

from __future__ import annotations

import dataclasses
from typing import assert_never

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.data import Kind
from hyperfields.fields.encodings import TABLE, Encoding, FactoredGrid, HashGrid, SphericalHarmonics
from hyperfields.ops.profiling import region
from hyperfields.weights import WeightEntry, Weights, WeightSpec, layers, linear_spec

# Not plain ReLU: a latent can push all units of one scene below 0, and with no gradient it would never come back.
ACTIVATION: ops.Activation = "leaky_relu"
Layers = list[tuple[Tensor, Tensor | None]]  # weights `[s o i]` and biases `[s o]`
MAX_LOG_DENSITY = 8.0  # of the logarithm of a density
FREQUENCY = 30.0  # of the first layer of sine fields, for coordinates in [-1, 1] (Sitzmann et al. 2020, section 3.2)


def _mlp(prefix: str, widths: tuple[int, ...], activation: ops.Activation, frequency: float) -> dict[str, WeightEntry]:
    """The spec of an MLP that reads coordinates, as its activation wants it."""
    return linear_spec(prefix, widths, frequency if activation == "sine" else None)


@dataclasses.dataclass(frozen=True)
class ImageField:
    """(x, y) in [0, 1]^2 -> colour in about [0, 1] (sRGB, not clamped)."""

    encoding: Encoding
    hidden: tuple[int, ...] = (32, 32)
    channels: int = 3
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only

    @property
    def dims(self) -> int:
        return 2

    @property
    def spec(self) -> WeightSpec:
        widths = (self.encoding.channels, *self.hidden, self.channels)
        return self.encoding.spec | _mlp("mlp", widths, self.activation, self.frequency)

    def __call__(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 2]` -> `[s n c]`."""
        return _encoded_mlp(self.encoding, weights, layers(weights, "mlp"), self.activation, x, counts) + 0.5


@dataclasses.dataclass(frozen=True)
class SDFField:
    """A point of the scene box [-1, 1]^3 -> signed distance in scene units, negative inside."""

    encoding: Encoding
    hidden: tuple[int, ...] = (32, 32)
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only

    @property
    def dims(self) -> int:
        return 3

    @property
    def spec(self) -> WeightSpec:
        widths = (self.encoding.channels, *self.hidden, 1)
        return self.encoding.spec | _mlp("mlp", widths, self.activation, self.frequency)

    def __call__(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 3]` -> `[s n 1]`."""
        network = layers(weights, "mlp")
        return _encoded_mlp(self.encoding, weights, network, self.activation, x * 0.5 + 0.5, counts)


@dataclasses.dataclass(frozen=True)
class RadianceField:
    """A point of [-1, 1]^3 and a direction -> density (per scene unit) and colour in [0, 1].

    As in Mildenhall et al. 2020, section 3: density does not depend on the direction.
    """

    encoding: Encoding
    hidden: tuple[int, ...] = (32,)
    geometry: int = 15  # features that the density network hands to the colour network
    color_hidden: tuple[int, ...] = (32,)
    directions: SphericalHarmonics = dataclasses.field(default_factory=SphericalHarmonics)
    step: float = 0.03  # length of a sample along a ray, scene units
    occupancy: int = 32  # cells along a side of the grid that skips empty space
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only, of the density network

    @property
    def dims(self) -> int:
        return 3

    @property
    def spec(self) -> WeightSpec:
        density = (self.encoding.channels, *self.hidden, 1 + self.geometry)
        color = (self.geometry + self.directions.channels, *self.color_hidden, 3)
        spec = self.encoding.spec | _mlp("density", density, self.activation, self.frequency)
        return spec | linear_spec("color", color)

    def density(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 3]` -> density `[s n 1]`."""
        # exp with a ceiling: its gradient carries over many orders of magnitude, and it cannot die as ReLU does.
        return ops.truncated_exp(self._asked(weights, x, counts, self._density_only(weights)), MAX_LOG_DENSITY)

    def visible_samples(
        self, weights: Weights, rays: Rays, occupancy: Tensor, offset: Tensor | None, opaque: float
    ) -> ops.VisibleSamples | None:
        """The samples of rays `[s r 3]` that can be seen, found by the density alone; None where a field has no grid.

        Args:
            occupancy: `[s g g g]` bool.
            offset: `[s r]` in [0, 1).
            opaque: opacity from which a ray shows no more of what lies behind.
        """
        if not isinstance(self.encoding, HashGrid | FactoredGrid):
            return None
        return ops.visible_samples(
            *rays, occupancy, self.step, offset, weights[TABLE], self.encoding.grid, self._density_only(weights),
            self.activation, ceiling=MAX_LOG_DENSITY, opaque=opaque,
        )  # fmt: skip

    def _density_only(self, weights: Weights) -> Layers:
        """The density network without the features that it hands on."""
        *first, (weight, bias) = layers(weights, "density")
        return [*first, (weight[:, :1], None if bias is None else bias[:, :1])]

    def _asked(
        self, weights: Weights, x: Tensor, counts: Tensor | None, network: Layers, encoded: Tensor | None = None
    ) -> Tensor:
        """What the density network says of points of the scene box: the logarithm of the density first."""
        return _encoded_mlp(self.encoding, weights, network, self.activation, x * 0.5 + 0.5, counts, encoded)

    @region("rest of the field")
    def __call__(
        self, weights: Weights, x: Tensor, d: Tensor, counts: Tensor | None = None, encoded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x and d (unit) `[s n 3]` -> density `[s n 1]`, colour `[s n 3]`; encoded: from `sight`."""
        out = self._asked(weights, x, counts, layers(weights, "density"), encoded)
        return ops.radiance_head(
            out, d, layers(weights, "color"), self.activation, degree=self.directions.degree, ceiling=MAX_LOG_DENSITY,
            counts=counts,
        )  # fmt: skip


def _encoded_mlp(
    encoding: Encoding,
    weights: Weights,
    network: Layers,
    activation: ops.Activation,
    x: Tensor,
    counts: Tensor | None,
    encoded: Tensor | None = None,
) -> Tensor:
    """A network of the encoded points; a grid and its network can be one kernel."""
    if isinstance(encoding, HashGrid | FactoredGrid):
        return ops.encode_mlp(x, weights[TABLE], encoding.grid, network, activation, counts=counts, encoded=encoded)
    return ops.batched_mlp(encoding(x, weights, counts), network, activation, counts=counts)


Field = ImageField | SDFField | RadianceField


def kind_of(field: Field) -> Kind:
    """The kind of scenes that a field describes."""
    if isinstance(field, ImageField):
        return "images"
    if isinstance(field, SDFField):
        return "shapes"
    if isinstance(field, RadianceField):
        return "views"
    assert_never(field)
