"""Paths of cameras: orbits, spirals, keyframes and nerfstudio's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import (
    CameraPath,
    look_at,
    middle_pose,
    orbit,
    read_camera_path,
    spiral,
    write_camera_path,
)
from hyperfields.cameras.nerfstudio import from_nerfstudio, to_nerfstudio
from hyperfields.cameras.poses import from_opengl, quaternions, rotation_matrices
from hyperfields.errors import InputError


def pose(*position: float) -> Tensor:
    return look_at(torch.tensor(position), torch.zeros(3))


ANGLES = (0.0, 1.0, 2.5, 4.0)


def path(**more: object) -> CameraPath:
    poses = torch.stack([pose(math.cos(a) * 3, math.sin(a) * 3, 1.0) for a in ANGLES])
    return CameraPath(poses, torch.tensor([0.6 + 0.1 * a for a in ANGLES]), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", [False, True])
def test_a_path_goes_through_its_keyframes(loop: bool) -> None:
    whole = path(loop=loop)
    poses, fovs = whole.at(torch.arange(4, dtype=torch.float64) / (4 if loop else 3))
    torch.testing.assert_close(poses, whole.poses, atol=1e-5, rtol=0)
    torch.testing.assert_close(fovs, whole.fovs)
    if loop:
        first, last = whole.at(torch.tensor([0.0, 1.0]))[0]
        torch.testing.assert_close(first, last, atol=1e-5, rtol=0)


def test_every_camera_of_a_path_is_rigid_and_near_the_last() -> None:
    cameras = path(seconds=5.0, loop=True).cameras()
    assert len(cameras) == 120
    for before, after in zip(cameras, cameras[1:] + cameras[:1], strict=True):
        turn = after.T_world_camera[:3, :3]
        torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)
        assert float((after.T_world_camera - before.T_world_camera).norm()) < 0.35


def test_a_keyframe_alone_stands_still() -> None:
    alone = CameraPath(pose(1.0, 2.0, 3.0)[None], torch.tensor([0.7]), seconds=0.5)
    poses, fovs = alone.at(alone.frame_times())
    torch.testing.assert_close(poses, alone.poses.expand(12, 4, 4), atol=1e-5, rtol=0)
    assert fovs.tolist() == pytest.approx([0.7] * 12)


def test_opposite_directions_do_not_cancel() -> None:
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    there_and_back = CameraPath(torch.stack([torch.eye(4), half_turn, torch.eye(4)]), torch.full((3,), 0.7))
    turns = there_and_back.at(torch.linspace(0.0, 1.0, 101))[0][:, :3, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)


def test_nerfstudio_reads_what_it_would_write() -> None:
    whole = path(size=(120, 160), seconds=1.0, fps=10.0)
    written = json.loads(json.dumps(to_nerfstudio(whole)))
    assert (written["render_height"], written["render_width"]) == (120, 160)
    assert len(written["camera_path"]) == 10
    assert written["keyframes"][0]["aspect"] == pytest.approx(160 / 120)
    matrix = torch.tensor(written["camera_path"][0]["camera_to_world"]).reshape(4, 4)
    assert matrix[:3, 3].tolist() == pytest.approx([3.0, 0.0, 1.0], abs=1e-5)
    backwards = matrix[:3, 2]  # OpenGL's camera looks along -Z: from the origin to the camera
    torch.testing.assert_close(backwards, torch.nn.functional.normalize(matrix[:3, 3], dim=0), atol=1e-5, rtol=0)
    assert float(matrix[2, 1]) > 0.9  # its +Y is up
    again = from_nerfstudio(json.dumps(written))
    assert (again.size, again.seconds, again.fps, again.loop) == (whole.size, 1.0, 10.0, False)
    torch.testing.assert_close(again.poses, whole.poses, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.fovs, whole.fovs)


def test_a_path_without_keyframes_is_read_from_its_frames() -> None:
    written = to_nerfstudio(path(seconds=0.5, fps=10.0)) | {"keyframes": []}
    assert len(from_nerfstudio(written).poses) == 5


GOOD = to_nerfstudio(path(seconds=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keyframes": [], "camera_path": []}, "no keyframes"),
        ({"keyframes": "x"}, "damaged"),
        ({"keyframes": [{"matrix": [0.0] * 16, "fov": 40}]}, "damaged"),
        ({"keyframes": [{"matrix": [float("nan")] * 16, "fov": 40}]}, "damaged"),
        ({"keyframes": [{"matrix": GOOD["keyframes"][0]["matrix"], "fov": 4000}]}, "damaged"),
        ({"keyframes": GOOD["keyframes"] * 60}, "201 keyframes came, wanted 1 to 200"),
        ({"seconds": 1e9}, "wanted up to 3000 frames"),
        ({"fps": -1}, "frames a second"),
        ({"render_height": 10**6}, "wanted sides of 8 to 2048"),
        ({"render_height": None}, "damaged"),
        ({"crop": {"crop_center": [0, 0, 0]}}, "a crop is not done here"),
        ({"camera_type": "vr180"}, "camera_type 'vr180' is not done here, wanted one of perspective, fisheye"),
        ({"speed": 3}, "key 'speed' is not known here"),
        ({"keyframes": [GOOD["keyframes"][0] | {"override_transition_enabled": True}]}, "a time of its own"),
        ({"keyframes": [k | {"time": i} for i, k in enumerate(GOOD["keyframes"])]}, "several times"),
    ],
)
def test_damaged_paths_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_nerfstudio(GOOD | change)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "7", "[" * 50])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="camera path"):
        from_nerfstudio(text)


def test_rotations_and_quaternions_lead_to_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.nn.functional.normalize(torch.randn(200, 4, generator=generator, dtype=torch.float64), dim=-1)
    given[:4] = torch.eye(4, dtype=torch.float64)  # half turns, where the naive formula divides by nothing
    again = quaternions(rotation_matrices(given))
    torch.testing.assert_close((again * given).sum(-1).abs(), torch.ones(200, dtype=torch.float64))
    w, axis = given[:, :1], given[:, 1:]
    point = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64).expand(200, 3)
    turned = point + 2.0 * torch.linalg.cross(axis, torch.linalg.cross(axis, point) + w * point)
    torch.testing.assert_close((rotation_matrices(given) @ point[..., None]).squeeze(-1), turned)


def test_a_nearly_rigid_pose_becomes_rigid() -> None:
    crooked = to_nerfstudio(path())["keyframes"][1]["matrix"]
    crooked[0] += 0.01
    turn = from_opengl([crooked])[0, :3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)


# Splines and files -----------------------------------------------------------------------------------


def test_positions_between_keyframes_lie_on_catmull_roms_spline() -> None:
    """On points of a parabola with even steps the spline is the parabola itself, between the inner keyframes."""
    x = torch.arange(5, dtype=torch.float32)
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3], poses[:, 1, 3] = x, x * x
    times = torch.linspace(0.25, 0.75, 21, dtype=torch.float64)  # keyframes 1 to 3
    found = CameraPath(poses, torch.full((5,), 0.7)).at(times)[0]
    torch.testing.assert_close(found[:, 0, 3], (4.0 * times).float())
    torch.testing.assert_close(found[:, 1, 3], (16.0 * times**2).float(), atol=1e-5, rtol=0.0)


def test_a_turn_with_a_steady_speed_stays_steady() -> None:
    """Keyframes 20 degrees apart round one axis: the frames between them turn evenly, to a hundredth of a degree."""
    angles = [math.radians(20.0 * k) for k in range(6)]
    poses = torch.eye(4).repeat(6, 1, 1)
    for pose_, a in zip(poses, angles, strict=True):
        pose_[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    times = torch.linspace(0.2, 0.8, 31, dtype=torch.float64)
    turns = CameraPath(poses, torch.full((6,), 0.7)).at(times)[0]
    found = torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg().double()
    torch.testing.assert_close(found, times * 100.0, atol=0.01, rtol=0.0)


def test_a_file_gives_its_frames_as_they_are(tmp_path: Path) -> None:
    whole = path(size=(120, 160), seconds=1.0, fps=10.0)
    write_camera_path(tmp_path / "p.json", whole)
    film = read_camera_path(tmp_path / "p.json")
    assert (len(film.cameras), film.fps, film.in_box) == (10, 10.0, True)
    for one, two in zip(film.cameras, whole.cameras(), strict=True):
        torch.testing.assert_close(one.T_world_camera, two.T_world_camera, atol=1e-5, rtol=0.0)
        assert (one.width, one.height, one.cx, one.cy) == (160, 120, 80.0, 60.0)
        assert one.fx == one.fy == pytest.approx(two.fy, rel=1e-5)
    small = read_camera_path(tmp_path / "p.json", (60, 60)).cameras[3]
    assert (small.width, small.height) == (60, 60)
    assert small.fy == pytest.approx(film.cameras[3].fy / 2.0)


def nerfstudio(**changes: Any) -> dict[str, Any]:
    """A file as nerfstudio's viewer writes it, by hand: one camera 2 above the origin, looking down, +Y up."""
    above = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1]
    keyframe = {"matrix": above, "fov": 60.0, "aspect": 1.5, "override_transition_enabled": False}
    return {
        "default_fov": 60.0,
        "default_transition_sec": 2.0,
        "keyframes": [keyframe | {"override_transition_sec": None}],
        "camera_type": "perspective",
        "render_height": 80,
        "render_width": 120,
        "fps": 30,
        "seconds": 0.1,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "camera_path": [{"camera_to_world": above, "fov": 60.0, "aspect": 1.5}] * 3,
        **changes,
    }


