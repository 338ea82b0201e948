"""What a run can be turned into: pictures, animations, walks through latent space, files of single scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.codes.table import interpolate
from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.fields import RadianceField
from hyperfields.model import BoundField
from hyperfields.rendering.meshing import mesh_from_field
from hyperfields.rendering.pictures import Channel, check_channel, native_size, orbit_cameras, render_picture
from hyperfields.runs.atomic import new_folder, require_suffix
from hyperfields.runs.checkpoint import Run, write_field
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import MESH_SUFFIXES, write_mesh
from hyperfields.runs.video import ANIMATION_SUFFIXES, write_animation

FRAMES = 48  # of an animation for which no number was given
FPS = 24.0
RESOLUTION = 192  # cells a side that a mesh is made from
SUPERSAMPLE = {"images": 1, "shapes": 2, "views": 1}  # only surfaces have edges that are thinner than a pixel
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
    suffixes = IMAGE_SUFFIXES + (() if run.kind == "images" else ANIMATION_SUFFIXES)
    suffix = require_suffix(out, suffixes, f"a rendering of {run.kind}")
    still = suffix in IMAGE_SUFFIXES
    if orbit is not None and (still or orbit < 1):
        todo = "leave it out" if run.kind == "images" else "use a .gif or .mp4 and at least 1 frame"
        raise InputError(f"--orbit {orbit}: no camera circles {run.kind} into {out}; {todo}")
    size = size or native_size(run)
    bound = bind(run, codes)
    check_channel(bound, channel)
    frames = 1 if still else orbit or FRAMES
    cameras = orbit_cameras(run, frames, size)
    pictures = _counted((_picture(run, bound, camera, size, channel) for camera in cameras), frames, report)
    if still:
        write_image(out, next(pictures))
    else:
        write_animation(out, pictures, FPS)


def interpolate_run(
    run: Run,
    codes: Tensor,
    out: Path,
    *,
    frames: int = FRAMES,
    mode: str = "lerp",
    orbit: bool = False,
    size: tuple[int, int] | None = None,
    report: Report | None = None,
) -> None:
    """Walk through latent space along `codes` `[c z]`, ends included.

    Args:
        out: an animation (.gif, .mp4), or a new folder (no suffix) of frame_000.png and so on, meshes
            (frame_000.ply) for shapes.
        mode: "lerp" or "slerp".
        orbit: let the camera circle once meanwhile.
        size: (height, width), default as fitted.

    Raises:
        InputError: a suffix or an orbit that this kind cannot give; too few scenes or frames; a folder that
            is not empty; a file that cannot be written.
    """
    animated = out.suffix.lower() in ANIMATION_SUFFIXES
    if not animated and out.suffix:
        raise InputError(f"{out}: suffix {out.suffix} cannot hold a walk; use .gif, .mp4 or a folder")
    if orbit and (run.kind == "images" or (run.kind == "shapes" and not animated)):
        what = "images" if run.kind == "images" else "meshes"
        raise InputError(f"--orbit: no camera circles {what} into {out}; leave it out")
    if len(codes) < 2 or frames < 2:
        raise InputError(f"interpolate: got {len(codes)} scenes and {frames} frames, wanted at least 2 of each")
    size = size or native_size(run)
    path = interpolate(codes, frames, mode)
    cameras = orbit_cameras(run, frames, size) if orbit else orbit_cameras(run, 1, size) * frames
    bounds = (bind(run, code[None]) for code in path)
    if animated:
        require_suffix(out, ANIMATION_SUFFIXES, "a walk")
        pictures = (_picture(run, b, c, size) for b, c in zip(bounds, cameras, strict=True))
        write_animation(out, _counted(pictures, frames, report), FPS)
        return
    with new_folder(out) as folder:
        if run.kind == "shapes":
            for number, mesh in enumerate(_counted((mesh_of(bound) for bound in bounds), frames, report)):
                write_mesh(folder / f"frame_{number:03d}.ply", mesh)
        else:
            pictures = (_picture(run, b, c, size) for b, c in zip(bounds, cameras, strict=True))
            for number, picture in enumerate(_counted(pictures, frames, report)):
                write_image(folder / f"frame_{number:03d}.png", picture)


def export_scene(run: Run, name: str, out: Path, codes: Tensor | None = None) -> None:
    """Write one scene as a file that needs nothing of the run.

    Every kind gives a picture (.png, .jpg, .webp) and the field alone (.safetensors), which
    `checkpoint.load_field` reads; shapes, in the frame of their file, and views also a mesh
    (.ply, .obj, .glb, .stl).

    Args:
        codes: `[1 z]` of a scene that the run was not fitted to; then `name` is only written down.

    Raises:
        InputError: an unknown name, a suffix that this kind cannot give, or a file that cannot be written.
    """
    meshes = () if run.kind == "images" else MESH_SUFFIXES
    allowed = (*IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX)
    suffix = require_suffix(out, allowed, f"a scene of {run.kind}")
    bound = bind(run, run.codes(name) if codes is None else codes)
    picture = dict(run.config["picture"])
    frames = picture.pop("frames", {})
    frame = frames.get(name) if codes is None else None  # scale and centre in the file that it came from
    if suffix == FIELD_SUFFIX:
        if frame is not None:
            picture["frames"] = {name: frame}
        write_field(out, bound, {"name": name, "kind": run.kind, "picture": picture})
    elif suffix in meshes:
        mesh = mesh_of(bound)
        if frame is not None:
            mesh = mesh._replace(scale=frame[0], center=tuple(frame[1:]))
        write_mesh(out, mesh)
    else:
        size = native_size(run)
        write_image(out, _picture(run, bound, orbit_cameras(run, 1, size)[0], size))


def bind(run: Run, codes: Tensor) -> BoundField:
    """One scene as a function of points; not differentiable."""
    if codes.shape[0] != 1:
        raise ValueError(f"codes: got {codes.shape[0]} scenes, wanted one")
    with torch.no_grad():
        return run.model.bind(codes)


def mesh_of(bound: BoundField, resolution: int = RESOLUTION) -> Mesh:
    """The surface of a shape, or of a view where a step becomes more opaque than clear, in the scene frame.

    Args:
        resolution: cells a side.

    Raises:
        TypeError: for images.
    """
    if not isinstance(bound.field, RadianceField):
        return mesh_from_field(bound, resolution=resolution, device=bound.device)
    step = bound.field.step

    def clearness(x: Tensor) -> Tensor:
        return torch.exp(-step * bound.density(x)) - 0.5

    return mesh_from_field(clearness, resolution=resolution, safety=float("inf"), device=bound.device)


def _picture(run: Run, bound: BoundField, camera: Camera, size: tuple[int, int], channel: Channel = "rgb") -> Tensor:
    return render_picture(bound, camera, size, channel, supersample=SUPERSAMPLE[run.kind])


def _counted(items: Iterator[T], total: int, report: Report | None) -> Iterator[T]:
    for number, item in enumerate(items):
        yield item
        if report is not None:
            report(number + 1, total)
