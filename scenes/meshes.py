"""A folder of triangle meshes as a family of shapes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.data import Mesh, Sampling, Shapes
from hyperfields.data.shapes import Progress, require_open3d, sample_pool
from hyperfields.data.triangles import LONGEST_SIDE, scene_mesh
from hyperfields.errors import InputError
from hyperfields.scenes._common import (
    UNREAD_MESHES,
    by_stem,
    folders_below,
    no_log,
    one_line,
    plain_name,
    select,
    visible_files,
    visible_folders,
    warn_left_out,
)
from hyperfields.scenes._glb import refuse_huge
from hyperfields.scenes._polygons import read_obj, read_off, read_ply
from hyperfields.scenes.reader import Reader

MESH_SUFFIXES = (".ply", ".obj", ".off", ".stl", ".glb")
AXES = {f"{sign}{name}": (sign, number) for sign in ("", "-") for number, name in enumerate("xyz")}
CACHE_FORMAT = 2  # raise when the meaning of a cached pool changes


def open_meshes(
    folder: Path,
    *,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    sampling: Sampling | None = None,
    up: str | None = None,
) -> Shapes:
    """Read the ply, obj, off, stl and glb files of a folder and sample them, or use the cached samples.

    The pools are kept under `$HYPERFIELDS_CACHE` (default `~/.cache/hyperfields`, or `hyperfields` under
    `$XDG_CACHE_HOME`), found by a hash of the file's bytes and of `sampling`, and depend on nothing else.

    A folder of folders with one mesh each, at any depth to 3, is read too: scenes are then called as the folders.

    Args:
        up: the axis that is up in pictures, "x", "y", "z", "-x" ...; default +Y for glb, as glTF says, else +Z.

    Raises:
        InputError: no mesh, one that cannot be read or has no faces, no extent or points that are not finite,
            or trimesh or open3d is missing.

    Warns:
        UserWarning: an open surface (the sign of its distances is a guess), a cache that cannot be written, meshes in
            formats that are not read.
    """
    files = by_stem(visible_files(folder, MESH_SUFFIXES)) or _one_a_folder(folder)
    warn_left_out(folder, UNREAD_MESHES)
    axis = None if up is None else axis_of(up)
    if not files:
        raise InputError(f"{folder}: holds no mesh; wanted {', '.join(MESH_SUFFIXES)} files")
    names = select(list(files), scenes, limit)
    sampling = sampling or Sampling()
    cache = _cache_folder()
    meshes, pools = [], []
    for done, name in enumerate(names):
        content = _content(files[name])
        mesh = _mesh(files[name], content)
        digest = hashlib.sha256(repr((1, LONGEST_SIDE, tuple(sampling))).encode())
        digest.update(content)
        key = digest.hexdigest()  # decides the points too
        cached = cache and cache / f"{key}-{CACHE_FORMAT}.npz"
        pool = _load_pool(cached, sampling) if cached else None
        if pool is None:
            require_open3d(f"{files[name]}: ")
            pool = sample_pool(mesh, sampling, seed=int(key[:16], 16))
            if cached and not _save_pool(cached, pool):
                cache = None
        by_format = (0.0, 1.0, 0.0) if files[name].suffix.lower() == ".glb" else (0.0, 0.0, 1.0)
        meshes.append(mesh._replace(up=axis or by_format))
        pools.append(pool)
        if progress is not None:
            progress(done + 1, len(names), name)
    return Shapes(meshes, names, pool=torch.from_numpy(np.stack(pools)))


def axis_of(text: str) -> tuple[float, float, float]:
    """The unit vector of "x", "-y" and the like.

    Raises:
        InputError: another text.
    """
    if text.lower().removeprefix("+") not in AXES:
        raise InputError(f"--up {text!r}: wanted one of {', '.join(AXES)}")
    sign, number = AXES[text.lower().removeprefix("+")]
    axis = [0.0, 0.0, 0.0]
    axis[number] = -1.0 if sign else 1.0
    return axis[0], axis[1], axis[2]


def _one_a_folder(folder: Path) -> dict[str, Path]:
    """Name of each sub-folder -> the only mesh in or below it; empty when a folder has several, or none has one."""
    files: dict[str, Path] = {}
    for child in visible_folders(folder):
        meshes = [file for below in (child, *folders_below(child, 2)) for file in visible_files(below, MESH_SUFFIXES)]
        if len(meshes) > 1:
            return {}
        files |= {plain_name(child.name): file for file in meshes}
    return files


def read_mesh(path: Path) -> Mesh:
    """A mesh file in the scene frame: centre of its bounding box at 0, longest side `LONGEST_SIDE`.

    Vertices at one place are joined and faces that collapse are dropped, so that files which store every
    triangle by itself are seen as closed.

    Raises:
        InputError: see `open_meshes`.

    Warns:
        UserWarning: the surface is open.
    """
    return _mesh(path, _content(path))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _mesh(path: Path, content: bytes) -> Mesh:
    return scene_mesh(*_triangles(path, content), str(path))


def _triangles(path: Path, content: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices `[v 3]` and faces `[f 3]` as the file has them, several parts put together."""
    trimesh = _trimesh(path)
    if not content.strip():
        raise InputError(f"{path}: not a readable mesh (the file is empty); replace or remove the file")
    try:
        if path.suffix.lower() == ".off":
            return read_off(content)
        if path.suffix.lower() == ".obj":
            return read_obj(content)
        if path.suffix.lower() == ".ply":
            _refuse_ply(content)
        if path.suffix.lower() == ".stl":
            content = _whole_stl(content)
        if path.suffix.lower() == ".glb":
            refuse_huge(content)
        try:
            points, faces = _with_trimesh(trimesh, content, path.suffix.lower())
        except ValueError:
            if path.suffix.lower() != ".ply" or b"format binary" not in content[:200]:
                raise
            return read_ply(content)
        if lost := _lost_faces(path.suffix.lower(), content, len(faces)):
            raise ValueError(lost)
        if path.suffix.lower() == ".ply" and len(faces) > _announced(content).get(b"face", 0):
            return read_ply(content)  # it has polygons
        return points, faces
    except Exception as error:  # a damaged file makes the parsers raise nearly anything
        raise InputError(f"{path}: not a readable mesh ({one_line(error)}); replace or remove the file") from error


