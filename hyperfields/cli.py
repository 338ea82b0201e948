"""`hyperfields VERB`: where families and models meet. Reads arguments, calls the library, says what came out.

Nothing heavy is imported before a verb runs, so that help comes at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import errno
import functools
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from hyperfields.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from hyperfields.checkpoint import Run
    from hyperfields.console import Meter
    from hyperfields.families import Family
    from hyperfields.fit import Fit, FitConfig, Progress

DEFAULT_MINUTES = 2.0

# How options look in the help. `_quiet` leaves out the default, where the text says what happens without.
_quiet = ""
_RunPath = Positional[Annotated[Path, arg(metavar="RUN", help="folder of a fitted run.", help_behavior_hint=_quiet)]]
_AnyRunPath = Positional[
    Annotated[Path | None, arg(metavar="RUN", help="folder of a fitted run, or nothing.", help_behavior_hint=_quiet)]
]
_FamilyPath = Positional[
    Annotated[
        Path,
        arg(
            metavar="FAMILY",
            help="folder of images, of meshes, or of scene folders (NeRF-synthetic layout).",
            help_behavior_hint=_quiet,
        ),
    ]
]
_Minutes = Annotated[float | None, arg(metavar="M", help_behavior_hint=_quiet)]
_Count = Annotated[int | None, arg(metavar="N", help_behavior_hint=_quiet)]
_Text = Annotated[str | None, arg(metavar="A,B,C", help_behavior_hint=_quiet)]
_Size = Annotated[str | None, arg(metavar="HxW", help_behavior_hint=_quiet)]
_Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=_quiet)]
_File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=_quiet)]
_Scene = Annotated[str | None, arg(metavar="NAME", help_behavior_hint=_quiet)]
_Flag = Annotated[bool, arg(help_behavior_hint=_quiet)]
_KindChoice = Annotated[Literal["images", "shapes", "views"] | None, arg(help_behavior_hint=_quiet)]
_ChannelChoice = Literal["rgb", "depth", "normals"]
_Device = Annotated[str, arg(metavar="NAME")]
_PresetChoice = Annotated[Literal["tiny", "default", "faithful"] | None, arg(help_behavior_hint=_quiet)]


# Verbs --------------------------------------------------------------------------------------------
# The first line of a docstring is the verb's line in `hyperfields --help`; lines with $ are its examples.


def fit(
    family: _FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="RUN", help_behavior_hint="(required)")],
    kind: _KindChoice = None,
    preset: _PresetChoice = None,
    minutes: _Minutes = None,
    steps: _Count = None,
    size: _Size = None,
    scenes: _Text = None,
    limit: _Count = None,
    seed: _Count = None,
    individually: _Flag = False,
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=_quiet)] = None,
    precision: Annotated[Literal["float32", "mixed"] | None, arg(help_behavior_hint=_quiet)] = None,
    resume: _Flag = False,
) -> None:
    """Fit a family of scenes with one hypernetwork, or go on with a fit that was stopped.

    Ctrl-C stops a fit and keeps its state. With --resume, settings that are left out are those of the run.

    $ hyperfields fit photos --out runs/photos --size 64x64 --minutes 5
    $ hyperfields fit cars --out runs/cars --preset tiny --limit 16 --steps 2000
    $ hyperfields fit cars --out runs/cars --resume

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
        device: where to fit, "cpu", "cuda" or "cuda:N"; without, "cpu".
        precision: "mixed" takes 16-bit inputs to matrix products, on NVIDIA GPUs; without, "float32".
        resume: go on with the fit in RUN.
    """
    from hyperfields.devices import require_precision, usable_device
    from hyperfields.fit import Fit

    old = _require_room(out, resume)
    where: dict[str, Any] = {
        "device": device or old.get("device", "cpu"),
        "precision": precision or old.get("precision", "float32"),
    }
    require_precision(where["precision"], usable_device(where["device"]))
    source = {**_recorded(old), **_given(size=_size(size), scenes=_list(scenes), limit=limit)}
    given = _given(preset=preset, minutes=minutes, steps=steps, seed=seed, individually=individually or None)
    config = _fit_config(old.get("fit"), given)
    opened = _open_family(
        family,
        kind=kind or old.get("kind"),
        size=_pair(source.get("size")),
        scenes=source.get("scenes"),
        limit=source.get("limit"),
    )
    source["path"] = str(family)
    kept = _kept(out, old)
    fitting = _new_fit(out, lambda: Fit(opened, out, config, **kept, **where, resume=resume, note={"family": source}))
    how = "as the run" if resume else "as asked" if kind else "detected"
    print(_kind_line(opened, fitting.record["picture"], how))
    if minutes is None and steps is None and not resume:
        print(f"fitting for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
    _run_fit(fitting, shlex.join(["hyperfields", "fit", str(family), "--out", str(out), "--resume"]))


def evaluate(
    run: _RunPath,
    *,
    family: _Folder = None,
    split: Literal["test", "val", "train"] = "test",
    out: _File = None,
    lpips_weights: _File = None,
    device: _Device = "cpu",
) -> None:
    """Measure a run against the data: a table to read, and a JSON file.

    Images and views get psnr, ssim and lpips; shapes get iou, distances, f-score and normal consistency.

    $ hyperfields eval runs/photos
    $ hyperfields eval runs/cars --split val --out cars.json
    $ hyperfields eval runs/photos --family /data/photos --lpips-weights ~/checkpoints

    Args:
        family: the data that were fitted; without, where they were then.
        split: which views to compare with; images and shapes have no splits.
        out: JSON file to write the report to.
        lpips_weights: torchvision's checkpoint of AlexNet or VGG16, or a folder with them.
        device: where the fields are computed, "cpu", "cuda" or "cuda:N".
    """
    import json

    from hyperfields import checkpoint, console
    from hyperfields.evaluate import evaluate as measure
    from hyperfields.evaluate import format_report
    from hyperfields.export import require_suffix

    if out is not None:
        require_suffix(out, (".json",), "a report")
    if lpips_weights is not None and not lpips_weights.exists():
        raise InputError(f"--lpips-weights {lpips_weights}: not there; give torchvision's checkpoint")
    loaded = _load(run, device)
    opened = _family_of(loaded, family)
    with console.Meter("eval") as meter:
        report = measure(loaded, opened, split, lpips_weights=lpips_weights, report=meter.count)
    print(format_report(report))
    if out is not None:
        checkpoint.write_atomically(out, json.dumps(report, indent=1, allow_nan=False).encode())
        print(f"wrote {out}")


def infer(
    run: _RunPath,
    family: _FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="CODES", help_behavior_hint="(required)")],
    views: Annotated[str | None, arg(metavar="I,J", help_behavior_hint=_quiet)] = None,
    minutes: _Minutes = None,
    steps: _Count = None,
    refine: _Flag = False,
    scenes: _Text = None,
    limit: _Count = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    device: _Device = "cpu",
) -> None:
    """Find the latent codes of scenes that a run has not seen, with its networks frozen.

    All scenes at once. Pictures are brought to the size that the run was fitted at.

    $ hyperfields infer runs/cars newcars --out newcars.safetensors --minutes 1
    $ hyperfields infer runs/cars newcars --out newcars.safetensors --views 0,7 --refine
    $ hyperfields render runs/cars --codes newcars.safetensors --scene bus --out bus.gif

    Args:
        out: file of codes to write, .safetensors.
        views: numbers of the training views to look at, from 0, for views; without, all.
        minutes: how long; without this and --steps, 2 minutes.
        steps: how long, in steps.
        refine: then also fit low-rank changes of each scene's weights, which a code alone cannot reach.
        scenes: names or patterns with * of the scenes; without, all.
        limit: only the first N scenes by name.
        seed: of all random numbers.
        device: where to look, "cpu", "cuda" or "cuda:N".
    """
    from hyperfields import console
    from hyperfields.export import require_suffix
    from hyperfields.infer import infer as find

    require_suffix(out, (".safetensors",), "codes")
    _require_length(minutes, steps)
    loaded = _load(run, device)
    size = _recorded(loaded.config).get("size") or loaded.config.get("picture", {}).get("size")
    opened = _open_family(
        family, kind=loaded.kind, size=_pair(size), scenes=_list(scenes), limit=limit, views=_numbers(views)
    )
    print(f"{opened.kind}: {_scenes(len(opened.names))} (as the run)")
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
        print(f"looking for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
    with console.Meter("infer") as meter:

        def report(progress: Progress) -> None:
            meter.show(progress.fraction, _step_text(progress))

        find(loaded, opened, out, minutes=minutes, steps=steps, refine=refine, seed=seed, report=report)
    print(f"wrote {out}: {_scenes(len(opened.names))}, {out.stat().st_size / 1e3:,.1f} kB")
    first = opened.names[0]
    print(_next("render", run, "--codes", out, "--scene", first, "--out", f"{first}.png"))


def render(
    run: _RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: _Scene = None,
    codes: _File = None,
    orbit: _Count = None,
    size: _Size = None,
    channel: _ChannelChoice = "rgb",
    device: _Device = "cpu",
) -> None:
    """Render a scene as a picture, or as an animation from a camera that circles it.

    $ hyperfields render runs/photos --scene cat --out cat.png
    $ hyperfields render runs/cars --scene bus --out bus.mp4 --orbit 72 --size 256x256
    $ hyperfields render runs/cars --scene bus --out bus.png --channel normals

    Args:
        out: .png, .jpg or .webp for a picture, .mp4 or .gif for an animation.
        scene: name of a scene of the run, or of CODES.
        codes: file of codes that infer wrote; without --scene it must hold one scene.
        orbit: number of frames on the circle, for animations.
        size: height and width of the picture; without, that of the pictures that were fitted.
        channel: colours, distances from the camera (near is bright), or surface directions.
        device: where the fields are computed, "cpu", "cuda" or "cuda:N".
    """
    from hyperfields import console, movie

    loaded, _, code = _one_scene(_load(run, device), scene, codes)
    with console.Meter("render") as meter:
        movie.render_run(loaded, code, out, orbit=orbit, size=_size(size), channel=channel, report=_frames(meter))
    print(f"wrote {out}")


def interpolate(
    run: _RunPath,
    scenes: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="A B [C ...]", help_behavior_hint=_quiet, help="two scenes or more, in order."),
        ]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE|DIR", help_behavior_hint="(required)")],
    frames: Annotated[int, arg(metavar="N")] = 48,
    mode: Literal["lerp", "slerp"] = "lerp",
    orbit: _Flag = False,
    size: _Size = None,
) -> None:
    """Walk from scene to scene along a path of latent codes: an animation, or meshes.

    $ hyperfields interpolate runs/photos cat dog --out morph.gif
    $ hyperfields interpolate runs/cars bus taxi van --out morph.mp4 --frames 120 --orbit
    $ hyperfields interpolate runs/shapes bus taxi --out meshes --frames 10

    Args:
        out: .mp4 or .gif; for shapes also a folder, which gets a mesh a frame.
        frames: how many on the whole path.
        mode: straight lines between codes, or arcs.
        orbit: let the camera circle the scene meanwhile.
        size: height and width of the pictures.
    """
    from hyperfields import console, movie
    from hyperfields.checkpoint import load_run

    loaded = load_run(run)
    path = loaded.codes(*scenes)
    with console.Meter("interpolate") as meter:
        movie.interpolate_run(
            loaded,
            path,
            out,
            frames=frames,
            mode=mode,
            orbit=orbit,
            size=_size(size),
            report=_frames(meter),
        )
    print(f"wrote {out}")


def export(
    run: _RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: _Scene = None,
    codes: _File = None,
    format: Annotated[Literal["tcnn"] | None, arg(help_behavior_hint=_quiet)] = None,
) -> None:
    """Write one scene as a file that needs nothing of the run: picture, mesh or standalone field.

    $ hyperfields export runs/photos --scene cat --out cat.png
    $ hyperfields export runs/shapes --scene bus --out bus.glb
    $ hyperfields export runs/cars --scene bus --out bus.safetensors
    $ hyperfields export runs/cars --scene bus --format tcnn --out bus.safetensors

    Args:
        out: .png, .jpg or .webp for images, .ply, .obj, .glb or .stl for shapes, .safetensors for all.
        scene: name of a scene of the run, or of CODES.
        codes: file of codes that infer wrote; without --scene it must hold one scene.
        format: "tcnn" writes a standalone field in tiny-cuda-nn's layout, with a .json beside it that says how.
    """
    from hyperfields import exchange, movie
    from hyperfields.checkpoint import load_run

    loaded, name, code = _one_scene(load_run(run), scene, codes)
    if format == "tcnn":
        info = {"name": name, "kind": loaded.kind, "picture": loaded.config["picture"]}
        exchange.write_tcnn(out, movie.bind(loaded, code), info)
    else:
        movie.export_scene(loaded, name, out, None if codes is None else code)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def import_(
    field: Positional[
        Annotated[Path, arg(metavar="FILE", help_behavior_hint=_quiet, help="what export --format tcnn wrote.")]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
) -> None:
    """Turn a field in tiny-cuda-nn's layout back into a standalone field of ours.

    The .json that export wrote has to lie beside FILE. Parameters may have been fitted further in between.

    $ hyperfields import bus.safetensors --out field.safetensors

    Args:
        out: the standalone field, .safetensors.
    """
    from hyperfields import checkpoint, exchange
    from hyperfields.export import require_suffix

    require_suffix(out, (".safetensors",), "a standalone field")
    bound, info = exchange.read_tcnn(field)
    checkpoint.write_field(out, bound, info)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def view(
    run: _RunPath,
    *,
    family: _Folder = None,
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, arg(metavar="N")] = 8780,
) -> None:
    """Open a page in the browser to explore a run with the mouse: drag, morph, orbit, export.

    $ hyperfields view runs/cars
    $ hyperfields view runs/cars --port 9000 --family /data/cars

    Args:
        family: the data that were fitted, for the truth beside a result; without, where they were then.
        host: address to listen on; the default lets in nobody but this machine.
        port: the first free one from here on is taken.
    """
    from hyperfields.checkpoint import load_run
    from hyperfields.viewer import serve

    loaded = load_run(run)
    serve(loaded, lambda: _family_of(loaded, family), host=host, port=port, say=lambda text: print(text, flush=True))


def inspect(
    run: _AnyRunPath = None,
    *,
    preset: _PresetChoice = None,
    kind: Annotated[Literal["images", "shapes", "views"], arg(metavar="KIND")] = "images",
    scenes: Annotated[int, arg(metavar="N")] = 32,
    size: _Size = None,
    generator: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=_quiet)] = None,
    json: _Flag = False,
) -> None:
    """Say what is in a run, or what a preset would cost: scenes, model, sizes, settings, how far it is.

    $ hyperfields inspect runs/cars
    $ hyperfields inspect runs/cars --json
    $ hyperfields inspect --preset default --kind views --scenes 100 --size 128x128 --generator full

    Args:
        preset: count the parameters, bytes and operations of a preset, before fitting.
        kind: of the scenes that it would be fitted to.
        scenes: how many they would be.
        size: of their pictures; without, 64x64.
        generator: take another generator than the preset's, e.g. chunked or low-rank:rank=8.
        json: print it as JSON.
    """
    from json import dumps

    from hyperfields import console

    if (run is None) == (preset is None):
        raise InputError(f"inspect: got RUN {run} and --preset {preset}; give one of the two")
    if preset is not None:
        from hyperfields import counts, hypernets
        from hyperfields.presets import preset as make

        if scenes < 1:
            raise InputError(f"--scenes {scenes}: wanted at least 1")
        config = make(preset, kind, scenes, max(_size(size) or (64, 64)))[0]
        if generator is not None:
            config = dataclasses.replace(config, generator=hypernets.parse(generator))
        counted = counts.count(config, scenes)
        rows = counts.format_counts(config, counted)
        print(dumps(dataclasses.asdict(counted), indent=1) if json else console.table(rows))
        return
    assert run is not None
    found = console.inspect_run(run)
    print(dumps(found, indent=1) if json else console.format_run(found))


def doctor(run: _AnyRunPath = None, *, family: _Folder = None) -> None:
    """Say what works on this machine and what to install; of a run, whether it is healthy.

    Of a run: sizes of weights and signals at step 0, units and scenes that are dead, gradients by group.

    $ hyperfields doctor
    $ hyperfields doctor runs/cars

    Args:
        family: the data that were fitted; without, where they were then, if they still are.
    """
    if run is not None:
        from hyperfields.checkpoint import load_run
        from hyperfields.doctor import doctor as examine
        from hyperfields.doctor import format_doctor

        loaded = load_run(run)
        known = family is not None or Path(_recorded(loaded.config).get("path", "/nowhere")).is_dir()
        print(format_doctor(examine(loaded, _family_of(loaded, family) if known else None)))
        return
    from hyperfields import console

    print(console.diagnose())


def add(
    run: _RunPath,
    family: _FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="NEW", help_behavior_hint="(required)")],
    method: Literal["output", "naive", "frozen"] = "output",
    old: _Folder = None,
    minutes: _Minutes = None,
    steps: _Count = None,
    weight: Annotated[float, arg(metavar="W")] = 2.0,
    bases: _Count = None,
    scenes: _Text = None,
    limit: _Count = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
) -> None:
    """Add scenes to a run without forgetting those in it, and say how good old and new ones are.

    Data of the old scenes are not needed; if they are there, the old scenes are measured before and after.

    $ hyperfields add runs/cars newcars --out runs/more --minutes 3
    $ hyperfields add runs/cars newcars --out runs/codes --method frozen
    $ hyperfields add runs/cars newcars --out runs/forgot --method naive

    Args:
        out: folder of the new run; with frozen, of the codes of the new scenes.
        method: hold what is generated for old scenes; or just go on; or leave all networks as they are.
        old: where the data of the old scenes are now, to measure them.
        minutes: how long; without this and --steps, 2 minutes.
        steps: how long, in steps.
        weight: how firmly old scenes are held.
        bases: how many more a factored grid gets; without, one for every four new scenes.
        scenes: names or patterns with * of the scenes to add; without, all that the run does not have.
        limit: only the first N scenes by name.
        seed: of all random numbers.
    """
    from hyperfields import console
    from hyperfields.checkpoint import load_run
    from hyperfields.continual import add as extend
    from hyperfields.continual import format_added

    _require_length(minutes, steps)
    loaded = load_run(run)
    size = _pair(_recorded(loaded.config).get("size") or loaded.config.get("picture", {}).get("size"))
    opened = _open_family(family, kind=None, size=size, scenes=_list(scenes), limit=limit)
    if scenes is None and set(opened.names) & set(loaded.names) and opened.kind == loaded.kind:
        fresh = [name for name in opened.names if name not in loaded.names]
        if not fresh:
            raise InputError(f"{family}: {run} has all of its scenes already")
        opened = _open_family(family, kind=opened.kind, size=size, scenes=fresh)
    known = old is not None or Path(_recorded(loaded.config).get("path", "/nowhere")).is_dir()
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    with console.Meter("add") as meter:
        found = extend(
            loaded,
            opened,
            out,
            old_family=_family_of(loaded, old) if known else None,
            minutes=minutes,
            steps=steps,
            method=method,
            weight=weight,
            bases=bases,
            seed=seed,
            report=lambda progress: meter.show(progress.fraction, _step_text(progress)),
        )
    print(format_added(found))
    print(f"wrote {out}")


def compare(
    family: _FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")],
    generators: Annotated[str, arg(metavar="A,B,C")] = "low-rank,full,scale-shift",
    minutes: _Minutes = None,
    steps: _Count = None,
    bytes: Annotated[str | None, arg(metavar="B,B")] = None,
    seeds: Annotated[int, arg(metavar="N")] = 1,
    leaders: _Count = None,
    unseen: Annotated[int, arg(metavar="N")] = 0,
    preset: Literal["tiny", "default", "faithful"] = "default",
    kind: _KindChoice = None,
    size: _Size = None,
    limit: _Count = None,
) -> None:
    """Compare generators fairly: the same family, field and budget, and only the generator differs.

    A line a result as it comes; then a table, a JSON and a plot. Stopped, the same command goes on.
    Generators take settings: low-rank:rank=8, low-rank:layer=1, chunked:chunk=64:hidden=32, full:hidden=64.
    `direct` fits each scene alone, to compare with.

    $ hyperfields compare faces --out cmp --size 64x64 --generators low-rank,full --bytes 5000 --minutes 2
    $ hyperfields compare cars --out cmp2 --generators low-rank,chunked --steps 500 --seeds 3 --unseen 8

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
    from hyperfields import console
    from hyperfields.compare import PLOT, REPORT, Comparison, format_result, format_table, hold_out, parse_bytes, plot
    from hyperfields.compare import compare as run_all

    _require_length(minutes, steps)
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    names = tuple(name.strip() for name in generators.split(",") if name.strip())
    comparison = Comparison(names, minutes, steps, parse_bytes(bytes), seeds, leaders, preset)
    opened = _open_family(family, kind=kind, size=_size(size), limit=limit)
    held = None
    if unseen:
        parts = hold_out(opened.names, unseen)
        opened, held = (_open_family(family, kind=opened.kind, size=_size(size), scenes=part) for part in parts)
    try:
        with console.Meter("compare") as meter:
            report = run_all(
                opened,
                out,
                comparison,
                unseen=held,
                show=lambda name, progress: meter.show(progress.fraction, f"{name}, {_step_text(progress)}"),
                tell=lambda result: print(format_result(result), flush=True),
            )
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command goes on") from None
    print(format_table(report))
    print(f"wrote {out / REPORT}")
    try:
        plot(report, out / PLOT)
        print(f"wrote {out / PLOT}")
    except InputError as error:
        print(f"no plot: {error}")


