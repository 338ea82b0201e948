"""Do predicted uncertainties tell where pictures are wrong? Fitted cars on views that were left out, and unseen cars.

    python scripts/study_uncertainty.py OUT [--family DIR] [--side 48] [--steps 300] [--views 0,5 --views 0,3,6]

Fits every second car and compares, pixel by pixel, errors on their test views with predicted standard deviations; then
infers a distribution over the codes of the other cars from a few views each and does the same for those. Every row is
a mean over cars: of those with even numbers, on which settings were chosen, and of those with odd ones, which are only
reported. Writes a JSON and a figure a row, and a picture (truth, prediction, error, standard deviation) of each car.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hyperfields.data import SceneDataset, View
from hyperfields.evaluation.plots import plot_calibration
from hyperfields.evaluation.uncertainty import calibrate, misfit, std_picture, uncertainty_image
from hyperfields.fields import BoundField
from hyperfields.runs.images import write_image
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.run import Run, load_run
from hyperfields.scenes import open_family
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples/cars_views"
VIEWS = 5  # test views of a car
FieldsOf = Callable[[str], tuple[BoundField, Sequence[BoundField]]]  # a scene -> its field, and samples of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", type=Path, default=SAMPLES)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--views", action="append", help="training views that are known of unseen cars")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8)
    asked = parser.parse_args()
    size = (asked.side, asked.side)
    names = sorted(path.name for path in asked.family.iterdir() if path.is_dir())
    known = open_family(asked.family, size=size, scenes=names[::2])
    if not (asked.out / "run/model.safetensors").is_file():
        fit(known, asked.out / "run", steps=asked.steps, seed=asked.seed)
    run = load_run(asked.out / "run")
    print(f"{'cars':28} {'half':5} {'error':>7} {'std':>9} {'rank, all':>9} {'inside':>7} {'worst':>6}  68 %  95 %")
    show(asked.out, "fitted, test views", known, lambda name: (run.bind(name), ()))
    for text in asked.views or ["0,5", "0,3,6,9,12,15,18,21,24,27,30,33,36,39,42,45"]:
        views = [int(view) for view in text.split(",")]
        family = open_family(asked.family, size=size, scenes=names[1::2], views=views)
        posterior = infer(run, family, by="posterior", steps=max(asked.steps // 4, 1), weight=1e-4)
        show(asked.out, f"unseen, {len(views)} views", family, sampled(run, posterior, asked.samples))


def sampled(
    run: Run, posterior: InferredCodes, samples: int
) -> Callable[[str], tuple[BoundField, Sequence[BoundField]]]:
    """A scene's name -> the field of its mean code, and fields of sampled codes."""

    @torch.no_grad()
    def fields(name: str) -> tuple[BoundField, Sequence[BoundField]]:
        codes = posterior.sample(name, samples, torch.Generator().manual_seed(0))
        return posterior.bind(name), [run.model.bind(code[None]) for code in codes]

    return fields


def show(out: Path, label: str, family: SceneDataset, fields: FieldsOf) -> None:
    """Two rows of the table, their files, and a picture of each car."""
    stem = label.replace(", ", "_").replace(" ", "_")
    for first, half in enumerate(("even", "odd")):
        report = calibrate(family.names[first::2], fields, family, views=VIEWS)
        mean, curve = report["mean"], dict(zip(*report["coverage"].values(), strict=True))
        worst = min(row["rank_inside"] for row in report["scenes"].values())
        print(
            f"{label:28} {half:5} {mean['error']:7.4f} {mean['deviation']:9.4f} {mean['rank_all']:9.2f} "
            f"{mean['rank_inside']:7.2f} {worst:6.2f} {curve[0.68]:5.0%} {curve[0.95]:5.0%}",
            flush=True,
        )
        (out / f"{stem}_{half}.json").write_text(json.dumps(report, indent=1))
        plot_calibration(report, out / f"{stem}_{half}.png")
    for number, name in enumerate(family.names):
        bound, samples = fields(name)
        view = next(view for view in family.reference(number, "test") if isinstance(view, View))
        truth = view.rgba[..., :3] * view.rgba[..., 3:] + 1.0 - view.rgba[..., 3:]
        color, std = std_picture(
            bound, misfit(bound, family, name), view.camera, (truth.shape[0], truth.shape[1]), samples
        )
        shown = [truth, color, uncertainty_image((color - truth).abs().mean(-1)), uncertainty_image(std)]
        write_image(out / f"{stem}_{name}.png", torch.cat(shown, 1).clamp(0.0, 1.0))


if __name__ == "__main__":
    main()
