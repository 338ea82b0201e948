"""Images: functions of (x, y), asked at the centres of pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.base import PointFn, points_per_block

POINTS_PER_PAUSE = 2**16  # of a picture that may be stopped


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a picture to show; the whole picture is 0, 0, 1, 1 (x to the right, y down)."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


def pixel_centers(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of all pixels in [0, 1]^2, row by row: `[height * width, 2]`, x to the right, y down."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    v, u = torch.meshgrid((rows + 0.5) / height, (columns + 0.5) / width, indexing="ij")
    return torch.stack((u, v), -1).reshape(-1, 2)


@one_torch_thread()
@torch.no_grad()
def sample_image(fn: PointFn, scenes: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Images `[s h w c]` of `scenes` image functions, in blocks of bounded memory. Not differentiable.

    device: where the points are made.
    """
    x = pixel_centers(height, width, device)
    rows = []
    for block in x.split(max(points_per_block(x.device) // scenes, 1)):
        counts = torch.full((scenes,), block.shape[0], device=device)
        rows.append(fn(block.repeat(scenes, 1), counts).reshape(scenes, block.shape[0], -1))
    return torch.cat(rows, 1).reshape(scenes, height, width, -1)


@torch.no_grad()
def sample_window(
    fn: PointFn,
    window: Window,
    height: int,
    width: int,
    background: float = 1.0,
    *,
    device: torch.device | str = "cpu",
    pause: Callable[[], None] | None = None,
) -> Tensor:
    """A part of one image function's picture, `[h w c]`; beyond its edges is background. Not differentiable.

    Args:
        device: where the points are made.
        pause: called before each block of points; what it raises ends the picture.
    """
    corner = torch.tensor([window.left, window.top], device=device)
    extent = torch.tensor([window.right - window.left, window.bottom - window.top], device=device)
    x = corner + extent * pixel_centers(height, width, device)
    inside = ((x >= 0.0) & (x <= 1.0)).all(-1).nonzero().squeeze(1)
    image = torch.full((height * width, 3), background, device=device)
    for block in inside.split(POINTS_PER_PAUSE):
        if pause is not None:
            pause()
        image[block] = fn(x[block], torch.tensor([len(block)], device=device))
    return image.reshape(height, width, -1)


def part_of(picture: Tensor, window: Window, margin: int = 4) -> tuple[Tensor, Window]:
    """(the pixels `[h w c]` that a window shows, with some around them, the window in this part of the picture)."""
    height, width = picture.shape[:2]
    left, right = _covered(window.left * width, window.right * width, width, margin)
    top, bottom = _covered(window.top * height, window.bottom * height, height, margin)
    place = Window(
        (window.left * width - left) / (right - left), (window.top * height - top) / (bottom - top),
        (window.right * width - left) / (right - left), (window.bottom * height - top) / (bottom - top),
    )  # fmt: skip
    return picture[top:bottom, left:right], place


def _covered(low: float, high: float, side: int, margin: int) -> tuple[int, int]:
    """The first pixel along a side, and the one after the last, that hold a stretch; at least one."""
    first = min(max(math.floor(low) - margin, 0), side - 1)
    return first, max(min(math.ceil(high) + margin, side), first + 1)


def cut_out(picture: Tensor, window: Window, size: tuple[int, int], background: float = 1.0) -> Tensor:
    """A part of a picture `[h w c]` in a size (height, width), interpolated; beyond its edges is background."""
    corner = torch.tensor([window.left, window.top], device=picture.device)
    extent = torch.tensor([window.right - window.left, window.bottom - window.top], device=picture.device)
    x = corner + extent * pixel_centers(*size, picture.device)
    places = (2.0 * x - 1.0).reshape(1, *size, 2)
    colors = torch.nn.functional.grid_sample(
        picture.movedim(-1, 0)[None], places, padding_mode="border", align_corners=False
    )[0].movedim(0, -1)
    inside = ((x >= 0.0) & (x <= 1.0)).all(-1).reshape(*size, 1)
    return torch.where(inside, colors, background)
