"""Cameras, the rays of their pixels, and the pixels of points."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields.cameras.lens import Lens
from hyperfields.cameras.poses import as_tensor
from hyperfields.errors import InputError


class Rays(NamedTuple):
    """Half-lines in the world frame."""

    origins: Tensor  # [... 3]
    directions: Tensor  # [... 3], unit length; NaN where a lens sees nothing


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera: a pinhole, or with a lens.

    Raises:
        InputError: a pose of another shape than [4 4] or with NaN, intrinsics that are not finite, focal lengths that
            are not above 0, a picture without pixels.
    """

    T_world_camera: Tensor  # [4 4] float32, rigid; arrays and lists become one
    fx: float  # pixels; of an EQUIRECTANGULAR lens pixels per radian
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    lens: Lens | None = None  # None: a pinhole

    def __post_init__(self) -> None:
        pose = as_tensor("T_world_camera", self.T_world_camera, (4, 4))
        object.__setattr__(self, "T_world_camera", pose)
        try:
            numbers = [float(value) for value in (self.fx, self.fy, self.cx, self.cy)]
            sides = [int(value) for value in (self.width, self.height)]
        except (TypeError, ValueError, OverflowError):
            raise InputError("camera: fx, fy, cx, cy, width and height must be numbers") from None
        if not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0.0:
            text = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(("fx", "fy", "cx", "cy"), numbers, strict=True)
            )
            raise InputError(f"camera: {text} came, wanted finite pixels and focal lengths above 0")
        if min(sides) < 1:
            raise InputError(f"camera: {sides[1]}x{sides[0]} pixels (height x width) came, wanted at least 1x1")
        for name, value in zip(("fx", "fy", "cx", "cy", "width", "height"), (*numbers, *sides), strict=True):
            object.__setattr__(self, name, value)
        if self.lens is not None and not isinstance(self.lens, Lens):
            raise InputError(f"camera: lens {self.lens!r:.60} came, wanted a Lens, or None: a pinhole")
        # A pose on a GPU came from one that was looked at here; reading it would make the host wait.
        if pose.device.type == "cpu" and not bool(torch.isfinite(pose.detach()).all()):
            raise InputError("camera: T_world_camera has NaN or infinite numbers, wanted a rigid pose [4 4]")

    @classmethod
    def panorama(cls, T_world_camera: Tensor, height: int, width: int) -> Camera:
        """A camera that sees all round: columns are longitudes, the middle one forward, rows latitudes (nerfstudio's,
        COLMAP's EQUIRECTANGULAR)."""
        lens = Lens("EQUIRECTANGULAR")
        fx, fy = 0.5 * width / math.pi, height / math.pi
        return cls(T_world_camera, fx, fy, 0.5 * width, 0.5 * height, width, height, lens)

    def resized(self, height: int, width: int) -> Camera:
        """The same camera with another number of pixels: same position, same field of view."""
        sx, sy = width / self.width, height / self.height
        fx, fy, cx, cy = self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy
        return Camera(self.T_world_camera, fx, fy, cx, cy, width, height, self.lens)

    def to(self, device: torch.device | str) -> Camera:
        """The same camera with its pose on `device`."""
        return dataclasses.replace(self, T_world_camera=self.T_world_camera.to(device))

    def into(self, frame: tuple[float, float, float, float]) -> Camera:
        """The camera in the frame of a box; its (scale, centre x y z) lead back: p = p_box * scale + centre."""
        scale, *center = frame
        pose = self.T_world_camera
        if tuple(frame) != (1.0, 0.0, 0.0, 0.0):
            pose = pose.double().clone()
            pose[:3, 3] = (pose[:3, 3] - pose.new_tensor(center)) / scale
        return dataclasses.replace(self, T_world_camera=pose.float())

    def seen(self) -> Tensor | None:
        """`[h w]` bool, false for pixels with which the lens sees nothing, on the CPU; None: there are none."""
        if self.lens is None:
            return None
        return _seen(self.lens, self.fx, self.fy, self.cx, self.cy, self.width, self.height)

    def _border(self) -> Tensor:
        """Places `[n 2]` of the pixels along the edges."""
        u = (torch.arange(self.width, dtype=torch.float64) + 0.5 - self.cx) / self.fx
        v = (torch.arange(self.height, dtype=torch.float64) + 0.5 - self.cy) / self.fy
        rows = [torch.stack((u, torch.full_like(u, float(end))), -1) for end in (v[0], v[-1])]
        columns = [torch.stack((torch.full_like(v, float(end)), v), -1) for end in (u[0], u[-1])]
        return torch.cat((*rows, *columns))

    def directions(self) -> Tensor:
        """Unit directions `[height * width, 3]` float64 of all pixels, row by row, in the camera's frame, on the CPU.

        NaN where the lens sees nothing. The same for cameras that differ in their pose only.
        """
        v, u = torch.meshgrid(
            (torch.arange(self.height, dtype=torch.float64) + 0.5 - self.cy) / self.fy,
            (torch.arange(self.width, dtype=torch.float64) + 0.5 - self.cx) / self.fx,
            indexing="ij",
        )
        places = torch.stack((u, v), -1).reshape(-1, 2)
        if self.lens is not None:
            return self.lens.directions(places)
        return torch.nn.functional.normalize(torch.cat((places, torch.ones_like(places[:, :1])), -1), dim=-1)

    def rays(self) -> Rays:
        """Rays of all pixels, row by row: origins and unit directions `[height * width, 3]`, world frame.

        They are where the pose is. Pixels with which the lens sees nothing (it folds back there, or they are out of a
        fisheye's circle) have directions of NaN; `rendering.render_rays` shows nothing there.
        """
        device = self.T_world_camera.device
        pose = self.T_world_camera.float()
        if self.lens is not None:
            local = self.directions().to(device)
            with torch.autocast(device.type, enabled=False):
                directions = (local @ pose[:3, :3].double().T).float()
            return Rays(pose[:3, 3].expand_as(directions).contiguous(), directions)
        v, u = torch.meshgrid(
            torch.arange(self.height, dtype=torch.float32, device=device) + 0.5,
            torch.arange(self.width, dtype=torch.float32, device=device) + 0.5,
            indexing="ij",
        )
        local = torch.stack(((u - self.cx) / self.fx, (v - self.cy) / self.fy, torch.ones_like(u)), -1)
        with torch.autocast(device.type, enabled=False):  # 16 bits are too few for a direction
            directions = torch.nn.functional.normalize(local.reshape(-1, 3) @ pose[:3, :3].T, dim=-1)
        return Rays(pose[:3, 3].expand_as(directions).contiguous(), directions)

    def project(self, points: Tensor) -> Tensor:
        """Pixels `[... 2]` (u right, v down; the centre of the first is 0.5, 0.5) of points `[... 3]` in the world.

        NaN where a point is behind the camera or beyond what its lens sees; points out of the picture get pixels out of
        it. In the type of the points, float64 inside; differentiable by points and pose.
        """
        pose = self.T_world_camera.to(points.device).double()
        with torch.autocast(points.device.type, enabled=False):
            local = (points.double() - pose[:3, 3]) @ pose[:3, :3]
        if self.lens is None:
            ahead = local[..., 2:] > 0.0
            places = (local[..., :2] / local[..., 2:].where(ahead, 1.0)).where(ahead, torch.nan)
        else:
            places = self.lens.places(local)
        return (places * places.new_tensor([self.fx, self.fy]) + places.new_tensor([self.cx, self.cy])).to(points.dtype)


@functools.lru_cache(maxsize=16)
def _seen(lens: Lens, fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> Tensor | None:
    """See `Camera.seen`; kept, for the pictures of a capture often share all but their poses."""
    camera = Camera(torch.eye(4), fx, fy, cx, cy, width, height, lens)
    if bool(lens.directions(camera._border()).isfinite().all()):
        return None  # what a lens sees is round and whole: a border that is seen holds all that is inside
    return camera.directions().isfinite().all(-1).reshape(height, width)
