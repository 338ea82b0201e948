"""Pictures, animations, walks through latent space and files of single scenes, from runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.cameras import orbit as orbit_path
from hyperfields.codes import interpolate
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import Channel, require_channel
from hyperfields.runs.atomic import new_folder, require_suffix
from hyperfields.runs.field_file import write_field
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import MESH_SUFFIXES, write_mesh
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene
from hyperfields.runs.video import ANIMATION_SUFFIXES, write_animation
from hyperfields.tasks.base import MESH_RESOLUTION

FRAMES = 48  # of an animation for which no number was given
FPS = 24.0
START = math.radians(-135.0)  # azimuth of the first camera: from the front left, as fronts look towards -Y
RADIUS, ELEVATION, FOV = 3.6, math.radians(25.0), 0.6911112  # of cameras without pictures; a longest side is 1.8
SIZE = (256, 256)  # of pictures of scenes that were not fitted to pictures
FIELD_SUFFIX = ".safetensors"

T = TypeVar("T")
Format = Callable[[Scene, Path], None]
OnFrame = Callable[[int, int], None]  # (frames done, frames in all)


def render_scene(
    scene: Scene,
    out: Path,
    *,
    orbit: int | None = None,
    size: tuple[int, int] | None = None,
    channel: Channel = "rgb",
    progress: OnFrame | None = None,
) -> None:
    """Write a scene as a picture, or as an animation from a camera that circles it.

    Args:
        out: picture from the front left (.png, .jpg, .webp), or animation (.gif, .mp4; shapes and views).
        orbit: frames of the animation, default 48.
        size: (height, width), default as fitted.

    Raises:
        InputError: a suffix, an orbit or a channel that this kind cannot give; a file that cannot be written.
    """
    run, task = scene.run, scene.run.task
    suffixes = IMAGE_SUFFIXES + (ANIMATION_SUFFIXES if task.has_camera else ())
    suffix = require_suffix(out, suffixes, f"a rendering of {run.kind}")
    still = suffix in IMAGE_SUFFIXES
    if orbit is not None and (still or orbit < 1):
        todo = "use a .gif or .mp4 and at least 1 frame" if task.has_camera else "leave it out"
        raise InputError(f"--orbit {orbit}: no camera circles {run.kind} into {out}; {todo}")
    size = size or native_size(run)
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
    out: Path,
    *,
    frames: int = FRAMES,
    mode: str = "lerp",
    orbit: bool = False,
    size: tuple[int, int] | None = None,
    resolution: int = MESH_RESOLUTION,
    progress: OnFrame | None = None,
) -> None:
    """Walk through latent space along `codes` `[c z]`, ends included.

    Args:
        out: an animation (.gif, .mp4), or a new folder (no suffix) of frame_000.png and so on, meshes
            (frame_000.ply) for shapes.
        mode: "lerp" or "slerp".
        orbit: let the camera circle once meanwhile.
        size: (height, width), default as fitted.
        resolution: of meshes, cells a side.

    Raises:
        InputError: a suffix or an orbit that this kind cannot give; too few scenes or frames; a folder that
            is not empty; a file that cannot be written.
    """
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
    size = size or native_size(run)
    path = interpolate(codes, frames, mode)
    cameras = orbit_cameras(run, frames, size) if orbit else orbit_cameras(run, 1, size) * frames
    bounds = (run.model.bind(code[None]) for code in path)
    if animated:
        require_suffix(out, ANIMATION_SUFFIXES, "a walk")
        pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
        write_animation(out, _counted(pictures, frames, progress), FPS)
        return
    with new_folder(out) as folder:
        if as_meshes:
            for number, mesh in enumerate(
                _counted((task.mesh(bound, resolution) for bound in bounds), frames, progress)
            ):
                write_mesh(folder / f"frame_{number:03d}.ply", mesh)
        else:
            pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
            for number, picture in enumerate(_counted(pictures, frames, progress)):
                write_image(folder / f"frame_{number:03d}.png", picture)


def export_scene(
    scene: Scene, out: Path, *, resolution: int = MESH_RESOLUTION, formats: Mapping[str, Format] | None = None
) -> None:
    """Write one scene as a file that needs nothing of the run.

    Every kind gives a picture (.png, .jpg, .webp) and the field alone (.safetensors), which `load_field` reads; shapes,
    in the frame of their file, and radiance also a mesh (.ply, .obj, .glb, .stl).

    Args:
        resolution: of a mesh, cells a side.
        formats: more of them, suffix -> a callable that writes a scene to a path; they win over ours.

    Raises:
        InputError: a suffix that this kind cannot give, or a file that cannot be written.
    """
    run, task, more = scene.run, scene.run.task, dict(formats or {})
    meshes = MESH_SUFFIXES if task.has_mesh else ()
    allowed = dict.fromkeys((*IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX, *more))
    suffix = require_suffix(out, tuple(allowed), f"a scene of {run.kind}")
    if suffix in more:
        more[suffix](scene, out)
    elif suffix == FIELD_SUFFIX:
        picture = {key: value for key, value in run.config.picture.items() if key != "frames"}
        if scene.frame is not None:
            picture["frames"] = {scene.name: scene.frame}
        write_field(out, scene.field, {"name": scene.name, "kind": run.kind, "picture": picture})
    elif suffix in meshes:
        write_mesh(out, scene.mesh(resolution))
    else:
        write_image(out, scene.render())


def native_size(run: Run) -> tuple[int, int]:
    """(height, width) of the pictures that a run was fitted to, or a choice for scenes without pictures."""
    height, width = run.config.picture.get("size", SIZE)
    return int(height), int(width)


def orbit_cameras(run: Run, frames: int, size: tuple[int, int]) -> list[Camera]:
    """`frames` cameras on a circle round the scenes of a run; the first looks from the front left.

    Distance, height and field of view are those of the pictures that a run of views was fitted to.
    """
    picture = run.config.picture
    return orbit_path(
        frames,
        radius=picture.get("radius", RADIUS),
        elevation=picture.get("elevation", ELEVATION),
        up=picture.get("up", (0.0, 0.0, 1.0)),
        fov=picture.get("fov", FOV),
        start=START,
        height=size[0],
        width=size[1],
    )


def _counted(items: Iterator[T], total: int, progress: OnFrame | None) -> Iterator[T]:
    for number, item in enumerate(items):
        yield item
        if progress is not None:
            progress(number + 1, total)
