"""Paths of a camera through keyframes. All frames of a path are computed at once."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from hyperfields.cameras.camera import Camera
from hyperfields.cameras.lens import Lens
from hyperfields.cameras.poses import quaternions, rotation_matrices
from hyperfields.errors import InputError

CameraKind = Literal["perspective", "fisheye", "equirectangular"]
MOST_KEYFRAMES = 200
MOST_FRAMES = 3000


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Keyframes, passed at even times.

    A path is in the frame of a scene's box, where `orbit` and the viewer have their cameras, or in that of the capture.
    """

    poses: Tensor  # [k 4 4], T_world_camera, OpenCV, rigid
    fovs: Tensor  # [k], vertical, radians; a panorama has none
    seconds: float = 4.0
    fps: float = 24.0
    size: tuple[int, int] = (256, 256)  # (height, width)
    loop: bool = False
    kind: CameraKind = "perspective"
    in_box: bool = True  # false: in the frame of the capture that the scene was read from

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
        smoothly at the keyframes: their quaternions lie on such a spline, made of length 1. Source: Catmull and Rom
        1974; Shoemake 1985, "Animating rotation with quaternion curves".
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
        return [camera(pose, fov, self.size, self.kind) for pose, fov in zip(poses, fovs.tolist(), strict=True)]


def camera(pose: Tensor, fov: float, size: tuple[int, int], kind: CameraKind = "perspective") -> Camera:
    """A camera of (height, width) pixels at `pose` `[4 4]`.

    fov: the vertical angle of a pinhole, radians. A fisheye has its focal length and is equidistant, as nerfstudio's;
    a panorama sees all round.
    """
    if kind == "equirectangular":
        return Camera.panorama(pose, *size)
    focal = 0.5 * size[0] / math.tan(0.5 * fov)
    lens = Lens("OPENCV_FISHEYE", (0.0,) * 4) if kind == "fisheye" else None
    return Camera(pose, focal, focal, 0.5 * size[1], 0.5 * size[0], size[1], size[0], lens)


def checked(path: CameraPath, most: int = MOST_KEYFRAMES) -> CameraPath:
    """The same path.

    Raises:
        InputError: no keyframes, or a length, rate or size out of range.
    """
    if not 0 < len(path.poses) <= most:
        count = len(path.poses) or "no"
        raise InputError(f"camera path: {count} keyframes came, wanted 1 to {most}")
    if not (path.seconds > 0.0 and 0.0 < path.fps <= 120.0 and path.seconds * path.fps <= MOST_FRAMES):
        raise InputError(
            f"camera path: {path.seconds:g} s at {path.fps:g} frames a second, wanted up to {MOST_FRAMES} frames"
        )
    if not all(8 <= side <= 2048 for side in path.size):
        raise InputError(f"camera path: {path.size[0]}x{path.size[1]} pixels, wanted sides of 8 to 2048")
    return path
