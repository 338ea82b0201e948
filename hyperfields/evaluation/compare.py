"""Generators compared fairly: the same family, encoding, field and budget for all, and only the generator differs.

    DIR/compare.json     the settings                    DIR/results.jsonl   a line a result, written as it comes
    DIR/GENERATOR-SEED/  the run of each                 DIR/report.json, DIR/pareto.png

A comparison that was stopped goes on where it was: results that are there are not made again.

Equal bytes and equal time: see `budget`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfields import hypernets
from hyperfields.configs import parts_of
from hyperfields.data import SceneDataset, fingerprint
from hyperfields.errors import InputError
from hyperfields.evaluation.budget import models_of
from hyperfields.evaluation.comparison_table import summarize
from hyperfields.evaluation.report import evaluate
from hyperfields.evaluation.unseen import file_rows, measure_unseen
from hyperfields.hypernets import shares_networks
from hyperfields.model import ModelConfig
from hyperfields.runs.atomic import append, require_room, write_atomically
from hyperfields.runs.config import CONFIG, FitSettings
from hyperfields.runs.lock import FolderLock
from hyperfields.runs.run import Run, load_run
from hyperfields.tasks import Preset, Task, TrainConfig, task_of
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Length, Progress

SETTINGS, RESULTS, REPORT, PLOT = "compare.json", "results.jsonl", "report.json", "pareto.png"
GROWING = (
    "generators",
    "seeds",
    "leaders",
    "bytes_per_scene",
    "files",
)  # settings that a comparison may have more of later
MOMENTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of a fit, at which its quality is measured
WATCHED = 4  # scenes whose quality is followed


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Settings of a comparison. Exactly one of `minutes` and `steps`, of each fit."""

    generators: tuple[str, ...]  # names with settings, see hypernets.parse; `direct` fits each scene alone, to compare
    minutes: float | None = None
    steps: int | None = None
    bytes_per_scene: tuple[int, ...] = ()  # a scene takes no more; without, settings are the preset's
    seeds: int = 1
    leaders: int | None = None  # only that many, the best at the first size and seed, get the other sizes and seeds
    preset: Preset = "default"
    unseen_bytes: tuple[int, ...] = ()  # that scenes which were not fitted may take each, beside the run

    def __post_init__(self) -> None:
        if not self.generators or len(set(self.generators)) < len(self.generators):
            raise InputError(f"--generators {','.join(self.generators)}: wanted names, each once")
        for name in self.generators:
            if not isinstance(name, str):
                raise InputError(f"generators: {name!r:.60} came; wanted names, as in hypernets.GENERATORS")
            hypernets.parse(name)  # raises
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: wanted at least 1")
        if self.leaders is not None and self.leaders < 1:
            raise InputError(f"--leaders {self.leaders}: wanted at least 1")
        if self.leaders is not None and self.seeds == 1 and len(self.bytes_per_scene) < 2:
            raise InputError(f"--leaders {self.leaders}: get other --bytes or --seeds; give several, or leave it out")
        for option, sizes in (("--bytes", self.bytes_per_scene), ("--unseen-bytes", self.unseen_bytes)):
            if any(size < 1 for size in sizes):
                raise InputError(f"{option} {','.join(map(str, sizes))}: wanted numbers above 0")
        Length(self.minutes, self.steps)  # raises


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fit of a comparison."""

    generator: str
    bytes_per_scene: int | None
    seed: int

    @property
    def alone(self) -> bool:
        return not shares_networks(hypernets.parse(self.generator))

    @property
    def folder(self) -> str:
        size = "" if self.bytes_per_scene is None else f"-{self.bytes_per_scene}"
        return f"{self.generator.replace(':', '_').replace('=', '')}{size}-{self.seed}"

    def gave(self, result: dict[str, Any]) -> bool:
        return dataclasses.asdict(self) == {key: result.get(key) for key in ("generator", "bytes_per_scene", "seed")}


def hold_out(names: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """(scenes to fit, `count` scenes to leave out, at equal distances in the list of names).

    Raises:
        InputError: nothing would be left to fit.
    """
    if not 0 < count < len(names):
        raise InputError(f"--unseen {count}: wanted fewer than the {len(names)} scenes, and at least 1")
    out = {(2 * number + 1) * len(names) // (2 * count) for number in range(count)}
    return [name for i, name in enumerate(names) if i not in out], [names[i] for i in sorted(out)]


def parse_bytes(text: str | None, option: str = "--bytes") -> tuple[int, ...]:
    """`5000` or `5000,2500`.

    Raises:
        InputError: something else.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"{option} {text}: wanted whole numbers with commas between them")
    return tuple(int(word) for word in words)


