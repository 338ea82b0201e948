"""How good a fitted run is, measured against the data: the report that `hyperfields eval` prints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import Kind, Mesh, SceneDataset, View, fingerprint
from hyperfields.errors import InputError
from hyperfields.evaluation import metrics
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, Net, load_lpips
from hyperfields.fields import RadianceField
from hyperfields.hypernets import Independent
from hyperfields.model import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.pictures import CELLS, RAYS
from hyperfields.rendering.volume import on_background, render_volume, sample_image
from hyperfields.runs import checkpoint
from hyperfields.runs.checkpoint import Run
from hyperfields.runs.export import mesh_from_field

MESH_RESOLUTION = 192  # cells a side of [-1, 1]^3 for the mesh that is measured
PICTURES = 16  # pictures that LPIPS sees at a time
METRICS: dict[Kind, tuple[str, ...]] = {
    "images": ("psnr", "ssim", "lpips_alex", "lpips_vgg"),
    "views": ("psnr", "ssim", "lpips_alex", "lpips_vgg"),
    "shapes": ("iou", "surface_distance", "chamfer", "f_score", "normal_consistency"),
}
HEADINGS = {
    "psnr": "psnr [dB]",
    "ssim": "ssim",
    "lpips_alex": "lpips alex",
    "lpips_vgg": "lpips vgg",
    "iou": "iou",
    "surface_distance": "surface distance [side]",
    "chamfer": "chamfer [side^2]",
    "f_score": "f-score at 1 %",
    "normal_consistency": "normal consistency",
}
DIGITS = {"psnr": "{:.2f}", "surface_distance": "{:.5f}", "chamfer": "{:.3g}"}  # the others have 4 decimals
MOST_ROWS = 20  # scenes that a table lists; of more, the worst and the best three


@torch.no_grad()
def evaluate(
    run: Run,
    family: SceneDataset,
    split: str = "test",
    *,
    lpips_weights: Path | None = None,
    report: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Compare every scene of a run with the truth that `family` holds, and count what the run costs.

    Pictures are compared on white, clamped to [0, 1], as floats, at the resolution of the truth; the psnr of
    a scene of views is the mean of its views' psnr. Shapes are compared as meshes: `metrics.shape_metrics`.

    Args:
        split: which views: "test", "val" or "train". Images and shapes have no splits.
        lpips_weights: torchvision's checkpoint file, or a folder with it, see `load_lpips`.
        report: called as (done, total, name) after each scene.

    Returns:
        What JSON can hold: `kind`, `scenes` {name {metric}}, `mean` {metric}, `bytes_per_scene` {amortised
        marginal} at 16 bits a number, `parameters` (networks and codes), `fit_seconds`, `peak_memory_bytes`
        (of the fit), and `split`, `generator`, `individually`, `seconds` (of this evaluation), `notes`. A
        value that cannot be had is None, and a line of `notes` says why. A mean is over the scenes that have
        the value.

    Raises:
        InputError: a family of another kind, one that lacks a scene of the run, a model that is not finite,
            or open3d or scikit-image missing for shapes.
    """
    started = time.monotonic()
    numbers = _numbers(run, family)
    notes: list[str] = []
    if fingerprint_differs(run, family):
        notes.append("family: its data or their size are not those that were fitted")
    measure = _measure_of(run.kind, split, lpips_weights, notes)
    scenes: dict[str, dict[str, float | None]] = {}
    for done, name in enumerate(run.names):
        values = measure(run.bind(name), family, numbers[name])
        scenes[name] = {key: value if math.isfinite(value) else None for key, value in values.items()}
        if values.get("psnr") == math.inf:
            notes.append(f"{name}: equal to the truth, so its psnr is infinite: n/a")
        if values.get("surface_distance") == math.inf:
            notes.append(f"{name}: the field has no surface in the box: iou and f_score are 0, the others n/a")
        if report is not None:
            report(done + 1, len(run.names), name)
    amortised, marginal = run.model.bytes_per_scene()
    summary = read_summary(run.path)
    for key in ("seconds", "peak_memory_bytes"):
        if key not in summary:
            notes.append(f"{'fit_' if key == 'seconds' else ''}{key}: not in {checkpoint.SUMMARY} of this run")
    return {
        "kind": run.kind,
        "split": split if run.kind == "views" else None,
        "generator": type(run.model.config.generator).__name__,
        "individually": isinstance(run.model.config.generator, Independent),
        "scenes": scenes,
        "mean": _means(run.kind, scenes, notes),
        "bytes_per_scene": {"amortised": amortised, "marginal": marginal},
        "parameters": run.model.networks_numel() + run.model.latents.codes.numel(),
        "fit_seconds": summary.get("seconds"),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "seconds": time.monotonic() - started,
        "notes": notes,
    }


