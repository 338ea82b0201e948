"""Where a scene is: the box of its frame, found from its cameras and what is transparent in their pictures.

Fields live in [-1, 1]^3. Cameras of any unit and centre are brought there by a scale and a centre,
p_file = p * scale + centre, that a run keeps and undoes in exports. Cameras that already look at the box as those of
NeRF-synthetic do (4 away, 40 degrees) stay as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera, Lens

FloatArray = NDArray[np.float64]
MARGIN = 1.45  # half a picture's width at the scene over half a box: NeRF-synthetic's
SEEN = (0.6, 3.0)  # of half a picture's width at the origin, where a box of half side 1 fits its cameras
LOOKING = 0.8  # share of the cameras that must look at the box
RAYS = 20_000  # of a scene that are looked at
CUT = 1e-3  # share of the object's rays that may miss [-1, 1]^3, below which it stays
WIDE = 0.5  # share of what pictures without alpha show outside of the box, from which it is widened
ROUND = 0.1  # share from which the pictures show what is all round, not an object
SILHOUETTE = 99.5  # per cent of the object's rays that pass within the box's inner sphere
OUTLINES = 4  # places from which an object's outlines tell where it is; of fewer, cameras tell it better ...
DEEPER = 1.6  # ... and the outlines its size: of one, half a box is at most so many times as large as its radius
FEW = 20  # points that tell nothing
HELD = 80  # per cent of the points that a box holds
FARTHEST = 2.0  # half a box over the median distance of the points, where cameras look outwards or one way
STEEPEST = math.tan(math.radians(60.0))  # half a picture's width at distance 1 of lenses that see more


POINTS = "from the points"
OUTWARDS = "a guess round the cameras, which look outwards"


class Box(NamedTuple):
    """A box and where it came from."""

    scale: float = 1.0  # half its side, the file's unit
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    how: str = "as it is"
    lost: float | None = None  # share of what the pictures show that is outside, where it is known

    @property
    def is_identity(self) -> bool:
        return self.frame == (1.0, 0.0, 0.0, 0.0)

    @property
    def frame(self) -> tuple[float, float, float, float]:
        return (self.scale, *self.center)


class Seen(NamedTuple):
    """Some of the rays of a scene's pictures, the file's unit."""

    origins: FloatArray  # [r 3]
    directions: FloatArray  # [r 3], unit


def pose_of(camera: Camera) -> FloatArray:
    """`T_world_camera` `[4 4]` in float64."""
    return np.asarray(camera.T_world_camera.detach().cpu().double())


def seen_rays(
    cameras: Sequence[Camera], visible: Sequence[int], pixels: Callable[[int, NDArray[np.intp]], NDArray[np.intp]]
) -> Seen:
    """Rays of some of the visible pixels.

    Args:
        cameras: of the pictures.
        visible: how many visible pixels each picture has.
        pixels: gives the places of some of these, counted in order, in one of the pictures.
    """
    total = sum(visible)
    chosen = np.random.default_rng(0).choice(total, RAYS, replace=False) if total > RAYS else np.arange(total)
    origins, places = np.empty((len(chosen), 3)), np.empty((len(chosen), 2))
    owner = np.zeros(len(chosen), dtype=np.intp)
    first = 0
    for number, (camera, count) in enumerate(zip(cameras, visible, strict=True)):
        here = np.flatnonzero((chosen >= first) & (chosen < first + count))
        if not len(here):
            first += count
            continue
        v, u = np.divmod(pixels(number, chosen[here] - first), camera.width)
        places[here] = np.stack(((u + 0.5 - camera.cx) / camera.fx, (v + 0.5 - camera.cy) / camera.fy), axis=-1)
        origins[here], owner[here] = pose_of(camera)[:3, 3], number
        first += count
    turns = np.stack([pose_of(camera)[:3, :3] for camera in cameras])
    directions = np.einsum("rij,rj->ri", turns[owner], _directions(places, [camera.lens for camera in cameras], owner))
    return Seen(origins, directions / np.linalg.norm(directions, axis=-1, keepdims=True))


def _directions(places: FloatArray, lenses: Sequence[Lens | None], owner: NDArray[np.intp]) -> FloatArray:
    """Directions `[n 3]` of places `[n 2]` in the frames of the cameras that own them."""
    directions = np.concatenate((places, np.ones((len(places), 1))), axis=-1)
    for lens in set(lenses) - {None}:
        here = np.array([other == lens for other in lenses])[owner]
        assert lens is not None
        directions[here] = lens.directions(torch.from_numpy(places[here]))
    return directions


def slope_of(camera: Camera) -> float:
    """Half the smaller side of what a camera sees at distance 1."""
    half = 0.5 * min(camera.width / camera.fx, camera.height / camera.fy)
    return half if camera.lens is None else _bent_slope(camera.lens, half)


@functools.lru_cache(maxsize=256)
def _bent_slope(lens: Lens, half: float) -> float:
    x, _, z = lens.directions(torch.tensor([half, 0.0])).tolist()
    return min(x / z, STEEPEST) if z > 0.0 else STEEPEST


def find_box(cameras: Sequence[Camera], silhouette: Seen | None, points: FloatArray | None = None) -> Box:
    """The box of a scene.

    Args:
        cameras: of its pictures, in the file's unit.
        silhouette: rays through opaque pixels, where pictures have alpha.
        points: `[n 3]` on its surfaces, where a program found some; used where cameras do not look inwards.
    """
    poses = np.stack([pose_of(camera) for camera in cameras])
    slopes = np.array([slope_of(camera) for camera in cameras])
    origins, axes = poses[:, :3, 3], poses[:, :3, 2]
    if _looks_at_unit_box(origins, axes, slopes):
        return Box() if silhouette is None else _grown(silhouette)
    return _from_cameras(origins, axes, slopes, silhouette, points)


def widened(box: Box, cameras: Sequence[Camera], rays: Seen) -> Box:
    """The box of pictures without alpha, of `rays`: where most of what they show is outside, it reaches half way to the
    cameras. What is beyond is fitted in contracted space, with detail that falls with the distance.
    """
    if box.how == POINTS or outside(box, rays) <= WIDE:
        return box
    origins = np.stack([pose_of(camera)[:3, 3] for camera in cameras])
    half = 0.5 * float(np.median(np.linalg.norm(origins - box.center, axis=-1)))
    return box._replace(scale=half, how="half way to the cameras") if half > box.scale else box


def _grown(silhouette: Seen) -> Box:
    """[-1, 1]^3, or a larger box round the origin where rays through the object miss it.

    Its size is that of where next to all rays pass nearest to the origin: a ray that meets a corner of a box may show
    what is beside it.
    """
    lost = outside(Box(), silhouette)
    if not CUT < lost <= ROUND or len(np.unique(silhouette.origins, axis=0)) < 2:
        return Box()  # all there, or the pictures are full; and one picture does not tell large from near
    origins, directions = silhouette
    nearest = origins - (origins * directions).sum(-1, keepdims=True) * directions
    scale = 1.05 * float(np.percentile(np.abs(nearest).max(-1), 100.0 * (1.0 - CUT)))
    return Box(scale, how="as the object is larger than [-1, 1]^3") if scale > 1.0 else Box()


def outside(box: Box, rays: Seen) -> float:
    """Share of rays `[r 3]`, file's unit, that miss the box."""
    origins, directions = (rays.origins - box.center) / box.scale, rays.directions
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


