"""Photographs of a patterned box on a patterned floor, traced in closed form, so that their cameras are known."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperfields.cameras import Camera, look_at

SIZE = (180, 240)  # height, width
FOCAL = 220.0
HALF = np.array([0.7, 0.5, 0.6])  # of the box
CELLS = 256  # of the pattern, a side


def arc(count: int, degrees: float = 80.0, start: float = 20.0) -> list[Camera]:
    """Cameras on an arc round the box, two heights in turn."""
    import torch

    cameras = []
    for i, angle in enumerate(np.radians(np.linspace(start, start + degrees, count))):
        position = torch.tensor([3.4 * np.cos(angle), 3.4 * np.sin(angle), 1.4 + 0.5 * (i % 2)], dtype=torch.float32)
        pose = look_at(position, torch.tensor([0.0, 0.0, 0.1]))
        cameras.append(Camera(pose, FOCAL, FOCAL, 0.5 * SIZE[1], 0.5 * SIZE[0], SIZE[1], SIZE[0]))
    return cameras


def photograph(camera: Camera, seed: int = 0) -> NDArray[np.uint8]:
    """What a camera sees `[h w 3]`; `seed`: of the patterns."""
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    local = np.stack(((columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones_like(rows)), axis=-1)
    pose = camera.T_world_camera.double().numpy()
    directions, origin = local.reshape(-1, 3) @ pose[:3, :3].T, pose[:3, 3]
    low, high = (-HALF - origin) / directions, (HALF - origin) / directions
    enter = np.minimum(low, high)
    axis, first, last = enter.argmax(-1), enter.max(-1), np.maximum(low, high).min(-1)
    floor = (-HALF[2] - origin[2]) / directions[:, 2]
    box = (first < last) & (first > 0.0)
    distance = np.where(box, first, np.where(floor > 0.0, floor, np.nan))
    points = origin + distance[:, None] * directions
    sides = [(1, 2), (0, 2), (0, 1)]
    colors = np.zeros_like(points)
    for face in range(4):  # three pairs of sides, and the floor
        on = ~box if face == 3 else box & (axis == face)
        u, v = (points[on][:, i] for i in sides[min(face, 2)])
        colors[on] = _pattern(u, v, seed * 7 + face)
    return np.asarray(np.nan_to_num(colors, nan=0.5).reshape(*rows.shape, 3) * 255.0 + 0.5, dtype=np.uint8)


@functools.lru_cache(maxsize=32)
def _tables(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((3, CELLS, CELLS, 3), dtype=np.float32)


def _pattern(u: NDArray[np.float64], v: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Noise of three sizes, smooth in between."""
    total = np.zeros((len(u), 3))
    for cells, table in zip((4.0, 12.0, 36.0), _tables(seed), strict=True):  # cells a unit
        x, y = (u + 7.0) * cells, (v + 7.0) * cells
        i, j = np.floor(np.nan_to_num(x)).astype(int), np.floor(np.nan_to_num(y)).astype(int)
        a, b = np.nan_to_num(x - i)[:, None], np.nan_to_num(y - j)[:, None]
        corner = [table[(i + di) % CELLS, (j + dj) % CELLS] for di in (0, 1) for dj in (0, 1)]
        total += (corner[0] * (1 - b) + corner[1] * b) * (1 - a) + (corner[2] * (1 - b) + corner[3] * b) * a
    return np.clip(0.5 + 0.9 * (total / 3.0 - 0.5) * 2.0, 0.0, 1.0)


def write_photographs(folder: Path, cameras: list[Camera], seed: int = 0, first: int = 0) -> Path:
    """PNG files of what cameras see, `a_00.png` ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, camera in enumerate(cameras, first):
        Image.fromarray(photograph(camera, seed)).save(folder / f"a_{i:02}.png")
    return folder
