"""Lenses against pycolmap's own projection, and what they do where they see nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperfields.cameras import MODELS, Camera, Lens, Rays, look_at
from hyperfields.errors import InputError
from hyperfields.rendering import Rendered
from hyperfields.rendering.pictures import render_rays

WIDTH, HEIGHT, FX, FY, CX, CY = 64, 48, 40.0, 42.0, 30.5, 25.0
BENT: dict[str, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (-0.12,),
    "RADIAL": (0.08, -0.02),
    "OPENCV": (-0.11, 0.03, 0.004, -0.003),
    "FULL_OPENCV": (0.3, -0.05, 0.002, 0.003, 0.01, 0.2, -0.03, 0.005),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (-0.03, 0.004),
    "OPENCV_FISHEYE": (0.02, -0.01, 0.003, -0.0005),
    "EQUIRECTANGULAR": (),
}
assert BENT.keys() == MODELS.keys()


def made(model: str, **changes: Any) -> Camera:
    lens = Lens(model, BENT[model])
    fx, fy, cx, cy = FX, FX if model in SINGLE else FY, CX, CY
    if model == "EQUIRECTANGULAR":
        return dataclasses.replace(Camera.panorama(torch.eye(4), HEIGHT, WIDTH), **changes)
    return dataclasses.replace(Camera(torch.eye(4), fx, fy, cx, cy, WIDTH, HEIGHT, lens), **changes)


SINGLE = ("SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")  # one focal length in COLMAP


def colmap(camera: Camera) -> Any:
    """The camera of pycolmap."""
    pycolmap = pytest.importorskip("pycolmap", reason="comparing lenses needs pycolmap (extra captures)")
    assert camera.lens is not None
    focal = [camera.fx] if camera.lens.model in SINGLE else [camera.fx, camera.fy]
    params = [*focal, camera.cx, camera.cy, *camera.lens.coefficients]
    if camera.lens.model == "EQUIRECTANGULAR":
        params = [camera.width, camera.height]
    return pycolmap.Camera(model=camera.lens.model, width=camera.width, height=camera.height, params=params)


def forward_points() -> Tensor:
    """Points `[n 3]` ahead, up to 50 degrees from the axis, and on it."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(500, generator=generator, dtype=torch.float64) * math.radians(50.0)
    turn = torch.rand(500, generator=generator, dtype=torch.float64) * 2.0 * math.pi
    unit = torch.stack((angle.sin() * turn.cos(), angle.sin() * turn.sin(), angle.cos()), -1)
    points = unit * (0.5 + torch.rand(500, 1, generator=generator, dtype=torch.float64))
    return torch.cat((points, torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)))


@pytest.mark.parametrize("model", MODELS)
def test_points_are_seen_where_colmap_sees_them(model: str) -> None:
    camera, points = made(model), forward_points()
    np.testing.assert_allclose(camera.project(points).numpy(), colmap(camera).img_from_cam(points.numpy()), atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_rays_are_those_of_colmap(model: str) -> None:
    camera = made(model)
    directions = camera.directions()
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    pixels = np.stack((u, v), -1).reshape(-1, 2)
    # Back into the picture: exactly, for each pixel.
    np.testing.assert_allclose(camera.project(directions).numpy(), pixels, atol=1e-6 * FX)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(len(pixels), dtype=torch.float64))
    ahead = directions[:, 2] > 0.1  # pycolmap gives slopes x / z, y / z
    wanted = colmap(camera).cam_from_img(pixels)
    slopes = (directions[:, :2] / directions[:, 2:]).numpy()
    if model != "EQUIRECTANGULAR":  # has none
        np.testing.assert_allclose(slopes[ahead], wanted[ahead], atol=1e-6, rtol=1e-6)
    world = dataclasses.replace(camera, T_world_camera=look_at([1.0, 2.0, 3.0], [0.0, 0.1, 0.2])).rays()
    rotation = look_at([1.0, 2.0, 3.0], [0.0, 0.1, 0.2])[:3, :3].double()
    torch.testing.assert_close(world.directions, (directions @ rotation.T).float())
    assert torch.equal(world.origins, torch.tensor([1.0, 2.0, 3.0]).expand(HEIGHT * WIDTH, 3))


