"""Pictures of the viewer, its map of the latents, its camera paths and its lock: all without a server."""

from __future__ import annotations

import json
import math
import struct
import threading
import time

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at
from hyperfields.cameras.keyframes import camera
from hyperfields.codes.latent_map import latent_map
from hyperfields.data import Kind, Mesh, View
from hyperfields.errors import InputError
from hyperfields.rendering.image import Window
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.tasks import task_of
from hyperfields.tasks.mesh_picture import mesh_picture
from hyperfields.viewer.lock import FairLock, Turn
from hyperfields.viewer.reference import photograph_picture, reference_picture
from hyperfields.viewer.session import mesh_bytes, moving_size, pack
from hyperfields.viewer.shared import FieldInTurns

from ._octahedra import run_of

SIZE = (20, 24)


# Pictures ---------------------------------------------------------------------------------------------


def ramp() -> tuple[object, Tensor]:
    """An image that is its own x in red and y in green, and that image at 8 x 8."""
    run = run_of("images")
    bound = run["small"].field
    bound.weights["mlp.0.weight"][:] = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    bound.weights["mlp.0.bias"][:] = -0.5
    return bound, task_of("images").picture(bound, Window(), (8, 8))


def test_a_window_shows_that_part_of_an_image() -> None:
    bound, whole = ramp()
    part = task_of("images").picture(bound, Window(0.5, 0.25, 1.0, 0.75), (4, 4))  # type: ignore[arg-type]
    torch.testing.assert_close(part, whole[2:6, 4:8])


def test_outside_of_an_image_is_background() -> None:
    bound, whole = ramp()
    window = Window(-0.5, 0.0, 1.5, 1.0)
    wide = task_of("images").picture(bound, window, (8, 16), background=0.75)  # type: ignore[arg-type]
    torch.testing.assert_close(wide[:, 4:12], whole)
    assert bool((wide[:, :4] == 0.75).all())
    assert bool((wide[:, 12:] == 0.75).all())


class Enough(Exception):
    pass


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_picture_can_be_given_up(kind: Kind) -> None:
    run, calls = run_of(kind), []

    def pause() -> None:
        calls.append(0)
        if len(calls) == 2:
            raise Enough

    task, size = task_of(kind), (512, 512)
    view = orbit_cameras(run, 1, size)[0] if task.has_camera else Window()
    with pytest.raises(Enough):
        task.picture(run["big"].field, view, size, pause=pause)
    assert len(calls) == 2


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
    made = latent_map(codes)
    torch.testing.assert_close(torch.cat([made.code(c) for c in made.coordinates]), codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.coordinates.square().mean(0), torch.ones(5))
    assert made.std.tolist() == sorted(made.std.tolist(), reverse=True)


def test_fewer_scenes_than_numbers_leave_fewer_axes() -> None:
    codes = torch.randn(3, 40)
    made = latent_map(codes)
    assert made.axes.shape == (2, 40)
    torch.testing.assert_close(torch.cat([made.code(c) for c in made.coordinates]), codes, atol=1e-4, rtol=1e-4)
    alone = latent_map(codes[:1])
    torch.testing.assert_close(alone.code(alone.at(1.0, 2.0)), codes[:1])
    assert alone.place(alone.coordinates[0]).tolist() == [0.0, 0.0]


def test_the_place_of_a_scene_is_that_scene(codes: Tensor) -> None:
    made = latent_map(codes)
    for place, coordinates in zip(made.places().tolist(), made.coordinates, strict=True):
        assert torch.equal(made.at(*place), coordinates)


def test_between_places_the_map_is_exact_and_continuous(codes: Tensor) -> None:
    made = latent_map(codes)
    a, b = made.places()[:2]
    previous = made.at(*a.tolist())
    for t in torch.linspace(0.0, 1.0, 400)[1:]:
        point = torch.lerp(a, b, t)
        here = made.at(*point.tolist())
        torch.testing.assert_close(made.place(here), point, atol=2e-3, rtol=0)
        assert float((here - previous).norm()) < 0.3
        previous = here


