"""One picture of one bound field: a pure function, which knows nothing of servers, clients or threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.fields import ImageField
from hyperfields.model import BoundField
from hyperfields.rendering import pictures as picture
from hyperfields.rendering.pictures import CELLS, Channel, check_channel, colorize, see
from hyperfields.rendering.volume import on_background, pixel_centers


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a picture that is looked at; the whole picture is 0, 0, 1, 1 (x to the right, y down)."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


def frame(
    bound: BoundField,
    view: Camera | Window,
    size: tuple[int, int],
    channel: Channel = "rgb",
    *,
    samples: int = 1,
    cells: int = CELLS,
    background: float = 1.0,
    pause: Callable[[], None] | None = None,
) -> Tensor:
    """One scene as `[h w 3]` in [0, 1]. Not differentiable.

    Args:
        bound: one scene.
        view: where from, for shapes and views; which part, for images. It is brought to `size`.
        size: (height, width) in pixels.
        samples: a pixel is the mean of `samples`^2 rays or points.
        cells: along a side of the grid that skips the empty space of views: fewer are found faster.
        background: grey level behind the scene.
        pause: called every few hundredths of a second; what it raises ends the picture.

    Raises:
        InputError: a channel that this kind does not have.
        ValueError: several scenes, or a view of another kind.
    """
    if bound.scenes != 1:
        raise ValueError(f"frame: got {bound.scenes} scenes, wanted one")
    if isinstance(bound.field, ImageField) != isinstance(view, Window):
        raise ValueError(f"frame: got a {type(view).__name__} for a field {type(bound.field).__name__}")
    check_channel(bound, channel)
    height, width = size[0] * samples, size[1] * samples
    if isinstance(view, Window):
        image = _part_of_image(bound, view, height, width, background, pause)
    else:
        camera = view.resized(height, width)
        seen = see(bound, camera, channel == "normals", cells=cells, pause=pause)
        image = on_background(colorize(seen, channel), background)
    image = image.clamp(0.0, 1.0).reshape(size[0], samples, size[1], samples, 3)
    return image.mean((1, 3))


@torch.no_grad()
def _part_of_image(
    bound: BoundField, window: Window, height: int, width: int, background: float, pause: Callable[[], None] | None
) -> Tensor:
    """`[h*w 3]`; outside of the picture is background."""
    corner = torch.tensor([window.left, window.top])
    extent = torch.tensor([window.right - window.left, window.bottom - window.top])
    x = corner + extent * pixel_centers(height, width)
    image = torch.full((height * width, 3), background)
    inside = ((x >= 0.0) & (x <= 1.0)).all(-1).nonzero().squeeze(1)
    for block in inside.split(picture.RAYS):
        if pause is not None:
            pause()
        image[block] = bound(x[block], torch.tensor([len(block)]))
    return image