def compare(
    family: SceneDataset,
    out: str | Path,
    comparison: Comparison,
    *,
    unseen: SceneDataset | None = None,
    task: Task | None = None,
    show: Callable[[str, Progress], None] = lambda name, progress: None,
    tell: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Fit and measure every generator with every seed, and write results, report and plot to the folder `out`.

    Args:
        unseen: scenes whose codes are inferred with the fitted networks, in a quarter of the time, and then once more
            within each of the comparison's `unseen_bytes`.
        task: of a kind that is your own.
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
    kind = task or task_of(family.kind)
    # Refuses before anything is fitted.
    models = models_of(family, kind, comparison.preset, comparison.generators, sizes)
    settings = {
        **dataclasses.asdict(comparison),
        "kind": family.kind,
        "scenes": list(family.names),
        "fingerprint": fingerprint(family),
        "unseen": list(unseen.names) if unseen else [],
        "files": file_rows(unseen, kind, comparison.unseen_bytes) if unseen else [],
    }
    with FolderLock(out):
        results = _begin(out, settings, task)

        def run(trial: Trial) -> None:
            if any(trial.gave(result) for result in results):
                return
            model, recipe = models[trial.generator, None if trial.alone else trial.bytes_per_scene]
            result = _trial(family, unseen, task, out, comparison, trial, model, recipe, show)
            results.append(result)
            append(out / RESULTS, json.dumps(result) + "\n")
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


def redo_report(out: str | Path, task: Task | None = None) -> dict[str, Any]:
    """The report of `compare` made again from the settings and results in its folder; nothing is fitted.

    task: of a kind that is your own.

    Raises:
        InputError: the folder holds no comparison, or none of its results yet.
    """
    out = Path(out)
    if not (out / SETTINGS).is_file():
        raise InputError(f"{out}: holds no comparison; make one with: hyperfields compare FAMILY --out {out}")
    with FolderLock(out):
        settings, results = _read_settings(out / SETTINGS, task), _read_results(out)
        if not results:
            raise InputError(f"{out}: holds no results yet; go on with the comparison by giving its FAMILY")
        return _write_report(out, settings, results)


def _write_report(out: Path, settings: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    report = {"settings": settings, "results": list(results), "table": summarize(results)}
    write_atomically(out / REPORT, json.dumps(report, indent=1).encode())
    return report


def _begin(out: Path, settings: dict[str, Any], task: Task | None = None) -> list[dict[str, Any]]:
    """Results that are there already; what is in `GROWING` may change, nothing else.

    Raises:
        InputError: the folder holds something else.
    """
    path = out / SETTINGS
    if path.is_file():
        old = _read_settings(path, task)
        for key, value in json.loads(json.dumps(settings)).items():
            if key not in GROWING and old.get(key) != value:
                raise InputError(f"{out}: holds a comparison with another {key}; choose another --out")
    else:
        require_room(out, "the comparison")
    write_atomically(path, json.dumps(settings, indent=1).encode())
    results = _read_results(out)
    if (out / RESULTS).is_file():  # without the line that was cut
        whole = "".join(json.dumps(result) + "\n" for result in results)
        write_atomically(out / RESULTS, whole.encode())
    return results


def _read_settings(path: Path, task: Task | None) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        settings = None
    lists = ("scenes", "unseen")
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), list) for key in lists):
        raise InputError(f"{path}: damaged, not the JSON that compare writes; choose another --out")
    try:
        if task is None or settings.get("kind") != task.kind:
            task_of(str(settings.get("kind")))
    except InputError as error:
        raise InputError(f"{path}: {error}; choose another --out") from None
    return settings