def test_neighbours_come_with_their_distance(codes: Tensor) -> None:
    made = latent_map(codes)
    near = made.nearest(made.coordinates[4], 3)
    distance = (codes - codes[4]).norm(dim=-1)
    assert [n for n, _ in near] == distance.argsort()[:3].tolist()
    assert [d for _, d in near] == pytest.approx(distance.sort().values[:3].tolist(), abs=1e-4)


def test_text_keeps_coordinates(codes: Tensor) -> None:
    made = latent_map(codes)
    drawn = made.draw(7)
    torch.testing.assert_close(made.from_text(made.to_text(drawn)), drawn, atol=3e-4, rtol=0)
    assert torch.equal(made.draw(7), drawn)
    assert not torch.equal(made.draw(8), drawn)


@pytest.mark.parametrize("text", ["", "AAAA", "!!", "A" * 401, "é"])
def test_other_text_is_refused(codes: Tensor, text: str) -> None:
    with pytest.raises(InputError, match="latent:"):
        latent_map(codes).from_text(text)


# References -------------------------------------------------------------------------------------------


def octahedron(radius: float) -> Mesh:
    corners = torch.cat((torch.eye(3), -torch.eye(3))) * radius
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    return Mesh(corners, torch.tensor(faces))


def test_the_mesh_of_the_data_lies_where_its_field_lies() -> None:
    pytest.importorskip("open3d")
    run = run_of("shapes")
    view = orbit_cameras(run, 1, SIZE)[0]
    picture = task_of("shapes").picture(run["big"].field, view, SIZE, supersample=1)
    assert float((picture - mesh_picture(octahedron(0.8), view, SIZE)).abs().mean()) < 0.02


def test_ray_casting_pauses_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open3d")
    view = orbit_cameras(run_of("shapes"), 1, SIZE)[0]
    whole = mesh_picture(octahedron(0.8), view, SIZE)
    monkeypatch.setattr("hyperfields.tasks.mesh_picture.RAYS", 100)
    pauses: list[int] = []
    blocks = mesh_picture(octahedron(0.8), view, SIZE, pause=lambda: pauses.append(1))
    torch.testing.assert_close(blocks, whole)
    assert len(pauses) == 5


def test_the_image_of_the_data_is_cropped_like_the_result() -> None:
    bound, whole = ramp()
    window = Window(0.25, 0.0, 1.25, 0.5)
    result = task_of("images").picture(bound, window, (4, 8), background=0.5)  # type: ignore[arg-type]
    torch.testing.assert_close(reference_picture(whole, window, (4, 8), 0.5), result, atol=0.07, rtol=0)


def test_a_photograph_lies_over_the_background() -> None:
    rgba = torch.tensor([[[1.0, 0.0, 0.0, 0.25]]])
    view = View(camera(torch.eye(4), 0.5, (1, 1)), rgba)
    assert photograph_picture(view, 0.2)[0, 0].tolist() == pytest.approx([0.4, 0.15, 0.15])


# The lock ---------------------------------------------------------------------------------------------


class Queue:
    """Threads that wait for a lock, one after another."""

    def __init__(self, lock: FairLock) -> None:
        self.lock = lock
        self.order: list[str] = []
        self._threads: list[threading.Thread] = []

    def add(self, name: str, turn: Turn, *more: str) -> None:
        """A thread that notes its names, and gives way after each but the last."""

        def take() -> None:
            with self.lock.held(turn):
                self.order.append(name)
                for another in more:
                    self.lock.give_way()
                    self.order.append(another)

        thread = threading.Thread(target=take)
        before = self.lock.waiting()
        thread.start()
        self._threads.append(thread)
        while self.lock.waiting() == before:
            time.sleep(0.001)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(300.0)
            assert not thread.is_alive()


def test_the_lock_goes_round_in_order_looks_before_pictures_before_jobs() -> None:
    queue = Queue(FairLock())
    with queue.lock.held():
        for name, turn in (("a", Turn.JOB), ("b", Turn.JOB), ("p", Turn.PICTURE), ("c", Turn.LOOK), ("d", Turn.LOOK)):
            queue.add(name, turn)
    queue.join()
    assert queue.order == ["c", "d", "p", "a", "b"]


