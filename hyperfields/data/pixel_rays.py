"""Rays of single pixels of many cameras at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Lens, Rays
from hyperfields.ops.gather import pixel_rays, rows_and_columns

NODES = 8193  # of the table of a lens: between them float32 is the limit
STEPS = 2  # of Newton's method, for lenses that also bend sideways; from a guess that is right but for that


class PixelRays:
    """Rays of pixels by the number of their camera, in float32.

    Cameras without lenses are one product and two sums a pixel. With lenses, how far a place lies from the axis is
    looked up in a table of its lens, 64 kB each; what bends sideways is undone by Newton's method.
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._widths = torch.tensor([camera.width for camera in cameras], dtype=torch.int32)
        self._tables = torch.stack([_ray_table(camera) for camera in cameras])  # [images 12]
        bent = any(camera.lens is not None for camera in cameras)
        self._lenses = _Lenses(cameras) if bent else None

    def __call__(self, image: Tensor, pixel: Tensor) -> Rays:
        """Origins and unit directions `[m 3]` of pixels `[m]` int32 of pictures `[m]` int64."""
        if self._lenses is None:
            return Rays(*pixel_rays(self._tables, self._widths, image, pixel))
        v, u = rows_and_columns(self._widths, image, pixel)
        directions = self._lenses(image, u, v)
        directions /= torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
        return Rays(self._tables.index_select(0, image)[:, 9:12].contiguous(), directions)

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of, for `of_tensors`."""
        bent = {} if self._lenses is None else vars(self._lenses)
        lenses = {f"lens.{name}": part for name, part in bent.items() if isinstance(part, Tensor)}
        return {"widths": self._widths, "tables": self._tables, **lenses}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> PixelRays:
        """One from what `tensors` gave."""
        made = cls.__new__(cls)
        made._widths, made._tables = tensors["widths"], tensors["tables"]
        made._lenses = _Lenses.of_tensors(tensors) if "lens.table" in tensors else None
        return made

    def to(self, device: torch.device | str) -> PixelRays:
        """The same on a device."""
        moved = copy.copy(self)
        moved._widths, moved._tables = self._widths.to(device), self._tables.to(device)
        moved._lenses = None if self._lenses is None else self._lenses.to(device)
        return moved


class _Lenses:
    """Directions of pixels of cameras with lenses. Pixels that a lens does not see get any direction."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        numbers = [(1.0 / c.fx, 1.0 / c.fy, -c.cx / c.fx, -c.cy / c.fy) for c in cameras]
        self.places = torch.tensor(numbers, dtype=torch.float64).float()  # [images 4]
        self.rotations = torch.stack([c.T_world_camera.detach().cpu()[:3, :3].float() for c in cameras])
        lenses = list(dict.fromkeys(camera.lens for camera in cameras))
        self.lens = torch.tensor([lenses.index(camera.lens) for camera in cameras])  # [images]
        widest = [max(_widest(camera) for camera in cameras if camera.lens == lens) for lens in lenses]
        self.table = torch.stack([_nodes(lens, reach) for lens, reach in zip(lenses, widest, strict=True)])  # [l n 2]
        self.scale = torch.tensor([(NODES - 1) / reach for reach in widest])
        coefficients = [lens.brown if lens is not None else (0.0,) * 8 for lens in lenses]
        self.coefficients = torch.tensor(coefficients)  # [l 8]
        sideways = [any(row[2:4]) for row in coefficients]
        self.sideways = torch.tensor(sideways) if any(sideways) else None
        round_ = [lens is not None and lens.model == "EQUIRECTANGULAR" for lens in lenses]
        self.all_round = torch.tensor(round_) if any(round_) else None

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> _Lenses:
        made = cls.__new__(cls)
        for name in ("places", "rotations", "lens", "table", "scale", "coefficients"):
            setattr(made, name, tensors[f"lens.{name}"])
        made.sideways, made.all_round = tensors.get("lens.sideways"), tensors.get("lens.all_round")
        return made

    def __call__(self, image: Tensor, u: Tensor, v: Tensor) -> Tensor:
        place = self.places.index_select(0, image)
        u, v = torch.addcmul(place[:, 2], u, place[:, 0]), torch.addcmul(place[:, 3], v, place[:, 1])
        lens = self.lens.index_select(0, image)
        node = torch.hypot(u, v) * self.scale.index_select(0, lens)
        left = node.long().clamp(max=NODES - 2)
        table = self.table.view(-1, 2)
        left = left + lens * NODES
        share = (node - node.floor().clamp(max=NODES - 2))[:, None]
        across, ahead = torch.lerp(table.index_select(0, left), table.index_select(0, left + 1), share).unbind(-1)
        x, y = u * across, v * across
        if self.sideways is not None:
            here = self.sideways.index_select(0, lens)
            bent = _unbent(x, y, u, v, self.coefficients.index_select(0, lens))
            x, y = bent[0].where(here, x), bent[1].where(here, y)
        local = torch.stack((x, y, ahead), -1)
        if self.all_round is not None:
            flat = torch.cos(v)
            panorama = torch.stack((flat * torch.sin(u), torch.sin(v), flat * torch.cos(u)), -1)
            local = panorama.where(self.all_round.index_select(0, lens)[:, None], local)
        return torch.einsum("mij,mj->mi", self.rotations.index_select(0, image), local)

    def to(self, device: torch.device | str) -> _Lenses:
        moved = copy.copy(self)
        for name, part in vars(self).items():
            if isinstance(part, Tensor):
                setattr(moved, name, part.to(device))
        return moved


