"""Renderers, shown to functions whose pictures can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays, orbit
from hyperfields.rendering import base
from hyperfields.rendering.base import PointFn, RadianceFn, Rendered, VisibleSamplesFn, on_background
from hyperfields.rendering.image import pixel_centers, sample_image
from hyperfields.rendering.occupancy import OccupancyGrid, occupancy_grid
from hyperfields.rendering.volume import render_volume

# With gradients a ray is rendered whole, without them in waves that end where it is opaque.
each_way = pytest.mark.parametrize("gradients", [True, False], ids=["whole", "waves"])


def full(scenes: int = 1, size: int = 4) -> Tensor:
    return torch.ones(scenes, size, size, size, dtype=torch.bool)


def ball(density: float, radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> RadianceFn:
    """An even ball whose colour is the direction's, as an image: 0.5 d + 0.5."""

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        inside = (x - torch.tensor(center)).norm(dim=-1, keepdim=True) < radius
        return density * inside.float(), 0.5 * d + 0.5

    return fn


def density_of(fn: RadianceFn) -> PointFn:
    return lambda x, counts: fn(x, torch.zeros_like(x), counts)[0]


def looking(fn: RadianceFn, step: float) -> VisibleSamplesFn:
    """What can be seen, by the density at all samples."""

    @torch.no_grad()
    def visible_samples(rays: Rays, cells: Tensor, offset: Tensor | None, opaque: float) -> ops.VisibleSamples:
        edges, counts = ops.ray_march(*rays, cells, step, offset)
        flat, first = [part.reshape(-1, 3) for part in rays], counts.cumsum(0) - counts
        x, d, spans = ops.gather_samples(*flat, edges, first, counts)
        density = fn(x, d, counts.reshape(len(cells), -1).sum(1))[0].squeeze(-1)
        kept, _ = ops.early_termination(density, spans, counts, torch.zeros(len(counts)), opaque)
        return ops.VisibleSamples(*ops.gather_samples(*flat, edges, first, kept), kept, None)

    return visible_samples


def parallel_rays(*places: tuple[float, float], scenes: int = 1) -> Rays:
    """Rays along +X from x = -3 through the given (y, z)."""
    origins = torch.tensor([[-3.0, y, z] for y, z in places]).expand(scenes, -1, 3).contiguous()
    return Rays(origins, torch.tensor([1.0, 0.0, 0.0]).expand_as(origins).contiguous())


# ----------------------------------------------------------------------------------------------------- images


def test_pixel_centres_run_row_by_row_from_the_upper_left() -> None:
    wanted = [[0.25, 1 / 6], [0.75, 1 / 6], [0.25, 0.5], [0.75, 0.5], [0.25, 5 / 6], [0.75, 5 / 6]]
    torch.testing.assert_close(pixel_centers(3, 2), torch.tensor(wanted))


