"""Points that programs found on a scene's surfaces: they say where it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._common import is_inside, no_log, one_line
from hyperfields.scenes._frames import Array

MOST = 100_000  # points that are kept


def read_points(folder: Path, name: Any, where: str) -> Array | None:
    """The points `[n 3]` of a .ply inside of a scene's folder; None without trimesh, which reads it.

    Raises:
        InputError: no such file, one outside of the folder, or no points.
    """
    try:
        path = folder / name
        inside, there = is_inside(folder, path), path.is_file()
    except (TypeError, ValueError, OSError, RuntimeError):
        raise InputError(f"{where} {name!r:.60}: wanted the path of a .ply in the scene's folder") from None
    if not inside:
        raise InputError(f"{where} {name!r:.60} leaves the scene's folder; move the file there")
    if not there:
        raise InputError(f"{where} {name!r:.200} is not there; restore the file or take the key out")
    if path.suffix.lower() != ".ply":
        raise InputError(f"{where} {name!r:.200}: wanted a .ply; take the key out if it may be passed over")
    try:
        import trimesh
    except ImportError:
        return None
    try:
        # Bytes and no resolver: what the file refers to is not looked for.
        with no_log("trimesh"):
            loaded = trimesh.load(io.BytesIO(path.read_bytes()), file_type="ply", process=False)
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
