"""Quality of a fitted run, measured against the data: the report that `hyperfields eval` prints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperfields.data import SPLITS, SceneDataset, fingerprint
from hyperfields.errors import InputError, NoViews
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, Net, load_lpips
from hyperfields.evaluation.tables import text_table
from hyperfields.hypernets import shares_networks
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.run import SUMMARY, Run, require_data
from hyperfields.runs.scene import Scene
from hyperfields.tasks import Metric, Task, task_of

MOST_ROWS = 20  # scenes that a table lists; of more, the worst and the best three


@torch.no_grad()
def evaluate(
    run: Run,
    data: SceneDataset,
    split: str = "test",
    *,
    scenes: Sequence[Scene | str] | None = None,
    inferred: InferredCodes | None = None,
    perceptual: bool = True,
    lpips_weights: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Compare scenes with their references in `data`, and count what the run costs.

    Pictures are compared on white (views that were cut out of a plain colour: on that colour), clamped to [0, 1], as
    floats, at the resolution of the reference; the psnr of a scene of views is the mean of its views' psnr. Shapes are
    compared as meshes: `tasks.metrics.shape_metrics`.

    Args:
        split: of views: "test", "val" or "train". Images and shapes have no splits.
        scenes: to measure, or names of some of the run, or of `inferred`; default all.
        inferred: measure these instead, with what they cost beside the run.
        perceptual: lpips too, which takes longer than all else.
        lpips_weights: torchvision's checkpoint file, or a folder with it, see `load_lpips`.
        progress: called as (done, total, name) after each scene.

    Returns:
        What JSON can hold: `kind`, `scenes` {name {metric}}, `per_view` {name [{view name metric}]} (the number of each
        in its split, and its file), `mean` {metric}, `bytes_per_scene` {amortised marginal} at 16 bits a number,
        `parameters` (networks and codes), `fit_seconds`, `peak_memory_bytes` (of the fit), and `split`, `size` (of
        images that were compared at another than they were fitted at, HxW), `inferred` (whether the scenes are),
        `generator`, `individually`, `seconds` (of this evaluation), `notes`. A value that cannot be had is None, and a
        line of `notes` says why. A mean is over the scenes that have the value.

    Raises:
        InputError: data of another kind, or that lack a scene, or views of this split for all scenes; an unknown split,
            a model that is not finite, or open3d or scikit-image missing for shapes.
    """
    started = time.monotonic()
    require_data(run, data)
    if split not in SPLITS:
        raise InputError(f"split {split!r:.60}: unknown, wanted one of {', '.join(SPLITS)}")
    if isinstance(scenes, str | Scene):
        raise InputError(f"scenes {scenes!r:.60}: wanted a list, of scenes or of their names")
    chosen: Sequence[Scene | str] = (run if inferred is None else inferred).names if scenes is None else scenes
    for scene in chosen if scenes is not None else ():
        if isinstance(scene, str):
            (run if inferred is None else inferred).index(scene)  # raises for an unknown name
    names = [scene if isinstance(scene, str) else scene.name for scene in chosen]
    places = scene_places(run, data, names)
    if not all(bool(value.isfinite().all()) for value in run.model.state_dict().values()):
        raise InputError(f"{run.label}: its model holds numbers that are not finite; fit again, another --seed")
    task = run.task
    notes: dict[str, None] = {}  # in order, each once
    if (apart := sizes_apart(run, data)) is not None:
        notes[f"size: compared at {apart[0]}, fitted at {apart[1]}: what lies between the pixels counts too"] = None
    elif fingerprint_differs(run, data):
        notes["family: its data or their size are not those that were fitted"] = None
    learned = learned_of(run)
    require_lpips(task, lpips_weights)
    nets = _load_lpips(task.metrics, lpips_weights, notes) if perceptual else {}
    rows: dict[str, dict[str, float | None]] = {}
    without: dict[str, NoViews] = {}
    views: dict[str, list[dict[str, Any]]] = {}
    for done, (name, scene) in enumerate(zip(names, chosen, strict=True)):
        bound = (run if inferred is None else inferred).bind(scene) if isinstance(scene, str) else scene.field
        options = dict(learned)
        if task.has_splits:
            options["each"] = _view_rows(views.setdefault(name, []))
        try:
            measured = task.measure(bound, data, places[name], split, nets, notes.setdefault, **options)
        except NoViews as error:  # of one scene: others are measured
            without[name] = error
            if len(without) == len(names):
                raise
            measured = dict.fromkeys((metric.name for metric in task.metrics), math.nan)
            notes[str(error)] = None
        rows[name] = _known(measured)
        if progress is not None:
            progress(done + 1, len(names), name)
    sizes: dict[str, float | None] = dict(zip(("amortised", "marginal"), run.model.bytes_per_scene(), strict=True))
    if inferred is not None:  # the networks are those of the run, whoever else has them
        sizes = {"amortised": None, "marginal": inferred.bytes_per_scene}
    summary = run.summary
    for key in ("seconds", "peak_memory_bytes"):
        if key not in summary:
            notes[f"{'fit_' if key == 'seconds' else ''}{key}: not in {SUMMARY} of this run"] = None
    return {
        "kind": run.kind,
        "split": split if task.has_splits else None,
        "size": None if apart is None else apart[0],
        "inferred": inferred is not None,
        "generator": type(run.model.config.generator).__name__,
        "individually": not shares_networks(run.model.config.generator),
        "scenes": rows,
        "per_view": views,
        "mean": means_of(task.metrics, rows, notes),
        "bytes_per_scene": sizes,
        "parameters": run.model.networks_numel() + run.model.latents.codes.numel(),
        "fit_seconds": summary.get("seconds"),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "seconds": time.monotonic() - started,
        "notes": list(notes),
    }


