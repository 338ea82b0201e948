"""The first of three files of a kind of one's own: the field. A moment in [0, 1] -> pressure."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from hyperfields import Encoding, Fourier
from hyperfields.ops import batched_mlp
from hyperfields.weights import Weights, WeightSpec, layers, linear_spec


@dataclasses.dataclass(frozen=True)
class AudioField:
    """Moments `[s n 1]` in [0, 1] -> pressure `[s n 1]`."""

    kind: ClassVar[str] = "audio"

    encoding: Encoding = dataclasses.field(default_factory=lambda: Fourier(1, 5))
    hidden: tuple[int, ...] = (24, 24)

    @property
    def dims(self) -> int:
        return 1

    @property
    def spec(self) -> WeightSpec:
        return {**self.encoding.spec, **linear_spec("mlp", (self.encoding.channels, *self.hidden, 1))}

    def __call__(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        return batched_mlp(self.encoding(x, weights, counts), layers(weights, "mlp"), "leaky_relu", counts=counts)
