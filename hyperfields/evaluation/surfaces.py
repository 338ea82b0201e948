"""Surfaces of values on a grid, and how far two of them are from one another."""

from __future__ import annotations

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


class Surface(NamedTuple):
    """A closed surface in the scene box.

    Its vertices stand for discs with the radius of a cell: distances to them are far finer than the cells.
    """

    mesh: Mesh
    parts: int  # that hang together by edges
    euler: int  # V - E + F: 2 for each sphere, 0 for each torus
    volume: float  # inside, scene units
    normals: NDArray[np.float64]  # [v 3], unit, of the vertices
    weights: NDArray[np.float64]  # [v], share of the area
    radius: float  # of the discs, scene units
    tree: Any  # of scipy, of the vertices; None without a surface


def surface_of(values: Tensor) -> Surface:
    """The surface where values `[r+1 r+1 r+1]` at the corners of the cells of the scene box change their sign.

    Raises:
        InputError: scikit-image is not installed.
    """
    mesh = mesh_from_values(values)
    if not len(mesh.faces):
        return Surface(mesh, 0, 0, 0.0, np.zeros((0, 3)), np.zeros(0), 0.0, None)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    points, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    edges = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), 1)
    count = len(points)
    edges = np.unique(edges[:, 0] * count + edges[:, 1])
    ones = np.ones(len(edges), np.int8)
    parts, _ = connected_components(coo_matrix((ones, (edges // count, edges % count)), (count, count)), directed=False)
    corners = points[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # twice the area, outwards
    volume = float((corners[:, 0] * cross).sum() / 6.0)
    normals = np.stack([_gather(faces, cross[:, axis], count) for axis in range(3)], 1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
    areas = _gather(faces, np.linalg.norm(cross, axis=1), count)
    radius = 2.0 / (values.shape[0] - 1)
    return Surface(
        mesh, int(parts), count - len(edges) + len(faces), volume, normals, areas / areas.sum(), radius, cKDTree(points)
    )


def _gather(faces: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sums of the values of faces over those round each vertex, `[v]`."""
    return np.bincount(faces.ravel(), np.repeat(values, 3), count)


def _distances(points: NDArray[np.float64], surface: Surface) -> NDArray[np.float64]:
    """Distances `[n]` of points from the discs of a surface, of that with the nearest middle."""
    _, nearest = surface.tree.query(points)
    offset = points - surface.tree.data[nearest]
    above = (offset * surface.normals[nearest]).sum(1)
    aside = np.sqrt(((offset * offset).sum(1) - above * above).clip(0.0))
    return np.hypot(above, (aside - surface.radius).clip(0.0))


def chamfer(a: Surface, b: Surface) -> float:
    """Mean distance of a point of one surface from the other, averaged over both directions; inf without a surface.

    By area. Not squared, so that the steps of a straight way add up.
    """
    if a.tree is None or b.tree is None:
        return math.inf
    return 0.5 * float((_distances(a.tree.data, b) * a.weights).sum() + (_distances(b.tree.data, a) * b.weights).sum())


def hausdorff(a: Surface, b: Surface) -> float:
    """The largest distance of a point of one surface from the other, of both directions; inf without a surface."""
    if a.tree is None or b.tree is None:
        return math.inf
    return float(max(_distances(a.tree.data, b).max(), _distances(b.tree.data, a).max()))


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
