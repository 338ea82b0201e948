"""A Gaussian for each scene instead of a code: the evidence bound of a variational autoencoder without its encoder.

Sources: Kingma, Welling 2014, "Auto-encoding variational Bayes", equation 3; a table of parameters as in Bojanowski et
al. 2018, "Optimizing the latent space of generative networks".
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from hyperfields.codes.source import Codes, CodesLoss, CodeSource, FitContext
from hyperfields.codes.table import LatentTable, gaussian_kl
from hyperfields.errors import InputError


@dataclasses.dataclass(frozen=True)
class Variational(Codes):
    """weight: of the divergence in the loss; more makes better draws and worse fitted scenes (NUMBERS.md)."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight < 0.0:
            raise InputError(f"{self}: wanted a weight of at least 0")

    def build(self, context: FitContext) -> CodeSource:
        return VariationalCodes(len(context.data.names), context.latent_size, self.weight)


class VariationalCodes(CodeSource):
    """N(mean, std^2) for each scene, drawn from in every step and pulled towards N(0, 1).

    Neighbouring codes then mean neighbouring scenes, and draws from N(0, 1) are new scenes.
    """

    prior = False

    def __init__(self, scenes: int, size: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.mean = LatentTable(scenes, size, sparse=True)
        self.log_std = LatentTable(scenes, size, sparse=True)
        nn.init.constant_(self.log_std.codes, -2.0)

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, Tensor]:
        mean, std = self.mean(scenes), self.log_std(scenes).exp()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + std * noise, self.weight * gaussian_kl(mean, std).mean()

    def final_codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> Tensor:
        return self.mean.codes.detach()[scenes]

    def tables(self) -> list[nn.Parameter]:
        return [self.mean.codes, self.log_std.codes]
