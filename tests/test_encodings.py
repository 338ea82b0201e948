"""Encodings: values that can be written down, and properties that formulas promise."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfields import ops
from hyperfields.fields.encodings import (
    TABLE,
    Encoding,
    FactoredGrid,
    Fourier,
    HashGrid,
    Identity,
    SphericalHarmonics,
)

ENCODINGS: list[Encoding] = [
    Identity(2),
    Identity(3),
    Fourier(2),
    Fourier(3, 4),
    HashGrid(2),
    FactoredGrid(3, 4, 4),
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_channels_say_how_wide_the_encoding_is(encoding: Encoding) -> None:
    weights = {name: entry.initial()[None] for name, entry in encoding.spec.items()}
    x = torch.rand(1, 5, encoding.dims)
    result = encoding(x, weights)
    assert result.shape == (1, 5, encoding.channels)
    assert torch.equal(encoding(x[0], weights, torch.tensor([5])), result[0])  # packed


def test_the_identity_goes_from_zero_one_to_minus_one_one() -> None:
    x = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    assert Identity(2)(x, {}).tolist() == [[[-1.0, 1.0], [0.0, -0.5]]]


def test_fourier_gives_the_point_then_all_sines_then_all_cosines() -> None:
    x = torch.tensor([[[0.75, 0.1]]], dtype=torch.float64)
    a, b = 0.5, -0.8
    angles = [math.pi * a, 2 * math.pi * a, 4 * math.pi * a, math.pi * b, 2 * math.pi * b, 4 * math.pi * b]
    wanted = [a, b, *[math.sin(angle) for angle in angles], *[math.cos(angle) for angle in angles]]
    assert Fourier(2, 3)(x, {}).flatten().tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_spherical_harmonics_are_orthonormal(degree: int) -> None:
    d = torch.nn.functional.normalize(torch.randn(400_000, 3, dtype=torch.float64), dim=-1)
    y = SphericalHarmonics(degree)(d)
    assert y.shape[1] == SphericalHarmonics(degree).channels == degree**2
    product = y.T @ y * (4 * math.pi / len(d))
    torch.testing.assert_close(product, torch.eye(degree**2, dtype=torch.float64), rtol=0, atol=0.02)


def test_spherical_harmonics_of_one_degree_do_not_depend_on_the_frame() -> None:
    """Unsoeld's theorem: sum over m of Y_lm^2 is (2 l + 1) / 4 pi in every direction."""
    d = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    y = SphericalHarmonics(4)(d).square()
    for degree, columns in enumerate(y.split([1, 3, 5, 7], -1)):
        wanted = torch.full((50,), (2 * degree + 1) / (4 * math.pi), dtype=torch.float64)
        torch.testing.assert_close(columns.sum(-1), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("degree", [0, 5])
def test_a_degree_that_is_not_there_is_refused(degree: int) -> None:
    with pytest.raises(ValueError, match=f"SphericalHarmonics degree: got {degree}, wanted 1 to 4"):
        SphericalHarmonics(degree)(torch.randn(2, 3))


def test_levels_go_from_the_coarsest_to_the_finest() -> None:
    grid = HashGrid(3, levels=8, coarsest=8, finest=128).grid
    assert grid.resolutions[0] == 8
    assert grid.resolutions[-1] == 128
    growth = [(b + 1) / (a + 1) for a, b in zip(grid.scales, grid.scales[1:], strict=False)]
    assert growth == pytest.approx([16 ** (1 / 7)] * 7)
    assert HashGrid(3, levels=1, coarsest=8).grid.resolutions == (8,)


def test_a_hash_grid_has_one_table_for_all_scenes() -> None:
    encoding = HashGrid(2, 3, 2, 8, 4, 16)
    entry = encoding.spec[TABLE]
    assert entry.source == "shared"
    assert entry.shape == (encoding.grid.rows, 2)
    table, x = entry.initial()[None], torch.rand(3, 7, 2)
    result = encoding(x, {TABLE: table})
    assert torch.equal(result, ops.hash_encode(x, table.repeat(3, 1, 1), encoding.grid))


def test_a_factored_grid_mixes_each_level_by_itself() -> None:
    encoding = FactoredGrid(2, 3, 2, 8, 4, 16, bases=5)
    entry = encoding.spec[TABLE]
    assert (entry.source, entry.bases, entry.groups) == ("factored", 5, encoding.grid.offsets)
    assert entry.shape == (encoding.grid.rows, 2) == (entry.groups[-1], 2)


def test_smoothstep_reaches_the_grid() -> None:
    x, rough, smooth = torch.rand(1, 50, 2), HashGrid(2), HashGrid(2, smoothstep=True)
    table = rough.spec[TABLE].initial()[None]
    assert smooth.grid.smoothstep
    assert not torch.allclose(rough(x, {TABLE: table}), smooth(x, {TABLE: table}))
