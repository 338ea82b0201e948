"""When a walk is where: the place on its way, or what is seen of it, changes evenly."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from hyperfields.codes.paths import even_places
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.rendering.meshing import grid_values
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.morphs import MorphKind, Walk
from hyperfields.runs.run import Run

Timing = Literal["even", "linear"]

# Of a stretch from one scene to the next, where it is looked how much has changed; what moves changes smoothly.
PROBES: dict[MorphKind, int] = {"moved": 8, "codes": 16}
SIDE = 64  # pixels of the longer side of these pictures
CELLS = 32  # a side, at whose corners distances are looked at
REACH = 0.1  # scene units: so far from a surface distances count


@torch.no_grad()
def timed_places(
    walk: Walk,
    frames: int,
    timing: str = "even",
    *,
    turn: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Places of a walk at which its frames are, ends included.

    Args:
        timing: "linear", at even distances; "even", where what is seen changes evenly: of shapes the distances near
            the surface, of others the small picture from the front left, by its mean absolute difference.
        turn: makes contexts that each look is taken in.
        progress: called as (looks taken, looks in all) after each.

    Raises:
        ValueError: fewer than two frames.
        InputError: an unknown timing.
    """
    if timing not in ("even", "linear"):
        raise InputError(f"timing {timing!r:.60}: wanted 'even' or 'linear'")
    if frames < 2:
        raise ValueError(f"timed_places: got {frames} frames, wanted at least 2")
    even = torch.linspace(0.0, walk.stretches, frames, dtype=torch.float64).tolist()
    if timing == "linear" or frames < 3:
        return even
    looks, probes = [], PROBES[walk.kind]
    last = probes * walk.stretches
    for probe in range(last + 1):
        field = walk.at(probe / probes)  # outside of a turn: a motion takes a second to find
        with turn():
            looks.append(_look(walk.run, field))
        if progress is not None:
            progress(probe + 1, last + 1)
    change = _surface_change if _is_surface(walk.run) else _picture_change
    steps = torch.stack([change(*pair) for pair in itertools.pairwise(looks)])
    places: list[float] = (even_places(steps, frames).double() * walk.stretches).tolist()
    return [0.0, *places[1:-1], float(walk.stretches)]


def _is_surface(run: Run) -> bool:
    return run.task.has_mesh and not run.task.sized


def _look(run: Run, bound: BoundField) -> Tensor:
    """What is seen of a scene."""
    if _is_surface(run):
        return grid_values(bound, CELLS, bound.device).clamp(-REACH, REACH)
    height, width = native_size(run)
    scale = max(height, width, SIDE) / SIDE
    size = max(round(height / scale), 1), max(round(width / scale), 1)
    return run.task.picture(bound, orbit_cameras(run, 1, size)[0], size)


def _picture_change(a: Tensor, b: Tensor) -> Tensor:
    return (b - a).abs().mean()


def _surface_change(a: Tensor, b: Tensor) -> Tensor:
    """Mean change of the distances near one of two surfaces: about how far these are from one another."""
    near = (a.abs() < REACH) | (b.abs() < REACH)
    return (b - a).abs().sum() / near.sum().clamp(min=1)
