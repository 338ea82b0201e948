"""Losses: what they are by hand, and zero where nothing is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import Pixels, Points
from hyperfields.errors import InputError
from hyperfields.rendering.base import Rendered
from hyperfields.tasks.losses import GUESSED, ColorLoss, DistanceLoss, PixelLoss

OPACITY = PixelLoss().background_opacity_l1


def points(target: Tensor) -> Points:
    return Points(torch.zeros(*target.shape[:-1], 2), target)


def pixels(rgba: Tensor) -> Pixels:
    nowhere = torch.zeros(*rgba.shape[:-1], 3)
    return Pixels(Rays(nowhere, nowhere), rgba)


def rendered(rgb: Tensor, alpha: Tensor) -> Rendered:
    return Rendered(rgb, alpha, torch.zeros_like(alpha))


def test_color_loss_is_the_mean_square_of_the_channels() -> None:
    color = torch.tensor([[[0.5, 0.0, 1.0], [0.2, 0.2, 0.2]]])
    target = torch.tensor([[[0.0, 0.0, 1.0], [0.2, 0.2, 0.2]]])
    torch.testing.assert_close(ColorLoss()(color, points(target)), torch.tensor([[0.25 / 3.0, 0.0]]))


def test_distance_loss_is_the_error_at_the_surface_and_relative_far_from_it() -> None:
    target = torch.tensor([[[0.0], [1.0], [-1.0]]])
    loss = DistanceLoss(width=0.02)(target + 0.01, points(target))
    torch.testing.assert_close(loss, torch.tensor([[0.5, 0.01 / 1.02, 0.01 / 1.02]]))


@pytest.mark.parametrize("loss", [ColorLoss(), DistanceLoss()])
def test_targets_of_another_shape_are_not_spread(loss: ColorLoss | DistanceLoss) -> None:
    answer = torch.zeros(2, 2, 3)
    for shape in ((2, 2, 1), (2, 2), (2, 1, 3), (2, 2, 4)):
        with pytest.raises(
            InputError, match=r"batch\.target: .* came, wanted a value for each of the field's: \[2, 2, 3\]"
        ):
            loss(answer, points(torch.zeros(shape)))


def test_pixel_loss_is_the_mean_of_what_is_seen_on_black_and_on_white() -> None:
    rgb, alpha = torch.tensor([[[0.1, 0.4, 0.0]]]), torch.tensor([[0.5]])
    target = torch.tensor([[[0.6, 0.2, 1.0, 0.25]]])
    errors = [
        (rgb + (1.0 - alpha) * background) - (target[..., :3] * 0.25 + 0.75 * background) for background in (0.0, 1.0)
    ]
    expected = sum(float(error.square().mean()) for error in errors) / 2.0 + OPACITY * 0.25
    assert float(PixelLoss()(rendered(rgb, alpha), pixels(target))) == pytest.approx(expected)
    exact = rendered(target[..., :3] * 0.25, torch.tensor([[0.25]]))
    assert float(PixelLoss()(exact, pixels(target))) == 0.0


def test_thin_haze_is_pulled_to_nothing_as_hard_as_thick_haze() -> None:
    for thickness in (1e-4, 1e-2):
        alpha = torch.tensor([[thickness]], requires_grad=True)
        white = rendered(alpha[..., None].expand(1, 1, 3), alpha)  # haze where nothing is
        (slope,) = torch.autograd.grad(PixelLoss()(white, pixels(torch.zeros(1, 1, 4))).sum(), alpha)
        assert OPACITY <= float(slope) < OPACITY + 2.0 * thickness


def test_of_a_guessed_alpha_what_is_seen_over_its_background_counts() -> None:
    behind = torch.tensor([[[0.2, 0.6, 0.4]], [[torch.nan] * 3]])
    target = torch.tensor([[[0.6, 0.2, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 1.0]]]).expand(2, 3, 4)
    rgb, alpha = torch.full((2, 3, 3), 0.3, requires_grad=True), torch.full((2, 3), 0.75)
    drawn = pixels(target)._replace(behind=behind)
    errors = PixelLoss(background_opacity_l1=0.0)(rendered(rgb, alpha), drawn)
    known = PixelLoss(background_opacity_l1=0.0)(rendered(rgb, alpha), pixels(target))
    laid = target[0, :, :3] * target[0, :, 3:] + (1.0 - target[0, :, 3:]) * behind[0]
    seen = rgb[0] + 0.25 * behind[0]
    torch.testing.assert_close(errors[0], (seen - laid).square().mean(-1))
    assert torch.equal(errors[1], known[1])
    (slope,) = torch.autograd.grad(errors.sum(), rgb)
    assert bool(slope.isfinite().all())


def test_of_a_guessed_alpha_what_shows_something_asks_for_density() -> None:
    """Dark things before black: over the background they are next to nothing, and a fit could lose them."""
    behind = torch.tensor([[[0.0, 0.0, 0.0]], [[torch.nan] * 3]])
    rgba = torch.tensor([[[0.1, 0.0, 0.0, 1.0], [0.01, 0.0, 0.0, 1.0], [0.1, 0.0, 0.0, 0.5], [0.0] * 4]]).expand(
        2, 4, 4
    )
    alpha = torch.full((2, 4), 0.25, requires_grad=True)
    errors = PixelLoss()(rendered(torch.zeros(2, 4, 3), alpha), pixels(rgba)._replace(behind=behind))
    (slope,) = torch.autograd.grad(errors[0].sum(), alpha)
    torch.testing.assert_close(slope[0], OPACITY * torch.tensor([-GUESSED, -1.0, -1.0, 1.0]))
    assert torch.equal(errors[1], PixelLoss()(rendered(torch.zeros(2, 4, 3), alpha), pixels(rgba))[1])
