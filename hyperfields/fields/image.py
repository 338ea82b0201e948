"""Images: a colour for every point of the unit square."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from hyperfields import ops
from hyperfields.fields.common import ACTIVATION, FREQUENCY, encoded_mlp, encoded_mlp_error, mlp_spec, require_field
from hyperfields.fields.encodings import Encoding
from hyperfields.weights import Weights, WeightSpec, layers


@dataclasses.dataclass(frozen=True)
class ImageField:
    """(x, y) in [0, 1]^2 -> colour in about [0, 1] (sRGB, not clamped).

    pixels: height and width of the pictures that it was fitted to, where it was at the centres of their pixels alone; a
    fit fills it in. Larger pictures are then enlarged ones, see `rendering.enlarge`.
    """

    kind: ClassVar[str] = "images"

    encoding: Encoding
    hidden: tuple[int, ...] = (32, 32)
    channels: int = 3
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only
    pixels: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_field(self, (*self.hidden, self.channels))

    @property
    def dims(self) -> int:
        return 2

    @property
    def networks(self) -> tuple[tuple[int, ...], ...]:
        """Widths of its MLP."""
        return ((self.encoding.channels, *self.hidden, self.channels),)

    @property
    def spec(self) -> WeightSpec:
        network = mlp_spec("mlp", self.networks[0], self.activation, self.frequency)
        return {**self.encoding.spec, **network}

    def __call__(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 2]` -> `[s n c]`."""
        return encoded_mlp(self.encoding, weights, layers(weights, "mlp"), self.activation, x, counts) + 0.5

    def mean_error(self, weights: Weights, x: Tensor, target: Tensor, width: float) -> Tensor | None:
        """Mean error `[]` at x `[s n 2]`: squared, or relative to abs(target) + width; None where no op has it."""
        network = layers(weights, "mlp")
        return encoded_mlp_error(self.encoding, weights, network, self.activation, x, target, width, 0.5)
