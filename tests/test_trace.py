"""Sphere tracing and shading, shown to shapes whose hits can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays, orbit
from hyperfields.rendering.base import PointFn
from hyperfields.rendering.shading import ambient_occlusion, shade
from hyperfields.rendering.surface import surface_normals, trace_surface

AXIS = torch.tensor([[1.0, 0.0, 0.0]])


def ball(radii: list[float], slope: float = 1.0) -> PointFn:
    """Distance to a ball about the origin, one radius a scene; wrong by the factor `slope`."""

    def fn(x: Tensor, counts: Tensor) -> Tensor:
        assert int(counts.sum()) == len(x)
        radius = torch.repeat_interleave(torch.tensor(radii), counts)[:, None]
        return slope * (x.norm(dim=-1, keepdim=True) - radius)

    return fn


def camera_rays(scenes: int = 1, side: int = 24) -> Rays:
    rays = orbit(1, radius=3.0, start=0.7, height=side, width=side)[0].rays()
    return Rays(*(t.expand(scenes, -1, 3).contiguous() for t in rays))


def ball_depth(rays: Rays, radius: Tensor) -> Tensor:
    """Where rays `[s r 3]` enter balls of `radius` `[s]`, inf where they miss."""
    along = -(rays.origins * rays.directions).sum(-1)
    beside = rays.origins.square().sum(-1) - along.square()
    inside = radius[:, None].square() - beside
    return torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), math.inf)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_balls_are_hit_where_geometry_says(slope: float) -> None:
    """Also for fields that are wrong by a factor: too low costs steps, too high is caught by the sign."""
    radii = [0.8, 0.5]
    rays = camera_rays(2)
    seen = trace_surface(ball(radii, slope), rays)
    wanted = ball_depth(rays, torch.tensor(radii))
    clear = (wanted.isfinite() == ball_depth(rays, torch.tensor(radii) * 0.98).isfinite()) & (
        wanted.isfinite() == ball_depth(rays, torch.tensor(radii) * 1.02).isfinite()
    )  # not those that graze
    assert clear.float().mean() > 0.9
    assert bool((seen.alpha.bool() == wanted.isfinite())[clear].all())
    hit = clear & wanted.isfinite()
    torch.testing.assert_close(seen.depth[hit], wanted[hit], rtol=0, atol=4e-3)
    assert seen.normals is not None
    radial = torch.nn.functional.normalize(rays.origins + wanted[..., None] * rays.directions, dim=-1)
    torch.testing.assert_close(seen.normals[hit], radial[hit], rtol=0, atol=0.02)
    missed = clear & ~hit
    assert bool((seen.depth[missed] == math.inf).all())
    assert float(seen.normals[missed].abs().max()) == float(seen.rgb[missed].max()) == 0.0


def test_the_hit_is_as_exact_as_the_tolerance() -> None:
    rays = Rays(torch.tensor([[[3.0, 0.0, 0.0]]]), -AXIS[None])
    for tolerance in (1e-2, 1e-4):
        seen = trace_surface(ball([0.5]), rays, tolerance=tolerance)
        assert float(seen.depth) == pytest.approx(2.5, abs=2 * tolerance)


def test_a_distance_that_is_clamped_or_steep_is_not_stepped_over() -> None:
    """Far from the surface a field may be anything positive, if steps are shorter than what is thin."""

    def wall(x: Tensor, counts: Tensor) -> Tensor:  # a wall 0.15 thick; in front of it the field says 100
        distance = (x[:, :1] - 0.1).abs() - 0.075
        return torch.where(distance > 0.05, 100.0, distance)

    rays = Rays(torch.tensor([[[-3.0, 0.2, 0.3]]]), AXIS[None])
    seen = trace_surface(wall, rays, max_step=0.1)
    assert float(seen.depth) == pytest.approx(3.025, abs=1e-3)


def test_only_rays_under_way_are_asked_and_only_inside_the_box() -> None:
    asked: list[int] = []

    def fn(x: Tensor, counts: Tensor) -> Tensor:
        assert float(x.abs().max()) < 1.0 + 0.11  # a little more for normals and corners
        asked.append(len(x))
        return ball([0.5])(x, counts)

    rays = camera_rays()
    seen = trace_surface(fn, rays)
    assert asked[0] < rays.origins.shape[1]  # the corners of the picture miss the box
    hits = int(seen.alpha.sum())
    assert asked[-1] == hits
    assert seen.samples < 20 * asked[0]
    away = Rays(rays.origins, -rays.directions)
    nothing = trace_surface(fn, away)
    assert (nothing.samples, float(nothing.alpha.sum()), float(nothing.depth.min())) == (0, 0.0, math.inf)


def test_a_ray_that_starts_inside_hits_at_its_start() -> None:
    rays = Rays(torch.tensor([[[0.1, 0.0, 0.0], [-3.0, 0.0, 0.0]]]), AXIS.expand(1, 2, 3).contiguous())
    seen = trace_surface(ball([5.0]), rays)  # the whole box is inside: the second ray enters it at x = -1
    torch.testing.assert_close(seen.depth, torch.tensor([[0.0, 2.0]]))


def test_scenes_in_one_batch_are_the_scenes_one_by_one() -> None:
    radii = [0.3, 0.9, 0.6]
    rays = camera_rays(3)
    together = trace_surface(ball(radii), rays)
    for scene, radius in enumerate(radii):
        alone = trace_surface(ball([radius]), Rays(*(t[scene : scene + 1] for t in rays)))
        torch.testing.assert_close(together.rgb[scene], alone.rgb[0])
        torch.testing.assert_close(together.depth[scene], alone.depth[0])


def test_normals_of_a_plane_are_its_direction() -> None:
    direction = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 3.0]), dim=0)
    found = surface_normals(lambda x, _: (x @ direction)[:, None] - 0.2, torch.rand(5, 3), torch.tensor([5]))
    torch.testing.assert_close(found, direction.expand(5, 3), rtol=0, atol=1e-4)


def test_a_plane_is_open_and_a_corner_is_not() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    x = torch.tensor([[0.01, 0.0, 0.0], [0.05, 0.0, 0.0], [0.5, 0.0, 0.0]])  # towards a wall at x = 0
    counts = torch.tensor([3])
    plane = ambient_occlusion(lambda p, _: p[:, 2:], x, up, counts)
    torch.testing.assert_close(plane, torch.ones(3, 1))
    corner = ambient_occlusion(lambda p, _: torch.minimum(p[:, 2:], p[:, :1]), x, up, counts).squeeze(1)
    assert corner[0] < corner[1] < corner[2]
    assert float(corner[0]) < 0.5
    assert float(corner[2]) == pytest.approx(1.0)


def test_light_comes_from_the_upper_front_left_and_stands_still() -> None:
    normals = torch.nn.functional.normalize(
        torch.tensor([[-1.0, -1, 1], [1, 1, 1], [0, 0, 1], [0, 0, -1], [1, 0, 0], [0, 1, 0]]), dim=-1
    )
    facing = -normals  # seen from straight ahead: no rim
    lit, behind, top, bottom, right, _ = shade(normals, facing).mean(-1).tolist()
    assert lit > top > behind > bottom
    assert lit > right
    colors = shade(normals, facing)
    assert 0.0 < float(colors.min()) < float(colors.max()) < 1.0
    # Neither the place of the eye (but for the rim) nor other points matter; corners are darker.
    torch.testing.assert_close(shade(normals[:1], facing[:1]), colors[:1])
    assert bool((shade(normals, facing, torch.zeros(6, 1)) < colors).all())
    edge = torch.tensor([[1.0, 0.0, 0.0]])
    assert bool((shade(edge, torch.tensor([[0.0, 1.0, 0.0]])) > shade(edge, -edge)).all())


def test_tracing_carries_no_gradient() -> None:
    radius = torch.tensor(0.5, requires_grad=True)
    seen = trace_surface(lambda x, _: x.norm(dim=-1, keepdim=True) - radius, camera_rays(side=6))
    assert not seen.rgb.requires_grad
    assert not seen.depth.requires_grad