VERBS: dict[str, Callable[..., None]] = {
    "fit": fit,
    "eval": evaluate,
    "infer": infer,
    "render": render,
    "interpolate": interpolate,
    "export": export,
    "add": add,
    "compare": compare,
    "view": view,
    "import": import_,
    "inspect": inspect,
    "doctor": doctor,
}


# Arguments ----------------------------------------------------------------------------------------


def _size(text: str | None) -> tuple[int, int] | None:
    """ "HxW" -> (height, width)."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise InputError(f"--size {text!r}: wanted height x width in pixels, e.g. --size 64x64")
    return int(height), int(width)


def _list(text: str | None) -> list[str] | None:
    """ "a,b,c" -> names."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--scenes {text!r}: wanted names with commas between them, e.g. --scenes bus,taxi")
    return names


def _numbers(text: str | None) -> list[int] | None:
    """ "0,7" -> numbers of views."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--views {text!r}: wanted numbers with commas between them, e.g. --views 0,7")
    return [int(part) for part in parts]


def _pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    return None if size is None else (int(size[0]), int(size[1]))


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _load(run: Path, device: str) -> Run:
    """A run on a device that is there."""
    from hyperfields.checkpoint import load_run
    from hyperfields.devices import usable_device

    return load_run(run, usable_device(device))


def _require_length(minutes: float | None, steps: int | None) -> None:
    if minutes is not None and steps is not None:
        raise InputError(f"--minutes {minutes:g}, --steps {steps}: give one of the two")
    if minutes is not None and not minutes > 0.0:
        raise InputError(f"--minutes {minutes:g}: wanted a number above 0")
    if steps is not None and steps < 1:
        raise InputError(f"--steps {steps}: wanted a number of at least 1")


def _fit_config(old: dict[str, Any] | None, given: dict[str, Any]) -> FitConfig:
    """The settings of a fit: what was given, then what the run has, then the defaults."""
    from hyperfields.fit import FitConfig

    _require_length(given.get("minutes"), given.get("steps"))
    length = given.keys() & {"minutes", "steps"}
    try:
        if old is None:
            return FitConfig(**given if length else {**given, "minutes": DEFAULT_MINUTES})
        return FitConfig(**{**old, **({"minutes": None, "steps": None} if length else {}), **given})
    except TypeError as error:
        raise InputError(f"--resume: the run's settings are damaged or of another version: {error}") from None


def _kept(out: Path, old: dict[str, Any]) -> dict[str, Any]:
    """The model and the recipe of the run to go on with: a preset may mean others by now."""
    from hyperfields import checkpoint
    from hyperfields.presets import Recipe

    if not old:
        return {}
    try:
        return {"model": checkpoint.from_json(old["model"]), "recipe": Recipe(**old["recipe"])}
    except (KeyError, TypeError) as error:
        raise InputError(f"{out / checkpoint.CONFIG}: damaged or of another version: {error}") from None


# Runs and families --------------------------------------------------------------------------------


def _require_room(out: Path, resume: bool) -> dict[str, Any]:
    """The config of the run to go on with; empty without `resume`, and `out` can then be a new run.

    Asked before the family is read, which may take long.
    """
    from hyperfields import checkpoint

    if resume:
        return checkpoint.read_config(out)
    if (out / checkpoint.CONFIG).exists():
        raise InputError(f"{out}: holds a fit already; go on with it by --resume, or choose another --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; wanted a new or an empty folder for the run")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds other files; wanted a new or an empty folder for the run")
    return {}


def _open_family(path: Path, **options: Any) -> Family:
    """A family, with a meter while shapes are sampled."""
    from hyperfields import console
    from hyperfields.scenes import open_family

    with console.Meter("sampling") as meter:
        return open_family(path, **options, progress=meter.count)


def _family_of(run: Run, path: Path | None) -> Family:
    """The scenes of a run from the data that were fitted, at the size that they had."""
    recorded = _recorded(run.config)
    folder = Path(recorded["path"]) if path is None and "path" in recorded else path
    if folder is None:
        raise InputError(f"{run.path}: does not say which family was fitted; give it with --family DIR")
    if path is None and not folder.is_dir():
        raise InputError(f"{folder}: the family of {run.path}, is not there; say where with --family DIR")
    return _open_family(folder, kind=run.kind, size=_pair(recorded.get("size")), scenes=list(run.names))


def _one_scene(run: Run, scene: str | None, path: Path | None) -> tuple[Run, str, Tensor]:
    """The scene asked for, fitted or inferred: (the run that binds it, its name, its code `[1 z]`)."""
    if path is None:
        if scene is None:
            raise InputError(f"--scene: give a scene of {run.path}, e.g. {run.names[0]!r}, or --codes FILE")
        return run, scene, run.codes(scene)
    from hyperfields.infer import load_codes

    found = load_codes(path, run)
    if scene is None and len(found.names) > 1:
        raise InputError(f"--scene: give one of the {len(found.names)} of {path}, e.g. {found.names[0]!r}")
    name = found.names[0] if scene is None else scene
    if name not in found.names:
        near = difflib.get_close_matches(name, found.names, 3, 0.0)
        raise InputError(f"scene {name!r}: not in {path}; the nearest names are {', '.join(near)}")
    row = found.names.index(name)
    residual = {key: value[row : row + 1] for key, value in found.residual.items()}
    model = copy.copy(run.model)  # one that adds what refining found to the weights of this scene
    model.bind = functools.partial(run.model.bind, residual=residual)  # type: ignore[method-assign]
    return dataclasses.replace(run, model=model), name, found.codes[row : row + 1]


def _frames(meter: Meter) -> Callable[[int, int], None]:
    """Shows how many frames are done."""
    return lambda done, total: meter.show(done / total, f"frame {done} of {total}")


def _recorded(config: dict[str, Any]) -> dict[str, Any]:
    """What a run says about its family: `path`, and `size`, `scenes`, `limit` if they were given."""
    recorded = config.get("family")
    return recorded if isinstance(recorded, dict) else {}


def _next(*words: object) -> str:
    return f"next: {shlex.join(['hyperfields', *map(str, words)])}"


def _scenes(count: int) -> str:
    return f"{count:,} scene{'' if count == 1 else 's'}"


def _kind_line(family: Family, picture: dict[str, Any], how: str) -> str:
    size = f", {picture['size'][0]}x{picture['size'][1]}" if "size" in picture else ""
    return f"{family.kind}: {_scenes(len(family.names))}{size} ({how})"


# Fitting ------------------------------------------------------------------------------------------


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


def _step_text(progress: Progress) -> str:
    return f"step {progress.step:,}, loss {progress.loss:.3g}"


def _run_fit(fitting: Fit, again: str) -> None:
    """Run a fit with its progress, and say what came out and what to type next."""
    from hyperfields import checkpoint, console

    alone = len(fitting.family.names) if fitting.config.individually else 0

    def share(progress: Progress) -> float:
        return (progress.scene + progress.fraction) / alone if alone else progress.fraction

    first = share(fitting.progress)  # not 0 when the fit goes on
    try:
        with console.Meter("fit", first) as meter:

            def report(progress: Progress) -> None:
                meter.show(share(progress), _step_text(progress))

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
    print(_next("eval", out))


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with what to type to go on."""


