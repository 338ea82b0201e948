"""Cameras of a run's training pictures, and what they see: `hyperfields export --cameras`, `--points`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperfields.cli.common import data_of, has_data, one_scene, write_json
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.cameras import Camera
    from hyperfields.data import SceneDataset
    from hyperfields.runs.run import Run
    from hyperfields.runs.scene import Scene


def export_cameras(run: Run, scene: str | None, out: Path, family: Path | None) -> None:
    """Write the cameras of a scene's training pictures, corrected as in the fit, in the coordinates of its files."""
    from hyperfields.data import frames_of
    from hyperfields.data.base import IDENTITY
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.scenes._write import transforms

    require_suffix(out, (".json",), "cameras")
    shown, data, cameras, files = _cameras_of(run, scene, family, "--cameras")
    corrected = "poses" in run.photographs
    frame = frames_of(data).get(shown.name, IDENTITY)
    write_json(out, transforms(cameras, files, frame))
    how = "corrected in the fit" if corrected else "as in the family; fit --refine-poses corrects them"
    print(f"wrote {out}: {len(cameras)} cameras, {how}")


def export_points(run: Run, scene: str | None, out: Path, family: Path | None, count: int) -> None:
    """Write where rays of a scene's training cameras end, in the coordinates of its files."""
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.points import point_cloud, write_points
    from hyperfields.training.progress import Meter

    require_suffix(out, (".ply",), "points")
    shown, _, cameras, _ = _cameras_of(run, scene, family, "--points")
    with Meter("points") as meter:
        cloud = point_cloud(shown, cameras, count, progress=lambda done, total: meter.count(done, total, "cameras"))
    write_points(out, cloud)
    print(f"wrote {out}: {len(cloud.points):,} points, {out.stat().st_size / 1e6:,.1f} MB")


def mesh_cameras(run: Run, scene: Scene, family: Path | None) -> list[Camera]:
    """The cameras of a scene's training pictures, which its mesh does not go beyond; none where they are not there."""
    reason = "the family is not there"
    if family is None and not scene.fitted:  # there are no pictures of a sum
        return []
    if family is not None:
        return _cameras_of(run, scene.name, family, "--family")[2]
    if has_data(run):
        try:
            return _cameras_of(run, scene.name, None, "--family")[2]
        except InputError as error:
            reason = str(error)
    print(f"mesh: what none of the pictures shows may be in it ({reason}); give the pictures with --family")
    return []


def _cameras_of(
    run: Run, scene: str | None, family: Path | None, option: str
) -> tuple[Scene, SceneDataset, list[Camera], list[str]]:
    """(scene, its data, the cameras of its training pictures as the fit corrected them, their files)."""
    from hyperfields.data import picture_files, training_cameras
    from hyperfields.tasks.alignment import corrected

    shown = one_scene(run, scene or (run.names[0] if len(run.names) == 1 else None), None)
    if not shown.fitted:
        raise InputError(f"{option}: scene {shown.name!r:.100} is a sum of codes, of which there are no pictures")
    data = data_of(run, family)
    posed, files = training_cameras(data), picture_files(data)
    if not posed:
        raise InputError(f"{run.label}: its {run.kind} have no cameras of their own; leave {option} out")
    place = list(data.names).index(shown.name)
    first = sum(map(len, posed[:place]))
    cameras, changes = list(posed[place]), run.photographs.get("poses")
    if changes is not None:
        total = sum(map(len, posed))
        if len(changes) != total:
            raise InputError(
                f"{run.label}: corrected {len(changes)} poses, but the family has {total} training pictures; give the "
                "one that was fitted with --family"
            )
        cameras = [corrected(camera, changes[first + number]) for number, camera in enumerate(cameras)]
    return shown, data, cameras, list(files[place])
