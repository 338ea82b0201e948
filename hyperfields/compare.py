"""Generators compared fairly: the same family, encoding, field and budget for all, and only the generator differs.

    DIR/compare.json     the settings                    DIR/results.jsonl   a line a result, written as it comes
    DIR/GENERATOR-SEED/  the run of each                 DIR/report.json, DIR/pareto.png

A comparison that was stopped goes on where it was: results that are there are not made again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hyperfields import checkpoint, hypernets
from hyperfields.counts import count
from hyperfields.errors import InputError
from hyperfields.evaluate import METRICS, evaluate
from hyperfields.families import Family, Kind, fingerprint
from hyperfields.fit import Fit, FitConfig, Progress, describe
from hyperfields.hypernets import Direct
from hyperfields.infer import infer
from hyperfields.model import ModelConfig
from hyperfields.presets import Preset, preset

SETTINGS, RESULTS, REPORT, PLOT = "compare.json", "results.jsonl", "report.json", "pareto.png"
QUALITY: dict[Kind, str] = {"images": "psnr", "shapes": "iou", "views": "psnr"}  # what is plotted and ranked
UNITS = {"psnr": "PSNR [dB]", "iou": "IoU"}
LARGEST_LATENT = 8192
UNSEEN_SHARE = 0.25  # of the fit's length, for inferring scenes that were not fitted


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared. Exactly one of `minutes` and `steps`, of each fit."""

    generators: tuple[str, ...]  # names with settings, see hypernets.parse
    minutes: float | None = None
    steps: int | None = None
    bytes_per_scene: int | None = None  # the latent size is chosen so that a scene takes no more; else the preset's
    seeds: int = 1
    preset: Preset = "default"

    def __post_init__(self) -> None:
        if not self.generators or len(set(self.generators)) < len(self.generators):
            raise InputError(f"--generators {','.join(self.generators)}: wanted names, each once")
        for name in self.generators:
            if isinstance(hypernets.parse(name), Direct):
                raise InputError("--generators direct: shares nothing; fit each alone with: fit --individually")
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: wanted at least 1")
        FitConfig(self.preset, self.minutes, self.steps)  # raises


def latent_for(config: ModelConfig, scenes: int, wanted: int) -> ModelConfig:
    """The same model with the largest latent whose amortised bytes a scene are at most `wanted`, by bisection.

    The latent size is the one knob that every generator has, and bytes grow with it.

    Raises:
        InputError: even a latent of one number takes more.
    """

    def takes(size: int) -> float:
        return count(dataclasses.replace(config, latent_size=size), scenes).amortised

    if takes(1) > wanted:
        raise InputError(
            f"--bytes {wanted:,}: {config.generator} takes {takes(1):,.0f} bytes a scene with a latent of one number; "
            "give more bytes, more scenes or another generator"
        )
    low, high = 1, LARGEST_LATENT
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(middle) <= wanted else (low, middle - 1)
    return dataclasses.replace(config, latent_size=low)


