"""Where a picture of a scene may be wrong: a deviation for each pixel, and how well it agrees with errors.

    deviation^2 = code + share * edges + opacity * surface + (1 - opacity) * empty

Four things make a picture wrong, and each is looked at where it can be seen without the truth. What is not known of
the code: the variance over sampled fields, if there are any. Edges: the variance over rays shifted within the pixel,
because what is a little off is wrong where colours change (in silhouettes and textures). What no code can show is
measured on what was seen of the scene: square errors are kept where they were made, on the surface, or all along the
rays that went through nothing, and expected again where another ray passes. A ray that meets nothing takes the worst
of the cells that it crosses, for what is missing there can be seen in it (as in space carving, Kutulakos, Seitz 2000,
"A theory of shape by space carving": what all pictures agree to be empty is empty).

This is a noise level that depends on the place (Nix, Weigend 1994, "Estimating the mean and variance of the target
probability distribution"), estimated by averages in cells from fine to coarse instead of a network: where a fine cell
saw little, the next coarser one answers (in the way of Katz 1987, "Estimation of probabilities from sparse data").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data import Points, SceneDataset, View, on_device
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, ImageField, RadianceField, SDFField
from hyperfields.rendering.base import on_background
from hyperfields.rendering.image import pixel_centers
from hyperfields.rendering.pictures import CELLS, RAYS_PER_BLOCK
from hyperfields.rendering.surface import trace_surface
from hyperfields.rendering.volume import render_volume

SEEN = 2**16  # rays or points that the misfit is measured on
HIT = 0.3  # opacity from which on a ray has a place
SIDES = {"surface": (65, 33, 17, 9, 5), "empty": (33, 17, 9)}  # corners of cells along the box, fine to coarse
COARSER = 0.03  # weight of an observation in the next coarser cells
ALONG, REACH = 24, 1.2  # places on a ray that meets nothing, so far to both sides of its middle
SHIFTS = ((-0.35, -0.35), (0.35, -0.35), (-0.35, 0.35), (0.35, 0.35))  # within a pixel
EDGES = 0.15  # share of their variance: edges are off by less than the shifts, about a seventh of a pixel
FAINT = (1 / 510) ** 2  # square errors of empty space below half a grey level are none
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.8, 0.9, 0.95, 0.99)  # of the calibration figure


@dataclasses.dataclass(frozen=True)
class ErrorCells:
    """Mean square errors by place: weighted sums and weights `[corners^d 2]` of each size of cells, and the mean."""

    tables: tuple[tuple[int, Tensor], ...]
    mean: float

    @classmethod
    def gather(cls, places: Tensor, square: Tensor, sides: tuple[int, ...]) -> ErrorCells:
        """places `[m d]` in [0, 1], square errors `[m]`; an observation is shared by the corners of its cell."""
        tables = []
        for side in sides:
            table = places.new_zeros(side ** places.shape[-1], 2)
            for corner, weight in _corners(places, side):
                table.index_add_(0, corner, torch.stack((weight * square, weight), -1))
            tables.append((side, table))
        return cls(tuple(tables), float(square.mean()) if len(square) else 0.0)

    def at(self, places: Tensor) -> Tensor:
        """The mean square error to expect at places `[... d]` in [0, 1] -> `[...]`. Far from all seen: the mean."""
        flat = places.reshape(-1, places.shape[-1])
        total = torch.zeros(len(flat), 2, device=flat.device)
        factor = 1.0
        for side, table in self.tables:
            for corner, weight in _corners(flat, side):
                total += factor * weight[:, None] * table[corner]
            factor *= COARSER
        found: Tensor = (total[:, 0] + factor * self.mean) / (total[:, 1] + factor)
        return found.reshape(places.shape[:-1])


def _corners(places: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """(number, weight) of the corners of each place's cell, `[m]` each."""
    dims = places.shape[-1]
    scaled = (places * (side - 1)).clamp(0.0, side - 1.001)
    first = scaled.floor()
    rest, index = scaled - first, first.long()
    found = []
    for number in range(2**dims):
        bits = torch.tensor([number >> axis & 1 for axis in range(dims)], device=places.device)
        weight = torch.where(bits.bool(), rest, 1.0 - rest).prod(-1)
        corner = index + bits
        flat = corner[:, 0]
        for axis in range(1, dims):
            flat = flat * side + corner[:, axis]
        found.append((flat, weight))
    return found


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Square errors of a field on what was seen of its scene: on surfaces, and in empty space (views only)."""

    surface: ErrorCells
    empty: ErrorCells | None = None


@torch.no_grad()
def misfit(bound: BoundField, family: SceneDataset, name: str, *, seed: int = 0) -> Misfit:
    """Measure the misfit of a scene's field on a random part of what was seen of it.

    Args:
        family: what was fitted or looked at.

    Raises:
        InputError: a scene that the family does not have.
    """
    if name not in family.names:
        raise InputError(f"scene {name!r}: not in the family, so what was seen of it is not known")
    generator = torch.Generator(bound.device).manual_seed(seed)
    probe = torch.tensor([family.names.index(name)], device=bound.device)
    batch = on_device(family, bound.device).batch(probe, SEEN, generator)
    if isinstance(batch, Points):
        square = (bound(batch.x) - batch.target)[0].square().mean(-1)
        return Misfit(ErrorCells.gather(_unit(bound, batch.x[0]), square, SIDES["surface"]))
    color, alpha, places = _look(bound, batch.rays)
    truth = (batch.rgba[..., :3] * batch.rgba[..., 3:] + 1.0 - batch.rgba[..., 3:])[0]
    square = (color - truth).square().mean(-1)
    hit = alpha > HIT
    surface = ErrorCells.gather(_unit(bound, places[hit]), square[hit], SIDES["surface"])
    some = (~hit).nonzero().squeeze(1)[: SEEN // 8]
    along, inside = _along(places[some], batch.rays.directions[0, some])
    spread = square[some, None].expand(-1, ALONG)[inside]
    return Misfit(surface, ErrorCells.gather(_unit(bound, along[inside]), spread, SIDES["empty"]))


def _unit(bound: BoundField, places: Tensor) -> Tensor:
    """Scene frame -> [0, 1]^d."""
    return places if isinstance(bound.field, ImageField) else 0.5 * (places + 1.0)


def _along(middle: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Places on rays, by their middles and directions `[r 3]`, and which are in the box: `[r ALONG 3]`, `[r ALONG]`."""
    way = torch.linspace(-REACH, REACH, ALONG, device=middle.device)[:, None]
    places = middle[:, None] + way * directions[:, None]
    return places, (places.abs() < 1.0).all(-1)


