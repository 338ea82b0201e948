"""Pictures of the data from the same place as a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh, SceneDataset, View
from hyperfields.errors import InputError
from hyperfields.rendering.image import Window
from hyperfields.tasks.mesh_picture import mesh_picture

_KEPT = 8  # references in memory

Pause = Callable[[], None]


class References:
    """References of scenes by name; the last few are kept, since views are read from disk."""

    def __init__(self, dataset: SceneDataset) -> None:
        self.dataset = dataset
        self._kept: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        """An image `[h w 3]`, a `Mesh`, or the test `View`s.

        Raises:
            InputError: the data have no such scene any more, or it cannot be read.
        """
        if name not in self._kept:
            if name not in self.dataset.names:
                raise InputError(f"scene {name!r}: is not among the data any more")
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            try:
                self._kept[name] = self.dataset.reference(self.dataset.names.index(name))
            except OSError as error:
                raise InputError(f"scene {name!r}: its data cannot be read: {error}") from None
        return self._kept[name]


def reference_picture(
    reference: Any,
    view: Camera | Window,
    size: tuple[int, int],
    background: float,
    supersample: int = 1,
    pause: Pause | None = None,
) -> Tensor:
    """`[h w 3]`: the part of an image that a window shows, or a mesh as a camera sees it.

    Raises:
        InputError: open3d, which draws meshes, is missing.
        TypeError: no reference that can be seen from anywhere.
    """
    if isinstance(reference, Mesh) and isinstance(view, Camera):
        return mesh_picture(reference, view, size, background=background, supersample=supersample, pause=pause)
    if isinstance(reference, Tensor) and isinstance(view, Window):
        return _crop(reference, view, size, background)
    raise TypeError(f"reference_picture: got {type(reference).__name__} with {type(view).__name__}")


def photograph_picture(view: View, background: float) -> Tensor:
    """A photograph `[h w 3]` over an even background."""
    alpha = view.rgba[..., 3:]
    return view.rgba[..., :3] * alpha + background * (1.0 - alpha)


def _crop(image: Tensor, window: Window, size: tuple[int, int], background: float) -> Tensor:
    """Pixels of `image` `[h w 3]` as squares: nothing is smoothed in the reference."""
    rows = window.top + (window.bottom - window.top) * (torch.arange(size[0]) + 0.5) / size[0]
    columns = window.left + (window.right - window.left) * (torch.arange(size[1]) + 0.5) / size[1]
    inside = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))[None]
    row = (rows * image.shape[0]).long().clamp(0, image.shape[0] - 1)
    column = (columns * image.shape[1]).long().clamp(0, image.shape[1] - 1)
    return torch.where(inside[..., None], image[row][:, column], torch.tensor(background))