def compare(
    family: Family,
    out: str | Path,
    comparison: Comparison,
    *,
    unseen: Family | None = None,
    show: Callable[[str, Progress], None] = lambda name, progress: None,
    tell: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Fit and measure every generator with every seed, and write results, report and plot to the folder `out`.

    Args:
        unseen: scenes whose codes are inferred with the fitted networks, in a quarter of the time.
        show: called as (fit, progress) during fits. tell: called with each result as it comes.

    Returns:
        `settings`, `results` (a dict each) and `table` (a dict a generator, means over seeds, the best first).

    Raises:
        InputError: unknown generators, bytes that a generator cannot keep to, a folder with another comparison.
        KeyboardInterrupt: after the state is saved; the same call goes on.
    """
    out = Path(out)
    models = _models(family, comparison)  # refuses before anything is fitted
    settings = {
        **dataclasses.asdict(comparison),
        "generators": list(comparison.generators),
        "kind": family.kind,
        "scenes": list(family.names),
        "fingerprint": fingerprint(family),
        "unseen": list(unseen.names) if unseen else [],
    }
    results = _begin(out, settings)
    for name, model in models.items():
        for seed in range(comparison.seeds):
            if any((result["generator"], result["seed"]) == (name, seed) for result in results):
                continue
            result = _trial(family, unseen, out, comparison, name, model, seed, show)
            results.append(result)
            with open(out / RESULTS, "a") as file:
                file.write(json.dumps(result) + "\n")
            tell(result)
    results = [result for result in results if result["generator"] in models and result["seed"] < comparison.seeds]
    report = {"settings": settings, "results": results, "table": summarize(results)}
    checkpoint.write_atomically(out / REPORT, json.dumps(report, indent=1).encode())
    return report


def _models(family: Family, comparison: Comparison) -> dict[str, ModelConfig]:
    """The model of each generator: the preset's field and encoding, and a latent as large as the bytes allow."""
    side = max(describe(family).get("size", (1, 1)))
    base, _ = preset(comparison.preset, family.kind, len(family.names), side)
    models = {}
    for name in comparison.generators:
        model = dataclasses.replace(base, generator=hypernets.parse(name))
        if comparison.bytes_per_scene is not None:
            model = latent_for(model, len(family.names), comparison.bytes_per_scene)
        count(model, len(family.names))  # refuses settings that do not fit the field
        models[name] = model
    return models


def _begin(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Results that are there already; more generators and more seeds may be added to a comparison, nothing else.

    Raises:
        InputError: the folder holds something else.
    """
    path = out / SETTINGS
    if path.is_file():
        try:
            old = json.loads(path.read_bytes())
        except ValueError:
            raise InputError(f"{path}: damaged, not the JSON that compare writes; choose another --out") from None
        for key, value in json.loads(json.dumps(settings)).items():
            if key not in ("generators", "seeds") and old.get(key) != value:
                raise InputError(f"{out}: holds a comparison with another {key}; choose another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds other files; wanted a new or an empty folder for the comparison")
    checkpoint.write_atomically(path, json.dumps(settings, indent=1).encode())
    results = []
    if (out / RESULTS).is_file():
        for line in (out / RESULTS).read_text().splitlines():
            try:
                results.append(json.loads(line))
            except ValueError:
                continue  # cut by a kill: made again
        whole = "".join(json.dumps(result) + "\n" for result in results)
        checkpoint.write_atomically(out / RESULTS, whole.encode())
    return results


def _trial(
    family: Family,
    unseen: Family | None,
    out: Path,
    comparison: Comparison,
    name: str,
    model: ModelConfig,
    seed: int,
    show: Callable[[str, Progress], None],
) -> dict[str, Any]:
    """Fit, measure, infer, measure."""
    folder = out / f"{name.replace(':', '_').replace('=', '')}-{seed}"
    config = FitConfig(comparison.preset, comparison.minutes, comparison.steps, seed)
    result: dict[str, Any] = {"generator": name, "seed": seed, "latent_size": model.latent_size}
    try:
        resume = (folder / checkpoint.CONFIG).is_file()
        fitting = Fit(family, folder, config, model=model, resume=resume)
        fitting.run(lambda progress: show(f"{name}, seed {seed}", progress))
    except FloatingPointError as error:
        return {**result, "diverged": str(error)}
    run = checkpoint.load_run(folder)
    report = evaluate(run, family)
    key = QUALITY[family.kind]
    result |= {
        "bytes_per_scene": report["bytes_per_scene"],
        "parameters": report["parameters"],
        "steps": fitting.progress.step,
        "seconds": fitting.progress.seconds,
        "mean": report["mean"],
        "worst": min((scene[key] for scene in report["scenes"].values() if scene[key] is not None), default=None),
        "curve": _curve(folder / checkpoint.METRICS),
    }
    if unseen is not None:
        minutes = None if comparison.minutes is None else comparison.minutes * UNSEEN_SHARE
        steps = None if comparison.steps is None else max(int(comparison.steps * UNSEEN_SHARE), 1)
        codes = infer(run, unseen, folder / "unseen.safetensors", minutes=minutes, steps=steps, seed=seed)
        result["unseen"] = evaluate(run.with_codes(codes.names, codes.codes), unseen)["mean"]
    return result


def _curve(path: Path) -> list[list[float]]:
    """Pairs of seconds and loss along a fit."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [[line["seconds"], line["loss"]] for line in lines]


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a generator, means over its seeds; the best quality first, diverged ones last."""
    rows = []
    for name in dict.fromkeys(result["generator"] for result in results):
        mine = [result for result in results if result["generator"] == name]
        whole = [result for result in mine if "mean" in result]
        row: dict[str, Any] = {"generator": name, "seeds": len(mine), "diverged": len(mine) - len(whole)}
        row["latent_size"] = mine[0]["latent_size"]
        if whole:
            key = "psnr" if "psnr" in whole[0]["mean"] else "iou"
            values = [result["mean"][key] for result in whole if result["mean"][key] is not None]
            found = [r["unseen"][key] for r in whole if r.get("unseen") and r["unseen"][key] is not None]
            row |= {
                "metric": key,
                "quality": statistics.fmean(values) if values else None,
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "worst": min((r["worst"] for r in whole if r["worst"] is not None), default=None),
                "unseen": statistics.fmean(found) if found else None,
                "amortised": whole[0]["bytes_per_scene"]["amortised"],
                "marginal": whole[0]["bytes_per_scene"]["marginal"],
                "steps": statistics.fmean(result["steps"] for result in whole),
                "seconds": statistics.fmean(result["seconds"] for result in whole),
            }
        rows.append(row)
    return sorted(rows, key=lambda row: -math.inf if row.get("quality") is None else row["quality"], reverse=True)


def format_result(result: dict[str, Any]) -> str:
    """One result as a line."""
    head = f"{result['generator']}, seed {result['seed']}: "
    if "mean" not in result:
        return f"{head}diverged: {result['diverged']}"
    metrics = [name for names in METRICS.values() for name in names]
    means = [f"{k} {result['mean'][k]:.4g}" for k in dict.fromkeys(metrics) if result["mean"].get(k) is not None]
    text = f"{head}{', '.join(means)}; {result['bytes_per_scene']['amortised']:,.0f} bytes a scene, "
    text += f"{result['steps']:,} steps in {result['seconds']:.1f} s"
    key = "psnr" if "psnr" in result["mean"] else "iou"
    if result.get("unseen") and result["unseen"][key] is not None:
        text += f"; unseen {key} {result['unseen'][key]:.4g}"
    return text


def format_table(report: dict[str, Any]) -> str:
    """The table of a report, for a terminal or a text file."""
    head = ("generator", "latent", "bytes a scene", "one more", "steps", "quality", "spread", "worst", "unseen")
    rows = [head]
    for row in report["table"]:
        if "quality" not in row:
            rows.append((row["generator"], str(row["latent_size"]), *("",) * 3, "diverged", *("",) * 3))
            continue
        digits = "{:.2f}" if row["metric"] == "psnr" else "{:.4f}"
        values = ["n/a" if row[k] is None else digits.format(row[k]) for k in ("quality", "spread", "worst", "unseen")]
        if row["diverged"]:
            values[0] += f" ({row['diverged']} of {row['seeds']} diverged)"
        sizes = (f"{row['latent_size']:,}", f"{row['amortised']:,.0f}", f"{row['marginal']:,}", f"{row['steps']:,.0f}")
        rows.append((row["generator"], *sizes, *values))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    settings = report["settings"]
    seeds = f"{settings['seeds']} seed{'' if settings['seeds'] == 1 else 's'}"
    metric = UNITS[QUALITY[settings["kind"]]]
    return "\n".join([*lines, f"quality: {metric}, mean over {len(settings['scenes'])} {settings['kind']}, {seeds}"])


def plot(report: dict[str, Any], path: Path) -> None:
    """Quality against bytes a scene, and the loss against time, as a picture.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(f"{path}: needs matplotlib; pip install 'hyperfields[plots]'") from None
    metric = UNITS[QUALITY[report["settings"]["kind"]]]
    rows = [row for row in report["table"] if row.get("quality") is not None]
    panels = ["quality", *(["unseen"] if any(row["unseen"] is not None for row in rows) else []), "time"]
    figure = Figure(figsize=(5.0 * len(panels), 4.2), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels)), strict=True))
    for number, row in enumerate(rows):
        style = {"color": f"C{number % 10}", "label": row["generator"]}
        axes["quality"].errorbar(row["amortised"], row["quality"], yerr=row["spread"] or 0.0, fmt="o", **style)
        if row["unseen"] is not None:
            axes["unseen"].plot(row["amortised"], row["unseen"], "o", **style)
        curves = [result["curve"] for result in report["results"] if result["generator"] == row["generator"]]
        for curve in curves[:1]:  # of the first seed
            axes["time"].plot(*zip(*curve, strict=True), ".-", **style)
    for name in panels[:-1]:
        front = pareto([(row["amortised"], row[name]) for row in rows if row[name] is not None])
        if front:
            axes[name].plot(*zip(*front, strict=True), color="0.7", zorder=0)
            axes[name].set_xlim(0.0, 1.2 * max(row["amortised"] for row in rows))
        title = "fitted scenes" if name == "quality" else "unseen scenes, codes inferred"
        axes[name].set(xlabel="bytes a scene", ylabel=metric, title=title)
    axes["time"].set(yscale="log", xlabel="seconds of fitting", ylabel="loss", title="fitted scenes")
    if rows:
        axes["time"].legend()
    figure.savefig(path, dpi=120)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality) those that no other beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front