def _widest(camera: Camera) -> float:
    """How far from the axis the places of a camera's pixels reach."""
    x = max(camera.cx, camera.width - camera.cx) / camera.fx
    y = max(camera.cy, camera.height - camera.cy) / camera.fy
    return float((x * x + y * y) ** 0.5)


def _nodes(lens: Lens | None, reach: float) -> Tensor:
    """`[n 2]` at even distances of a place from the axis: x / u, which is y / v, and z of its direction."""
    if lens is None or lens.model == "EQUIRECTANGULAR":
        return torch.ones(NODES, 2)
    plain = lens.without_sideways()
    far = torch.linspace(0.0, reach, NODES, dtype=torch.float64)
    far[0] = 1e-6 * reach  # on the axis the ratio is its limit
    x, _, z = plain.directions(torch.stack((far, torch.zeros_like(far)), -1)).unbind(-1)
    if not lens.is_fisheye:  # on the plane at z = 1, which Newton's method works on
        x, z = x / z, torch.ones_like(z)
    table = torch.stack((x / far, z), -1)
    table[table.isnan().any(-1)] = table[~table.isnan().any(-1)][-1]  # not seen, never drawn
    return table.float()


def _unbent(x: Tensor, y: Tensor, u: Tensor, v: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """As `cameras.lens` does it, with coefficients `[m 8]` of FULL_OPENCV for each pixel; those of 0 change nothing."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients.unbind(-1)
    for _ in range(STEPS):
        s = x * x + y * y
        below = 1.0 + s * (k4 + s * (k5 + s * k6))
        stretch = (1.0 + s * (k1 + s * (k2 + s * k3))) / below
        change = (k1 + s * (2.0 * k2 + 3.0 * s * k3) - stretch * (k4 + s * (2.0 * k5 + 3.0 * s * k6))) / below
        off_x = x * stretch + 2.0 * p1 * x * y + p2 * (s + 2.0 * x * x) - u
        off_y = y * stretch + 2.0 * p2 * x * y + p1 * (s + 2.0 * y * y) - v
        mixed = 2.0 * (x * y * change + p1 * x + p2 * y)
        a = stretch + 2.0 * x * x * change + 2.0 * p1 * y + 6.0 * p2 * x
        d = stretch + 2.0 * y * y * change + 2.0 * p2 * x + 6.0 * p1 * y
        grown = a * d - mixed * mixed
        x, y = x - (d * off_x - mixed * off_y) / grown, y - (a * off_y - mixed * off_x) / grown
    return x, y


def _ray_table(camera: Camera) -> Tensor:
    """`[12]`, turns a pixel into a ray: direction = u * t[0:3] + v * t[3:6] + t[6:9], origin = t[9:12]."""
    pose = camera.T_world_camera.detach().cpu()
    rotation = pose[:3, :3].double()
    across, down = rotation[:, 0] / camera.fx, rotation[:, 1] / camera.fy
    corner = rotation[:, 2] - camera.cx * across - camera.cy * down
    return torch.cat((across, down, corner, pose[:3, 3].double())).float()