# The front door -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `hyperfields ARGUMENTS` (default: those of the process) and return the exit code.

    0: done. 2: something the user gave cannot be used, said in one line on stderr. 130: stopped by Ctrl-C.

    Raises:
        SystemExit: help was asked for, or an option is misspelt (exit code 2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"hyperfields\.")
            warnings.showwarning = _show_warning
            _dispatch(words)
            sys.stdout.flush()
    except InputError as error:
        return _fail(str(error))
    except Stopped as stopped:
        return _fail(str(stopped), code=130, label="")
    except KeyboardInterrupt:
        return _fail("stopped", code=130, label="")
    except FloatingPointError as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:  # whoever read the output has gone: nothing is wrong, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for this alone
            raise
        had = str(error).split(". ")[0]
        return _fail(f"the GPU is out of memory ({had}); use a smaller --size, or --device cpu")
    except OSError as error:  # a full disk, a folder that may not be read
        if error.errno is None:
            raise
        name = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _fail(f"{name}{error.strerror}{'; free some space or choose another folder' if full else ''}")
    return 0


def _dispatch(words: list[str]) -> None:
    from hyperfields import __version__

    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"hyperfields {__version__}")
        return
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(VERBS)}"
        raise InputError(f"verb {verb!r}: unknown; {hint}")
    tyro.cli(
        VERBS[verb],
        prog=f"hyperfields {verb}",
        args=rest,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )


def _help() -> str:
    """What `hyperfields --help` prints; each verb has a help with all options and examples."""
    width = max(map(len, VERBS))
    verbs = [f"  {name.ljust(width)}  {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: hyperfields VERB ...",
            "",
            "One hypernetwork fits a family of images, shapes or radiance fields, and renders it.",
            "",
            *verbs,
            "",
            "hyperfields VERB --help says more, with examples. A first round:",
            "",
            "  $ hyperfields fit photos --out runs/photos --size 64x64 --minutes 2",
            "  $ hyperfields eval runs/photos",
            "  $ hyperfields render runs/photos --scene cat --out cat.png",
        ]
    )


def _fail(message: str, *, code: int = 2, label: str = "error: ") -> int:
    """One line on stderr."""
    with contextlib.suppress(OSError):
        print(f"hyperfields: {label}{' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """A warning as one line, without the place in our code."""
    print(f"hyperfields: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
