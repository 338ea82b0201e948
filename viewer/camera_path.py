"""Paths of a camera through keyframes, and nerfstudio's file for them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.errors import InputError

MOST_KEYFRAMES = 200
MOST_FRAMES = 3000
MOST_BYTES = 8_000_000
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV's camera axes <-> OpenGL's


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """Where the camera passes."""

    T_world_camera: Tensor  # [4 4], OpenCV, rigid
    fov: float  # vertical, radians


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Keyframes, passed at even times."""

    keyframes: tuple[Keyframe, ...]
    seconds: float = 4.0
    fps: float = 24.0
    size: tuple[int, int] = (256, 256)  # (height, width)
    loop: bool = False

    @property
    def frames(self) -> int:
        return max(round(self.seconds * self.fps), 1)

    def at(self, time: float) -> Keyframe:
        """The camera at `time` in [0, 1]: positions and fields of view on a Catmull-Rom spline, directions turned
        evenly between their neighbours, smoothly at the keyframes.

        Source: Catmull and Rom 1974; Shoemake 1985, "Animating rotation with quaternion curves".
        """
        count = len(self.keyframes)
        if count == 1:
            return self.keyframes[0]
        spans = count if self.loop else count - 1
        place = min(max(time, 0.0), 1.0) * spans
        first = min(int(place), spans - 1)
        t = place - first
        four = [self._keyframe(first + offset) for offset in (-1, 0, 1, 2)]
        weights = torch.tensor(
            [
                -0.5 * t + t**2 - 0.5 * t**3,
                1.0 - 2.5 * t**2 + 1.5 * t**3,
                0.5 * t + 2.0 * t**2 - 1.5 * t**3,
                -0.5 * t**2 + 0.5 * t**3,
            ]
        )
        pose = torch.eye(4)
        pose[:3, 3] = weights @ torch.stack([key.T_world_camera[:3, 3] for key in four])
        turns = [quaternion(key.T_world_camera[:3, :3]) for key in four]
        for i in (1, 2, 3):  # q and -q are the same turn: take the nearer one
            if float(turns[i] @ turns[i - 1]) < 0.0:
                turns[i] = -turns[i]
        turn = weights @ torch.stack(turns)
        if float(turn.norm()) < 1e-3:  # opposite directions cancel
            turn = turns[1] if t < 0.5 else turns[2]
        pose[:3, :3] = _rotation(turn / turn.norm())
        fov = float(weights @ torch.tensor([key.fov for key in four]))
        return Keyframe(pose, min(max(fov, 0.02), 3.0))

    def _keyframe(self, number: int) -> Keyframe:
        count = len(self.keyframes)
        return self.keyframes[number % count if self.loop else min(max(number, 0), count - 1)]

    def cameras(self) -> list[Camera]:
        """One camera a frame; a loop does not repeat its first one."""
        last = self.frames if self.loop else max(self.frames - 1, 1)
        return [camera(self.at(i / last), self.size) for i in range(self.frames)]


def camera(keyframe: Keyframe, size: tuple[int, int]) -> Camera:
    """A pinhole camera of (height, width) pixels."""
    focal = 0.5 * size[0] / math.tan(0.5 * keyframe.fov)
    return Camera(keyframe.T_world_camera, focal, focal, 0.5 * size[1], 0.5 * size[0], size[1], size[0])


def to_nerfstudio(path: CameraPath) -> dict[str, Any]:
    """The file that nerfstudio's viewer saves and its `ns-render camera-path` reads.

    Matrices are row by row, cameras OpenGL's (+X right, +Y up, -Z forward), angles vertical and in degrees.
    """
    height, width = path.size

    def entry(keyframe: Keyframe, name: str) -> dict[str, Any]:
        matrix = keyframe.T_world_camera @ _FLIP
        return {name: matrix.flatten().tolist(), "fov": math.degrees(keyframe.fov), "aspect": width / height}

    last = path.frames if path.loop else max(path.frames - 1, 1)
    return {
        "keyframes": [entry(keyframe, "matrix") for keyframe in path.keyframes],
        "camera_type": "perspective",
        "render_height": height,
        "render_width": width,
        "fps": path.fps,
        "seconds": path.seconds,
        "is_cycle": path.loop,
        "smoothness_value": 0.0,
        "camera_path": [entry(path.at(i / last), "camera_to_world") for i in range(path.frames)],
    }


