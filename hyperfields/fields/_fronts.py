"""Fronts on grids, compiled: imported when they are first asked for, which takes a second. See `fields.fronts`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def crossings(values, distance):
    """Distances, in cells, of the points beside a change of sign: those of the plane through the crossings."""
    shape = values.shape
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                here, total = values[i, j, k], 0.0
                for axis in range(3):
                    nearest = np.inf
                    for way in (-1, 1):
                        x = i + way if axis == 0 else i
                        y = j + way if axis == 1 else j
                        z = k + way if axis == 2 else k
                        if 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]:
                            there = values[x, y, z]
                            if (there < 0.0) != (here < 0.0):
                                nearest = min(nearest, here / (here - there))
                    if nearest < np.inf:
                        total += 1.0 / max(nearest, 1e-4) ** 2
                if total > 0.0:
                    distance[i, j, k] = 1.0 / math.sqrt(total)


@njit(nogil=True, cache=True, error_model="numpy")
def _arrival(a, b, c):
    """Godunov's upwind solution of |grad| = 1, in cells: arrival from the earlier neighbours of the three axes."""
    if a > b:
        a, b = b, a
    if b > c:
        b, c = c, b
    if a > b:
        a, b = b, a
    x = a + 1.0
    if x > b:
        x = 0.5 * (a + b + math.sqrt(max(2.0 - (a - b) ** 2, 0.0)))
        if x > c:
            s = a + b + c
            x = (s + math.sqrt(max(s * s - 3.0 * (a * a + b * b + c * c - 1.0), 0.0))) / 3.0
    return x


@njit(nogil=True, cache=True, error_model="numpy")
def sweep(time, free, before, rounds):
    """Arrival times of a front, a cell in 1, in place; it changes free points alone, and none is earlier than before.

    Zhao 2005, "A fast sweeping method for eikonal equations"; until nothing changes, at most so many rounds.
    """
    n, m, o = time.shape
    for _ in range(rounds):
        change = 0.0
        for order in range(8):
            for p in range(n):
                i = p if order & 1 else n - 1 - p
                for q in range(m):
                    j = q if order & 2 else m - 1 - q
                    for r in range(o):
                        k = r if order & 4 else o - 1 - r
                        if not free[i, j, k]:
                            continue
                        a = min(time[i - 1, j, k] if i else np.inf, time[i + 1, j, k] if i + 1 < n else np.inf)
                        b = min(time[i, j - 1, k] if j else np.inf, time[i, j + 1, k] if j + 1 < m else np.inf)
                        c = min(time[i, j, k - 1] if k else np.inf, time[i, j, k + 1] if k + 1 < o else np.inf)
                        if min(a, b, c) >= time[i, j, k]:
                            continue
                        x = max(_arrival(a, b, c), before[i, j, k])
                        if x < time[i, j, k]:
                            change = max(change, time[i, j, k] - x)
                            time[i, j, k] = x
        if change < 1e-3:
            break


@njit(nogil=True, cache=True, error_model="numpy")
def _came_from(distance, i, j, k):
    """The neighbour, one of 26, to which a distance falls most steeply; -1 where there is none."""
    n, m, o = distance.shape
    best, steepest = -1, 0.0
    for x in range(max(i - 1, 0), min(i + 2, n)):
        for y in range(max(j - 1, 0), min(j + 2, m)):
            for z in range(max(k - 1, 0), min(k + 2, o)):
                fall = distance[i, j, k] - distance[x, y, z]
                if fall > 0.0:
                    fall /= math.sqrt(float((x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2))
                    if fall > steepest:
                        best, steepest = (x * m + y) * o + z, fall
    return best


@njit(nogil=True, cache=True, error_model="numpy")
def farthest(distance, length, order):
    """Lengths, in place, become the largest of what is reached through each point. order: of points, nearest first."""
    _, m, o = distance.shape
    lengths = length.ravel()
    for at in range(len(order) - 1, -1, -1):
        point = order[at]
        source = _came_from(distance, point // (m * o), point // o % m, point % o)
        if source >= 0:
            lengths[source] = max(lengths[source], lengths[point])


@njit(nogil=True, cache=True, error_model="numpy")
def outwards(distance, length, order):
    """Lowers lengths, in place, so that distance / length does not fall on the way outwards. order: nearest first."""
    _, m, o = distance.shape
    lengths, distances = length.ravel(), distance.ravel()
    for at in range(len(order)):
        point = order[at]
        source = _came_from(distance, point // (m * o), point // o % m, point % o)
        if source >= 0 and distances[source] > 0.0:
            lengths[point] = min(lengths[point], lengths[source] * distances[point] / distances[source])
