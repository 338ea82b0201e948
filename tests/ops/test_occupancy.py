"""keep_densities against its formula, on the kernel and on torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.occupancy import keep_densities

from ._parity import needs_cpu, threads


def kept(count: int) -> tuple[Tensor, ...]:
    """Density, cells and peaks of three scenes of which two were asked: one knows all cells by then, one never will."""
    generator = torch.Generator().manual_seed(0)
    density, occupied, peak = torch.rand(3, 4000, generator=generator), torch.ones(3, 4000).bool(), torch.ones(3)
    density[2, ::2], density[2, 1], density[0, :2] = math.inf, math.inf, math.inf
    scenes, cells = torch.tensor([2, 0]), torch.arange(0, 4000, 2)
    new = torch.rand(2, 2000, generator=generator)
    with threads(count):
        keep_densities(density, occupied, peak, scenes, cells, new, decay=0.5, limit=0.4)
    return density, occupied, peak, new


@needs_cpu
@pytest.mark.parametrize("count", [1, 3])
def test_the_kernel_keeps_what_torch_keeps(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    density, occupied, peak, new = kept(count)
    monkeypatch.setattr(dispatch, "why_unavailable", lambda backend: "for comparison")
    for ours, torchs in zip((density, occupied, peak), kept(1), strict=False):
        assert torch.equal(ours, torchs)
    assert torch.equal(density[2, ::2], new[0])  # never asked for before
    assert density[2, 1] == peak[2] == math.inf
    assert torch.equal(occupied[2, ::2], new[0] >= 0.4)
    assert bool(occupied[1].all())
    assert float(peak[1]) == 1.0  # nobody asked


@needs_cpu
def test_a_density_that_is_no_number_shows() -> None:
    density, occupied, peak = torch.rand(1, 8), torch.ones(1, 8).bool(), torch.ones(1)
    new = torch.tensor([[0.5, math.nan]])
    keep_densities(density, occupied, peak, torch.tensor([0]), torch.tensor([1, 2]), new, decay=0.5, limit=0.4)
    assert bool(density[0, 2].isnan())
    assert bool(peak.isnan())
