"""What a fit learns of photographs: poses by gradients through the rays, colours, and how they are measured."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Camera, Rays, orbit
from hyperfields.data import View, Views
from hyperfields.errors import InputError
from hyperfields.rendering.base import RadianceFn
from hyperfields.rendering.volume import Fitting, near_factor, points_on_rays, render_volume, scale_gradient
from hyperfields.tasks.alignment import corrected
from hyperfields.tasks.photographs import PhotographConfig, Photographs, fitted_colors, move_rays, rotations


def test_rotations_are_the_matrix_exponential_and_have_gradients_at_zero() -> None:
    vectors = torch.tensor(
        [[0.0, 0.0, 0.0], [1e-5, 0.0, 0.0], [0.005, -0.009, 0.0], [0.02, 0.01, -0.03], [1.0, -2.0, 0.5]],
        dtype=torch.float64,
    )
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    torch.testing.assert_close(rotations(vectors), torch.linalg.matrix_exp(cross), rtol=1e-9, atol=1e-10)
    torch.autograd.gradcheck(rotations, (vectors.requires_grad_(),))


def photographs(counts: tuple[int, ...] = (2, 3), **settings: float) -> Photographs:
    learned = Photographs(counts, PhotographConfig(**{"poses": 1e-3, "appearance": 1e-2} | settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return learned


def test_corrections_have_no_mean_in_a_scene() -> None:
    learned = photographs()
    assert learned.poses is not None
    translations = learned.corrections()[..., 3].detach()
    torch.testing.assert_close(translations[:2].sum(0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(translations[2:].sum(0), torch.zeros(3), rtol=0, atol=1e-6)
    assert float(translations.abs().max()) > 0.01


def test_at_first_nothing_is_changed() -> None:
    learned = Photographs((2,), PhotographConfig(1e-3, 1e-2))
    rays, images = Rays(torch.randn(1, 5, 3), torch.randn(1, 5, 3)), torch.tensor([[0, 1, 0, 1, 1]])
    for moved, ray in zip(learned.moved(rays, images), rays, strict=True):
        assert torch.equal(moved, ray)
    rgb = torch.rand(1, 5, 3)
    assert torch.equal(learned.colored(rgb, torch.rand(1, 5), images), rgb)


def test_rays_move_as_a_camera_does() -> None:
    camera = orbit(1, radius=3.0, height=4, width=5)[0]
    learned = photographs((1, 2))
    change = learned.corrections()[2].detach()
    moved = move_rays(camera.rays(), change)
    for got, wanted in zip(moved, corrected(camera, change).rays(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_colours_of_a_picture_are_an_affine_map_of_premultiplied_ones() -> None:
    learned = photographs((2,))
    assert learned.appearance is not None
    rows = (learned.appearance - learned.appearance.mean(0)).detach()
    straight, alpha = torch.rand(1, 4, 3), torch.rand(1, 4)
    images = torch.tensor([[0, 1, 1, 0]])
    got = learned.colored(straight * alpha[..., None], alpha, images).detach()
    for k, image in enumerate([0, 1, 1, 0]):
        matrix = torch.eye(3) + rows[image, :9].reshape(3, 3)
        wanted = (matrix @ straight[0, k] + rows[image, 9:]) * alpha[0, k]
        torch.testing.assert_close(got[0, k], wanted, rtol=1e-5, atol=1e-6)


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="PhotographConfig: rates"):
        PhotographConfig(poses=-1.0)


def test_data_without_pictures_are_refused() -> None:
    class Plain:
        kind, names = "views", ("a",)

    from hyperfields.tasks import TrainConfig
    from hyperfields.tasks.objective import _photographs

    train = TrainConfig(1, 16, photographs=PhotographConfig(poses=1e-3))
    with pytest.raises(InputError, match="Plain does not say which picture a ray is of"):
        _photographs(Plain(), train, torch.device("cpu"))  # type: ignore[arg-type]


# Gradients through the rays -----------------------------------------------------------------------


def blob(x: Tensor, d: Tensor, counts: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth density round the centre, and colours that tell where a point is."""
    return 4.0 * torch.exp(-3.0 * x.square().sum(-1, keepdim=True)), 0.5 + 0.4 * torch.sin(2.0 * x)


def colors_of(rays: Rays, through: Rays, space: ops.Space, fn: RadianceFn = blob) -> Tensor:
    occupancy = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    return render_volume(fn, rays, occupancy, step=0.02, space=space, fitting=Fitting(through=through)).rgb


