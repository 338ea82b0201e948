"""Distributions over generated weights, as a setting of any generator: mean-field factors, or noise that it reads.

    factors:  w ~ N(W(z), sigma(z)^2),  sigma_n = exp(s_n + (A z)_layer);   penalty: KL(q | N(0, std^2))
    noise:    w = W([e, z]),  e ~ N(0, 1);   penalty: the same divergence of a Gaussian of the same moments, by layer

Sources: Blundell et al. 2015, "Weight uncertainty in neural networks", section 3 (factors, reparametrised; the prior is
what the spec would initialise with); Krueger et al. 2017, "Bayesian hypernetworks", section 3 (noise at the input). An
implicit distribution has no density to take a divergence of. Here it is that of its first two moments, estimated from
two draws, so a network that ignores its noise pays for that.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.hypernets.init import by_layer, std_of, stds
from hyperfields.weights import Weights, WeightSpec, flatten, split


@dataclasses.dataclass(frozen=True)
class Bayes:
    """kind: `none` generates weights, the others draw them while fitting; what a run shows without drawing is the mean.

    deviation: initial standard deviation of factors, in units of the one that the spec asks for. numbers: dimensions of
        the noise that is read.
    weight: of the divergence in the loss: about twice the variance of the noise of a sample over a scene's samples.
    """

    kind: Literal["none", "factors", "noise"] = "none"
    deviation: float = 0.05
    numbers: int = 8
    weight: float = 1e-7

    def __post_init__(self) -> None:
        if self.kind not in ("none", "factors", "noise"):
            raise InputError(f"bayes kind {self.kind!r}: wanted none, factors or noise")
        if not self.deviation > 0.0 or self.numbers < 1 or self.weight < 0.0:
            raise InputError(f"{self}: wanted a deviation above 0, at least 1 number and a weight of at least 0")

    def features(self, read: int) -> int:
        """Number of features that a generator reads, which without noise reads `read`."""
        return read + self.numbers if self.kind == "noise" else read

    def read(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """For `noise`, random numbers (0 without a generator), then the features `[s f]`, whose last may be a time."""
        if self.kind != "noise":
            return features
        shape, device = (len(features), self.numbers), features.device
        drawn = torch.zeros(shape, device=device)
        if generator is not None:
            drawn = torch.randn(shape, generator=generator, device=device)
        return torch.cat((drawn, features), 1)


class Factors(nn.Module):
    """Mean weights `[s ...]` and features `[s f]` -> drawn weights, and the divergence of the factors, mean over s."""

    number: Tensor

    def __init__(self, spec: WeightSpec, features: int, config: Bayes) -> None:
        super().__init__()
        self.spec = dict(spec)
        layers = by_layer(spec)
        self.log_deviation = nn.Parameter((config.deviation * stds(spec)).log())
        self.scale = nn.Linear(features, len(layers))
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)
        of = {name: number for number, layer in enumerate(layers.values()) for name in layer}
        numbers = torch.cat([torch.full((entry.numel,), of[name]) for name, entry in spec.items()])
        self.register_buffer("number", numbers, persistent=False)
        self.register_buffer("prior", stds(spec), persistent=False)

    prior: Tensor

    def forward(self, mean: Weights, features: Tensor, generator: torch.Generator) -> tuple[Weights, Tensor]:
        flat = flatten(mean, self.spec)
        log_deviation = self.log_deviation + self.scale(features)[:, self.number]
        noise = torch.randn(flat.shape, generator=generator, device=flat.device)
        divergence = moments_divergence(flat / self.prior, log_deviation - self.prior.log())
        return split(flat + log_deviation.exp() * noise, self.spec), divergence.sum(1).mean()


def moments_divergence(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """KL(N(mean, deviation^2) | N(0, 1)) of each number."""
    return 0.5 * (mean.square() + (2.0 * log_deviation).exp() - 1.0) - log_deviation


def implicit_divergence(first: Weights, second: Weights, spec: WeightSpec) -> Tensor:
    """Of weights `[s ...]` drawn twice for the same codes: the divergence of a Gaussian of their moments, by layer."""
    total = next(iter(first.values())).new_zeros(())
    for layer in by_layer(spec).values():
        scales = {name: std_of(entry) for name, entry in layer.items()}
        a = torch.cat([(first[name] / scale).flatten(1) for name, scale in scales.items()], 1)
        b = torch.cat([(second[name] / scale).flatten(1) for name, scale in scales.items()], 1)
        variance = (0.5 * (a - b).square()).mean() + 1e-8  # of two draws; the mean over a layer steadies it
        mean = (0.5 * (a + b)).square().mean() - 0.5 * variance
        total = total + a.shape[1] * 0.5 * (mean + variance - 1.0 - variance.log())
    return total
