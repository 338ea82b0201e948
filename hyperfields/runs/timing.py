"""When a walk through latent space is where: the code, or what is seen of it, changes evenly."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from hyperfields.codes.paths import even_places, interpolate, path_at
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.rendering.meshing import grid_values
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.run import Run

Timing = Literal["even", "linear"]

PROBES = 16  # of a stretch from one scene to the next, where it is looked how much has changed
SIDE = 64  # pixels of the longer side of these pictures
CELLS = 32  # a side, at whose corners distances are looked at
REACH = 0.1  # scene units: so far from a surface distances count


@torch.no_grad()
def timed_path(
    run: Run,
    codes: Tensor,
    frames: int,
    mode: str = "lerp",
    timing: str = "even",
    *,
    turn: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> Tensor:
    """Codes `[frames z]` of a walk through codes `[c z]`, ends included.

    Args:
        mode: see `codes.interpolate`.
        timing: "linear", the code changes evenly; "even", what is seen does: of shapes the distances near the surface,
            of others the small picture from the front left, by its mean absolute difference.
        turn: makes contexts that each look is taken in.

    Raises:
        ValueError: fewer than two codes or frames.
        InputError: an unknown mode or timing.
    """
    if timing not in ("even", "linear"):
        raise InputError(f"timing {timing!r:.60}: wanted 'even' or 'linear'")
    if timing == "linear" or len(codes) < 2 or frames < 3:
        return interpolate(codes, frames, mode)
    probes = interpolate(codes, PROBES * (len(codes) - 1) + 1, mode)
    looks = []
    for code in probes:
        with turn():
            looks.append(_look(run, run.model.bind(code[None])))
    change = _surface_change if _is_surface(run) else _picture_change
    steps = torch.stack([change(*pair) for pair in itertools.pairwise(looks)])
    places = even_places(steps, frames) * (len(codes) - 1)
    path = path_at(codes, places.to(codes.device), mode)
    path[0], path[-1] = codes[0], codes[-1]  # to the last digit
    return path


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
