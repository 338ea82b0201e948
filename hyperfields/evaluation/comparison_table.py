"""Comparisons as tables: rows that sum up results, and their text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from hyperfields.evaluation.tables import text_table
from hyperfields.evaluation.unseen import format_unseen
from hyperfields.tasks import Metric, Task, task_of


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each generator and size, means over its seeds; the best quality first, diverged ones last."""
    rows = []
    for name, size in dict.fromkeys((result["generator"], result["bytes_per_scene"]) for result in results):
        mine = [result for result in results if (result["generator"], result["bytes_per_scene"]) == (name, size)]
        whole = [result for result in mine if "mean" in result]
        row: dict[str, Any] = {"generator": name, "bytes_per_scene": size}
        row |= {"seeds": len(mine), "diverged": len(mine) - len(whole)}
        row["latent_size"], row["settings"] = mine[0]["latent_size"], mine[0].get("settings")
        if whole:
            key = next(iter(whole[0]["mean"]))  # the metric that ranks
            values = [result["mean"][key] for result in whole if result["mean"][key] is not None]
            unseen = [r["unseen"][key] for r in whole if r.get("unseen") and r["unseen"][key] is not None]
            row |= {
                "metric": key,
                "quality": statistics.fmean(values) if values else None,
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "worst": min((r["worst"] for r in whole if r["worst"] is not None), default=None),
                "unseen": statistics.fmean(unseen) if unseen else None,
                "unseen_spread": statistics.stdev(unseen) if len(unseen) > 1 else None,
                "amortised": whole[0]["bytes_per_scene_found"]["amortised"],
                "marginal": whole[0]["bytes_per_scene_found"]["marginal"],
                "steps": statistics.fmean(result["steps"] for result in whole),
                "seconds": statistics.fmean(result["seconds"] for result in whole),
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -math.inf if row.get("quality") is None else row["quality"], reverse=True)


def format_result(result: dict[str, Any]) -> str:
    """One result as a line."""
    head = f"{result['generator']}, seed {result['seed']}: "
    if "mean" not in result:
        return f"{head}diverged: {result['diverged']}"
    means = [f"{name} {value:.4g}" for name, value in result["mean"].items() if value is not None]
    text = f"{head}{', '.join(means)}; {result['bytes_per_scene_found']['amortised']:,.0f} bytes a scene, "
    text += f"{result['steps']:,} steps in {result['seconds']:.1f} s"
    key = next(iter(result["mean"]))
    if result.get("unseen") and result["unseen"][key] is not None:
        text += f"; unseen {key} {result['unseen'][key]:.4g}"
    return text + ("; unseen: diverged" if "unseen_diverged" in result else "")


def ranking_metric(settings: dict[str, Any], task: Task | None = None) -> Metric:
    """The metric by which a comparison with these settings ranks and plots. task: of a kind that is your own."""
    return (task or task_of(settings["kind"])).metrics[0]


def format_table(report: dict[str, Any], task: Task | None = None) -> str:
    """The table of a report, for a terminal or a text file. task: of a kind that is your own."""
    settings = report["settings"]
    metric = ranking_metric(settings, task)

    def cell(row: dict[str, Any], key: str, std: str = "") -> str:
        if row[key] is None:
            return "n/a"
        around = f" ± {metric.format.format(row[std])}" if std and row[std] is not None else ""
        return metric.format.format(row[key]) + around

    rows: list[tuple[str, ...]] = []
    for row in report["table"]:
        name = "alone" if row["generator"] == "direct" else row["generator"]
        if "quality" not in row:
            rows.append((name, f"{row['latent_size']:,}", *("",) * 3, f"{row['seeds']}", "diverged", *("",) * 2))
            continue
        quality = cell(row, "quality", "spread")
        if row["diverged"]:
            quality += f" ({row['diverged']} of {row['seeds']} diverged)"
        latent = "" if name == "alone" else f"{row['latent_size']:,}"
        sizes = (latent, f"{row['amortised']:,.0f}", f"{row['marginal']:,}", f"{row['steps']:,.0f}", f"{row['seeds']}")
        rows.append((name, *sizes, quality, cell(row, "worst"), cell(row, "unseen", "unseen_spread")))
    head = ("generator", "latent", "bytes a scene", "one more", "steps", "seeds", "fitted", "worst", "unseen")
    many, others = len(settings["scenes"]), len(settings["unseen"])
    text = (
        f"{metric.heading}, mean over {many} scene{'s' * (many > 1)}; ± standard deviation over seeds; worst: a scene's"
    )
    if others:
        text += f"; unseen: {others} other{'s' * (others > 1)}, codes inferred"
    unseen = [row for result in report["results"] for row in result.get("unseen_rows", []) if result["seed"] == 0]
    if unseen:
        text += f"\n\n{format_unseen([*unseen, *settings.get('files', [])], metric)}"
    return f"{text_table(head, rows, rules=False)}\n{text}"
