"""Losses: of a prediction and its batch, unreduced errors.

A loss of your own is any such callable, given as `fit(..., loss=mine)`; as a frozen dataclass its settings are saved in
the run.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from hyperfields.data import Pixels, Points
from hyperfields.errors import InputError


class RenderedColors(Protocol):
    """Rendered rays as a loss gets them: `rgb` premultiplied `[s r 3]`, `alpha` `[s r]`, and their spread."""

    @property
    def rgb(self) -> Tensor: ...

    @property
    def alpha(self) -> Tensor: ...

    @property
    def distortion(self) -> Tensor | None: ...  # [s r], for losses whose `distortion` is above 0


def _require_one_each(answer: Tensor, batch: Points) -> None:
    """InputError where torch would spread targets over answers of another shape, in silence."""
    if batch.target.shape != answer.shape:
        raise InputError(
            f"batch.target: {list(batch.target.shape)} came, wanted a value for each of the field's: "
            f"{list(answer.shape)}"
        )


@dataclasses.dataclass(frozen=True)
class ColorLoss:
    """Squared error of colours."""

    def __call__(self, color: Tensor, batch: Points) -> Tensor:
        """Errors `[s n]` of colours `[s n c]`."""
        _require_one_each(color, batch)
        return (color - batch.target).square().mean(-1)


@dataclasses.dataclass(frozen=True)
class DistanceLoss:
    """Error of signed distances, relative beyond about `width` (scene units) from the surface.

    Capacity goes to the surface, and far from it the field still is a distance, so rays may step by it.
    Source: the relative error of Mueller et al. 2022, section 4, with an offset.
    """

    width: float = 0.02

    def __call__(self, distance: Tensor, batch: Points) -> Tensor:
        """Errors `[s n]` of distances `[s n 1]`."""
        _require_one_each(distance, batch)
        target = batch.target
        return ((distance - target).abs() / (target.abs() + self.width)).squeeze(-1)


GUESSED = 5.0  # weight of the opacity of pixels that show something, where alpha is a guess
OTHER = 0.05  # difference of a channel from which a colour is another than that behind


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """Squared error on a black and on a white background, averaged (right on both is right on any).

    Where alpha is a guess only what is seen over `Pixels.behind` is known, and the error is that over it. Dark things
    before black then ask for hardly any density, and a fit could lose them: the opacity of pixels that have another
    colour than that behind weighs `GUESSED` times as much.

    background_opacity_l1: weight of the absolute error of opacity, whose square does not see thin haze in front of the
    background. distortion: weight of the spread of what a ray sees (`ops.distortion`), which clears fog.
    """

    background_opacity_l1: float = 1e-2
    distortion: float = 0.0

    def __call__(self, rendered: RenderedColors, batch: Pixels) -> Tensor:
        """Errors `[s r]` of rendered rays against straight colours `[s r 4]`."""
        target = batch.rgba
        truth = target[..., :3] * target[..., 3:]
        on_black = rendered.rgb - truth
        denser = rendered.alpha[..., None] - target[..., 3:]
        opacity = (rendered.alpha - target[..., 3]).abs()
        error = 0.5 * (on_black.square().mean(-1) + (on_black - denser).square().mean(-1))
        if batch.behind is not None:
            known, behind = batch.behind.isnan().any(-1), batch.behind.nan_to_num()
            error = torch.where(known, error, (on_black - denser * behind).square().mean(-1))
            there = (target[..., 3] == 1.0) & ((target[..., :3] - behind).abs().amax(-1) > OTHER) & ~known
            opacity = torch.where(there, GUESSED * opacity, opacity)
        error = error + self.background_opacity_l1 * opacity
        return error if rendered.distortion is None else error + self.distortion * rendered.distortion


LOSSES = (ColorLoss, DistanceLoss, PixelLoss)
