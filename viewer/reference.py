"""Pictures of the data from the same place as a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh, SceneDataset, View
from hyperfields.data.shapes import require_open3d
from hyperfields.errors import InputError
from hyperfields.rendering.image import Window
from hyperfields.rendering.shading import ambient_occlusion, shade

RAYS = 2**14  # of a mesh, between two pauses
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


def mesh_picture(
    mesh: Mesh,
    camera: Camera,
    size: tuple[int, int],
    *,
    supersample: int = 1,
    background: float = 1.0,
    pause: Pause | None = None,
) -> Tensor:
    """A mesh in the light of `shading.shade`, `[h w 3]`, by open3d's ray casting.

    Args:
        supersample: a pixel is the mean of this number squared of rays.
        pause: called between blocks of rays; what it raises ends the picture.

    Raises:
        InputError: open3d is missing.
    """
    o3d = require_open3d()
    height, width = size[0] * supersample, size[1] * supersample
    origins, directions = camera.resized(height, width).rays()
    scene = o3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())

    def o3d_tensor(values: Tensor, dtype: type = np.float32) -> Any:
        return o3d.core.Tensor(np.ascontiguousarray(values.numpy(), dtype))

    scene.add_triangles(o3d_tensor(mesh.vertices), o3d_tensor(mesh.faces, np.uint32))

    def distance(points: Tensor, counts: Tensor) -> Tensor:
        return torch.from_numpy(scene.compute_signed_distance(o3d_tensor(points)).numpy())[:, None]

    image = torch.full((height * width, 3), background)
    for block in torch.arange(height * width).split(RAYS):
        if pause is not None:
            pause()
        o, d = origins[block], directions[block]
        hits = scene.cast_rays(o3d_tensor(torch.cat((o, d), 1)))
        t = torch.from_numpy(hits["t_hit"].numpy())
        hit = t.isfinite()
        normals = torch.from_numpy(hits["primitive_normals"].numpy())[hit]
        x = o[hit] + t[hit, None] * d[hit]
        occlusion = ambient_occlusion(distance, x, normals, torch.tensor([len(x)]))
        image[block[hit]] = shade(normals, d[hit], occlusion)
    return image.reshape(size[0], supersample, size[1], supersample, 3).mean((1, 3))


def _crop(image: Tensor, window: Window, size: tuple[int, int], background: float) -> Tensor:
    """Pixels of `image` `[h w 3]` as squares: nothing is smoothed in the reference."""
    rows = window.top + (window.bottom - window.top) * (torch.arange(size[0]) + 0.5) / size[0]
    columns = window.left + (window.right - window.left) * (torch.arange(size[1]) + 0.5) / size[1]
    inside = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))[None]
    row = (rows * image.shape[0]).long().clamp(0, image.shape[0] - 1)
    column = (columns * image.shape[1]).long().clamp(0, image.shape[1] - 1)
    return torch.where(inside[..., None], image[row][:, column], torch.tensor(background))
