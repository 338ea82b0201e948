"""Divergence of generators with the stability settings and without: many seeds of short fits of small fields.

    python scripts/study_stability.py [--seeds 20] [--steps 300] [--generators full,low-rank] [--settings none,default]

Emoji of 16x16 pixels, one small MLP each, at the rate of each generator (`Task.network_rate`). A fit has diverged if
its loss at the end is not finite, or above that of pictures in one colour each. `none` initialises as torch does, and
does not clip gradients. Settings are those below, or written out as for `fit --stability`: share=0.2:bound=6. The last
number of a code of `dynamic` is the time, learned here as the others are. `direct` generates nothing: it is left out.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from hyperfields.data import SceneDataset
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import SHARING, Stability, parse, parse_stability
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.scenes import open_family
from hyperfields.tasks import IMAGES, TrainConfig, task_of
from hyperfields.tasks.config import RelativeClip
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.trainer import Fields, Progress, Trainer

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples/emoji"
SETTINGS = {
    "none": Stability(init="plain"),
    "default": Stability(),
}
SCENES = 16


def final_loss(family: SceneDataset, config: ModelConfig, rate: float, seed: int, steps: int, clip: bool) -> float:
    """Mean loss of the last 20 steps; nan when a step was not finite."""
    torch.manual_seed(seed)
    limit = RelativeClip().limit if clip else 0.0
    recipe = TrainConfig(SCENES, SCENES * 64, rate_networks=rate, clip=RelativeClip(limit))
    model = HyperField(config, SCENES, sparse=True)
    objective = task_of(family.kind).objective(family, config.field, recipe, SCENES)

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        codes = model.latents(local)
        return Fields(model.bind(codes), codes)

    prior = GaussianPrior(recipe.prior)
    groups, scenes = parameter_groups(model), torch.arange(SCENES)
    trainer = Trainer(bind, groups, objective, scenes, recipe, seed, regularizers=[prior])
    progress, last = Progress(), []
    for step in range(steps):
        progress.fraction = step / steps
        try:
            trainer.step(progress)
        except FloatingPointError:
            return math.nan
        if step >= steps - 20:
            last.append(float(trainer.loss()[1]))
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--generators", default=",".join(SHARING))
    parser.add_argument("--settings", default="none,default")
    asked = parser.parse_args()
    family = open_family(SAMPLES, size=(16, 16), limit=SCENES)
    pictures = torch.stack([torch.as_tensor(family.reference(i)) for i in range(SCENES)])
    bar = float(pictures.flatten(1, 2).var(1).mean())
    print(f"a picture in one colour: {bar:.4f}")
    print(f"{'generator':16} {'settings':10} {'diverged':>10}  {'median loss':>11}  {'worst':>8}  seconds")
    for name in asked.generators.split(","):
        for setting in asked.settings.split(","):
            started = time.monotonic()
            stable = SETTINGS.get(setting) or parse_stability(setting, "--settings")
            generator = parse(name, SHARING)
            config = ModelConfig(ImageField(Fourier(2, 4), (16, 16)), generator, 16, stable)
            rate, clip = IMAGES.network_rate(generator, SCENES), setting != "none"
            losses = [final_loss(family, config, rate, s, asked.steps, clip) for s in range(asked.seeds)]
            lost = sum(not loss < bar for loss in losses)
            worst = sorted(losses, key=lambda loss: math.inf if math.isnan(loss) else loss)
            print(
                f"{name:16} {setting:10} {lost:>4} of {asked.seeds:<3}  {worst[len(worst) // 2]:11.5f}"
                f"  {worst[-1]:8.4f}  {time.monotonic() - started:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
