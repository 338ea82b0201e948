"""Very many scenes from bases of a part: how good those are that only got codes. See `bench.py many`."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from procedural import FAMILIES, Procedural

from hyperfields.data import Points, Subset
from hyperfields.ops.threads import one_torch_thread
from hyperfields.runs.run import Run
from hyperfields.training import many as fitting
from hyperfields.training.fit import fit

MEASURED = 200  # scenes of each sort
POINTS = 2**13  # that a scene is measured at
FAR = 0.1  # distances beyond are not told apart


def many(
    family: str, scenes: int, bases: int, minutes: float | None, steps: int | None, visits: list[int]
) -> dict[str, Any]:
    """How good scenes are that the bases were fitted to, and the last of the others, for each number of visits."""
    data = FAMILIES[family](scenes)
    began = time.perf_counter()
    chosen = fitting.part_names(data.names, bases, seed=0)
    places = {name: place for place, name in enumerate(data.names)}

    def read(names: list[str]) -> Subset:
        return Subset(data, [places[name] for name in names])

    run = fit(read(chosen), minutes=minutes, steps=steps)
    took, rows = time.perf_counter() - began, []
    for number in visits:
        fitting.VISITS = number
        began = time.perf_counter()
        whole = fitting.finish(run, list(data.names), read, None)
        seconds, known = time.perf_counter() - began, set(chosen)
        others = [name for name in data.names if name not in known][-MEASURED:]
        rows.append(
            {"visits": number, "seconds": seconds}
            | {f"fitted_{what}": value for what, value in quality(whole, data, chosen[:MEASURED]).items()}
            | {f"others_{what}": value for what, value in quality(whole, data, others).items()}
        )
        print(json.dumps(rows[-1]), flush=True)
    return {
        "family": family, "numbers_of_a_scene": data.numbers, "scenes": scenes, "bases_from": bases,
        "steps": run.summary["steps"], "seconds": took, "codes": rows,
    }  # fmt: skip


@torch.no_grad()
def quality(run: Run, data: Procedural, names: list[str]) -> dict[str, float]:
    """Means over scenes: `db`, of colours, or of distances of up to 0.1 with the box, of side 2, as the unit; of shapes
    also `iou`. At points anywhere in the picture or the box."""
    places = {name: place for place, name in enumerate(data.names)}
    found: dict[str, list[float]] = {}
    with one_torch_thread():
        for name in names:
            batch = sampled(data, places[name])
            answer = run.bind(name)(batch.x)
            if data.kind == "images":
                error, unit = answer.clamp(0.0, 1.0) - batch.target, 1.0
            else:
                error, unit = answer.clamp(-FAR, FAR) - batch.target.clamp(-FAR, FAR), 2.0
                inside, truth = answer < 0.0, batch.target < 0.0
                found.setdefault("iou", []).append(float((inside & truth).sum() / (inside | truth).sum()))
            found.setdefault("db", []).append(float(-10.0 * (error / unit).square().mean().log10()))
    return {what: sum(values) / len(values) for what, values in found.items()}


def sampled(data: Procedural, scene: int) -> Points:
    """Points anywhere, the same of every scene, with what is true there."""
    dims = 2 if data.kind == "images" else 3
    x = torch.rand(1, POINTS, dims, generator=torch.Generator().manual_seed(0))
    x = x if dims == 2 else 2.0 * x - 1.0
    return Points(x, data.target(x, data.values[scene : scene + 1]))
