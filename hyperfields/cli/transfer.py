"""The verb `transfer`: colours, or marked points, of one scene on another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.common import frames_shown, load
from hyperfields.cli.options import QUIET, Count, File, RunPath, Size, parse_size
from hyperfields.errors import InputError

_SOURCE = arg(metavar="FROM", help_behavior_hint=QUIET, help='scene that is transferred, or a sum, "A - B + C".')
_TARGET = arg(metavar="TO", help_behavior_hint=QUIET, help="scene that it is transferred to.")


def transfer(
    run: RunPath,
    source: Positional[Annotated[str, _SOURCE]],
    target: Positional[Annotated[str, _TARGET]],
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="(required)")],
    points: File = None,
    codes: File = None,
    orbit: Count = None,
    size: Size = None,
) -> None:
    """Paint a scene with the colours of another, or find marked points of one on the other.

    $ hyperfields transfer runs/cars taxi bus --out bus_as_taxi.png
    $ hyperfields transfer runs/cars taxi bus --out bus_as_taxi.gif --orbit 48
    $ hyperfields transfer runs/shapes taxi bus --points taxi.txt --out bus.txt

    Args:
        out: .png, .jpg or .webp, or with --orbit .gif or .mp4; with --points a text file, .txt or .csv.
        points: text file with a point of FROM a line, numbers with spaces or commas between them: x y of images, from 0
            to 1, y down; x y z of others, in the coordinates of the scene's file. Lines that begin with # are comments.
        codes: file of codes written by infer, of whose scenes both are.
        orbit: frames of a film from a circle round the scene.
        size: height and width of the pictures; default: as fitted.
    """
    from hyperfields.runs.inferred import load_codes
    from hyperfields.runs.marks import carry_marks
    from hyperfields.runs.morphs import Morph
    from hyperfields.runs.render import render_scene
    from hyperfields.training.progress import Meter

    if points is not None and (orbit is not None or size is not None):
        raise InputError("--points: gives points and no picture; leave --orbit and --size out")
    loaded = load(run)
    scenes = loaded if codes is None else load_codes(codes, loaded)
    first, second = scenes[source], scenes[target]
    if points is not None:
        count = carry_marks(first, second, points, out)
        print(f"wrote {out}: {count} point{'s' * (count != 1)}")
        return
    painted = Morph(first, second).painted()
    with Meter("transfer") as meter:
        render_scene(painted, out, orbit=orbit, size=parse_size(size), progress=frames_shown(meter))
    print(f"wrote {out}")
