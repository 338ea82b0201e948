"""make demo: three sample families fitted, measured, rendered and shown on one page, runs/demo/index.html.

Everything is made by the commands that a user would type; this file only says which. `--picture FILE` does
not fit, but composes the picture of the README from the runs of the last demo.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo_page import Part, write_page, write_picture

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("runs/demo")
CARS = ("k_taxi", "q_public_Bus", "k_firetruck", "k_race", "k_taxi")
PARTS = (
    Part(
        name="emoji",
        title="Images",
        about="64 emoji of 64×64 pixels: one latent code each, one hypernetwork for all.",
        minutes=0.9,
        compared=("smiling-face-with-sunglasses", "cat-face", "tiger-face", "panda-face", "unicorn-face",
                  "smiling-face-with-halo", "hamster-face", "sun-with-face"),
        walk=("smiling-face-with-sunglasses", "cat-face", "tiger-face", "sun-with-face", "panda-face",
              "smiling-face-with-sunglasses"),
        walk_options=("--frames", "100", "--size", "128x128"),
    ),
    Part(
        name="shapes_cars",
        title="Shapes",
        about="16 cars as signed distance functions, drawn by sphere tracing.",
        minutes=1.2,
        compared=("k_firetruck", "k_taxi", "q_first_Truck", "q_real_SportsCar2"),
        walk=CARS,
        walk_options=("--frames", "60", "--size", "200x240", "--orbit"),
        turns=(("k_tractor-shovel", "rgb"), ("q_first_Truck", "rgb"), ("k_firetruck", "depth"),
               ("q_real_Cop", "normals")),
    ),
    Part(
        name="cars_views",
        title="Radiance fields",
        about="12 cars, known from 40 pictures each and shown from where no picture was taken.",
        minutes=1.9,
        compared=("k_firetruck", "k_race", "q_real_Cop", "k_ambulance"),
        walk=CARS,
        walk_options=("--frames", "60", "--size", "200x240", "--orbit"),
        turns=(("k_ambulance", "rgb"), ("k_tractor-shovel", "rgb"), ("k_firetruck", "depth"),
               ("k_firetruck", "normals")),
    ),
)  # fmt: skip


def hyperfields(*words: str, alone: bool = True) -> None:
    """Run a command; side by side with others it gets one core and is printed when it is done."""
    line = shlex.join(["hyperfields", *words])
    if alone:
        print(f"\n$ {line}", flush=True)
    began = time.monotonic()
    environment = dict(os.environ) if alone else {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hyperfields", *words]
    pipes = (None, None) if alone else (subprocess.PIPE, subprocess.STDOUT)
    done = subprocess.run(command, env=environment, stdout=pipes[0], stderr=pipes[1], text=True)
    if not alone:
        print(f"\n$ {line}  ({time.monotonic() - began:.0f} s)\n{done.stdout}", end="", flush=True)
    if done.returncode:
        raise SystemExit(f"demo: `{line}` failed with exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, help="write the README's picture from the last demo's runs")
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="fits take this fraction of their time; 1 is the demo"
    )
    options = parser.parse_args()
    if options.picture is not None:
        write_picture(options.picture, ROOT / OUT, PARTS)
        return
    parts = [dataclasses.replace(part, minutes=part.minutes * options.fraction) for part in PARTS]
    began = time.monotonic()
    os.chdir(ROOT)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for part in parts:
        hyperfields(*part.fit(OUT))
    with ThreadPoolExecutor(2) as pool:  # what follows a fit runs on one core: two at a time
        jobs = [pool.submit(hyperfields, *words, alone=False) for part in parts for words in part.rest(OUT)]
    for job in jobs:
        job.result()
    page = write_page(OUT, parts, lambda: time.monotonic() - began)
    print(f"\nthe demo took {time.monotonic() - began:.0f} s; open this page:\n{page.resolve()}")
    print("explore a run with the mouse, in the browser:")
    for part in PARTS:
        print(f"  .venv/bin/hyperfields view {OUT / part.name}")


if __name__ == "__main__":
    main()