@pytest.mark.parametrize("model", [m for m in MODELS if m != "EQUIRECTANGULAR"])
def test_coefficients_of_0_are_the_plain_lens(model: str) -> None:
    lens = Lens(model, (0.0,) * len(MODELS[model]))
    camera = Camera(torch.eye(4), FX, FY, CX, CY, WIDTH, HEIGHT, lens)
    directions = camera.directions()
    if lens.is_fisheye:  # equidistant: pixels from the centre count angles
        v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5 - CY, torch.arange(WIDTH) + 0.5 - CX, indexing="ij")
        angle = torch.hypot(u.double() / FX, v.double() / FY).reshape(-1)
        torch.testing.assert_close(directions[:, 2], angle.cos())
    else:
        plain = dataclasses.replace(camera, lens=None)
        torch.testing.assert_close(directions, plain.directions())
        torch.testing.assert_close(camera.rays().directions, plain.rays().directions)


def test_a_fisheye_sees_behind_itself_up_to_its_circle() -> None:
    camera = Camera(torch.eye(4), 10.0, 10.0, 32.0, 32.0, 64, 64, Lens("OPENCV_FISHEYE", (0.0,) * 4))
    directions = camera.directions().reshape(64, 64, 3)
    assert float(directions[32, 60, 2]) == pytest.approx(math.cos(math.hypot(2.85, 0.05)))  # behind
    seen = directions.isfinite().all(-1)
    v, u = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    assert torch.equal(seen, torch.hypot(u, v) / 10.0 <= math.pi)
    torch.testing.assert_close(camera.project(directions[seen])[:, 0].reshape(-1), (u[seen] + 32.0).double())
    assert bool(camera.rays().directions.isnan().any())


