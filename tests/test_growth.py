"""What one solid alone has grows along itself: fronts on grids against closed forms, and morphs of such solids."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.evaluation.surfaces import apart, slope_error, surface_of
from hyperfields.fields import BoundField
from hyperfields.fields.flow import places
from hyperfields.fields.fronts import FAR, closed, outside, redistanced, travelled
from hyperfields.rendering.meshing import grid_values
from hyperfields.tasks.growth import growth
from hyperfields.tasks.morphs import ShapeMorph

SIDE = 33
CELL = 2.0 / (SIDE - 1)
GRID = places(SIDE, 3)


def ball(x: Tensor, center: tuple[float, ...], radius: float) -> Tensor:
    return (x - torch.tensor(center)).norm(dim=-1) - radius


def box(x: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> Tensor:
    """Distance from an axis-aligned box, exact."""
    low_, high_ = torch.tensor(low), torch.tensor(high)
    beyond = (x - 0.5 * (low_ + high_)).abs() - 0.5 * (high_ - low_)
    return beyond.clamp(min=0.0).norm(dim=-1) + beyond.amax(-1).clamp(max=0.0)


def there(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Where the second solid is at t."""
    found = growth(a, b)
    return (b < 0.0) & ((torch.maximum(a, b) < 0.0) | (a + found.excess - t * found.rate < 0.0))


# ------------------------------------------------------------------------------------------------ on grids


def test_what_is_no_distance_becomes_one() -> None:
    wanted = ball(GRID, (0.1, 0.0, -0.05), 0.5)
    found = redistanced(3.0 * wanted + wanted**3) * CELL
    near = wanted.abs() < 2.0 * CELL
    assert float((found - wanted)[near].abs().mean()) < 0.1 * CELL
    assert float((found - wanted).abs().max()) < CELL  # first order, at corners 20 cells away
    assert bool(((found < 0.0) == (wanted < 0.0)).all())
    assert float(redistanced(torch.ones(5, 5, 5)).min()) == FAR  # nothing is far


def test_a_closing_fills_narrow_gaps_and_keeps_edges_and_wide_ones() -> None:
    block = box(GRID, (-0.6, -0.6, -0.6), (0.6, 0.6, 0.6))
    narrow = box(GRID, (-0.3, -0.9, 0.0), (-0.3 + 1.5 * CELL, 0.9, 0.9))
    wide = box(GRID, (0.1, -0.9, 0.0), (0.1 + 4.5 * CELL, 0.9, 0.9))
    solid = torch.maximum(block, -torch.minimum(narrow, wide)) / CELL
    wanted = torch.maximum(block, -wide) / CELL
    found = closed(solid, 1.5)
    clear = wanted.abs() > 0.3
    corners = (GRID - torch.tensor((0.2, 0.0, 0.0))).abs()[..., 2] < 3.0 * CELL  # of rounded floors
    assert torch.equal((found < 0.0)[clear & ~corners], (wanted < 0.0)[clear & ~corners])


def test_ways_go_round_what_is_not_free() -> None:
    free = torch.ones(SIDE, SIDE, 3, dtype=torch.bool)
    free[16, :-1] = False  # a wall with a gap at one end
    start = torch.full(free.shape, torch.inf)
    start[0, 0] = 0.0
    found = travelled(start, free)
    assert float(found[10, 0, 1]) == pytest.approx(10.0)
    round_the_wall = (15.0**2 + 32.0**2) ** 0.5 + 1.0 + (15.0**2 + 32.0**2) ** 0.5
    assert float(found[-1, 0, 1]) == pytest.approx(round_the_wall, rel=0.1)
    free[16] = False
    assert float(travelled(start, free)[-1, 0, 1]) == FAR


# ------------------------------------------------------------------------------------------------- growth


def test_a_plate_thinner_than_a_cell_grows_from_where_it_is_attached() -> None:
    body = box(GRID, (-0.8, -0.3, -0.3), (-0.3, 0.3, 0.3))
    plate = torch.minimum(body, box(GRID, (-0.8, -0.25, -0.02), (0.7, 0.25, 0.02)))
    for t in (0.25, 0.5, 0.75):
        tips = GRID[..., 0][there(body, plate, t)]
        assert float(tips.max()) == pytest.approx(-0.3 + t * 1.0, abs=2.0 * CELL)
    assert torch.equal(there(body, plate, 0.0), (body < 0.0) & (plate < 0.0))
    assert torch.equal(there(body, plate, 1.0), plate < 0.0)


def test_a_layer_moves_as_a_blend_of_distances() -> None:
    small, large = ball(GRID, (0.0, 0.0, 0.0), 0.4), ball(GRID, (0.0, 0.0, 0.0), 0.65)
    for t in (0.25, 0.5, 0.75):
        volume = float(there(small, large, t).float().sum()) * CELL**3
        assert (volume * 0.75 / torch.pi) ** (1 / 3) == pytest.approx(0.4 + 0.25 * t, abs=0.5 * CELL)