def up_of_cameras(cameras: Sequence[Camera]) -> tuple[float, float, float]:
    """The direction that is up in pictures, an axis where one is near: the cameras' mean."""
    mean = -np.stack([pose_of(camera)[:3, 1] for camera in cameras]).mean(axis=0)  # tilts cancel round a circle
    axes = np.concatenate((np.eye(3), -np.eye(3)))
    near = axes[np.argmax(axes @ mean)]
    length = float(np.linalg.norm(mean))
    if length < 1e-3:
        return (0.0, 0.0, 1.0)
    up = near if float(near @ mean) / length > 0.8 else mean / length
    return float(up[0]), float(up[1]), float(up[2])


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


def _from_points(points: FloatArray, origins: FloatArray) -> Box:
    """The box that holds nearly all points, but for those that are far."""
    center = np.median(points, axis=0)
    away = np.abs(points - center).max(axis=-1)
    near = float(np.median(np.linalg.norm(points - origins.mean(axis=0), axis=-1)))
    half = 1.05 * float(np.percentile(away, HELD))
    half = min(half, FARTHEST * near) or 1.0
    return Box(half, _triple(center), POINTS)


def _from_cameras(
    origins: FloatArray,
    axes: FloatArray,
    slopes: FloatArray,
    silhouette: Seen | None,
    points: FloatArray | None,
) -> Box:
    seen = 0 if silhouette is None else len(np.unique(silhouette.origins, axis=0))  # places that saw the object
    if silhouette is not None and seen >= OUTLINES and (box := _from_outlines(silhouette, origins, axes)):
        return box
    focus, sound = nearest_point(origins, axes)
    if sound > 1e-3 and _ahead(focus, origins, axes) >= LOOKING:
        depth = ((focus - origins) * axes).sum(-1)
        half = float(np.median(np.abs(depth) * slopes)) / MARGIN
        if silhouette is not None and seen and (radius := _radius(silhouette, focus)) > 0.0:
            half = min(max(half, 1.05 * radius), DEEPER ** (1.0 / seen) * radius)
        return Box(half, _triple(focus), "where the cameras look")
    if silhouette is not None and seen > 1 and (box := _from_outlines(silhouette, origins, axes)):
        return box
    if points is not None and len(points) >= FEW:
        return _from_points(points, origins)
    middle = origins.mean(axis=0)
    spread = float(np.linalg.norm(origins - middle, axis=-1).max())
    mean = axes.mean(axis=0)
    if np.linalg.norm(mean) > 0.5:  # side by side: the scene is ahead, how far nobody knows
        distance = 4.0 * spread if spread > 1e-9 else 4.0
        forward = mean / np.linalg.norm(mean)
        half = distance * float(np.median(slopes)) / MARGIN
        return Box(half, _triple(middle + distance * forward), "a guess, as all cameras look one way")
    return Box(3.0 * spread if spread > 1e-9 else 1.0, _triple(middle), OUTWARDS)


def _from_outlines(silhouette: Seen, origins: FloatArray, axes: FloatArray) -> Box | None:
    """The box that holds next to all rays through an object; None where they do not say where it is."""
    center, sound = nearest_point(silhouette.origins, silhouette.directions)
    if sound <= 1e-3 or _ahead(center, origins, axes) < LOOKING:
        return None
    radius = _radius(silhouette, center)
    return Box(1.05 * radius, _triple(center), "from the outlines of the object") if radius > 0.0 else None


def _radius(silhouette: Seen, center: FloatArray) -> float:
    """How far next to all rays through an object pass from a point."""
    along = ((center - silhouette.origins) * silhouette.directions).sum(-1, keepdims=True)
    nearest = silhouette.origins + along * silhouette.directions
    return float(np.percentile(np.linalg.norm(nearest - center, axis=-1), SILHOUETTE))


def _ahead(point: FloatArray, origins: FloatArray, axes: FloatArray) -> float:
    """Share of the cameras that have a point before them."""
    return float((((point - origins) * axes).sum(-1) > -1e-9).mean())


def _triple(point: FloatArray) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])
