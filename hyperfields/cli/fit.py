"""Verbs that fit a run and find codes with it: `fit` and `infer`."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from hyperfields.cli.common import (
    Stopped,
    Unsound,
    kind_line,
    load,
    next_line,
    notes_of,
    read_alike,
    read_data,
    reading_of,
    recorded,
    scene_count,
    size_of,
    source_of,
    space_line,
)
from hyperfields.cli.many import Many
from hyperfields.cli.options import (
    AS_IT_IS,
    AS_THE_RUN,
    DEFAULT_MINUTES,
    QUIET,
    Count,
    Device,
    FamilyPath,
    Flag,
    Minutes,
    Name,
    PresetChoice,
    ReadingAlikeOptions,
    ReadingOptions,
    RunPath,
    ShardText,
    parse_names,
    parse_numbers,
    parse_shard,
    parse_size,
    present,
    require_length,
)
from hyperfields.configs import parse_choice
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.codes import Codes
    from hyperfields.data import SceneDataset
    from hyperfields.model import ModelConfig
    from hyperfields.runs.config import FitSettings, RunConfig
    from hyperfields.tasks import Task, TrainConfig
    from hyperfields.training.fit import Fit
    from hyperfields.training.trainer import Progress


def fit(
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="RUN", help_behavior_hint="(required)")],
    preset: PresetChoice = None,
    minutes: Minutes = None,
    steps: Count = None,
    views: Annotated[str | None, arg(metavar="I,J", help_behavior_hint=QUIET)] = None,
    seed: Count = None,
    space: Annotated[Literal["box", "contracted"] | None, arg(help_behavior_hint=QUIET)] = None,
    refine_poses: Flag = False,
    appearance: Flag = False,
    curve: Flag = False,
    individually: Flag = False,
    generator: Name = None,
    by: Name = None,
    bayes: Name = None,
    stability: Annotated[str | None, arg(metavar="NAME=VALUE", help_behavior_hint=QUIET)] = None,
    between: Annotated[float | None, arg(metavar="WEIGHT", help_behavior_hint=QUIET)] = None,
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)] = None,
    precision: Annotated[Literal["float32", "mixed"] | None, arg(help_behavior_hint=QUIET)] = None,
    no_graphs: Flag = False,
    bases_from: Count = None,
    parts: Count = None,
    compress: Annotated[Literal["bf16"] | None, arg(help_behavior_hint=QUIET)] = None,
    resume: Flag = False,
    reading: ReadingOptions = AS_IT_IS,
) -> None:
    """Fit a family of scenes with one hypernetwork, or go on with a fit that was stopped.

    Ctrl-C or SIGTERM stops a fit and keeps its state. With --resume, options that are left out are those of the run.
    Several processes: torchrun --nproc-per-node 4 -m hyperfields fit FAMILY --out RUN, see docs/scale.md.

    $ hyperfields fit photos --out runs/photos --size 64x64 --minutes 5
    $ hyperfields fit cars --out runs/cars --preset tiny --limit 16 --steps 2000
    $ hyperfields fit cars --out runs/cars --resume
    $ hyperfields fit photos --out runs/read --by encoder --generator weight-tokens
    $ hyperfields fit photos --out runs/meta --by cavia:order=2
    $ hyperfields fit frames --out runs/film --by time --generator dynamic
    $ hyperfields fit packed --out runs/many --bases-from 2000 --minutes 30

    Args:
        out: folder of the new run; with --resume, of the run to go on with.
        preset: named model and training settings; default: "default".
        minutes: length of the fit in minutes; default, without --steps too: 2.
        steps: length of the fit in steps; gives the same result again on the same machine.
        views: numbers of the training views of each scene to use, from 0, for radiance fields; default: all.
        seed: seed of all random numbers; default: 0.
        space: where radiance fields live: box, the scene box alone; contracted, all of space, with detail that falls
            with the distance; default: contracted where opaque pictures show what is beyond the box.
        refine_poses: learn corrections of the poses of training pictures too; those of test pictures are then corrected
            before they are measured.
        appearance: learn how the colours of each training picture differ (exposure, white balance); test pictures are
            then measured on their right halves, with colours fitted to the left ones.
        curve: measure held-out pixels of radiance fields at moments along the fit, of up to four scenes; it is done for
            one scene anyway, takes time that is not the fit's, and changes nothing of the result.
        individually: baseline: fit every scene by itself, without a hypernetwork, in an even share of the time.
        generator: generator instead of the preset's, e.g. chunked or low-rank:rank=8; an unknown name lists all of
            them.
        by: source of the latent codes: descent, a table fitted with the networks (default); vae, a distribution for
            each scene; encoder, a network that reads the data; cavia, a few gradient steps from a common start;
            time, scenes are frames NAME_NUMBER of sequences. Settings follow a colon: vae:weight=1e-5 is the weight of
            the KL term, cavia:order=2 differentiates through the inner steps, which takes several times as long.
        bayes: distribution over the generated weights: factors, a Gaussian for each weight, or noise, random numbers at
            the input of the generator; factors:weight=1e-8 is the weight of the KL term; default: none.
        stability: settings that keep the generator stable, e.g. share=0.2:spectral=4, see docs/architecture.md; an
            unknown name lists all of them.
        between: weight of a loss of mixed codes, whose fields then stay near the mixture of both scenes; 0: none;
            default: the preset's.
        device: "cpu", "cuda" or "cuda:N"; default: "cpu".
        precision: "mixed" rounds the inputs of matrix products to 16 bits, on NVIDIA GPUs; default: "float32".
        no_graphs: on a GPU, do not record steps as CUDA graphs.
        bases_from: fit networks and bases to N scenes, drawn at random, for the length that was asked for; then find
            codes of all others with these, which takes as long as there are others.
        parts: draw batches as N processes do; the processes that torchrun starts must divide N; default: as many.
        compress: bf16 halves the bytes of gradients that processes send each other.
        resume: go on with the fit in RUN.
    """
    from hyperfields import codes as sources
    from hyperfields.ops.devices import require_precision, usable_device
    from hyperfields.runs.config import CONFIG
    from hyperfields.tasks.captures import CaptureSettings
    from hyperfields.training.distributed import distributed, restarted
    from hyperfields.training.fit import Fit

    with distributed(compress) as world:
        with world.together():
            many = Many.begun(out, bases_from, resume)
            if many is not None:
                many.require(by, individually, refine_poses or appearance)
                if world.size > 1:
                    raise InputError(
                        "--bases-from: needs one process; on several ranks, fit some scenes with --limit, then give "
                        f"the others codes: hyperfields infer {out} {family} --rest --out codes.safetensors"
                    )
                if not resume:
                    _require_room(out, False)
                out = many.bases
            # By torchrun, with the options of the first start: these say everything, as they did then.
            again = restarted() and not resume and (out / CONFIG).is_file()
            found = _require_room(out, resume or again)
            old, resume = None if again else found, resume or again
            where: dict[str, Any] = {
                "device": device or (old.device if old else "cpu"),
                "precision": precision or (old.precision if old else "float32"),
            }
            require_precision(where["precision"], usable_device(world.device(where["device"])))
            if found and found.added:
                raise InputError(
                    f"{out}: scenes were added to it, so its fit cannot go on; add more with: hyperfields add {out}"
                )
            asked: dict[str, Any] = {
                "generator": generator, "bayes": bayes, "stability": stability, "between": between,
            }  # fmt: skip
            if old and (by or present(**asked)):
                raise InputError("--resume: a run keeps its model and where its codes come from; leave the options out")
            given = present(
                preset=preset, minutes=minutes, steps=steps, seed=seed, individually=individually or None, parts=parts
            )
            if space or refine_poses or appearance:
                given["capture"] = CaptureSettings(space, refine_poses, appearance)
            settings = _fit_settings(old, given)
            if again and found and (found.fit.minutes, found.fit.steps) != (settings.minutes, settings.steps):
                raise InputError(f"{out}: holds a fit of another length; choose another --out, or go on by --resume")
            codes = old.codes if old else sources.parse(by or "descent", "--by")
            before = old.sources[0] if old and old.sources else None
            pixels = parse_size(reading.size) or (before.size if before else None)
            names, limit = parse_names(reading.scenes), reading.limit
            names = names or (list(old.scenes) if old and limit is None else None)
            looks = {**reading_of(before), **reading.looks()}
            kind = reading.kind or (old.kind if old else None)
            if many is not None:
                first = many.choose(family, kind, parse_names(reading.scenes), limit, settings.seed)
                names, limit = (list(old.scenes) if old else first), None
            chosen = parse_numbers(views) or (list(before.views) if before and before.views else None)
            data = read_data(
                family, world.first, kind=kind, size=pixels, scenes=names, limit=limit, views=chosen, **looks
            )
            if getattr(data, "pictures", None) == 1:
                raise InputError(
                    f"{family}: one training picture came; a scene needs pictures from two places at least"
                )
            model, train = (old.model, old.train) if old else _model(data, settings, codes, **asked)
        fitting = Fit(
            data, out, settings, model=model, train=train, codes=codes, resume=resume, graphs=not no_graphs,
            sources=(source_of(family, data, pixels, chosen, **looks),), **where, world=world,
            curve=curve or (world.size == 1 and settings.parts is None and _alone(data, codes)),
        )  # fmt: skip
        how = "as the run" if resume else "as asked" if reading.kind else "detected"
        print(kind_line(data, fitting.config.picture, how))
        for note in notes_of(data):
            print(note)
        if line := space_line(fitting.config):
            print(line)
        if world.size > 1:
            print(f"{world.size} ranks, the scenes in {fitting.settings.parts} parts")
        if minutes is None and steps is None and not resume:
            print(f"fitting for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
        run = out if many is None else many.out
        command = shlex.join([*world.command, "fit", str(family), "--out", str(run), "--resume"])
        if many is None:
            _run_fit(fitting, out, command)
            return
        many.record()
        _run_fit(fitting, out, command, last=False)
        many.finish(family, fitting.config, command)


def infer(
    run: RunPath,
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="CODES", help_behavior_hint="(required)")],
    views: Annotated[str | None, arg(metavar="I,J", help_behavior_hint=QUIET)] = None,
    minutes: Minutes = None,
    steps: Count = None,
    refine: Flag = False,
    bytes: Count = None,
    by: Annotated[str, arg(metavar="NAME")] = "descent",
    rest: Flag = False,
    shard: ShardText = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    device: Device = "cpu",
    reading: ReadingAlikeOptions = AS_THE_RUN,
) -> None:
    """Infer the latent codes of scenes that a run was not fitted to, with its networks frozen.

    All scenes at once. Pictures are resized to the size of the run.

    $ hyperfields infer runs/cars newcars --out newcars.safetensors --minutes 1
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --views 0,7 --refine
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --bytes 4000
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --by posterior
    $ hyperfields infer runs/cars newcars --out codes/3.safetensors --shard 3/10
    $ hyperfields render runs/cars --codes newcars.safetensors --scene bus --out bus.gif

    Args:
        out: file of codes to write, .safetensors.
        views: numbers of the training views to use, from 0, for radiance fields; default: all.
        minutes: length in minutes, of all scenes together; default, without --steps too: 2.
        steps: length in steps, of all scenes together.
        refine: then also fit all weights of each scene, from those that its code generates, for details that no code
            gives.
        bytes: instead, fit only those changes of a scene's weights that are worth their bytes, and write no more than N
            bytes a scene, code and changes together.
        by: descent, gradient descent on the codes; posterior, a distribution over each code (posterior:weight=1e-4 is
            the weight of its KL term); or without descent, by what the run was fitted with: encoder, after fit --by
            encoder; steps, after fit --by cavia.
        rest: only scenes that the run was not fitted to, by name.
        shard: the I-th of N parts of these scenes; put the files together with: hyperfields merge.
        seed: seed of all random numbers.
        device: "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.merged import part_of
    from hyperfields.scenes import family_names
    from hyperfields.training.inference import POSTERIOR_WEIGHT, each_scene_steps
    from hyperfields.training.inference import infer as find_codes

    require_suffix(out, (".safetensors",), "codes")
    require_length(minutes, steps)
    ways = {"descent": {}, "posterior": {"weight": POSTERIOR_WEIGHT}, "encoder": {}, "steps": {}}
    by, settings = parse_choice("--by", by, ways)
    for option, given in (("--refine", refine), ("--bytes", bytes is not None)):
        if given and by != "descent":
            raise InputError(f"{option}: goes with --by descent, not with {by}; leave it out")
    if by in ("encoder", "steps") and (minutes is not None or steps is not None):
        raise InputError(f"--by {by}: takes one go, so --minutes and --steps have no meaning; leave them out")
    loaded = load(run, device)
    size, chosen = size_of(loaded), parse_numbers(views)
    names, limit = parse_names(reading.scenes), reading.limit
    part = parse_shard(shard)
    if rest or part is not None:
        every = family_names(family, kind=loaded.kind, scenes=names, limit=limit)
        known = set(loaded.names) if rest else set()
        if not (others := [name for name in every if name not in known]):
            raise InputError(f"--rest: {run} was fitted to all {len(every)} scenes of {family}; leave it out")
        names, limit = part_of(others, part), None
    data, looks = read_alike(
        loaded,
        family,
        reading.looks(),
        kind=loaded.kind,
        size=size,
        scenes=names,
        limit=limit,
        views=chosen,
    )
    print(f"{data.kind}: {scene_count(len(data.names))} (as the run)")
    for note in notes_of(data):
        print(note)
    if by in ("descent", "posterior") and minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
        print(f"inferring for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
    if steps is not None and (told := each_scene_steps(loaded, data, steps, refine, bytes is not None)):
        print(told)
    source = {"path": recorded(family), **present(size=size, views=chosen, shard=shard), **looks}
    options: dict[str, Any] = {"by": by, "refine": refine, "bytes_per_scene": bytes, **settings}
    found = find_codes(loaded, data, out, minutes=minutes, steps=steps, seed=seed, source=source, **options)
    if axis := found.source.get("mirror"):
        print(
            f"symmetric across {axis}, as the fitted scenes are: each of the few views counts as its mirror image too"
        )
    print(f"wrote {out}: {scene_count(len(data.names))}, {out.stat().st_size / 1e3:,.1f} kB")
    first = data.names[0]
    print(_eval_line(loaded.task, data, run, "--codes", out))
    print(next_line("render", run, "--codes", out, "--scene", first, "--out", f"{first}.png"))


def _eval_line(task: Task, data: SceneDataset, *words: object) -> str:
    """The line that says how to measure what came out, by views that are held out where there are some."""
    from hyperfields.tasks.radiance import held_out

    split = (held_out(data) or "train") if task.has_splits else "test"
    return next_line("eval", *words, *([] if split == "test" else ["--split", split]))


def _alone(data: SceneDataset, codes: Codes | None) -> bool:
    """True for one scene whose held-out views a fit can be measured on."""
    from hyperfields.tasks import task_of

    try:
        return len(data.names) == 1 and codes is None and task_of(data.kind).probe(data, 0, 1) is not None
    except InputError:  # held-out pictures that cannot be read are no matter of the fit
        return False


def _require_room(out: Path, resume: bool) -> RunConfig | None:
    """The config of the run to go on with; None without `resume`, and `out` can then be a new run.

    Asked before the data are read, which may take long.
    """
    from hyperfields.runs.config import read_config, require_new

    if resume:
        return read_config(out)
    require_new(out)
    return None


def _fit_settings(old: RunConfig | None, given: dict[str, Any]) -> FitSettings:
    """The settings of a fit: those given, then those of the run, then the defaults."""
    from hyperfields.runs.config import FitSettings

    require_length(given.get("minutes"), given.get("steps"))
    length = given.keys() & {"minutes", "steps"}
    if old is None:
        return FitSettings(**given if length else {**given, "minutes": DEFAULT_MINUTES})
    return dataclasses.replace(old.fit, **{**({"minutes": None, "steps": None} if length else {}), **given})


def _model(
    data: SceneDataset,
    settings: FitSettings,
    codes: Codes | None,
    generator: str | None,
    bayes: str | None,
    stability: str | None,
    between: float | None,
) -> tuple[ModelConfig | None, TrainConfig | None]:
    """The preset with what was asked for instead; (None, None) where nothing was.

    Raises:
        InputError: options that do not go together, or unknown settings; the text lists those there are.
    """
    given = [f"--{name}" for name in present(generator=generator, bayes=bayes, stability=stability, between=between)]
    if not given:
        return None, None
    if settings.individually:
        raise InputError(
            f"--individually: fits weights themselves, nothing generates them; leave {', '.join(given)} out"
        )
    from hyperfields import hypernets
    from hyperfields.tasks import preset, task_of

    picture = task_of(data.kind).describe(data)
    return preset(
        settings.preset,
        data.kind,
        len(data.names),
        max(picture.get("size", (1, 1))),
        **settings.capture.model_options(data.kind, picture),
        # Not `direct`, which is --individually.
        generator=None if generator is None else hypernets.parse(generator, hypernets.SHARING),
        stability=None if stability is None else hypernets.parse_stability(stability, "--stability"),
        bayes=None if bayes is None else hypernets.parse_bayes(bayes, "--bayes"),
        codes=codes,
        between=between,
    )


def _run_fit(fitting: Fit, out: Path, again: str, last: bool = True) -> None:
    """Run a fit with its progress, and say what came out and, if it is the `last` work, what to type next."""
    from hyperfields.cli.console import curve_table
    from hyperfields.runs.run import MODEL
    from hyperfields.training.interrupt import Terminated
    from hyperfields.training.progress import Meter, clock, step_text

    if fitting.finished:
        fitting.run()
        if last:
            print(fitting.nothing_to_do())
            _say_next(fitting, out)
        return
    try:
        with Meter("fit", fitting.done()) as meter:  # not 0 when the fit goes on

            def report(progress: Progress) -> None:
                meter.show(fitting.done(), step_text(progress))

            fitting.on_point = lambda point: meter.say(
                f"held out: {point.psnr:.2f} dB after {clock(point.seconds)}, step {point.step:,}"
            )
            if fitting.world.first:
                meter.show(fitting.done(), "getting ready; the first fit on a machine compiles kernels")
            run = fitting.run(report)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; go on with: {again}") from None
    except Terminated:
        raise Stopped(f"stopped by SIGTERM; go on with: {again}", 128 + signal.SIGTERM) from None
    progress, size = fitting.progress, (out / MODEL).stat().st_size
    print(
        f"{progress.step:,} steps in {progress.seconds:.1f} s; {out / MODEL}: "
        f"{size / 1e3:,.0f} kB, {run.model.bytes_per_scene()[0]:,.0f} bytes a scene"
    )
    if axis := run.summary.get("mirror"):
        print(f"symmetric across {axis}: the few pictures of each scene counted as their mirror images too")
    if fitting.curve is not None:
        print(curve_table(fitting.curve))
    if last:
        _say_next(fitting, out)


def _say_next(fitting: Fit, out: Path) -> None:
    """Say what to type next, and whether the fit came to nothing."""
    from hyperfields.training.fit import REMEDY
    from hyperfields.training.verdict import in_one_line

    print(_eval_line(fitting.task, fitting.data, out))
    if fitting.remarks:
        raise Unsound(f"{in_one_line(fitting.remarks)}; {REMEDY}")
