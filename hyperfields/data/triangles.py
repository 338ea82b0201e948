"""Triangles as arrays: checked, brought into the scene frame, their areas, points on them, an order for queries."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.data.base import Mesh
from hyperfields.errors import InputError

LONGEST_SIDE = 1.8  # of the bounding box in the scene frame: leaves a margin of 0.1 inside [-1, 1]^3
SPANS = (1e-30, 1e30)  # lengths of meshes that 64 bits scale without losing them


def check_triangles(points: NDArray[np.float64], faces: NDArray[np.int64], where: str) -> None:
    """Raises InputError unless `points` `[v 3]` are finite and `faces` `[f 3]` name some of them."""
    if points.ndim != 2 or points.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise InputError(
            f"{where}: vertices {list(points.shape)} and faces {list(faces.shape)} came, wanted [v 3] and [f 3]"
        )
    if not len(faces):
        raise InputError(f"{where}: has no faces ({len(points)} vertices); wanted a triangle mesh")
    if faces.min() < 0 or faces.max() >= len(points):
        worst = faces.min() if faces.min() < 0 else faces.max()
        raise InputError(f"{where}: a face names vertex {worst} of {len(points)}; mend it")
    if not np.isfinite(points).all():
        raise InputError(f"{where}: has NaN or infinite vertices; mend it")


def scene_mesh(points: NDArray[np.float64], faces: NDArray[np.int64], where: str) -> Mesh:
    """The triangles in the scene frame: centre of their bounding box at 0, longest side `LONGEST_SIDE`.

    Vertices at one place are joined and faces that collapse are dropped, so that triangles with vertices of their own
    are seen as closed.

    Raises:
        InputError: named after `where`: no faces, no extent, no area, or what `check_triangles` refuses.

    Warns:
        UserWarning: the surface is open.
    """
    check_triangles(points, faces, where)
    used = points[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    with np.errstate(over="ignore"):
        extent = float((high - low).max())
    if not extent > 0.0:
        raise InputError(f"{where}: all vertices are at one place; wanted a mesh with an extent")
    if not SPANS[0] < extent < SPANS[1]:
        raise InputError(f"{where}: is {extent:.3g} long, wanted a length from {SPANS[0]:g} to {SPANS[1]:g}; scale it")
    scale, center = extent / LONGEST_SIDE, 0.5 * (low + high)
    points, faces = joined((points - center) / scale, faces)
    if not areas(points[faces]).sum() > 0.0:
        raise InputError(f"{where}: every face is without area; wanted a triangle mesh")
    if not is_closed(faces):
        warnings.warn(
            f"{where}: an open surface: what is inside and what outside is a guess there, and so is the sign "
            "of its distances; close it for a sure result",
            stacklevel=2,
        )
    return Mesh(
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(faces),
        scale,
        (float(center[0]), float(center[1]), float(center[2])),
    )


def areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas `[f]` of the triangles `[f 3 3]`."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size: NDArray[np.float64] = 0.5 * np.linalg.norm(normals, axis=-1)
    return size


def is_closed(faces: NDArray[np.int64]) -> bool:
    """True if every edge has an even number of faces: then counting crossings of a ray is safe.

    (trimesh's `is_watertight` wants exactly two, and calls two boxes that share an edge open.)
    """
    edges = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), axis=-1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return bool((counts % 2 == 0).all())


def morton_order(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices that put `cells` `[n 3]`, each number in [0, 1024), along a space-filling curve (Morton, 1966).

    Neighbours in a row walk the same branches of a ray caster's tree: queries get faster.
    """
    spread = cells.astype(np.uint64)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):  # abc -> a00b00c
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    code = spread[:, 0] | (spread[:, 1] << np.uint64(1)) | (spread[:, 2] << np.uint64(2))
    return np.argsort(code, kind="stable")


def joined(points: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One vertex for all that agree to 1e-6 (scene units), without unused vertices and collapsed faces."""
    _, first, inverse = np.unique(np.round(points, 6), axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    kept, faces = np.unique(faces[whole], return_inverse=True)
    return points[first][kept], faces.reshape(-1, 3)
