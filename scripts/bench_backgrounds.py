"""Pictures without alpha on one colour, against those with alpha of the same objects: what the cutting out costs.

`python scripts/bench.py backgrounds FAMILY --scenes k_taxi,k_suv --seeds 2`.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor

from hyperfields.data import SceneDataset, View
from hyperfields.data.base import over_own_color
from hyperfields.errors import InputError
from hyperfields.runs.run import Run
from hyperfields.scenes import open_family
from hyperfields.scenes.views import Measured, scene_folders
from hyperfields.training.fit import fit

COLORS = ("white", "black", "#60a040")


class Over:
    """Scenes with alpha, measured over a colour."""

    def __init__(self, data: SceneDataset, color: str) -> None:
        self.data, self.kind, self.names = data, data.kind, data.names
        self.color = torch.tensor(ImageColor.getrgb(color)[:3]) / 255.0

    def reference(self, scene: int, split: str = "test") -> Sequence[View]:
        return over_own_color(self.data.reference(scene, split), self.color)  # type: ignore[arg-type]


def lay_over(folder: Path, out: Path, color: str) -> None:
    """Copy a scene's folder, its pictures without alpha over a colour."""
    shutil.copytree(folder, out)
    back = np.array(ImageColor.getrgb(color)[:3])
    for path in out.rglob("*.png"):
        rgba = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float64)
        alpha = rgba[..., 3:] / 255.0
        Image.fromarray(np.uint8(np.round(rgba[..., :3] * alpha + back * (1.0 - alpha)))).save(path)


def psnr(run: Run, folder: Path, color: str) -> float:
    """Of test views with alpha over a colour, dB, in the frame that the scene has in the run."""
    truth = open_family(folder, measured=Measured("test", run.config.picture.get("frames", {})))
    return run.task.measure(run.bind(run.names[0]), Over(truth, color), 0, "test", {})["psnr"]  # type: ignore[arg-type]


def backgrounds(
    family: Path, scenes: Sequence[str] | None, seeds: int, steps: int, preset: str, colors: Sequence[str]
) -> dict[str, object]:
    """dB by which pictures on a colour fall behind those with alpha, over white and over the colour itself.

    Raises:
        InputError: scenes that are not there.
    """
    folders = scene_folders(family)
    if missing := [name for name in scenes or () if name not in folders]:
        raise InputError(f"{family}: has no scene {missing[0]!r}; there are {', '.join(folders)}")
    rows: dict[str, dict[str, list[float]]] = {}
    print(f"{'':24s} over white" + "".join(f"{color:>9s}" for color in colors) + "   over itself" + "  ...")
    with tempfile.TemporaryDirectory() as place:
        for name in scenes or folders:
            copies = {color: Path(place) / color.strip("#") / name for color in colors}
            for color, copy in copies.items():
                lay_over(folders[name], copy, color)
            for seed in range(seeds):
                clear = fit(open_family(folders[name]), steps=steps, seed=seed, preset=preset, progress=False)
                best = {color: psnr(clear, folders[name], color) for color in {"white", *colors}}
                row: dict[str, list[float]] = {}
                for color, copy in copies.items():
                    run = fit(open_family(copy), steps=steps, seed=seed, preset=preset, progress=False)
                    row[color] = [psnr(run, folders[name], back) - best[back] for back in ("white", color)]
                rows[f"{name} {seed}"] = row
                both = ["".join(f"{value[i]:+9.2f}" for value in row.values()) for i in (0, 1)]
                print(f"{name:20s} {seed:3d} {best['white']:10.2f}{both[0]}      {both[1]}", flush=True)
    for what, chosen in (("mean", statistics.mean), ("worst", min)):
        both = ["".join(f"{chosen(row[c][i] for row in rows.values()):+9.2f}" for c in colors) for i in (0, 1)]
        print(f"{what:24s} {'':10s}{both[0]}      {both[1]}")
    return {"family": str(family), "steps": steps, "preset": preset, "behind alpha [dB over white, over itself]": rows}
