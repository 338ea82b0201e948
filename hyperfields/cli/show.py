"""Verbs that show, measure or export a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from hyperfields.cli.common import (
    data_of,
    each_scene,
    frames_shown,
    has_data,
    load,
    observed_data,
    one_scene,
    require_each,
    require_splits,
    scene_count,
    write_json,
)
from hyperfields.cli.options import (
    QUIET,
    AnyRunPath,
    ChannelChoice,
    Count,
    Device,
    File,
    Flag,
    Folder,
    RunPath,
    SceneName,
    ShardText,
    Size,
    parse_size,
)
from hyperfields.cli.posed import export_cameras, export_points, mesh_cameras
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.data import SceneDataset
    from hyperfields.fields import BoundField
    from hyperfields.runs.run import Run
    from hyperfields.runs.scene import Scene

SAMPLES = 8  # fields drawn where there is a distribution


def render(
    run: AnyRunPath = None,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: SceneName = None,
    codes: File = None,
    compose: File = None,
    path: Annotated[str | None, arg(metavar="orbit|spiral|FILE", help_behavior_hint=QUIET)] = None,
    frames: Count = None,
    orbit: Count = None,
    size: Size = None,
    channel: ChannelChoice = "rgb",
    uncertainty: Flag = False,
    family: Folder = None,
    sample: Count = None,
    shard: ShardText = None,
    device: Device = "cpu",
) -> None:
    """Render a scene as a picture, or as a film from a camera that moves round it.

    $ hyperfields render runs/photos --scene cat --out cat.png
    $ hyperfields render runs/cars --scene bus --out bus.mp4 --orbit 72 --size 256x256
    $ hyperfields render runs/fox --scene fox --out fox.mp4 --path camera_path.json
    $ hyperfields render runs/fox --scene fox --out frames --path spiral --frames 90
    $ hyperfields render runs/cars --scene bus --out bus.png --channel normals
    $ hyperfields render runs/cars --scene bus --out bus.png --uncertainty
    $ hyperfields render runs/cars --sample 7 --out new.png
    $ hyperfields render runs/cars --scene "bus - van + taxi" --out sum.png
    $ hyperfields render --compose street.json --out street.mp4 --orbit 72
    $ hyperfields render runs/cars --out 'pictures/{scene}.png' --shard 3/10

    Args:
        out: .png, .jpg or .webp for a picture, .mp4 or .gif for a film; with --path a new folder for a .png a frame.
            With {scene} in it, a file for each scene.
        scene: name of a scene of the run, or in the file of --codes; or a sum of their codes, "A - B + C".
        codes: file of codes written by infer; needs no --scene if it holds one scene.
        compose: instead of a run, a JSON file of radiance scenes with their places, of one run or several: {"scenes":
            [{"run": "runs/cars", "scene": "bus", "position": [0, 0, 0], "turn": 90, "scale": 1}, ...]}, paths from the
            file's folder, turn in degrees about +Z; codes instead of scene, or rotation instead of turn.
        path: of the camera, for films: orbit, a circle round the scene (default), spiral, or a file of nerfstudio's
            camera paths.
        frames: number of frames of an orbit or a spiral; default: 48.
        orbit: number of frames of an orbit: --path orbit --frames N in one.
        size: height and width of the picture; default: as fitted, or as in the file of --path.
        channel: colours, distances from the camera (near is bright), or surface normals.
        uncertainty: also write FILE.uncertainty.png, bright where the standard deviation is large.
        family: for --uncertainty, folder of the data of the scene; default: as recorded.
        sample: instead of a scene, render a random new one; N is the seed.
        shard: with {scene} in --out, only the I-th of N parts of the scenes.
        device: "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.evaluation.uncertainty import misfit, std_picture, uncertainty_image
    from hyperfields.runs import render as rendering
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.cameras import native_size, orbit_cameras
    from hyperfields.runs.compose import read_composition
    from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
    from hyperfields.runs.inferred import load_codes
    from hyperfields.runs.scene import Scene
    from hyperfields.training.inference import fields_of, new_code
    from hyperfields.training.progress import Meter

    if (run is None) == (compose is None):
        both = "both came" if run is not None else "neither came"
        raise InputError(f"RUN, --compose FILE: {both}; give the folder of a run, or a composition of scenes")
    shown: Scene
    single = {
        "--scene": scene, "--compose": compose, "--sample": sample is not None, "--uncertainty": uncertainty,
        "--family": family,
    }  # fmt: skip
    if require_each(out, shard, single) and run is not None:
        with Meter("render") as meter:
            count = 0
            for shown, file in each_scene(load(run, device), codes, out, shard):
                rendering.render_scene(
                    shown, file, path=path, frames=frames, orbit=orbit, size=parse_size(size), channel=channel,
                    progress=frames_shown(meter),
                )  # fmt: skip
                count += 1
        print(f"wrote {out}: {scene_count(count)}")
        return
    if compose is not None:
        if scene is not None or codes is not None or uncertainty or sample is not None:
            raise InputError("--compose: says its scenes; leave --scene, --codes, --sample and --uncertainty out")
        shown = read_composition(compose, lambda place, name, file: one_scene(load(place, device), name, file))
        loaded = shown.run
    elif run is not None:
        loaded = load(run, device)
        if sample is None:
            shown = one_scene(loaded, scene, codes)
        elif scene is not None or codes is not None or uncertainty:
            raise InputError(f"--sample {sample}: is a scene of its own; leave --scene, --codes and --uncertainty out")
        else:
            shown = Scene(loaded, f"sample {sample}", new_code(loaded, sample), fitted=False, frame=loaded.frame_of())
    if family is not None and not uncertainty:
        raise InputError(f"--family {family}: is read for --uncertainty alone; leave it out")
    if uncertainty and (any(value is not None for value in (orbit, path, frames)) or channel != "rgb"):
        raise InputError("--uncertainty: is of a picture in colours; leave --path, --frames, --orbit and --channel out")
    if uncertainty and codes is None and not shown.fitted:
        raise InputError(f"--scene {scene!r}: is no fitted scene, which --uncertainty wants; leave it out")
    beside = out.with_name(f"{out.stem}.uncertainty{out.suffix}")
    if uncertainty:
        require_suffix(beside, IMAGE_SUFFIXES, "an uncertainty")
        inferred = None if codes is None else load_codes(codes, loaded)
        observed = observed_data(loaded, [shown.name], family, inferred)
    with Meter("render") as meter:
        rendering.render_scene(
            shown,
            out,
            path=path,
            frames=frames,
            orbit=orbit,
            size=parse_size(size),
            channel=channel,
            progress=frames_shown(meter),
            note=meter.say,
        )
    print(f"wrote {out}")
    if uncertainty:
        bound, samples = fields_of(loaded, shown.name, inferred, samples=SAMPLES)
        pixels = parse_size(size) or native_size(loaded)
        camera = orbit_cameras(loaded, 1, pixels)[0]
        std = std_picture(bound, misfit(bound, observed, shown.name), camera, pixels, samples)[1]
        write_image(beside, uncertainty_image(std))
        print(f"wrote {beside}: white is a standard deviation of {float(std.max()):.3f} {loaded.task.unit}")


