"""One picture of one bound field: a pure function, which knows nothing of servers, clients or threads."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.fields import BoundField
from hyperfields.rendering.image import Window as Window
from hyperfields.rendering.pictures import CELLS, Channel
from hyperfields.tasks import render_picture


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
    """One scene as `[h w 3]` in [0, 1]; see `tasks.render_picture`."""
    return render_picture(bound, view, size, channel, background, supersample=samples, cells=cells, pause=pause)