def _look(bound: BoundField, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """(colour on white, opacity, place) of rays `[1 r 3]`: `[r 3]`, `[r]`, `[r 3]`, in blocks.

    A ray that hits nothing is where it is nearest to the middle of the box.
    """
    assert isinstance(bound.field, RadianceField)
    parts = []
    for origins, directions in zip(
        rays.origins.split(RAYS_PER_BLOCK, 1), rays.directions.split(RAYS_PER_BLOCK, 1), strict=True
    ):
        block = Rays(origins, directions)
        seen = render_volume(bound, block, bound.occupancy(CELLS), step=bound.field.step, visible=bound.visible_samples)
        distance = torch.where(seen.alpha > HIT, seen.depth, -(origins * directions).sum(-1))
        parts.append((on_background(seen)[0], seen.alpha[0], (origins + distance[..., None] * directions)[0]))
    color, alpha, places = (torch.cat(part) for part in zip(*parts, strict=True))
    return color, alpha, places


@torch.no_grad()
def deviation_picture(
    bound: BoundField, found: Misfit, camera: Camera | None, size: tuple[int, int], samples: Sequence[BoundField] = ()
) -> tuple[Tensor, Tensor]:
    """(picture `[h w 3]`, deviation `[h w]`) of one scene. Not differentiable.

    The deviation is that of a colour channel; for shapes, which have no colours of their own, that of the signed
    distance at the surface that is seen, in scene units, and the picture holds the places of that surface.

    Args:
        camera: from where, brought to `size`; images have none.
        samples: fields drawn from the distribution over codes or weights, if there is one.
    """
    height, width = size
    if isinstance(bound.field, ImageField):
        centers = pixel_centers(height, width, bound.device)
        pixel = centers.new_tensor([1.0 / width, 1.0 / height])
        shifted = [centers, *(centers + pixel * centers.new_tensor(shift) for shift in SHIFTS)]
        colors = torch.stack([bound(x[None])[0] for x in shifted])
        square = found.surface.at(centers) + _variance([sample(centers[None])[0] for sample in samples])
        return _reshaped(colors, square + EDGES * _variance(list(colors)), size)
    if camera is None:
        raise ValueError("deviation_picture: got no camera, which shapes and views need")
    camera = camera.resized(height, width).to(bound.device)
    if isinstance(bound.field, SDFField):
        origins, directions = camera.rays()
        seen = trace_surface(bound, Rays(origins[None], directions[None]))
        hit = seen.depth[0].isfinite()
        places = torch.where(hit[:, None], origins + seen.depth[0, :, None].nan_to_num(posinf=0.0) * directions, 0.0)
        square = points_deviation(found, places, samples, bound).square() * hit
        return _reshaped(places[None], square, size)
    square, colors = _view_square(bound, found, camera, samples)
    return _reshaped(colors, square, size)


def _view_square(
    bound: BoundField, found: Misfit, camera: Camera, samples: Sequence[BoundField]
) -> tuple[Tensor, Tensor]:
    """(square of the deviation `[r]`, colours of the shifted pictures, the first one not shifted, `[k r 3]`)."""

    def rays(x: float, y: float) -> Rays:
        moved = dataclasses.replace(camera, cx=camera.cx + x, cy=camera.cy + y)
        return Rays(*(part[None] for part in moved.rays()))

    middle = rays(0.0, 0.0)
    color, alpha, places = _look(bound, middle)
    colors = torch.stack([color, *(_look(bound, rays(*shift))[0] for shift in SHIFTS)])
    square = alpha * found.surface.at(_unit(bound, places))
    if found.empty is not None:
        open_ = (alpha < 0.9).nonzero().squeeze(1)
        along, inside = _along(places[open_], middle.directions[0, open_])
        worst = (found.empty.at(_unit(bound, along)) * inside).amax(1)
        square[open_] += (1.0 - alpha[open_]) * worst * (worst > FAINT)
    square += _variance([_look(sample, middle)[0] for sample in samples]) + EDGES * _variance(list(colors))
    return square, colors


@torch.no_grad()
def points_deviation(found: Misfit, x: Tensor, samples: Sequence[BoundField], bound: BoundField) -> Tensor:
    """The deviation `[m]` of what a field of an image or a shape says at points `[m d]`."""
    said = _variance([sample(x[None])[0] for sample in samples])
    return (found.surface.at(_unit(bound, x)) + said).sqrt()


def _variance(values: Sequence[Tensor]) -> Tensor:
    """Over a list of `[m c]`, mean over c: `[m]`; of less than two: none."""
    return torch.stack(list(values)).var(0).mean(-1) if len(values) > 1 else torch.zeros(())


def _reshaped(colors: Tensor, square: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return colors[0].reshape(*size, 3), square.sqrt().reshape(size)


def uncertainty_image(deviation: Tensor) -> Tensor:
    """Deviations `[h w]` as a grey picture `[h w 3]` in [0, 1]: white is the largest."""
    grey = deviation / deviation.max().clamp(min=1e-12)
    return grey[..., None].expand(-1, -1, 3)


# Errors against deviations ------------------------------------------------------------------------


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of two tensors of one shape; 1: the same order. 0 when one of them is constant."""
    pair = torch.stack((_ranks(a.flatten()), _ranks(b.flatten())))
    value = float(torch.corrcoef(pair)[0, 1])
    return 0.0 if math.isnan(value) else value


def _ranks(values: Tensor) -> Tensor:
    """Ranks, equal values sharing the mean of theirs."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = last - 0.5 * (counts - 1)
    return ranks[place]


def coverage(error: Tensor, deviation: Tensor, levels: Sequence[float] = LEVELS) -> list[float]:
    """The share of errors `[m c]` within the central interval of N(0, deviation^2), `[m]`, of each level.

    The source of the calibration curve: Kuleshov, Fenner, Ermon 2018, "Accurate uncertainties for deep learning using
    calibrated regression", section 3.
    """
    if error.numel() == 0:
        return [0.0 for _ in levels]
    size, normal = error.abs(), torch.distributions.Normal(0.0, 1.0)
    widths = [float(normal.icdf(torch.tensor(0.5 + 0.5 * level))) for level in levels]
    return [float((size <= width * deviation[:, None]).float().mean()) for width in widths]


@torch.no_grad()
def calibrate(
    names: Sequence[str],
    fields: Callable[[str], tuple[BoundField, Sequence[BoundField]]],
    family: SceneDataset,
    split: str = "test",
    *,
    views: int | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, Any]:
    """Compare predicted deviations with the errors made on what was left out.

    Views are compared on the pictures of a split; images on their pixels, shapes on fresh points near the surface,
    which have no parts that were left out.

    Args:
        fields: a scene's field, and samples of it if there is a distribution.
        family: what was seen, and the truth.
        views: at most so many of each scene.

    Returns:
        What JSON can hold: `scenes` {name {error deviation rank_all rank_inside}}, means and the calibration curve
        `coverage` {expected observed}. `inside` are the pixels of the thing itself (opaque in the truth); the curve is
        theirs, each channel for itself.
    """
    rows: dict[str, dict[str, float]] = {}
    errors, deviations = [], []
    for done, name in enumerate(names):
        bound, samples = fields(name)
        error, deviation, inside = _compared(bound, samples, family, name, split, views)
        size = error.abs().mean(-1)
        rows[name] = {
            "error": float(size[inside].mean()),
            "deviation": float(deviation[inside].mean()),
            "rank_all": rank_correlation(size, deviation),
            "rank_inside": rank_correlation(size[inside], deviation[inside]),
        }
        errors.append(error[inside])
        deviations.append(deviation[inside])
        report(done + 1, len(names), name)
    error, deviation = torch.cat(errors), torch.cat(deviations)
    bins = deviation.argsort().tensor_split(20)
    return {
        "kind": family.kind,
        "split": split if family.kind == "views" else None,
        "scenes": rows,
        "mean": {key: sum(row[key] for row in rows.values()) / len(rows) for key in next(iter(rows.values()))},
        "coverage": {"expected": list(LEVELS), "observed": coverage(error, deviation)},
        "by_deviation": {
            "deviation": [float(deviation[part].square().mean().sqrt()) for part in bins],
            "error": [float(error[part].square().mean().sqrt()) for part in bins],
        },
    }


def _compared(
    bound: BoundField, samples: Sequence[BoundField], family: SceneDataset, name: str, split: str, views: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(errors `[m c]`, deviations `[m]`, which are inside `[m]`) of a scene."""
    found, number = misfit(bound, family, name), family.names.index(name)
    if isinstance(bound.field, SDFField):
        generator = torch.Generator(bound.device).manual_seed(1)
        probe = torch.tensor([number], device=bound.device)
        batch = on_device(family, bound.device).batch(probe, SEEN // 4, generator)
        assert isinstance(batch, Points)
        error = (bound(batch.x) - batch.target)[0]
        return error, points_deviation(found, batch.x[0], samples, bound), torch.ones(len(error), dtype=torch.bool)
    truth = family.reference(number, split)
    if isinstance(truth, Tensor):
        color, deviation = deviation_picture(bound, found, None, (truth.shape[0], truth.shape[1]), samples)
        error = (color - truth[..., :3].to(color)).reshape(-1, 3)
        return error, deviation.flatten(), torch.ones(len(error), dtype=torch.bool)
    parts = []
    for view in [view for view in truth if isinstance(view, View)][:views]:
        rgba = view.rgba.to(bound.device)
        color, deviation = deviation_picture(bound, found, view.camera, (rgba.shape[0], rgba.shape[1]), samples)
        error = color - (rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:])
        parts.append((error.reshape(-1, 3), deviation.flatten(), rgba[..., 3].flatten() > 0.5))
    error, deviation, inside = (torch.cat(part) for part in zip(*parts, strict=True))
    return error, deviation, inside


def format_calibration(report: dict[str, Any]) -> str:
    """The table of a report: scenes, their mean, and the curve at two levels."""
    width = max(5, *(len(name) for name in report["scenes"]))
    lines = [f"{'scene':{width}}  error   deviation  rank inside  everywhere"]
    for name, row in {**report["scenes"], "mean": report["mean"]}.items():
        lines.append(
            f"{name:{width}}  {row['error']:.4f}  {row['deviation']:.4f}     {row['rank_inside']:.2f}         "
            f"{row['rank_all']:.2f}"
        )
    curve = dict(zip(*report["coverage"].values(), strict=True))
    lines.append(f"errors within one deviation {curve[0.68]:.0%} (68 % expected), within two {curve[0.95]:.0%} (95 %)")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """The calibration curve, and errors against predicted deviations, as a picture.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(f"{path}: needs matplotlib; pip install 'hyperfields[plots]'") from None
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0.0, 1.0], [0.0, 1.0], color="0.7", zorder=0)
    left.plot(report["coverage"]["expected"], report["coverage"]["observed"], "o-")
    left.set(xlabel="expected share of errors within the interval", ylabel="observed share", title="calibration")
    binned = report["by_deviation"]
    limit = max(*binned["deviation"], *binned["error"], 1e-6)
    right.plot([0.0, limit], [0.0, limit], color="0.7", zorder=0)
    right.plot(binned["deviation"], binned["error"], "o-")
    mean = report["mean"]
    title = f"rank correlation {mean['rank_inside']:.2f} inside, {mean['rank_all']:.2f} everywhere"
    right.set(xlabel="predicted deviation (a twentieth each)", ylabel="error, root mean square", title=title)
    figure.savefig(path, dpi=120)
