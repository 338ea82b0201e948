"""Verbs that fit: `fit`, `infer`, `add`, `compare`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from hyperfields.cli.common import (
    Stopped,
    family_of,
    family_record,
    kind_line,
    load,
    next_line,
    read_family,
    scene_count,
    step_text,
)
from hyperfields.cli.options import (
    DEFAULT_MINUTES,
    QUIET,
    AnyFamilyPath,
    Count,
    Device,
    FamilyPath,
    Flag,
    Folder,
    KindChoice,
    Minutes,
    Name,
    PresetChoice,
    RunPath,
    Size,
    Text,
    pair,
    parse_names,
    parse_numbers,
    parse_size,
    present,
    require_length,
)
from hyperfields.cli.sources import chosen, code_source, codes_asked_for, infer_at_once
from hyperfields.configs import parse_choice
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.training.fit import Fit, FitConfig
    from hyperfields.training.optim import Progress


def fit(
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="RUN", help_behavior_hint="(required)")],
    kind: KindChoice = None,
    preset: PresetChoice = None,
    minutes: Minutes = None,
    steps: Count = None,
    size: Size = None,
    scenes: Text = None,
    limit: Count = None,
    seed: Count = None,
    individually: Flag = False,
    generator: Name = None,
    by: Name = None,
    bayes: Name = None,
    stability: Annotated[str | None, arg(metavar="NAME=VALUE", help_behavior_hint=QUIET)] = None,
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)] = None,
    precision: Annotated[Literal["float32", "mixed"] | None, arg(help_behavior_hint=QUIET)] = None,
    no_graphs: Flag = False,
    resume: Flag = False,
) -> None:
    """Fit a family of scenes with one hypernetwork, or go on with a fit that was stopped.

    Ctrl-C stops a fit and keeps its state. With --resume, settings that are left out are those of the run.

    $ hyperfields fit photos --out runs/photos --size 64x64 --minutes 5
    $ hyperfields fit cars --out runs/cars --preset tiny --limit 16 --steps 2000
    $ hyperfields fit cars --out runs/cars --resume
    $ hyperfields fit photos --out runs/read --by encoder --generator weight-tokens
    $ hyperfields fit photos --out runs/meta --by cavia:order=2
    $ hyperfields fit frames --out runs/film --by time --generator dynamic

    Args:
        out: folder of the run, new or empty; with --resume, the folder of the run to go on with.
        kind: what the folder holds; without, it is detected.
        preset: a named model and recipe; without, "default".
        minutes: how long to fit; without this and --steps, 2 minutes.
        steps: how long to fit, in steps: the same result again on the same machine and threads.
        size: height and width that pictures are brought to; without, they keep their own.
        scenes: names or patterns with * of the scenes to fit; without, all.
        limit: only the first N scenes by name.
        seed: of all random numbers; without, 0.
        individually: fit every scene alone, without a hypernetwork, in an even share of the time.
        generator: take another generator than the preset's, e.g. chunked or low-rank:rank=8; an unknown one lists
            those there are.
        by: where codes come from: descent on a table (without this); vae, a distribution for each scene; encoder,
            read off the pictures; cavia, a few learned inner steps; reptile, whole weights a few steps from a learned
            start; time, scenes are frames NAME_NUMBER of sequences. Settings follow: vae:weight=1e-5 weighs the
            divergence, cavia:order=2 differentiates through the inner steps, several times as slowly.
        bayes: draw generated weights while fitting, from factors or by noise that the generator reads, e.g.
            factors:weight=1e-8, the weight of the divergence; without, none.
        stability: what keeps the generator stable, e.g. share=0.2:spectral=4; an unknown one lists those there are,
            docs/architecture.md says what they do; the defaults are sound.
        device: where to fit, "cpu", "cuda" or "cuda:N"; without, "cpu".
        precision: "mixed" takes 16-bit inputs to matrix products, on NVIDIA GPUs; without, "float32".
        no_graphs: launch every step anew instead of replaying CUDA graphs of recorded ones.
        resume: go on with the fit in RUN.
    """
    from hyperfields.ops.devices import require_precision, usable_device
    from hyperfields.training.fit import Fit

    old = _require_room(out, resume)
    where: dict[str, Any] = {
        "device": device or old.get("device", "cpu"),
        "precision": precision or old.get("precision", "float32"),
        "graphs": not no_graphs,
    }
    require_precision(where["precision"], usable_device(where["device"]))
    if resume and (generator or bayes or stability or by):
        raise InputError("--resume: a run keeps its generator and where its codes come from; leave the options out")
    codes = codes_asked_for(by, old.get("codes"))
    source = {**family_record(old), **present(size=parse_size(size), scenes=parse_names(scenes), limit=limit)}
    given = present(preset=preset, minutes=minutes, steps=steps, seed=seed, individually=individually or None)
    config = _fit_config(old.get("fit"), given)
    opened = read_family(
        family,
        kind=kind or old.get("kind"),
        size=pair(source.get("size")),
        scenes=source.get("scenes"),
        limit=source.get("limit"),
    )
    source["path"] = str(family)
    kept = _kept(out, old) or chosen(opened, config, generator, bayes, stability, codes[0])
    options = {**kept, **where, "resume": resume, "note": {"family": source}}
    options["source"] = code_source(opened, *codes, where["device"])
    fitting = _new_fit(out, lambda: Fit(opened, out, config, **options))
    how = "as the run" if resume else "as asked" if kind else "detected"
    print(kind_line(opened, fitting.record["picture"], how))
    if minutes is None and steps is None and not resume:
        print(f"fitting for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
    _run_fit(fitting, shlex.join(["hyperfields", "fit", str(family), "--out", str(out), "--resume"]))


def infer(
    run: RunPath,
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="CODES", help_behavior_hint="(required)")],
    views: Annotated[str | None, arg(metavar="I,J", help_behavior_hint=QUIET)] = None,
    minutes: Minutes = None,
    steps: Count = None,
    refine: Flag = False,
    by: Annotated[str, arg(metavar="NAME")] = "descent",
    scenes: Text = None,
    limit: Count = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    device: Device = "cpu",
) -> None:
    """Find the latent codes of scenes that a run has not seen, with its networks frozen.

    All scenes at once. Pictures are brought to the size that the run was fitted at.

    $ hyperfields infer runs/cars newcars --out newcars.safetensors --minutes 1
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --views 0,7 --refine
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --by posterior
    $ hyperfields render runs/cars --codes newcars.safetensors --scene bus --out bus.gif

    Args:
        out: file of codes to write, .safetensors.
        views: numbers of the training views to look at, from 0, for views; without, all.
        minutes: how long; without this and --steps, 2 minutes.
        steps: how long, in steps.
        refine: then also fit low-rank changes of each scene's weights, which a code alone cannot reach.
        by: gradient descent; posterior, a distribution over codes instead of one (posterior:weight=1e-4 weighs its
            divergence); and at once, of runs that were fitted for it: encoder, read off the pictures; steps, those of
            cavia or reptile.
        scenes: names or patterns with * of the scenes; without, all.
        limit: only the first N scenes by name.
        seed: of all random numbers.
        device: where to look, "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.cli import console
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.training.inference import Codes, write_codes
    from hyperfields.training.inference import infer as find
    from hyperfields.training.posterior import DIVERGENCE, infer_posterior

    require_suffix(out, (".safetensors",), "codes")
    require_length(minutes, steps)
    ways = {"descent": {}, "posterior": {"weight": DIVERGENCE}, "encoder": {}, "steps": {}}
    by, settings = parse_choice("--by", by, ways)
    if by != "descent" and refine:
        raise InputError(f"--refine: goes with --by descent, not with {by}; leave it out")
    if by in ("encoder", "steps") and (minutes is not None or steps is not None):
        raise InputError(f"--by {by}: takes one go, so --minutes and --steps have no meaning; leave them out")
    loaded = load(run, device)
    size = family_record(loaded.config).get("size") or loaded.config.get("picture", {}).get("size")
    opened = read_family(
        family, kind=loaded.kind, size=pair(size), scenes=parse_names(scenes), limit=limit, views=parse_numbers(views)
    )
    print(f"{opened.kind}: {scene_count(len(opened.names))} (as the run)")
    note = {"path": str(family), **present(size=size, views=parse_numbers(views))}
    if by in ("encoder", "steps"):
        infer_at_once(loaded, opened, out, by, seed, note)
    else:
        if minutes is None and steps is None:
            minutes = DEFAULT_MINUTES
            print(f"looking for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
        with console.Meter("infer") as meter:

            def report(progress: Progress) -> None:
                meter.show(progress.fraction, step_text(progress))

            length: dict[str, Any] = {"minutes": minutes, "steps": steps, "seed": seed, "report": report}
            if by == "posterior":
                distribution = infer_posterior(loaded, opened, **{**length, **settings})
                mean, deviation = distribution.mean, distribution.deviation
                write_codes(out, Codes(opened.names, mean, {}, deviation, note), loaded)
            else:
                find(loaded, opened, out, refine=refine, note=note, **length)
    print(f"wrote {out}: {scene_count(len(opened.names))}, {out.stat().st_size / 1e3:,.1f} kB")
    first = opened.names[0]
    print(next_line("render", run, "--codes", out, "--scene", first, "--out", f"{first}.png"))


def add(
    run: RunPath,
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="NEW", help_behavior_hint="(required)")],
    method: Literal["extension", "output", "frozen", "naive"] = "extension",
    old: Folder = None,
    minutes: Minutes = None,
    steps: Count = None,
    numbers: Annotated[int, arg(metavar="N")] = 16,
    bases: Count = None,
    weight: Annotated[float, arg(metavar="W")] = 2.0,
    scenes: Text = None,
    limit: Count = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
) -> None:
    """Add scenes to a run without forgetting those in it, and say how good old and new ones are.

    Data of the old scenes are not needed; if they are there, the old scenes are measured before and after.

    $ hyperfields add runs/cars newcars --out runs/more --minutes 3
    $ hyperfields add runs/cars newcars --out runs/codes --method frozen
    $ hyperfields add runs/cars newcars --out runs/forgot --method naive

    Args:
        out: folder of the new run; with frozen, of the codes of the new scenes.
        method: fit only what is added to the networks, which old scenes do not use; output fits all of them and holds
            what they generate for old scenes; frozen fits codes and changes of each scene's weights beside the old run;
            naive just goes on, and forgets.
        old: where the data of the old scenes are now, to measure them.
        minutes: how long; without this and --steps, 2 minutes.
        steps: how long, in steps.
        numbers: how many more a code gets; old scenes leave them at 0.
        bases: how many tables of a hash grid those numbers mix; without, one for every four new scenes.
        weight: how firmly output holds old scenes.
        scenes: names or patterns with * of the scenes to add; without, all that the run does not have.
        limit: only the first N scenes by name.
        seed: of all random numbers.
    """
    from hyperfields.cli import console
    from hyperfields.runs.checkpoint import load_run
    from hyperfields.training.continual import add as extend
    from hyperfields.training.continual import format_added

    require_length(minutes, steps)
    loaded = load_run(run)
    size = pair(family_record(loaded.config).get("size") or loaded.config.get("picture", {}).get("size"))
    opened = read_family(family, kind=None, size=size, scenes=parse_names(scenes), limit=limit)
    if scenes is None and set(opened.names) & set(loaded.names) and opened.kind == loaded.kind:
        fresh = [name for name in opened.names if name not in loaded.names]
        if not fresh:
            raise InputError(f"{family}: {run} has all of its scenes already")
        opened = read_family(family, kind=opened.kind, size=size, scenes=fresh)
    known = old is not None or Path(family_record(loaded.config).get("path", "/nowhere")).is_dir()
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    with console.Meter("add") as meter:
        found = extend(
            loaded,
            opened,
            out,
            old_family=family_of(loaded, old) if known else None,
            minutes=minutes,
            steps=steps,
            method=method,
            numbers=numbers,
            bases=bases,
            weight=weight,
            seed=seed,
            report=lambda progress: meter.show(progress.fraction, step_text(progress)),
        )
    print(format_added(found))
    print(f"wrote {out}")


