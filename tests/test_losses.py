"""Losses: what they are by hand, and zero where nothing is wrong."""

from __future__ import annotations

import pytest
import torch

from hyperfields.tasks.losses import BACKGROUND_OPACITY_L1, color_loss, distance_loss, pixel_loss


def test_color_loss_is_the_mean_square_of_the_channels() -> None:
    loss = color_loss(
        torch.tensor([[0.5, 0.0, 1.0], [0.2, 0.2, 0.2]]), torch.tensor([[0.0, 0.0, 1.0], [0.2, 0.2, 0.2]])
    )
    torch.testing.assert_close(loss, torch.tensor([0.25 / 3.0, 0.0]))


def test_distance_loss_is_the_error_at_the_surface_and_relative_far_from_it() -> None:
    target = torch.tensor([[0.0], [1.0], [-1.0]])
    loss = distance_loss(target + 0.01, target, width=0.02)
    torch.testing.assert_close(loss, torch.tensor([0.5, 0.01 / 1.02, 0.01 / 1.02]))


def test_pixel_loss_is_the_mean_of_what_is_seen_on_black_and_on_white() -> None:
    rgb, alpha = torch.tensor([[0.1, 0.4, 0.0]]), torch.tensor([0.5])
    target = torch.tensor([[0.6, 0.2, 1.0, 0.25]])
    errors = [
        (rgb + (1.0 - alpha) * background) - (target[:, :3] * 0.25 + 0.75 * background) for background in (0.0, 1.0)
    ]
    wanted = sum(float(error.square().mean()) for error in errors) / 2.0 + BACKGROUND_OPACITY_L1 * 0.25
    assert float(pixel_loss(rgb, alpha, target)) == pytest.approx(wanted)
    assert float(pixel_loss(target[:, :3] * 0.25, torch.tensor([0.25]), target)) == 0.0


def test_thin_haze_is_pulled_to_nothing_as_hard_as_thick_haze() -> None:
    for thickness in (1e-4, 1e-2):
        alpha = torch.tensor([thickness], requires_grad=True)
        loss = pixel_loss(alpha[:, None].expand(1, 3), alpha, torch.zeros(1, 4))  # white haze where nothing is
        (slope,) = torch.autograd.grad(loss.sum(), alpha)
        assert BACKGROUND_OPACITY_L1 <= float(slope) < BACKGROUND_OPACITY_L1 + 2.0 * thickness
