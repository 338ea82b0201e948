"""Pictures of the viewer, its map of the latents, its camera paths, and whose turn it is: all without a server."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at
from hyperfields.data import Kind, Mesh, View
from hyperfields.errors import InputError
from hyperfields.rendering import pictures as picture
from hyperfields.runs.render import bind, orbit_cameras
from hyperfields.tasks import render_picture
from hyperfields.viewer import frame as frame_module
from hyperfields.viewer.camera_path import (
    CameraPath,
    Keyframe,
    camera,
    from_nerfstudio,
    from_opengl,
    quaternion,
    to_nerfstudio,
)
from hyperfields.viewer.frame import Window, frame
from hyperfields.viewer.latent_map import latent_map
from hyperfields.viewer.session import moving_size
from hyperfields.viewer.truth import mesh_picture, truth_picture, view_picture
from hyperfields.viewer.turns import Turns

from ._octahedra import run_of

SIZE = (20, 24)


# Pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "channel"), [("shapes", "rgb"), ("views", "rgb"), ("views", "depth"), ("shapes", "normals")]
)
def test_a_frame_is_the_picture_that_render_makes(kind: Kind, channel: str) -> None:
    run = run_of(kind)
    bound, view = bind(run, run.codes("big")), orbit_cameras(run, 1, SIZE)[0]
    seen = frame(bound, view, SIZE, channel, samples=2)  # type: ignore[arg-type]
    wanted = render_picture(bound, view, SIZE, channel, supersample=2)  # type: ignore[arg-type]
    torch.testing.assert_close(seen, wanted, atol=1e-6, rtol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("views")
    bound, view = bind(run, run.codes("big")), orbit_cameras(run, 1, SIZE)[0]
    whole = frame(bound, view, SIZE, "depth")
    monkeypatch.setattr(picture, "RAYS", 37)
    torch.testing.assert_close(frame(bound, view, SIZE, "depth"), whole)


def test_the_background_is_where_nothing_is() -> None:
    run = run_of("shapes")
    seen = frame(bind(run, run.codes("small")), orbit_cameras(run, 1, SIZE)[0], SIZE, background=0.25)
    assert seen[0, 0].tolist() == [0.25] * 3
    assert float((seen[10, 12] - 0.25).abs().max()) > 0.1


def ramp() -> tuple[object, Tensor]:
    """An image that is its own x in red and y in green, and that image at 8 x 8."""
    run = run_of("images")
    bound = bind(run, run.codes("small"))
    bound.weights["mlp.0.weight"][:] = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    bound.weights["mlp.0.bias"][:] = -0.5
    return bound, frame(bound, Window(), (8, 8))


def test_a_window_shows_that_part_of_an_image() -> None:
    bound, whole = ramp()
    part = frame(bound, Window(0.5, 0.25, 1.0, 0.75), (4, 4))  # type: ignore[arg-type]
    torch.testing.assert_close(part, whole[2:6, 4:8])


def test_outside_of_an_image_is_background() -> None:
    bound, whole = ramp()
    wide = frame(bound, Window(-0.5, 0.0, 1.5, 1.0), (8, 16), background=0.75)  # type: ignore[arg-type]
    torch.testing.assert_close(wide[:, 4:12], whole)
    assert bool((wide[:, :4] == 0.75).all())
    assert bool((wide[:, 12:] == 0.75).all())


class Enough(Exception):
    pass


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_frame_can_be_given_up(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "RAYS", 100)
    run, calls = run_of(kind), []

    def pause() -> None:
        calls.append(0)
        if len(calls) == 2:
            raise Enough

    view = Window() if kind == "images" else orbit_cameras(run, 1, SIZE)[0]
    with pytest.raises(Enough):
        frame(bind(run, run.codes("big")), view, SIZE, pause=pause)
    assert len(calls) == 2


def test_a_view_of_another_kind_is_refused() -> None:
    run = run_of("images")
    with pytest.raises(ValueError, match="Camera for a field ImageField"):
        frame(bind(run, run.codes("big")), orbit_cameras(run_of("shapes"), 1, SIZE)[0], SIZE)
    with pytest.raises(InputError, match="these scenes give rgb"):
        frame(bind(run, run.codes("big")), Window(), SIZE, "depth")


def test_the_moving_size_keeps_to_its_budget() -> None:
    fast, slow = moving_size((394, 512), 1e-7), moving_size((394, 512), 1e-5)
    assert max(fast) == 320
    assert slow[0] * slow[1] * 1e-5 <= 0.06
    assert slow[1] / slow[0] == pytest.approx(512 / 394, rel=0.02)
    assert moving_size((394, 512), 1.0) == (49, 64)
    assert moving_size((40, 30), 1e-9) == (40, 30)


# The map of the latents -------------------------------------------------------------------------------


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(12, 5) * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1]) + 3.0


def test_coordinates_lead_back_to_the_codes(codes: Tensor) -> None:
    found = latent_map(codes)
    torch.testing.assert_close(torch.cat([found.code(c) for c in found.coordinates]), codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.coordinates.square().mean(0), torch.ones(5))
    assert found.std.tolist() == sorted(found.std.tolist(), reverse=True)


def test_fewer_scenes_than_numbers_leave_fewer_axes() -> None:
    codes = torch.randn(3, 40)
    found = latent_map(codes)
    assert found.axes.shape == (2, 40)
    torch.testing.assert_close(torch.cat([found.code(c) for c in found.coordinates]), codes, atol=1e-4, rtol=1e-4)
    alone = latent_map(codes[:1])
    torch.testing.assert_close(alone.code(alone.at(1.0, 2.0)), codes[:1])
    assert alone.place(alone.coordinates[0]).tolist() == [0.0, 0.0]


def test_the_place_of_a_scene_is_that_scene(codes: Tensor) -> None:
    found = latent_map(codes)
    for place, coordinates in zip(found.places().tolist(), found.coordinates, strict=True):
        assert torch.equal(found.at(*place), coordinates)


def test_between_places_the_map_is_exact_and_continuous(codes: Tensor) -> None:
    found = latent_map(codes)
    a, b = found.places()[:2]
    previous = found.at(*a.tolist())
    for t in torch.linspace(0.0, 1.0, 400)[1:]:
        point = torch.lerp(a, b, t)
        here = found.at(*point.tolist())
        torch.testing.assert_close(found.place(here), point, atol=2e-3, rtol=0)
        assert float((here - previous).norm()) < 0.3
        previous = here


def test_neighbours_come_with_their_distance(codes: Tensor) -> None:
    found = latent_map(codes)
    near = found.nearest(found.coordinates[4], 3)
    distance = (codes - codes[4]).norm(dim=-1)
    assert [n for n, _ in near] == distance.argsort()[:3].tolist()
    assert [d for _, d in near] == pytest.approx(distance.sort().values[:3].tolist(), abs=1e-4)


def test_text_keeps_coordinates(codes: Tensor) -> None:
    found = latent_map(codes)
    drawn = found.draw(7)
    torch.testing.assert_close(found.from_text(found.to_text(drawn)), drawn, atol=3e-4, rtol=0)
    assert torch.equal(found.draw(7), drawn)
    assert not torch.equal(found.draw(8), drawn)


@pytest.mark.parametrize("text", ["", "AAAA", "!!", "A" * 401, "é"])
def test_other_text_is_refused(codes: Tensor, text: str) -> None:
    with pytest.raises(InputError, match="latent:"):
        latent_map(codes).from_text(text)


# Camera paths -----------------------------------------------------------------------------------------


def pose(*position: float) -> Tensor:
    return look_at(torch.tensor(position), torch.zeros(3))


def path(**more: object) -> CameraPath:
    keys = [Keyframe(pose(math.cos(a) * 3, math.sin(a) * 3, 1.0), 0.6 + 0.1 * a) for a in (0.0, 1.0, 2.5, 4.0)]
    return CameraPath(tuple(keys), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", [False, True])
def test_a_path_goes_through_its_keyframes(loop: bool) -> None:
    whole = path(loop=loop)
    for number, key in enumerate(whole.keyframes):
        found = whole.at(number / (4 if loop else 3))
        torch.testing.assert_close(found.T_world_camera, key.T_world_camera, atol=1e-5, rtol=0)
        assert found.fov == pytest.approx(key.fov)
    if loop:
        torch.testing.assert_close(whole.at(1.0).T_world_camera, whole.at(0.0).T_world_camera, atol=1e-5, rtol=0)


def test_every_camera_of_a_path_is_rigid_and_near_the_last() -> None:
    whole = path(seconds=5.0, loop=True)
    cameras = whole.cameras()
    assert len(cameras) == 120
    for before, after in zip(cameras, cameras[1:] + cameras[:1], strict=True):
        turn = after.T_world_camera[:3, :3]
        torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)
        assert float((after.T_world_camera - before.T_world_camera).norm()) < 0.35


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
    for a, b in zip(again.keyframes, whole.keyframes, strict=True):
        torch.testing.assert_close(a.T_world_camera, b.T_world_camera, atol=1e-5, rtol=0)
        assert a.fov == pytest.approx(b.fov)


def test_a_path_without_keyframes_is_read_from_its_frames() -> None:
    written = to_nerfstudio(path(seconds=0.5, fps=10.0)) | {"keyframes": []}
    assert len(from_nerfstudio(written).keyframes) == 5


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
    ],
)
def test_damaged_paths_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_nerfstudio(GOOD | change)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "7", "[" * 50])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="camera path"):
        from_nerfstudio(text)


def test_a_rotation_is_its_quaternion() -> None:
    turn = pose(1.0, 2.0, 0.5)[:3, :3]
    w, *v = quaternion(turn).tolist()
    axis, point = torch.tensor(v), torch.tensor([0.3, -0.7, 0.2])
    turned = point + 2.0 * torch.linalg.cross(axis, torch.linalg.cross(axis, point) + w * point)
    torch.testing.assert_close(turned, turn @ point, atol=1e-5, rtol=0)


def test_a_nearly_rigid_pose_becomes_rigid() -> None:
    crooked = to_nerfstudio(path())["keyframes"][1]["matrix"]
    crooked[0] += 0.01
    turn = from_opengl(crooked)[:3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)


# Truth ------------------------------------------------------------------------------------------------


def octahedron(radius: float) -> Mesh:
    corners = torch.cat((torch.eye(3), -torch.eye(3))) * radius
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    return Mesh(corners, torch.tensor(faces))


def test_the_true_mesh_lies_where_its_field_lies() -> None:
    pytest.importorskip("open3d")
    run = run_of("shapes")
    view = orbit_cameras(run, 1, SIZE)[0]
    seen = frame(bind(run, run.codes("big")), view, SIZE)
    truth = mesh_picture(octahedron(0.8), view, SIZE)
    assert float((seen - truth).abs().mean()) < 0.02


def test_the_true_image_is_cropped_like_the_result() -> None:
    bound, whole = ramp()
    window = Window(0.25, 0.0, 1.25, 0.5)
    seen = truth_picture(whole, window, (4, 8), 0.5)
    torch.testing.assert_close(seen, frame(bound, window, (4, 8), background=0.5), atol=0.07, rtol=0)  # type: ignore[arg-type]


def test_a_photograph_lies_over_the_background() -> None:
    rgba = torch.tensor([[[1.0, 0.0, 0.0, 0.25]]])
    view = View(camera(Keyframe(torch.eye(4), 0.5), (1, 1)), rgba)
    assert view_picture(view, 0.2)[0, 0].tolist() == pytest.approx([0.4, 0.15, 0.15])


# Turns ------------------------------------------------------------------------------------------------


def test_turns_are_taken_in_order_and_the_urgent_first() -> None:
    turns, order, waiting = Turns(), [], []

    def take(name: str, urgent: bool) -> None:
        with turns.turn(urgent):
            order.append(name)

    with turns.turn(urgent=True):
        for name, urgent in (("a", False), ("b", False), ("c", True), ("d", True)):
            thread = threading.Thread(target=take, args=(name, urgent))
            thread.start()
            waiting.append(thread)
            time.sleep(0.02)
    for thread in waiting:
        thread.join(5.0)
    assert order == ["c", "d", "a", "b"]


def test_a_long_turn_lets_others_in_between() -> None:
    turns, order = Turns(), []

    def short() -> None:
        with turns.turn(urgent=True):
            order.append("short")

    with turns.turn(urgent=False):
        thread = threading.Thread(target=short)
        thread.start()
        while not any(turns._queues):
            time.sleep(0.001)
        order.append("long")
        turns.let_others(urgent=False)
        order.append("long again")
    thread.join(5.0)
    assert order == ["long", "short", "long again"]
    turns.let_others(urgent=False)  # alone: nothing to wait for


def test_a_camera_has_its_vertical_angle() -> None:
    made: Camera = camera(Keyframe(pose(3.0, 0.0, 0.0), 0.8), (100, 300))
    assert 2.0 * math.atan(0.5 * made.height / made.fy) == pytest.approx(0.8)
    assert (made.fx, made.cx, made.cy) == (made.fy, 150.0, 50.0)


def test_frame_knows_no_server() -> None:
    source = Path(frame_module.__file__).read_text()
    assert not {"viser", "websockets", "threading"} & set(source.replace(".", " ").split())
