"""Inside and outside of triangles as people make them: parts that touch or overlap, doubled, inverted, open, hollow.

Counting the crossings of a ray is right for a closed surface that never meets itself. For all else the inside is where
the generalised winding number is above one half (Jacobson, Kavan, Sorkine-Hornung: Robust inside-outside segmentation
using generalized winding numbers, 2013), after the parts were turned outwards; far triangles are summed up as dipoles
(Barill, Dickson, Schmidt, Levin, Jacobson: Fast winding numbers for soups and clouds, 2018).
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.data.base import Mesh
from hyperfields.data.triangles import areas, joined, morton_order

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CHUNK = 20_000  # points of a thread at a time
MOST = 500_000  # triangles that are cut smaller at most
FINE = 0.02  # scene units; parts of triangles inside the solid are cut away to about this
OFFSET = 1e-4  # scene units from a triangle to the points that tell its two sides


class Clusters:
    """Triangles `[f 3 3]` in a tree, with the sums that let far ones count as dipoles."""

    def __init__(self, corners: Floats) -> None:
        from hyperfields.data._winding import LEAF

        middle = corners.mean(axis=1)
        low, extent = middle.min(axis=0), max(float(np.ptp(middle, axis=0).max()), 1e-30)
        self.corners = corners[morton_order(((middle - low) / extent * 1023.0).astype(np.int64))]
        a, b, c = self.corners.transpose(1, 0, 2)
        normal = 0.5 * np.cross(b - a, c - a)  # weighted by area
        area, place = np.linalg.norm(normal, axis=-1) + 1e-300, self.corners.mean(axis=1)
        levels: list[tuple[Floats, Floats, Floats]] = []  # centre [n 3], radius [n], normal [n 3]
        starts = np.arange(0, len(corners), LEAF)  # neighbours in the order make a cluster
        while not levels or len(levels[-1][1]) > 8:
            centre = np.add.reduceat(area[:, None] * place, starts) / np.add.reduceat(area, starts)[:, None]
            owner = np.searchsorted(starts, np.arange(len(corners)), side="right") - 1
            reach = np.linalg.norm(self.corners - centre[owner, None], axis=-1).max(axis=1)
            levels.append((centre, np.maximum.reduceat(reach, starts), np.add.reduceat(normal, starts)))
            starts = starts[::8]
        self.first = np.cumsum([0, *(len(radius) for _, radius, _ in levels)])
        self.centre, self.radius, self.normal = (np.concatenate(column) for column in zip(*levels, strict=True))

    def winding(self, points: Floats) -> Floats:
        """Winding numbers `[n]` of `points` `[n 3]`: 1 in a closed surface that looks outwards, 0 outside."""
        from hyperfields.data._winding import winding

        tree = (self.corners, self.first, self.centre, self.radius, self.normal)
        parts = np.array_split(np.ascontiguousarray(points, dtype=np.float64), max(1, len(points) // CHUNK))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return np.concatenate(list(pool.map(lambda part: winding(part, *tree), parts)))


class Solid:
    """The solid that triangles enclose, with its surface.

    Args:
        points: `[v 3]`, scene frame, joined where they are at one place.
        faces: `[f 3]`.
    """

    def __init__(self, points: Floats, faces: Ints) -> None:
        single, cancelled = _without_doubles(faces)
        kept = single[~cancelled] if not cancelled.all() else single
        kept = kept[~_walls(points, kept)]
        part = _parts(kept)
        oriented = _turned(points, _consistent(points, kept, part), part)
        self.clusters = Clusters(points[oriented])
        self._all = points[single]

    def inside(self, points: Floats) -> Bools:
        """`[n]` for `points` `[n 3]`; on the surface it is either."""
        return np.asarray(self.clusters.winding(points) > 0.5)

    @functools.cached_property
    def surface(self) -> Floats:
        """Triangles `[t 3 3]`: all that do not lie inside. Slow for many; done when first asked for."""
        outer = self._surface(self._all)
        return outer if len(outer) else self._all

    def _surface(self, corners: Floats) -> Floats:
        """The triangles `[t 3 3]` without those inside the solid; where one is partly inside, small ones of it."""
        whole: list[Floats] = []
        while 0 < len(corners) <= MOST:
            within = self._within(corners)
            whole.append(corners[~within.any(axis=1)])
            longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
            mixed = within.any(axis=1) & ~within.all(axis=1)
            whole.append(corners[mixed & (longest <= FINE)])
            corners = _quartered(corners[mixed & (longest > FINE)])
        return np.concatenate((*whole, corners))

    def _within(self, corners: Floats) -> Bools:
        """`[t 7]`: which of seven points of each triangle have the solid on both sides."""
        shares = np.array([[1, 1, 1], [8, 1, 1], [1, 8, 1], [1, 1, 8], [4, 4, 1], [1, 4, 4], [4, 1, 4]])
        on = np.einsum("sk,tkx->tsx", shares / shares.sum(axis=1, keepdims=True), corners)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-300
        within = np.ones(on.shape[:2], dtype=np.bool_)
        for side in (OFFSET, -OFFSET):
            beside = (on + side * normal[:, None]).reshape(-1, 3)
            within &= self.inside(beside).reshape(within.shape)
        return within


def solid_of(mesh: Mesh) -> Solid | None:
    """The solid that a mesh encloses; None if it is so simple that counting crossings is right."""
    points, faces = joined(mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy())
    return None if not len(faces) or is_simple(points, faces) else Solid(points, faces)


def is_simple(points: Floats, faces: Ints) -> bool:
    """True if counting crossings is right: closed, one direction, and parts that keep out of each other's boxes.

    (A single part that runs into itself is not found out.)
    """
    directed = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::-2]))
    _, counts = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    if not (counts == 2).all() or len(np.unique(directed, axis=0)) < len(directed):
        return False
    part = _parts(faces)
    count = int(part.max()) + 1
    if count > 2000:
        return False
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, part, points[faces].min(axis=1))
    np.maximum.at(high, part, points[faces].max(axis=1))
    meet = (low[:, None] <= high[None]).all(axis=-1) & (low[None] <= high[:, None]).all(axis=-1)
    return int(meet.sum()) == count


def _without_doubles(faces: Ints) -> tuple[Ints, Bools]:
    """Each triangle once, and which of them come as often in one direction as in the other: walls between two parts.

    Parts of which every triangle cancels are sheets with two sides, and are kept.
    """
    first = faces.argmin(axis=1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)  # the smallest corner first
    forwards = turned[:, 1] < turned[:, 2]
    names, group = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True)
    net = np.bincount(group.reshape(-1), np.where(forwards, 1.0, -1.0), len(names))
    single = np.where((net < 0)[:, None], names[:, [0, 2, 1]], names)
    part = _parts(single, by_corner=True)
    real = np.bincount(part, net != 0)  # triangles of each part that do not cancel
    return single, np.asarray((net == 0) & (real[part] > 0))


def _walls(points: Floats, faces: Ints) -> Bools:
    """Which triangles `[f]` are of two flat patches in one place, cut up in other ways: walls between two parts.

    Of parts that look the same way such walls cancel by themselves; where one was turned inside out they would count
    twice. Patches end at edges of more than two triangles.
    """
    part = _parts(faces)
    edges = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::-2]))
    _, group, counts = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    group, owner = group.reshape(-1), np.tile(part, 3)
    shared = counts[group]
    rim = shared != 2
    corners = points[faces]
    normal = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = np.stack([np.bincount(part, normal[:, k]) for k in range(3)], axis=-1)
    size = np.bincount(part, np.linalg.norm(normal, axis=-1))
    flat = np.linalg.norm(facing, axis=-1) > (1.0 - 1e-9) * size
    open_end = np.bincount(owner, rim & ((shared % 2 == 1) | (shared < 4)))
    may_be = flat & (open_end == 0) & (np.bincount(owner, rim) > 0)
    # A flat patch is known by its rim: a number for each set of edges.
    names = np.random.default_rng(0).integers(1, 2**62, len(counts), dtype=np.uint64)
    name = np.zeros(len(size), dtype=np.uint64)
    np.add.at(name, owner[rim], names[group[rim]])
    chosen = np.nonzero(may_be)[0]
    _, which, copies = np.unique(name[chosen], return_inverse=True, return_counts=True)
    wall = np.zeros(len(size), dtype=np.bool_)
    wall[chosen] = copies[which.reshape(-1)] == 2
    return wall[part] if not wall.all() else np.zeros(len(faces), dtype=np.bool_)


def _parts(faces: Ints, by_corner: bool = False) -> Ints:
    """Number of the part `[f]` of each triangle: parts are connected by edges of two triangles, or by corners."""
    if by_corner:
        corner, count = faces.reshape(-1), int(faces.max()) + 1
        linked = _components(np.repeat(np.arange(len(faces)), 3), len(faces) + corner, len(faces) + count)
        return np.unique(linked[: len(faces)], return_inverse=True)[1].reshape(-1)
    a, b, _ = _neighbours(faces)
    return np.unique(_components(a, b, len(faces)), return_inverse=True)[1].reshape(-1)


def _neighbours(faces: Ints) -> tuple[Ints, Ints, Bools]:
    """Pairs of triangles on the edges that have two, and if both run along it in one direction (are at odds)."""
    edges = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::-2]))
    _, group, counts = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    order = order[counts[group[order]] == 2].reshape(-1, 2)
    one, other = order.T
    return one % len(faces), other % len(faces), edges[one, 0] == edges[other, 0]


def _components(a: Ints, b: Ints, count: int) -> Ints:
    """The smallest number `[count]` that each number is connected with by pairs: labels, pulled down till they stay."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[a], label[b])
        new = label.copy()
        np.minimum.at(new, label[a], low)
        np.minimum.at(new, label[b], low)
        new = new[new]
        if np.array_equal(new, label):
            return label
        label = new


