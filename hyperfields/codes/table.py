"""Latent codes: one a scene, learned together with the networks (auto-decoder), under a Gaussian prior.

Other ways to come by codes are a `CodeSource`: drawn from a distribution a scene (here), read off observations
(`encoder`), found by a few steps (`meta`), given the time (`sequences`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class LatentTable(nn.Module):
    """A code `[z]` for each scene, drawn from N(0, 1) at the start.

    Only the rows of a batch get a gradient (a sparse one), so a step costs the same for a hundred scenes and for a
    hundred thousand. Source: Park et al. 2019, "DeepSDF", section 4.
    """

    def __init__(self, scenes: int, size: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(scenes, size))

    def forward(self, scenes: Tensor) -> Tensor:
        """scenes `[s]` int64 -> codes `[s z]`."""
        return nn.functional.embedding(scenes, self.codes, sparse=True)


def gaussian_prior(codes: Tensor) -> Tensor:
    """Negative log density under N(0, 1), without its constant: `[s z]` -> `[s]`."""
    return 0.5 * codes.square().sum(-1)


def gaussian_kl(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(mean, deviation^2) | N(0, 1)), summed over the numbers of a code: `[s z]` -> `[s]`."""
    return 0.5 * (mean.square() + deviation.square() - 1.0).sum(1) - deviation.log().sum(1)


class CodeSource(nn.Module):
    """Where the codes of a fit come from, when they are not the rows of a table. `fit.Fit` takes one."""

    name: str  # in the config of a run
    prior = True  # whether the recipe's Gaussian prior is put on the codes

    def settings(self) -> dict[str, Any]:
        """What the config of a run says about it, for JSON."""
        return {"name": self.name}

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(codes `[s z]` of scenes by number `[s]`, what is added to the loss `[]`) in a step.

        Args:
            loss: codes -> the sum of these scenes' losses on fresh samples, for those that adapt codes.
        """
        raise NotImplementedError

    def settled(self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Codes `[s z]` that are kept at the end."""
        return self.codes(scenes, generator, loss)[0].detach()

    def tables(self) -> list[nn.Parameter]:
        """Parameters with a row a scene, which get sparse gradients."""
        return []

    def networks(self) -> list[nn.Parameter]:
        """All other parameters."""
        rows = {id(parameter) for parameter in self.tables()}
        return [parameter for parameter in self.parameters() if id(parameter) not in rows]


DIVERGENCE = 1e-4  # its weight in the loss of a `VariationalTable`


class VariationalTable(CodeSource):
    """A Gaussian for each scene, N(mean, deviation^2), drawn from in every step and drawn together by N(0, 1).

    The evidence bound of a variational autoencoder without its encoder (Kingma, Welling 2014, "Auto-encoding
    variational Bayes", equation 3; a table of parameters as in Bojanowski et al. 2018, "Optimizing the latent space of
    generative networks"). Neighbouring codes then mean neighbouring scenes, and draws from N(0, 1) are new scenes.

    weight: of the divergence; more makes better draws and worse fitted scenes (NUMBERS.md).
    """

    name = "vae"
    prior = False

    def __init__(self, scenes: int, size: int, weight: float = DIVERGENCE) -> None:
        super().__init__()
        self.weight = weight
        self.mean, self.log_deviation = LatentTable(scenes, size), LatentTable(scenes, size)
        nn.init.constant_(self.log_deviation.codes, -2.0)

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "weight": self.weight}

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        mean, deviation = self.mean(scenes), self.log_deviation(scenes).exp()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + deviation * noise, self.weight * gaussian_kl(mean, deviation).mean()

    def settled(self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]) -> Tensor:
        return self.mean.codes.detach()[scenes]

    def tables(self) -> list[nn.Parameter]:
        return [self.mean.codes, self.log_deviation.codes]


def interpolate(codes: Tensor, frames: int, mode: str = "lerp") -> Tensor:
    """A path through the codes `[c z]` -> `[frames z]`, evenly spaced, ends included.

    `lerp` is straight; `slerp` turns directions and interpolates lengths (Shoemake 1985).

    Raises:
        ValueError: fewer than two codes or frames, or an unknown mode.
    """
    if codes.shape[0] < 2 or frames < 2:
        raise ValueError(f"interpolate: got {codes.shape[0]} codes and {frames} frames, wanted at least 2 of each")
    if mode not in ("lerp", "slerp"):
        raise ValueError(f"interpolate mode: got {mode!r}, wanted 'lerp' or 'slerp'")
    place = torch.linspace(0.0, codes.shape[0] - 1.0, frames, device=codes.device)
    first = place.long().clamp(max=codes.shape[0] - 2)
    t = (place - first)[:, None].to(codes)
    a, b = codes[first], codes[first + 1]
    if mode == "lerp":
        return a + t * (b - a)
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / length_a.clamp(min=1e-12), b / length_b.clamp(min=1e-12)
    angle = torch.acos((unit_a * unit_b).sum(-1, keepdim=True).clamp(-1.0, 1.0))
    sine = torch.sin(angle)
    turned = (torch.sin((1.0 - t) * angle) * unit_a + torch.sin(t * angle) * unit_b) / sine.clamp(min=1e-6)
    direction: Tensor = torch.where(sine > 1e-6, turned, unit_a + t * (unit_b - unit_a))
    path: Tensor = direction * (length_a + t * (length_b - length_a))
    return path
