"""Morphs measured: how clean the scenes between two scenes are, and how evenly they move; what `eval --morph` prints.

Three ways are measured side by side: "moved", which `interpolate` shows; the fields of codes, mixed in a straight line;
and the plain blend of the two fields (mixed distances; mixed densities, with the colours of what is dense; mixed
pictures), which a morph has to beat. All go at even steps.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.errors import InputError
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, load_lpips
from hyperfields.evaluation.report import require_lpips
from hyperfields.evaluation.surfaces import Surface, apart, slope_error, surface_of
from hyperfields.evaluation.tables import text_table
from hyperfields.fields import BoundField
from hyperfields.rendering.base import Rendered, on_background
from hyperfields.rendering.meshing import grid_values
from hyperfields.rendering.pictures import render_rays
from hyperfields.rendering.volume import render_volume
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.morphs import Morph
from hyperfields.runs.run import Run

PAIRS = 50
BETWEEN = (0.25, 0.5, 0.75)  # where what lies between is looked at
STEPS = 32  # of the way of a surface: so many and one frames
PICTURE_STEPS = 16  # of the way of a picture: 17 frames, as DiffMorpher's PPL and PDV have
CELLS = 64  # a side, of the surfaces between: about the finest cells of a shape's grid
WAY_CELLS = 48  # of those along the way
SAFETY = 1.5  # of the search for those, see `mesh_from_field`
LARGEST = 128  # pixels of the longer side of pictures
CAMERAS = 2  # round a scene of views
OCCUPANCY = 64  # cells a side of the grid that skips empty space


class Sides(NamedTuple):
    """A figure of the three ways, and of the ends; None where it cannot be had."""

    moved: float | None
    codes: float | None
    blend: float | None
    ends: float | None

    @classmethod
    def of(cls, ways: Sequence[float | None], ends: float | None) -> Sides:
        """Of the figures of the three ways, in this order."""
        moved, codes, blend = ways
        return cls(moved, codes, blend, ends)


Way = Callable[[float], BoundField]  # place from 0 to 1 -> the field there


NOTHING = Sides(None, None, None, None)
Row = dict[str, Sides]  # by figure


class Figure(NamedTuple):
    """One number of a morph."""

    name: str  # key in reports
    heading: str
    format: str = "{:.3f}"


SHAPE_FIGURES = (
    Figure("parts", "parts of the surface, over the ends'"),
    Figure("euler", "Euler number, off the line between the ends'", "{:.2f}"),
    Figure("slope", "mean | |grad f| - 1 | near the surface"),
    Figure("way", "Chamfer of neighbours, summed, over the ends'", "{:.2f}"),
    Figure("largest_step", "largest step (Hausdorff), over the ends'"),
    Figure("volume", "volume off the line, over the ends'"),
)
LPIPS_FIGURES = (
    Figure("ppl", "LPIPS of neighbours, summed (PPL)"),
    Figure("pdv", "their variance (PDV)", "{:.2e}"),
)
VIEW_FIGURES = (Figure("ghost", "ghost 4a(1-a) in the silhouette, over the ends'"), *LPIPS_FIGURES)
PICTURE_FIGURES = (Figure("variation", "total variation, over the ends' mean"), *LPIPS_FIGURES)


class Measure(Protocol):
    """Figures of one kind of scenes."""

    @property
    def figures(self) -> Sequence[Figure]: ...

    def pair(self, first: str, second: str) -> Row:
        """The figures of the way between two scenes."""


@torch.no_grad()
def measure_morphs(
    run: Run,
    *,
    pairs: int = PAIRS,
    seed: int = 0,
    perceptual: bool = True,
    lpips_weights: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """What lies between scenes of a run, in figures. Needs no data.

    Args:
        pairs: of scenes, drawn without repetition; all there are, where that is less.
        perceptual: LPIPS steps of pictures too, which take longer than all else.
        lpips_weights: see `load_lpips`.
        progress: called as (done, total, names) after each pair.

    Returns:
        What JSON can hold: `kind`, `seed`, `figures` {name {`moved` `codes` `blend` `ends`}}, means over the pairs,
        `pairs` [{`first` `second` `figures`}], `notes`. "Over the ends'" is over the mean of the two ends; `ends` holds
        their own values, of distances that from end to end. A value that cannot be had is None, and a line of `notes`
        says why.

        Between are t = 1/4, 1/2 and 3/4. Shapes, in units of the box [-1, 1]^3: `parts` that the surface has, `euler`,
        |V - E + F| off the line between the ends', `slope`, mean | |grad f| - 1 | within 0.03 of the surface, `way`,
        the Chamfer distance of neighbours (the mean of both directions, not squared), summed over 32 steps, over that
        of the ends: 1 is straight; `largest_step`, the largest Hausdorff distance of neighbours over that of the ends:
        1/32 is even motion, 1 a part that comes from nothing; `volume`, the distance from the line between the ends'.
        Views: `ghost`, the sum of 4a(1-a) over all rays over that of a, for opacities a. Images: `variation`, the mean
        difference of neighbouring pixels: below 1 is a blur, above it are specks. Both: `ppl` and `pdv`, the sum and
        the variance of LPIPS (alex) of neighbours, 17 frames (Zhang et al. 2024, DiffMorpher, section 4).

    Raises:
        InputError: one scene only, no pairs; scikit-image is missing for shapes.
    """
    if pairs < 1:
        raise InputError(f"--pairs {pairs}: wanted at least 1")
    if len(run.names) < 2:
        raise InputError(f"{run.label}: holds one scene; a morph is between two")
    require_lpips(run.task, lpips_weights)
    chosen = draw_pairs(len(run.names), pairs, seed)
    notes: dict[str, None] = {}
    if len(chosen) < pairs:
        notes[f"pairs: {len(chosen)}, all that {len(run.names)} scenes have"] = None
    measure = _measure_of(run, seed, _load_alex(run, lpips_weights, notes) if perceptual else None)
    rows: list[tuple[str, str, Row]] = []
    for done, (i, j) in enumerate(chosen):
        first, second = run.names[i], run.names[j]
        rows.append((first, second, measure.pair(first, second)))
        if progress is not None:
            progress(done + 1, len(chosen), f"{first} - {second}")
    return {
        "kind": run.kind,
        "seed": seed,
        "figures": {figure.name: _mean(figure.name, [row for *_, row in rows], notes) for figure in measure.figures},
        "pairs": [
            {"first": first, "second": second, "figures": {name: values._asdict() for name, values in row.items()}}
            for first, second, row in rows
        ],
        "notes": list(notes),
    }


def draw_pairs(scenes: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of different scene numbers, each once, at most all: (larger, smaller)."""
    total = scenes * (scenes - 1) // 2
    pairs = []
    for number in random.Random(seed).sample(range(total), min(count, total)):
        larger = (1 + math.isqrt(8 * number + 1)) // 2
        pairs.append((larger, number - larger * (larger - 1) // 2))
    return pairs


def format_morphs(report: dict[str, Any]) -> str:
    """A report of `measure_morphs` as a table with its notes."""
    known = {figure.name: figure for figure in (*SHAPE_FIGURES, *VIEW_FIGURES, *PICTURE_FIGURES)}
    rows = []
    for name, values in report["figures"].items():
        shown = ("n/a" if v is None else known[name].format.format(v) for v in values.values())
        rows.append((known[name].heading, *shown))
    count = len(report["pairs"])
    lines = [
        text_table((f"mean of {count} pair{'s' * (count > 1)}", *Sides._fields), rows),
        "",
        "moved: what interpolate shows; codes: the fields of mixed codes; blend: the two fields mixed, which a morph",
        "has to beat; ends: their own value, or that from end to end",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _mean(name: str, rows: Sequence[Row], notes: dict[str, None]) -> dict[str, float | None]:
    """Means over the pairs that have the values of all ways; a note when some have not."""
    whole = [row[name] for row in rows if None not in row[name][:-1]]
    if whole and len(whole) < len(rows):
        lacking = f"the {len(rows) - len(whole)} of {len(rows)} pairs of which a frame shows nothing"
        notes[f"{name}: without {lacking}"] = None
    if not whole:
        return NOTHING._asdict()
    return Sides(*(_average(*column) for column in zip(*whole, strict=True)))._asdict()


def _load_alex(run: Run, weights: Path | None, notes: dict[str, None]) -> Lpips | None:
    """The network of LPIPS for pictures, where its weights are there and it takes the size; or a note."""
    if run.task.has_mesh and not run.task.sized:
        return None
    try:
        lpips = load_lpips("alex", weights)
        lpips.require_size(*_size(run))
        return lpips
    except (LpipsUnavailable, ValueError) as error:
        notes[f"ppl, pdv: n/a, {error}"] = None
        return None


def _measure_of(run: Run, seed: int, lpips: Lpips | None) -> Measure:
    if not run.task.has_camera:
        return PictureMeasure(run, lpips)
    return ViewMeasure(run, lpips) if run.task.sized else ShapeMeasure(run, seed)


def _moved_and_codes(run: Run, first: str, second: str) -> tuple[Way, Way]:
    """The ways from one scene to another that are those of a field."""
    morph = Morph(run[first], run[second])
    return (lambda t: morph.at(t).field), (lambda t: run.between(first, second, t).field)


# Shapes -------------------------------------------------------------------------------------------


class ShapeMeasure:
    """Surfaces between two shapes."""

    figures = SHAPE_FIGURES

    def __init__(self, run: Run, seed: int) -> None:
        self.run, self.generator = run, torch.Generator().manual_seed(seed)
        self.end = functools.lru_cache(maxsize=256)(self._end)

    def _end(self, name: str) -> _End:
        bound = self.run.bind(name)
        fine, coarse = (grid_values(bound, cells, bound.device) for cells in (CELLS, WAY_CELLS))
        surface = surface_of(fine)
        return _End(
            bound, fine, coarse, surface, slope_error(bound, surface, self.generator, bound.device), surface_of(coarse)
        )

    def pair(self, first: str, second: str) -> Row:
        a, b = self.end(first), self.end(second)
        ways, looks = _moved_and_codes(self.run, first, second), list[list[dict[str, float | None]]]()
        for way in ways:
            bounds = [(t, way(t)) for t in BETWEEN]
            looks.append([self._look(a, b, t, f, surface_of(grid_values(f, CELLS, f.device))) for t, f in bounds])
        mixes = [(t, functools.partial(_mix, a.bound, b.bound, t)) for t in BETWEEN]
        looks.append([self._look(a, b, t, mix, surface_of(torch.lerp(a.fine, b.fine, t))) for t, mix in mixes])
        ends = {
            "parts": (a.surface.parts + b.surface.parts) / 2,
            "euler": (a.surface.euler + b.surface.euler) / 2,
            "slope": _average(a.slope, b.slope),
            "volume": (a.surface.volume + b.surface.volume) / 2,
        }
        row: Row = {}
        for name, end in ends.items():
            row[name] = Sides.of([_average(*(look[name] for look in of_way)) for of_way in looks], end)
        whole = apart(a.coarse_surface, b.coarse_surface)
        places = [i / STEPS for i in range(1, STEPS)]
        frames = [[self._frame(way(t)) for t in places] for way in ways]
        frames.append([surface_of(torch.lerp(a.coarse, b.coarse, t)) for t in places])
        steps = [_way([a.coarse_surface, *of_way, b.coarse_surface]) for of_way in frames]
        for name, found, all_of_it in zip(("way", "largest_step"), zip(*steps, strict=True), whole, strict=True):
            row[name] = Sides.of([_over(one, all_of_it) for one in found], _known(all_of_it))
        return row

    def _frame(self, bound: BoundField) -> Surface:
        return surface_of(grid_values(bound, WAY_CELLS, bound.device, safety=SAFETY))

    def _look(
        self, a: _End, b: _End, t: float, fn: Callable[[Tensor], Tensor], surface: Surface
    ) -> dict[str, float | None]:
        """Figures of a surface between."""
        if surface.tree is None:
            return dict.fromkeys(("parts", "euler", "slope", "volume"))
        euler = (1.0 - t) * a.surface.euler + t * b.surface.euler
        volume = (1.0 - t) * a.surface.volume + t * b.surface.volume
        return {
            "parts": _over(surface.parts, (a.surface.parts + b.surface.parts) / 2),
            "euler": abs(surface.euler - euler),
            "slope": slope_error(fn, surface, self.generator, a.bound.device),
            "volume": _over(abs(surface.volume - volume), (a.surface.volume + b.surface.volume) / 2),
        }


class _End(NamedTuple):
    bound: BoundField
    fine: Tensor  # values on the grid, [CELLS + 1]^3
    coarse: Tensor  # [WAY_CELLS + 1]^3
    surface: Surface
    slope: float | None
    coarse_surface: Surface


def _mix(a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], t: float, x: Tensor) -> Tensor:
    return torch.lerp(a(x), b(x), t)


def _way(frames: Sequence[Surface]) -> tuple[float, float]:
    """(length, largest step) of a way; infinite when one frame has no surface."""
    steps = [apart(*pair) for pair in itertools.pairwise(frames)]
    return math.fsum(step.chamfer for step in steps), max(step.hausdorff for step in steps)


# Pictures -----------------------------------------------------------------------------------------


class PictureMeasure:
    """Pictures between two pictures."""

    figures = PICTURE_FIGURES

    def __init__(self, run: Run, lpips: Lpips | None) -> None:
        self.run, self.lpips, self.size = run, lpips, _size(run)

    def pair(self, first: str, second: str) -> Row:
        frames = 2 + (PICTURE_STEPS - 1 if self.lpips else len(BETWEEN))
        places = [i / (frames - 1) for i in range(frames)]
        task, shown = self.run.task, list[Tensor]()
        for way in _moved_and_codes(self.run, first, second):
            shown.append(torch.stack([task.picture(way(t), None, self.size) for t in places]).cpu())
        shown.append(torch.stack([torch.lerp(shown[0][0], shown[0][-1], t) for t in places]))
        between = [round(t * (frames - 1)) for t in BETWEEN]
        ends = float(total_variation(shown[0][[0, -1]]).mean())
        variation = [_over(float(total_variation(pictures[between]).mean()), ends) for pictures in shown]
        return {"variation": Sides.of(variation, ends), **_lpips_row(self.lpips, shown)}


def total_variation(pictures: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of pictures `[b h w c]`, across and down, summed: `[b]`."""
    across, down = pictures.diff(dim=2).abs().mean((1, 2, 3)), pictures.diff(dim=1).abs().mean((1, 2, 3))
    return across + down


class ViewMeasure:
    """Radiance between two scenes."""

    figures = VIEW_FIGURES

    def __init__(self, run: Run, lpips: Lpips | None) -> None:
        self.run, self.lpips, self.size = run, lpips, _size(run)
        self.rays = [Rays(*(part[None] for part in camera.rays())) for camera in orbit_cameras(run, CAMERAS, self.size)]
        self.end = functools.lru_cache(maxsize=256)(self._end)

    def _end(self, name: str) -> tuple[BoundField, float]:
        bound = self.run.bind(name)
        return bound, ghost(self._alpha(functools.partial(self.run.task.render_rays, bound), bound.device))

    def _alpha(self, renderer: Callable[[Rays], Rendered], device: torch.device) -> Tensor:
        """Opacities of the rays of all cameras."""
        return torch.cat([renderer(_to(rays, device)).alpha.flatten() for rays in self.rays])

    def pair(self, first: str, second: str) -> Row:
        (a, ghost_a), (b, ghost_b) = self.end(first), self.end(second)
        ends, render = (ghost_a + ghost_b) / 2, self.run.task.render_rays
        ways = _moved_and_codes(self.run, first, second)
        seen = [[ghost(self._alpha(functools.partial(render, way(t)), a.device)) for t in BETWEEN] for way in ways]
        seen.append(
            [ghost(self._alpha(functools.partial(render_blend, a, b, t), a.device)) for t in BETWEEN],
        )
        row: Row = {"ghost": Sides.of([_over(_average(*values), ends) for values in seen], _known(ends))}
        if self.lpips is None:
            return {**row, **_lpips_row(None, [])}
        places, rays = [i / PICTURE_STEPS for i in range(1, PICTURE_STEPS)], _to(self.rays[0], a.device)
        outer = [render(bound, rays) for bound in (a, b)]
        frames = [[render(way(t), rays) for t in places] for way in ways]
        frames.append([render_blend(a, b, t, rays) for t in places])
        shown = [self._pictures([outer[0], *of_way, outer[1]]) for of_way in frames]
        return {**row, **_lpips_row(self.lpips, shown)}

    def _pictures(self, frames: Sequence[Rendered]) -> Tensor:
        """On white, `[f h w 3]`."""
        return torch.stack([on_background(frame).reshape(*self.size, 3) for frame in frames]).clamp(0.0, 1.0).cpu()


def ghost(alpha: Tensor) -> float:
    """Sum of 4a(1-a) over that of a: 0 for a crisp silhouette, 2 where all of it is half transparent."""
    area = float(alpha.sum())
    return float((4.0 * alpha * (1.0 - alpha)).sum()) / area if area > 0.0 else math.nan


def render_blend(a: BoundField, b: BoundField, t: float, rays: Rays) -> Rendered:
    """Rays `[1 r 3]` of the mix of two radiance fields: mixed densities, and the colours of what is dense.

    Not differentiable.
    """

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        (density_a, color_a), (density_b, color_b) = a(x, d, counts), b(x, d, counts)
        density_a, density_b = (1.0 - t) * density_a, t * density_b
        density = density_a + density_b
        return density, (density_a * color_a + density_b * color_b) / density.clamp_min(1e-9)

    occupied, field = a.occupancy(OCCUPANCY) | b.occupancy(OCCUPANCY), a.field
    return render_rays(lambda block: render_volume(fn, block, occupied, step=field.step, space=field.space), rays)


def _lpips_row(lpips: Lpips | None, ways: Sequence[Tensor]) -> Row:
    """Sum and variance of the LPIPS of neighbouring frames `[f h w 3]` of the ways."""
    if lpips is None:
        return {name: NOTHING for name in ("ppl", "pdv")}
    steps = [lpips(frames[:-1], frames[1:]).double() for frames in ways]
    whole = float(lpips(ways[0][:1], ways[0][-1:]))
    return {
        "ppl": Sides.of([float(step.sum()) for step in steps], whole),
        "pdv": Sides.of([float(step.var(correction=0)) for step in steps], None),
    }


# What all share -----------------------------------------------------------------------------------


def _size(run: Run) -> tuple[int, int]:
    """The size of the pictures of a run, at most `LARGEST` pixels a side."""
    height, width = native_size(run)
    scale = max(height, width, LARGEST) / LARGEST
    return max(round(height / scale), 1), max(round(width / scale), 1)


def _to(rays: Rays, device: torch.device) -> Rays:
    return Rays(*(part.to(device) for part in rays))


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _over(value: float | None, ends: float) -> float | None:
    return None if value is None or not ends > 0.0 else _known(value / ends)


def _average(*values: float | None) -> float | None:
    """The mean; None when one is missing."""
    known = [value for value in values if _known(value) is not None]
    return math.fsum(v for v in known if v is not None) / len(known) if known and len(known) == len(values) else None