def fingerprint_differs(run: Run, family: SceneDataset) -> bool:
    """Whether a family with the scenes of the run holds other samples than those that were fitted."""
    return family.names == run.names and fingerprint(family) != run.config.get("fingerprint")


def read_summary(folder: Path) -> dict[str, Any]:
    """What a finished fit took; empty when the fit is not finished or the file is damaged."""
    try:
        summary = json.loads((folder / checkpoint.SUMMARY).read_bytes())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _numbers(run: Run, family: SceneDataset) -> dict[str, int]:
    """Scene of the run -> its number in the family."""
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; give a family of {run.kind}")
    missing = [name for name in run.names if name not in family.names]
    if missing:
        raise InputError(
            f"{run.path}: its scene {missing[0]!r} is not in the family ({len(missing)} of {len(run.names)} "
            "are missing); give the family that was fitted with --family"
        )
    if not all(bool(value.isfinite().all()) for value in run.model.state_dict().values()):
        raise InputError(f"{run.path}: its model holds numbers that are not finite; fit again, another --seed")
    return {name: family.names.index(name) for name in run.names}


# Per kind -----------------------------------------------------------------------------------------

Measure = Callable[[BoundField, SceneDataset, int], dict[str, float]]


def _measure_of(kind: Kind, split: str, lpips_weights: Path | None, notes: list[str]) -> Measure:
    """What turns the field of one scene and its number in the family into metrics."""
    if kind == "shapes":
        return _measure_shape
    nets = _load_nets(lpips_weights, notes)
    if kind == "images":

        def measure_image(bound: BoundField, family: SceneDataset, number: int) -> dict[str, float]:
            truth = family.reference(number, split)
            assert isinstance(truth, Tensor)
            height, width = truth.shape[:2]
            picture = sample_image(bound, 1, height, width, bound.device).cpu()
            return _compare(picture, truth[None], nets, notes)

        return measure_image
    if kind == "views":

        def measure_views(bound: BoundField, family: SceneDataset, number: int) -> dict[str, float]:
            views = family.reference(number, split)
            assert isinstance(views, list)
            rgba = torch.stack([view.rgba for view in views])
            truth = rgba[..., :3] * rgba[..., 3:] + (1.0 - rgba[..., 3:])
            return _compare(render_views(bound, views).cpu(), truth, nets, notes)

        return measure_views
    assert_never(kind)


@one_torch_thread()
def render_views(bound: BoundField, views: list[View]) -> Tensor:
    """What one scene's field shows to the cameras of `views`, all of one size, on white: `[v h w 3]`."""
    assert isinstance(bound.field, RadianceField)
    occupancy = bound.occupancy(CELLS)
    cameras = [view.camera.to(bound.device).rays() for view in views]
    origins = torch.cat([rays.origins for rays in cameras])
    directions = torch.cat([rays.directions for rays in cameras])
    seen = []
    for o, d in zip(origins.split(RAYS), directions.split(RAYS), strict=True):
        rays = Rays(o[None], d[None])
        rendered = render_volume(bound, rays, occupancy, step=bound.field.step, visible=bound.visible_samples)
        seen.append(on_background(rendered)[0])
    return torch.cat(seen).reshape(len(views), *views[0].rgba.shape[:2], 3)