@pytest.mark.parametrize("kind", ["perspective", "fisheye", "equirectangular"])
@pytest.mark.parametrize("frames", [True, False])
def test_nerfstudios_own_file(kind: str, frames: bool, tmp_path: Path) -> None:
    """Its cameras by its definition: ns-render takes 0.5 h / tan(fov / 2) for perspective and fisheye lenses."""
    content = nerfstudio(camera_type=kind, **({} if frames else {"camera_path": []}))
    (tmp_path / "camera_path.json").write_text(json.dumps(content))
    film = read_camera_path(tmp_path / "camera_path.json")
    assert (len(film.cameras), film.fps, film.in_box) == (3, 30.0, False)
    for camera in film.cameras:
        assert camera.T_world_camera[:3, 3].tolist() == pytest.approx([0.0, 0.0, 2.0])
        directions = camera.rays().directions.reshape(80, 120, 3)
        assert directions[39:41, 59:61].mean((0, 1)).tolist() == pytest.approx([0.0, 0.0, -1.0], abs=1e-3)
        if kind == "equirectangular":  # the left edge looks back, the top row up in the picture: +Y
            assert directions[39:41, [0, -1]].mean((0, 1)).tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-3)
            assert directions[0].mean(0).tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-3)
            continue
        focal = 40.0 / math.tan(math.radians(30.0))
        place = 39.5 / focal
        angle = place if kind == "fisheye" else math.atan(place)
        across = math.hypot(angle, 0.0) if kind == "perspective" else math.hypot(place, 0.5 / focal)
        up = directions[0, 59]
        assert float(-up[2]) == pytest.approx(math.cos(across), abs=2e-5)
        assert float(up[1]) > 0.3