def test_a_lens_that_folds_back_sees_nothing_beyond() -> None:
    """r (1 - 0.5 r^2) grows up to r = sqrt(2 / 3), where it is 0.5443."""
    lens = Lens("RADIAL", (-0.5, 0.0))
    assert lens.reach == pytest.approx(math.sqrt(2.0 / 3.0))
    edge = 2.0 / 3.0 * math.sqrt(2.0 / 3.0)
    places = torch.tensor([[0.0, 0.0], [0.999 * edge, 0.0], [0.0, 1.001 * edge], [3.0, 4.0]], dtype=torch.float64)
    directions = lens.directions(places)
    assert directions.isnan().any(-1).tolist() == [False, False, True, True]
    torch.testing.assert_close(lens.places(directions[:2]), places[:2])
    beyond = torch.tensor([[0.8, 0.0, 1.0], [0.83, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    assert lens.places(beyond).isnan().any(-1).tolist() == [False, True, True]
    pole = Lens("FULL_OPENCV", (0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0))  # r / (1 - r^2): any place, up to r = 1
    assert pole.reach == pytest.approx(1.0)
    far = torch.tensor([[0.0, 40.0]], dtype=torch.float64)
    torch.testing.assert_close(pole.places(pole.directions(far)), far)
    both = Lens("OPENCV", (-0.4, 0.0, 0.02, 0.03))
    directions = Camera(torch.eye(4), 30.0, 30.0, 32.0, 32.0, 64, 64, both).directions()
    seen = directions.isfinite().all(-1)
    assert 0.1 < float(seen.float().mean()) < 0.9
    assert float(directions[seen, 2].min()) >= math.cos(math.atan(both.reach)) - 1e-6


def test_a_panorama_has_longitudes_and_latitudes() -> None:
    camera = Camera.panorama(torch.eye(4), 4, 8)
    directions = camera.directions().reshape(4, 8, 3)
    lat, lon = math.radians(-67.5), math.radians(22.5)
    wanted = [math.cos(lat) * math.sin(lon), math.sin(lat), math.cos(lat) * math.cos(lon)]
    assert directions[0, 4].tolist() == pytest.approx(wanted)  # first row: up; right of the middle: to the right
    assert camera.project(torch.tensor([[0.0, 0.0, 5.0], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])).tolist() == [
        [4.0, 2.0],
        [6.0, 2.0],
        [4.0, 4.0],
    ]
    small = camera.resized(2, 4)
    torch.testing.assert_close(small.directions(), Camera.panorama(torch.eye(4), 2, 4).directions())


def test_points_and_pixels_of_a_pinhole() -> None:
    pose = look_at([1.0, -2.0, 0.5], [0.0, 0.0, 0.0])
    camera = Camera(pose, 20.0, 22.0, 9.5, 6.5, 20, 12)
    rays = camera.rays()
    pixels = camera.project(rays.origins + 1.7 * rays.directions).reshape(12, 20, 2)
    v, u = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels, torch.stack((u, v), -1), atol=1e-4, rtol=0.0)
    assert bool(camera.project(rays.origins - rays.directions).isnan().all())  # behind
    assert bool(camera.project(torch.zeros(5, 2, 3)).isfinite().all())


@pytest.mark.parametrize("lens", [None, Lens("OPENCV", BENT["OPENCV"]), Lens("OPENCV_FISHEYE", BENT["OPENCV_FISHEYE"])])
def test_pixels_have_derivatives_by_points(lens: Lens | None) -> None:
    camera = Camera(torch.eye(4), FX, FY, CX, CY, WIDTH, HEIGHT, lens)
    points = forward_points()[::50].requires_grad_()
    assert torch.autograd.gradcheck(camera.project, points)


def test_a_resized_camera_keeps_its_lens() -> None:
    camera = made("OPENCV")
    small = camera.resized(HEIGHT // 2, WIDTH // 2)
    assert small.lens == camera.lens
    points = forward_points()
    torch.testing.assert_close(small.project(points), 0.5 * camera.project(points))


@pytest.mark.parametrize(
    ("model", "coefficients", "complaint"),
    [
        ("KODAK", (), "lens 'KODAK': unknown, wanted one of SIMPLE_RADIAL, RADIAL, OPENCV"),
        ("OPENCV", (0.1,), r"lens OPENCV: 1 coefficients came, wanted 4 \(k1, k2, p1, p2\)"),
        ("EQUIRECTANGULAR", (0.1,), "lens EQUIRECTANGULAR: 1 coefficients came, wanted 0"),
        ("RADIAL", (0.1, math.nan), "lens RADIAL: .*wanted finite numbers"),
        ("RADIAL", ("a", "b"), "lens RADIAL: .*wanted numbers"),
        ("RADIAL", 3.0, "lens RADIAL: .*wanted numbers"),
    ],
)
def test_lenses_that_cannot_be(model: str, coefficients: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        Lens(model, coefficients)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fx": 0.0}, "fx 0, .*focal lengths above 0"),
        ({"fy": -3.0}, "fy -3, .*focal lengths above 0"),
        ({"cx": math.inf}, "cx inf"),
        ({"fx": math.nan}, "fx nan"),
        ({"fx": "wide"}, "must be numbers"),
        ({"width": 0}, "48x0 pixels"),
        ({"lens": "OPENCV"}, "lens 'OPENCV' came, wanted a Lens"),
        ({"T_world_camera": torch.eye(4) * torch.nan}, "T_world_camera has NaN"),
        ({"T_world_camera": torch.eye(3)}, r"T_world_camera: shape \[3, 3\] came"),
    ],
)
def test_cameras_that_cannot_be(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        made("OPENCV", **changes)
    assert "\n" not in str(caught.value)


def test_pictures_are_transparent_where_a_lens_sees_nothing() -> None:
    def white(rays: Rays) -> Rendered:
        assert bool(rays.directions.isfinite().all())
        ones = torch.ones(rays.origins.shape[:2])
        return Rendered(ones[..., None].expand(-1, -1, 3), ones, ones, torch.ones_like(rays.origins))

    camera = Camera(torch.eye(4), 10.0, 10.0, 32.0, 32.0, 64, 64, Lens("OPENCV_FISHEYE", (0.0,) * 4))
    seen = camera.directions().isfinite().all(-1)
    rendered = render_rays(white, Rays(*(part[None] for part in camera.rays())))
    assert rendered.normals is not None
    for part in (rendered.rgb[0, :, 0], rendered.alpha[0], rendered.normals[0, :, 2], 1.0 / rendered.depth[0]):
        assert torch.equal(part, seen.float())
