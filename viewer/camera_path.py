"""Paths of a camera through keyframes, and nerfstudio's file for them. All frames of a path are computed at once."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.errors import InputError

MOST_KEYFRAMES = 200
MOST_FRAMES = 3000
MOST_BYTES = 8_000_000
_FARTHEST = 1e6  # of the numbers of a pose
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV's camera axes <-> OpenGL's


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Keyframes, passed at even times."""

    poses: Tensor  # [k 4 4], T_world_camera, OpenCV, rigid
    fovs: Tensor  # [k], vertical, radians
    seconds: float = 4.0
    fps: float = 24.0
    size: tuple[int, int] = (256, 256)  # (height, width)
    loop: bool = False

    @property
    def frames(self) -> int:
        return max(round(self.seconds * self.fps), 1)

    def frame_times(self) -> Tensor:
        """Times in [0, 1] of the frames `[f]`; a loop does not repeat its first one."""
        last = self.frames if self.loop else max(self.frames - 1, 1)
        return torch.arange(self.frames, dtype=torch.float64) / last

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Poses `[t 4 4]` and fields of view `[t]` at times `[t]` in [0, 1].

        Positions and fields of view lie on a Catmull-Rom spline; directions turn evenly between their neighbours,
        smoothly at the keyframes. Source: Catmull and Rom 1974; Shoemake 1985, "Animating rotation with quaternion
        curves".
        """
        count = len(self.poses)
        spans = count if self.loop else max(count - 1, 1)
        place = times.double().clamp(0.0, 1.0) * spans
        first = place.long().clamp(max=spans - 1)
        t = (place - first)[:, None]
        weights = torch.cat(
            (
                -0.5 * t + t**2 - 0.5 * t**3,
                1.0 - 2.5 * t**2 + 1.5 * t**3,
                0.5 * t + 2.0 * t**2 - 1.5 * t**3,
                -0.5 * t**2 + 0.5 * t**3,
            ),
            -1,
        )
        neighbours = first[:, None] + torch.arange(-1, 3)
        neighbours = neighbours % count if self.loop else neighbours.clamp(0, count - 1)
        position = torch.einsum("tk,tkd->td", weights, self.poses[neighbours, :3, 3].double())
        fov = (weights * self.fovs[neighbours].double()).sum(-1).clamp(0.02, 3.0)
        rotations = quaternions(self.poses[:, :3, :3])[neighbours]
        for i in (1, 2, 3):  # q and -q are the same rotation: take the nearer one
            opposite = (rotations[:, i] * rotations[:, i - 1]).sum(-1, keepdim=True) < 0.0
            rotations[:, i] = torch.where(opposite, -rotations[:, i], rotations[:, i])
        blend = torch.einsum("tk,tkq->tq", weights, rotations)
        length = blend.norm(dim=-1, keepdim=True)
        nearer = torch.where(t < 0.5, rotations[:, 1], rotations[:, 2])
        blend = torch.where(length < 1e-3, nearer, blend / length.clamp(min=1e-12))  # opposite directions cancel
        poses = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
        poses[:, :3, :3], poses[:, :3, 3] = rotation_matrices(blend), position
        return poses.float(), fov.float()

    def cameras(self) -> list[Camera]:
        """One camera a frame."""
        poses, fovs = self.at(self.frame_times())
        return [camera(pose, fov, self.size) for pose, fov in zip(poses, fovs.tolist(), strict=True)]


def camera(pose: Tensor, fov: float, size: tuple[int, int]) -> Camera:
    """A pinhole camera of (height, width) pixels at `pose` `[4 4]`, with the vertical angle `fov` in radians."""
    focal = 0.5 * size[0] / math.tan(0.5 * fov)
    return Camera(pose, focal, focal, 0.5 * size[1], 0.5 * size[0], size[1], size[0])


def to_nerfstudio(path: CameraPath) -> dict[str, Any]:
    """The file that nerfstudio's viewer saves and its `ns-render camera-path` reads.

    Matrices are row by row, cameras OpenGL's (+X right, +Y up, -Z forward), angles vertical and in degrees.
    """
    height, width = path.size

    def entries(poses: Tensor, fovs: Tensor, name: str) -> list[dict[str, Any]]:
        matrices, degrees = (poses @ _FLIP).flatten(1).tolist(), fovs.double().rad2deg().tolist()
        pairs = zip(matrices, degrees, strict=True)
        return [{name: matrix, "fov": fov, "aspect": width / height} for matrix, fov in pairs]

    return {
        "keyframes": entries(path.poses, path.fovs, "matrix"),
        "camera_type": "perspective",
        "render_height": height,
        "render_width": width,
        "fps": path.fps,
        "seconds": path.seconds,
        "is_cycle": path.loop,
        "smoothness_value": 0.0,
        "camera_path": entries(*path.at(path.frame_times()), "camera_to_world"),
    }


def from_nerfstudio(content: str | dict[str, Any]) -> CameraPath:
    """A path from nerfstudio's file; without keyframes, each frame of its path becomes one.

    Raises:
        InputError: damaged, too large, or not such a file.
    """
    if isinstance(content, str) and len(content) > MOST_BYTES:
        raise InputError(f"camera path: {len(content)} bytes, wanted at most {MOST_BYTES}")
    try:
        fields = json.loads(content) if isinstance(content, str) else content
        entries = fields.get("keyframes") or fields["camera_path"]
        if not isinstance(entries, list):
            raise TypeError
        entries = entries[: MOST_KEYFRAMES + 1]
        path = CameraPath(
            from_opengl([_matrix(entry) for entry in entries]) if entries else torch.zeros(0, 4, 4),
            torch.tensor([_fov(entry) for entry in entries]),
            float(fields.get("seconds", 4.0)),
            float(fields.get("fps", 24.0)),
            (int(fields.get("render_height", 256)), int(fields.get("render_width", 256))),
            bool(fields.get("is_cycle", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError("camera path: damaged, not the JSON that nerfstudio and this viewer write") from None
    return checked(path)


def checked(path: CameraPath) -> CameraPath:
    """The same path.

    Raises:
        InputError: no keyframes, or a length, rate or size out of range.
    """
    if not 0 < len(path.poses) <= MOST_KEYFRAMES:
        count = len(path.poses) or "no"
        raise InputError(f"camera path: {count} keyframes came, wanted 1 to {MOST_KEYFRAMES}")
    if not (path.seconds > 0.0 and 0.0 < path.fps <= 120.0 and path.seconds * path.fps <= MOST_FRAMES):
        raise InputError(
            f"camera path: {path.seconds:g} s at {path.fps:g} frames a second, wanted up to {MOST_FRAMES} frames"
        )
    if not all(8 <= side <= 2048 for side in path.size):
        raise InputError(f"camera path: {path.size[0]}x{path.size[1]} pixels, wanted sides of 8 to 2048")
    return path


def from_opengl(matrices: list[list[float]]) -> Tensor:
    """Poses of OpenGL cameras, 16 numbers each, row by row -> `T_world_camera` `[n 4 4]` (OpenCV), exactly rigid.

    Raises:
        ValueError: not 16 finite numbers, or no rotation in them.
    """
    if any(len(matrix) != 16 for matrix in matrices):
        raise ValueError("wanted 16 finite numbers")
    given = torch.tensor(matrices, dtype=torch.float32).reshape(-1, 4, 4)
    if not bool((given.abs() <= _FARTHEST).all()):  # not so for nan either
        raise ValueError("wanted 16 finite numbers")
    left, scale, right = torch.linalg.svd(given[:, :3, :3])
    rotation = left @ right
    if float(scale.min()) < 1e-4 or float(torch.linalg.det(rotation).min()) < 0.0:
        raise ValueError("wanted a rotation")
    poses = torch.eye(4).repeat(len(given), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotation, given[:, :3, 3]
    return poses @ _FLIP


def _matrix(entry: Any) -> list[float]:
    values = entry["matrix"] if "matrix" in entry else entry["camera_to_world"]
    if isinstance(values, str):  # an older version writes the list as text
        values = json.loads(values)
    if isinstance(values, list) and values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    return [float(value) for value in values]


def _fov(entry: Any) -> float:
    fov = math.radians(float(entry.get("fov", 40.0)))
    if not 0.02 <= fov <= 3.0:
        raise ValueError(f"fov {fov}")
    return fov


def quaternions(rotations: Tensor) -> Tensor:
    """`[n 3 3]` -> w x y z `[n 4]`, of length 1, float64.

    Each row of 4 q q^T is a multiple of q: the one with the largest diagonal loses no digits (Shepperd 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotations.double().unbind(-2))
    outer = torch.stack(
        (
            torch.stack((1 + a + e + i, h - f, c - g, d - b), -1),
            torch.stack((h - f, 1 + a - e - i, b + d, c + g), -1),
            torch.stack((c - g, b + d, 1 - a + e - i, f + h), -1),
            torch.stack((d - b, c + g, f + h, 1 - a - e + i), -1),
        ),
        -2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return torch.nn.functional.normalize(outer[torch.arange(len(outer)), largest], dim=-1)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """w x y z `[n 4]` of length 1 -> `[n 3 3]`."""
    w, x, y, z = quaternions.unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)), -1),
        torch.stack((2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)), -1),
        torch.stack((2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)