def from_nerfstudio(text: str | dict[str, Any]) -> CameraPath:
    """Read nerfstudio's file; without keyframes, each frame of its path becomes one.

    Raises:
        InputError: damaged, too large, or not such a file.
    """
    if isinstance(text, str) and len(text) > MOST_BYTES:
        raise InputError(f"camera path: {len(text)} bytes, wanted at most {MOST_BYTES}")
    try:
        content = json.loads(text) if isinstance(text, str) else text
        entries = content.get("keyframes") or content["camera_path"]
        if not isinstance(entries, list):
            raise TypeError
        keyframes = tuple(_keyframe(entry) for entry in entries[: MOST_KEYFRAMES + 1])
        size = (int(content.get("render_height", 256)), int(content.get("render_width", 256)))
        path = CameraPath(
            keyframes,
            float(content.get("seconds", 4.0)),
            float(content.get("fps", 24.0)),
            size,
            bool(content.get("is_cycle", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise InputError("camera path: damaged, not the JSON that nerfstudio and this viewer write") from None
    return checked(path)


def checked(path: CameraPath) -> CameraPath:
    """The same path.

    Raises:
        InputError: no keyframes, or a length, rate or size out of range.
    """
    if not 0 < len(path.keyframes) <= MOST_KEYFRAMES:
        count = len(path.keyframes) or "no"
        raise InputError(f"camera path: {count} keyframes came, wanted 1 to {MOST_KEYFRAMES}")
    if not (path.seconds > 0.0 and 0.0 < path.fps <= 120.0 and path.seconds * path.fps <= MOST_FRAMES):
        raise InputError(
            f"camera path: {path.seconds:g} s at {path.fps:g} frames a second, wanted up to {MOST_FRAMES} frames"
        )
    if not all(8 <= side <= 2048 for side in path.size):
        raise InputError(f"camera path: {path.size[0]}x{path.size[1]} pixels, wanted sides of 8 to 2048")
    return path


def from_opengl(numbers: Sequence[float]) -> Tensor:
    """16 numbers of an OpenGL camera's pose, row by row -> `T_world_camera` `[4 4]` (OpenCV), made exactly rigid.

    Raises:
        ValueError: not 16 finite numbers, or no rotation in them.
    """
    matrix = torch.tensor([float(number) for number in numbers])
    if matrix.numel() != 16 or not bool(matrix.isfinite().all()):
        raise ValueError("wanted 16 finite numbers")
    matrix = matrix.reshape(4, 4)
    left, scale, right = torch.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    if float(scale.min()) < 1e-4 or float(torch.linalg.det(rotation)) < 0.0:
        raise ValueError("wanted a rotation")
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, matrix[:3, 3]
    return pose @ _FLIP


def _keyframe(entry: Any) -> Keyframe:
    numbers = entry["matrix"] if "matrix" in entry else entry["camera_to_world"]
    if isinstance(numbers, str):  # an older version writes the list as text
        numbers = json.loads(numbers)
    if isinstance(numbers, list) and numbers and isinstance(numbers[0], list):
        numbers = [number for row in numbers for number in row]
    fov = math.radians(float(entry.get("fov", 40.0)))
    if not 0.02 <= fov <= 3.0:
        raise ValueError(f"fov {fov}")
    return Keyframe(from_opengl(numbers), fov)


def quaternion(rotation: Tensor) -> Tensor:
    """`[3 3]` -> w x y z `[4]`, of length 1: the eigenvector of Bar-Itzhack 2000, which no case tells apart."""
    (a, b, c), (d, e, f), (g, h, i) = rotation.double().tolist()
    k = torch.tensor(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ],
        dtype=torch.float64,
    )
    x, y, z, w = torch.linalg.eigh(k)[1][:, -1].float().tolist()
    return torch.tensor([w, x, y, z])


def _rotation(quaternion: Tensor) -> Tensor:
    """w x y z `[4]` of length 1 -> `[3 3]`."""
    w, x, y, z = quaternion.tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
