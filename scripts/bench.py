"""Measures speed.

python scripts/bench.py ops                         the kernels beside the reference, the usual formulations and the
                                                    machine's ceilings
python scripts/bench.py fit VIEWS [--profile]       a whole fitting step, beside the same step in plain torch; where its
                                                    time goes
python scripts/bench.py serial [FAMILY ...]         the share of a fitting step that stays on one thread
python scripts/bench.py render RUN --scene NAME     frames a second round a scene: it is bound and its empty space found
                                                    before the clock starts, as for a viewer
python scripts/bench.py scale FAMILY                 many scenes against few: steps, memory, checkpoints; what drawing
                                                    batches of FAMILY costs; imports; a second start
python scripts/bench.py many FAMILY                  20,000 scenes, bases from 2,000 of them: discs, faces, chairs (see
                                                    procedural.py)
python scripts/bench.py beside                      two fits at once, torch or hyperfields imported first
python scripts/bench.py reading FAMILY              pictures a second that are read, and the memory that it takes
python scripts/bench.py singles FAMILY             short fits of every scene by itself: how many come to nothing
python scripts/bench.py backgrounds FAMILY          the same of pictures without alpha on white, black, green, beside
                                                    those with alpha
python scripts/bench.py --device cuda               all of it on a GPU (see bench_gpu.py)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import bench_backgrounds
import bench_beside
import bench_fit
import bench_gpu
import bench_many
import bench_ops
import bench_reading
import bench_scale
import bench_serial
import bench_singles

from hyperfields.errors import InputError
from hyperfields.ops.threads import kernel_threads
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.run import load_run
from hyperfields.tasks import render_picture

WARM_UP = 3  # frames that compile and fill caches


def render(run: Path, scene: str | None, size: tuple[int, int], frames: int) -> dict[str, object]:
    """Seconds a frame over an orbit of one scene, the first of the run unless named."""
    loaded = load_run(run)
    scene = scene or loaded.names[0]
    began = time.perf_counter()
    bound = loaded.bind(scene)
    cameras = orbit_cameras(loaded, frames, size)
    render_picture(bound, cameras[0], size)
    first = time.perf_counter() - began
    for camera in cameras[1 : WARM_UP + 1]:
        render_picture(bound, camera, size)
    seconds = []
    for camera in cameras:
        began = time.perf_counter()
        render_picture(bound, camera, size)
        seconds.append(time.perf_counter() - began)
    return {
        "run": str(run),
        "kind": loaded.kind,
        "scene": scene,
        "size": list(size),
        "frames": frames,
        "threads": kernel_threads(),
        "first_picture_seconds": first,
        "mean_frames_per_second": frames / sum(seconds),
        "median_frames_per_second": 1.0 / statistics.median(seconds),
        "slowest_frame_seconds": max(seconds),
    }


def sides(size: str) -> tuple[int, int]:
    height, width = (int(side) for side in size.split("x"))
    return height, width


def print_ops(rows: list[bench_ops.Row]) -> None:
    what = ""
    for row in rows:
        if row.what != what:
            what = row.what
            print(f"{what}: {row.milliseconds:.1f} ms")
        print(f"    {row.ratio:8.2f} times as fast as  {row.against}")


def main() -> None:
    if "--device" in sys.argv[1:2]:
        sys.exit(bench_gpu.main(sys.argv[1:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    kernels = parts.add_parser("ops", help="the kernels")
    kernels.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    part = parts.add_parser("render", help="frames a second of an orbit")
    part.add_argument("run", type=Path)
    part.add_argument("--scene", help="default: the first of the run")
    part.add_argument("--size", default="128x128", help="HxW, default %(default)s")
    part.add_argument("--frames", type=int, default=40, help="default %(default)s")
    whole = parts.add_parser("fit", help="a fitting step of views")
    whole.add_argument("family", type=Path)
    whole.add_argument("--limit", type=int, help="first scenes only")
    whole.add_argument("--size", help="HxW of the pictures, default: as they are")
    whole.add_argument("--steps", type=int, default=60, help="that are timed, default %(default)s")
    whole.add_argument("--warm-up", type=int, default=bench_fit.WARM_UP, help="steps before them, default %(default)s")
    whole.add_argument("--profile", action="store_true", help="say where a step's time goes")
    whole.add_argument("--no-plain", action="store_true", help="leave the step in plain torch out: it is slow")
    shares = parts.add_parser("serial", help="what of a step is on one thread")
    shares.add_argument("families", type=Path, nargs="*", help="default: the sample images, shapes and views")
    shares.add_argument("--rounds", type=int, default=9, help="default %(default)s, with 1 and 2 threads in turns")
    shares.add_argument("--steps", type=int, default=40, help="of a round, default %(default)s")
    growth = parts.add_parser("scale", help="many scenes, imports, a second start")
    growth.add_argument("family", type=Path, help="any family, packed or not, for its batches and the second start")
    growth.add_argument("--rounds", type=int, default=25, help="of steps, default %(default)s")
    growth.add_argument("--steps", type=int, default=20, help="of a round, default %(default)s")
    growth.add_argument("--counts", default="100,10000,1000000", help="numbers of scenes, default %(default)s")
    growth.add_argument("--parts", default=",".join(bench_scale.PARTS), help="some of %(default)s, default: all")
    lots = parts.add_parser("many", help="bases from a part")
    lots.add_argument("family", choices=bench_many.FAMILIES)
    lots.add_argument("--scenes", type=int, default=20_000, help="default %(default)s")
    lots.add_argument("--bases-from", type=int, default=2_000, help="default %(default)s")
    lots.add_argument("--minutes", type=float, help="of the bases' fit, default 30, unless there are --steps")
    lots.add_argument("--steps", type=int, help="of the bases' fit")
    lots.add_argument("--visits", default=str(bench_many.fitting.VISITS), help="of each code, default %(default)s")
    two = parts.add_parser("beside", help="two fits at once")
    two.add_argument("--seconds", type=float, default=12.0, help="of each measurement, default %(default)s")
    singles = parts.add_parser("singles", help="every scene by itself")
    singles.add_argument("family", type=Path)
    singles.add_argument("--seeds", type=int, default=1, help="default %(default)s: seed 0 alone")
    singles.add_argument("--steps", type=int, default=300, help="of each fit, default %(default)s")
    singles.add_argument("--preset", default="default", help="default %(default)s")
    singles.add_argument("--limit", type=int, help="first scenes only")
    behind = parts.add_parser("backgrounds", help="pictures without alpha beside those with it")
    behind.add_argument("family", type=Path, help="of views with alpha")
    behind.add_argument("--scenes", help="A,B,C, default: all")
    behind.add_argument("--seeds", type=int, default=1, help="default %(default)s: seed 0 alone")
    behind.add_argument("--steps", type=int, default=300, help="of each fit, default %(default)s")
    behind.add_argument("--preset", default="default", help="default %(default)s")
    behind.add_argument("--colors", default=",".join(bench_backgrounds.COLORS), help="default %(default)s")
    reads = parts.add_parser("reading", help="pictures a second that are read")
    reads.add_argument("family", type=Path, help="of views")
    reads.add_argument("--size", help="HxW of the pictures, default: as they are")
    reads.add_argument("--rounds", type=int, default=3, help="default %(default)s, the fastest counts")
    reads.add_argument("--memory", type=int, help="MB of pictures that stay in memory, default 2048")
    for one in (kernels, part, whole, shares, growth, lots, two, singles, behind, reads):
        one.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    result: object
    if options.what == "ops":
        rows = bench_ops.hash_encode(options.rounds) + bench_ops.batched_mlp(options.rounds)
        print_ops(rows)
        result = [row._asdict() for row in rows]
    elif options.what == "fit":
        size = sides(options.size) if options.size else None
        try:
            result = bench_fit.fit_step(
                options.family, options.limit, size, options.steps, options.warm_up, not options.no_plain
            )
        except InputError as error:
            parser.exit(2, f"error: {error}\n")
        bench_fit.print_fit(result, options.profile)
    elif options.what == "serial":
        result = bench_serial.serial(options.families, options.rounds, options.steps)
    elif options.what == "beside":
        result = bench_beside.beside(options.seconds)
    elif options.what == "many":
        minutes = 30.0 if options.minutes is None and options.steps is None else options.minutes
        visits = [int(number) for number in options.visits.split(",")]
        result = bench_many.many(options.family, options.scenes, options.bases_from, minutes, options.steps, visits)
        print(json.dumps(result, indent=1))
    elif options.what == "singles":
        result = bench_singles.singles(options.family, options.seeds, options.steps, options.preset, options.limit)
    elif options.what == "backgrounds":
        names = options.scenes.split(",") if options.scenes else None
        colors = options.colors.split(",")
        try:
            result = bench_backgrounds.backgrounds(
                options.family, names, options.seeds, options.steps, options.preset, colors
            )
        except InputError as error:
            parser.exit(2, f"error: {error}\n")
    elif options.what == "reading":
        size = sides(options.size) if options.size else None
        memory = None if options.memory is None else options.memory * 2**20
        try:
            result = bench_reading.reading(options.family, size, options.rounds, memory)
        except InputError as error:
            parser.exit(2, f"error: {error}\n")
        bench_reading.print_reading(result)
    elif options.what == "scale":
        chosen = options.parts.split(",")
        if unknown := set(chosen) - set(bench_scale.PARTS):
            parser.error(f"--parts {','.join(sorted(unknown))}: wanted some of {','.join(bench_scale.PARTS)}")
        counts = sorted(int(number) for number in options.counts.split(","))
        result = bench_scale.scale(options.family, max(options.rounds, 2), options.steps, counts, chosen)
        bench_scale.print_scale(result)
    else:
        height, width = sides(options.size)
        try:
            shown = render(options.run, options.scene, (height, width), options.frames)
        except InputError as error:
            parser.exit(2, f"error: {error}\n")
        print(
            f"{shown['scene']} at {options.size}: {shown['mean_frames_per_second']:.1f} frames a second over "
            f"{options.frames} frames on {shown['threads']} threads, "
            f"the first picture after {shown['first_picture_seconds']:.2f} s"
        )
        result = shown
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
