"""Pictures, animations, walks through latent space and files of single scenes, from runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from hyperfields.codes import interpolate
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import Channel, require_channel
from hyperfields.runs.atomic import new_folder, require_suffix
from hyperfields.runs.cameras import native_size, orbit_cameras, picture_size
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import write_mesh
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene
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
    orbit: int | None = None,
    size: int | tuple[int, int] | None = None,
    channel: Channel = "rgb",
    progress: OnFrame | None = None,
) -> None:
    """Write a scene as a picture, or as an animation from a camera that circles it.

    Args:
        out: picture from the front left (.png, .jpg, .webp), or animation (.gif, .mp4; shapes and views).
        orbit: frames of the animation, default 48.
        size: (height, width) or one number, default as fitted.

    Raises:
        InputError: a suffix, an orbit or a channel that this kind cannot give; a file that cannot be written.
    """
    run, task, out = scene.run, scene.run.task, Path(out)
    suffixes = IMAGE_SUFFIXES + (ANIMATION_SUFFIXES if task.has_camera else ())
    suffix = require_suffix(out, suffixes, f"a rendering of {run.kind}")
    still = suffix in IMAGE_SUFFIXES
    if orbit is not None and (still or orbit < 1):
        todo = "use a .gif or .mp4 and at least 1 frame" if task.has_camera else "leave it out"
        raise InputError(f"--orbit {orbit}: no camera circles {run.kind} into {out}; {todo}")
    size = native_size(run) if size is None else picture_size(size)
    require_channel(channel, task.channels)
    frames = 1 if still else orbit or FRAMES
    cameras = orbit_cameras(run, frames, size)
    pictures = _counted((task.picture(scene.field, camera, size, channel) for camera in cameras), frames, progress)
    if still:
        write_image(out, next(pictures))
    else:
        write_animation(out, pictures, FPS)


@torch.no_grad()
def interpolate_run(
    run: Run,
    codes: Tensor,
    out: str | Path,
    *,
    frames: int = FRAMES,
    mode: str = "lerp",
    orbit: bool = False,
    size: int | tuple[int, int] | None = None,
    resolution: int = MESH_RESOLUTION,
    progress: OnFrame | None = None,
) -> None:
    """Walk through latent space along `codes` `[c z]`, ends included.

    Args:
        out: an animation (.gif, .mp4), or a new folder (no suffix) of frame_000.png and so on, meshes
            (frame_000.ply) for shapes.
        mode: "lerp" or "slerp".
        orbit: let the camera circle once meanwhile.
        size: (height, width) or one number, default as fitted.
        resolution: of meshes, cells a side.

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
    task = run.task
    as_meshes = task.has_mesh and not task.sized and not animated  # data without pictures are walked as meshes
    if orbit and (as_meshes or not task.has_camera):
        what = "meshes" if as_meshes else run.kind
        raise InputError(f"--orbit: no camera circles {what} into {out}; leave it out")
    if len(codes) < 2 or frames < 2:
        raise InputError(f"interpolate: got {len(codes)} scenes and {frames} frames, wanted at least 2 of each")
    size = native_size(run) if size is None else picture_size(size)
    path = interpolate(codes, frames, mode)
    cameras = orbit_cameras(run, frames, size) if orbit else orbit_cameras(run, 1, size) * frames
    bounds = (run.model.bind(code[None]) for code in path)
    if animated:
        require_suffix(out, ANIMATION_SUFFIXES, "a walk")
        pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
        write_animation(out, _counted(pictures, frames, progress), FPS)
        return
    bare: list[int] = []  # frames without a surface
    with new_folder(out) as folder:
        if as_meshes:
            for number, mesh in enumerate(
                _counted((task.mesh(bound, resolution) for bound in bounds), frames, progress)
            ):
                bare += [number] * (len(mesh.faces) == 0)
                write_mesh(folder / f"frame_{number:03d}.ply", mesh)
        else:
            pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
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
