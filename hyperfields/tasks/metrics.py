"""Metrics: images (psnr, ssim), shapes (iou, distances). Plain tensors in, unreduced out.

The learned image distance is in `hyperfields.evaluation.lpips`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.data.shapes import require_open3d
from hyperfields.data.solids import Solid, solid_of
from hyperfields.data.triangles import areas, morton_order
from hyperfields.errors import InputError

SSIM_WINDOW = 11  # pixels
SPECK = 0.15  # beyond the colours around it, of the range from 0 to 1
F_SCORE_RADIUS = 0.01  # of the longest side of the truth's bounding box


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of `image` `[... h w c]` in [0, 1], or uint8, against `truth`: `[...]`.

    Equal images give infinity, which JSON cannot hold: the caller writes null.

    Raises:
        ValueError: when the shapes differ.
        InputError: other integers.
    """
    image, truth = _colors("psnr", image), _colors("psnr", truth)
    _require_same_shape("psnr", image, truth)
    error = (image.double() - truth.double()).square().mean((-3, -2, -1))
    return (-10.0 * error.log10()).to(image.dtype)


def specks(image: Tensor, truth: Tensor) -> Tensor:
    """Specks among a thousand pixels of `image` `[... h w c]` in [0, 1], or uint8: `[...]`.

    A speck is a pixel of which a channel is further than `SPECK` beyond what the truth has there and in the eight
    pixels around.

    Raises:
        ValueError: when the shapes differ.
        InputError: other integers.
    """
    image, truth = _colors("specks", image), _colors("specks", truth)
    _require_same_shape("specks", image, truth)
    around = truth.movedim(-1, -3).reshape(-1, truth.shape[-1], *truth.shape[-3:-1])
    pool = torch.nn.functional.max_pool2d
    high, low = (sign * pool(sign * around, 3, 1, 1) for sign in (1.0, -1.0))  # what is padded counts for nothing
    pixels = image.movedim(-1, -3).reshape(around.shape)
    found = ((pixels > high + SPECK) | (pixels < low - SPECK)).any(1).double().mean((-2, -1))
    return (1000.0 * found).reshape(image.shape[:-3]).to(image.dtype)


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of `image` `[... h w c]` in [0, 1], or uint8, to `truth`: `[...]`, mean over all pixels.

    Gaussian window of 11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, only windows that lie
    inside the image (Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, 2004, section III.B).

    Raises:
        ValueError: when the shapes differ, or a side is under 11 pixels (the caller prints n/a).
        InputError: other integers.
    """
    image, truth = _colors("ssim", image), _colors("ssim", truth)
    _require_same_shape("ssim", image, truth)
    height, width, channels = image.shape[-3:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"ssim: image is {height}x{width}, needs at least {SSIM_WINDOW} pixels a side")
    # float64: the variances below are small differences of large numbers.
    x, y = (t.double().movedim(-1, -3).reshape(-1, 1, height, width) for t in (image, truth))  # [... c] as the batch
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=image.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offsets / 1.5).square())
    window = window / window.sum()

    def smooth(t: Tensor) -> Tensor:
        t = torch.nn.functional.conv2d(t, window[None, None, :, None])
        return torch.nn.functional.conv2d(t, window[None, None, None, :])

    mean_x, mean_y = smooth(x), smooth(y)
    variance_x = smooth(x * x) - mean_x * mean_x
    variance_y = smooth(y * y) - mean_y * mean_y
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    value = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    )
    return value.mean((-3, -2, -1)).reshape(*image.shape[:-3], channels).mean(-1).to(image.dtype)


def shape_metrics(mesh: Mesh, truth: Mesh, *, samples: int = 100_000, seed: int = 0) -> dict[str, float]:
    """Distances between `mesh` and `truth` by name; both in the same frame (their `scale` and `center` are not used).

    The unit of length is L, the longest side of the bounding box of `truth`. `samples` points are drawn on
    each of the two surfaces, uniformly by area, and compared with the exact nearest point of the other one's
    triangles.

    - `iou`: volume of the intersection over volume of the union, by `samples` uniform points in the box round
      both meshes, enlarged by 0.02 L on each side. `mesh` is taken as closed and never meets itself, as marching
      cubes makes it; `truth` may be made of parts that touch or overlap, of which only the outside is compared.
    - `surface_distance`: mean distance to the other surface, averaged over the two directions, in L.
    - `chamfer`: mean squared distance to the other surface, summed over the two directions, in L squared.
    - `f_score`: harmonic mean of precision (share of the points of `mesh` within 0.01 L of `truth`) and
      recall (share of the points of `truth` within 0.01 L of `mesh`).
    - `normal_consistency`: mean |cos| of the angle between the normal at a point and that of the nearest
      triangle of the other mesh, averaged over the two directions.

    A mesh without area has iou 0, f_score 0, infinite surface_distance and chamfer, normal_consistency nan.
    JSON has neither: the caller writes null. A mean that leaves such scenes out flatters the result.

    All randomness comes from `seed`. Not differentiable.

    Raises:
        ValueError: when `truth` has no area, or a vertex is not finite.
        InputError: when open3d cannot be imported.
    """
    for name, given in (("mesh", mesh), ("truth", truth)):
        if not bool(torch.isfinite(given.vertices).all()):
            raise ValueError(f"shape_metrics: {name} has vertices that are not finite")
    if not _has_area(truth):
        raise ValueError(f"shape_metrics: truth has no area ({len(truth.faces)} faces)")
    if not _has_area(mesh):
        return {
            "iou": 0.0,
            "surface_distance": math.inf,
            "chamfer": math.inf,
            "f_score": 0.0,
            "normal_consistency": math.nan,
        }
    generator = torch.Generator().manual_seed(seed)
    used = truth.vertices[truth.faces.flatten()]
    side = float((used.amax(0) - used.amin(0)).max())
    solid = solid_of(truth)  # made of parts that touch or overlap: only their outside is compared
    shown = truth if solid is None else _soup(solid.surface)
    scene_mesh, scene_truth = _raycasting_scene(mesh), _raycasting_scene(shown)
    # From mesh to truth (precision) and from truth to mesh (recall).
    forward = _compare(sample_surface(mesh, samples, generator), scene_truth)
    backward = _compare(sample_surface(shown, samples, generator), scene_mesh)
    radius = F_SCORE_RADIUS * side
    precision, recall = (float((c.distances <= radius).double().mean()) for c in (forward, backward))
    return {
        "iou": _iou(mesh, shown, scene_mesh, solid or scene_truth, samples, 0.02 * side, generator),
        "surface_distance": float(forward.distances.mean() + backward.distances.mean()) / (2.0 * side),
        "chamfer": float(forward.distances.square().mean() + backward.distances.square().mean()) / side**2,
        "f_score": 2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0,
        "normal_consistency": 0.5 * float(forward.cosines.mean() + backward.cosines.mean()),
    }


class Samples(NamedTuple):
    """Points on a surface."""

    points: Tensor  # [n 3] float32
    normals: Tensor  # [n 3] float32, unit, of the triangle that holds the point


def sample_surface(mesh: Mesh, n: int, generator: torch.Generator) -> Samples:
    """`n` points on the triangles of `mesh`, uniform by area.

    Raises:
        ValueError: when the mesh has no area.
    """
    corners = mesh.vertices.double()[mesh.faces]  # [f 3 3]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = cross.norm(dim=-1)  # twice the area
    if not bool(areas.sum() > 0.0):
        raise ValueError(f"sample_surface: mesh has no area ({len(mesh.faces)} faces)")
    # Inverse transform sampling; torch.multinomial stops at 2^24 triangles.
    cumulative = areas.cumsum(0)
    draw = torch.rand(n, 3, dtype=torch.float64, generator=generator)
    face = torch.searchsorted(cumulative, draw[:, 0] * cumulative[-1], right=True).clamp(max=len(areas) - 1)
    # Uniform in a triangle: Osada, Funkhouser, Chazelle, Dobkin: Shape distributions, 2002, section 4.2.
    u, v = draw[:, 1:2].sqrt(), draw[:, 2:3]
    a, b, c = corners[face].unbind(1)
    points = (1.0 - u) * a + u * (1.0 - v) * b + u * v * c
    normals = cross[face] / areas[face, None]
    return Samples(points.float(), normals.float())


class _Comparison(NamedTuple):
    distances: Tensor  # [n] float64, to the nearest point of the other surface
    cosines: Tensor  # [n] float64, |n . n'|


def _compare(samples: Samples, scene: Any) -> _Comparison:
    order = _morton_order(samples.points)
    points, normals = samples.points[order], samples.normals[order]
    found = scene.compute_closest_points(_tensor(points))
    nearest = torch.from_numpy(found["points"].numpy())
    other = torch.from_numpy(found["primitive_normals"].numpy())
    distances = (points.double() - nearest.double()).norm(dim=-1)
    cosines = (normals.double() * other.double()).sum(-1).abs()
    return _Comparison(distances, cosines)


def _iou(
    mesh: Mesh,
    truth: Mesh,
    scene_mesh: Any,
    inside_truth: Any,
    samples: int,
    margin: float,
    generator: torch.Generator,
) -> float:
    both = torch.cat([m.vertices[m.faces.flatten()] for m in (mesh, truth)])
    low, high = both.amin(0) - margin, both.amax(0) + margin
    points = low + (high - low) * torch.rand(samples, 3, generator=generator)
    points = points[_morton_order(points)]
    here, there = (_inside(solid, points) for solid in (scene_mesh, inside_truth))
    union = int((here | there).sum())
    return int((here & there).sum()) / union if union else 0.0


def _inside(solid: Any, points: Tensor) -> Tensor:
    """`[n]` for a Solid, or for a scene of rays: three a point and the majority, as one can run along an edge."""
    if isinstance(solid, Solid):
        return torch.from_numpy(solid.inside(points.double().numpy()))
    return torch.from_numpy(solid.compute_occupancy(_tensor(points), nsamples=3).numpy()) > 0.5


def _soup(corners: Any) -> Mesh:
    """A mesh of triangles `[t 3 3]`, each with corners of its own."""
    vertices = torch.from_numpy(corners).reshape(-1, 3).float()
    return Mesh(vertices, torch.arange(len(vertices)).reshape(-1, 3))


def _raycasting_scene(mesh: Mesh) -> Any:
    """open3d's RaycastingScene of one mesh."""
    o3d = require_open3d()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(_tensor(mesh.vertices, "float32"), _tensor(mesh.faces, "uint32"))
    return scene


