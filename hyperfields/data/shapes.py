"""Shapes: meshes in the box, and a pool of points with signed distances round each."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.data.base import Kind, Mesh, Points, scene_names, shortened
from hyperfields.data.solids import solid_of
from hyperfields.data.triangles import areas, check_triangles, morton_order, scene_mesh
from hyperfields.errors import InputError
from hyperfields.ops.gather import gather_pairs

SYSTEM_LIBRARIES = "libegl1 libgl1 libx11-6 libusb-1.0-0 libgomp1"  # Debian packages that open3d loads

Progress = Callable[[int, int, str], None]  # (done, total, name)


class Sampling(NamedTuple):
    """Distribution of a shape's pool of points; distances in scene units."""

    points: int = 200_000
    near: float = 0.4  # share of the points on the surface plus noise of `near_sigma`
    near_sigma: float = 0.01
    wide: float = 0.3  # the same with `wide_sigma`; the rest is uniform in the box
    wide_sigma: float = 0.05
    rays: int = 3  # votes on inside or outside per point, odd: a ray through an edge is outvoted


class Shapes:
    """Shapes in the box [-1, 1]^3.

    Args:
        meshes: one, or a list with one a scene: `Mesh` (in the scene frame, inside the box), a pair of vertices `[v 3]`
            and faces `[f 3]`, or anything with `vertices` and `faces`, such as a mesh of trimesh. All but `Mesh` are
            centred and scaled to a longest side of 1.8, and their vertices at one place are joined.
        names: one per mesh, by default "0", "1", ...
        sampling: of the points that each mesh gets.
        pool: `[s p 4]` float32, points drawn before: x, y, z and the signed distance (scene units, negative inside).
        progress: called as (done, total, name) after each shape that is sampled.

    Raises:
        InputError: a mesh without faces, extent or area, one that is not finite or leaves the box; names or a pool that
            do not fit; open3d, which measures the distances, is missing.

    Warns:
        UserWarning: an open surface (the sign of its distances is a guess).
    """

    kind: Kind = "shapes"

    def __init__(
        self,
        meshes: Any,
        names: Iterable[str] | None = None,
        *,
        sampling: Sampling | None = None,
        pool: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        meshes = _as_list(meshes)
        self.names = scene_names(names, len(meshes))
        self._meshes = tuple(_as_mesh(mesh, f"mesh {name}") for name, mesh in zip(self.names, meshes, strict=True))
        if pool is None:
            sampling, pools = sampling or Sampling(), []
            for name, mesh in zip(self.names, self._meshes, strict=True):
                pools.append(torch.from_numpy(sample_pool(mesh, sampling, _seed(mesh, sampling))))
                if progress is not None:
                    progress(len(pools), len(self.names), name)
            pool = torch.stack(pools)
        if pool.ndim != 3 or pool.shape[2] != 4 or pool.shape[0] != len(self.names):
            raise InputError(f"pool: {tuple(pool.shape)} came for {len(self.names)} meshes, wanted [s p 4]")
        self._points_each = int(pool.shape[1])
        self._pool = pool.reshape(-1, 4).contiguous()

    def __repr__(self) -> str:
        return f"Shapes({shortened(self.names)}; {self._points_each:,} points each)"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """`n` points per scene, drawn from the pools with replacement.

        Args:
            scenes: `[s]` int64.

        Returns:
            x `[s n 3]` in [-1, 1]^3 and target `[s n 1]`, the signed distance (scene units, negative inside).
        """
        return drawn_points(self._pool, self._points_each, scenes, n, generator)

    def to(self, device: torch.device | str) -> Shapes:
        """The same with its samples on `device`, where batches then come from; `generator` must be there too."""
        moved = copy.copy(self)
        moved._pool = self._pool.to(device)
        return moved

    def reference(self, scene: int, split: str = "test") -> Mesh:
        """The mesh in the scene frame; a shape has no splits, so `split` makes no difference."""
        return self._meshes[scene]


def drawn_points(pool: Tensor, each: int, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
    """The batch of `Shapes`, of pools of `each` points that lie one after another in `pool` `[s * each, 4]`."""
    index = torch.randint(each, (len(scenes), n), generator=generator, device=generator.device)
    return Points(*gather_pairs((pool[:, :3], each), (pool[:, 3:], each), scenes, index))


def sample_pool(mesh: Mesh, sampling: Sampling, seed: int) -> NDArray[np.float32]:
    """Points in [-1, 1]^3 round a mesh with their signed distance (negative inside): `[p 4]` float32.

    Points that the noise takes out of the box are put back on its wall; their distance is that of the wall.

    Raises:
        InputError: open3d is missing.
    """
    rng = np.random.default_rng(seed)
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]  # [f 3 3]
    area = areas(corners)
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
    points = points[morton_order(np.clip((points + 1.0) * 512.0, 0, 1023).astype(np.int64))]
    return np.concatenate((points, signed_distance(mesh, points, sampling.rays)[:, None]), axis=-1, dtype=np.float32)


def signed_distance(mesh: Mesh, points: NDArray[np.float32], rays: int = 3) -> NDArray[np.float32]:
    """Distances `[n]` of `points` `[n 3]` to the surface, negative inside, scene units. Not differentiable.

    Parts that touch or overlap are one solid, and what of them lies inside it is no surface: see `solids`.

    Args:
        rays: votes on inside or outside, for surfaces that never meet themselves.

    Raises:
        InputError: open3d is missing.
    """
    o3d = require_open3d()
    scene = o3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())
    solid = solid_of(mesh)
    distance: NDArray[np.float32]
    if solid is None:
        vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy().astype(np.uint32)
        scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(faces))
        distance = scene.compute_signed_distance(o3d.core.Tensor(points), nsamples=rays).numpy()
        return distance
    vertices = solid.surface.reshape(-1, 3).astype(np.float32)
    faces = np.arange(len(vertices), dtype=np.uint32).reshape(-1, 3)
    scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(faces))
    distance = scene.compute_distance(o3d.core.Tensor(points)).numpy()
    return np.where(solid.inside(points.astype(np.float64)), -distance, distance)


