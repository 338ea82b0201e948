"""What the data show from the same place as a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh, SceneDataset, View
from hyperfields.errors import InputError
from hyperfields.rendering.shading import ambient_occlusion, shade
from hyperfields.viewer.frame import Window


def truth_picture(truth: Any, view: Camera | Window, size: tuple[int, int], background: float) -> Tensor:
    """`[h w 3]`: the part of an image that a window shows, or a mesh as a camera sees it.

    Raises:
        InputError: open3d, which draws meshes, is missing.
        TypeError: no truth that can be seen from anywhere.
    """
    if isinstance(truth, Mesh) and isinstance(view, Camera):
        return mesh_picture(truth, view, size, background=background)
    if isinstance(truth, Tensor) and isinstance(view, Window):
        return _crop(truth, view, size, background)
    raise TypeError(f"truth_picture: got {type(truth).__name__} with {type(view).__name__}")


def view_picture(view: View, background: float) -> Tensor:
    """A photograph `[h w 3]` over an even background."""
    alpha = view.rgba[..., 3:]
    return view.rgba[..., :3] * alpha + background * (1.0 - alpha)


def mesh_picture(
    mesh: Mesh, camera: Camera, size: tuple[int, int], *, samples: int = 1, background: float = 1.0
) -> Tensor:
    """A mesh in the light of `render.shade`, `[h w 3]`, by open3d's ray casting; `samples`^2 rays a pixel.

    Raises:
        InputError: open3d is missing.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise InputError(
            f"open3d, which draws the true mesh, cannot be imported ({error}): pip install 'hyperfields[shapes]'"
        ) from error
    o3d: Any = open3d  # its annotations are half of what it takes
    height, width = size[0] * samples, size[1] * samples
    rays = camera.resized(height, width).rays()
    scene = o3d.t.geometry.RaycastingScene()

    def given(values: Tensor, kind: type = np.float32) -> Any:
        return o3d.core.Tensor(np.ascontiguousarray(values.numpy(), kind))

    scene.add_triangles(given(mesh.vertices), given(mesh.faces, np.uint32))
    hits = scene.cast_rays(given(torch.cat(rays, 1)))
    t = torch.from_numpy(hits["t_hit"].numpy())
    normals = torch.from_numpy(hits["primitive_normals"].numpy())
    hit = t.isfinite()
    x = rays.origins[hit] + t[hit, None] * rays.directions[hit]

    def distance(points: Tensor, counts: Tensor) -> Tensor:
        return torch.from_numpy(scene.compute_signed_distance(given(points)).numpy())[:, None]

    image = torch.full((height * width, 3), background)
    light = ambient_occlusion(distance, x, normals[hit], torch.tensor([len(x)]))
    image[hit] = shade(normals[hit], rays.directions[hit], light)
    return image.reshape(size[0], samples, size[1], samples, 3).mean((1, 3))


def _crop(image: Tensor, window: Window, size: tuple[int, int], background: float) -> Tensor:
    """Pixels of `image` `[h w 3]` as squares: nothing is smoothed in the truth."""
    rows = window.top + (window.bottom - window.top) * (torch.arange(size[0]) + 0.5) / size[0]
    columns = window.left + (window.right - window.left) * (torch.arange(size[1]) + 0.5) / size[1]
    inside = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))[None]
    row = (rows * image.shape[0]).long().clamp(0, image.shape[0] - 1)
    column = (columns * image.shape[1]).long().clamp(0, image.shape[1] - 1)
    return torch.where(inside[..., None], image[row][:, column], torch.tensor(background))


class Truths:
    """The truth of scenes by name; the last few are kept, since views are read from disk."""

    def __init__(self, family: SceneDataset) -> None:
        self.family = family
        self._kept: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        """An image `[h w 3]`, a `Mesh`, or the list of test `View`s.

        Raises:
            InputError: the family has no such scene any more.
        """
        if name not in self._kept:
            if name not in self.family.names:
                raise InputError(f"scene {name!r}: its truth is not among the data any more")
            while len(self._kept) >= 8:
                self._kept.pop(next(iter(self._kept)))
            self._kept[name] = self.family.reference(self.family.names.index(name))
        return self._kept[name]