def _tensor(values: Tensor, dtype: str = "float32") -> Any:
    """An open3d tensor of the same values."""
    return require_open3d().core.Tensor(values.detach().cpu().numpy().astype(dtype, order="C"))


def _morton_order(points: Tensor) -> Tensor:
    """Indices that put `points` `[n 3]` along a space-filling curve, which makes queries faster."""
    low = points.amin(0)
    extent = (points.amax(0) - low).max().clamp_min(1e-30)
    return torch.from_numpy(morton_order(((points - low) / extent * 1023.0).long().cpu().numpy()))


def _has_area(mesh: Mesh) -> bool:
    if len(mesh.faces) == 0:
        return False
    return bool(areas(mesh.vertices.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()]).sum() > 0.0)


def _colors(name: str, image: Any) -> Tensor:
    """Floats as they are, uint8 as [0, 1].

    Raises:
        InputError: other integers, or what is no picture.
    """
    if not isinstance(image, Tensor | np.ndarray):
        raise InputError(f"{name}: {type(image).__name__} came, wanted a tensor or an array [... h w c]")
    colors: Tensor = torch.as_tensor(image)
    if colors.dtype == torch.uint8:
        return colors.float() / 255.0
    if not colors.is_floating_point():
        raise InputError(f"{name}: {colors.dtype} came, wanted floats in [0, 1] or uint8 in [0, 255]")
    return colors


def _require_same_shape(name: str, image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.ndim < 3:
        raise ValueError(f"{name}: image {list(image.shape)} and truth {list(truth.shape)} must be equal [... h w c]")
