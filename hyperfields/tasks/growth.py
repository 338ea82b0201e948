"""How one solid becomes another where nothing moves: what one alone has grows out of what both have, or goes into it.

Each place of what the second solid alone has gets a time. A front leaves what both have at 0, goes along the ways
within the solid, however thin it is, and is at the end of each way at 1: a plate grows from where it is attached. Where
a difference is a thin layer, that is the plain blend of distances. Two things follow fronts of their own:

- Islands, to which no front leads, come in the second half: the nearest to the rest first, each from its nearest point.
- What would close last deep inside. Seen backwards, it is dug out from without.

What the first alone has goes by the same rule, with the solids and the ends of the way exchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.fields.fronts import FAR, extended, lengths, travelled, widened

TOUCH = 0.5  # cells: so close to a solid is in it, or thin plates would be rows of islands
SMOOTH = 1  # cells, over which lengths of ways change
SHORTEST = 1.0  # cells: of a way, what lies within a cell is not seen well
EXTENT = 2  # cells beyond a solid where times are known, for what lies between the points of the grid
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

    islands = there & ~led
    if bool(islands.any()):
        rest = torch.where(led | (a < TOUCH), 0.0, torch.inf)
        away = travelled(rest, torch.ones_like(there))
        near, far = float(away[islands].min()), float(away[islands].max())
        span = max(far - near, 1.0)
        speed = max(2.0 * span, STEEPEST)
        time = 0.5 + 0.5 * (away - near) / span
        excess = torch.where(islands, speed * time - a, excess)
        rate = torch.where(islands, speed, rate)
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