def test_poses_of_nerfstudios_run_are_brought_into_the_capture(tmp_path: Path) -> None:
    """As its dataparser has it: a run turns, moves and scales the poses of transforms.json, and its file holds that
    turn after the capture's applied_transform, and the product of both scales."""
    turn = torch.linalg.qr(torch.tensor([[0.3, -0.9, 0.2], [0.8, 0.4, -0.1], [0.1, 0.5, 0.9]], dtype=torch.float64))[0]
    orient = torch.eye(4, dtype=torch.float64)
    orient[:3, :3], orient[:3, 3] = turn * torch.linalg.det(turn), torch.tensor([0.4, -2.0, 7.0])
    applied = torch.eye(4, dtype=torch.float64)[[2, 0, 1, 3]]
    auto, applied_scale = 0.125, 3.0
    saved = torch.tensor(nerfstudio()["camera_path"][0]["camera_to_world"], dtype=torch.float64).reshape(4, 4)
    run = orient @ saved
    run[:3, 3] *= auto
    frame = {"camera_to_world": run.flatten().tolist(), "fov": 60.0, "aspect": 1.5}
    (tmp_path / "camera_path.json").write_text(json.dumps(nerfstudio(keyframes=[], camera_path=[frame])))
    plain = read_camera_path(tmp_path / "camera_path.json")
    assert plain.note is not None
    assert "if it is from there, lay the run's dataparser_transforms.json" in plain.note
    content = {"transform": (orient @ applied)[:3].tolist(), "scale": auto * applied_scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"lay its transforms\.json beside it"):
        read_camera_path(tmp_path / "camera_path.json")
    capture = {"applied_transform": applied[:3].tolist(), "applied_scale": applied_scale, "frames": []}
    (tmp_path / "transforms.json").write_text(json.dumps(capture))
    film = read_camera_path(tmp_path / "camera_path.json")
    assert film.note is not None
    assert "are brought from the coordinates of nerfstudio's run" in film.note
    wanted = (saved * torch.tensor([1.0, -1.0, -1.0, 1.0])).float()
    torch.testing.assert_close(film.cameras[0].T_world_camera, wanted, atol=1e-5, rtol=0.0)
    whole = torch.eye(4).tolist()
    for transform in ([[1, 2], [3]], [], whole[:1], whole[:2], [*whole[:3], [0, 0, 1, 1]], [*whole, whole[3]]):
        (tmp_path / "dataparser_transforms.json").write_text(json.dumps({**content, "transform": transform}))
        with pytest.raises(InputError, match=r"dataparser_transforms\.json: its transform is no rotation"):
            read_camera_path(tmp_path / "camera_path.json")


