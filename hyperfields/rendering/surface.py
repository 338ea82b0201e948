"""Surfaces of signed distance functions, by sphere tracing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.ops.reference.space import ray_frame
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.base import PointFn, Rendered
from hyperfields.rendering.shading import ambient_occlusion, shade


def box_interval(rays: Rays, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(near, far) of rays `[s r 3]` in boxes from `low` to `high` `[s 3]`, `[s r]` each; near >= far when they miss."""
    origins, d = rays
    inverse = 1.0 / torch.where(d.abs() < 1e-12, torch.full_like(d, 1e-12), d)
    a, b = (low[:, None] - origins) * inverse, (high[:, None] - origins) * inverse
    return torch.minimum(a, b).amax(-1).clamp(min=0.0), torch.maximum(a, b).amin(-1)


def scene_interval(rays: Rays, space: ops.Space) -> tuple[Tensor, Tensor]:
    """(near, far) of rays `[s r 3]` in the scene box; in contracted space from the near distance to about where a ray
    has passed the centre by as much as by its nearest point, at least the box.
    """
    if not space.contracted:
        ends = torch.ones_like(rays.origins[:, 0])
        return box_interval(rays, -ends, ends)
    along, radius = ray_frame(*rays)
    near = torch.full_like(along, space.near)
    return near, (along + radius).clamp(min=2.0 * space.near + 1.0)


@one_torch_thread()
def trace_surface(
    fn: PointFn,
    rays: Rays,
    *,
    steps: int = 128,
    tolerance: float = 5e-4,
    max_step: float = 0.3,
    relaxation: float = 0.9,
) -> Rendered:
    """First surfaces of signed distance functions, one a scene, shaded by `shade`.

    Rays start where they enter the box [-1, 1]^3 and move on by `relaxation` times the distance, at most
    `max_step`: far from the surface fields are less exact. Where the sign changes, the root is found by
    bisection. Not differentiable.

    Args:
        fn: signed distance of packed points, negative inside, scene units.
        rays: origins and directions `[s r 3]`.
        steps: most evaluations on a ray; one that is still under way then has missed.
        tolerance: distance at which a point is on the surface, scene units.

    Returns:
        alpha 0 or 1, depth inf where nothing was hit; a ray that starts inside hits at its start.

    Source: Hart 1996, "Sphere tracing", section 2.
    """
    scenes, count = rays.origins.shape[:2]
    ends = rays.origins.new_ones(scenes, 3)
    near, far = (t.reshape(-1) for t in box_interval(rays, -ends, ends))
    origins, directions = (t.reshape(-1, 3) for t in rays)

    def ask(ray: Tensor, t: Tensor) -> Tensor:
        x = torch.addcmul(origins[ray], t[:, None], directions[ray])
        return fn(x, torch.bincount(ray // count, minlength=scenes)).squeeze(-1)

    depth = torch.full_like(near, math.inf)
    samples = 0
    with torch.no_grad():
        ray = (near < far).nonzero().squeeze(1)
        t = near[ray]
        before = t  # the last point outside
        crossed: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(steps):
            if not len(ray):
                break
            value = ask(ray, t)
            samples += len(ray)
            inside, close = value < 0.0, value.abs() < tolerance
            depth[ray[close]] = t[close]
            cross = inside & ~close
            crossed.append((ray[cross], before[cross], t[cross]))
            ahead = t + (relaxation * value).clamp(min=tolerance, max=max_step)
            going = ~(inside | close) & (ahead < far[ray])
            ray, before, t = ray[going], t[going], ahead[going]
        crossed.append((ray[:0], t[:0], t[:0]))
        ray, low, high = (torch.cat(parts) for parts in zip(*crossed, strict=True))
        order = ray.argsort()  # packed points are sorted by scene
        ray, low, high = ray[order], low[order], high[order]
        for _ in range(math.ceil(math.log2(max_step / tolerance))):
            if not len(ray):
                break
            middle = 0.5 * (low + high)
            inside = ask(ray, middle) < 0.0
            samples += len(ray)
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        depth[ray] = 0.5 * (low + high)

        normals, rgb = torch.zeros_like(origins), torch.zeros_like(origins)
        hit = depth.isfinite().nonzero().squeeze(1)
        if len(hit):
            x = torch.addcmul(origins[hit], depth[hit, None], directions[hit])
            counts = torch.bincount(hit // count, minlength=scenes)
            normals[hit] = surface_normals(fn, x, counts)
            rgb[hit] = shade(normals[hit], directions[hit], ambient_occlusion(fn, x, normals[hit], counts))
    shape = (scenes, count)
    return Rendered(
        rgb.reshape(*shape, 3),
        depth.isfinite().to(rgb.dtype).reshape(shape),
        depth.reshape(shape),
        normals.reshape(*shape, 3),
        samples,
    )


def surface_normals(fn: PointFn, x: Tensor, counts: Tensor, reach: float = 0.01) -> Tensor:
    """Unit normals `[m 3]` of a distance function at packed points, by differences over `reach`, scene units.

    Unlike gradients at a point they do not show the cells of a grid, where those jump from cell to cell.
    Source: Quilez 2015, "Normals for an SDF" (four corners of a tetrahedron).
    """
    corners = x.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    slope = sum(corner * fn(x + reach * corner, counts) for corner in corners)
    return torch.nn.functional.normalize(torch.as_tensor(slope), dim=-1)
