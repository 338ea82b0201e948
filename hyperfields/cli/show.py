"""Verbs that read a run and show or write what is in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from hyperfields.cli.common import family_of, family_record, fields_of, frames_shown, load, one_scene, what_was_seen
from hyperfields.cli.options import (
    QUIET,
    AnyRunPath,
    ChannelChoice,
    Count,
    Device,
    File,
    Flag,
    Folder,
    Name,
    PresetChoice,
    RunPath,
    Scene,
    Size,
    parse_size,
)
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.model import BoundField

SAMPLES = 8  # fields drawn where there is a distribution


def evaluate(
    run: RunPath,
    *,
    family: Folder = None,
    split: Literal["test", "val", "train"] = "test",
    out: File = None,
    lpips_weights: File = None,
    device: Device = "cpu",
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

    from hyperfields.cli import console
    from hyperfields.evaluation.report import evaluate as measure
    from hyperfields.evaluation.report import format_report
    from hyperfields.runs import checkpoint
    from hyperfields.runs.export import require_suffix

    if out is not None:
        require_suffix(out, (".json",), "a report")
    if lpips_weights is not None and not lpips_weights.exists():
        raise InputError(f"--lpips-weights {lpips_weights}: not there; give torchvision's checkpoint")
    loaded = load(run, device)
    opened = family_of(loaded, family)
    with console.Meter("eval") as meter:
        report = measure(loaded, opened, split, lpips_weights=lpips_weights, report=meter.count)
    print(format_report(report))
    if out is not None:
        checkpoint.write_atomically(out, json.dumps(report, indent=1, allow_nan=False).encode())
        print(f"wrote {out}")


def render(
    run: RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: Scene = None,
    codes: File = None,
    orbit: Count = None,
    size: Size = None,
    channel: ChannelChoice = "rgb",
    uncertainty: Flag = False,
    family: Folder = None,
    sample: Count = None,
    device: Device = "cpu",
) -> None:
    """Render a scene as a picture, or as an animation from a camera that circles it.

    $ hyperfields render runs/photos --scene cat --out cat.png
    $ hyperfields render runs/cars --scene bus --out bus.mp4 --orbit 72 --size 256x256
    $ hyperfields render runs/cars --scene bus --out bus.png --channel normals
    $ hyperfields render runs/cars --scene bus --out bus.png --uncertainty
    $ hyperfields render runs/cars --sample 7 --out new.png

    Args:
        out: .png, .jpg or .webp for a picture, .mp4 or .gif for an animation.
        scene: name of a scene of the run, or of CODES.
        codes: file of codes that infer wrote; without --scene it must hold one scene.
        orbit: number of frames on the circle, for animations.
        size: height and width of the picture; without, that of the pictures that were fitted.
        channel: colours, distances from the camera (near is bright), or surface directions.
        uncertainty: beside the picture FILE.png write FILE.uncertainty.png: where it may be wrong is bright.
        family: for --uncertainty, the data that were fitted or inferred from; without, where they were then.
        sample: instead of a scene, draw a new one by chance, another for each number.
        device: where the fields are computed, "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.cli import console
    from hyperfields.evaluation.uncertainty import deviation_picture, misfit, uncertainty_image
    from hyperfields.runs import render as movie
    from hyperfields.runs.export import IMAGE_SUFFIXES, require_suffix, write_image
    from hyperfields.runs.render import native_size, orbit_cameras
    from hyperfields.training.inference import load_codes

    whole = load(run, device)
    if sample is not None:
        if scene is not None or codes is not None or uncertainty:
            raise InputError(f"--sample {sample}: is a scene of its own; leave --scene, --codes and --uncertainty out")
        from hyperfields.training.posterior import new_code

        loaded, name, code = whole, "", new_code(whole, sample)
    else:
        loaded, name, code = one_scene(whole, scene, codes)
    if uncertainty and (orbit is not None or channel != "rgb"):
        raise InputError("--uncertainty: is of a picture in colours; leave --orbit and --channel out")
    beside = out.with_name(f"{out.stem}.uncertainty{out.suffix}")
    if uncertainty:
        require_suffix(beside, IMAGE_SUFFIXES, "an uncertainty")
        known = None if codes is None else load_codes(codes, whole)
        seen = what_was_seen(whole, [name], family, known)
    with console.Meter("render") as meter:
        movie.render_run(
            loaded, code, out, orbit=orbit, size=parse_size(size), channel=channel, report=frames_shown(meter)
        )
    print(f"wrote {out}")
    if uncertainty:
        bound, samples = fields_of(whole, name, known, SAMPLES)
        wanted = parse_size(size) or native_size(whole)
        found, camera = misfit(bound, seen, name), orbit_cameras(whole, 1, wanted)[0]
        deviation = deviation_picture(bound, found, camera, wanted, samples)[1]
        write_image(beside, uncertainty_image(deviation))
        unit = "in the scene's units" if whole.kind == "shapes" else "of a colour from 0 to 1"
        print(f"wrote {beside}: white is a deviation of {float(deviation.max()):.3f} {unit}")


