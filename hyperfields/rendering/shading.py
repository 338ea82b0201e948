"""The light of the studio in which surfaces without colours of their own are shown."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.rendering.base import PointFn


def ambient_occlusion(fn: PointFn, x: Tensor, normals: Tensor, counts: Tensor) -> Tensor:
    """Ambient occlusion at surface points: `[m 1]`, from 0 in a hole to 1 in the open.

    Where nothing is near, the distance grows along the normal as fast as the way.
    Source: Evans 2006, "Fast approximations for global illumination on dynamic scenes", ambient occlusion.
    """
    closed = torch.zeros_like(x[:, :1])
    for way, weight in ((0.02, 0.45), (0.05, 0.35), (0.1, 0.3)):
        closed += weight * (1.0 - fn(x + way * normals, counts) / way).clamp(0.0, 1.0)
    return (1.0 - closed).clamp(0.0, 1.0)


def shade(normals: Tensor, directions: Tensor, ambient: Tensor | float = 1.0) -> Tensor:
    """Colours `[n 3]` of a matt, light grey surface in a studio; normals and directions `[n 3]` are unit.

    The lights stand still in the world (+Z up): a sky that fades to a floor, a warm key light from the upper
    front left (-X, -Y), a cool fill from the right, and a rim where the surface turns away from the eye.
    `ambient` `[n 1]` dims them in corners. Light is added linearly and then encoded by a gamma of 2.2.
    """

    def lit(direction: tuple[float, float, float], wrap: float) -> Tensor:
        light = torch.nn.functional.normalize(normals.new_tensor(direction), dim=0)
        return (((normals * light).sum(-1, keepdim=True) + wrap) / (1.0 + wrap)).clamp(min=0.0)

    def color(*rgb: float) -> Tensor:
        return normals.new_tensor(rgb)

    up = 0.5 + 0.5 * normals[:, 2:]
    facing = -(normals * directions).sum(-1, keepdim=True).clamp(max=0.0)
    light = torch.lerp(color(0.13, 0.12, 0.12), color(0.30, 0.33, 0.38), up) * ambient
    light = light + lit((-0.6, -0.7, 0.6), 0.1) * color(0.58, 0.52, 0.44) * (0.4 + 0.6 * ambient)
    light = light + lit((0.9, -0.2, 0.3), 0.3) * color(0.10, 0.13, 0.18) * (0.4 + 0.6 * ambient)
    light = light + (1.0 - facing) ** 4 * up * ambient * color(0.12, 0.13, 0.15)
    return (light * color(0.70, 0.72, 0.75)).clamp(0.0, 1.0) ** (1.0 / 2.2)