def _read_results(out: Path) -> list[dict[str, Any]]:
    """Results in a folder, without a line that was cut by a kill."""
    results = []
    lines = (out / RESULTS).read_text(errors="replace").splitlines() if (out / RESULTS).is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            results.append(json.loads(line))
    try:
        summarize(results)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration):
        raise InputError(f"{out / RESULTS}: damaged, not the lines that compare writes; choose another --out") from None
    return results


def _trial(
    family: SceneDataset,
    unseen: SceneDataset | None,
    task: Task | None,
    out: Path,
    comparison: Comparison,
    trial: Trial,
    model: ModelConfig,
    recipe: TrainConfig,
    show: Callable[[str, Progress], None],
) -> dict[str, Any]:
    """Fit, measure, infer, measure."""
    folder = out / trial.folder
    settings = FitSettings(comparison.preset, comparison.minutes, comparison.steps, trial.seed, trial.alone)
    result: dict[str, Any] = {
        **dataclasses.asdict(trial),
        "latent_size": model.latent_size,
        "settings": repr(model.generator) if not trial.alone else "Independent()",
        "rate_networks": recipe.rate_networks,
    }
    resume = (folder / CONFIG).is_file()
    fitting = Fit(family, folder, settings, model=model, train=recipe, resume=resume, task=task)
    watch = _Watch(fitting, f"{trial.generator}, seed {trial.seed}", show)
    try:
        run = fitting.run(watch)
        report = evaluate(run, family)
    except FloatingPointError as error:
        return {**result, "diverged": str(error)}
    key = run.task.metrics[0].name
    watched = run.names[:: max(len(run.names) // WATCHED, 1)][:WATCHED]
    end = [value for name in watched if (value := report["scenes"][name][key]) is not None]
    result |= {
        "bytes_per_scene_found": report["bytes_per_scene"],
        "parameters": report["parameters"],
        "steps": fitting.progress.step,
        "seconds": fitting.progress.seconds,
        "mean": report["mean"],
        "worst": min((scene[key] for scene in report["scenes"].values() if scene[key] is not None), default=None),
        "curve": [] if trial.alone else watch.curve(load_run(folder, trust=parts_of(run.config)), family, watched, key),
    }
    if end:
        result["curve"].append([fitting.progress.seconds, statistics.fmean(end)])
    if unseen is not None:
        sizes = None if trial.alone else comparison.unseen_bytes
        length: dict[str, Any] = {"minutes": comparison.minutes, "steps": comparison.steps, "seed": trial.seed}
        result |= measure_unseen(run, unseen, trial.generator, sizes, folder, **length)
    return result


class _Watch:
    """Keeps the weights at some moments of a fit; they are measured afterwards, since measuring takes time."""

    def __init__(self, fitting: Fit, name: str, show: Callable[[str, Progress], None]) -> None:
        self.fitting, self.name, self.show = fitting, name, show
        done = fitting.progress.fraction  # of a fit that goes on: what lies before is lost
        self.moments = [moment for moment in MOMENTS if moment > done]
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def __call__(self, progress: Progress) -> None:
        if self.moments and progress.fraction >= self.moments[0] and not self.fitting.settings.individually:
            self.moments.pop(0)
            state = {key: value.detach().clone() for key, value in self.fitting.model.state_dict().items()}
            self.kept.append((progress.seconds, state))
        self.show(self.name, progress)

    def curve(self, run: Run, family: SceneDataset, names: Sequence[str], key: str) -> list[list[float]]:
        """Pairs of seconds and the mean quality of some scenes. run: takes the weights of each moment."""
        points = []
        for seconds, state in self.kept:
            run.model.load_state_dict(state)
            watched = run.with_codes(names, run.codes(*names))
            value = evaluate(watched, family, perceptual=False)["mean"][key]
            if value is not None:
                points.append([seconds, value])
        return points
