"""What a run can be turned into: pictures, animations, walks through latent space, files of single scenes."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.cameras import orbit as orbit_path
from hyperfields.codes.table import interpolate
from hyperfields.errors import InputError
from hyperfields.model import BoundField
from hyperfields.rendering.pictures import Channel, require_channel
from hyperfields.runs import export
from hyperfields.runs.checkpoint import Run, write_field
from hyperfields.tasks import task_of
from hyperfields.tasks.base import MESH_RESOLUTION

FRAMES = 48  # of an animation for which no number was given
FPS = 24.0
START = math.radians(-135.0)  # azimuth of the first camera: from the front left, as fronts look towards -Y
RADIUS, ELEVATION, FOV = 3.6, math.radians(25.0), 0.6911112  # of cameras without pictures; a longest side is 1.8
SIZE = (256, 256)  # of pictures of scenes that were not fitted to pictures
FIELD_SUFFIX = ".safetensors"

T = TypeVar("T")
Report = Callable[[int, int], None]  # (frames done, frames in all)


def render_run(
    run: Run,
    codes: Tensor,
    out: Path,
    *,
    orbit: int | None = None,
    size: tuple[int, int] | None = None,
    channel: Channel = "rgb",
    report: Report | None = None,
) -> None:
    """Write a scene as a picture, or as an animation from a camera that circles it.

    Args:
        codes: `[1 z]`.
        out: picture from the front left (.png, .jpg, .webp), or animation (.gif, .mp4; shapes and views).
        orbit: frames of the animation, default 48.
        size: (height, width), default as fitted.

    Raises:
        InputError: a suffix, an orbit or a channel that this kind cannot give; a file that cannot be written.
    """
    task = task_of(run.kind)
    suffixes = export.IMAGE_SUFFIXES + (export.ANIMATION_SUFFIXES if task.has_camera else ())
    suffix = export.require_suffix(out, suffixes, f"a rendering of {run.kind}")
    still = suffix in export.IMAGE_SUFFIXES
    if orbit is not None and (still or orbit < 1):
        todo = "use a .gif or .mp4 and at least 1 frame" if task.has_camera else "leave it out"
        raise InputError(f"--orbit {orbit}: no camera circles {run.kind} into {out}; {todo}")
    size = size or native_size(run)
    bound = bind(run, codes)
    require_channel(channel, task.channels)
    frames = 1 if still else orbit or FRAMES
    cameras = orbit_cameras(run, frames, size)
    pictures = _counted((task.picture(bound, camera, size, channel) for camera in cameras), frames, report)
    if still:
        export.write_image(out, next(pictures))
    else:
        export.write_animation(out, pictures, FPS)


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
    report: Report | None = None,
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
    animated = out.suffix.lower() in export.ANIMATION_SUFFIXES
    if not animated and out.suffix:
        raise InputError(f"{out}: suffix {out.suffix} cannot hold a walk; use .gif, .mp4 or a folder")
    task = task_of(run.kind)
    as_meshes = task.has_mesh and not task.sized and not animated  # data without pictures are walked as meshes
    if orbit and (as_meshes or not task.has_camera):
        what = "meshes" if as_meshes else run.kind
        raise InputError(f"--orbit: no camera circles {what} into {out}; leave it out")
    if len(codes) < 2 or frames < 2:
        raise InputError(f"interpolate: got {len(codes)} scenes and {frames} frames, wanted at least 2 of each")
    size = size or native_size(run)
    path = interpolate(codes, frames, mode)
    cameras = orbit_cameras(run, frames, size) if orbit else orbit_cameras(run, 1, size) * frames
    bounds = (bind(run, code[None]) for code in path)
    if animated:
        export.require_suffix(out, export.ANIMATION_SUFFIXES, "a walk")
        pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
        export.write_animation(out, _counted(pictures, frames, report), FPS)
        return
    with new_folder(out) as folder:
        if as_meshes:
            for number, mesh in enumerate(_counted((task.mesh(bound, resolution) for bound in bounds), frames, report)):
                export.write_mesh(folder / f"frame_{number:03d}.ply", mesh)
        else:
            pictures = (task.picture(b, c, size) for b, c in zip(bounds, cameras, strict=True))
            for number, picture in enumerate(_counted(pictures, frames, report)):
                export.write_image(folder / f"frame_{number:03d}.png", picture)


def export_scene(
    run: Run, name: str, out: Path, codes: Tensor | None = None, *, resolution: int = MESH_RESOLUTION
) -> None:
    """Write one scene as a file that needs nothing of the run.

    Every kind gives a picture (.png, .jpg, .webp) and the field alone (.safetensors), which
    `checkpoint.load_field` reads; shapes, in the frame of their file, and views also a mesh
    (.ply, .obj, .glb, .stl).

    Args:
        codes: `[1 z]` of a scene that the run was not fitted to; then `name` is only written down.
        resolution: of a mesh, cells a side.

    Raises:
        InputError: an unknown name, a suffix that this kind cannot give, or a file that cannot be written.
    """
    task = task_of(run.kind)
    meshes = export.MESH_SUFFIXES if task.has_mesh else ()
    allowed = (*export.IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX)
    suffix = export.require_suffix(out, allowed, f"a scene of {run.kind}")
    bound = bind(run, run.codes(name) if codes is None else codes)
    picture = dict(run.config["picture"])
    frames = picture.pop("frames", {})
    frame = frames.get(name) if codes is None else None  # scale and centre in the file that it came from
    if suffix == FIELD_SUFFIX:
        if frame is not None:
            picture["frames"] = {name: frame}
        write_field(out, bound, {"name": name, "kind": run.kind, "picture": picture})
    elif suffix in meshes:
        mesh = task.mesh(bound, resolution)
        if frame is not None:
            mesh = mesh._replace(scale=frame[0], center=tuple(frame[1:]))
        export.write_mesh(out, mesh)
    else:
        size = native_size(run)
        export.write_image(out, task.picture(bound, orbit_cameras(run, 1, size)[0], size))


def native_size(run: Run) -> tuple[int, int]:
    """(height, width) of the pictures that a run was fitted to, or a choice for scenes without pictures."""
    height, width = run.config["picture"].get("size", SIZE)
    return int(height), int(width)


def orbit_cameras(run: Run, frames: int, size: tuple[int, int]) -> list[Camera]:
    """`frames` cameras on a circle round the scenes of a run; the first looks from the front left.

    Distance, height and field of view are those of the pictures that a run of views was fitted to.
    """
    picture = run.config["picture"]
    return orbit_path(
        frames,
        radius=picture.get("radius", RADIUS),
        elevation=picture.get("elevation", ELEVATION),
        fov=picture.get("fov", FOV),
        start=START,
        height=size[0],
        width=size[1],
    )


def bind(run: Run, codes: Tensor) -> BoundField:
    """One scene as a function of points; not differentiable."""
    if codes.shape[0] != 1:
        raise ValueError(f"codes: got {codes.shape[0]} scenes, wanted one")
    with torch.no_grad():
        return run.model.bind(codes)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes `path` when all went well, and vanishes when not.

    Raises:
        InputError: `path` is not an empty folder, or cannot be made.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already and is not an empty folder; choose another --out")
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another --out") from error


def _counted(items: Iterator[T], total: int, report: Report | None) -> Iterator[T]:
    for number, item in enumerate(items):
        yield item
        if report is not None:
            report(number + 1, total)