def calibrate(
    run: RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    codes: File = None,
    family: Folder = None,
    split: Annotated[Literal["test", "val", "train"] | None, arg(help_behavior_hint=QUIET)] = None,
    views: Count = None,
    limit: Count = None,
    device: Device = "cpu",
) -> None:
    """Measure how well predicted standard deviations agree with errors on held-out views.

    Writes a figure, expected against observed, and all values as a JSON file beside it.

    $ hyperfields calibrate runs/cars --out calibration.png
    $ hyperfields calibrate runs/cars --codes newcars.safetensors --out calibration.png --views 5

    Args:
        out: figure, .png; the values go to the same name with .json.
        codes: file of codes written by infer; default: the fitted scenes.
        family: folder of the data of the scenes; default: as recorded.
        split: views to compare with, for radiance fields; default: test.
        views: use at most N views of each scene.
        limit: only the first N scenes.
        device: "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.evaluation.plots import plot_calibration
    from hyperfields.evaluation.uncertainty import calibrate as compare
    from hyperfields.evaluation.uncertainty import format_calibration
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.inferred import load_codes
    from hyperfields.training.inference import fields_of
    from hyperfields.training.progress import Meter

    require_suffix(out, (".png",), "a figure")
    for name, value in (("--views", views), ("--limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: wanted at least 1")
    loaded = load(run, device)
    require_splits(loaded, {"--split": split, "--views": views})
    inferred = None if codes is None else load_codes(codes, loaded)
    names = (loaded.names if inferred is None else inferred.names)[:limit]
    observed = observed_data(loaded, names, family, inferred)
    with Meter("calibrate") as meter:

        def fields(name: str) -> tuple[BoundField, list[BoundField]]:
            return fields_of(loaded, name, inferred, samples=SAMPLES)

        report = compare(names, fields, observed, split or "test", views=views, progress=meter.count)
    print(format_calibration(report))
    values = out.with_suffix(".json")
    write_json(values, report)
    print(f"wrote {values}")
    plot_calibration(report, out)
    print(f"wrote {out}")


def interpolate(
    run: RunPath,
    scenes: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="A B [C ...]", help_behavior_hint=QUIET, help='two scenes or more, or sums, "A - B + C".'),
        ]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE|DIR", help_behavior_hint="(required)")],
    codes: File = None,
    frames: Annotated[int, arg(metavar="N")] = 48,
    morph: Literal["moved", "codes"] = "moved",
    mode: Annotated[Literal["lerp", "slerp", "smooth"] | None, arg(help_behavior_hint=QUIET)] = None,
    timing: Literal["even", "linear"] = "even",
    orbit: Flag = False,
    size: Size = None,
) -> None:
    """Walk from scene to scene: an animation, or meshes. What scenes have in common moves from one to the next.

    $ hyperfields interpolate runs/photos cat dog --out morph.gif
    $ hyperfields interpolate runs/cars bus taxi van --out morph.mp4 --frames 120 --orbit
    $ hyperfields interpolate runs/shapes bus taxi --out meshes --frames 10
    $ hyperfields interpolate runs/cars bus taxi van --out morph.mp4 --morph codes --mode smooth
    $ hyperfields interpolate runs/cars taxi "taxi - bus + van" --out morph.mp4
    $ hyperfields interpolate runs/cars mine yours --codes newcars.safetensors --out morph.mp4

    Args:
        out: .mp4 or .gif, or a new folder for one file a frame: meshes of shapes, pictures of others.
        codes: file of codes written by infer: walk over its scenes instead of the fitted ones.
        frames: number of frames of the whole walk.
        morph: moved: fields of two scenes, of which one is carried to the other; codes: the fields of mixed codes.
        mode: of --morph codes: lerp, straight lines (default); slerp, arcs; smooth, one curve without corners through
            all codes.
        timing: even: as much of the picture or of the surface changes from each frame to the next; linear: the same
            share of the way lies between.
        orbit: let the camera circle the scene once.
        size: height and width of the pictures; default: as fitted.
    """
    from hyperfields.runs.inferred import load_codes
    from hyperfields.runs.render import interpolate_run
    from hyperfields.training.progress import Stages

    loaded = load(run)
    inferred = None if codes is None else load_codes(codes, loaded)
    if len(scenes) < 2:
        names = " ".join((loaded.names if inferred is None else inferred.names)[:2])
        count = "one scene" if scenes else "no scene"
        raise InputError(f"interpolate: {count} came; a walk is between two or more, e.g. {names}")
    with Stages() as stages:
        interpolate_run(
            [(loaded if inferred is None else inferred)[scene] for scene in scenes],
            out,
            frames=frames,
            morph=morph,
            mode=mode,
            timing=timing,
            orbit=orbit,
            size=parse_size(size),
            looks=lambda done, total: stages.at("timing").count(done, total, "looking how much changes"),
            progress=lambda done, total: frames_shown(stages.at("interpolate"))(done, total),
        )
    print(f"wrote {out}")


def export(
    run: RunPath,
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    scene: SceneName = None,
    codes: File = None,
    format: Annotated[Literal["tcnn"] | None, arg(help_behavior_hint=QUIET)] = None,
    resolution: Count = None,
    cameras: Flag = False,
    points: Count = None,
    family: Folder = None,
    shard: ShardText = None,
) -> None:
    """Write one scene as a file that does not need the run: picture, mesh, standalone field, cameras or points.

    $ hyperfields export runs/photos --scene cat --out cat.png
    $ hyperfields export runs/shapes --scene bus --out bus.glb --resolution 256
    $ hyperfields export runs/cars --scene bus --out bus.safetensors
    $ hyperfields export runs/cars --scene bus --format tcnn --out bus.safetensors
    $ hyperfields export runs/fox --scene fox --cameras --out transforms.json
    $ hyperfields export runs/fox --scene fox --points 500000 --out fox.ply
    $ hyperfields export runs/shapes --out 'meshes/{scene}.ply' --shard 3/10

    Args:
        out: .png, .jpg or .webp for a picture; .ply, .obj, .glb or .stl for a mesh, of views with colours (but .stl);
            .safetensors for the field; .json for cameras. With {scene} in it, a file for each scene.
        scene: name of a scene of the run, or in the file of --codes; or a sum of their codes, "A - B + C".
        codes: file of codes written by infer; needs no --scene if it holds one scene.
        resolution: of a mesh, cells along a side of the scene box; default 192.
        cameras: write the cameras of the scene's training pictures as a transforms.json, in the coordinates of its
            files: those of fit --refine-poses corrected.
        points: write about so many points with colours, .ply, in the coordinates of the scene's files: where rays of
            the cameras of its training pictures end.
        family: with --cameras, --points and meshes of views, which leave out what no training picture shows: folder of
            the data that were fitted; default: as recorded.
        format: "tcnn" writes a standalone field in tiny-cuda-nn's layout, with its description in a .json beside it.
        shard: with {scene} in --out, only the I-th of N parts of the scenes.
    """
    from hyperfields.runs.export import export_scene, field_facts
    from hyperfields.runs.meshes import MESH_SUFFIXES
    from hyperfields.runs.tcnn import write_tcnn
    from hyperfields.tasks.base import MESH_RESOLUTION
    from hyperfields.training.progress import Meter

    if resolution is not None and (cameras or points is not None or out.suffix.lower() not in MESH_SUFFIXES):
        raise InputError(f"--resolution: is of meshes ({', '.join(MESH_SUFFIXES)}); leave it out")
    cells = MESH_RESOLUTION if resolution is None else resolution

    def surface(run: Run) -> bool:
        return run.kind == "views" and codes is None and format is None and out.suffix.lower() in MESH_SUFFIXES

    def write(shown: Scene, file: Path) -> None:
        if format == "tcnn":
            write_tcnn(file, shown.field, field_facts(shown))
        else:
            seen = mesh_cameras(shown.run, shown, family) if surface(shown.run) else ()
            export_scene(shown, file, resolution=cells, cameras=seen)

    if require_each(out, shard, {"--scene": scene, "--cameras": cameras, "--points": points}):
        loaded, count = load(run), 0
        if family is not None and not surface(loaded):
            raise InputError("--family: is read for meshes of views alone; leave it out")
        with Meter("export") as meter:
            for shown, file in each_scene(loaded, codes, out, shard):
                write(shown, file)
                count += 1
                meter.show(0.0, f"{count} written")
        print(f"wrote {out}: {scene_count(count)}")
        return
    if cameras:
        if points is not None:
            raise InputError("--cameras, --points: give one of the two")
        if codes is not None or format is not None:
            raise InputError("--cameras: goes with neither --codes nor --format; leave them out")
        export_cameras(load(run), scene, out, family)
        return
    if points is not None:
        if codes is not None or format is not None:
            raise InputError("--points: goes with neither --codes nor --format; leave them out")
        export_points(load(run), scene, out, family, points)
        return
    loaded = load(run)
    if family is not None and not surface(loaded):
        raise InputError("--family: is read for --cameras, --points and meshes of views alone; leave it out")
    write(one_scene(loaded, scene, codes), out)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def import_(
    field: Positional[
        Annotated[Path, arg(metavar="FILE", help_behavior_hint=QUIET, help="file written by export --format tcnn.")]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
) -> None:
    """Convert a field in tiny-cuda-nn's layout back into a standalone field of hyperfields.

    The .json written by export must be beside FILE. Its parameters may have been trained further.

    $ hyperfields import bus.safetensors --out field.safetensors

    Args:
        out: the standalone field, .safetensors.
    """
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.field_file import write_field
    from hyperfields.runs.tcnn import read_tcnn

    require_suffix(out, (".safetensors",), "a standalone field")
    bound, info = read_tcnn(field)
    write_field(out, bound, info)
    print(f"wrote {out}: {out.stat().st_size / 1e3:,.1f} kB")


def view(
    run: RunPath,
    *,
    family: Folder = None,
    codes: File = None,
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, arg(metavar="N")] = 8780,
) -> None:
    """Open a page in the browser to explore a run with the mouse: drag, morph, orbit, export.

    $ hyperfields view runs/cars
    $ hyperfields view runs/cars --port 9000 --family /data/cars
    $ hyperfields view runs/cars --codes newcars.safetensors

    Args:
        family: folder of the data that were fitted, for the reference beside a result; default: as recorded.
        codes: file of codes written by infer: show its scenes, refined ones too, instead of the fitted ones.
        host: address to listen on; the default is reachable from this machine only.
        port: port; the next free one if it is in use.
    """
    from hyperfields.runs.inferred import load_codes
    from hyperfields.viewer import serve

    loaded = load(run)
    inferred = None if codes is None else load_codes(codes, loaded)

    def open_dataset() -> SceneDataset:
        return data_of(loaded, family) if inferred is None else observed_data(loaded, inferred.names, family, inferred)

    serve(loaded, open_dataset, inferred, host=host, port=port, log=lambda text: print(text, flush=True))


def doctor(run: AnyRunPath = None, *, family: Folder = None) -> None:
    """Check this machine: what works and what to install; or check a fitted run.

    Of a run: scales of weights and activations at step 0, dead units and scenes, gradients by group.

    $ hyperfields doctor
    $ hyperfields doctor runs/cars

    Args:
        family: folder of the data that were fitted; default: as recorded, if they are there.
    """
    if run is not None:
        from hyperfields.evaluation.health import doctor as examine
        from hyperfields.evaluation.health import format_doctor

        loaded = load(run)
        known = family is not None or has_data(loaded)
        print(format_doctor(examine(loaded, data_of(loaded, family) if known else None)))
        return
    if family is not None:
        raise InputError(f"--family {family}: is the data of a run; give the run before it")
    from hyperfields.cli.diagnose import diagnose

    print(diagnose())
