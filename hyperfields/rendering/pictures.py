"""Pictures from rays: rays in blocks of bounded memory, channels as colours, several rays a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.errors import InputError
from hyperfields.rendering.base import Rendered, on_background

Channel = Literal["rgb", "depth", "normals"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
CELLS = 64  # along a side of the grid that skips empty space: finer than in fitting, as it is made only once
RAYS_PER_BLOCK = 2**16  # bounds the memory of a picture of any size

# Eight colours of matplotlib's viridis, light to dark, and of its magma, dark to light (Smith and van der Walt 2015).
VIRIDIS = (
    (0.993, 0.906, 0.144), (0.622, 0.854, 0.226), (0.290, 0.758, 0.428), (0.120, 0.632, 0.531),
    (0.154, 0.498, 0.558), (0.212, 0.360, 0.552), (0.275, 0.195, 0.496), (0.267, 0.005, 0.329),
)  # fmt: skip
MAGMA = (
    (0.001, 0.000, 0.014), (0.135, 0.068, 0.315), (0.372, 0.093, 0.499), (0.595, 0.176, 0.501),
    (0.829, 0.262, 0.431), (0.973, 0.462, 0.362), (0.997, 0.734, 0.505), (0.987, 0.991, 0.750),
)  # fmt: skip


@torch.no_grad()
def render_rays(
    renderer: Callable[[Rays], Rendered], rays: Rays, *, pause: Callable[[], None] | None = None
) -> Rendered:
    """Rays `[s r 3]` as `renderer` shows them, block by block: `[s r ...]`. Not differentiable.

    Rays without a direction (NaN: pixels with which a lens sees nothing) are transparent.

    Args:
        pause: called before each block; what it raises ends the rendering.
    """
    blind = rays.directions.isnan().any(-1)
    if bool(blind.any()):
        ahead = rays.directions.new_tensor([0.0, 0.0, 1.0])
        shown = render_rays(renderer, Rays(rays.origins, rays.directions.where(~blind[..., None], ahead)), pause=pause)
        return shown._replace(
            rgb=shown.rgb.masked_fill(blind[..., None], 0.0),
            alpha=shown.alpha.masked_fill(blind, 0.0),
            depth=shown.depth.masked_fill(blind, torch.inf),
            normals=None if shown.normals is None else shown.normals.masked_fill(blind[..., None], 0.0),
        )
    size = RAYS_PER_BLOCK if rays.origins.device.type == "cpu" else 16 * RAYS_PER_BLOCK  # as in points_per_block
    blocks = []
    for origins, directions in zip(*(part.split(size, 1) for part in rays), strict=True):
        if pause is not None:
            pause()
        blocks.append(renderer(Rays(origins.contiguous(), directions.contiguous())))
    normals = [block.normals for block in blocks if block.normals is not None]
    return Rendered(
        torch.cat([block.rgb for block in blocks], 1),
        torch.cat([block.alpha for block in blocks], 1),
        torch.cat([block.depth for block in blocks], 1),
        torch.cat(normals, 1) if normals else None,
        sum(block.samples for block in blocks),
    )


def camera_picture(
    renderer: Callable[[Rays], Rendered],
    camera: Camera,
    size: tuple[int, int],
    channel: str = "rgb",
    background: float = 1.0,
    *,
    supersample: int = 1,
    pause: Callable[[], None] | None = None,
) -> Tensor:
    """One scene as a camera sees it, `[h w 3]` in [0, 1]. Not differentiable.

    Args:
        renderer: of rays `[1 r 3]`; it gives normals when `channel` is "normals". The device is the camera's.
        camera: brought to `size`.
        size: (height, width) in pixels.
        background: grey level behind the scene.
        supersample: a pixel is the mean of this number squared of rays.
        pause: see `render_rays`.
    """
    height, width = size[0] * supersample, size[1] * supersample
    origins, directions = camera.resized(height, width).rays()
    rendered = render_rays(renderer, Rays(origins[None], directions[None]), pause=pause)
    image = on_background(apply_colormap(rendered, channel), background).clamp(0.0, 1.0)
    return pixel_means(image.reshape(height, width, 3), supersample)


def pixel_means(image: Tensor, supersample: int) -> Tensor:
    """Means of squares of `supersample` pixels a side: `[h*k w*k c]` -> `[h w c]`."""
    height, width, channels = image.shape
    blocks = image.reshape(height // supersample, supersample, width // supersample, supersample, channels)
    return blocks.mean((1, 3))


def apply_colormap(rendered: Rendered, channel: str) -> Rendered:
    """The same with the colours of a channel, premultiplied.

    `depth` runs from the nearest (yellow) to the farthest thing seen (violet); `normals` are 0.5 + 0.5 n, world frame.
    """
    if channel == "rgb":
        return rendered
    if channel == "normals":
        assert rendered.normals is not None
        return rendered._replace(rgb=(0.5 + 0.5 * rendered.normals) * rendered.alpha[..., None])
    solid = rendered.depth[rendered.alpha > 0.5]
    near, far = (float(solid.min()), float(solid.max())) if len(solid) else (0.0, 1.0)
    place = ((rendered.depth - near) / max(far - near, 1e-6)).nan_to_num(posinf=1.0).clamp(0.0, 1.0)
    return rendered._replace(rgb=colors_of(place, VIRIDIS) * rendered.alpha[..., None])


def colors_of(place: Tensor, table: Sequence[tuple[float, float, float]]) -> Tensor:
    """Colours `[... 3]` of places in [0, 1] along a table of evenly spaced ones."""
    colors = place.new_tensor(table)
    place = place * (len(colors) - 1)
    low = place.long().clamp(max=len(colors) - 2)
    return torch.lerp(colors[low], colors[low + 1], (place - low)[..., None])


def require_channel(channel: str, channels: tuple[str, ...]) -> None:
    """Nothing, when `channel` is one of `channels`.

    Raises:
        InputError: it is not.
    """
    if channel not in channels:
        raise InputError(f"channel {channel!r}: these scenes give {', '.join(channels)}")
