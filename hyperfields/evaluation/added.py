"""Scenes added to a run, with the quality of old and new ones before and after: the report of `hyperfields add`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from hyperfields.data import SceneDataset
from hyperfields.errors import NoViews
from hyperfields.evaluation.report import evaluate
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.run import SUMMARY, Run
from hyperfields.training.continual import ADDED, CODES, Method, add, drift


def add_and_measure(
    run: Run, data: SceneDataset, out: Path, *, old_data: SceneDataset | None = None, method: Method, **options: Any
) -> dict[str, Any]:
    """The report of `training.continual.add`, which is also written to OUT/add.json.

    Args:
        old_data: data of the scenes that are in the run, only to measure them.
        options: of `add`.

    Returns:
        `method`, `old` {scenes before after} and `new` {scenes after} (means of the metrics, None without the data or
        views to test with), `drift` (root mean square by which weights of old scenes moved, in units of their initial
        standard deviation), `bytes_per_scene`, `steps`, `seconds`.

    Raises:
        InputError: see `add`.
    """
    before = evaluate(run, old_data)["mean"] if old_data is not None else None
    new = add(run, data, out, method=method, **options)
    report: dict[str, Any] = {"method": method, "old": {"scenes": list(run.names), "before": before, "after": before}}
    if method == "frozen":
        inferred = load_codes(out / CODES, run)
        after = _means(run, data, inferred=inferred)
        report["new"] = {"scenes": list(inferred.names), "after": after}
        report |= {"drift": 0.0, "bytes_per_scene": {"amortised": None, "marginal": inferred.bytes_per_scene}}
    else:
        if old_data is not None:
            report["old"]["after"] = evaluate(new, old_data, scenes=[new[name] for name in run.names])["mean"]
        after = _means(new, data, scenes=[new[name] for name in data.names])
        report["new"] = {"scenes": list(data.names), "after": after}
        with torch.no_grad():
            report["drift"] = math.sqrt(float(drift(run.model, new.model, torch.arange(len(run.names)))))
        report["bytes_per_scene"] = dict(zip(("amortised", "marginal"), new.model.bytes_per_scene(), strict=True))
        summary = json.loads((out / SUMMARY).read_bytes())
        report |= {"steps": summary["steps"], "seconds": summary["seconds"]}
    write_atomically(out / ADDED, json.dumps(report, indent=1).encode())
    return report


def _means(run: Run, data: SceneDataset, **which: Any) -> dict[str, float | None] | None:
    """Means of the metrics over new scenes; None where there is nothing to measure them with."""
    try:
        means: dict[str, float | None] = evaluate(run, data, **which)["mean"]
    except NoViews:
        return None
    return means


def format_added(found: dict[str, Any]) -> str:
    """A report of `add` as text."""
    lines = []
    for group in ("old", "new"):
        part = found[group]
        head = f"{len(part['scenes'])} {group} scenes"
        if part["after"] is None:
            why = "their data; say where they are with --old DIR" if group == "old" else "views to test with"
            lines.append(f"{head}: n/a without {why}")
            continue
        before = part.get("before") or {}
        values = []
        for name, value in part["after"].items():
            if value is not None:
                was = f"{before[name]:.4g} -> " if before.get(name) is not None else ""
                values.append(f"{name} {was}{value:.4g}")
        lines.append(f"{head}: {', '.join(values)}")
    sizes = found["bytes_per_scene"]
    amortised = "" if sizes["amortised"] is None else f"{sizes['amortised']:,.0f} bytes a scene, "
    lines.append(
        f"{amortised}{sizes['marginal']:,.0f} for one more; weights of old scenes moved by {found['drift']:.3g}"
    )
    return "\n".join(lines)
