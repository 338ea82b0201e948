"""The judge itself: what it must not let pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ._parity import assert_gradient_close, random_numbers


def half_zero(g: Tensor) -> Tensor:
    return torch.cat((g[:50], torch.zeros_like(g[50:])))


def one_row_doubled(g: Tensor) -> Tensor:
    return torch.cat((g[:1] * 2, g[1:]))


def one_row_lost(g: Tensor) -> Tensor:
    return torch.cat((g[:99], g[99:] * 0))


WRONG = {
    "half of the rows are zero": half_zero,
    "one row is doubled": one_row_doubled,
    "one row is lost": one_row_lost,
    "everything is 1 % too long": lambda g: g * 1.01,
    "columns are exchanged": lambda g: g.flip(1),
    "the sign is wrong": lambda g: -g,
    "it is zero": torch.zeros_like,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_gradient_is_seen_however_small_it_is(wrong: object) -> None:
    gradient = random_numbers(100, 3) * 1e-4
    assert callable(wrong)
    with pytest.raises(AssertionError, match=r"relative L2 .* worst at \(\d+, \d\): got .*, wanted"):
        assert_gradient_close(wrong(gradient), gradient, 1e-4)


def test_rounding_passes() -> None:
    gradient = random_numbers(100, 3)
    assert_gradient_close((gradient * (1 + 1e-7 * random_numbers(100, 3, seed=1))).float(), gradient, 1e-5)


def test_a_number_that_is_not_finite_is_seen() -> None:
    gradient = random_numbers(4, 3)
    gradient[1, 2] = float("nan")
    with pytest.raises(AssertionError, match="1 elements are not finite"):
        assert_gradient_close(gradient, gradient, 1e-5)


def test_where_zeros_are_wanted_nothing_else_passes() -> None:
    assert_gradient_close(torch.zeros(2, 3), torch.zeros(2, 3), 1e-5)
    with pytest.raises(AssertionError, match="wanted zeros"):
        assert_gradient_close(torch.full((2, 3), 1e-30), torch.zeros(2, 3), 1e-5)