def _compare(pictures: Tensor, truth: Tensor, nets: dict[Net, Lpips], notes: list[str]) -> dict[str, float]:
    """Metrics of `pictures` `[b h w 3]`, means over b; nan where a metric cannot be had, with a note."""
    pictures = pictures.clamp(0.0, 1.0)
    values = {"psnr": float(metrics.psnr(pictures, truth).mean()), "ssim": math.nan}
    size = "x".join(map(str, truth.shape[1:3]))
    if min(truth.shape[1:3]) >= metrics.SSIM_WINDOW:
        values["ssim"] = float(metrics.ssim(pictures, truth).mean())
    else:
        _say_once(notes, f"ssim: n/a, pictures of {size} do not hold its window of {metrics.SSIM_WINDOW} pixels")
    for name in ("alex", "vgg"):
        values[f"lpips_{name}"] = math.nan
        if name in nets:
            try:
                parts = zip(pictures.split(PICTURES), truth.split(PICTURES), strict=True)
                values[f"lpips_{name}"] = float(torch.cat([nets[name](a, b) for a, b in parts]).mean())
            except ValueError as error:  # too small for the trunk
                _say_once(notes, f"lpips_{name}: n/a, {error}")
    return values


def _measure_shape(bound: BoundField, family: SceneDataset, number: int) -> dict[str, float]:
    truth = family.reference(number)
    assert isinstance(truth, Mesh)
    mesh = mesh_from_field(bound, resolution=MESH_RESOLUTION, device=bound.device)
    return metrics.shape_metrics(mesh, truth)


def _load_nets(weights: Path | None, notes: list[str]) -> dict[Net, Lpips]:
    """The LPIPS networks whose weights are there; a note for each that is not."""
    nets: dict[Net, Lpips] = {}
    names: tuple[Net, ...] = ("alex", "vgg")
    for name in names:
        try:
            nets[name] = load_lpips(name, weights)
        except LpipsUnavailable as error:
            notes.append(f"lpips_{name}: n/a, {error}")
    return nets


# What is said about values that are missing -------------------------------------------------------


def _say_once(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)


def _means(kind: Kind, scenes: dict[str, dict[str, float | None]], notes: list[str]) -> dict[str, float | None]:
    """Means over the scenes that have a value; a note when some do not."""
    means: dict[str, float | None] = {}
    for metric in METRICS[kind]:
        values = [value for scene in scenes.values() if (value := scene[metric]) is not None]
        means[metric] = math.fsum(values) / len(values) if values else None
        if values and len(values) < len(scenes):
            missing = len(scenes) - len(values)
            notes.append(f"mean {metric}: without the {missing} of {len(scenes)} scenes that lack it")
    return means


# For people ---------------------------------------------------------------------------------------


def format_report(report: dict[str, Any]) -> str:
    """A report of `evaluate` as a table with its notes, for a terminal or a text file."""
    columns = METRICS[report["kind"]]
    scenes: dict[str, dict[str, float | None]] = report["scenes"]
    listed = list(scenes)
    rows = [["scene", *(HEADINGS[metric] for metric in columns)]]
    if len(scenes) > MOST_ROWS:
        ranked = sorted(scenes, key=lambda name: _rank(scenes[name][columns[0]]))
        listed = ranked[:3] + ranked[-3:]
    for place, name in enumerate(listed):
        if len(scenes) > MOST_ROWS and place == 3:
            rows.append([f"... {len(scenes) - 6} between", *("" for _ in columns)])
        rows.append([name, *(_number(metric, scenes[name][metric]) for metric in columns)])
    rows.append([f"mean of {len(scenes)}", *(_number(metric, report["mean"][metric]) for metric in columns)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns) + 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    lines = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", _costs(report)]
    if report["kind"] == "shapes":
        lines.append("side: the longest side of the truth's bounding box")
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)


def _rank(value: float | None) -> float:
    return -math.inf if value is None else value


def _number(metric: str, value: float | None) -> str:
    return "n/a" if value is None else DIGITS.get(metric, "{:.4f}").format(value)


def _costs(report: dict[str, Any]) -> str:
    sizes, seconds, memory = report["bytes_per_scene"], report["fit_seconds"], report["peak_memory_bytes"]
    alone = " (each fitted alone)" if report["individually"] else ""
    return (
        f"{sizes['amortised']:,.0f} bytes a scene{alone}, {sizes['marginal']:,} for one more; "
        f"{report['parameters']:,} parameters; "
        f"fitted in {'n/a' if seconds is None else f'{seconds:.0f} s'}; "
        f"peak memory {'n/a' if memory is None else f'{memory / 1e6:,.0f} MB'}"
    )
