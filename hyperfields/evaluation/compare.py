"""Generators compared fairly: the same family, encoding, field and budget for all, and only the generator differs.

    DIR/compare.json     the settings                    DIR/results.jsonl   a line a result, written as it comes
    DIR/GENERATOR-SEED/  the run of each                 DIR/report.json, DIR/pareto.png

A comparison that was stopped goes on where it was: results that are there are not made again.

Equal bytes: a scene's share of all networks, and its code. The encoding is the preset's; when other bytes than the
preset's are asked for, its number of bases follows in proportion, alike for all generators. Each generator then spends
what is left in its own way: first the setting that is natural to it (`KNOBS`) grows as far as the bytes allow at the
preset's latent size, and what remains goes to the latent. A generator without such a setting has the latent alone.
Equal time: each has the rate of its networks that did best in short fits (`presets.RATES`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfields import hypernets
from hyperfields.data import Kind, SceneDataset, fingerprint
from hyperfields.errors import InputError
from hyperfields.evaluation.report import METRICS, evaluate
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.hypernets import Independent
from hyperfields.model import ModelConfig
from hyperfields.runs import checkpoint
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import Preset, TrainConfig, network_rate, preset
from hyperfields.training.cost import count
from hyperfields.training.fit import Fit, FitConfig
from hyperfields.training.inference import infer
from hyperfields.training.optim import Progress

SETTINGS, RESULTS, REPORT, PLOT = "compare.json", "results.jsonl", "report.json", "pareto.png"
GROWING = ("generators", "seeds", "leaders", "bytes_per_scene")  # settings that a comparison may have more of later
QUALITY: dict[Kind, str] = {"images": "psnr", "shapes": "iou", "views": "psnr"}  # what is plotted and ranked
UNITS = {"psnr": "PSNR [dB]", "iou": "IoU"}
LARGEST = 8192  # of a latent or of a generator's own setting
UNSEEN_SHARE = 0.25  # of the fit's length, for inferring scenes that were not fitted
MOMENTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of a fit, at which its quality is looked at
WATCHED = 4  # scenes whose quality is followed
KNOBS = {  # the setting that makes a generator larger
    "per-layer": "hidden",
    "hierarchical": "code",
    "chunked": "hidden",
    "low-rank": "rank",
    "lora": "rank",
    "weight-tokens": "width",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared. Exactly one of `minutes` and `steps`, of each fit."""

    generators: tuple[str, ...]  # names with settings, see hypernets.parse; `direct` fits each scene alone, to compare
    minutes: float | None = None
    steps: int | None = None
    bytes_per_scene: tuple[int, ...] = ()  # a scene takes no more; without, settings are the preset's
    seeds: int = 1
    leaders: int | None = None  # only that many, the best at the first size and seed, get the other sizes and seeds
    preset: Preset = "default"

    def __post_init__(self) -> None:
        if not self.generators or len(set(self.generators)) < len(self.generators):
            raise InputError(f"--generators {','.join(self.generators)}: wanted names, each once")
        for name in self.generators:
            hypernets.parse(name)  # raises
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: wanted at least 1")
        if self.leaders is not None and self.leaders < 1:
            raise InputError(f"--leaders {self.leaders}: wanted at least 1")
        if any(size < 1 for size in self.bytes_per_scene):
            raise InputError(f"--bytes {','.join(map(str, self.bytes_per_scene))}: wanted numbers above 0")
        FitConfig(self.preset, self.minutes, self.steps)  # raises


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fit of a comparison."""

    generator: str
    bytes_per_scene: int | None
    seed: int

    @property
    def alone(self) -> bool:
        return isinstance(hypernets.parse(self.generator), Independent)

    @property
    def folder(self) -> str:
        size = "" if self.bytes_per_scene is None else f"-{self.bytes_per_scene}"
        return f"{self.generator.replace(':', '_').replace('=', '')}{size}-{self.seed}"

    def gave(self, result: dict[str, Any]) -> bool:
        return dataclasses.asdict(self) == {key: result.get(key) for key in ("generator", "bytes_per_scene", "seed")}


def hold_out(names: Sequence[str], wanted: int) -> tuple[list[str], list[str]]:
    """(scenes to fit, `wanted` scenes to leave out, evenly spread over the names).

    Raises:
        InputError: nothing would be left to fit.
    """
    if not 0 < wanted < len(names):
        raise InputError(f"--unseen {wanted}: wanted fewer than the {len(names)} scenes, and at least 1")
    out = {(2 * number + 1) * len(names) // (2 * wanted) for number in range(wanted)}
    return [name for i, name in enumerate(names) if i not in out], [names[i] for i in sorted(out)]


def parse_bytes(text: str | None) -> tuple[int, ...]:
    """`5000` or `5000,2500`.

    Raises:
        InputError: something else.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"--bytes {text}: wanted whole numbers with commas between them")
    return tuple(int(word) for word in words)


