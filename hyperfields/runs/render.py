"""Pictures, animations, walks through latent space and files of single scenes, from runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from hyperfields.cameras import Film, read_camera_path
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import Channel, require_channel
from hyperfields.runs.atomic import new_folder, require_suffix
from hyperfields.runs.cameras import native_size, orbit_cameras, picture_size, spiral_cameras
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import write_mesh
from hyperfields.runs.morphs import MorphKind, Walk
from hyperfields.runs.scene import Scene
from hyperfields.runs.timing import Timing, timed_places
from hyperfields.runs.video import ANIMATION_SUFFIXES, write_animation
from hyperfields.tasks.base import MESH_RESOLUTION

FRAMES = 48  # of an animation for which no number was given
FPS = 24.0

T = TypeVar("T")
OnFrame = Callable[[int, int], None]  # (frames done, frames in all)


def render_scene(
    scene: Scene,
    out: str | Path,
    *,
    path: str | Path | Film | None = None,
    frames: int | None = None,
    orbit: int | None = None,
    size: int | tuple[int, int] | None = None,
    channel: Channel = "rgb",
    progress: OnFrame | None = None,
    note: Callable[[str], object] = lambda line: None,
) -> None:
    """Write a scene as a picture, or as a film from a camera that moves.

    Args:
        out: picture from the front left (.png, .jpg, .webp); film of shapes and views (.gif, .mp4), or with a path a
            new folder (no suffix) of frame_0000.png and so on.
        path: "orbit", a circle round the scene, the default; "spiral", about the view from the front left; a file of
            nerfstudio's camera paths, whose poses are those of the capture; or a `Film`.
        frames: of an orbit or a spiral, default 48.
        orbit: frames of an orbit: `path="orbit"` and `frames` in one.
        size: (height, width) or one number, default as fitted, or as the file of the path says.
        note: called with a line about how poses of a file were taken.

    Raises:
        InputError: a suffix, a path or a channel that this kind cannot give; a file that cannot be read or written.
    """
    run, task, out = scene.run, scene.run.task, Path(out)
    filmed = path is not None or orbit is not None or frames is not None
    folder = filmed and task.has_camera and not out.suffix
    still = False
    if not folder:
        suffixes = IMAGE_SUFFIXES + (ANIMATION_SUFFIXES if task.has_camera else ())
        still = require_suffix(out, suffixes, f"a rendering of {run.kind}") in IMAGE_SUFFIXES
    if orbit is not None and (path is not None or frames is not None):
        raise InputError(
            f"--orbit {orbit}: is --path orbit --frames {orbit} in one; leave it out beside --path, --frames"
        )
    if filmed and (still or not task.has_camera):
        given = f"--orbit {orbit}" if orbit is not None else f"--path {path or 'orbit'}"
        todo = "use a .gif or .mp4, or a folder without suffix" if task.has_camera else "leave it out"
        raise InputError(f"{given}: no camera circles {run.kind} into {out}; {todo}")
    count = frames if frames is not None else orbit if orbit is not None else FRAMES
    if count < 1:
        raise InputError(f"{'--orbit' if orbit is not None else '--frames'} {count}: wanted at least 1 frame")
    require_channel(channel, task.channels)
    if still or not task.has_camera:
        pixels = native_size(run) if size is None else picture_size(size)
        picture = task.picture(scene.field, orbit_cameras(run, 1, pixels)[0], pixels, channel)
        if progress is not None:
            progress(1, 1)
        write_image(out, picture)
        return
    film = _film(scene, path or "orbit", frames, count, size)
    if film.note is not None:
        note(film.note)
    pictures = (task.picture(scene.field, camera, (camera.height, camera.width), channel) for camera in film.cameras)
    counted = _counted(pictures, len(film.cameras), progress)
    if not folder:
        write_animation(out, counted, film.fps)
        return
    with new_folder(out) as made:
        for number, picture in enumerate(counted):
            write_image(made / f"frame_{number:04d}.png", picture)


def _film(
    scene: Scene, path: str | Path | Film, frames: int | None, count: int, size: int | tuple[int, int] | None
) -> Film:
    """The cameras of a path, in the frame of the scene's box."""
    pixels = None if size is None else picture_size(size)
    if path in ("orbit", "spiral"):
        made = orbit_cameras if path == "orbit" else spiral_cameras
        return Film(made(scene.run, count, pixels or native_size(scene.run)), FPS)
    if frames is not None:
        raise InputError(f"--frames {frames}: is of an orbit or a spiral, {path} has its own; leave it out")
    if isinstance(path, Film):
        film = path
        if pixels is not None:
            film = film._replace(cameras=[camera.resized(*pixels) for camera in film.cameras])
    elif not Path(path).exists():
        raise InputError(f"{path}: not readable as a camera path: not there; wanted orbit, spiral or a file of paths")
    else:
        film = read_camera_path(Path(path), pixels)
    frame = scene.frame
    if not film.in_box and frame is None and scene.run.config.picture.get("frames"):  # which others of its run have
        note = f"{path}: its poses are taken in the frame of the scene box, since {scene.name!r:.100} is of no capture"
        return film._replace(note=note)
    if film.in_box or frame is None:
        return film._replace(note=None)
    moved = [camera.into((frame[0], frame[1], frame[2], frame[3])) for camera in film.cameras]
    return film._replace(cameras=moved, in_box=True)


