"""Codes by a few gradient steps from a common start; the networks learn to make that work.

    z_0 = 0,   z_{k+1} = z_k - rates * d loss(z_k) / d z,   networks and rates minimise loss(z_K) on fresh samples

Only the code is adapted (Zintgraf et al. 2019, "Fast context adaptation via meta-learning"), with a learned rate for
each of its dimensions (Li et al. 2017, "Meta-SGD"; Dupont et al. 2022, "functa", section 3.2). Second order
differentiates through the inner steps, first order takes their gradients as given (Finn et al. 2017, section 5.2).

The compiled kernels have no second derivative, and torch refuses to take one. The inner steps of second order therefore
run on the reference, which takes several times as long; the loss after them runs on the kernels again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.codes.source import Codes, CodesLoss, CodeSource, FitContext
from hyperfields.errors import InputError


@dataclasses.dataclass(frozen=True)
class CAVIA(Codes):
    """steps: inner ones. order: 1 or 2, see above. rate: of the inner steps at first; 0 takes that of the task.

    longest: a step moves a code by no more than this, root mean square over its dimensions.
    slower: factor on the rates of grids and networks: with the rates of a table, codes overshoot, networks and codes
        grow together, and the loss becomes infinite.
    """

    at_once: ClassVar[bool] = True

    steps: int = 3
    order: Literal[1, 2] = 1
    rate: float = 0.0
    longest: float = 0.3
    slower: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 1 or self.order not in (1, 2) or self.rate < 0.0 or not self.longest > 0.0:
            raise InputError(
                f"{self}: wanted at least 1 step, order 1 or 2, a rate of at least 0 and a longest step above 0"
            )

    def build(self, context: FitContext) -> CodeSource:
        rate = self.rate or context.task.inner_rate
        return CAVIACodes(context.latent_size, dataclasses.replace(self, rate=rate))

    def adapt_recipe(self, recipe: Any) -> Any:
        return dataclasses.replace(
            recipe, rate_networks=self.slower * recipe.rate_networks, rate_grid=self.slower * recipe.rate_grid
        )


class CAVIACodes(CodeSource):
    """Codes after some inner steps from 0; the rates `[z]` are learned as their logarithms."""

    prior = False

    def __init__(self, latent_size: int, config: CAVIA) -> None:
        super().__init__()
        self.config = config
        self.log_rates = nn.Parameter(torch.zeros(latent_size))

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, None]:
        rates = self.config.rate * self.log_rates.exp()
        start = torch.zeros(len(scenes), len(rates), device=rates.device)
        return adapt(loss, start, rates, self.config.steps, self.config.order, self.config.longest), None


def adapt(
    loss: CodesLoss, codes: Tensor, rates: Tensor, steps: int, order: int, longest: float = CAVIA.longest
) -> Tensor:
    """Codes `[s z]` after some inner steps.

    Args:
        loss: codes -> the sum of the scenes' losses, so that scenes do not see each other.
        rates: `[z]`.

    Differentiable in the rates; with order 2 in all that the loss depends on.
    """
    if not codes.requires_grad:
        codes = codes.detach().requires_grad_()
    with ops.twice_differentiable() if order == 2 else contextlib.nullcontext():
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(loss(codes), codes, create_graph=order == 2)
            step = rates * gradient
            length = step.square().mean(1, keepdim=True).add(1e-24).sqrt()
            codes = codes - step * (longest / length).clamp(max=1.0)
    return codes
