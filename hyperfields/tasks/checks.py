"""Checks of what a fit came to, on a few samples of its data: a line for each scene whose field holds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import Pixels, Points, SceneDataset
from hyperfields.fields import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.volume import render_volume

SAMPLES = 256  # points or rays of a scene
EMPTY, FOG = 0.01, 0.99  # opacity of rays, below or above which nothing is shown
SOUND = 1e-3  # squared error that is good enough even in a picture of one colour


@runtime_checkable
class Checked(Protocol):
    """A task that can tell a fit that failed. Optional: tasks of your own may do without."""

    def check(self, bound: BoundField, data: SceneDataset, scenes: Tensor, generator: torch.Generator) -> list[str]:
        """Lines about fields `bound` that hold nothing of their scenes `[s]` in the data; empty: all is well."""


@torch.no_grad()
def check_colors(bound: BoundField, data: SceneDataset, scenes: Tensor, generator: torch.Generator) -> list[str]:
    """Pictures that are worse than one even colour."""
    batch = data.batch(scenes, SAMPLES, generator)
    assert isinstance(batch, Points)
    values = bound(batch.x)
    error = (values - batch.target).square().mean((1, 2))
    even = batch.target.var(1, correction=0).mean(1)
    bad = {"worse than one even colour": error > 1.25 * even + SOUND}
    return _lines(data, scenes, values.flatten(1), bad)


@torch.no_grad()
def check_distances(bound: BoundField, data: SceneDataset, scenes: Tensor, generator: torch.Generator) -> list[str]:
    """Shapes without a surface, at points of which some are inside and some outside."""
    batch = data.batch(scenes, 4 * SAMPLES, generator)
    assert isinstance(batch, Points)
    values = bound(batch.x).flatten(1)
    bad = {"no surface in the box": _changes_sign(batch.target.flatten(1)) & ~_changes_sign(values)}
    return _lines(data, scenes, values, bad)


@one_torch_thread()
@torch.no_grad()
def check_rays(bound: BoundField, data: SceneDataset, scenes: Tensor, generator: torch.Generator) -> list[str]:
    """Radiance that rays of the data pass through, or that hides the background of all of them."""
    batch = data.batch(scenes, SAMPLES, generator)
    assert isinstance(batch, Pixels)
    everywhere = torch.ones(len(scenes), 4, 4, 4, dtype=torch.bool, device=bound.device)
    rendered = render_volume(bound, batch.rays, everywhere, step=bound.field.step, visible=bound.visible_samples)
    alpha, truth = rendered.alpha, batch.rgba[..., 3]
    missed = ~_meets_box(batch.rays).any(1)
    empty = (alpha.amax(1) < EMPTY) & (truth.amax(1) > 0.5) & ~missed
    fog = (alpha.amin(1) > FOG) & (truth.amin(1) < 0.5)
    bad = {
        "its cameras look past the box [-1, 1]^3, so nothing was fitted; wanted poses in OpenCV axes (+Y down, +Z "
        "forward)": missed,
        "empty everywhere, its density is dead": empty,
        "opaque everywhere, though its pictures show background: fog before the cameras": fog,
    }
    return _lines(data, scenes, torch.cat((alpha, rendered.rgb.flatten(1)), 1), bad)


def _changes_sign(values: Tensor) -> Tensor:
    """`[s n]` -> `[s]`."""
    return (values.amin(1) < 0.0) & (values.amax(1) > 0.0)


def _meets_box(rays: Rays) -> Tensor:
    """True for rays `[s r 3]` that meet the box before them, `[s r]`."""
    away = 1.0 / torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    near, far = (-1.0 - rays.origins) * away, (1.0 - rays.origins) * away
    return torch.maximum(near, far).amin(-1) > torch.minimum(near, far).amax(-1).clamp(min=0.0)


def _lines(data: SceneDataset, scenes: Tensor, values: Tensor, bad: dict[str, Tensor]) -> list[str]:
    """A line for each fault of a scene; values `[s n]` that are not finite are one, and hide the others."""
    finite = values.isfinite().all(1).tolist()
    faults = {text: flags.tolist() for text, flags in bad.items()}
    lines: list[str] = []
    for place, scene in enumerate(scenes.tolist()):
        texts: Sequence[str] = [text for text, flags in faults.items() if flags[place]]
        if not finite[place]:
            texts = ["its values are not finite numbers"]
        lines += [f"scene {data.names[scene]}: {text}" for text in texts]
    return lines
