"""A folder of triangle meshes as a family of shapes: points in the box with their signed distances."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.data import Kind, Mesh, Points
from hyperfields.errors import InputError
from hyperfields.scenes._common import by_stem, one_line, select, visible_files

MESH_SUFFIXES = (".ply", ".obj", ".off", ".stl", ".glb")
LONGEST_SIDE = 1.8  # of the bounding box in the scene frame: leaves a margin of 0.1 inside [-1, 1]^3
CACHE_FORMAT = 1  # raise when the meaning of a cached pool changes
SYSTEM_LIBRARIES = "libegl1 libgl1 libx11-6 libusb-1.0-0 libgomp1"  # Debian packages that open3d loads

Progress = Callable[[int, int, str], None]  # (done, total, name)


class Sampling(NamedTuple):
    """How a shape's pool of points is drawn; distances in scene units."""

    points: int = 200_000
    near: float = 0.4  # share of the points on the surface plus noise of `near_sigma`
    near_sigma: float = 0.01
    wide: float = 0.3  # the same with `wide_sigma`; the rest is uniform in the box
    wide_sigma: float = 0.05
    rays: int = 3  # votes on inside or outside per point, odd: a ray through an edge is outvoted


class Shapes:
    """Shapes in the box [-1, 1]^3.

    Args:
        names: sorted, one per shape.
        meshes: in the scene frame.
        pool: `[s p 4]` float32: x, y, z and the signed distance (scene units, negative inside).
    """

    kind: Kind = "shapes"

    def __init__(self, names: Sequence[str], meshes: Sequence[Mesh], pool: Tensor) -> None:
        if pool.ndim != 3 or pool.shape[2] != 4 or not len(names) == len(meshes) == pool.shape[0]:
            raise ValueError(
                f"pool: {tuple(pool.shape)} came for {len(names)} names and {len(meshes)} meshes, "
                "wanted [s p 4] with one mesh and one name for each s"
            )
        self.names = tuple(names)
        self._meshes = tuple(meshes)
        self._points_each = int(pool.shape[1])
        self._pool = pool.reshape(-1, 4).contiguous()

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """`n` points per scene, drawn from the pools with replacement.

        Args:
            scenes: `[s]` int64.

        Returns:
            x `[s n 3]` in [-1, 1]^3 and target `[s n 1]`, the signed distance (scene units, negative inside).
        """
        index = torch.randint(self._points_each, (len(scenes), n), generator=generator, device=generator.device)
        rows = (scenes[:, None] * self._points_each + index).reshape(-1)
        drawn = self._pool.index_select(0, rows).reshape(len(scenes), n, 4)
        return Points(drawn[..., :3].contiguous(), drawn[..., 3:].contiguous())

    def to(self, device: torch.device | str) -> Shapes:
        """The same with its samples on `device`, where batches then come from; `generator` must be there too."""
        moved = copy.copy(self)
        moved._pool = self._pool.to(device)
        return moved

    def reference(self, scene: int, split: str = "test") -> Mesh:
        """The mesh in the scene frame; a shape has no splits, so `split` makes no difference."""
        return self._meshes[scene]


def open_meshes(
    folder: Path,
    *,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    sampling: Sampling | None = None,
) -> Shapes:
    """Read the ply, obj, off, stl and glb files of a folder and sample them, or use the cached samples.

    The pools are kept under `$HYPERFIELDS_CACHE` (default `~/.cache/hyperfields`, or `hyperfields` under
    `$XDG_CACHE_HOME`), found by a hash of the file's bytes and of `sampling`, and depend on nothing else.

    Raises:
        InputError: no mesh, one that cannot be read or has no faces, no extent or points that are not finite,
            or open3d is missing.

    Warns:
        UserWarning: an open surface (the sign of its distances is a guess), a cache that cannot be written.
    """
    files = by_stem(visible_files(folder, MESH_SUFFIXES))
    if not files:
        raise InputError(f"{folder}: holds no mesh; wanted {', '.join(MESH_SUFFIXES)} files")
    names = select(list(files), scenes, limit)
    sampling = sampling or Sampling()
    cache = _cache_folder()
    meshes, pools = [], []
    for done, name in enumerate(names):
        mesh = read_mesh(files[name])
        digest = hashlib.sha256(repr((CACHE_FORMAT, LONGEST_SIDE, tuple(sampling))).encode())
        digest.update(files[name].read_bytes())
        key = digest.hexdigest()
        pool = _load_pool(cache / f"{key}.npz", sampling) if cache else None
        if pool is None:
            pool = sample_pool(mesh, sampling, seed=int(key[:16], 16))
            if cache and not _save_pool(cache / f"{key}.npz", pool):
                cache = None
        meshes.append(mesh)
        pools.append(pool)
        if progress is not None:
            progress(done + 1, len(names), name)
    return Shapes(names, meshes, torch.from_numpy(np.stack(pools)))