@pytest.mark.parametrize("space", [ops.BOX, ops.Contracted()])
def test_the_gradient_of_a_pose_is_that_of_finite_differences(space: ops.Space) -> None:
    """Samples that move with the ray: their distances stay, as the renderer says."""
    camera = orbit(1, radius=2.0, height=3, width=3)[0]
    rays = Rays(*(part.double()[None] for part in camera.rays()))
    rows = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(row: Tensor, at: Rays | None) -> Tensor:
        change = torch.cat((rotations(row[:, :3]), row[:, 3:, None]), -1)
        moved = move_rays(rays, change.expand(9, 3, 4)[None])
        return (colors_of(at or Rays(*(part.detach() for part in moved)), moved, space) * cotangent).sum()

    value(rows, None).backward()
    assert rows.grad is not None
    for axis in range(6):
        shift = torch.zeros_like(rows)
        shift[0, axis] = 1e-5
        # Marched along the same rays, so that distances and kept samples are the same.
        up, down = (float(value((rows + sign * shift).detach(), rays)) for sign in (1.0, -1.0))
        assert (up - down) / 2e-5 == pytest.approx(float(rows.grad[0, axis]), rel=1e-4, abs=1e-6)
    assert float(rows.grad.norm()) > 0.1


def test_points_on_rays_are_those_of_the_samples() -> None:
    origins, directions = torch.randn(1, 3, 3), torch.randn(1, 3, 3)
    edges, counts = torch.rand(6, 2), torch.tensor([2, 0, 4])
    got = points_on_rays(Rays(origins, directions), edges, counts)
    ray = [0, 0, 2, 2, 2, 2]
    wanted = origins[0, ray] + edges.mean(1, keepdim=True) * directions[0, ray]
    torch.testing.assert_close(got, wanted)


def test_gradients_near_a_camera_fall_with_the_square_of_the_distance() -> None:
    edges = torch.tensor([[0.0, 0.2], [0.4, 0.6], [0.9, 1.1], [3.0, 5.0]])
    factor = near_factor(edges, 1.0)
    torch.testing.assert_close(factor, torch.tensor([[0.01], [0.25], [1.0], [1.0]]))
    x = torch.rand(4, 3, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, factor.expand(4, 3))


# Measuring ----------------------------------------------------------------------------------------


def test_colours_are_fitted_on_the_left_half_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(6, 8, 3, generator=generator)
    matrix, shift = torch.eye(3) + 0.1 * torch.randn(3, 3, generator=generator), torch.tensor([0.1, -0.05, 0.02])
    truth = picture @ matrix.T + shift
    spoiled = truth.clone()
    spoiled[:, 4:] = 0.0
    torch.testing.assert_close(fitted_colors(picture, spoiled), truth, rtol=0, atol=2e-3)
    grey = torch.full((6, 8, 3), 0.5)  # one colour says nothing of three axes, and must not blow up
    assert float((fitted_colors(grey, grey) - grey).abs().max()) < 1e-3


# Whole fits ---------------------------------------------------------------------------------------


def marbles(camera: Camera) -> Tensor:
    """What a camera sees of `blob`, opaque on grey, `[h w 4]`."""
    rays = Rays(*(part[None] for part in camera.rays()))
    occupancy = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        rendered = render_volume(blob, rays, occupancy, step=0.02)
    rgb = rendered.rgb + (1.0 - rendered.alpha[..., None]) * 0.2
    return torch.cat((rgb, torch.ones_like(rgb[..., :1])), -1).reshape(camera.height, camera.width, 4).clamp(0.0, 1.0)


def test_is_unbounded_is_found_from_the_pictures() -> None:
    from hyperfields.data import Concat, Subset, is_unbounded, training_cameras

    cameras = orbit(4, radius=2.0, height=12, width=12, fov=1.6)
    rgba = torch.stack([marbles(camera) for camera in cameras])
    opaque = Views(cameras, rgba)
    cut = rgba.clone()
    cut[:, :, :4, 3] = 0.0
    assert is_unbounded(opaque)
    assert not is_unbounded(Views(cameras, cut))
    assert is_unbounded(Concat([Views(cameras, cut, names=["b"]), opaque]))
    assert is_unbounded(Subset(opaque, [0]))
    assert any("is fitted in contracted space" in note for note in opaque.notes)
    both = Concat([opaque, Views(cameras[:3], cut[:3], names=["c"])])
    assert [len(posed) for posed in training_cameras(both)] == [4, 3]


