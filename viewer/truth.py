"""What the data show from the same place as a result."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.errors import InputError
from hyperfields.families import Family, Mesh, View
from hyperfields.render import shade
from hyperfields.viewer.frame import Window


def truth_picture(truth: Any, view: Camera | Window, size: tuple[int, int], background: float) -> Tensor:
    """`[h w 3]`: the part of an image that a window shows, or a mesh as a camera sees it.

    Raises:
        InputError: open3d, which draws meshes, is missing.
        TypeError: no truth that can be seen from anywhere.
    """
    if isinstance(truth, Mesh) and isinstance(view, Camera):
        return mesh_picture(truth, view.resized(*size), background)
    if isinstance(truth, Tensor) and isinstance(view, Window):
        return _crop(truth, view, size, background)
    raise TypeError(f"truth_picture: got {type(truth).__name__} with {type(view).__name__}")


def view_picture(view: View, background: float) -> Tensor:
    """A photograph `[h w 3]` over an even background."""
    alpha = view.rgba[..., 3:]
    return view.rgba[..., :3] * alpha + background * (1.0 - alpha)


def mesh_picture(mesh: Mesh, camera: Camera, background: float) -> Tensor:
    """A mesh in the light of `render.shade`, `[h w 3]`, by open3d's ray casting; a pixel is the mean of 4 rays."""
    try:
        import open3d as o3d
    except (ImportError, OSError) as error:
        raise InputError(
            f"open3d, which draws the true mesh, cannot be imported ({error}): pip install 'hyperfields[shapes]'"
        ) from error
    fine = camera.resized(2 * camera.height, 2 * camera.width)
    rays: Rays = fine.rays()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh.vertices.numpy(), mesh.faces.int().numpy().astype("uint32"))
    hits = scene.cast_rays(o3d.core.Tensor(torch.cat(rays, 1).numpy()))
    hit = torch.from_numpy(hits["t_hit"].numpy()).isfinite()
    normals = torch.from_numpy(hits["primitive_normals"].numpy())[hit]
    toward = rays.directions[hit]
    normals = torch.where((normals * toward).sum(-1, keepdim=True) > 0.0, -normals, normals)
    image = torch.full((len(hit), 3), background)
    image[hit] = shade(normals, toward)
    return image.reshape(camera.height, 2, camera.width, 2, 3).mean((1, 3))


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

    def __init__(self, family: Family) -> None:
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
            self._kept[name] = self.family.truth(self.family.names.index(name))
        return self._kept[name]


def at_size(camera: Camera, longest: int) -> Camera:
    """The same camera with as many pixels that its longer side has `longest` at most."""
    scale = min(longest / max(camera.height, camera.width), 4.0)
    size = max(round(camera.height * scale), 8), max(round(camera.width * scale), 8)
    return dataclasses.replace(camera.resized(*size))
