"""Families of as many scenes as asked for: each is some numbers between 0 and 1, and is computed where it is drawn.

discs    pictures: discs anywhere, of any size and colour, on a ground that goes from one colour to another; 25 numbers
faces    pictures: heads with hair, eyes that look somewhere, brows and a mouth; 36 numbers
chairs   shapes: a seat, a back of slats, arms, legs that may spread; 14 numbers, of which three decide what there is
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hyperfields.data import Points

SIDE = 64  # pixels of pictures that are measured
EDGE = 0.0075  # width over which a colour goes over into another, of the picture's side


class Procedural:
    """Scenes of so many numbers each."""

    kind: ClassVar[str]
    name: ClassVar[str]
    numbers: ClassVar[int]

    def __init__(self, scenes: int, seed: int = 0) -> None:
        self.names = tuple(f"{self.name}{number:07}" for number in range(scenes))
        self.values = torch.rand(scenes, self.numbers, generator=torch.Generator().manual_seed(seed))

    def target(self, x: Tensor, values: Tensor) -> Tensor:
        """`[s n c]` at points `[s n d]` of scenes of these numbers `[s numbers]`."""
        raise NotImplementedError


class Pictures(Procedural):
    """Colours in [0, 1]."""

    kind = "images"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        return Points(x, self.target(x, self.values[scenes]))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        rows, columns = torch.meshgrid(*[(torch.arange(SIDE) + 0.5) / SIDE] * 2, indexing="ij")
        x = torch.stack((columns, rows), -1).reshape(1, -1, 2)
        return self.target(x, self.values[scene : scene + 1]).reshape(SIDE, SIDE, 3)


def over(ground: Tensor, away: Tensor, color: Tensor) -> Tensor:
    """`ground` `[s n 3]` with a colour `[s 1 3]` where `away` `[s n]`, the distance to a thing, is negative."""
    return torch.lerp(color.expand_as(ground), ground, torch.sigmoid(away[..., None] / EDGE))


def between(value: Tensor, low: float, high: float) -> Tensor:
    """`[s 1]` of numbers `[s]` in [0, 1]."""
    return (low + (high - low) * value)[:, None]


class Discs(Pictures):
    """Nothing is where it is in another picture."""

    name, numbers = "discs", 25

    def target(self, x: Tensor, values: Tensor) -> Tensor:
        ground, discs = values[:, None, :7], values[:, 7:].unflatten(1, (3, 6))
        angle = ground[..., 6:] * 6.2832
        along = ((x[..., :1] - 0.5) * angle.cos() + (x[..., 1:] - 0.5) * angle.sin() + 0.5).clamp(0.0, 1.0)
        color = torch.lerp(ground[..., :3], ground[..., 3:6], along)
        for disc in discs.unbind(1):
            away = (x - disc[:, None, :2]).norm(dim=-1) - between(disc[:, 2], 0.05, 0.25)
            color = over(color, away, disc[:, None, 3:])
        return color


class Faces(Pictures):
    """Things are about where they are in other pictures, as in families of photographs."""

    name, numbers = "faces", 36

    def target(self, x: Tensor, values: Tensor) -> Tensor:
        v = values.unbind(1)
        color = torch.lerp(values[:, None, :3], values[:, None, 3:6], x[..., 1:])
        u, w = x[..., 0] - between(v[6], 0.42, 0.58), x[..., 1] - between(v[7], 0.47, 0.57)
        tilt = between(v[8], -0.3, 0.3)
        u, w = u * tilt.cos() + w * tilt.sin(), w * tilt.cos() - u * tilt.sin()
        wide, high = between(v[9], 0.2, 0.34), between(v[10], 0.26, 0.38)
        head, hair = 0.4 + 0.6 * values[:, None, 11:14], 0.8 * values[:, None, 14:17]
        long = between(v[17], -0.1, 1.0) * high  # how far down hair falls behind the head
        color = over(color, torch.maximum(ellipse(u, w + 0.03, 1.15 * wide, 1.1 * high), w - long), hair)
        color = over(color, ellipse(u, w, wide, high), head)
        line = w + between(v[18], 0.45, 0.85) * high + between(v[19], -0.4, 0.4) * u  # where hair begins
        color = over(color, torch.maximum(ellipse(u, w, wide, high), line), hair)
        apart, eyes, size = (
            between(v[20], 0.35, 0.55) * wide,
            between(v[21], -0.25, 0.0) * high,
            between(v[22], 0.03, 0.07),
        )
        gaze = between(v[23], -0.4, 0.4) * size, between(v[24], -0.3, 0.3) * size
        white, iris, dark = torch.full_like(head, 0.95), 0.7 * values[:, None, 25:28], torch.zeros_like(head)
        lid, lift = between(v[28], 0.5, 1.0) * size, between(v[29], -0.25, 0.25)
        for side in (-1.0, 1.0):
            a, b = u - side * apart, w - eyes
            eye = ellipse(a, b, size, lid)
            color = over(color, eye, white)
            away = ((a - gaze[0]).square() + (b - gaze[1]).square()).sqrt()
            color = over(color, torch.maximum(away - 0.6 * size, eye), iris)
            color = over(color, torch.maximum(away - 0.25 * size, eye), dark)
            brow = (b + 1.7 * size + side * lift * a).abs() - 0.012
            color = over(color, torch.maximum(brow, a.abs() - 1.2 * size), hair)
        lips, smile = values[:, None, 30:33] * 0.6 + 0.2, between(v[33], -6.0, 6.0)
        open_, mouth = between(v[34], 0.01, 0.05), between(v[35], 0.25, 0.6) * wide
        bent = w - 0.5 * high + smile * (u.square() - 0.3 * mouth.square())
        return over(color, ellipse(u, bent, mouth, open_), lips)


def ellipse(u: Tensor, w: Tensor, wide: Tensor, high: Tensor) -> Tensor:
    """About the distance to an ellipse at 0."""
    return ((u / wide).square() + (w / high).square() + 1e-8).sqrt().sub(1.0) * torch.minimum(wide, high)


class Chairs(Procedural):
    """Signed distances, exact outside; training points are half anywhere, half near the surface."""

    kind, name, numbers = "shapes", "chairs", 14
    near: ClassVar[float] = 0.02  # standard deviation of points near the surface, scene units

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        values = self.values[scenes]
        x = torch.rand(len(scenes), n, 3, generator=generator) * 2.0 - 1.0
        half = x[:, : n // 2].clone()
        with torch.enable_grad():
            half.requires_grad_()
            distance = self.target(half, values)
            (slope,) = torch.autograd.grad(distance.sum(), half)
        noise = self.near * torch.randn(half.shape, generator=generator)
        x[:, : n // 2] = (half.detach() - distance.detach() * slope + noise).clamp(-1.0, 1.0)
        return Points(x, self.target(x, values))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        raise NotImplementedError("a chair has no mesh")

    def target(self, x: Tensor, values: Tensor) -> Tensor:
        v = values.unbind(1)
        wide, deep, thick = between(v[0], 0.28, 0.5), between(v[1], 0.28, 0.5), between(v[2], 0.03, 0.08)
        level, back, leg = between(v[3], -0.25, 0.1), between(v[4], 0.35, 0.75), between(v[5], 0.025, 0.05)
        lean, spread, round_ = between(v[6], 0.0, 0.3), between(v[7], 0.0, 0.2), between(v[8], 0.1, 0.9) * thick
        side, front, up = x[..., 0].abs(), x[..., 1], x[..., 2]
        seat = box(side, front, up - level, wide, deep, thick, round_)
        across = (front + deep - 0.04) + lean * (up - level).clamp(min=0.0)  # 0 in the plane of the back
        middle, half = level + 0.5 * back, 0.5 * back
        slats = 1.0 + (3.0 * values[:, 9:10]).floor()  # 1: whole, 2, 3
        pitch = 2.0 * wide / slats
        along = (x[..., 0] + wide) / pitch
        place = ((along - along.clamp(min=0.0).floor().clamp(max=slats - 1.0)) - 0.5) * pitch
        gap = torch.where(slats > 1.0, 0.3 * pitch, torch.zeros_like(pitch))
        rest = box(place.abs(), across, up - middle, 0.5 * (pitch - gap), 0.6 * thick, half, 0.5 * thick)
        rail = box(side, across, up - level - back, wide, 0.7 * thick, between(v[10], 0.04, 0.12), 0.5 * thick)
        shape = torch.minimum(torch.minimum(seat, rest), rail)
        down = ((level - up) / (level + 0.9)).clamp(0.0, 1.0)
        for end in (-1.0, 1.0):
            foot = (side - (wide - leg) - spread * down).square() + (
                front - end * (deep - leg) - end * spread * down
            ).square()
            pole = foot.add(1e-12).sqrt() - leg * (1.0 - between(v[11], 0.0, 0.5) * down)
            shape = torch.minimum(shape, torch.maximum(pole, torch.maximum(up - level, -0.9 - up)))
        tall = between(v[12], 0.15, 0.3)
        arm = box((side - wide + leg).abs(), front, up - level - tall, leg, deep, leg, leg)
        post = ((side - wide + leg).square() + (front - 0.7 * deep).square()).add(1e-12).sqrt() - 0.8 * leg
        post = torch.maximum(post, (up - level - 0.5 * tall).abs() - 0.5 * tall)
        arms = torch.minimum(arm, post) + torch.where(values[:, 13:14] > 0.5, 0.0, 9.0)
        return torch.minimum(shape, arms)[..., None]


def box(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, round_: Tensor) -> Tensor:
    """Distance to a box of half sides a, b, c with rounded edges."""
    round_ = torch.minimum(round_, torch.minimum(torch.minimum(a.abs(), b), c))
    q = torch.stack((x.abs() - a + round_, y.abs() - b + round_, z.abs() - c + round_), -1)
    return (q.clamp(min=0.0).square().sum(-1) + 1e-12).sqrt() + q.amax(-1).clamp(max=0.0) - round_


FAMILIES = {family.name: family for family in (Discs, Faces, Chairs)}
