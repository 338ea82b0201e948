"""What cameras see of a scene: what no picture shows is made up, and is no part of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh
from hyperfields.rendering.occupancy import dilate

CELLS = 48  # a side of the box, for `looked_at`
CAMERAS = 64  # evenly spread, that `seen_parts` looks from
SIDE = 128  # pixels of their longer side


def looked_at(cameras: Sequence[Camera], cells: int = CELLS) -> Tensor:
    """Cells of [-1, 1]^3 that some camera has in its picture, or a neighbour of which: `[c c c]` bool (x, y, z)."""
    axis = (torch.arange(cells) + 0.5) * (2.0 / cells) - 1.0
    points = torch.cartesian_prod(axis, axis, axis)
    seen = torch.zeros(len(points), dtype=torch.bool)
    for camera in cameras:
        rest = (~seen).nonzero().squeeze(1)
        if not len(rest):
            break
        seen[rest] = _inside(camera, camera.project(points[rest]))
    return dilate(seen.reshape(1, cells, cells, cells))[0]


def cells_at(cells: Tensor, x: Tensor) -> Tensor:
    """Values `[...]` of cells `[c c c]` of [-1, 1]^3 at points `[... 3]`."""
    size = cells.shape[0]
    place = ((x + 1.0) * (0.5 * size)).long().clamp(0, size - 1)
    found: Tensor = cells[place[..., 0], place[..., 1], place[..., 2]]
    return found


def seen_parts(mesh: Mesh, cameras: Sequence[Camera], depth: Callable[[Camera], Tensor], margin: float) -> Mesh:
    """The parts of a mesh, connected by triangles, of which some camera sees a vertex.

    Args:
        depth: the distances `[h w]` from a camera at which its rays end, inf where they do not.
        margin: how far behind those a vertex is still seen.
    """
    vertices = mesh.vertices.cpu()
    seen = torch.zeros(len(vertices), dtype=torch.bool)
    step = max(-(-len(cameras) // CAMERAS), 1)
    for camera in cameras[::step]:
        rest = (~seen).nonzero().squeeze(1)
        if not len(rest):
            break
        scale = SIDE / max(camera.height, camera.width)
        small = camera.resized(max(round(camera.height * scale), 1), max(round(camera.width * scale), 1))
        # Rays that pass beside a surface see what is there: of neighbouring pixels the one that sees furthest counts.
        far = torch.nn.functional.max_pool2d(depth(small).cpu()[None], 3, 1, 1)[0]
        pixels = small.project(vertices[rest])
        inside = _inside(small, pixels)
        rest, pixels = rest[inside], pixels[inside].long()
        away = torch.linalg.vector_norm(vertices[rest] - small.T_world_camera[:3, 3].cpu(), dim=-1)
        seen[rest] = away <= far[pixels[:, 1], pixels[:, 0]] + margin
    parts = _parts(len(vertices), mesh.faces.cpu())
    shown = torch.zeros_like(seen).index_fill(0, parts[seen], True)[parts]  # by vertex
    return _kept(mesh, shown)


def _inside(camera: Camera, pixels: Tensor) -> Tensor:
    """Which pixels `[n 2]` lie in a camera's picture, `[n]`; NaN does not."""
    return ((pixels >= 0.0) & (pixels < pixels.new_tensor([camera.width, camera.height]))).all(-1)


def _parts(count: int, faces: Tensor) -> Tensor:
    """Per vertex the lowest number of a vertex that triangles connect it with, `[count]`."""
    label, corners = torch.arange(count), faces.flatten()
    while True:  # the lowest label of each triangle, then that of what the label stands for
        lowest = label[faces].amin(1).repeat_interleave(3)
        new = label.scatter_reduce(0, corners, lowest, "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new


def _kept(mesh: Mesh, shown: Tensor) -> Mesh:
    """A mesh with some of its vertices `[v]` and the triangles between them."""
    number = torch.cumsum(shown.long(), 0) - 1
    faces = mesh.faces[shown[mesh.faces[:, 0]]]
    colors = None if mesh.colors is None else mesh.colors[shown]
    return mesh._replace(vertices=mesh.vertices[shown], faces=number[faces], colors=colors)