def compare(
    family: AnyFamilyPath = None,
    *,
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")],
    generators: Annotated[str, arg(metavar="A,B,C")] = "hierarchical,low-rank,full",
    minutes: Minutes = None,
    steps: Count = None,
    bytes: Annotated[str | None, arg(metavar="B,B", help_behavior_hint=QUIET)] = None,
    seeds: Annotated[int, arg(metavar="N")] = 1,
    leaders: Count = None,
    unseen: Annotated[int, arg(metavar="N")] = 0,
    preset: Literal["tiny", "default", "faithful"] = "default",
    kind: KindChoice = None,
    size: Size = None,
    limit: Count = None,
) -> None:
    """Compare generators fairly: the same family, field and budget, and only the generator differs.

    A line a result as it comes; then a table, a JSON and a plot. Stopped, the same command goes on.
    Generators take settings: low-rank:rank=8, low-rank:layer=1, chunked:chunk=64:hidden=32, full:hidden=64.
    `direct` fits each scene alone, to compare with. Without FAMILY nothing is fitted: the table and the plot are made
    again from the results that DIR holds.

    $ hyperfields compare faces --out cmp --size 64x64 --generators hierarchical,full --bytes 5000 --minutes 2
    $ hyperfields compare cars --out cmp2 --generators low-rank,chunked --steps 500 --seeds 3 --unseen 8
    $ hyperfields compare --out cmp2

    Args:
        out: folder of the comparison, new or to go on with.
        generators: names with commas between them; an unknown one lists those there are.
        minutes: of each fit; without this and --steps, 2 minutes.
        steps: of each fit.
        bytes: of a scene, all networks counted; one or more sizes that generators grow to; without, the preset's.
        seeds: fits of each generator.
        leaders: only the N best at the first size and seed get the other sizes and seeds.
        unseen: leave out N scenes, evenly spread over the names, and infer them afterwards.
        preset: whose encoding and field all share.
        kind: what the folder holds; without, it is detected.
        size: height and width that pictures are brought to; without, they keep their own.
        limit: only the first N scenes by name.
    """
    from hyperfields.cli import console
    from hyperfields.evaluation.compare import Comparison, format_result, hold_out, parse_bytes, redo_report
    from hyperfields.evaluation.compare import compare as run_all

    if family is None:
        _show_comparison(redo_report(out), out)
        return
    require_length(minutes, steps)
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    names = tuple(name.strip() for name in generators.split(",") if name.strip())
    comparison = Comparison(names, minutes, steps, parse_bytes(bytes), seeds, leaders, preset)
    opened = read_family(family, kind=kind, size=parse_size(size), limit=limit)
    held = None
    if unseen:
        parts = hold_out(opened.names, unseen)
        opened, held = (read_family(family, kind=opened.kind, size=parse_size(size), scenes=part) for part in parts)
    try:
        with console.Meter("compare") as meter:
            report = run_all(
                opened,
                out,
                comparison,
                unseen=held,
                show=lambda name, progress: meter.show(progress.fraction, f"{name}, {step_text(progress)}"),
                tell=lambda result: print(format_result(result), flush=True),
            )
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command goes on") from None
    _show_comparison(report, out)


