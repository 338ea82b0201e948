"""Scenes in few bytes: whole numbers through the range coder, and codes and weights through a run's steps."""

from __future__ import annotations

import numpy as np
import pytest

from hyperfields.runs.entropy import Integers, decode, encode


def numbers(count: int, share: float, scale: float, seed: int = 0) -> Integers:
    """Numbers of which a share is not 0."""
    random = np.random.default_rng(seed)
    drawn = np.rint(random.laplace(0.0, scale, count))
    return np.where(random.random(count) < share, drawn, 0.0).astype(np.int64)


def entropy(values: Integers) -> float:
    """Bytes that the best code without context takes, its table not counted (Shannon 1948)."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum() * len(values) / 8)


@pytest.mark.parametrize(("count", "share", "scale"), [(4000, 0.02, 1.0), (4000, 0.5, 3.0), (2000, 1.0, 40.0)])
def test_numbers_come_back_and_take_little_more_than_their_entropy(count: int, share: float, scale: float) -> None:
    values = numbers(count, share, scale)
    packed = encode(values, (count,))
    assert np.array_equal(decode(packed, (count,)), values)
    assert len(packed) < 1.06 * entropy(values) + 16


def test_groups_learn_apart() -> None:
    """Zeros beside large numbers cost nothing when they are groups of their own."""
    values = np.concatenate([np.zeros(3000, np.int64), numbers(500, 1.0, 200.0)])
    assert len(encode(values, (3000, 500))) < len(encode(values[3000:], (500,))) + 8


@pytest.mark.parametrize("values", [[], [0] * 50, [1], [-(2**24) + 1, 2**24 - 1], [255, 0, -1] * 40])
def test_corners(values: list[int]) -> None:
    array = np.array(values, np.int64)
    packed = encode(array, (len(values),))
    assert np.array_equal(decode(packed, (len(values),)), array)
    if not any(values):
        assert packed == b""


def test_carries_run_through_bytes_of_255() -> None:
    """Many random streams: a carry that is lost shows in the numbers."""
    for seed in range(60):
        values = numbers(200, 0.9, 10.0 ** (seed % 5), seed)
        assert np.array_equal(decode(encode(values, (120, 80)), (120, 80)), values)


def test_damaged_bytes_are_read_as_some_numbers() -> None:
    packed = bytearray(encode(numbers(300, 0.5, 9.0), (300,)))
    for place in range(0, len(packed), 7):
        packed[place] ^= 0x55
        assert len(decode(bytes(packed), (300,))) == 300
    assert len(decode(b"", (300,))) == 300


def test_numbers_that_cannot_be_coded_are_refused() -> None:
    with pytest.raises(ValueError, match="magnitudes below"):
        encode(np.array([2**24]), (1,))
    with pytest.raises(ValueError, match="2 numbers in groups of 3"):
        encode(np.array([1, 2]), (1, 2))