@torch.no_grad()
def interpolate_run(
    scenes: Sequence[Scene],
    out: str | Path,
    *,
    frames: int = FRAMES,
    morph: MorphKind = "moved",
    mode: str | None = None,
    timing: Timing = "even",
    orbit: bool = False,
    size: int | tuple[int, int] | None = None,
    resolution: int = MESH_RESOLUTION,
    looks: OnFrame | None = None,
    progress: OnFrame | None = None,
) -> None:
    """Walk from scene to scene of one run, ends included.

    Args:
        out: an animation (.gif, .mp4), or a new folder (no suffix) of frame_000.png and so on, meshes
            (frame_000.ply), in the coordinates of files, for shapes.
        morph: "moved", what scenes have in common is carried from one to the next, see `Morph`; "codes", the scenes of
            codes on a path through theirs.
        mode: of that path, "lerp", "slerp" or "smooth", see `codes.interpolate`.
        timing: "even" or "linear", see `timed_places`.
        orbit: let the camera circle once meanwhile.
        size: (height, width) or one number, default as fitted.
        resolution: of meshes, cells a side.
        looks: called as (done, in all) while even timing looks how much changes where, before the first frame.
        progress: called as (frames done, frames in all).

    Raises:
        InputError: a suffix or an orbit that this kind cannot give; too few scenes or frames; a folder that
            is not empty; a file that cannot be written.

    Warns:
        UserWarning: frames of meshes without a surface, which are empty files.
    """
    out = Path(out)
    animated = out.suffix.lower() in ANIMATION_SUFFIXES
    if not animated and out.suffix:
        raise InputError(f"{out}: suffix {out.suffix} cannot hold a walk; use .gif, .mp4 or a folder")
    walk = Walk(scenes, morph, mode)
    run, task = walk.run, walk.run.task
    as_meshes = task.has_mesh and not task.sized and not animated  # data without pictures are walked as meshes
    if orbit and (as_meshes or not task.has_camera):
        what = "meshes" if as_meshes else run.kind
        raise InputError(f"--orbit: no camera circles {what} into {out}; leave it out")
    if as_meshes and size is not None:
        raise InputError(f"size {size}: is of pictures, and {out} gets meshes; leave it out, or use a .gif or .mp4")
    if not isinstance(frames, int):
        raise InputError(f"--frames {frames!r:.60}: wanted a whole number")
    if frames < 2:
        raise InputError(f"--frames {frames}: wanted at least 2")
    size = native_size(run) if size is None else picture_size(size)
    cameras = orbit_cameras(run, frames, size) if orbit else orbit_cameras(run, 1, size) * frames
    if animated:
        require_suffix(out, ANIMATION_SUFFIXES, "a walk")  # before the places are looked for, which is long
        bounds = map(walk.at, timed_places(walk, frames, timing, progress=looks))
        pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
        write_animation(out, _counted(pictures, frames, progress), FPS)
        return
    bare: list[int] = []  # frames without a surface
    with new_folder(out) as folder:
        places = timed_places(walk, frames, timing, progress=looks)
        if as_meshes:
            meshes = (walk.mesh(place, resolution) for place in places)
            for number, mesh in enumerate(_counted(meshes, frames, progress)):
                bare += [number] * (len(mesh.faces) == 0)
                write_mesh(folder / f"frame_{number:03d}.ply", mesh)
        else:
            pictures = (task.picture(walk.at(p), c, size) for p, c in zip(places, cameras, strict=True))
            for number, picture in enumerate(_counted(pictures, frames, progress)):
                write_image(folder / f"frame_{number:03d}.png", picture)
    if bare:
        frames_text = ", ".join(map(str, bare[:5])) + (", ..." if len(bare) > 5 else "")
        warnings.warn(f"{out}: no surface in the box in {len(bare)} of {frames} frames ({frames_text})", stacklevel=2)


def _counted(items: Iterator[T], total: int, progress: OnFrame | None) -> Iterator[T]:
    for number, item in enumerate(items):
        yield item
        if progress is not None:
            progress(number + 1, total)
