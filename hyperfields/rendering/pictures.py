"""Pictures of one scene of any kind: which renderer, which camera, which channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays, orbit
from hyperfields.errors import InputError
from hyperfields.fields import ImageField, RadianceField, SDFField
from hyperfields.model import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.volume import (
    Rendered,
    on_background,
    render_volume,
    sample_image,
    surface_normals,
    trace_surface,
)
from hyperfields.runs.checkpoint import Run

Channel = Literal["rgb", "depth", "normals"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

START = math.radians(-135.0)  # azimuth of the first camera: from the front left, as fronts look towards -Y
SHAPE_RADIUS, SHAPE_ELEVATION, FOV = 3.6, math.radians(25.0), 0.6911112  # a shape's longest side is 1.8
SHAPE_SIZE = (256, 256)
CELLS = 64  # along a side of the grid that skips empty space: finer than in fitting, as it is made only once
RAYS = 2**16  # rays at a time: bounds the memory of a picture of any size

# Near to far, light to dark: eight colours of matplotlib's viridis (Smith and van der Walt 2015).
_DEPTHS = (
    (0.993, 0.906, 0.144), (0.622, 0.854, 0.226), (0.290, 0.758, 0.428), (0.120, 0.632, 0.531),
    (0.154, 0.498, 0.558), (0.212, 0.360, 0.552), (0.275, 0.195, 0.496), (0.267, 0.005, 0.329),
)  # fmt: skip


@one_torch_thread()
def render_picture(
    bound: BoundField,
    camera: Camera | None,
    size: tuple[int, int],
    channel: Channel = "rgb",
    background: float = 1.0,
    *,
    supersample: int = 1,
) -> Tensor:
    """One scene as `[h w 3]` in [0, 1]; a pixel is the mean of `supersample`^2 rays. Not differentiable.

    Channels: `rgb`; `depth`, from the nearest (yellow) to the farthest thing seen (violet); `normals`,
    0.5 + 0.5 n in the world frame. Views get theirs from differences of the opacity round the mean depth of
    each ray: a few points a ray, and smoother than differences of the depth.

    Args:
        bound: one scene.
        camera: from where, brought to `size`; images have none.
        size: (height, width) in pixels.
        background: grey level behind shapes and views.

    Raises:
        InputError: a channel that this kind cannot give.
        ValueError: several scenes, or no camera.
    """
    if bound.scenes != 1:
        raise ValueError(f"render_picture: got {bound.scenes} scenes, wanted one")
    check_channel(bound, channel)
    height, width = size[0] * supersample, size[1] * supersample
    if isinstance(bound.field, ImageField):
        image = sample_image(bound, 1, height, width, bound.device)[0].clamp(0.0, 1.0)
    else:
        if camera is None:
            raise ValueError("render_picture: got no camera, which shapes and views need")
        seen = see(bound, camera.resized(height, width), channel == "normals")
        image = on_background(colorize(seen, channel), background).clamp(0.0, 1.0).reshape(height, width, 3)
    return image.reshape(size[0], supersample, size[1], supersample, 3).mean((1, 3))


def check_channel(bound: BoundField, channel: str) -> None:
    """Raises InputError when this kind of scene has no such channel."""
    there = CHANNELS[:1] if isinstance(bound.field, ImageField) else CHANNELS
    if channel not in there:
        raise InputError(f"channel {channel!r}: these scenes give {', '.join(there)}")


@torch.no_grad()
def see(
    bound: BoundField,
    camera: Camera,
    normals: bool = False,
    *,
    cells: int = CELLS,
    pause: Callable[[], None] | None = None,
) -> Rendered:
    """What a camera sees of one shape or view, in blocks of rays: `[1 h*w ...]`.

    Args:
        cells: along a side of the grid that skips the empty space of a view.
        pause: called before each block; what it raises ends the picture.
    """
    origins, directions = camera.to(bound.device).rays()
    parts, size = [], RAYS if bound.device.type == "cpu" else 16 * RAYS  # see render.block_of
    for o, d in zip(origins[None].split(size, 1), directions[None].split(size, 1), strict=True):
        if pause is not None:
            pause()
        parts.append(_see_rays(bound, Rays(o.contiguous(), d.contiguous()), normals, cells))
    found = [part.normals for part in parts if part.normals is not None]
    return Rendered(
        torch.cat([part.rgb for part in parts], 1),
        torch.cat([part.alpha for part in parts], 1),
        torch.cat([part.depth for part in parts], 1),
        torch.cat(found, 1) if found else None,
        sum(part.samples for part in parts),
    )


def _see_rays(bound: BoundField, rays: Rays, normals: bool, cells: int) -> Rendered:
    if isinstance(bound.field, SDFField):
        return trace_surface(bound, rays)
    assert isinstance(bound.field, RadianceField)
    step = bound.field.step
    seen = render_volume(bound, rays, bound.occupancy(cells), step=step, visible=bound.visible_samples)
    if not normals:
        return seen

    def hollow(x: Tensor, counts: Tensor) -> Tensor:  # grows outwards, as a distance does
        return torch.exp(-step * bound.density(x, counts))

    hit = seen.depth[0].isfinite().nonzero().squeeze(1)
    x = torch.addcmul(rays.origins[0, hit], seen.depth[0, hit, None], rays.directions[0, hit])
    found = torch.zeros_like(rays.origins)
    found[0, hit] = surface_normals(hollow, x, torch.tensor([len(hit)], device=x.device), reach=step)
    return seen._replace(normals=found)


def colorize(seen: Rendered, channel: Channel) -> Rendered:
    """The same with the colours of a channel, premultiplied."""
    if channel == "rgb":
        return seen
    if channel == "normals":
        assert seen.normals is not None
        return seen._replace(rgb=(0.5 + 0.5 * seen.normals) * seen.alpha[..., None])
    solid = seen.depth[seen.alpha > 0.5]
    near, far = (float(solid.min()), float(solid.max())) if len(solid) else (0.0, 1.0)
    place = ((seen.depth - near) / max(far - near, 1e-6)).nan_to_num(posinf=1.0).clamp(0.0, 1.0)
    colors = seen.rgb.new_tensor(_DEPTHS)
    place = place * (len(colors) - 1)
    low = place.long().clamp(max=len(colors) - 2)
    rgb = torch.lerp(colors[low], colors[low + 1], (place - low)[..., None])
    return seen._replace(rgb=rgb * seen.alpha[..., None])


def native_size(run: Run) -> tuple[int, int]:
    """(height, width) of the pictures that a run was fitted to; shapes have none, so theirs is a choice."""
    height, width = run.config["picture"].get("size", SHAPE_SIZE)
    return int(height), int(width)


def orbit_cameras(run: Run, frames: int, size: tuple[int, int]) -> list[Camera]:
    """`frames` cameras on a circle round the scenes of a run; the first looks from the front left.

    Distance, height and field of view are those of the pictures that a run of views was fitted to.
    """
    picture = run.config["picture"]
    return orbit(
        frames,
        radius=picture.get("radius", SHAPE_RADIUS),
        elevation=picture.get("elevation", SHAPE_ELEVATION),
        fov=picture.get("fov", FOV),
        start=START,
        height=size[0],
        width=size[1],
    )
