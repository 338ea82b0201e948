"""Surfaces of values on a grid, and how far two of them are from one another."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.rendering.meshing import mesh_from_values
from hyperfields.tasks.metrics import sample_surface

NEAR = 0.03  # of a surface, scene units, where slopes are looked at
POINTS = 4096  # that they are looked at


def _nothing() -> NDArray[np.float64]:
    return np.zeros(0)


@dataclasses.dataclass(frozen=True)
class Surface:
    """A closed surface in the scene box, or none.

    Its vertices stand for discs with the radius of a cell: distances to them are far finer than the cells.
    """

    mesh: Mesh
    volume: float = 0.0  # inside, scene units
    normals: NDArray[np.float64] = dataclasses.field(default_factory=_nothing)  # [v 3], unit, of the vertices
    weights: NDArray[np.float64] = dataclasses.field(default_factory=_nothing)  # [v], share of the area
    radius: float = 0.0  # of the discs, scene units
    tree: Any = None  # of scipy, of the vertices; None without a surface

    @functools.cached_property
    def edges(self) -> NDArray[np.int64]:
        """`[e 2]`, each once."""
        faces, count = self.mesh.faces.numpy(), len(self.mesh.vertices)
        edges = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), 1)
        return np.stack(np.divmod(np.unique(edges[:, 0] * count + edges[:, 1]), max(count, 1)), 1)

    @functools.cached_property
    def parts(self) -> int:
        """How many there are that hang together by edges."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        count = len(self.mesh.vertices)
        graph = coo_matrix((np.ones(len(self.edges), np.int8), tuple(self.edges.T)), (count, count))
        return int(connected_components(graph, directed=False)[0])

    @property
    def euler(self) -> int:
        """V - E + F: 2 for each sphere, 0 for each torus."""
        return len(self.mesh.vertices) - len(self.edges) + len(self.mesh.faces)


def surface_of(values: Tensor) -> Surface:
    """The surface where values `[r+1 r+1 r+1]` at the corners of the cells of the scene box change their sign.

    Raises:
        InputError: scikit-image is not installed.
    """
    mesh = mesh_from_values(values)
    if not len(mesh.faces):
        return Surface(mesh)
    from scipy.spatial import cKDTree

    points, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    corners = points[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # twice the area, outwards
    volume = float((corners[:, 0] * cross).sum() / 6.0)
    normals = np.stack([_gather(faces, cross[:, axis], len(points)) for axis in range(3)], 1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
    areas = _gather(faces, np.linalg.norm(cross, axis=1), len(points))
    return Surface(mesh, volume, normals, areas / areas.sum(), 2.0 / (values.shape[0] - 1), cKDTree(points))


def _gather(faces: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sums of the values of faces over those round each vertex, `[v]`."""
    return np.bincount(faces.ravel(), weights=np.repeat(values, 3), minlength=count).astype(np.float64)


def _distances(points: NDArray[np.float64], surface: Surface) -> NDArray[np.float64]:
    """Distances `[n]` of points from the discs of a surface, of that with the nearest middle."""
    _, nearest = surface.tree.query(points)
    offset = points - surface.tree.data[nearest]
    above = (offset * surface.normals[nearest]).sum(1)
    aside = np.sqrt(((offset * offset).sum(1) - above * above).clip(0.0))
    distances: NDArray[np.float64] = np.hypot(above, (aside - surface.radius).clip(0.0))
    return distances


class Apart(NamedTuple):
    """How far two surfaces are from one another; infinite without one of them."""

    chamfer: float  # mean distance of a point from the other, by area, averaged over both directions
    hausdorff: float  # the largest, of both directions


def apart(a: Surface, b: Surface) -> Apart:
    """The distances of two surfaces, scene units. Not squared, so that the steps of a straight way add up."""
    if a.tree is None or b.tree is None:
        return Apart(math.inf, math.inf)
    there, back = _distances(a.tree.data, b), _distances(b.tree.data, a)
    mean = 0.5 * float((there * a.weights).sum() + (back * b.weights).sum())
    return Apart(mean, float(max(there.max(), back.max())))


def slope_error(
    fn: Callable[[Tensor], Tensor], surface: Surface, generator: torch.Generator, device: torch.device | str = "cpu"
) -> float | None:
    """Mean | |grad f| - 1 | of a distance function `[1 n 3]` -> `[1 n 1]` at random points within 0.03 of its surface.

    None without a surface.
    """
    if surface.tree is None:
        return None
    points, normals = sample_surface(surface.mesh, POINTS, generator)
    points = points + NEAR * (2.0 * torch.rand(POINTS, 1, generator=generator) - 1.0) * normals
    with torch.enable_grad():
        x = points[None].clamp(-1.0, 1.0).to(device).requires_grad_()
        (gradient,) = torch.autograd.grad(fn(x).sum(), x)
    return float((gradient.norm(dim=-1) - 1.0).abs().mean())
