"""Latent codes as a table: one a scene, learned together with the networks (auto-decoder), under a Gaussian prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentTable(nn.Module):
    """A code `[z]` for each scene, drawn from N(0, 1) at the start.

    sparse: only the rows of a batch get a gradient, so a step costs the same for a hundred scenes and for a hundred
        thousand; the optimiser has to take sparse gradients. Otherwise gradients are dense, for any optimiser.
    start: codes `[scenes size]` to start from, instead of drawn ones.

    Source: Park et al. 2019, "DeepSDF", section 4.
    """

    def __init__(self, scenes: int, size: int, *, sparse: bool = False, start: Tensor | None = None) -> None:
        super().__init__()
        self.sparse = sparse
        self.codes = nn.Parameter(torch.randn(scenes, size) if start is None else start.detach().clone())

    def forward(self, scenes: Tensor) -> Tensor:
        """Codes `[s z]` of scenes by index `[s]` int64."""
        return nn.functional.embedding(scenes, self.codes, sparse=self.sparse)


def gaussian_prior(codes: Tensor) -> Tensor:
    """Negative log density under N(0, 1), without its constant: `[s z]` -> `[s]`."""
    return 0.5 * codes.square().sum(-1)


def gaussian_kl(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(mean, std^2) | N(0, 1)), std = `deviation`, summed over the dimensions of a code: `[s z]` -> `[s]`."""
    return 0.5 * (mean.square() + deviation.square() - 1.0).sum(1) - deviation.log().sum(1)
