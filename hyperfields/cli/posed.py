"""Cameras of a run's training pictures as a file: what `hyperfields export --cameras` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperfields.cli.common import data_of, one_scene, write_json
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.runs.run import Run


def export_cameras(run: Run, scene: str | None, out: Path, family: Path | None) -> None:
    """Write the cameras of a scene's training pictures, corrected as in the fit, in the coordinates of its files."""
    from hyperfields.data import frames_of, picture_files, training_cameras
    from hyperfields.data.base import IDENTITY
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.scenes._write import transforms
    from hyperfields.tasks.alignment import corrected

    require_suffix(out, (".json",), "cameras")
    name = one_scene(run, scene or (run.names[0] if len(run.names) == 1 else None), None).name
    data = data_of(run, family)
    posed, files = training_cameras(data), picture_files(data)
    if not posed:
        raise InputError(f"{run.label}: its {run.kind} have no cameras of their own; leave --cameras out")
    place = list(data.names).index(name)
    first = sum(map(len, posed[:place]))
    cameras, changes = posed[place], run.photographs.get("poses")
    if changes is not None:
        total = sum(map(len, posed))
        if len(changes) != total:
            raise InputError(
                f"{run.label}: corrected {len(changes)} poses, but the family has {total} training pictures; give the "
                "one that was fitted with --family"
            )
        cameras = [corrected(camera, changes[first + number]) for number, camera in enumerate(cameras)]
    frame = frames_of(data).get(name, IDENTITY)
    write_json(out, transforms(cameras, files[place], frame))
    how = "corrected in the fit" if changes is not None else "as in the family; fit --refine-poses corrects them"
    print(f"wrote {out}: {len(cameras)} cameras, {how}")
