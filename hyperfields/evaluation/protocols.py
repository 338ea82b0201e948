"""Protocols by which papers measure: which pictures a scene is known by, and which ones are measured.

To add one: a line in `PROTOCOLS`. What reads the data by it is in cli/evaluate.py.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hyperfields.data import SceneDataset, fingerprint
from hyperfields.errors import InputError
from hyperfields.evaluation.report import evaluate
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.run import Run
from hyperfields.tasks import Metric
from hyperfields.training.inference import infer
from hyperfields.training.progress import OnStep


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol.

    split: the rule by which the pictures of a scene are divided, as for `fit --split`.
    unseen: scenes that were not fitted: they are inferred from their training pictures.
    layout: a file that each scene's folder has to hold.
    own_size: pictures are measured at the size of their files, at whichever size the run was fitted.
    """

    about: str
    split: str
    unseen: bool = False
    layout: str = ""
    own_size: bool = False


PROTOCOLS: dict[str, Protocol] = {
    "srn-1view": Protocol(
        "unseen scenes, inferred from picture 64 by name, measured on all others (ShapeNet-SRN, pixelNeRF)",
        "64",
        unseen=True,
    ),
    "srn-2view": Protocol(
        "unseen scenes, inferred from pictures 64 and 104 by name, measured on all others (ShapeNet-SRN, pixelNeRF)",
        "64,104",
        unseen=True,
    ),
    "nerf-synthetic": Protocol(
        "all test views at the size of their files, on white (NeRF)",
        "files",
        layout="transforms_test.json",
        own_size=True,
    ),
    "every-8th": Protocol(
        "every eighth picture by name, from the first one, which the fit has not seen (LLFF, mip-NeRF 360)", "every-8"
    ),
}


def protocol_of(name: str, run: Run) -> Protocol:
    """The protocol of a name.

    Raises:
        InputError: an unknown name, or a run whose scenes are not seen from views.
    """
    if name not in PROTOCOLS:
        raise InputError(f"--protocol {name!r:.60}: unknown, wanted one of {', '.join(PROTOCOLS)}")
    if not run.task.has_splits:
        raise InputError(f"--protocol {name}: measures held-out views, {run.label} holds {run.kind}; leave it out")
    return PROTOCOLS[name]


def require_held_out(name: str, run: Run, data: SceneDataset) -> None:
    """Nothing, when the fit has not seen what the protocol measures.

    Args:
        data: the scenes of the run, divided by the protocol.

    Raises:
        InputError: it has; the line says how to fit.
    """
    wanted = PROTOCOLS[name].split
    rules = {source.split for source in run.config.sources}
    if rules == {wanted} or (wanted == "files" and rules <= {wanted, None}):
        return
    # No rule was given to the fit: as files say, or every eighth. The training pictures tell which.
    if None in rules and rules <= {wanted, None} and fingerprint(data) == run.config.fingerprint:
        return
    again = [source.path for source in run.config.sources][:1] or ["FAMILY"]
    command = shlex.join(["hyperfields", "fit", *again, "--out", "RUN", "--split", wanted])
    raise InputError(f"--protocol {name}: {run.label} was fitted to other pictures than it leaves; fit with: {command}")


def evaluate_unseen(
    run: Run,
    data: SceneDataset,
    name: str,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    refine: bool = False,
    seeds: int = 1,
    perceptual: bool = True,
    lpips_weights: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    on_step: bool | OnStep = True,
) -> tuple[dict[str, Any], InferredCodes]:
    """(report, scenes of the first seed): unseen scenes are inferred and measured, once for each seed from 0.

    Args:
        data: unseen scenes, divided by the protocol.
        minutes, steps, refine: of the inference, see `infer`.
        progress: of the measurement, see `evaluate`. on_step: of the inference.

    Returns:
        the report of `evaluate`, of which `scenes`, `per_view` and `mean` are means over seeds, with `protocol`,
        `inference` {minutes steps refine}, `seeds` [{seed mean}] and `deviation` {metric}: the standard deviation of
        the means of the seeds (n - 1), None for one seed.

    Raises:
        InputError: no seeds, or see `infer`.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: wanted at least 1")
    reports, first = [], None
    for seed in range(seeds):
        inferred = infer(run, data, minutes=minutes, steps=steps, refine=refine, seed=seed, progress=on_step)
        first = first or inferred
        reports.append(
            evaluate(
                run, data, inferred=inferred, perceptual=perceptual, lpips_weights=lpips_weights, progress=progress
            )
        )
    assert first is not None
    report = dict(reports[0])
    report["scenes"] = {scene: mean_of([each["scenes"][scene] for each in reports]) for scene in reports[0]["scenes"]}
    report["per_view"] = {
        scene: [mean_of(rows) for rows in zip(*(each["per_view"][scene] for each in reports), strict=True)]
        for scene in reports[0]["per_view"]
    }
    means = [each["mean"] for each in reports]
    report["mean"] = mean_of(means)
    report["deviation"] = {key: deviation([mean[key] for mean in means]) for key in means[0]}
    report["seeds"] = [{"seed": seed, "mean": mean} for seed, mean in enumerate(means)]
    report["seconds"] = math.fsum(each["seconds"] for each in reports)
    report["protocol"] = name
    report["inference"] = {"minutes": minutes, "steps": steps, "refine": refine}
    return report, first


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of values of the same names; None where one is None. What is no float is taken from the first."""
    if len(rows) == 1:
        return dict(rows[0])
    means: dict[str, Any] = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, float | None):
            means[key] = None if None in values else statistics.fmean(values)
        else:
            means[key] = value
    return means


def deviation(values: Sequence[float | None]) -> float | None:
    """Standard deviation of a sample; None of fewer than two, or where one is None."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) == len(values) > 1 else None


def format_protocol(report: dict[str, Any], metrics: Sequence[Metric]) -> str:
    """Lines about the protocol of a report; empty without one."""
    name = report.get("protocol")
    if name is None:
        return ""
    lines = [f"protocol {name}: {PROTOCOLS[name].about}"]
    seeds = report.get("seeds", [])
    if len(seeds) > 1:
        values = [
            f"{metric.heading} {metric.format.format(report['mean'][metric.name])} +- "
            f"{metric.format.format(report['deviation'][metric.name])}"
            for metric in metrics
            if report["deviation"][metric.name] is not None
        ]
        lines.append(f"{len(seeds)} seeds, mean and standard deviation: {'; '.join(values)}")
    return "\n".join(lines)
