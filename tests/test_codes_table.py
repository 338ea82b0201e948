"""Latent codes: a table, its gradients, a prior, paths."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfields.codes import interpolate
from hyperfields.codes.table import LatentTable, gaussian_prior


def test_codes_start_as_a_standard_normal() -> None:
    codes = LatentTable(500, 64).codes.detach()
    assert codes.shape == (500, 64)
    assert float(codes.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(codes.std()) == pytest.approx(1.0, abs=0.02)


def test_a_batch_gets_the_codes_of_its_scenes() -> None:
    table = LatentTable(5, 3)
    assert torch.equal(table(torch.tensor([4, 0, 4])), table.codes[[4, 0, 4]])


def test_only_the_scenes_of_a_batch_get_a_gradient_and_a_sparse_one() -> None:
    table = LatentTable(1000, 3, sparse=True)
    table(torch.tensor([7, 999, 7])).backward(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [10.0, 20.0, 30.0]]))
    gradient = table.codes.grad
    assert gradient is not None
    assert gradient.is_sparse
    gradient = gradient.coalesce()
    assert gradient.indices().tolist() == [[7, 999]]
    assert gradient.values().tolist() == [[11.0, 22.0, 33.0], [4.0, 5.0, 6.0]]


def test_by_default_any_optimiser_takes_its_gradients() -> None:
    table = LatentTable(6, 3)
    optimiser = torch.optim.AdamW(table.parameters(), lr=0.1)
    gaussian_prior(table(torch.tensor([1, 4]))).sum().backward()
    assert table.codes.grad is not None
    assert not table.codes.grad.is_sparse
    optimiser.step()


def test_a_table_starts_where_it_is_told_to_and_does_not_share_memory() -> None:
    start = torch.randn(2, 3)
    table = LatentTable(2, 3, start=start)
    assert torch.equal(table.codes, start)
    start.zero_()
    assert not torch.equal(table.codes, start)


def test_a_sparse_step_leaves_the_other_codes_alone() -> None:
    table = LatentTable(6, 3, sparse=True)
    before = table.codes.detach().clone()
    optimiser = torch.optim.SparseAdam([table.codes], lr=0.1)
    gaussian_prior(table(torch.tensor([1, 4]))).sum().backward()
    optimiser.step()
    changed = (table.codes != before).any(1)
    assert changed.tolist() == [False, True, False, False, True, False]


def test_the_prior_is_the_negative_log_density_without_its_constant() -> None:
    codes = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, -1.0]])
    assert gaussian_prior(codes).tolist() == [0.0, 12.5, 1.0]
    normal = -torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(-1)
    torch.testing.assert_close(gaussian_prior(codes), normal - math.log(2 * math.pi))


@pytest.mark.parametrize("mode", ["lerp", "slerp", "smooth"])
@pytest.mark.parametrize("frames", [2, 5, 9, 33])
def test_a_path_goes_through_every_code(mode: str, frames: int) -> None:
    codes = torch.randn(3, 16, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5]])
    path = interpolate(codes, frames, mode)
    assert path.shape == (frames, 16)
    assert path.dtype == torch.float64
    torch.testing.assert_close(path[0], codes[0])
    torch.testing.assert_close(path[-1], codes[2])
    if frames % 2:
        torch.testing.assert_close(path[frames // 2], codes[1])


def test_lerp_is_straight_and_even() -> None:
    codes = torch.tensor([[0.0, 0.0], [4.0, 8.0]])
    assert interpolate(codes, 5).tolist() == [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, 8.0]]


def test_slerp_turns_evenly_and_changes_the_length_evenly() -> None:
    path = interpolate(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), 4, "slerp")
    wanted = [
        [length * math.cos(angle), length * math.sin(angle)]
        for length, angle in zip((2, 8 / 3, 10 / 3, 4), (0, math.pi / 6, math.pi / 3, math.pi / 2), strict=True)
    ]
    torch.testing.assert_close(path, torch.tensor(wanted))


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_slerp_between_codes_of_one_direction_is_straight(factor: float) -> None:
    code = torch.randn(1, 8)
    path = interpolate(torch.cat((code, factor * code)), 3, "slerp")
    torch.testing.assert_close(path[1], 0.5 * (1 + factor) * code[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("codes", [[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]], ids=["opposite", "zero"])
def test_slerp_without_a_direction_to_turn_to_stays_finite(codes: list[list[float]]) -> None:
    path = interpolate(torch.tensor(codes), 5, "slerp")
    assert torch.isfinite(path).all()
    torch.testing.assert_close(path[[0, -1]], torch.tensor(codes))


def test_a_path_needs_two_codes_two_frames_and_a_known_mode() -> None:
    codes = torch.randn(2, 3)
    with pytest.raises(ValueError, match="interpolate: got 1 codes and 5 frames, wanted at least 2 of each"):
        interpolate(codes[:1], 5)
    with pytest.raises(ValueError, match="interpolate: got 2 codes and 1 frames"):
        interpolate(codes, 1)
    with pytest.raises(ValueError, match="interpolate mode 'cubic': wanted 'lerp', 'slerp' or 'smooth'"):
        interpolate(codes, 5, "cubic")
