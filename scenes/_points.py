"""Points that programs found on a scene's surfaces: they say where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._common import one_line
from hyperfields.scenes._frames import Array

MOST = 100_000  # points that are kept


def read_points(folder: Path, name: Any, where: str) -> Array | None:
    """The points `[n 3]` of a .ply inside of a scene's folder; None without trimesh, which reads it.

    Raises:
        InputError: no such file, one outside of the folder, or no points.
    """
    if not isinstance(name, str) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where} {name!r:.60} leaves the scene's folder; move the file there")
    path = folder / name
    if not path.is_file():
        raise InputError(f"{where} {name!r} is not there; restore the file or take the key out")
    try:
        import trimesh
    except ImportError:
        return None
    try:
        loaded = trimesh.load(path, process=False)
        points = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
    except Exception as error:  # trimesh raises what it meets
        raise InputError(f"{path}: not a readable .ply ({one_line(error)}); replace or remove the file") from error
    return some_points(points)


def some_points(points: Array) -> Array | None:
    """Finite points, at most `MOST` of them; None where there are none."""
    points = points[np.isfinite(points).all(axis=-1)]
    if len(points) > MOST:
        points = points[np.random.default_rng(0).choice(len(points), MOST, replace=False)]
    return points if len(points) else None
