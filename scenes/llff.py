"""Scene folders with the poses_bounds.npy of LLFF (also DeepVoxels' and mip-NeRF 360's)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._common import IMAGE_SUFFIXES, one_line, visible_files
from hyperfields.scenes._frames import (
    Array,
    Divided,
    Format,
    Frame,
    Hints,
    fitted,
    lists_of_names,
    require_rigid,
    tensor_pose,
)
from hyperfields.scenes._lenses import colmap_camera
from hyperfields.scenes._photos import FOLDERS, SMALLER, find_photos
from hyperfields.scenes._points import some_points
from hyperfields.scenes._splits import Rule

POSES = "poses_bounds.npy"
# Columns of LLFF's rotation: down, right, backward; ours: right, down, forward.
COLUMNS = (1, 0, 2)
SIGNS = np.array([1.0, 1.0, -1.0])


def read_llff(folder: Path, rule: Rule | None, size: tuple[int, int] | None = None) -> Divided:
    """The pictures of a scene by name, with the rows of poses_bounds.npy: 3 rows of 5 numbers (rotation, position, and
    height, width, focal length), and the nearest and furthest depth.

    Raises:
        InputError: no such array, another number of pictures, a pose that is not rigid, a focal length that cannot be.
    """
    path = folder / POSES
    rows = _rows(path)
    pictures = next((p for p in _pictures(folder) if p), [])
    if len(pictures) != len(rows):
        place = pictures[0].parent if pictures else folder / "images"
        raise InputError(f"{path}: has {len(rows)} poses but {place} has {len(pictures)} pictures; wanted one for each")
    names = [picture.name for picture in pictures]
    photos = find_photos([folder], names, size)
    assert photos is not None
    frames, points = [], []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        matrix = row[:15].reshape(3, 5)
        where = f"{path}: row {i} ({name})"
        pose = np.eye(4)
        pose[:3, :3] = matrix[:, COLUMNS] * SIGNS
        pose[:3, 3] = matrix[:, 3]
        require_rigid(pose, f"{where}: the pose")
        height, width, focal = (float(value) for value in matrix[:, 4])
        if not (np.isfinite(matrix).all() and 1.0 <= height < 1e6 and 1.0 <= width < 1e6):
            raise InputError(f"{where}: height {height:g}, width {width:g}, focal {focal:g}; wanted pixels")
        params, shape = (focal, 0.5 * width, 0.5 * height), (round(height), round(width))
        camera = colmap_camera(tensor_pose(pose), "SIMPLE_PINHOLE", params, shape, where)
        frames.append(Frame(photos.found[name], fitted(camera, photos.found[name], str(path))))
        points.append(_seen(pose, (0.5 * width / focal, 0.5 * height / focal), row[15:], where))
    notes = [photos.note] if photos.note else []
    hints = Hints(points=some_points(np.concatenate(points)))
    return Divided(str(path), frames, rule, hints=hints, notes=notes, lists=lists_of_names(folder), names=names)


def _rows(path: Path) -> Array:
    """`[n 17]`, one row a picture."""
    try:
        with path.open("rb") as stream:  # of its own, because np.load leaves a damaged file open
            rows = np.load(stream, allow_pickle=False)
    except Exception as error:  # of a damaged header np.load raises nearly anything
        raise InputError(f"{path}: not readable as an array ({one_line(error)}); copy it again") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        shape = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise InputError(f"{path}: {shape} came, wanted numbers [n 17]")
    if not len(rows):
        raise InputError(f"{path}: has no row; wanted one for each picture")
    return np.asarray(rows, dtype=np.float64)


def _pictures(folder: Path) -> list[list[Path]]:
    folders = [folder / name for name in (*FOLDERS, *(f"images_{n}" for n in SMALLER))]
    return [visible_files(place, IMAGE_SUFFIXES) for place in folders if place.is_dir()]


def _seen(pose: Array, slopes: tuple[float, float], bounds: Array, where: str) -> Array:
    """Points that a picture may show, from its nearest to its furthest depth: corners and middle."""
    near, far = (float(value) for value in bounds)
    if not 0.0 < near <= far < np.inf:
        raise InputError(f"{where}: depths from {near:g} to {far:g}; wanted finite numbers above 0")
    corners = [(u * slopes[0], v * slopes[1], 1.0) for u in (-1.0, 0.0, 1.0) for v in (-1.0, 0.0, 1.0)]
    # In even steps of the inverse depth, which is how dense what is seen usually lies.
    depths = 1.0 / np.linspace(1.0 / near, 1.0 / far, 8)
    local = (np.array(corners)[None] * depths[:, None, None]).reshape(-1, 3)
    return np.asarray(local @ pose[:3, :3].T + pose[:3, 3])


LLFF = Format(
    name="llff",
    wants="poses_bounds.npy with images",
    detect=lambda folder: (folder / POSES).is_file(),
    read=read_llff,
)
