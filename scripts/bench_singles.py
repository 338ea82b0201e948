"""Short fits of every scene of a family by itself, over seeds: how many came to nothing, and the quality of the others.

`python scripts/bench.py singles FAMILY --seeds 5`.
"""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path

import torch

from hyperfields.data import Mesh, SceneDataset, Subset
from hyperfields.scenes import open_family
from hyperfields.tasks import task_of
from hyperfields.tasks.base import on_white
from hyperfields.training.fit import fit
from hyperfields.training.verdict import verdict

ABOVE = 3.0  # dB over the best single colour, from which views are more than a guess


def singles(family: Path, seeds: int, steps: int, preset: str, limit: int | None) -> dict[str, object]:
    """Quality of each fit by scene and seed, and the names of dead ones: those with a verdict, or hardly better than
    one colour."""
    data = open_family(family, limit=limit)
    task = task_of(data.kind)
    first, dead = task.metrics[0], []
    split = "test" if task.has_splits else "train"
    quality: dict[str, list[float]] = {}
    for number, name in enumerate(data.names):
        scene = Subset(data, [number])
        for seed in range(seeds):
            with warnings.catch_warnings():  # of a fit that came to nothing: it is counted below
                warnings.simplefilter("ignore", UserWarning)
                run = fit(scene, steps=steps, seed=seed, preset=preset, progress=False)
            value = task.measure(run.bind(name), scene, 0, split, {})[first.name]
            lines = verdict(run, scene)
            if not lines and first.name == "psnr" and value < even_psnr(scene, split) + ABOVE:
                lines = [f"scene {name}: {value:.1f} dB, no picture"]
            dead += [f"{line} (seed {seed})" for line in lines]
            quality.setdefault(name, []).append(value)
        print(f"{name:20s} " + " ".join(first.format.format(value) for value in quality[name]), flush=True)
    values = [value for row in quality.values() for value in row]
    for line in dead:
        print(line)
    print(
        f"{len(dead)} dead of {len(values)}; {first.name} {min(values):.2f} to {max(values):.2f}, "
        f"median {statistics.median(values):.2f}"
    )
    return {"family": str(family), "steps": steps, "preset": preset, first.name: quality, "dead": dead}


def even_psnr(scene: SceneDataset, split: str) -> float:
    """PSNR of the mean colour of a split, on white, in dB."""
    reference = scene.reference(0, split)
    assert not isinstance(reference, Mesh)
    if isinstance(reference, torch.Tensor):
        pictures = reference
    else:
        pictures = on_white(torch.cat([view.rgba.reshape(-1, 4) for view in reference]))
    colors = pictures.reshape(-1, pictures.shape[-1])
    return float(-10.0 * torch.log10((colors - colors.mean(0)).square().mean()))
