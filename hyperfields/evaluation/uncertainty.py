"""Uncertainty of pictures: a standard deviation for each pixel, and how well it agrees with errors.

    std^2 = code + share * edges + opacity * surface + (1 - opacity) * empty

Four terms, each estimated without the reference. Code: the variance over fields sampled from a posterior, if there is
one. Edges: the variance over rays shifted within the pixel, since a small displacement is an error where colours change
(silhouettes and textures). Surface and empty space: squared errors on the observed data, stored in cells at the
surface, or along the whole ray where it hits nothing, and expected again of other rays through these cells. A ray that
hits nothing takes the largest value of the cells that it crosses: missing geometry shows there (as in space carving,
Kutulakos, Seitz 2000, "A theory of shape by space carving": what is empty in all pictures is empty).

This is a noise level that depends on the place (Nix, Weigend 1994, "Estimating the mean and variance of the target
probability distribution"), estimated by averages in cells from fine to coarse instead of a network: where a fine cell
has few observations, the next coarser one decides (as in Katz 1987, "Estimation of probabilities from sparse data").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data import Points, SceneDataset, View, on_device
from hyperfields.errors import InputError
from hyperfields.evaluation.tables import text_table
from hyperfields.fields import BoundField
from hyperfields.rendering.base import on_background
from hyperfields.rendering.enlarge import enlarged
from hyperfields.rendering.image import pixel_centers
from hyperfields.tasks import Task, task_of
from hyperfields.tasks.base import behind_views, on_white

SEEN = 2**16  # rays or points that the misfit is measured on
HIT = 0.3  # opacity from which a ray counts as a hit
SIDES = {"surface": (65, 33, 17, 9, 5), "empty": (33, 17, 9)}  # corners of cells along the box, fine to coarse
COARSER = 0.03  # weight of an observation in the next coarser cells
ALONG, REACH = 24, 1.2  # places on a ray without a hit, and their range to both sides of its middle
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
        """Expected squared error at places `[... d]` in [0, 1]: `[...]`. Far from all observations: the mean."""
        flat = places.reshape(-1, places.shape[-1])
        total = torch.zeros(len(flat), 2, device=flat.device)
        factor = 1.0
        for side, table in self.tables:
            for corner, weight in _corners(flat, side):
                total += factor * weight[:, None] * table[corner]
            factor *= COARSER
        mean: Tensor = (total[:, 0] + factor * self.mean) / (total[:, 1] + factor)
        return mean.reshape(places.shape[:-1])


def _corners(places: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """(number, weight) of the corners of each place's cell, `[m]` each."""
    dims = places.shape[-1]
    scaled = (places * (side - 1)).clamp(0.0, side - 1.001)
    first = scaled.floor()
    rest, index = scaled - first, first.long()
    corners = []
    for number in range(2**dims):
        bits = torch.tensor([number >> axis & 1 for axis in range(dims)], device=places.device)
        weight = torch.where(bits.bool(), rest, 1.0 - rest).prod(-1)
        corner = index + bits
        flat = corner[:, 0]
        for axis in range(1, dims):
            flat = flat * side + corner[:, axis]
        corners.append((flat, weight))
    return corners


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Squared errors of a field on the observed data of its scene: on surfaces, and in empty space (views only)."""

    surface: ErrorCells
    empty: ErrorCells | None = None


@torch.no_grad()
def misfit(bound: BoundField, data: SceneDataset, name: str, *, seed: int = 0, task: Task | None = None) -> Misfit:
    """Squared errors of a scene's field on a random part of its observed data.

    Args:
        data: the data that the scene was fitted to or inferred from.
        task: of a kind that is your own.

    Raises:
        InputError: a scene that the data do not have.
    """
    if name not in data.names:
        raise InputError(f"scene {name!r}: not in the family, so what was seen of it is not known")
    task = task or task_of(bound.field.kind)
    generator = torch.Generator(bound.device).manual_seed(seed)
    probe = torch.tensor([data.names.index(name)], device=bound.device)
    batch = on_device(data, bound.device).batch(probe, SEEN, generator)
    if isinstance(batch, Points):
        square = (bound(batch.x) - batch.target)[0].square().mean(-1)
        return Misfit(ErrorCells.gather(_unit(task, batch.x[0]), square, SIDES["surface"]))
    behind = None if batch.behind is None else batch.behind[0]
    color, alpha, places = _rendered(task, bound, batch.rays, behind)
    square = (color - on_white(batch.rgba[0], behind)).square().mean(-1)
    hit = alpha > HIT
    surface = ErrorCells.gather(_unit(task, places[hit]), square[hit], SIDES["surface"])
    some = (~hit).nonzero().squeeze(1)[: SEEN // 8]
    along, inside = _along(places[some], batch.rays.directions[0, some])
    spread_out = square[some, None].expand(-1, ALONG)[inside]
    return Misfit(surface, ErrorCells.gather(_unit(task, along[inside]), spread_out, SIDES["empty"]))


def _unit(task: Task, places: Tensor) -> Tensor:
    """Points of a field -> [0, 1]^d."""
    low, high = task.box
    return (places - low) / (high - low)


def _along(middle: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Places on rays, by their middles and directions `[r 3]`, and which are in the box: `[r ALONG 3]`, `[r ALONG]`."""
    way = torch.linspace(-REACH, REACH, ALONG, device=middle.device)[:, None]
    places = middle[:, None] + way * directions[:, None]
    return places, (places.abs() < 1.0).all(-1)


