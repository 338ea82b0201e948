"""Where a scene is: the box of its frame, found from its cameras and what is transparent in their pictures.

Fields live in [-1, 1]^3. Cameras of any unit and centre are brought there by a scale and a centre,
p_file = p * scale + centre, that a run keeps and undoes in exports. Cameras that already look at the box as those of
NeRF-synthetic do (4 away, 40 degrees) stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfields.scenes._transforms import Hints

FloatArray = NDArray[np.float64]
MARGIN = 1.45  # half a picture's width at the scene over half a box: NeRF-synthetic's
SEEN = (0.6, 3.0)  # of half a picture's width at the origin, where a box of half side 1 fits its cameras
LOOKING = 0.8  # share of the cameras that must look at the box
RAYS = 20_000  # of a scene that are looked at
CUT = 1e-3  # share of the object's rays that may miss [-1, 1]^3, below which it stays
ROUND = 0.25  # share from which the pictures show what is all round, not an object
GROWN, MARGIN_GROWN = 3.0, 1.1  # a ray that meets the box's corner shows what is outside: room for it
SILHOUETTE = 99.5  # per cent of the object's rays that pass within the box's inner sphere
NGP_SCALE, NGP_OFFSET = 0.33, 0.5  # instant-ngp's, where the file gives none


class Box(NamedTuple):
    """A box and where it came from."""

    scale: float = 1.0  # half its side, the file's unit
    center: FloatArray = np.zeros(3)  # [3]
    how: str = "as it is"

    @property
    def is_identity(self) -> bool:
        return self.scale == 1.0 and not self.center.any()

    def into(self, pose: FloatArray) -> FloatArray:
        """A pose `[4 4]` of the file in the scene frame."""
        moved = pose.copy()
        moved[:3, 3] = (pose[:3, 3] - self.center) / self.scale
        return moved


def sampled_rays(
    poses: FloatArray, intrinsics: FloatArray, visible: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Origins and unit directions `[r 3]` of some of the pixels where `visible` `[v h w]` is true.

    intrinsics: `[v 4]`, fx, fy, cx, cy in pixels of the pictures.
    """
    index = np.flatnonzero(visible)
    if len(index) > RAYS:
        index = index[np.random.default_rng(0).choice(len(index), RAYS, replace=False)]
    view, v, u = np.unravel_index(index, visible.shape)
    fx, fy, cx, cy = intrinsics[view].T
    local = np.stack(((u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, np.ones(len(view))), axis=-1)
    directions = np.einsum("rij,rj->ri", poses[view, :3, :3], local)
    return poses[view, :3, 3], directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def find_box(
    poses: FloatArray, slopes: FloatArray, hints: Hints, silhouette: tuple[FloatArray, FloatArray] | None
) -> Box:
    """The box of a scene.

    Args:
        poses: `[v 4 4]`, OpenCV, the file's unit.
        slopes: `[v]`, half the smaller side of a picture over its focal length.
        silhouette: rays through opaque pixels, where pictures have alpha.
    """
    origins, axes = poses[:, :3, 3], poses[:, :3, 2]
    if hints.scale is not None or hints.offset is not None:
        scale = NGP_SCALE if hints.scale is None else hints.scale
        offset = np.full(3, NGP_OFFSET) if hints.offset is None else hints.offset
        half = 0.5 * (hints.aabb_scale or 1.0) / scale
        return Box(half, (0.5 - offset) / scale, "from scale, offset and aabb_scale")
    if _looks_at_unit_box(origins, axes, slopes):
        return Box() if silhouette is None else _grown(silhouette)
    box = _from_cameras(origins, axes, slopes, silhouette)
    if hints.aabb_scale is not None:
        limit = 0.5 * hints.aabb_scale / NGP_SCALE
        if box.scale > limit:
            return Box(limit, np.zeros(3), "from aabb_scale")
    return box


def outside(box: Box, rays: tuple[FloatArray, FloatArray]) -> float:
    """Share of rays `[r 3]`, file's unit, that miss the box."""
    origins, directions = (rays[0] - box.center) / box.scale, rays[1]
    if not len(origins):
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (-1.0 - origins) / directions, (1.0 - origins) / directions
    first, last = np.fmin(low, high), np.fmax(low, high)
    parallel = np.abs(directions) < 1e-12
    inside = np.abs(origins) <= 1.0
    first = np.where(parallel, np.where(inside, -np.inf, np.inf), first)
    last = np.where(parallel, np.where(inside, np.inf, -np.inf), last)
    return float(((np.maximum(first.max(-1), 0.0)) > last.min(-1)).mean())


def up_of(poses: FloatArray, hints: Hints) -> FloatArray:
    """The direction that is up in pictures `[3]`, an axis where one is near: the file's, else the cameras' mean."""
    if hints.up is not None and np.linalg.norm(hints.up) > 0.0:
        return np.asarray(hints.up / np.linalg.norm(hints.up))
    mean = -poses[:, :3, 1].mean(axis=0)  # tilts cancel round a circle
    axes = np.concatenate((np.eye(3), -np.eye(3)))
    near = axes[np.argmax(axes @ mean)]
    length = float(np.linalg.norm(mean))
    if length < 1e-3 or float(near @ mean) / length > 0.8:
        return near if length >= 1e-3 else np.array([0.0, 0.0, 1.0])
    return np.asarray(mean / length)


def nearest_point(origins: FloatArray, directions: FloatArray) -> tuple[FloatArray, float]:
    """The point `[3]` nearest to lines, least squares, and how well it is known: 0 for parallel lines, at most 1."""
    middle = origins.mean(axis=0)  # far from the origin even float64 loses digits
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    matrix = across.mean(axis=0)
    right = np.einsum("vij,vj->i", across, origins - middle) / len(origins)
    sound = float(np.linalg.eigvalsh(matrix)[0])
    return middle + np.linalg.lstsq(matrix, right, rcond=1e-9)[0], sound


def _looks_at_unit_box(origins: FloatArray, axes: FloatArray, slopes: FloatArray) -> bool:
    depth = -(origins * axes).sum(-1)
    miss = np.linalg.norm(origins + depth[:, None] * axes, axis=-1)
    half = depth * slopes
    looking = (depth > 0.0) & (miss < 0.75 * half) & (half > SEEN[0]) & (half < SEEN[1])
    return bool(looking.mean() >= LOOKING)


def _grown(silhouette: tuple[FloatArray, FloatArray]) -> Box:
    """The box round the origin that next to all rays through the object meet, [-1, 1]^3 where that will do."""
    scale = 1.0
    if outside(Box(), silhouette) > ROUND or len(np.unique(silhouette[0], axis=0)) < 2:
        return Box()  # the pictures are full, or one picture does not tell large from near
    while outside(Box(scale), silhouette) > CUT and scale < GROWN:
        scale *= 1.02
    if scale == 1.0:
        return Box()
    return Box(scale * MARGIN_GROWN, np.zeros(3), "as the object is larger than [-1, 1]^3")


def _from_cameras(
    origins: FloatArray, axes: FloatArray, slopes: FloatArray, silhouette: tuple[FloatArray, FloatArray] | None
) -> Box:
    if silhouette is not None and len(silhouette[0]) and len(np.unique(silhouette[0], axis=0)) > 1:
        center, sound = nearest_point(*silhouette)
        if sound > 1e-3 and _ahead(center, origins, axes) >= LOOKING:
            along = ((center - silhouette[0]) * silhouette[1]).sum(-1, keepdims=True)
            radius = np.percentile(np.linalg.norm(silhouette[0] + along * silhouette[1] - center, axis=-1), SILHOUETTE)
            if radius > 0.0:
                return Box(float(1.05 * radius), center, "from the outlines of the object")
    focus, sound = nearest_point(origins, axes)
    if sound > 1e-3 and _ahead(focus, origins, axes) >= LOOKING:
        depth = ((focus - origins) * axes).sum(-1)
        return Box(float(np.median(np.abs(depth) * slopes)) / MARGIN, focus, "where the cameras look")
    middle = origins.mean(axis=0)
    spread = float(np.linalg.norm(origins - middle, axis=-1).max())
    mean = axes.mean(axis=0)
    if np.linalg.norm(mean) > 0.5:  # side by side: the scene is ahead, how far nobody knows
        distance = 4.0 * spread if spread > 1e-9 else 4.0
        forward = mean / np.linalg.norm(mean)
        half = distance * float(np.median(slopes)) / MARGIN
        return Box(half, middle + distance * forward, "a guess, as all cameras look one way")
    return Box(3.0 * spread if spread > 1e-9 else 1.0, middle, "a guess round the cameras, which look outwards")


def _ahead(point: FloatArray, origins: FloatArray, axes: FloatArray) -> float:
    """Share of the cameras that have a point before them."""
    return float((((point - origins) * axes).sum(-1) > -1e-9).mean())
