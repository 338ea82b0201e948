"""Shapes: the signed distance of every point of the scene box."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from hyperfields import ops
from hyperfields.fields.common import ACTIVATION, FREQUENCY, encoded_mlp, encoded_mlp_error, mlp_spec, require_field
from hyperfields.fields.encodings import Encoding
from hyperfields.weights import Weights, WeightSpec, layers


@dataclasses.dataclass(frozen=True)
class SDFField:
    """A point of the scene box [-1, 1]^3 -> signed distance in scene units, negative inside."""

    kind: ClassVar[str] = "shapes"

    encoding: Encoding
    hidden: tuple[int, ...] = (32, 32)
    activation: ops.Activation = ACTIVATION
    frequency: float = FREQUENCY  # sine only

    def __post_init__(self) -> None:
        require_field(self, self.hidden)

    @property
    def dims(self) -> int:
        return 3

    @property
    def networks(self) -> tuple[tuple[int, ...], ...]:
        """Widths of its MLP."""
        return ((self.encoding.channels, *self.hidden, 1),)

    @property
    def spec(self) -> WeightSpec:
        network = mlp_spec("mlp", self.networks[0], self.activation, self.frequency)
        return {**self.encoding.spec, **network}

    def __call__(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x `[s n 3]` -> `[s n 1]`."""
        network = layers(weights, "mlp")
        return encoded_mlp(self.encoding, weights, network, self.activation, x * 0.5 + 0.5, counts)

    def mean_error(self, weights: Weights, x: Tensor, target: Tensor, width: float) -> Tensor | None:
        """Mean error `[]` at x `[s n 3]`: squared, or relative to abs(target) + width; None where no op has it."""
        network = layers(weights, "mlp")
        return encoded_mlp_error(self.encoding, weights, network, self.activation, (x * 0.5).add_(0.5), target, width)
