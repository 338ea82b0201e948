"""Losses: plain tensors in, unreduced values out. Those that take (prediction, batch) are the tasks' own.

A loss of your own is a function like `image_loss`, given as `loss=`; a run records it by its name.
"""

from __future__ import annotations

from torch import Tensor

from hyperfields.data import Pixels, Points
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.static_shapes import StaticRendered


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


def image_loss(color: Tensor, batch: Points) -> Tensor:
    """Colours `[s n c]` against those of the pixels -> `[s n]`."""
    return color_loss(color, batch.target)


def shape_loss(distance: Tensor, batch: Points) -> Tensor:
    """Signed distances `[s n 1]` against those of the mesh -> `[s n]`."""
    return distance_loss(distance, batch.target)


def radiance_loss(rendered: Rendered | StaticRendered, batch: Pixels) -> Tensor:
    """Rendered rays against the pixels of photographs -> `[s r]`."""
    return pixel_loss(rendered.rgb, rendered.alpha, batch.rgba)


LOSSES = (image_loss, shape_loss, radiance_loss)  # that a run may name
