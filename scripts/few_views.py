"""What few views of a new scene give: its code, its code and then all weights, and a fit of it alone.

    python scripts/few_views.py OUT [--family DIR] [--run RUN] [--side 64] [--steps 3000] [--unseen 6]
                                [--each 170 | --seconds 1,2.5,5]
                                [--views 1 --views 2 --views 4 --views 8 --views all] [--views 64 ... as 64,104]

Fits the family without some scenes, evenly spread over the names (or takes RUN, and all scenes that it does not have),
then shows each of these with so many training views, evenly spread, or with those whose numbers are given with commas
between them: `--views 64,` and `--views 64,104` are the protocol of SRN. Every way has the same number of steps for a
scene, or with `--seconds` the same time, several of them one after another: then it also says when each way has what
scenes fitted alone have in the longest. Writes OUT/few_views.json and a plot; what is measured are the test views.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from hyperfields.data import SceneDataset
from hyperfields.evaluation.compare import hold_out
from hyperfields.evaluation.report import evaluate
from hyperfields.evaluation.tables import text_table
from hyperfields.runs.run import Run, load_run
from hyperfields.scenes import open_family
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples/cars_views"
WAYS = {"code": "code", "refined": "code, then all weights", "alone": "alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", type=Path, default=SAMPLES)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000, help="of the family's fit")
    parser.add_argument("--unseen", type=int, default=6)
    parser.add_argument("--each", type=int, default=170, help="steps of a new scene")
    parser.add_argument("--seconds", help="instead: seconds of a new scene, one or several with commas between them")
    parser.add_argument("--views", action="append", help="a number of views, their numbers with commas, or all")
    parser.add_argument("--scenes", help="names of new scenes, with commas between them; default: all of them")
    asked = parser.parse_args()
    size = (asked.side, asked.side)
    names = sorted(path.name for path in asked.family.iterdir() if path.is_dir())
    folder = asked.run or asked.out / "run"
    if not (folder / "model.safetensors").is_file():
        known = open_family(asked.family, kind="views", size=size, scenes=hold_out(names, asked.unseen)[0])
        fit(known, folder, steps=asked.steps, resume=(folder / "config.json").is_file())
    run = load_run(folder)
    unseen = asked.scenes.split(",") if asked.scenes else [name for name in names if name not in run.names]
    lengths = [float(text) for text in asked.seconds.split(",")] if asked.seconds else [None]
    rows: list[dict[str, Any]] = []
    asked.out.mkdir(parents=True, exist_ok=True)
    for text in asked.views or ["1", "2", "4", "8", "all"]:
        views = chosen(text, asked.family, unseen[0], size)
        data = open_family(asked.family, kind="views", size=size, scenes=unseen, views=views)
        for seconds, way in itertools.product(lengths, WAYS):
            report = measured(way, run, data, asked.each, seconds)
            row = {"views": text if views is None else len(views), "way": way, "seconds": seconds}
            row |= {"bytes": report["bytes_per_scene"], "scenes": report["scenes"], "mean": report["mean"]}
            rows.append({**row, "numbers": views})
            length = "" if seconds is None else f" in {seconds:g} s"
            print(f"{row['views']} views, {WAYS[way]}{length}: psnr {report['mean']['psnr']:.2f}", flush=True)
            (asked.out / "few_views.json").write_text(json.dumps({"steps": asked.each, "rows": rows}, indent=1))
    print(table(rows))
    for line in waits(rows) if len(lengths) > 1 else []:
        print(line)
    plot([row for row in rows if row["seconds"] == lengths[-1]], asked.out / "few_views.png")


def chosen(text: str, family: Path, scene: str, size: tuple[int, int]) -> list[int] | None:
    """Numbers of training views; None for all."""
    if text == "all":
        return None
    if "," in text:
        return [int(number) for number in text.split(",") if number]
    there = len(open_family(family, kind="views", size=size, scenes=[scene]).reference(0, "train"))
    count = int(text)
    return [(2 * number + 1) * there // (2 * count) for number in range(count)]


def measured(way: str, run: Run, data: SceneDataset, steps: int, seconds: float | None) -> dict[str, Any]:
    """A report of `evaluate`.

    steps, seconds: of each scene, for "alone"; all scenes at once have as many steps, or as much time in all.
    """
    minutes = None if seconds is None else seconds * len(data.names) / 60.0
    if way == "alone":
        length = steps * len(data.names) if seconds is None else None
        train, model = run.config.train, run.config.model
        alone = fit(
            data, steps=length, minutes=minutes, model=model, train=train, individually=True, progress=False
        )  # fmt: skip
        return evaluate(alone, data)
    length = steps if seconds is None else None
    inferred = infer(run, data, steps=length, minutes=minutes, refine=way == "refined", progress=False)
    return evaluate(run, data, inferred=inferred)


def waits(rows: list[dict[str, Any]]) -> list[str]:
    """Lines that say after how many seconds each way has what scenes fitted alone have in the longest."""
    lines = []
    for views in dict.fromkeys(row["views"] for row in rows):
        curves = {
            way: [(row["seconds"], row["mean"]["psnr"]) for row in rows if (row["views"], row["way"]) == (views, way)]
            for way in WAYS
        }
        longest, wanted = max(curves["alone"])
        for way in ("refined", "alone"):
            found = reached(sorted(curves[way]), wanted)
            when = f"not within {longest:g} s" if found is None else f"after {found:.2f} s"
            lines.append(f"{views} views, {WAYS[way]}: {wanted:.2f} dB {when}")
    return lines


def reached(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Where a curve of (seconds, quality) first has the wanted quality, straight between its points; at its first point
    at the earliest, None where it never has.
    """
    if curve[0][1] >= wanted:
        return curve[0][0]
    for (before, low), (after, high) in itertools.pairwise(curve):
        if high >= wanted:
            return before + (after - before) * (wanted - low) / (high - low)
    return None


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR and LPIPS of each way by the number of views, and by the seconds."""
    cells, timed = [], rows[0]["seconds"] is not None
    for views, seconds in dict.fromkeys((row["views"], row["seconds"]) for row in rows):
        mine = {row["way"]: row for row in rows if (row["views"], row["seconds"]) == (views, seconds)}
        values = [mine[way]["mean"][key] for key in ("psnr", "lpips_alex") for way in WAYS]
        shown = ("n/a" if v is None else f"{v:.2f}" if v > 1.0 else f"{v:.4f}" for v in values)
        cells.append((str(views), *([f"{seconds:g}"] if timed else []), *shown))
    heads = [f"{key}, {WAYS[way]}" for key in ("psnr", "lpips") for way in WAYS]
    return text_table(("views", *(["seconds"] if timed else []), *heads), cells)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The table as a picture, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path}: needs matplotlib")
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    places = list(dict.fromkeys(str(row["views"]) for row in rows))
    for axis, key in zip(figure.subplots(1, 2), ("psnr", "lpips_alex"), strict=True):
        for way, label in WAYS.items():
            known = [row for row in rows if row["way"] == way and row["mean"][key] is not None]
            axis.plot(
                [places.index(str(row["views"])) for row in known],
                [row["mean"][key] for row in known],
                "o-",
                label=label,
            )
        axis.set_xticks(range(len(places)), places)
        axis.set_xlabel("training views of a new scene")
        axis.set_ylabel("psnr of test views [dB]" if key == "psnr" else "lpips (alex)")
        axis.legend()
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