def _show_comparison(report: dict[str, Any], out: Path) -> None:
    """The table of a comparison, and its plot where it can be drawn."""
    from hyperfields.evaluation.compare import PLOT, REPORT, format_table
    from hyperfields.evaluation.plots import plot

    print(format_table(report))
    print(f"wrote {out / REPORT}")
    try:
        plot(report, out / PLOT)
        print(f"wrote {out / PLOT}")
    except InputError as error:
        print(f"no plot: {error}")


def _require_room(out: Path, resume: bool) -> dict[str, Any]:
    """The config of the run to go on with; empty without `resume`, and `out` can then be a new run.

    Asked before the family is read, which may take long.
    """
    from hyperfields.runs import checkpoint

    if resume:
        return checkpoint.read_config(out)
    if (out / checkpoint.CONFIG).exists():
        raise InputError(f"{out}: holds a fit already; go on with it by --resume, or choose another --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; wanted a new or an empty folder for the run")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds other files; wanted a new or an empty folder for the run")
    return {}


def _fit_config(old: dict[str, Any] | None, given: dict[str, Any]) -> FitConfig:
    """The settings of a fit: what was given, then what the run has, then the defaults."""
    from hyperfields.training.fit import FitConfig

    require_length(given.get("minutes"), given.get("steps"))
    length = given.keys() & {"minutes", "steps"}
    try:
        if old is None:
            return FitConfig(**given if length else {**given, "minutes": DEFAULT_MINUTES})
        return FitConfig(**{**old, **({"minutes": None, "steps": None} if length else {}), **given})
    except TypeError as error:
        raise InputError(f"--resume: the run's settings are damaged or of another version: {error}") from None