def tilted(camera: Camera, angle: float, axis: int) -> Camera:
    vector = torch.zeros(1, 3)
    vector[0, axis] = angle
    return corrected(camera, torch.cat((rotations(vector)[0], torch.zeros(3, 1)), -1))


@pytest.mark.parametrize("behind", [None, (0.2, 0.7, 0.4)])
def test_a_disturbed_pose_is_found_from_a_known_field(behind: tuple[float, float, float] | None) -> None:
    """The part of a fit that moves poses alone, so that it is short: the field is the truth.

    behind: a colour over which alone pictures are known; their alpha is wrong then.
    """
    back = torch.zeros(3) if behind is None else torch.tensor(behind)
    from hyperfields.tasks.alignment import align

    class Known:
        """`blob` as a bound field."""

        scenes, device = 1, torch.device("cpu")
        field = type("F", (), {"space": ops.BOX, "step": 0.04})()
        visible_samples = None

        def detach(self) -> Known:
            return self

        def occupancy(self, size: int) -> Tensor:
            return torch.ones(1, 4, 4, 4, dtype=torch.bool)

        def __call__(self, *args: Tensor) -> tuple[Tensor, Tensor]:
            return blob(*args)

    cameras = orbit(3, radius=3.0, height=24, width=24, fov=0.6)
    views = []
    for number, camera in enumerate(cameras):
        rays = Rays(*(part[None] for part in camera.rays()))
        with torch.no_grad():
            seen = render_volume(blob, rays, torch.ones(1, 4, 4, 4, dtype=torch.bool), step=0.04)
        clear, alpha = 1.0 - seen.alpha[..., None], seen.alpha[..., None]
        rgba = torch.cat((seen.rgb / alpha.clamp(min=1e-6), alpha), -1)
        if behind is not None:
            rgba = torch.cat((seen.rgb + clear * back, torch.ones_like(alpha)), -1)
        known = None if behind is None else back
        views.append(View(tilted(camera, math.radians(1.5), number), rgba.reshape(24, 24, 4), behind=known))
    found = align(Known(), views, steps=60, rays=600)  # type: ignore[arg-type]
    for camera, view, change in zip(cameras, views, found, strict=True):
        before = _angle(camera, view.camera)
        after = _angle(camera, corrected(view.camera, change))
        assert before == pytest.approx(1.5, abs=0.01)
        shown = Rays(*(part[None] for part in corrected(view.camera, change).rays()))
        seen = render_volume(blob, shown, torch.ones(1, 4, 4, 4, dtype=torch.bool), step=0.04)
        wanted = view.rgba[..., :3] * view.rgba[..., 3:]
        laid = seen.rgb + (1.0 - seen.alpha[..., None]) * back
        error = float((laid.reshape(24, 24, 3) - wanted).square().mean().sqrt())
        assert error < 4e-3, (after, error)


def _angle(one: Camera, other: Camera) -> float:
    turn = one.T_world_camera[:3, :3].double().T @ other.T_world_camera[:3, :3].double()
    return math.degrees(math.acos(max(-1.0, min(1.0, (float(turn.trace()) - 1.0) / 2.0))))


def test_settings_of_a_capture() -> None:
    from hyperfields.tasks import TrainConfig
    from hyperfields.tasks.captures import CaptureSettings

    assert CaptureSettings().model_options("views", {"unbounded": True}) == {"unbounded": True}
    assert CaptureSettings("box").model_options("views", {"unbounded": True}) == {}
    assert CaptureSettings("contracted").model_options("views", {}) == {"unbounded": True}
    assert CaptureSettings().model_options("images", {}) == {}
    with pytest.raises(InputError, match="--refine-poses: of photographs with cameras, but the family holds images"):
        CaptureSettings(refine_poses=True).model_options("images", {})
    with pytest.raises(InputError, match="space 'ball': wanted box or contracted"):
        CaptureSettings("ball")  # type: ignore[arg-type]
    recipe = CaptureSettings(refine_poses=True).recipe(TrainConfig(1, 1))
    assert recipe.photographs.poses > 0.0
    assert recipe.photographs.appearance == 0.0
    assert dataclasses.replace(recipe, photographs=PhotographConfig()) == TrainConfig(1, 1)
