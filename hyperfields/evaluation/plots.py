"""Plots of reports: of a comparison of generators, and of the calibration of uncertainties."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfields.errors import InputError
from hyperfields.evaluation.compare import WATCHED
from hyperfields.evaluation.comparison_table import ranking_metric
from hyperfields.runs.atomic import write_atomically
from hyperfields.tasks import Task


class MissingLibrary(InputError):
    """A plot that cannot be drawn, since matplotlib is not installed."""


def plot(report: dict[str, Any], path: Path, task: Task | None = None) -> None:
    """Quality against bytes a scene, of fitted and of unseen scenes, and against time, as a picture.

    task: of a kind that is your own.

    Raises:
        MissingLibrary: matplotlib is.
        InputError: the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
        from PIL import Image
    except ImportError:
        raise MissingLibrary(f"{path}: needs matplotlib; pip install 'hyperfields[plots]'") from None
    metric = ranking_metric(report["settings"], task).heading
    rows = [row for row in report["table"] if row.get("quality") is not None]
    names = list(dict.fromkeys(row["generator"] for row in rows))  # the best first
    style = {name: {"color": f"C{i % 10}", "marker": "osD^vP"[i // 10 % 6]} for i, name in enumerate(names)}
    style |= {"direct": {"color": "black", "marker": "D"}}
    panels = {"quality": "fitted scenes"}
    if any(row["unseen"] is not None for row in rows):
        panels["unseen"] = "unseen scenes, codes inferred"
    watched = min(WATCHED, len(report["settings"]["scenes"]))
    panels["time"] = f"along the fit, {watched} scene{'s' * (watched > 1)}"
    figure = Figure(figsize=(4.9 * len(panels), 4.2), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels)), strict=True))
    costs = [row["amortised"] for row in rows] or [1.0]
    for key in [key for key in panels if key != "time"]:
        axis, known = axes[key], [row for row in rows if row[key] is not None]
        for name in names:
            mine = sorted((row for row in known if row["generator"] == name), key=lambda row: row["amortised"])
            std = [row["spread" if key == "quality" else "unseen_spread"] or 0.0 for row in mine]
            places = [row["amortised"] for row in mine], [row[key] for row in mine]
            axis.errorbar(*places, yerr=std, linestyle=":", capsize=3, markersize=6, **style[name])
        limits = 0.7 * min(costs), 1.4 * max(costs)
        front = pareto([(row["amortised"], row[key]) for row in known])
        if front:
            front.append((limits[1], front[-1][1]))
            axis.step(*zip(*front, strict=True), where="post", color="0.85", linewidth=4, zorder=0)
        axis.set_xscale("log")
        axis.set_xlim(*limits)
        ends = {row["generator"]: (row["amortised"], row[key]) for row in reversed(known)}  # of the best size
        _label(axis, ends, style)
        axis.set_xlabel("kilobytes a scene; grey: nothing is better at fewer")
    ends = {}
    for name in names:
        # The curve of the largest size and first seed.
        mine = [r for r in report["results"] if r["generator"] == name and r.get("curve")]
        if mine:
            curve = max(mine, key=lambda r: (r["bytes_per_scene"] or 0, -r["seed"]))["curve"]
            axes["time"].plot(*zip(*curve, strict=True), linewidth=1.5, markersize=4, **style[name])
            ends[name] = curve[-1][0], curve[-1][1]
    axes["time"].set_xscale("log")
    axes["time"].set_xlabel("seconds of fitting")
    _label(axes["time"], ends, style)
    for key, title in panels.items():
        axes[key].set(title=title, ylabel=metric)
        axes[key].grid(color="0.92")
        unit = 1.0 if key == "time" else 1000.0
        axes[key].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if key == "time" else MaxNLocator(4))
        axes[key].xaxis.set_major_formatter(FuncFormatter(lambda x, _, unit=unit: f"{x / unit:g}"))
        axes[key].xaxis.set_minor_formatter(NullFormatter())
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    stored = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(128).save(stored, "PNG", optimize=True)  # a third of the bytes
    write_atomically(path, stored.getvalue())


def _label(axis: Any, ends: dict[str, tuple[float, float]], style: dict[str, dict[str, str]]) -> None:
    """Names at the right edge of a panel, moved apart so that none covers another, each with a line to its point."""
    if not ends:
        return
    low, high = axis.get_ylim()
    high = max(high, low + 1e-6)
    gap, top = 0.062, 1.0
    for name, (x, y) in sorted(ends.items(), key=lambda item: -item[1][1]):
        top = min((y - low) / (high - low), top - gap)
        axis.annotate(
            f"{'alone' if name == 'direct' else name} {y:.{2 if abs(high) > 2 else 4}f}",
            (x, y),
            (1.03, top),
            textcoords="axes fraction",
            color=style[name]["color"],
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": style[name]["color"], "linewidth": 0.5, "alpha": 0.5},
            annotation_clip=False,
        )
    axis.set_ylim(low, high)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality) those that no other beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def plot_calibration(report: dict[str, Any], path: Path) -> None:
    """The calibration curve, and errors against predicted standard deviations, as a picture.

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
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_atomically(path, drawn.getvalue())