def _consistent(points: Floats, faces: Ints, part: Ints) -> Ints:
    """The triangles of each part in one direction, that of most of its area; one-sided surfaces as they are."""
    a, b, odds = _neighbours(faces)
    if not odds.any():
        return faces
    n = len(faces)
    # Two numbers a triangle, as it is and flipped: neighbours at odds go together as one flipped and one not.
    label = _components(np.concatenate((a, a + n)), np.concatenate((b + n * odds, b + n * ~odds)), 2 * n)
    root = np.full(int(part.max()) + 1, n)
    np.minimum.at(root, part, np.arange(n))
    flip = (label[:n] != label[root[part]]) & (label[:n] != label[n:])
    size = areas(points[faces])
    most = np.bincount(part, size * flip) > 0.5 * np.bincount(part, size)
    return np.where((flip ^ most[part])[:, None], faces[:, ::-1], faces)


def _turned(points: Floats, faces: Ints, part: Ints) -> Ints:
    """Parts that look outwards; one that looks inwards stays so if it lies in another: it is a cavity."""
    corners = points[faces]
    sums = np.stack([np.bincount(part, corners[..., k].mean(axis=1)) for k in range(3)], axis=-1)
    middle = sums / np.bincount(part)[:, None]
    volume = np.bincount(part, np.linalg.det(corners - middle[part][:, None]) / 6.0)
    if volume.sum() < 0.0:
        faces, volume = faces[:, ::-1], -volume
    size = np.bincount(part, areas(corners))
    inwards = np.nonzero(volume < -1e-4 * size**1.5)[0]  # a flat part has no direction
    if not len(inwards) or len(size) == 1:
        return faces
    everything = Clusters(points[faces])
    for number in inwards:
        own = part == number
        corners = points[faces[own]]
        probe = corners.mean(axis=1)[:: max(1, len(corners) // 8)]
        around = everything.winding(probe) - Clusters(corners).winding(probe)  # of the others
        if not (np.abs(around) > 0.5).all():
            faces = np.where(own[:, None], faces[:, ::-1], faces)
    return faces


def _quartered(corners: Floats) -> Floats:
    """Four triangles for each, by the middles of the edges."""
    a, b, c = corners.transpose(1, 0, 2)
    ab, bc, ca = 0.5 * (a + b), 0.5 * (b + c), 0.5 * (c + a)
    return np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
