"""Meshes from fields, by marching cubes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.ops.threads import one_torch_thread

_TILE = 4  # samples a side of the tiles that `mesh_from_field` decides about


@one_torch_thread()
def mesh_from_field(
    distance: Callable[[Tensor], Tensor],
    *,
    resolution: int = 128,
    box: float = 1.0,
    block: int = 2**18,
    level: float = 0.0,
    safety: float = 1.5,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The surface where `distance` is `level`, as a mesh in the field's frame, triangles wound outwards.

    The box [-box, box]^3 gets `resolution` cells a side. The field is first asked at the centres of tiles of
    4^3 samples. Two sorts of tiles are then asked sample by sample: those where |distance - level| is at
    most `safety` times the reach of the tile (from its centre to the farthest neighbour of its samples),
    and those beside a tile of the other sign. The others take the sign of their centre: they hold no
    surface if the field overestimates distances by less than the factor `safety`. For a field that is not
    nearly a distance (an occupancy) give `safety=math.inf`: all is asked.

    A surface that leaves the box is closed by the box. Without a surface in the box the mesh has no faces.

    Args:
        distance: `[1 n 3]` -> `[1 n 1]`, negative inside, same units as `box`.
        resolution: cells a side.
        box: half of the side of the box.
        block: most points in one call of `distance`.
        level: which level set.
        safety: see above.
        device: where the points for `distance` live; the mesh is on the CPU.

    Not differentiable. Marching cubes of Lewiner, Lopes, Vieira, Tavares, 2003, by scikit-image.

    Raises:
        InputError: when scikit-image is not installed.
        ValueError: when `resolution` is under 2, or the field gives a value that is not finite.
    """
    if resolution < 2:
        raise ValueError(f"mesh_from_field: resolution {resolution} must be at least 2")
    _require_skimage()
    return mesh_from_values(_sample(distance, resolution, box, block, level, safety, torch.device(device)), box=box)


def _require_skimage() -> Any:
    """The function `marching_cubes` of scikit-image.

    Raises:
        InputError: it is not installed.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise InputError(
            f"scikit-image, which meshes need, cannot be imported ({error}): pip install 'hyperfields[shapes]'"
        ) from error
    return marching_cubes


def mesh_from_values(values: Tensor, *, box: float = 1.0) -> Mesh:
    """The surface where values `[r+1 r+1 r+1]` (x, y, z) at the corners of cells of [-box, box]^3 change their sign.

    See `mesh_from_field`.
    """
    marching_cubes = _require_skimage()
    resolution = values.shape[0] - 1
    spacing = 2.0 * box / resolution
    values = values.clone()
    # A sample exactly on the surface would make triangles without area. It counts as just inside: outside,
    # the edges of a convex shape would be cut off by a whole cell.
    values[values == 0.0] = -1e-6 * spacing
    if not bool((values < 0.0).any()):
        return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    # Close the surface at the box: outside is far outside, so that the crossing falls on the last sample.
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1, 1, 1), value=1e3 * box)
    # With values that grow outwards, "descent" winds the triangles outwards (a test says so).
    vertices, faces, _, _ = marching_cubes(padded.cpu().numpy(), 0.0, gradient_direction="descent")
    points = torch.from_numpy(np.ascontiguousarray(vertices)).double() - 1.0
    points = (points.clamp(0.0, float(resolution)) * spacing - box).float()
    return Mesh(points, torch.from_numpy(np.ascontiguousarray(faces)).long())


def vertex_normals(mesh: Mesh) -> Tensor:
    """Unit normals of a mesh's vertices, `[v 3]`: of their triangles, weighted by area; 0 where there are none."""
    corners = mesh.vertices[mesh.faces]  # [f 3 3]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros_like(mesh.vertices).index_add_(0, mesh.faces.flatten(), normals.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(sums, dim=-1, eps=1e-20)


@one_torch_thread()
def grid_values(
    distance: Callable[[Tensor], Tensor],
    resolution: int,
    device: torch.device | str = "cpu",
    *,
    safety: float = math.inf,
) -> Tensor:
    """Values of `distance` at the corners of `resolution` cells a side of [-1, 1]^3: `[r+1 r+1 r+1]` (x, y, z), on the
    CPU. Not differentiable.

    safety: see `mesh_from_field`; by default all are asked.

    Raises:
        ValueError: a value that is not finite.
    """
    return _sample(distance, resolution, 1.0, 2**18, 0.0, safety, torch.device(device))


@torch.no_grad()
def _sample(
    distance: Callable[[Tensor], Tensor],
    resolution: int,
    box: float,
    block: int,
    level: float,
    safety: float,
    device: torch.device,
) -> Tensor:
    """`distance - level` at the samples of the grid, `[r+1 r+1 r+1]` (x, y, z), exact near the surface."""
    spacing = 2.0 * box / resolution
    tiles = -(-(resolution + 1) // _TILE)

    def ask(indices: Tensor) -> Tensor:
        """Values at positions `[n 3]` counted in samples."""
        points = (indices * spacing - box).to(device)
        value = distance(points[None]).reshape(-1).float().cpu() - level
        if not bool(torch.isfinite(value).all()):
            raise ValueError("mesh_from_field: the field gives values that are not finite")
        return value

    def blocks(n: int, each: int) -> Iterator[slice]:
        return (slice(i, i + each) for i in range(0, n, each))

    steps = torch.arange(tiles, dtype=torch.float32)
    corners = torch.cartesian_prod(steps, steps, steps) * _TILE  # [tiles^3 3], first sample of each tile
    middle = 0.5 * (_TILE - 1)
    coarse = torch.cat([ask(corners[part] + middle) for part in blocks(len(corners), block)])
    # One sample more than to the tile's own corners: then an edge of the grid that crosses the surface has
    # both its ends asked, and no vertex is placed by a value that was filled in.
    reach = 3.0**0.5 * (middle + 1.0) * spacing
    near = coarse.abs() <= safety * reach
    # Tiles beside one of the other sign are asked too: no false surface appears between two signs filled in.
    cube = (coarse < 0.0).float().reshape(1, 1, tiles, tiles, tiles)
    pool = torch.nn.functional.max_pool3d
    mixed = pool(cube, 3, 1, 1) + pool(1.0 - cube, 3, 1, 1) > 1.5
    chosen = (near | mixed.flatten()).nonzero().squeeze(1)

    values = coarse[:, None].repeat(1, _TILE**3)
    step = torch.arange(_TILE, dtype=torch.float32)
    inner = torch.cartesian_prod(step, step, step)  # [64 3]
    for part in blocks(len(chosen), max(1, block // _TILE**3)):
        which = chosen[part]
        indices = (corners[which][:, None] + inner).reshape(-1, 3)
        values[which] = ask(indices).reshape(-1, _TILE**3)
    grid = values.reshape(tiles, tiles, tiles, _TILE, _TILE, _TILE).permute(0, 3, 1, 4, 2, 5)
    side = tiles * _TILE
    end = resolution + 1
    return grid.reshape(side, side, side)[:end, :end, :end].contiguous()
