"""Losses: plain tensors in, unreduced values out."""

from __future__ import annotations

from torch import Tensor


def color_loss(color: Tensor, target: Tensor) -> Tensor:
    """Squared error, `[... c]` -> `[...]`."""
    return (color - target).square().mean(-1)


def distance_loss(distance: Tensor, target: Tensor, width: float = 0.02) -> Tensor:
    """Error of signed distances `[... 1]` -> `[...]`, relative beyond about `width` (scene units) from the surface.

    Capacity goes to the surface, and far from it the field still is a distance, so rays may step by it.
    Source: the relative error of Mueller et al. 2022, section 4, with an offset.
    """
    return ((distance - target).abs() / (target.abs() + width)).squeeze(-1)


BACKGROUND_OPACITY_L1 = 1e-2  # weight of the absolute error of opacity: its square does not see thin haze


def pixel_loss(
    rgb: Tensor, alpha: Tensor, target: Tensor, background_opacity_l1: float = BACKGROUND_OPACITY_L1
) -> Tensor:
    """Squared error on a black and on a white background, averaged (right on both is right on any), and haze.

    Args:
        rgb: premultiplied colours `[... 3]`.
        alpha: `[...]`.
        target: straight `[... 4]`.
        background_opacity_l1: weight of the absolute error of opacity.
    """
    truth = target[..., :3] * target[..., 3:]
    on_black = rgb - truth
    on_white = on_black - (alpha[..., None] - target[..., 3:])
    haze = (alpha - target[..., 3]).abs()
    return 0.5 * (on_black.square().mean(-1) + on_white.square().mean(-1)) + background_opacity_l1 * haze
