"""The verb `poses`: photographs or a video in, a capture that `fit` reads out."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from hyperfields.cli.common import Stopped, Unsound, next_line
from hyperfields.cli.options import QUIET, Count, Flag

LARGE = 800  # pixels of the longer side that a first fit needs no more of


def poses(
    photos: Positional[
        Annotated[Path, arg(metavar="PHOTOS", help_behavior_hint=QUIET, help="folder of photographs, or a video.")]
    ],
    *,
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")],
    cameras: Annotated[Literal["one", "each", "folder"] | None, arg(help_behavior_hint=QUIET)] = None,
    lens: Annotated[
        Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"]
        | None,
        arg(help_behavior_hint=QUIET),
    ] = None,
    frames: Count = None,
    feature_size: Count = None,
    matching: Annotated[Literal["exhaustive", "sequential"] | None, arg(help_behavior_hint=QUIET)] = None,
    resume: Flag = False,
) -> None:
    """Find the cameras of photographs or of a video, and write a folder that fit reads.

    Walk round the thing and take 30 photographs or more, each overlapping the next by two thirds. Ctrl-C or SIGTERM
    stops and keeps what was computed. Exit code 1: no cameras that can be used were found; the text says why.

    $ hyperfields poses photos --out captures/fox
    $ hyperfields poses walk.mp4 --out captures/fox --frames 80
    $ hyperfields poses photos --out captures/fox --resume
    $ hyperfields fit captures/fox --out runs/fox

    Args:
        out: new folder for the capture: transforms.json, upright images, points, COLMAP's model, drawings of the
            cameras, and poses.json, which says all about each photograph.
        cameras: one, all photographs of a size are by one camera (default); each, a camera for each; folder, one for
            each folder below.
        lens: COLMAP's camera model; default: OPENCV for 12 photographs or more by a camera, else SIMPLE_RADIAL.
        frames: number of frames of a video to use, the sharpest of each stretch of time; default: 60.
        feature_size: pixels of the longer side at which features are found; default: 1600.
        matching: exhaustive, all pairs; sequential, neighbours by name and some others; default: sequential for a video
            with more than 60 frames and for more than 150 photographs.
        resume: go on with what was begun in DIR, also with photographs that came since.
    """
    from hyperfields.scenes.poses import find_poses, text_of
    from hyperfields.training.interrupt import Terminated, between_steps
    from hyperfields.training.progress import Stages

    def show(stage: str, done: int, total: int, name: str) -> None:
        stages.at(stage).count(done, total, name)
        stop_if_asked()

    again = shlex.join(["hyperfields", "poses", str(photos), "--out", str(out), "--resume"])
    try:
        with Stages() as stages, between_steps() as stop_if_asked:
            found = find_poses(
                photos, out, cameras=cameras, lens=lens, frames=frames, feature_size=feature_size, matching=matching,
                resume=resume, progress=show,
            )  # fmt: skip
    except (KeyboardInterrupt, Terminated) as stopped:
        code = 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
        raise Stopped(f"stopped; go on with: {again}", code) from None
    if text := text_of(found):
        print(text)
    if not found.posed:
        raise Unsound(f"{photos}: {found.wrong}; each photograph is described in {out / 'poses.json'}")
    print(f"wrote {out}: transforms.json, images, points.ply, sparse/0, poses.json; look at {out / 'cameras.html'}")
    if found.wrong:
        raise Unsound(f"{photos}: {found.wrong}")
    print(next_line("fit", out, "--out", f"runs/{out.resolve().name}", *_smaller(out)))


def _smaller(out: Path) -> list[str]:
    """Options that make large photographs smaller, as fits take as long as there are pixels."""
    from json import loads

    content = loads((out / "transforms.json").read_text())
    height, width = content.get("h", 0), content.get("w", 0)  # of all, where there is one camera
    longest = max(height, width)
    if longest <= LARGE:
        return []
    return ["--size", f"{round(height * LARGE / longest)}x{round(width * LARGE / longest)}"]