def learned_of(run: Run) -> dict[str, Any]:
    """What a task has to know of the fit of a run to measure it: that something of single photographs was learned."""
    photographs = run.config.train.photographs  # views only
    return {"photographs": photographs} if photographs.poses or photographs.appearance else {}


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _view_rows(rows: list[dict[str, Any]]) -> Callable[[int, str, dict[str, float]], None]:
    """Takes the metrics of views to `rows`."""
    return lambda number, name, values: rows.append({"view": number, "name": name, **_known(values)})


def sizes_apart(run: Run, data: SceneDataset) -> tuple[str, str] | None:
    """Sizes of images in the data and in the run, where they differ; None where they do not, and of other kinds."""
    if run.task.has_camera or not run.task.sized:
        return None
    sizes = [list(picture.get("size") or ()) for picture in (run.task.describe(data), run.config.picture)]
    if not all(sizes) or sizes[0] == sizes[1]:
        return None
    here, there = ("x".join(map(str, size)) for size in sizes)
    return here, there


def fingerprint_differs(run: Run, data: SceneDataset) -> bool:
    """True when data with the scenes of the run hold other samples than those that were fitted."""
    known = run.config.fingerprint
    return known is not None and tuple(data.names) == run.names and fingerprint(data) != known


def scene_places(run: Run, data: SceneDataset, names: Sequence[str]) -> dict[str, int]:
    """Numbers of scenes of a run in the data, by name.

    Raises:
        InputError: data of another kind, or without one of the scenes.
    """
    require_data(run, data)
    places = {name: place for place, name in enumerate(data.names)}
    missing = [name for name in names if name not in places]
    if missing:
        raise InputError(
            f"{run.label}: its scene {missing[0]!r} is not in the family ({len(missing)} of {len(names)} "
            "are missing); give the family that was fitted with --family"
        )
    return {name: places[name] for name in names}


def require_lpips(task: Task, weights: Path | None) -> None:
    """InputError for weights of LPIPS, where nothing is measured by it."""
    if weights is not None and not any(metric.name.startswith("lpips_") for metric in task.metrics):
        raise InputError(f"--lpips-weights {weights}: is of pictures, but the run holds {task.kind}; leave it out")


def _load_lpips(metrics: Sequence[Metric], weights: Path | None, notes: dict[str, None]) -> dict[str, Lpips]:
    """The LPIPS networks that `metrics` want and whose weights are there; a note for each that is not."""
    nets: dict[str, Lpips] = {}
    names: tuple[Net, ...] = ("alex", "vgg")
    for name in names:
        if any(metric.name == f"lpips_{name}" for metric in metrics):
            try:
                nets[name] = load_lpips(name, weights)
            except LpipsUnavailable as error:
                notes[f"lpips_{name}: n/a, {error}"] = None
    return nets


def means_of(
    metrics: Sequence[Metric], rows: dict[str, dict[str, float | None]], notes: dict[str, None]
) -> dict[str, float | None]:
    """Means over the scenes that have a value; a note when some do not."""
    means: dict[str, float | None] = {}
    for metric in metrics:
        values = [value for row in rows.values() if (value := row[metric.name]) is not None]
        means[metric.name] = math.fsum(values) / len(values) if values else None
        if values and len(values) < len(rows):
            missing = len(rows) - len(values)
            notes[f"mean {metric.name}: without the {missing} of {len(rows)} scenes that lack it"] = None
    return means


# For people ---------------------------------------------------------------------------------------


def format_report(report: dict[str, Any], task: Task | None = None) -> str:
    """A report of `evaluate` as a table with its notes, for a terminal or a text file.

    task: of a kind that is your own.
    """
    metrics = (task or task_of(report["kind"])).metrics
    scenes: dict[str, dict[str, float | None]] = report["scenes"]
    rows = [(name, *_cells(metrics, scenes[name])) for name in scenes]
    if len(scenes) > MOST_ROWS:
        order = sorted(range(len(rows)), key=lambda number: rank(scenes[rows[number][0]], metrics[0]))
        between = (f"... {len(scenes) - 6} between", *("" for _ in metrics))
        rows = [*(rows[i] for i in order[:3]), between, *(rows[i] for i in order[-3:])]
    lines = [
        text_table(
            ("scene", *(metric.heading for metric in metrics)),
            rows,
            footer=(f"mean of {len(scenes)}", *_cells(metrics, report["mean"])),
        ),
        "",
        _costs(report),
        *dict.fromkeys(metric.legend for metric in metrics if metric.legend),
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def rank(row: dict[str, float | None], metric: Metric) -> float:
    """Sorts from the worst to the best; without a value, first."""
    value = row[metric.name]
    if value is None:
        return -math.inf
    return value if metric.higher_is_better else -value


def _cells(metrics: Sequence[Metric], row: dict[str, float | None]) -> list[str]:
    return ["n/a" if row[m.name] is None else m.format.format(row[m.name]) for m in metrics]


def _costs(report: dict[str, Any]) -> str:
    sizes, seconds, memory = report["bytes_per_scene"], report["fit_seconds"], report["peak_memory_bytes"]
    alone = " (each fitted alone)" if report["individually"] else ""
    if sizes["amortised"] is None:
        each = f"{sizes['marginal']:,.0f} bytes a scene beside the run"
    else:
        each = f"{sizes['amortised']:,.0f} bytes a scene{alone}, {sizes['marginal']:,} for one more"
    return (
        f"{each}; "
        f"{report['parameters']:,} parameters; "
        f"fitted in {'n/a' if seconds is None else f'{seconds:.0f} s'}; "
        f"peak memory {'n/a' if memory is None else f'{memory / 1e6:,.0f} MB'}"
    )
