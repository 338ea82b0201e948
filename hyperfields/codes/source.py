"""Sources of codes: where the codes of a fit come from, when they are not the rows of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hyperfields.data import SceneDataset
from hyperfields.weights import WeightSpec

CodesLoss = Callable[[Tensor], Tensor]  # codes `[s z]` -> the sum of these scenes' losses on fresh samples


class FitContext(NamedTuple):
    """Facts about a fit that sources of codes may use."""

    data: SceneDataset
    task: Any  # of the data's kind, see `tasks.Task`
    latent_size: int
    spec: WeightSpec  # of the field


class CodeSource(nn.Module):
    """Codes of scenes, made anew in every step. Its parameters are fitted with those of the model."""

    prior: bool = True  # the Gaussian prior of `TrainConfig` is added to the loss

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, Tensor | None]:
        """(codes `[s z]` of scenes by index `[s]`, a penalty `[]` to add to the loss or None) in a step.

        Args:
            generator: source of all random numbers, on the device of the fit.
            loss: for sources that adapt codes.
        """
        raise NotImplementedError(f"{type(self).__name__}.codes")

    def final_codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> Tensor:
        """Codes `[s z]` that the run keeps at the end."""
        return self.codes(scenes, generator, loss)[0].detach()

    def tables(self) -> list[nn.Parameter]:
        """Parameters with a row a scene, which get sparse gradients."""
        return []

    def networks(self) -> list[nn.Parameter]:
        """All other parameters."""
        rows = {id(parameter) for parameter in self.tables()}
        return [parameter for parameter in self.parameters() if id(parameter) not in rows]


@dataclasses.dataclass(frozen=True)
class Codes:
    """Base of the configs that `fit(codes=...)` takes: frozen dataclasses, saved in the run.

    Your own needs `build` alone.
    """

    at_once: ClassVar[bool] = False  # `infer` computes codes of new scenes with it, without a fit

    def build(self, context: FitContext) -> CodeSource:
        """Source of codes for the scenes of `context.data`."""
        raise NotImplementedError(f"{type(self).__name__}.build")

    def adapt_recipe(self, recipe: Any) -> Any:
        """The recipe of a preset (`tasks.TrainConfig`), as a fit with these codes wants it."""
        return recipe