def _rendered(task: Task, bound: BoundField, rays: Rays, behind: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(colour, opacity, place) of rays `[1 r 3]`: `[r 3]`, `[r]`, `[r 3]`.

    Colours are over `behind` `[3]` or `[1 3]`, white where that is None or NaN. A ray that hits nothing is where it is
    nearest to the middle of the box.
    """
    rendered = task.render_rays(bound, rays)
    origins, directions = rays.origins, rays.directions.nan_to_num()  # where a lens sees nothing: at the camera
    distance = torch.where(rendered.alpha > HIT, rendered.depth, -(origins * directions).sum(-1))
    places = origins + distance[..., None] * directions
    back = 1.0 if behind is None else behind.nan_to_num(1.0).to(rendered.rgb)
    return on_background(rendered, back)[0], rendered.alpha[0], places[0]


@torch.no_grad()
def std_picture(
    bound: BoundField,
    errors: Misfit,
    camera: Camera | None,
    size: tuple[int, int],
    samples: Sequence[BoundField] = (),
    *,
    task: Task | None = None,
    behind: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(picture `[h w 3]`, standard deviation `[h w]`) of one scene. Not differentiable.

    The standard deviation is that of a colour channel; for shapes, which have no colours of their own, that of the
    signed distance at the visible surface, in scene units, and the picture holds points of that surface.

    Args:
        errors: of the scene, from `misfit`.
        camera: from where, brought to `size`; images have none.
        samples: fields drawn from the distribution over codes or weights, if there is one.
        task: of a kind that is your own.
        behind: of views, the colour `[3]` behind the scene, default white.
    """
    height, width = size
    task = task or task_of(bound.field.kind)
    if not task.has_camera:
        fitted = getattr(bound.field, "pixels", None)
        if fitted is not None and fitted != size:  # between pixels nothing is known of it
            color, std = std_picture(bound, errors, None, fitted, samples, task=task)
            return enlarged(color.clamp(0.0, 1.0), size), enlarged(std[..., None], size, steps=0)[..., 0].clamp(min=0.0)
        centers = pixel_centers(height, width, bound.device)
        pixel = centers.new_tensor([1.0 / width, 1.0 / height])
        shifted = [centers, *(centers + pixel * centers.new_tensor(shift) for shift in SHIFTS)]
        colors = torch.stack([bound(x[None])[0] for x in shifted])
        square = errors.surface.at(centers) + _variance([sample(centers[None])[0] for sample in samples])
        return _reshaped(colors, square + EDGES * _variance(list(colors)), size)
    if camera is None:
        raise ValueError("std_picture: got no camera, which shapes and views need")
    camera = camera.resized(height, width).to(bound.device)
    if task.batch is Points:  # a surface without colours of its own
        rays = Rays(*(part[None] for part in camera.rays()))
        depth = task.render_rays(bound, rays).depth[0]
        hit = depth.isfinite()
        seen = rays.origins[0] + depth[:, None].nan_to_num(posinf=0.0) * rays.directions[0]
        places = torch.where(hit[:, None], seen, 0.0)
        square = points_std(errors, places, samples, bound, task=task).square() * hit
        return _reshaped(places[None], square, size)
    square, colors = _view_square(task, bound, errors, camera, samples, behind)
    return _reshaped(colors, square, size)


def _view_square(
    task: Task,
    bound: BoundField,
    errors: Misfit,
    camera: Camera,
    samples: Sequence[BoundField],
    behind: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(variance `[r]`, colours of the shifted pictures, the first one not shifted, `[k r 3]`)."""

    def rays(x: float, y: float) -> Rays:
        moved = dataclasses.replace(camera, cx=camera.cx + x, cy=camera.cy + y)
        return Rays(*(part[None] for part in moved.rays()))

    middle = rays(0.0, 0.0)
    color, alpha, places = _rendered(task, bound, middle, behind)
    colors = torch.stack([color, *(_rendered(task, bound, rays(*shift), behind)[0] for shift in SHIFTS)])
    square = alpha * errors.surface.at(_unit(task, places))
    if errors.empty is not None:
        open_ = (alpha < 0.9).nonzero().squeeze(1)
        along, inside = _along(places[open_], middle.directions[0, open_].nan_to_num())
        worst = (errors.empty.at(_unit(task, along)) * inside).amax(1)
        square[open_] += (1.0 - alpha[open_]) * worst * (worst > FAINT)
    drawn = [_rendered(task, sample, middle, behind)[0] for sample in samples]
    square += _variance(drawn) + EDGES * _variance(list(colors))
    return square, colors


@torch.no_grad()
def points_std(
    errors: Misfit, x: Tensor, samples: Sequence[BoundField], bound: BoundField, *, task: Task | None = None
) -> Tensor:
    """Standard deviation `[m]` of the values of an image's or a shape's field at points `[m d]`."""
    task = task or task_of(bound.field.kind)
    code = _variance([sample(x[None])[0] for sample in samples])
    return (errors.surface.at(_unit(task, x)) + code).sqrt()


def _variance(values: Sequence[Tensor]) -> Tensor:
    """Over a list of `[m c]`, mean over c: `[m]`; of less than two: none."""
    return torch.stack(list(values)).var(0).mean(-1) if len(values) > 1 else torch.zeros(())


def _reshaped(colors: Tensor, square: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return colors[0].reshape(*size, 3), square.sqrt().reshape(size)


def uncertainty_image(std: Tensor) -> Tensor:
    """Standard deviations `[h w]` as a grey picture `[h w 3]` in [0, 1]: white is the largest."""
    grey = std / std.max().clamp(min=1e-12)
    return grey[..., None].expand(-1, -1, 3)


# Errors against standard deviations ------------------------------------------------------------------------


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


def coverage(error: Tensor, std: Tensor, levels: Sequence[float] = LEVELS) -> list[float]:
    """The share of errors `[m c]` within the central interval of N(0, std^2), `[m]`, of each level.

    The source of the calibration curve: Kuleshov, Fenner, Ermon 2018, "Accurate uncertainties for deep learning using
    calibrated regression", section 3.
    """
    if error.numel() == 0:
        return [0.0 for _ in levels]
    size, normal = error.abs(), torch.distributions.Normal(0.0, 1.0)
    widths = [float(normal.icdf(torch.tensor(0.5 + 0.5 * level))) for level in levels]
    return [float((size <= width * std[:, None]).float().mean()) for width in widths]


@torch.no_grad()
def calibrate(
    names: Sequence[str],
    fields: Callable[[str], tuple[BoundField, Sequence[BoundField]]],
    data: SceneDataset,
    split: str = "test",
    *,
    views: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
    task: Task | None = None,
) -> dict[str, Any]:
    """Agreement of predicted standard deviations with errors on held-out data.

    Views are compared on the pictures of a split; images on their pixels, shapes on fresh points near the surface,
    which have no parts that were left out.

    Args:
        fields: a scene's field, and samples of it if there is a distribution.
        data: observed data, and the references.
        views: at most so many of each scene.
        progress: called as (done, total, name) after each scene.
        task: of a kind that is your own.

    Returns:
        What JSON can hold: `scenes` {name {error deviation rank_all rank_inside}}, means and the calibration curve
        `coverage` {expected observed}. `inside` are the pixels of the thing itself (opaque in the truth); the curve is
        theirs, each channel for itself.
    """
    rows: dict[str, dict[str, float]] = {}
    errors, stds = [], []
    task = task or task_of(data.kind)
    for done, name in enumerate(names):
        bound, samples = fields(name)
        error, std, inside = _compared(task, bound, samples, data, name, split, views)
        size = error.abs().mean(-1)
        rows[name] = {
            "error": float(size[inside].mean()),
            "deviation": float(std[inside].mean()),
            "rank_all": rank_correlation(size, std),
            "rank_inside": rank_correlation(size[inside], std[inside]),
        }
        errors.append(error[inside])
        stds.append(std[inside])
        progress(done + 1, len(names), name)
    error, std = torch.cat(errors), torch.cat(stds)
    bins = std.argsort().tensor_split(20)
    return {
        "kind": data.kind,
        "split": split if task.has_splits else None,
        "scenes": rows,
        "mean": {key: sum(row[key] for row in rows.values()) / len(rows) for key in next(iter(rows.values()))},
        "coverage": {"expected": list(LEVELS), "observed": coverage(error, std)},
        "by_deviation": {
            "deviation": [float(std[part].square().mean().sqrt()) for part in bins],
            "error": [float(error[part].square().mean().sqrt()) for part in bins],
        },
    }


def _compared(
    task: Task,
    bound: BoundField,
    samples: Sequence[BoundField],
    data: SceneDataset,
    name: str,
    split: str,
    views: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(errors `[m c]`, standard deviations `[m]`, which are inside `[m]`) of a scene."""
    errors, number = misfit(bound, data, name, task=task), data.names.index(name)
    if not task.sized:  # no pictures to compare with: values at points that were not drawn before
        generator = torch.Generator(bound.device).manual_seed(1)
        probe = torch.tensor([number], device=bound.device)
        batch = on_device(data, bound.device).batch(probe, SEEN // 4, generator)
        assert isinstance(batch, Points)
        error = (bound(batch.x) - batch.target)[0]
        std = points_std(errors, batch.x[0], samples, bound, task=task)
        return error, std, torch.ones(len(error), dtype=torch.bool, device=error.device)
    reference = data.reference(number, split)
    if isinstance(reference, Tensor):
        size = (reference.shape[0], reference.shape[1])
        color, std = std_picture(bound, errors, None, size, samples, task=task)
        error = (color - reference[..., :3].to(color)).reshape(-1, 3)
        return error, std.flatten(), torch.ones(len(error), dtype=torch.bool, device=error.device)
    parts = []
    for view in [view for view in reference if isinstance(view, View)][:views]:
        rgba, behind = view.rgba.to(bound.device), behind_views([view])[0].to(bound.device)
        size = (rgba.shape[0], rgba.shape[1])
        color, std = std_picture(bound, errors, view.camera, size, samples, task=task, behind=behind)
        error, inside = (color - on_white(rgba, behind)).reshape(-1, 3), rgba[..., 3].flatten() > 0.5
        known = view.camera.rays().directions.isfinite().all(-1)
        known = (known if view.mask is None else known & view.mask.flatten()).to(bound.device)
        parts.append((error[known], std.flatten()[known], inside[known]))
    error, std, inside = (torch.cat(part) for part in zip(*parts, strict=True))
    return error, std, inside


def format_calibration(report: dict[str, Any]) -> str:
    """The table of a report: scenes, their mean, and the curve at two levels."""
    rows = [
        (name, f"{row['error']:.4f}", f"{row['deviation']:.4f}", f"{row['rank_inside']:.2f}", f"{row['rank_all']:.2f}")
        for name, row in {**report["scenes"], "mean": report["mean"]}.items()
    ]
    head = ("scene", "error", "deviation", "rank inside", "everywhere")
    curve = dict(zip(*report["coverage"].values(), strict=True))
    text = f"errors within one deviation {curve[0.68]:.0%} (68 % expected), within two {curve[0.95]:.0%} (95 %)"
    return f"{text_table(head, rows, rules=False)}\n{text}"
