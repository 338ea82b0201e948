"""Do predicted deviations tell where a picture of an unseen car is wrong? Cars of the samples, test views.

    python scripts/study_uncertainty.py OUT [--steps 300] [--known 9] [--views 0,5]

Fits the first cars, infers a distribution over the codes of the others from a few views each, and compares the error
of the mean prediction with the predicted deviation, pixel by pixel, on views that were not looked at: that of the
code alone, and with the misfit on the views that were. Writes pictures
(truth, mean, error, deviation) to OUT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hyperfields.checkpoint import load_run
from hyperfields.evaluate import render_views
from hyperfields.export import write_image
from hyperfields.families import View
from hyperfields.fit import FitConfig, fit
from hyperfields.model import Bound
from hyperfields.posterior import (
    calibrate,
    infer_posterior,
    misfit,
    predict,
    total_deviation,
    uncertainty_image,
    view_places,
)
from hyperfields.scenes import open_family

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples/cars_views"
SIZE = (48, 48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--known", type=int, default=9)
    parser.add_argument("--views", default="0,5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", action="store_true", help="fit the last cars instead of the first")
    parser.add_argument("--samples", type=int, default=8)
    asked = parser.parse_args()
    names = open_family(SAMPLES, size=SIZE).names
    names = names[::-1] if asked.last else names
    known = open_family(SAMPLES, size=SIZE, scenes=list(names[: asked.known]))
    looked_at = [int(view) for view in asked.views.split(",")]
    unseen = open_family(SAMPLES, size=SIZE, scenes=list(names[asked.known :]), views=looked_at)
    if not (asked.out / "run/model.safetensors").is_file():
        fit(known, asked.out / "run", FitConfig(steps=asked.steps, seed=asked.seed))
    run = load_run(asked.out / "run")
    posterior = infer_posterior(run, unseen, steps=max(asked.steps // 4, 1), weight=1e-4)
    print("rank correlation over all pixels, over those of the car; of the latter, how many within 1 and 2 deviations")
    print(f"{'car':18} {'spread of':11} {'error':>7} {'predicted':>9}")
    for number, name in enumerate(unseen.names):
        views = [view for view in unseen.truth(number, "test") if isinstance(view, View)][:4]
        rgba = torch.stack([view.rgba for view in views])
        truth = rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]

        def draw(bound: Bound, views: list[View] = views) -> torch.Tensor:
            return render_views(bound, views)

        mean, code = predict(run, posterior, name, draw, samples=asked.samples)
        found = misfit(run, posterior, unseen, name)
        middle = run.model.bind(posterior.mean[posterior.names.index(name)][None])
        deviation = total_deviation(code, found.at(view_places(middle, views)))
        error, car = (mean - truth).abs().mean(-1), rgba[..., 3] > 0.5
        for label, spread in (("code", code.mean(-1)), ("with misfit", deviation.mean(-1))):
            whole, inside = calibrate(error, spread), calibrate(error[car], spread[car])
            print(
                f"{name:18} {label:11} {float(error[car].mean()):7.4f} {float(spread[car].mean()):9.4f}  "
                f"{whole.rank_correlation:.2f}, {inside.rank_correlation:.2f}; "
                f"{inside.within_one:.0%}, {inside.within_two:.0%}",
                flush=True,
            )
        shown = [truth[0], mean[0], uncertainty_image((mean - truth)[0].abs()), uncertainty_image(deviation[0])]
        write_image(asked.out / f"{name}.png", torch.cat(shown, 1).clamp(0.0, 1.0))


if __name__ == "__main__":
    main()