def _largest(fits: Callable[[int], bool], unit: int = 1) -> int:
    """The largest multiple of `unit` that fits, by bisection; `unit` itself when none does."""
    low, high = 1, LARGEST // unit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle - 1)
    return low * unit


def sized(config: ModelConfig, name: str, scenes: int, wanted: int) -> ModelConfig:
    """The same model with the generator `name`, as large as `wanted` amortised bytes a scene allow: see the head.

    Raises:
        InputError: even the smallest takes more.
    """

    def fits(model: ModelConfig) -> bool:
        try:
            return count(model, scenes).amortised <= wanted
        except InputError:  # a rank or a chunk that the field does not have
            return False

    encoding = config.field.encoding
    if isinstance(encoding, FactoredGrid):
        bases = max(round(encoding.bases * wanted / count(config, scenes).amortised), 1)
        field = dataclasses.replace(config.field, encoding=dataclasses.replace(encoding, bases=bases))
        config = dataclasses.replace(config, field=field)
    model = dataclasses.replace(config, generator=hypernets.parse(name))
    count(model, scenes)  # refuses settings that do not fit the field
    knob = KNOBS.get(name.partition(":")[0])
    if knob and f":{knob}=" not in name:

        def turned(value: int) -> ModelConfig:
            settings: dict[str, Any] = {knob: value}
            return dataclasses.replace(model, generator=dataclasses.replace(model.generator, **settings))

        model = turned(_largest(lambda value: fits(turned(value)), getattr(model.generator, "heads", 1)))

    def read(size: int) -> ModelConfig:
        return dataclasses.replace(model, latent_size=size)

    if not fits(read(1)):
        raise InputError(
            f"--bytes {wanted:,}: {name} takes {count(read(1), scenes).amortised:,.0f} bytes a scene with a latent of "
            "one number; give more bytes, more scenes or another generator"
        )
    return read(_largest(lambda size: fits(read(size))))


