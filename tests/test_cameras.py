"""Cameras: OpenCV axes, pixel centres, orbits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at, orbit


def camera(pose: Tensor, size: int = 5, focal: float = 4.0) -> Camera:
    """A square camera whose optical axis goes through the middle of the picture."""
    return Camera(pose, focal, focal, size / 2, size / 2, size, size)


POSES = [
    ((3.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((1.0, -2.0, 0.5), (0.3, 0.1, -0.2)),
    ((0.0, 0.0, -4.0), (0.1, 0.0, 0.0)),
]


@pytest.mark.parametrize(("position", "target"), POSES)
def test_look_at_gives_a_rigid_right_handed_pose(
    position: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    pose = look_at(torch.tensor(position), torch.tensor(target))
    rotation = pose[:3, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3), atol=1e-6, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-6)
    assert pose[:3, 3].tolist() == pytest.approx(position)
    assert pose[3].tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(("position", "target"), POSES)
def test_the_centre_ray_of_a_look_at_camera_goes_through_its_target(
    position: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    origins, directions = camera(look_at(torch.tensor(position), torch.tensor(target))).rays()
    origin, direction = origins[12], directions[12]  # the middle one of 5 x 5
    distance = (torch.tensor(target) - origin).norm()
    torch.testing.assert_close(origin + distance * direction, torch.tensor(target), atol=1e-5, rtol=0)


def test_up_is_up_in_the_picture_and_the_right_hand_side_is_right() -> None:
    """Seen from -Y with +Z up: the world's +X is to the right, its +Z towards the first row."""
    pose = look_at(torch.tensor([0.0, -3.0, 0.0]), torch.zeros(3))
    torch.testing.assert_close(pose[:3, 0], torch.tensor([1.0, 0.0, 0.0]))  # +X of the camera, to the right
    torch.testing.assert_close(pose[:3, 1], torch.tensor([0.0, 0.0, -1.0]))  # +Y of the camera, down
    torch.testing.assert_close(pose[:3, 2], torch.tensor([0.0, 1.0, 0.0]))  # +Z of the camera, forward
    directions = camera(pose).rays().directions.reshape(5, 5, 3)
    assert (directions[0, :, 2] > 0).all()
    assert (directions[-1, :, 2] < 0).all()
    assert (directions[:, 0, 0] < 0).all()
    assert (directions[:, -1, 0] > 0).all()


def test_another_up_turns_the_picture() -> None:
    pose = look_at(torch.tensor([0.0, 0.0, 3.0]), torch.zeros(3), up=torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(pose[:3, 1], torch.tensor([0.0, -1.0, 0.0]))


@pytest.mark.parametrize("position", [(0.0, 0.0, 0.0), (0.0, 0.0, 5.0), (0.0, 0.0, -5.0)])
def test_look_at_refuses_a_direction_that_is_zero_or_parallel_to_up(
    position: tuple[float, float, float],
) -> None:
    with pytest.raises(ValueError, match=r"look_at: direction .* is zero or parallel to up"):
        look_at(torch.tensor(position), torch.zeros(3), up=torch.tensor([0.0, 0.0, 1.0]))


def test_rays_go_through_pixel_centres_row_by_row() -> None:
    view = Camera(torch.eye(4), fx=2.0, fy=4.0, cx=1.5, cy=0.75, width=3, height=2)
    origins, directions = view.rays()
    wanted = torch.tensor([[(u + 0.5 - 1.5) / 2.0, (v + 0.5 - 0.75) / 4.0, 1.0] for v in range(2) for u in range(3)])
    torch.testing.assert_close(directions / directions[:, 2:], wanted)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(6))
    assert torch.equal(origins, torch.zeros(6, 3))


def test_the_pose_takes_rays_to_the_world() -> None:
    pose = look_at(torch.tensor([1.0, -2.0, 0.5]), torch.zeros(3))
    local, (origins, directions) = camera(torch.eye(4)).rays(), camera(pose).rays()
    torch.testing.assert_close(directions, local.directions @ pose[:3, :3].T)
    assert torch.equal(origins, pose[:3, 3].expand(25, 3))


def test_a_resized_camera_sees_the_same_with_other_pixels() -> None:
    view = Camera(look_at(torch.tensor([3.0, 1.0, 1.0]), torch.zeros(3)), 100.0, 110.0, 31.0, 33.0, 64, 60)
    small = view.resized(30, 32)
    assert (small.height, small.width) == (30, 32)
    # The ray of a small pixel goes through the corner that four pixels share: half-way between their centres.
    big = view.rays().directions / (view.rays().directions @ view.T_world_camera[:3, 2])[:, None]
    mean = big.reshape(30, 2, 32, 2, 3).mean((1, 3)).reshape(-1, 3)
    torch.testing.assert_close(small.rays().directions, torch.nn.functional.normalize(mean, dim=-1), atol=1e-6, rtol=0)


def test_an_orbit_looks_at_the_origin_from_an_even_circle() -> None:
    elevation, start = math.radians(30.0), 0.4
    cameras = orbit(8, radius=2.5, elevation=elevation, start=start, height=5, width=5)
    assert len(cameras) == 8
    for i, view in enumerate(cameras):
        azimuth = start + i * math.pi / 4
        position = view.T_world_camera[:3, 3]
        wanted = [
            2.5 * math.cos(elevation) * math.cos(azimuth),
            2.5 * math.cos(elevation) * math.sin(azimuth),
            2.5 * math.sin(elevation),
        ]
        assert position.tolist() == pytest.approx(wanted, abs=1e-5)
        centre = view.rays().directions[12]
        torch.testing.assert_close(position + 2.5 * centre, torch.zeros(3), atol=1e-5, rtol=0)


def test_the_field_of_view_is_from_the_left_edge_to_the_right_one() -> None:
    view = orbit(1, radius=2.0, fov=1.0, height=50, width=100)[0]
    assert 2 * math.atan(view.cx / view.fx) == pytest.approx(1.0)
    assert (view.cx, view.cy, view.fx) == (50.0, 25.0, view.fy)
    row = view.rays().directions.reshape(50, 100, 3)[25]
    angle = math.acos(float(row[0] @ row[-1]))
    assert 0.97 < angle < 1.0  # a pixel less than the whole