@pytest.mark.parametrize("block", [2**18, 7, 1])
def test_an_image_is_its_function_at_the_pixel_centres(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(base, "POINTS_PER_BLOCK", block)

    def fn(x: Tensor, counts: Tensor) -> Tensor:
        """Scene i has colours (x, y, i)."""
        assert int(counts.sum()) == len(x) <= max(block, len(counts))
        scene = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return torch.cat((x, scene[:, None].float()), 1)

    images = sample_image(fn, 2, 4, 5)
    assert images.shape == (2, 4, 5, 3)
    for scene in range(2):
        for row in range(4):
            for column in range(5):
                wanted = [(column + 0.5) / 5, (row + 0.5) / 4, float(scene)]
                assert images[scene, row, column].tolist() == pytest.approx(wanted, abs=1e-6)


def test_an_image_carries_no_gradient() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    assert not sample_image(lambda x, counts: x @ weight, 1, 2, 2).requires_grad


def test_a_background_fills_what_is_not_covered() -> None:
    rgb = torch.tensor([[[0.2, 0.1, 0.0], [0.0, 0.0, 0.0], [0.9, 0.8, 0.7]]])
    alpha = torch.tensor([[0.25, 0.0, 1.0]])
    seen = Rendered(rgb, alpha, torch.zeros(1, 3))
    white = torch.tensor([[[0.95, 0.85, 0.75], [1.0, 1.0, 1.0], [0.9, 0.8, 0.7]]])
    torch.testing.assert_close(on_background(seen), white)
    torch.testing.assert_close(on_background(seen, 0.0), rgb)


# -------------------------------------------------------------------------------------------------- occupancy


def cell_centers(size: int) -> Tensor:
    """`[g g g 3]`, axis order x, y, z."""
    axis = (torch.arange(size) + 0.5) * (2.0 / size) - 1.0
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def nearest_and_farthest(size: int, center: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Distances from `center` to the nearest and to the farthest point of each cell, `[g g g]` each."""
    offset = (cell_centers(size) - torch.tensor(center)).abs()
    return (offset - 1.0 / size).clamp(min=0.0).norm(dim=-1), (offset + 1.0 / size).norm(dim=-1)


@pytest.mark.parametrize("size", [16, 31, 48])
def test_every_cell_that_a_ball_touches_is_occupied_and_far_cells_are_not(size: int) -> None:
    center, radius = (0.3, -0.2, 0.1), 0.4
    cells = occupancy_grid(density_of(ball(50.0, radius, center)), 1, size, step=0.05)[0]
    nearest, _ = nearest_and_farthest(size, center)
    assert cells[nearest < radius].all()
    # Beside an occupied cell at most, and be it one of the coarser grid that is looked at first.
    assert not cells[nearest > radius + 2 * 3**0.5 * 2.0 / size].any()
    assert 0.02 < float(cells.float().mean()) < 0.25


def test_each_scene_has_an_occupancy_of_its_own_in_the_order_x_y_z() -> None:
    centers = ((0.5, 0.0, 0.0), (0.0, -0.5, 0.0), (0.0, 0.0, 0.5))

    def density(x: Tensor, counts: Tensor) -> Tensor:
        pieces = x.split(counts.tolist())
        return torch.cat([density_of(ball(50.0, 0.2, c))(p, p) for c, p in zip(centers, pieces, strict=True)])

    cells = occupancy_grid(density, 3, 8, step=0.1)
    for scene, center in enumerate(centers):
        mean = cell_centers(8)[cells[scene]].mean(0)
        torch.testing.assert_close(mean, torch.tensor(center), atol=0.05, rtol=0)


def test_a_gpu_is_asked_for_more_points_at_a_time() -> None:
    assert base.points_per_block(torch.device("cuda")) == 8 * base.points_per_block(torch.device("cpu")) == 2**21


def test_blocks_do_not_change_the_occupancy(monkeypatch: pytest.MonkeyPatch) -> None:
    density = density_of(ball(50.0, 0.5))
    whole = occupancy_grid(density, 2, 8, step=0.05)
    monkeypatch.setattr(base, "POINTS_PER_BLOCK", 101)
    assert torch.equal(occupancy_grid(density, 2, 8, step=0.05), whole)


@pytest.mark.parametrize(("opacity", "occupied"), [(0.009, False), (0.011, True)])
def test_occupied_means_that_a_step_is_more_opaque_than_the_threshold(opacity: float, occupied: bool) -> None:
    density = -math.log(1 - opacity) / 0.05
    cells = occupancy_grid(lambda x, counts: torch.full((len(x), 1), density), 1, 8, threshold=0.01, step=0.05)
    assert cells.all() if occupied else not cells.any()


# -------------------------------------------------------------------------------------------------- rendering


@each_way
def test_a_ball_has_the_opacity_depth_and_colour_that_are_computed_by_hand(gradients: bool) -> None:
    sigma, radius, step = 2.0, 0.6, 0.001
    places = [(0.0, 0.0), (0.3, 0.0), (0.0, -0.5), (0.3, 0.4), (0.7, 0.0)]
    with torch.set_grad_enabled(gradients):
        seen = render_volume(ball(sigma, radius), parallel_rays(*places), full(), step=step)
    for i, (y, z) in enumerate(places):
        half = math.sqrt(max(radius**2 - y**2 - z**2, 0.0))
        alpha = 1 - math.exp(-sigma * 2 * half)
        assert float(seen.alpha[0, i]) == pytest.approx(alpha, abs=2 * sigma * step)
        assert seen.rgb[0, i].tolist() == pytest.approx([alpha, 0.5 * alpha, 0.5 * alpha], abs=2 * sigma * step)
        if half:
            # mean of t under sigma exp(-sigma (t - start)) from start = 3 - half to 3 + half
            mean = 3 - half + 1 / sigma - 2 * half * (1 - alpha) / alpha
            assert float(seen.depth[0, i]) == pytest.approx(mean, abs=2 * step)
        else:
            assert seen.depth[0, i] == math.inf


@each_way
def test_what_is_opaque_hides_what_is_behind(gradients: bool) -> None:
    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Two walls: red in front (x < 0), blue behind."""
        wall = ((x[:, :1] + 0.5).abs() < 0.2) | ((x[:, :1] - 0.5).abs() < 0.2)
        front = (x[:, :1] < 0).float()
        return 200.0 * wall.float(), torch.cat((front, 0 * front, 1 - front), 1)

    with torch.set_grad_enabled(gradients):
        seen = render_volume(fn, parallel_rays((0.1, 0.2)), full(), step=0.01)
    assert seen.rgb[0, 0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)
    assert float(seen.alpha[0, 0]) == pytest.approx(1.0, abs=1e-3)
    assert float(seen.depth[0, 0]) == pytest.approx(3 - 0.7 + 1 / 200, abs=0.01)


def views(scenes: int) -> Rays:
    """An orbit's pictures, another camera for each scene, with some rays that miss the box."""
    cameras = [camera.rays() for camera in orbit(scenes, radius=3.0, fov=1.2, height=9, width=11)]
    return Rays(*(torch.stack(parts) for parts in zip(*cameras, strict=True)))


@each_way
def test_skipping_empty_cells_does_not_change_the_picture(gradients: bool) -> None:
    fn, rays = ball(5.0, 0.4, (0.2, 0.1, -0.3)), views(3)
    cells = occupancy_grid(density_of(fn), 3, 16, step=0.05)
    assert float(cells.float().mean()) < 0.2
    asked = []

    def counting(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(x))
        return fn(x, d, counts)

    with torch.set_grad_enabled(gradients):
        everything = render_volume(counting, rays, full(3), step=0.05)
        all_points = sum(asked)
        asked.clear()
        skipped = render_volume(counting, rays, cells, step=0.05)
    assert sum(asked) < all_points / 4
    assert skipped.samples == sum(asked)
    assert everything.samples == all_points
    assert 0.02 < float((skipped.alpha > 0.5).float().mean()) < 0.5
    for got, wanted in zip(skipped[:3], everything[:3], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_waves_show_what_whole_rays_show() -> None:
    """Thin and thick parts, some rays without samples, a whole scene that is empty."""

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        density = 30.0 * (torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:2])).relu()
        return density, torch.sigmoid(3 * x + d)

    rays, cells = views(3), torch.rand(3, 8, 8, 8) < 0.3
    cells[1] = False
    offset = torch.rand(3, 99)
    whole = render_volume(fn, rays, cells, step=0.02, offset=offset)
    with torch.no_grad():
        waves = render_volume(fn, rays, cells, step=0.02, offset=offset)
    torch.testing.assert_close(waves.rgb, whole.rgb, rtol=0, atol=1e-3)
    torch.testing.assert_close(waves.alpha, whole.alpha, rtol=0, atol=1e-3)
    torch.testing.assert_close(waves.depth, whole.depth, rtol=0, atol=5e-3)
    assert waves.samples < whole.samples


def test_with_sight_a_picture_asks_only_for_what_can_be_seen_and_keeps_its_gradients() -> None:
    strength = torch.tensor(2.0, requires_grad=True)

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        density = 30.0 * strength * (torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:2])).relu()
        return density, torch.sigmoid(3 * strength * x + d)

    rays, cells = views(3), torch.rand(3, 8, 8, 8) < 0.6
    cells[1] = False
    whole = render_volume(fn, rays, cells, step=0.02)
    seen = render_volume(fn, rays, cells, step=0.02, visible=looking(fn, 0.02))
    assert 0 < seen.samples < 0.8 * whole.samples
    torch.testing.assert_close(seen.rgb, whole.rgb, rtol=0, atol=1e-3)
    torch.testing.assert_close(seen.alpha, whole.alpha, rtol=0, atol=1e-3)
    slopes = [torch.autograd.grad(picture.rgb.square().sum(), strength)[0] for picture in (whole, seen)]
    assert float(slopes[1]) == pytest.approx(float(slopes[0]), rel=0.02)  # of what is not asked for, a little is lost
    nothing = render_volume(fn, rays, ~full(3), step=0.02, visible=looking(fn, 0.02))
    assert nothing.samples == 0
    assert not nothing.alpha.any()