def compare(
    family: SceneDataset,
    out: str | Path,
    comparison: Comparison,
    *,
    unseen: SceneDataset | None = None,
    show: Callable[[str, Progress], None] = lambda name, progress: None,
    tell: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Fit and measure every generator with every seed, and write results, report and plot to the folder `out`.

    Args:
        unseen: scenes whose codes are inferred with the fitted networks, in a quarter of the time.
        show: called as (fit, progress) during fits. tell: called with each result as it comes.

    Returns:
        `settings`, `results` (a dict each) and `table` (a dict for each generator and size, means over seeds, the best
        first), of all that the folder holds.

    Raises:
        InputError: unknown generators, bytes that a generator cannot keep to, a folder with another comparison.
        KeyboardInterrupt: after the state is saved; the same call goes on.
    """
    out = Path(out)
    sizes: tuple[int | None, ...] = comparison.bytes_per_scene or (None,)
    models = _models(family, comparison, sizes)  # refuses before anything is fitted
    settings = {
        **dataclasses.asdict(comparison),
        "kind": family.kind,
        "scenes": list(family.names),
        "fingerprint": fingerprint(family),
        "unseen": list(unseen.names) if unseen else [],
    }
    results = _begin(out, settings)

    def run(trial: Trial) -> None:
        if any(trial.gave(result) for result in results):
            return
        model, recipe = models[trial.generator, None if trial.alone else trial.bytes_per_scene]
        result = _trial(family, unseen, out, comparison, trial, model, recipe, show)
        results.append(result)
        with open(out / RESULTS, "a") as file:
            file.write(json.dumps(result) + "\n")
        _write_report(out, settings, results)
        tell(result)

    first = [Trial(name, sizes[0], 0) for name in comparison.generators]
    first = [dataclasses.replace(trial, bytes_per_scene=None) if trial.alone else trial for trial in first]
    for trial in first:
        run(trial)
    leading = [trial for trial in first if not trial.alone]
    if comparison.leaders is not None:
        mine = [result for result in results if any(trial.gave(result) for trial in leading)]
        leading = [
            t for row in summarize(mine)[: comparison.leaders] for t in leading if t.generator == row["generator"]
        ]
    for size in sizes:
        for trial in leading:
            for seed in range(comparison.seeds):
                run(Trial(trial.generator, size, seed))
    return _write_report(out, settings, results)


def redo_report(out: str | Path) -> dict[str, Any]:
    """The report of `compare` made again from the settings and results in its folder; nothing is fitted.

    Raises:
        InputError: the folder holds no comparison, or none of its results yet.
    """
    out = Path(out)
    if not (out / SETTINGS).is_file():
        raise InputError(f"{out}: holds no comparison; make one with: hyperfields compare FAMILY --out {out}")
    settings, results = _read_settings(out / SETTINGS), _read_results(out)
    if not results:
        raise InputError(f"{out}: holds no results yet; go on with the comparison by giving its FAMILY")
    return _write_report(out, settings, results)


def _write_report(out: Path, settings: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    report = {"settings": settings, "results": list(results), "table": summarize(results)}
    checkpoint.write_atomically(out / REPORT, json.dumps(report, indent=1).encode())
    return report


def _models(
    family: SceneDataset, comparison: Comparison, sizes: Sequence[int | None]
) -> dict[tuple[str, int | None], tuple[ModelConfig, TrainConfig]]:
    """Model and recipe of each generator and size: the preset's field, encoding and recipe, and rates of its own."""
    side, scenes = max(task_of(family.kind).describe(family).get("size", (1, 1))), len(family.names)
    base, recipe = preset(comparison.preset, family.kind, scenes, side)
    models: dict[tuple[str, int | None], tuple[ModelConfig, TrainConfig]] = {}
    for name in comparison.generators:
        if isinstance(hypernets.parse(name), Independent):
            models[name, None] = base, recipe  # `Fit` takes the networks away
            continue
        mine = dataclasses.replace(recipe, rate_networks=network_rate(name, family.kind, scenes))
        for size in sizes:
            if size is None:
                model = dataclasses.replace(base, generator=hypernets.parse(name))
                count(model, scenes)  # refuses settings that do not fit the field
            else:
                model = sized(base, name, scenes, size)
            models[name, size] = model, mine
    return models


def _begin(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Results that are there already; what is in `GROWING` may change, nothing else.

    Raises:
        InputError: the folder holds something else.
    """
    path = out / SETTINGS
    if path.is_file():
        old = _read_settings(path)
        for key, value in json.loads(json.dumps(settings)).items():
            if key not in GROWING and old.get(key) != value:
                raise InputError(f"{out}: holds a comparison with another {key}; choose another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds other files; wanted a new or an empty folder for the comparison")
    checkpoint.write_atomically(path, json.dumps(settings, indent=1).encode())
    results = _read_results(out)
    if (out / RESULTS).is_file():  # without the line that was cut
        whole = "".join(json.dumps(result) + "\n" for result in results)
        checkpoint.write_atomically(out / RESULTS, whole.encode())
    return results


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        raise InputError(f"{path}: damaged, not the JSON that compare writes; choose another --out") from None
    return found


def _read_results(out: Path) -> list[dict[str, Any]]:
    """Results in a folder, without a line that was cut by a kill."""
    results = []
    lines = (out / RESULTS).read_text().splitlines() if (out / RESULTS).is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError):
            results.append(json.loads(line))
    return results


def _trial(
    family: SceneDataset,
    unseen: SceneDataset | None,
    out: Path,
    comparison: Comparison,
    trial: Trial,
    model: ModelConfig,
    recipe: TrainConfig,
    show: Callable[[str, Progress], None],
) -> dict[str, Any]:
    """Fit, measure, infer, measure."""
    folder = out / trial.folder
    config = FitConfig(comparison.preset, comparison.minutes, comparison.steps, trial.seed, individually=trial.alone)
    result: dict[str, Any] = {
        **dataclasses.asdict(trial),
        "latent_size": model.latent_size,
        "settings": repr(model.generator) if not trial.alone else "Independent()",
        "rate_networks": recipe.rate_networks,
    }
    resume = (folder / checkpoint.CONFIG).is_file()
    fitting = Fit(family, folder, config, model=model, recipe=recipe, resume=resume)
    watch = _Watch(fitting, f"{trial.generator}, seed {trial.seed}", show)
    try:
        fitting.run(watch)
        run = checkpoint.load_run(folder)
        report = evaluate(run, family)
    except FloatingPointError as error:
        return {**result, "diverged": str(error)}
    key = QUALITY[family.kind]
    watched = run.names[:: max(len(run.names) // WATCHED, 1)][:WATCHED]
    end = [value for name in watched if (value := report["scenes"][name][key]) is not None]
    result |= {
        "bytes_per_scene_found": report["bytes_per_scene"],
        "parameters": report["parameters"],
        "steps": fitting.progress.step,
        "seconds": fitting.progress.seconds,
        "mean": report["mean"],
        "worst": min((scene[key] for scene in report["scenes"].values() if scene[key] is not None), default=None),
        "curve": watch.curve(folder, family, watched, key) if not trial.alone else [],
    }
    if end:
        result["curve"].append([fitting.progress.seconds, statistics.fmean(end)])
    if unseen is not None and not trial.alone:
        minutes = None if comparison.minutes is None else comparison.minutes * UNSEEN_SHARE
        steps = None if comparison.steps is None else max(int(comparison.steps * UNSEEN_SHARE), 1)
        try:
            codes = infer(run, unseen, folder / "unseen.safetensors", minutes=minutes, steps=steps, seed=trial.seed)
            result["unseen"] = evaluate(run.with_codes(codes.names, codes.codes), unseen)["mean"]
        except FloatingPointError as error:
            result["unseen_diverged"] = str(error)
    return result


class _Watch:
    """Keeps the weights at some moments of a fit; they are measured afterwards, since measuring takes time."""

    def __init__(self, fitting: Fit, name: str, show: Callable[[str, Progress], None]) -> None:
        self.fitting, self.name, self.show = fitting, name, show
        done = fitting.progress.fraction  # of a fit that goes on: what lies before is lost
        self.moments = [moment for moment in MOMENTS if moment > done]
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def __call__(self, progress: Progress) -> None:
        if self.moments and progress.fraction >= self.moments[0] and not self.fitting.config.individually:
            self.moments.pop(0)
            state = {key: value.detach().clone() for key, value in self.fitting.model.state_dict().items()}
            self.kept.append((progress.seconds, state))
        self.show(self.name, progress)

    def curve(self, folder: Path, family: SceneDataset, names: Sequence[str], key: str) -> list[list[float]]:
        """Pairs of seconds and the mean quality of some scenes."""
        run = checkpoint.load_run(folder)
        found = []
        for seconds, state in self.kept:
            run.model.load_state_dict(state)
            value = evaluate(run.with_codes(names, run.codes(*names)), family)["mean"][key]
            if value is not None:
                found.append([seconds, value])
        return found


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each generator and size, means over its seeds; the best quality first, diverged ones last."""
    rows = []
    for name, size in dict.fromkeys((result["generator"], result["bytes_per_scene"]) for result in results):
        mine = [result for result in results if (result["generator"], result["bytes_per_scene"]) == (name, size)]
        whole = [result for result in mine if "mean" in result]
        row: dict[str, Any] = {"generator": name, "bytes_per_scene": size}
        row |= {"seeds": len(mine), "diverged": len(mine) - len(whole)}
        row["latent_size"], row["settings"] = mine[0]["latent_size"], mine[0].get("settings")
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
                "unseen_spread": statistics.stdev(found) if len(found) > 1 else None,
                "amortised": whole[0]["bytes_per_scene_found"]["amortised"],
                "marginal": whole[0]["bytes_per_scene_found"]["marginal"],
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
    text = f"{head}{', '.join(means)}; {result['bytes_per_scene_found']['amortised']:,.0f} bytes a scene, "
    text += f"{result['steps']:,} steps in {result['seconds']:.1f} s"
    key = "psnr" if "psnr" in result["mean"] else "iou"
    if result.get("unseen") and result["unseen"][key] is not None:
        text += f"; unseen {key} {result['unseen'][key]:.4g}"
    return text + ("; unseen: diverged" if "unseen_diverged" in result else "")


def format_table(report: dict[str, Any]) -> str:
    """The table of a report, for a terminal or a text file."""
    head = ("generator", "latent", "bytes a scene", "one more", "steps", "seeds", "fitted", "worst", "unseen")
    rows: list[tuple[str, ...]] = [head]
    for row in report["table"]:
        name = "alone" if row["generator"] == "direct" else row["generator"]
        if "quality" not in row:
            rows.append((name, f"{row['latent_size']:,}", *("",) * 3, f"{row['seeds']}", "diverged", *("",) * 2))
            continue
        digits = "{:.2f}" if row["metric"] == "psnr" else "{:.4f}"

        def told(key: str, spread: str | None, row: dict[str, Any] = row, digits: str = digits) -> str:
            if row[key] is None:
                return "n/a"
            around = "" if spread is None or row[spread] is None else f" ± {digits.format(row[spread])}"
            return digits.format(row[key]) + around

        values = [told("quality", "spread"), told("worst", None), told("unseen", "unseen_spread")]
        if row["diverged"]:
            values[0] += f" ({row['diverged']} of {row['seeds']} diverged)"
        latent = "" if name == "alone" else f"{row['latent_size']:,}"
        sizes = (latent, f"{row['amortised']:,.0f}", f"{row['marginal']:,}", f"{row['steps']:,.0f}", f"{row['seeds']}")
        rows.append((name, *sizes, *values))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    settings = report["settings"]
    metric = UNITS[QUALITY[settings["kind"]]]
    text = f"{metric}, mean over {len(settings['scenes'])} {settings['kind']}; ± spread over seeds; worst: of a scene"
    if settings["unseen"]:
        text += f"; unseen: {len(settings['unseen'])} others, codes inferred"
    return "\n".join([*lines, text])