def _with_trimesh(trimesh: Any, content: bytes, suffix: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # Bytes and no resolver: what a file refers to (textures, other files, addresses) is not looked for.
    with no_log("trimesh"):
        scene = trimesh.load_scene(io.BytesIO(content), file_type=suffix[1:], process=False)
        parts = scene.dump()  # with the transforms of their nodes
    points, faces, count = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0
    for part in parts:
        points.append(np.asarray(part.vertices, dtype=np.float64))
        if isinstance(part, trimesh.Trimesh):  # and not a cloud of points
            faces.append(np.asarray(part.faces, dtype=np.int64) + count)
        count += len(points[-1])
    return np.concatenate(points), np.concatenate(faces)


def _announced(content: bytes) -> dict[bytes, int]:
    """Rows of each element of a .ply, by its header."""
    header = content.partition(b"end_header")[0]
    return {name: int(count) for name, count in re.findall(rb"element\s+(\w+)\s+(\d+)", header)}


def _refuse_ply(content: bytes) -> None:
    """Raises ValueError for a .ply that holds something else than faces."""
    declared = _announced(content)
    if declared.get(b"tristrips") and not declared.get(b"face"):
        raise ValueError("it holds triangle strips, which are not read; store faces, e.g. with meshlab or Blender")
    if declared.get(b"vertex") and not declared.get(b"face"):
        raise ValueError(
            f"it has no faces, only {declared[b'vertex']} points, which have no inside; make a surface of them first, "
            "e.g. Poisson reconstruction in meshlab"
        )


def _whole_stl(content: bytes) -> bytes:
    """A binary .stl without what some programs put behind its triangles."""
    size = 84 + 50 * int.from_bytes(content[80:84], "little")
    text = content.lstrip()[:5] == b"solid" and b"facet" in content[:1024]
    if text and (comma := re.search(rb"\bvertex\s+[^\r\n,]*,[^\r\n]*", content)):
        raise ValueError(f"{comma[0][:60].decode('utf-8', 'replace')!r} came; numbers are written with a point")
    return content[:size] if not text and 84 < size < len(content) else content


def _lost_faces(suffix: str, content: bytes, triangles: int) -> str | None:
    """A sign that a file was cut short, for which trimesh gives the faces that are left; None when whole."""
    if suffix == ".ply":
        header, _, body = content.partition(b"end_header")
        declared = _announced(content)
        faces, rows = declared.get(b"face", 0), sum(declared.values())
        lines = sum(bool(line.strip()) for line in body.splitlines()) if b"format ascii" in header else rows
        return f"{faces} faces announced, {triangles} read" if triangles < faces or lines < rows else None
    if suffix == ".stl" and (triangles == 0 or (content.lstrip()[:5] == b"solid" and _is_cut_text(content))):
        return "cut short, or neither binary nor text"
    return None


def _is_cut_text(content: bytes) -> bool:
    """True for a text .stl without its end; a binary one may begin with "solid" too, and has the length it says."""
    count = int.from_bytes(content[80:84], "little")
    return len(content) != 84 + 50 * count and b"endsolid" not in content


def _trimesh(path: Path) -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise InputError(
            f'{path}: meshes need trimesh ({one_line(error)}); pip install "hyperfields[shapes]"'
        ) from error
    return trimesh


READER = Reader(
    kind="shapes",
    name="meshes",
    wants=f"meshes ({', '.join(MESH_SUFFIXES)})",
    detect=lambda folder: bool(visible_files(folder, MESH_SUFFIXES) or _one_a_folder(folder)),
    open=open_meshes,
    options=frozenset({"progress", "up"}),
    names=lambda folder: list(by_stem(visible_files(folder, MESH_SUFFIXES)) or _one_a_folder(folder)),
    apart=True,
)


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
    except Exception:  # of a damaged file np.load raises nearly anything
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