def calibrate(
    run: RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    codes: File = None,
    family: Folder = None,
    split: Literal["test", "val", "train"] = "test",
    views: Count = None,
    limit: Count = None,
    device: Device = "cpu",
) -> None:
    """Say how well predicted uncertainties agree with errors on views that were left out.

    Writes a figure, expected against observed, and all numbers as a JSON file beside it.

    $ hyperfields calibrate runs/cars --out calibration.png
    $ hyperfields calibrate runs/cars --codes newcars.safetensors --out calibration.png --views 5

    Args:
        out: the figure, .png; the numbers go to the same name with .json.
        codes: file of codes that infer wrote; without, the fitted scenes.
        family: the data that were fitted or inferred from; without, where they were then.
        split: which views to compare with; images and shapes have no splits.
        views: at most N views of each scene.
        limit: only the first N scenes.
        device: where the fields are computed, "cpu", "cuda" or "cuda:N".
    """
    import json

    from hyperfields.cli import console
    from hyperfields.evaluation.uncertainty import calibrate as compare
    from hyperfields.evaluation.uncertainty import format_calibration, plot
    from hyperfields.runs import checkpoint
    from hyperfields.runs.export import require_suffix
    from hyperfields.training.inference import load_codes

    require_suffix(out, (".png",), "a figure")
    for name, value in (("--views", views), ("--limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: wanted at least 1")
    loaded = load(run, device)
    known = None if codes is None else load_codes(codes, loaded)
    names = (loaded.names if known is None else known.names)[:limit]
    seen = what_was_seen(loaded, names, family, known)
    with console.Meter("calibrate") as meter:

        def fields(name: str) -> tuple[BoundField, list[BoundField]]:
            return fields_of(loaded, name, known, SAMPLES)

        report = compare(names, fields, seen, split, views=views, report=meter.count)
    print(format_calibration(report))
    numbers = out.with_suffix(".json")
    checkpoint.write_atomically(numbers, json.dumps(report, indent=1).encode())
    print(f"wrote {numbers}")
    plot(report, out)
    print(f"wrote {out}")


def interpolate(
    run: RunPath,
    scenes: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="A B [C ...]", help_behavior_hint=QUIET, help="two scenes or more, in order."),
        ]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE|DIR", help_behavior_hint="(required)")],
    frames: Annotated[int, arg(metavar="N")] = 48,
    mode: Literal["lerp", "slerp"] = "lerp",
    orbit: Flag = False,
    size: Size = None,
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
    from hyperfields.cli import console
    from hyperfields.runs import render as movie
    from hyperfields.runs.checkpoint import load_run

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
            size=parse_size(size),
            report=frames_shown(meter),
        )
    print(f"wrote {out}")


def export(
    run: RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: Scene = None,
    codes: File = None,
    format: Annotated[Literal["tcnn"] | None, arg(help_behavior_hint=QUIET)] = None,
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
    from hyperfields.runs import render as movie
    from hyperfields.runs import tcnn as exchange
    from hyperfields.runs.checkpoint import load_run

    loaded, name, code = one_scene(load_run(run), scene, codes)
    if format == "tcnn":
        info = {"name": name, "kind": loaded.kind, "picture": loaded.config["picture"]}
        exchange.write_tcnn(out, movie.bind(loaded, code), info)
    else:
        movie.export_scene(loaded, name, out, None if codes is None else code)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def import_(
    field: Positional[
        Annotated[Path, arg(metavar="FILE", help_behavior_hint=QUIET, help="what export --format tcnn wrote.")]
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
    from hyperfields.runs import checkpoint
    from hyperfields.runs import tcnn as exchange
    from hyperfields.runs.export import require_suffix

    require_suffix(out, (".safetensors",), "a standalone field")
    bound, info = exchange.read_tcnn(field)
    checkpoint.write_field(out, bound, info)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def view(
    run: RunPath,
    *,
    family: Folder = None,
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
    from hyperfields.runs.checkpoint import load_run
    from hyperfields.viewer import serve

    loaded = load_run(run)
    serve(loaded, lambda: family_of(loaded, family), host=host, port=port, log=lambda text: print(text, flush=True))


def inspect(
    run: AnyRunPath = None,
    *,
    preset: PresetChoice = None,
    kind: Annotated[Literal["images", "shapes", "views"], arg(metavar="KIND")] = "images",
    scenes: Annotated[int, arg(metavar="N")] = 32,
    size: Size = None,
    generator: Name = None,
    json: Flag = False,
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

    from hyperfields.cli import console

    if (run is None) == (preset is None):
        raise InputError(f"inspect: got RUN {run} and --preset {preset}; give one of the two")
    if preset is not None:
        from hyperfields import hypernets
        from hyperfields.tasks.presets import preset as make
        from hyperfields.training import cost as counts

        if scenes < 1:
            raise InputError(f"--scenes {scenes}: wanted at least 1")
        config = make(preset, kind, scenes, max(parse_size(size) or (64, 64)))[0]
        if generator is not None:
            config = dataclasses.replace(config, generator=hypernets.parse(generator, hypernets.SHARING))
        counted = counts.count(config, scenes)
        rows = counts.format_counts(config, counted)
        print(dumps(dataclasses.asdict(counted), indent=1) if json else console.table(rows))
        return
    assert run is not None
    found = console.inspect_run(run)
    print(dumps(found, indent=1) if json else console.format_run(found))


def doctor(run: AnyRunPath = None, *, family: Folder = None) -> None:
    """Say what works on this machine and what to install; of a run, whether it is healthy.

    Of a run: sizes of weights and signals at step 0, units and scenes that are dead, gradients by group.

    $ hyperfields doctor
    $ hyperfields doctor runs/cars

    Args:
        family: the data that were fitted; without, where they were then, if they still are.
    """
    if run is not None:
        from hyperfields.evaluation.health import doctor as examine
        from hyperfields.evaluation.health import format_doctor
        from hyperfields.runs.checkpoint import load_run

        loaded = load_run(run)
        known = family is not None or Path(family_record(loaded.config).get("path", "/nowhere")).is_dir()
        print(format_doctor(examine(loaded, family_of(loaded, family) if known else None)))
        return
    from hyperfields.cli import console

    print(console.diagnose())
