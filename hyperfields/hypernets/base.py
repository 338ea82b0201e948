"""Generators: each is a frozen config whose `build` gives a module, codes `[s z]` -> `Weights`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from hyperfields.weights import WeightSpec


@dataclasses.dataclass(frozen=True)
class Generator:
    """Base of the configs of generators: frozen dataclasses that `ModelConfig.generator` takes.

    Your own needs `build` alone; the class attributes are for `compare` and for the presets.
    """

    knob: ClassVar[str] = ""  # name of the setting that scales its size
    rates: ClassVar[Mapping[str, float]] = {}  # kind -> times the base rate of networks; 1 where it is missing
    shares_networks: ClassVar[bool] = True  # False: a code is all weights of its scene

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The module: codes `[s z]` -> weights of `spec`.

        Args:
            share: of the initial variance of a weight that comes from the code, see `init.Head`.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")


def shares_networks(generator: Any) -> bool:
    """True if the scenes of a model with this generator share networks; also for configs without the base class."""
    return bool(getattr(generator, "shares_networks", True))


def rate_of(generator: Any, kind: str) -> float:
    """Factor on the base rate of networks for scenes of a kind."""
    return float(getattr(generator, "rates", {}).get(kind, 1.0))