def test_islands_come_in_the_second_half_from_their_nearest_point() -> None:
    body = ball(GRID, (-0.4, 0.0, 0.0), 0.35)
    islands = torch.minimum(body, ball(GRID, (0.55, 0.0, 0.0), 0.3))
    far_side = GRID[..., 0] > 0.2
    assert not bool(there(body, islands, 0.45)[far_side].any())
    half_way = GRID[..., 0][there(body, islands, 0.75) & far_side]
    assert float(half_way.min()) < 0.25 + 2.0 * CELL  # it begins at 0.25
    assert float(half_way.max()) < 0.6  # and is not at its far end, 0.85
    assert torch.equal(there(body, islands, 1.0), islands < 0.0)


def test_hollows_shrink_and_no_new_one_opens() -> None:
    full = ball(GRID, (0.0, 0.0, 0.0), 0.7)
    hollow = torch.maximum(full, -ball(GRID, (0.1, 0.0, 0.0), 0.35))
    assert torch.equal(there(hollow, full, 0.0), hollow < 0.0)
    shrinking = [int(((full < 0.0) & ~there(hollow, full, t)).sum()) for t in (0.0, 0.1, 0.2, 0.5)]
    assert sorted(set(shrinking), reverse=True) == shrinking
    assert shrinking[-1] == 0
    ends = torch.minimum(*(ball(GRID, (x, 0.0, 0.0), 0.3) for x in (-0.6, 0.6)))
    joined = torch.minimum(ends, box(GRID, (-0.6, -0.28, -0.28), (0.6, 0.28, 0.28)))
    for t in (0.5, 0.8, 0.9, 0.95, 1.0):  # two fronts meet in a thick bar
        solid = there(ends, joined, t)
        assert torch.equal(outside(~solid), ~solid)


# ------------------------------------------------------------------------------------------------- morphs


class Solid:
    """A solid as a field of one scene, whose distances are 1.3 times too long."""

    kind, dims = "shapes", 3

    def __init__(self, *boxes: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        self.boxes = boxes

    def __call__(self, weights: Any, x: Tensor, *rest: Tensor) -> Tensor:
        return 1.3 * torch.stack([box(x, *corners) for corners in self.boxes]).amin(0)[..., None]


BODY = (-0.8, -0.3, -0.3), (-0.3, 0.3, 0.3)


@pytest.mark.usefixtures("quick_morphs")
def test_a_morph_lets_a_plate_grow_evenly_and_has_true_distances() -> None:
    pytest.importorskip("skimage")
    plate = (-0.8, -0.25, -0.05), (0.7, 0.25, 0.05)
    ends = [BoundField(Solid(*boxes), {"none": torch.zeros(1)}, 1) for boxes in ((BODY,), (BODY, plate))]
    morph, x = ShapeMorph(*ends), GRID.reshape(1, -1, 3)
    assert torch.equal(morph.at(0.0)(x), ends[0](x))
    assert torch.equal(morph.at(1.0)(x), ends[1](x))
    frames = [surface_of(grid_values(morph.at(i / 8), 96)) for i in range(9)]
    assert [frame.parts for frame in frames] == [1] * 9
    whole = apart(frames[0], frames[-1]).hausdorff
    steps = [apart(*pair).hausdorff / whole for pair in itertools.pairwise(frames)]
    assert max(steps) < 0.25  # an eighth would be even; a blend of distances has 0.98
    generator = torch.Generator().manual_seed(0)
    assert float(slope_error(ends[1], frames[-1], generator) or 1.0) > 0.25
    for t in (0.3, 0.7):
        field = morph.at(t)
        assert float(slope_error(field, surface_of(grid_values(field, 64)), generator) or 1.0) < 0.12
    packed = field(x[0, :70], torch.tensor([70]))
    torch.testing.assert_close(packed, field(x[:, :70])[0])


@pytest.mark.usefixtures("quick_morphs")
def test_a_gap_too_narrow_to_be_seen_is_closed_from_its_depth_and_at_the_ends_there() -> None:
    left, right = ((-0.8, -0.3, -0.3), (-0.01, 0.3, 0.3)), ((0.01, -0.3, -0.3), (0.8, 0.3, 0.3))
    walls = Solid(left, right, ((-0.1, -0.3, -0.3), (0.1, 0.0, 0.3)))
    field = BoundField(walls, {"none": torch.zeros(1)}, 1)
    morph = ShapeMorph(field, field)
    depth = torch.linspace(0.01, 0.28, 28)
    x = torch.stack((torch.zeros_like(depth), depth, torch.zeros_like(depth)), -1)[None]
    for t in (0.0, 1.0):
        assert bool((morph.at(t)(x) > 0.0).all())
    filled = [int((morph.at(t)(x)[0, :, 0] < 0.0).sum()) for t in (0.02, 0.05, 0.5)]
    assert 0 < filled[0] < filled[1] < filled[2] >= 27  # the mouth is rounded
