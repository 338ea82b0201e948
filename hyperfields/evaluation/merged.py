"""Reports of parts of a run put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfields.errors import InputError
from hyperfields.evaluation.report import means_of
from hyperfields.runs.merged import read_reports, require_all_parts
from hyperfields.tasks import Task, task_of

ALIKE = (
    "kind", "split", "size", "inferred", "generator", "individually", "parameters", "fit_seconds", "peak_memory_bytes",
    "protocol",
)  # fmt: skip


def merge_reports(paths: Sequence[Path], task: Task | None = None) -> dict[str, Any]:
    """One report from those of `eval --shard`: all scenes, their means, the seconds of all parts together.

    Args:
        task: of a kind that is your own.

    Raises:
        InputError: a file that is no report, reports of different runs, a scene that comes twice, a missing part.
    """
    reports = read_reports(paths)
    require_all_parts([(str(path), report.get("shard")) for path, report in zip(paths, reports, strict=True)])
    whole = {**reports[0], "scenes": {}, "per_view": {}, "notes": []}
    whole.pop("shard", None)
    owner: dict[str, Path] = {}
    for path, report in zip(paths, reports, strict=True):
        for key in ALIKE:
            if report.get(key) != reports[0].get(key):
                raise InputError(
                    f"{path}: {key} {report.get(key)}, not {reports[0].get(key)} as in {paths[0]}; "
                    "wanted parts of one evaluation"
                )
        for name in report["scenes"]:
            if name in owner:
                raise InputError(f"{path}: scene {name!r} is in {owner[name]} too; wanted parts without common scenes")
            owner[name] = path
        whole["scenes"] |= report["scenes"]
        whole["per_view"] |= report["per_view"]
    notes = {note: None for report in reports for note in report["notes"] if not note.startswith("mean ")}
    metrics = (task or task_of(whole["kind"])).metrics
    try:
        whole["mean"] = means_of(metrics, whole["scenes"], notes)
        counts = [len(report["scenes"]) for report in reports]
        whole["bytes_per_scene"] = {
            key: _mean([report["bytes_per_scene"][key] for report in reports], counts)
            for key in reports[0]["bytes_per_scene"]
        }
        whole["seconds"] = math.fsum(report["seconds"] for report in reports)
    except (KeyError, TypeError) as error:
        raise InputError(f"{paths[0]}: damaged: a value is missing or no number ({error})") from None
    return {**whole, "notes": list(notes)}


def _mean(values: Sequence[float | None], counts: Sequence[int]) -> float | None:
    """Of parts of so many scenes."""
    if len(set(values)) == 1:
        return values[0]
    return math.fsum(value * count for value, count in zip(values, counts, strict=True) if value) / sum(counts)