def require_open3d(where: str = "") -> Any:
    """The module open3d, whose ray casting measures distances to meshes.

    Raises:
        InputError: it is not installed, or a system library that it loads is missing; `where` opens the message.
    """
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise InputError(f'{where}meshes need open3d ({_line(error)}); pip install "hyperfields[shapes]"') from error
    except (ImportError, OSError) as error:
        raise InputError(
            f"{where}open3d does not load ({_line(error)}); on Debian: apt-get install {SYSTEM_LIBRARIES}"
        ) from error
    return open3d


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _as_list(given: Any) -> list[Any]:
    """Meshes as a list; one alone is a list of one.

    Raises:
        InputError: a path, or what holds no meshes.
    """
    if isinstance(given, str | PathLike):
        raise InputError(f"meshes: the path {str(given)!r:.100} came, wanted meshes; read a folder with hf.open_family")
    pair = isinstance(given, tuple) and len(given) == 2 and all(hasattr(part, "shape") for part in given)
    if isinstance(given, Mesh) or hasattr(given, "faces") or pair:
        return [given]
    if not isinstance(given, Iterable):
        raise InputError(f"meshes: {type(given).__name__} came, wanted a list of meshes")
    return list(given)


def _as_mesh(given: Any, where: str) -> Mesh:
    """A `Mesh` after its checks; anything else brought into the scene frame."""
    if isinstance(given, Mesh):
        points, faces = given.vertices.detach().cpu().double().numpy(), given.faces.detach().cpu().numpy()
        check_triangles(points, faces, where)
        if np.abs(points[faces]).max() > 1.0 + 1e-6:
            raise InputError(
                f"{where}: reaches {np.abs(points[faces]).max():.4g}, out of the box [-1, 1]^3 of the scene frame; "
                "give (vertices, faces) to have it scaled"
            )
        if not areas(points[faces]).sum() > 0.0:
            raise InputError(f"{where}: every face is without area; wanted a triangle mesh")
        return given._replace(vertices=torch.from_numpy(points).float(), faces=torch.from_numpy(faces).long())
    try:
        vertices, faces = (given.vertices, given.faces) if hasattr(given, "faces") else given
        arrays = np.array(_cpu(vertices), dtype=np.float64), np.array(_cpu(faces))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where}: {type(given).__name__} came, wanted a Mesh, a pair (vertices, faces) or a mesh of trimesh"
        ) from error
    if not np.issubdtype(arrays[1].dtype, np.integer):
        raise InputError(f"{where}: faces of {arrays[1].dtype} came, wanted whole numbers")
    return scene_mesh(arrays[0], arrays[1].astype(np.int64), where)


def _cpu(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _seed(mesh: Mesh, sampling: Sampling) -> int:
    """Of a mesh's samples: the same triangles get the same points, whatever was drawn before."""
    digest = hashlib.sha256(repr(tuple(sampling)).encode())
    digest.update(mesh.vertices.numpy().tobytes() + mesh.faces.numpy().tobytes())
    return int(digest.hexdigest()[:16], 16)
