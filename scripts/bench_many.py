"""Very many scenes from bases of a part: how good those are that only got codes. See `bench.py many`."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from torch import Tensor

from hyperfields.data import Points, Subset
from hyperfields.evaluation.report import evaluate
from hyperfields.runs.run import Run
from hyperfields.training import many as fitting
from hyperfields.training.fit import fit

DISCS = 3
SIDE = 64  # pixels of what is measured
EDGE = 0.03  # width of a disc's edge, of the picture's side
MEASURED = 200  # scenes of each sort


class Discs:
    """As many pictures as asked for: discs of any place, size and colour on a background that goes from one colour to
    another; 25 numbers each, and nothing else is kept."""

    kind = "images"

    def __init__(self, scenes: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.names = tuple(f"discs{number:07}" for number in range(scenes))
        self.discs = torch.rand(scenes, DISCS, 6, generator=generator)  # x, y, radius, colour
        self.ground = torch.rand(scenes, 7, generator=generator)  # two colours, direction

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        return Points(x, self.colors(x, scenes))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        rows, columns = torch.meshgrid(*[(torch.arange(SIDE) + 0.5) / SIDE] * 2, indexing="ij")
        x = torch.stack((columns, rows), -1).reshape(1, -1, 2)
        return self.colors(x, torch.tensor([scene])).reshape(SIDE, SIDE, 3)

    def colors(self, x: Tensor, scenes: Tensor) -> Tensor:
        """`[s n 3]` at points `[s n 2]`."""
        ground, discs = self.ground[scenes][:, None], self.discs[scenes][:, None]
        angle = ground[..., 6:] * 6.2832
        along = ((x[..., :1] - 0.5) * angle.cos() + (x[..., 1:] - 0.5) * angle.sin() + 0.5).clamp(0.0, 1.0)
        color = torch.lerp(ground[..., :3], ground[..., 3:6], along)
        for number in range(DISCS):
            disc = discs[:, :, number]
            away = (x - disc[..., :2]).norm(dim=-1, keepdim=True) - 0.05 - 0.2 * disc[..., 2:3]
            color = torch.lerp(disc[..., 3:], color, torch.sigmoid(away / (0.25 * EDGE)))
        return color


def many(scenes: int, bases: int, minutes: float | None, steps: int | None, visits: list[int]) -> dict[str, Any]:
    """Mean psnr of scenes that the bases were fitted to and of others, for each number of visits of a code."""
    data = Discs(scenes)
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
        others = [name for name in data.names if name not in known]
        mean = [quality(whole, data, names) for names in (chosen[:MEASURED], others[-MEASURED:])]
        rows.append({"visits": number, "seconds": seconds, "fitted_psnr": mean[0], "others_psnr": mean[1]})
        print(json.dumps(rows[-1]), flush=True)
    return {"scenes": scenes, "bases_from": bases, "steps": run.summary["steps"], "seconds": took, "codes": rows}


def quality(run: Run, data: Discs, names: list[str]) -> float:
    """Mean psnr in dB."""
    value: float = evaluate(run, data, scenes=names, perceptual=False)["mean"]["psnr"]
    return value