def read_mesh(path: Path) -> Mesh:
    """A mesh in the scene frame: centre of its bounding box at 0, longest side `LONGEST_SIDE`.

    Vertices at one place are joined and faces that collapse are dropped, so that files which store every
    triangle by itself are seen as closed.

    Raises:
        InputError: see `open_meshes`.

    Warns:
        UserWarning: the surface is open.
    """
    points, faces = _read_triangles(path)
    if faces.min() < 0 or faces.max() >= len(points):
        raise InputError(f"{path}: a face names vertex {faces.max()} of {len(points)}; mend the file")
    if not np.isfinite(points).all():
        raise InputError(f"{path}: has NaN or infinite vertices; mend the file")
    used = points[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    extent = float((high - low).max())
    if not extent > 0.0:
        raise InputError(f"{path}: all vertices are at one place; wanted a mesh with an extent")
    scale, center = extent / LONGEST_SIDE, 0.5 * (low + high)
    points, faces = _joined((points - center) / scale, faces)
    if not _areas(points[faces]).sum() > 0.0:
        raise InputError(f"{path}: every face is without area; wanted a triangle mesh")
    if not _is_closed(faces):
        warnings.warn(
            f"{path}: an open surface: what is inside and what outside is a guess there, and so is the sign "
            "of its distances; close it for a sure result",
            stacklevel=2,
        )
    return Mesh(
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(faces),
        scale,
        (float(center[0]), float(center[1]), float(center[2])),
    )


def _read_triangles(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices `[v 3]` and faces `[f 3]` as the file has them, several parts put together."""
    o3d = _open3d(path)
    # Only the model reader splits the polygons of these two; the other one leaves them out without a word.
    parted = path.suffix.lower() in (".obj", ".glb")
    with _console() as said, o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Warning):
        if parted:
            parts = [part.mesh for part in o3d.io.read_triangle_model(str(path)).meshes]
        else:
            parts = [o3d.io.read_triangle_mesh(str(path))]
    points, faces, count = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0
    for part in parts:
        points.append(np.asarray(part.vertices, dtype=np.float64))
        faces.append(np.asarray(part.triangles, dtype=np.int64) + count)
        count += len(points[-1])
    # A file that is cut short gives some faces and a message; with parts the message may be about a texture.
    trouble = re.search(r"(Read \w+ failed|Unable to load file)[^\x1b\n]*", said.getvalue())
    if trouble and not (parted and any(map(len, faces))):
        raise InputError(f"{path}: not a readable mesh ({trouble[0]}); replace or remove the file")
    if not any(map(len, faces)):
        raise InputError(f"{path}: has no faces ({count} vertices); wanted a triangle mesh")
    return np.concatenate(points), np.concatenate(faces)


@contextlib.contextmanager
def _console() -> Iterator[io.StringIO]:
    """Catches what the readers print: open3d tells errors only there, RPly (for ply) straight to file 2."""
    with contextlib.redirect_stdout(io.StringIO()) as said, open(os.devnull, "wb") as nowhere:
        sys.stderr.flush()
        copy = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield said
        finally:
            os.dup2(copy, 2)
            os.close(copy)


def sample_pool(mesh: Mesh, sampling: Sampling, seed: int) -> NDArray[np.float32]:
    """Points in [-1, 1]^3 round a mesh with their signed distance (negative inside): `[p 4]` float32.

    Points that the noise takes out of the box are put back on its wall; their distance is that of the wall.
    """
    rng = np.random.default_rng(seed)
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]  # [f 3 3]
    area = _areas(corners)
    near, wide = int(sampling.points * sampling.near), int(sampling.points * sampling.wide)
    chosen = corners[rng.choice(len(corners), size=near + wide, p=area / area.sum())]
    # Uniform on a triangle: fold the unit square along its diagonal.
    a, b = rng.random((2, near + wide, 1))
    folded = a + b > 1.0
    a, b = np.where(folded, 1.0 - a, a), np.where(folded, 1.0 - b, b)
    surface = chosen[:, 0] + a * (chosen[:, 1] - chosen[:, 0]) + b * (chosen[:, 2] - chosen[:, 0])
    sigma = np.repeat((sampling.near_sigma, sampling.wide_sigma), (near, wide))[:, None]
    around = np.clip(surface + sigma * rng.standard_normal(surface.shape), -1.0, 1.0)
    uniform = rng.uniform(-1.0, 1.0, (sampling.points - near - wide, 3))
    points = np.concatenate((around, uniform)).astype(np.float32)
    points = points[np.argsort(_morton(points), kind="stable")]  # neighbours together: rays stay in the cache

    o3d = _open3d(None)
    scene = o3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())
    scene.add_triangles(o3d.core.Tensor(mesh.vertices.numpy()), o3d.core.Tensor(mesh.faces.numpy().astype(np.uint32)))
    distance = scene.compute_signed_distance(o3d.core.Tensor(points), nsamples=sampling.rays).numpy()
    return np.concatenate((points, distance[:, None]), axis=-1, dtype=np.float32)


def _open3d(path: Path | None) -> Any:
    where = f"{path}: " if path else ""
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise InputError(f'{where}meshes need open3d ({one_line(error)}); pip install "hyperfields[shapes]"') from error
    except (ImportError, OSError) as error:
        raise InputError(
            f"{where}open3d does not load ({one_line(error)}); on Debian: apt-get install {SYSTEM_LIBRARIES}"
        ) from error
    return open3d


def _areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas `[f]` of the triangles `[f 3 3]`."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas: NDArray[np.float64] = 0.5 * np.linalg.norm(normals, axis=-1)
    return areas


def _joined(points: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One vertex for all that agree to 1e-6 (scene units), without unused vertices and collapsed faces."""
    _, first, inverse = np.unique(np.round(points, 6), axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    kept, faces = np.unique(faces[whole], return_inverse=True)
    return points[first][kept], faces.reshape(-1, 3)


def _is_closed(faces: NDArray[np.int64]) -> bool:
    """Whether every edge has an even number of faces: then counting crossings of a ray is safe."""
    edges = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), axis=-1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return bool((counts % 2 == 0).all())


def _morton(points: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The place of points of [-1, 1]^3 on a Z-order curve of 2^10 cells a side."""
    cells = np.clip((points + 1.0) * 512.0, 0, 1023).astype(np.uint64)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)
    code: NDArray[np.uint64] = cells[:, 0] | (cells[:, 1] << np.uint64(1)) | (cells[:, 2] << np.uint64(2))
    return code


def _cache_folder() -> Path | None:
    given, common = os.environ.get("HYPERFIELDS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given) if given else Path(common or Path.home() / ".cache") / "hyperfields"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        _warn_uncached(error)
        return None
    return folder


def _load_pool(path: Path, sampling: Sampling) -> NDArray[np.float32] | None:
    """The cached pool, or None when there is none or it is damaged (npz carries checksums)."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            pool: NDArray[np.float32] = stored["pool"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return pool if pool.shape == (sampling.points, 4) and pool.dtype == np.float32 else None


def _save_pool(path: Path, pool: NDArray[np.float32]) -> bool:
    """Write under a temporary name, then rename: another process never sees half a file."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            np.savez(stream, pool=pool)
        os.replace(temporary, path)
    except OSError as error:
        _warn_uncached(error)
        return False
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):  # renamed: all went well
                os.unlink(temporary)
    return True


def _warn_uncached(error: Exception) -> None:
    warnings.warn(
        f"HYPERFIELDS_CACHE: cannot be written ({one_line(error)}); going on, the next start samples again",
        stacklevel=2,
    )
