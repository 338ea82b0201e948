"""Priors on codes and drawn weights, cost and gain: fits of the sample emoji with several weights of divergences.

    python scripts/study_priors.py OUT [--steps 400] [--seeds 0] [--only vae,factors]

Each row is a fit by the command line, so `--by` and `--bayes` are what to type. Of codes: twelve new scenes are drawn,
and compared with the fitted ones; their pictures lie in OUT, a file a row. Of weights: the standard deviation of a
colour.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from hyperfields.cli import main as run_cli
from hyperfields.evaluation.report import evaluate
from hyperfields.rendering.image import sample_image
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.images import write_image
from hyperfields.runs.run import SOURCE, Run, load_run
from hyperfields.scenes import open_family
from hyperfields.training.inference import draw_fields, new_code

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples/emoji"
SIDE, DRAWS, FIELDS = 32, 12, 8
ROWS = [
    "",
    *(f"--by vae:weight={weight}" for weight in ("1e-6", "1e-5", "3e-5", "1e-4")),
    *(f"--bayes {kind}:weight={weight}" for kind in ("factors", "noise") for weight in ("1e-9", "1e-8", "1e-7")),
]


@torch.no_grad()
def draws(run: Run, path: Path) -> tuple[float, float]:
    """(mean square difference of new scenes to the nearest fitted one, share of values outside of [-0.05, 1.05])."""
    fitted = sample_image(run.bind(*run.names), len(run.names), SIDE, SIDE)
    new = torch.cat([sample_image(run.model.bind(new_code(run, seed)), 1, SIDE, SIDE) for seed in range(DRAWS)])
    write_image(path, new.clamp(0.0, 1.0).transpose(0, 1).reshape(SIDE, DRAWS * SIDE, 3))
    nearest = (new[:, None] - fitted[None]).square().flatten(2).mean(2).amin(1)
    return float(nearest.mean()), float(((new < -0.05) | (new > 1.05)).float().mean())


@torch.no_grad()
def std_of_colors(run: Run) -> float:
    """Standard deviation of a colour over drawn weights, mean over scenes and pixels."""

    def of(name: str) -> Tensor:
        fields = draw_fields(run, run.codes(name), samples=FIELDS)
        return torch.cat([sample_image(field, 1, SIDE, SIDE) for field in fields]).std(0).mean()

    return float(torch.stack([of(name) for name in run.names]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="rows in which one of these words is; without, all")
    asked = parser.parse_args()
    family, lines = open_family(SAMPLES, size=(SIDE, SIDE)), []
    rows = [row for row in ROWS if asked.only is None or any(word in row for word in asked.only.split(","))]
    for row in rows:
        for seed in asked.seeds.split(","):
            out = asked.out / f"{row.replace('--', '').replace(' ', '-').replace(':', '-') or 'table'}-{seed}"
            if not (out / "model.safetensors").is_file():
                words = ["--size", f"{SIDE}x{SIDE}", "--steps", str(asked.steps), "--seed", seed, *row.split()]
                if code := run_cli(["fit", str(SAMPLES), "--out", str(out), *words]):
                    raise SystemExit(code)
            run = load_run(out)
            line = f"{row or 'a table':28} {seed:>4} {evaluate(run, family)['mean']['psnr']:7.2f}"
            if run.model.config.bayes.kind != "none":
                line += f" {std_of_colors(run):11.4f}"
            else:
                std = ""
                if run.config.codes is not None:
                    logarithm = read_tensors(out / SOURCE)[0]["log_std.codes"]
                    std = f"{float(logarithm.float().exp().mean()):.3f}"
                nearest, outside = draws(run, out / "draws.png")
                line += f" {std:>11} {nearest:8.4f} {outside:8.1%}"
            lines.append(line)
    print(f"{'codes or weights':28} seed    psnr         std  nearest  outside", *lines, sep="\n")


if __name__ == "__main__":
    main()