def test_files_that_are_no_camera_paths(tmp_path: Path) -> None:
    for text, complaint in (
        ("[1]", "holds no camera path"),
        ("{", "not readable as a camera path"),
        (json.dumps(nerfstudio(crop={"a": 1})), "a crop is not done here"),
        (json.dumps(nerfstudio(camera_path=[{"camera_to_world": [0] * 16}])), "damaged"),
        (json.dumps(nerfstudio(render_height=0)), "wanted sides"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=rf"x\.json: .*{complaint}") as caught:
            read_camera_path(tmp_path / "x.json")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"y\.json: not readable as a camera path"):
        read_camera_path(tmp_path / "y.json")


# Spirals ---------------------------------------------------------------------------------------------


def test_a_spiral_goes_round_one_camera_and_looks_at_one_point() -> None:
    middle, focus, radii = pose(3.0, -1.0, 0.5), 2.5, (0.3, 0.2, 0.1)
    cameras = spiral(40, middle=middle, focus=focus, radii=radii, fov=0.8, height=20, width=30)
    assert len(cameras) == 40
    target = middle[:3, 3] + focus * middle[:3, 2]
    for i, camera in enumerate(cameras):
        local = middle[:3, :3].T @ (camera.T_world_camera[:3, 3] - middle[:3, 3])
        a = 4.0 * math.pi * i / 40
        wanted = [0.3 * math.cos(a), -0.2 * math.sin(a), -0.1 * math.sin(0.5 * a)]
        assert local.tolist() == pytest.approx(wanted, abs=1e-5)
        assert camera.project(target[None])[0].tolist() == pytest.approx([15.0, 10.0], abs=1e-3)
        assert float(camera.T_world_camera[:3, 1] @ middle[:3, 1]) > 0.98  # upright
        assert 2.0 * math.atan(0.5 * camera.width / camera.fx) == pytest.approx(0.8)
    with pytest.raises(InputError, match=r"focus 0\.05 is not ahead of a path that goes 0\.1 ahead"):
        spiral(4, middle=middle, focus=0.05, radii=radii)


def test_the_middle_of_cameras() -> None:
    middle = pose(3.0, -1.0, 0.5)
    around = spiral(60, middle=middle, focus=2.0, radii=(0.3, 0.2, 0.0))
    torch.testing.assert_close(middle_pose(around), middle, atol=2e-3, rtol=0.0)
    with pytest.raises(InputError, match="look all round"):
        middle_pose(orbit(8, radius=3.0, elevation=0.0))
