"""How one solid becomes another where nothing moves: what one alone has grows out of what both have, or goes into it.

Each place of what the second solid alone has gets a time. A front leaves what both have at 0, goes along the ways
within the solid, however thin it is, and is at the end of each way at 1: a plate grows from where it is attached. Where
a difference is a thin layer, that is the plain blend of distances. Two things follow fronts of their own:

- What no front leads to: islands come in the second half, those nearest to the rest first, each from its nearest point;
  hollows that nothing leads into but cracks, such as those within double walls, close in the first fifth, the deepest
  first, so that what nobody sees does not come and go all the way.
- What would close last deep inside. Seen backwards, it is dug out from without.

What the first alone has goes by the same rule, with the solids and the ends of the way exchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.fields.fronts import FAR, extended, lengths, outside, travelled, widened

TOUCH = 0.5  # cells: so close to a solid is in it, or thin plates would be rows of islands
SMOOTH = 1  # cells, over which lengths of ways change
SHORTEST = 1.0  # cells: of a way, what lies within a cell is not seen well
EXTENT = 2  # cells beyond a solid where times are known, for what lies between the points of the grid
CLOSED = 0.2  # when hollows that nothing leads into are
STEEPEST = 6.0  # cells in the whole time, at least, of fronts of their own
EARLIEST = 0.05  # of times set so: an infinite speed is none


class Growth(NamedTuple):
    """When the second solid is where: at t within `second < 0` and `first + excess - t * rate < 0`, distances."""

    excess: Tensor  # [n n n], scene units: by how much the way from what both have is longer than the first's distance
    rate: Tensor  # [n n n], scene units of front in the whole time


def growth(first: Tensor, second: Tensor) -> Growth:
    """The growth of the second solid out of the first, of distances `[n n n]` on an even grid over [-1, 1]^3.

    On the CPU. Not differentiable.
    """
    cell = 2.0 / (len(first) - 1)
    a, b = (solid.detach().float().cpu() / cell for solid in (first, second))
    there = b < TOUCH
    both = there & (a < TOUCH)
    begin = there & (widened(both.float(), 1) > 0.0)
    way = travelled(torch.where(begin, a.clamp(min=0.0), torch.inf), there)
    led = there & (way < FAR)
    rate = lengths(way, way - b.clamp(max=0.0), led, SMOOTH, SHORTEST)
    excess = torch.where(led & ~both, way - a.clamp(min=0.0), 0.0)
    rate = _from_without(way, rate, led & ~both, ~there)

    def at(where: Tensor, distance: Tensor, start: float, end: float) -> None:
        """Sets times one by one: the nearest of those places at the start, the farthest at the end."""
        if not bool(where.any()):
            return
        near, far = float(distance[where].min()), float(distance[where].max())
        span = max(far - near, 1.0)
        speed = max(2.0 * span, STEEPEST)
        time = start + (end - start) * (distance - near) / span
        excess[where], rate[where] = (speed * time - a)[where], speed

    everywhere, islands = torch.ones_like(there), there & ~led
    rest = torch.where(led | (a < TOUCH), 0.0, torch.inf)
    at(islands, travelled(rest, everywhere), 0.5, 1.0)
    open_ = outside(a > TOUCH)
    # Deep in the second solid a crack is one; elsewhere it may be the rim of what is open, two cells wide.
    one, two = (widened(open_.float(), cells) > 0.0 for cells in (1, 2))
    hollows = (a > 0.0) & (b < 0.0) & ~torch.where(b < -1.0, one, two)
    at(hollows, travelled(torch.where(open_, 0.0, torch.inf), everywhere), CLOSED, 0.0)
    return Growth(*(cell * extended(part, there, EXTENT) for part in (excess, rate)))


def _from_without(way: Tensor, rate: Tensor, part: Tensor, without: Tensor) -> Tensor:
    """Rates with which, backwards in time, a part is taken away from without: no hollow opens deep in it.

    Where fronts meet within a part all times are 1. There a second front, which comes from without, has to have been
    before; it is everywhere in half of the time at most.
    """
    depth = travelled(torch.where(without, 0.0, torch.inf), part)
    inner = part & (depth > 1.0) & (depth < FAR)
    if not bool(inner.any()):
        return rate
    speed = max(2.0 * float(depth[inner].max()), STEEPEST)
    left = torch.where(part, 1.0 - (way / rate).clamp(0.0, 1.0), 0.0)  # of the time, when the first front comes
    wait = travelled(torch.where(part & (depth <= 1.0), speed * left, torch.inf), inner, speed * left) / speed
    late = inner & (wait > left + 1e-3)
    return torch.where(late, torch.maximum(way / (1.0 - wait).clamp(min=EARLIEST), rate), rate)