def _kept(out: Path, old: dict[str, Any]) -> dict[str, Any]:
    """The model and the recipe of the run to go on with: a preset may mean others by now."""
    from hyperfields.runs import checkpoint
    from hyperfields.tasks.presets import TrainConfig

    if not old:
        return {}
    try:
        return {"model": checkpoint.from_json(old["model"]), "recipe": TrainConfig(**old["recipe"])}
    except (KeyError, TypeError) as error:
        raise InputError(f"{out / checkpoint.CONFIG}: damaged or of another version: {error}") from None


def _new_fit(out: Path, make: Callable[[], Fit]) -> Fit:
    """`make()`; a folder that it made and could write nothing into does not stay behind."""
    existed = out.exists()
    try:
        return make()
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                out.rmdir()  # refuses when there is something in it
        raise


def _run_fit(fitting: Fit, again: str) -> None:
    """Run a fit with its progress, and say what came out and what to type next."""
    from hyperfields.cli import console
    from hyperfields.runs import checkpoint

    alone = len(fitting.family.names) if fitting.config.individually else 0

    def share(progress: Progress) -> float:
        return (progress.scene + progress.fraction) / alone if alone else progress.fraction

    first = share(fitting.progress)  # not 0 when the fit goes on
    try:
        with console.Meter("fit", first) as meter:

            def report(progress: Progress) -> None:
                meter.show(share(progress), step_text(progress))

            meter.show(first, "getting ready; the first fit on a machine compiles kernels")
            model = fitting.run(report)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; go on with: {again}") from None
    progress, out = fitting.progress, fitting.out
    size = (out / checkpoint.MODEL).stat().st_size
    print(
        f"{progress.step:,} steps in {progress.seconds:.1f} s; {out / checkpoint.MODEL}: "
        f"{size / 1e3:,.0f} kB, {model.bytes_per_scene()[0]:,.0f} bytes a scene"
    )
    print(next_line("eval", out))
