"""Pictures of meshes, to be looked at beside those of shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh
from hyperfields.data.shapes import require_open3d
from hyperfields.rendering.shading import ambient_occlusion, shade

RAYS = 2**14  # between two pauses

Pause = Callable[[], None]


def mesh_picture(
    mesh: Mesh,
    camera: Camera,
    size: tuple[int, int],
    *,
    supersample: int = 1,
    background: float = 1.0,
    pause: Pause | None = None,
) -> Tensor:
    """A mesh in the light of `shading.shade`, `[h w 3]`, by open3d's ray casting.

    Args:
        supersample: a pixel is the mean of this number squared of rays.
        pause: called between blocks of rays; what it raises ends the picture.

    Raises:
        InputError: open3d is missing.
    """
    o3d = require_open3d()
    height, width = size[0] * supersample, size[1] * supersample
    origins, directions = camera.resized(height, width).rays()
    scene = o3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())

    def o3d_tensor(values: Tensor, dtype: type = np.float32) -> Any:
        return o3d.core.Tensor(np.ascontiguousarray(values.numpy(), dtype))

    scene.add_triangles(o3d_tensor(mesh.vertices), o3d_tensor(mesh.faces, np.uint32))

    def distance(points: Tensor, counts: Tensor) -> Tensor:
        return torch.from_numpy(scene.compute_signed_distance(o3d_tensor(points)).numpy())[:, None]

    image = torch.full((height * width, 3), background)
    for block in torch.arange(height * width).split(RAYS):
        if pause is not None:
            pause()
        o, d = origins[block], directions[block]
        hits = scene.cast_rays(o3d_tensor(torch.cat((o, d), 1)))
        t = torch.from_numpy(hits["t_hit"].numpy())
        hit = t.isfinite()
        normals = torch.from_numpy(hits["primitive_normals"].numpy())[hit]
        x = o[hit] + t[hit, None] * d[hit]
        occlusion = ambient_occlusion(distance, x, normals, torch.tensor([len(x)]))
        image[block[hit]] = shade(normals, d[hit], occlusion)
    return image.reshape(size[0], supersample, size[1], supersample, 3).mean((1, 3))
