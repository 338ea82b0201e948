"""Tiny families given by formulas, which every generator has to fit in a moment: discs, spheres, coloured balls."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hyperfields.cameras import Rays, orbit
from hyperfields.data import Kind, Mesh, Pixels, Points, SceneDataset, View

RADII = torch.tensor([0.25, 0.4, 0.3, 0.45])
COLORS = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.7, 0.3], [0.2, 0.3, 0.9], [0.8, 0.8, 0.2]])


@dataclasses.dataclass(frozen=True)
class Discs:
    """Images of 16x16 pixels: a soft disc of a colour and a size of its own on grey."""

    kind: Kind = "images"
    names: tuple[str, ...] = ("red", "green", "blue", "yellow")

    def color(self, scenes: Tensor, x: Tensor) -> Tensor:
        """x `[s n 2]` -> `[s n 3]`."""
        distance = (x - 0.5).norm(dim=-1) - RADII[scenes][:, None]
        inside = torch.sigmoid(-distance * 20.0)[..., None]
        return inside * COLORS[scenes][:, None] + (1.0 - inside) * 0.5

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        return Points(x, self.color(scenes, x))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        place = (torch.arange(16) + 0.5) / 16
        x = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1).reshape(1, -1, 2)
        return self.color(torch.tensor([scene]), x).reshape(16, 16, 3)


@dataclasses.dataclass(frozen=True)
class Spheres:
    """Shapes: spheres of several sizes."""

    kind: Kind = "shapes"
    names: tuple[str, ...] = ("a", "b", "c", "d")

    def distance(self, scenes: Tensor, x: Tensor) -> Tensor:
        """x `[s n 3]` -> `[s n 1]`."""
        return x.norm(dim=-1, keepdim=True) - 2.0 * RADII[scenes][:, None, None] + 0.2

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 3, generator=generator) * 2.0 - 1.0
        return Points(x, self.distance(scenes, x))

    def reference(self, scene: int, split: str = "test") -> Mesh:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Balls:
    """Views of 16x16 pixels of opaque balls, each in one colour."""

    kind: Kind = "views"
    names: tuple[str, ...] = ("red", "green", "blue", "yellow")

    def rgba(self, scenes: Tensor, rays: Rays) -> Tensor:
        """rays `[s n 3]` -> `[s n 4]`."""
        nearest = (rays.origins - (rays.origins * rays.directions).sum(-1, keepdim=True) * rays.directions).norm(dim=-1)
        alpha = (nearest < RADII[scenes][:, None] + 0.2).float()[..., None]
        return torch.cat((COLORS[scenes][:, None].expand(*alpha.shape[:2], 3), alpha), -1)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Pixels:
        position = torch.nn.functional.normalize(torch.randn(len(scenes), n, 3, generator=generator), dim=-1) * 3.0
        aim = (torch.rand(len(scenes), n, 3, generator=generator) * 2.0 - 1.0) * 0.8
        rays = Rays(position, torch.nn.functional.normalize(aim - position, dim=-1))
        return Pixels(rays, self.rgba(scenes, rays))

    def reference(self, scene: int, split: str = "test") -> list[View]:
        views = []
        for camera in orbit(2, radius=3.0, height=16, width=16):
            rays = Rays(*(part[None] for part in camera.rays()))
            views.append(View(camera, self.rgba(torch.tensor([scene]), rays).reshape(16, 16, 4)))
        return views


FAMILIES: dict[Kind, SceneDataset] = {"images": Discs(), "shapes": Spheres(), "views": Balls()}