def test_without_gradients_sight_shows_the_same_in_blocks_of_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return 30.0 * (torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:2])).relu(), torch.sigmoid(3 * x + d)

    rays, cells, offset = views(3), torch.rand(3, 8, 8, 8) < 0.6, torch.rand(3, 99)
    cells[1] = False
    whole = render_volume(fn, rays, cells, step=0.02, offset=offset, visible=looking(fn, 0.02))
    monkeypatch.setattr(
        "hyperfields.rendering.volume.VISIBLE_RAYS", 3 * 40
    )  # 99 rays of each scene: two whole blocks and a rest
    with torch.no_grad():
        blocks = render_volume(fn, rays, cells, step=0.02, offset=offset, visible=looking(fn, 0.02))
        waves = render_volume(fn, rays, cells, step=0.02, offset=offset)
        blind = render_volume(fn, rays, cells, step=0.02, offset=offset, visible=lambda *_: None)
    assert blocks.samples == whole.samples < waves.samples == blind.samples
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(blocks, name), getattr(whole, name))
        assert torch.equal(getattr(waves, name), getattr(blind, name))


@each_way
def test_scenes_in_one_batch_are_the_scenes_one_by_one(gradients: bool) -> None:
    centers, rays = ((0.2, 0.1, -0.3), (-0.4, 0.0, 0.2)), views(2)

    def both(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        pieces = zip(centers, x.split(counts.tolist()), d.split(counts.tolist()), strict=True)
        density, rgb = zip(*[ball(5.0, 0.5, c)(p, q, counts) for c, p, q in pieces], strict=True)
        return torch.cat(density), torch.cat(rgb)

    with torch.set_grad_enabled(gradients):
        batch = render_volume(both, rays, full(2), step=0.05)
        for scene, center in enumerate(centers):
            one = Rays(*(part[scene : scene + 1] for part in rays))
            alone = render_volume(ball(5.0, 0.5, center), one, full(), step=0.05)
            for got, wanted in zip(batch[:3], alone[:3], strict=True):
                torch.testing.assert_close(got[scene : scene + 1], wanted)


@each_way
def test_nothing_to_see_is_transparent_and_infinitely_far(gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        for cells, rays in ((~full(2), views(2)), (full(), parallel_rays((3.0, 0.0), (0.0, -1.5)))):
            seen = render_volume(ball(5.0, 0.4), rays, cells, step=0.05)
            assert seen.rgb.shape == rays.origins.shape
            assert not seen.rgb.any()
            assert not seen.alpha.any()
            assert (seen.depth == math.inf).all()


def test_gradients_reach_what_the_function_depends_on() -> None:
    """d alpha / d density of an even box is length * exp(-density * length)."""
    density = torch.tensor(0.7, requires_grad=True)

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return density.expand(len(x), 1), torch.ones_like(x)

    seen = render_volume(fn, parallel_rays((0.1, 0.2)), full(), step=0.05)
    (gradient,) = torch.autograd.grad(seen.alpha.sum(), density)
    assert float(gradient) == pytest.approx(2.0 * math.exp(-1.4), rel=1e-4)


@each_way
def test_an_offset_moves_the_samples(gradients: bool) -> None:
    places = []

    def fn(x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        places.append(x[:, 0])
        return torch.zeros(len(x), 1), torch.zeros_like(x)

    with torch.set_grad_enabled(gradients):
        render_volume(fn, parallel_rays((0.1, 0.2)), full(), step=0.5, offset=torch.tensor([[0.25]]))
    # The first step begins a quarter of a step before its end at the entry: [-1, -0.875], ...
    assert torch.cat(places).tolist() == pytest.approx([-0.9375, -0.625, -0.125, 0.375, 0.8125], abs=1e-5)


def test_the_tracker_finds_what_is_dense_and_forgets_what_is_gone() -> None:
    generator = torch.Generator().manual_seed(0)
    tracker = OccupancyGrid(3, 8, step=0.05)
    scenes = torch.tensor([2, 0])
    assert tracker.cells(scenes).all()  # until it was looked at
    assert not tracker.knows(scenes)
    density = density_of(ball(5.0, 0.5))
    for _ in range(8):
        tracker.update_part(density, scenes, 0, 1, generator)
    nearest, farthest = nearest_and_farthest(8, (0.0, 0.0, 0.0))
    for cells in tracker.cells(scenes):
        assert cells[farthest < 0.5].all()
        assert not cells[nearest > 0.5].any()
    assert tracker.cells(torch.tensor([1])).all()
    assert tracker.knows(scenes)
    assert not tracker.knows(torch.tensor([0, 1]))
    for number in range(4 * 16):
        tracker.update_part(density_of(ball(5.0, 0.25)), scenes, number % 4, 4, generator)
    nearest, farthest = nearest_and_farthest(8, (0.0, 0.0, 0.0))
    for cells in tracker.cells(scenes):
        assert cells[farthest < 0.25].all()
        assert not cells[nearest > 0.25].any()


def test_a_scene_whose_density_has_fallen_everywhere_keeps_its_densest_cells() -> None:
    generator, scenes = torch.Generator().manual_seed(0), torch.tensor([0])
    grid = OccupancyGrid(1, 8, step=0.05)
    for number in range(8):
        grid.update_part(density_of(ball(0.01, 0.5)), scenes, 0, 1, generator)  # far below the limit
        assert grid.cells(scenes).any(), number
    nearest, farthest = nearest_and_farthest(8, (0.0, 0.0, 0.0))
    assert grid.cells(scenes)[0][farthest < 0.5].all()
    assert not grid.cells(scenes)[0][nearest > 0.5].any()
    dense = OccupancyGrid(1, 8, step=0.05)
    dense.update_part(density_of(ball(0.0, 0.5)), scenes, 0, 1, generator)
    dense.update_part(density_of(ball(5.0, 9.0)), scenes, 1, 4, generator)  # a quarter of the cells
    assert (dense.density > dense.limit).nonzero()[:, 1].remainder(4).unique().tolist() == [1]
