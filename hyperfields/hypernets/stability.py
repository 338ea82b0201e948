"""Settings that keep a generator stable, whatever it is. They are orthogonal: each acts at a place of its own.

    z -> [latent] -> generator, its linear maps [init, share, spectral] -> weights -> [bound, normalize] -> field

Sources: hyperfan initialisation, Chang, Flaxman, Lipson 2020, "Principled weight initialization for hypernetworks";
base and change, inputs of constant length, Ortiz, Guttag, Dalca 2023, "Magnitude invariant parametrizations improve
hypernetwork learning"; Miyato et al. 2018, "Spectral normalization for generative adversarial networks"; Salimans,
Kingma 2016, "Weight normalization".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from hyperfields.errors import InputError
from hyperfields.hypernets.init import LATENT_SHARE, std_of
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class Stability:
    """Settings that bound the generated weights. The defaults cost nothing; 0 switches a setting off.

    init: `hyperfan` gives generated weights the variance that the spec asks for; `plain` leaves each linear map as
        torch initialises it and is there to compare with.
    share: of the initial variance that comes from the latent; the rest is a base that all scenes share. 1 has no base.
    latent: `invariant` hands on cos and sin of the code, whose length is the same for all codes.
    spectral: the largest singular value of every linear map stays below that many times its initial one.
    bound: a generated weight stays within that many times the standard deviation of its layer, by a tanh.
    normalize: rows of generated matrices keep the length that they are initialised with. It would undo the scales of
        `Modulation`, which refuses it.
    """

    init: Literal["hyperfan", "plain"] = "hyperfan"
    share: float = LATENT_SHARE
    latent: Literal["plain", "invariant"] = "plain"
    spectral: float = 0.0
    bound: float = 0.0
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.init not in ("hyperfan", "plain"):
            raise InputError(f"stability init {self.init!r}: wanted hyperfan or plain")
        if self.latent not in ("plain", "invariant"):
            raise InputError(f"stability latent {self.latent!r}: wanted plain or invariant")
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"stability share {self.share}: wanted a number above 0 and at most 1")
        if self.spectral and self.spectral < 1.0:
            raise InputError(f"stability spectral {self.spectral}: wanted at least 1, or 0 for no limit")
        if self.bound and self.bound < 1.0:
            raise InputError(f"stability bound {self.bound}: wanted at least 1, or 0 for none")

    def features(self, latent_size: int) -> int:
        """Number of features that a generator reads."""
        return 2 * latent_size if self.latent == "invariant" else latent_size

    def read(self, codes: Tensor) -> Tensor:
        """Codes `[s z]` -> what the generator reads, `[s features]`, mean square 1 (codes are standard normal)."""
        if self.latent == "plain":
            return codes
        angle = 0.5 * math.pi * codes
        return math.sqrt(2.0) * torch.cat((angle.cos(), angle.sin()), 1)

    def prepare(self, generator: nn.Module) -> None:
        """Initialise and constrain the linear maps of a fresh generator."""
        for module in [module for module in generator.modules() if isinstance(module, nn.Linear)]:
            if self.init == "plain":
                nn.Linear.reset_parameters(module)
            if self.spectral:
                register_parametrization(module, "weight", SpectralLimit(module.weight, self.spectral))

    def constrain(self, weights: Weights, spec: WeightSpec) -> Weights:
        """Keep generated weights in bounds."""
        if not self.bound and not self.normalize:
            return weights
        return {name: self._constrain(value, name, spec) for name, value in weights.items()}

    def _constrain(self, value: Tensor, name: str, spec: WeightSpec) -> Tensor:
        entry = spec[name]
        if self.bound:
            limit = self.bound * std_of(entry)
            value = limit * torch.tanh(value / limit)
        if self.normalize and value.dim() == 3:
            length = std_of(entry) * math.sqrt(entry.shape[1])
            value = length * nn.functional.normalize(value, dim=2)
        return value


class SpectralLimit(nn.Module):
    """A matrix `[o i]` -> the same, scaled down when its largest singular value is above `factor` times the first one.

    The singular value is followed by one step of the power iteration a call while training, as in Miyato et al. 2018,
    algorithm 1; its vectors get no gradient.
    """

    left: Tensor
    limit: Tensor

    def __init__(self, weight: Tensor, factor: float) -> None:
        super().__init__()
        with torch.no_grad():
            left = nn.functional.normalize(torch.randn(weight.shape[0]), dim=0)
            self.register_buffer("left", left)
            for _ in range(15):
                self._iterate(weight)
            self.register_buffer("limit", factor * self._value(weight))

    def _iterate(self, weight: Tensor) -> None:
        right = nn.functional.normalize(weight.mT @ self.left, dim=0)
        self.left.copy_(nn.functional.normalize(weight @ right, dim=0))

    def _value(self, weight: Tensor) -> Tensor:
        """The largest singular value, from the left vector."""
        value: Tensor = torch.linalg.vector_norm(weight.mT @ self.left)
        return value

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self._iterate(weight)
        factor: Tensor = (self.limit / self._value(weight)).clamp(max=1.0)
        return weight * factor
