"""Fits beside each other: steps of one fit alone and of two at once, with torch or with hyperfields imported first.

`python scripts/bench.py beside`. Each pair of fits runs in two processes; when one is measured alone, the other sleeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAMILIES = {"emoji": (64, 64), "shapes_cars": None, "cars_views": None}
ORDERS = ("hyperfields", "torch")
WARM_UP = 40  # steps


class Done(Exception):
    """Enough steps were counted."""


def one_fit(order: str, name: str, seconds: float, folder: Path, number: int) -> None:
    """One fit of a pair: the first (number 0) is measured alone, then both are."""
    if order == "torch":
        import torch  # noqa: F401
    from hyperfields.scenes import SAMPLES, open_family
    from hyperfields.training.fit import fit

    data = open_family(SAMPLES / name, size=FAMILIES[name])
    rates: dict[str, float] = {}
    phases = iter([("warm", 0.0), *([("alone", seconds)] if number == 0 else []), ("two", seconds)])
    phase, length = next(phases)
    count, began = 0, time.monotonic()

    def meet(what: str) -> None:
        (folder / f"{what}{number}").touch()
        while not all((folder / f"{what}{other}").exists() for other in (0, 1)):
            time.sleep(0.01)

    def on_step(progress: object) -> None:
        nonlocal phase, length, count, began
        count += 1
        if (count < WARM_UP) if phase == "warm" else (time.monotonic() - began < length):
            return
        if phase != "warm":
            rates[phase] = count / (time.monotonic() - began)
        if phase == "two":
            raise Done
        if phase == "warm":
            meet("warm")
        if phase == "alone" or number == 1:
            meet("alone")  # the second fit sleeps here while the first is alone
        phase, length = next(phases)
        count, began = 0, time.monotonic()

    try:
        fit(data, steps=10**6, progress=on_step)
    except Done:
        (folder / f"rates{number}.json").write_text(json.dumps(rates))


def pair(order: str, name: str, seconds: float) -> dict[str, float]:
    """Steps a second of a fit `alone`, and of `two` at once together."""
    drop = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in drop}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, order, name, str(seconds), folder]
        fits = [subprocess.Popen([*words, str(number)], env=environment) for number in (0, 1)]
        if any([fit.wait() for fit in fits]):
            raise SystemExit(f"beside: a fit of {name} failed")
        first, second = (json.loads((Path(folder) / f"rates{number}.json").read_text()) for number in (0, 1))
    return {"alone": first["alone"], "two": first["two"] + second["two"]}


def beside(seconds: float = 12.0) -> dict[str, object]:
    """Steps a second by family and order of imports, with the ratios that matter."""
    report: dict[str, object] = {"seconds": seconds}
    for name in FAMILIES:
        rates = {order: pair(order, name, seconds) for order in ORDERS}
        first, other = rates["torch"], rates["hyperfields"]
        ratios = {
            "torch_first_alone": first["alone"] / other["alone"],
            "torch_first_two": first["two"] / other["two"],
            "two_over_alone": first["two"] / first["alone"],
        }
        report[name] = {"steps_per_second": rates, **ratios}
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)
    return report


if __name__ == "__main__":
    one_fit(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
