"""Winding numbers, compiled: imported when they are first asked for, which takes seconds."""

from __future__ import annotations

import math

import numba
import numpy as np

LEAF = 16  # triangles of the smallest cluster; a cluster of the next level has eight of these
FAR = 2.0  # radii of a cluster from where on it counts as a dipole; errors are then below 0.02


@numba.njit(nogil=True, error_model="numpy")
def winding(points, corners, first, centre, radius, normal):
    """`[n]` of points `[n 3]` among triangles `[f 3 3]`; clusters of all levels in one row, `first` of each level."""
    result = np.empty(len(points))
    levels = len(first) - 1
    stack = np.empty((8 * levels + 8, 2), np.int64)
    for i in range(len(points)):
        x, y, z = points[i]
        total, depth = 0.0, 0
        for cluster in range(first[levels] - first[levels - 1]):
            stack[depth, 0], stack[depth, 1] = levels - 1, cluster
            depth += 1
        while depth:
            depth -= 1
            level, cluster = stack[depth]
            k = first[level] + cluster
            dx, dy, dz = centre[k, 0] - x, centre[k, 1] - y, centre[k, 2] - z
            square = dx * dx + dy * dy + dz * dz
            if square > FAR * FAR * radius[k] * radius[k]:
                flux = dx * normal[k, 0] + dy * normal[k, 1] + dz * normal[k, 2]
                total += flux / (4.0 * math.pi * square * math.sqrt(square))
            elif level:
                below = first[level] - first[level - 1]
                for child in range(8 * cluster, min(8 * cluster + 8, below)):
                    stack[depth, 0], stack[depth, 1] = level - 1, child
                    depth += 1
            else:
                for f in range(LEAF * cluster, min(LEAF * cluster + LEAF, len(corners))):
                    total += _solid_angle(corners[f], x, y, z)
        result[i] = total
    return result


@numba.njit(nogil=True, error_model="numpy")
def _solid_angle(t, x, y, z):
    """Signed solid angle of a triangle over 4 pi (van Oosterom, Strackee, 1983)."""
    ax, ay, az = t[0, 0] - x, t[0, 1] - y, t[0, 2] - z
    bx, by, bz = t[1, 0] - x, t[1, 1] - y, t[1, 2] - z
    cx, cy, cz = t[2, 0] - x, t[2, 1] - y, t[2, 2] - z
    a = math.sqrt(ax * ax + ay * ay + az * az)
    b = math.sqrt(bx * bx + by * by + bz * bz)
    c = math.sqrt(cx * cx + cy * cy + cz * cz)
    above = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    below = a * b * c + (ax * bx + ay * by + az * bz) * c
    below += (bx * cx + by * cy + bz * cz) * a + (cx * ax + cy * ay + cz * az) * b
    return math.atan2(above, below) / (2.0 * math.pi)