def test_who_began_first_ends_first() -> None:
    """Of pictures in blocks only one is half done at a time, so memory does not grow with those who wait."""
    queue = Queue(FairLock())
    with queue.lock.held(Turn.LOOK):
        queue.add("a1", Turn.PICTURE, "a2", "a3")
        queue.add("b1", Turn.PICTURE, "b2")
    queue.join()
    assert queue.order == ["a1", "a2", "a3", "b1", "b2"]


def test_a_job_waits_for_those_who_wait_already_and_for_no_more_than_its_patience() -> None:
    queue = Queue(FairLock())
    with queue.lock.held(Turn.LOOK):
        for number in range(40):
            queue.add(f"before {number}", Turn.LOOK)
        queue.add("job", Turn.JOB)
        for number in range(40):
            queue.add(f"after {number}", Turn.LOOK)
    queue.join()
    assert queue.order.index("job") == 40 + Turn.JOB
    assert queue.order[:40] == [f"before {number}" for number in range(40)]


def test_who_holds_the_lock_for_long_gives_way_in_between() -> None:
    queue = Queue(FairLock())
    with queue.lock.held():
        queue.add("short", Turn.LOOK)
        queue.order.append("long")
        queue.lock.give_way()
        queue.order.append("long again")
    queue.join()
    assert queue.order == ["long", "short", "long again"]
    with queue.lock.held():
        queue.lock.give_way()  # alone: nothing to wait for


@pytest.mark.parametrize("kind", ["shapes", "views"])
def test_a_field_in_turns_is_the_field(kind: Kind) -> None:
    run, task, lock = run_of(kind), task_of(kind), FairLock()
    checks: list[bool] = []
    field = FieldInTurns(run["big"].field, lock, lambda: checks.append(lock.busy))
    bound = run["big"].field
    mesh, same = task.mesh(field, 24), task.mesh(bound, 24)
    assert torch.equal(mesh.vertices, same.vertices)
    view = orbit_cameras(run, 1, SIZE)[0]
    assert torch.equal(task.picture(field, view, SIZE), task.picture(bound, view, SIZE))
    assert len(checks) >= 2
    assert not any(checks)  # free between blocks


# Messages ---------------------------------------------------------------------------------------------


def test_a_mesh_is_sent_as_arrays() -> None:
    mesh = octahedron(0.5)
    data = mesh_bytes(mesh)
    assert len(data) == 6 * 12 + 6 * 4 + 6 * 4 + 8 * 12
    assert struct.unpack("<3f", data[:12]) == (0.5, 0.0, 0.0)
    assert struct.unpack("<4b", data[72:76]) == (127, 0, 0, 0)  # of the corner on +x
    assert data[96:120] == bytes(24)
    assert struct.unpack("<3I", data[120:132]) == (0, 1, 2)
    red = mesh_bytes(mesh._replace(colors=torch.tensor([1.0, 0.0, 0.2]).expand(6, 3)))
    assert red[96:120] == bytes([255, 0, 51, 255]) * 6
    assert red[120:] == data[120:]
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert mesh_bytes(empty) == b""


def test_bytes_of_a_message_are_aligned() -> None:
    for header in ({}, {"a": 1}, {"ab": 12}):
        message = pack(header, b"data")
        (length,) = struct.unpack("<I", message[:4])
        assert length % 4 == 0
        assert json.loads(message[4 : 4 + length]) == header
        assert message[4 + length :] == b"data"


def test_a_camera_has_its_vertical_angle() -> None:
    made: Camera = camera(look_at([3.0, 0.0, 0.0], [0.0, 0.0, 0.0]), 0.8, (100, 300))
    assert 2.0 * math.atan(0.5 * made.height / made.fy) == pytest.approx(0.8)
    assert (made.fx, made.cx, made.cy) == (made.fy, 150.0, 50.0)
