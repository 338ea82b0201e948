"""The viewer's server as a page meets it: pictures, files, refusals, many clients."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import hyperfields as hf

pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from hyperfields.cameras.keyframes import CameraPath, camera
from hyperfields.cameras.nerfstudio import to_nerfstudio
from hyperfields.data import Kind, Points, View
from hyperfields.errors import InputError
from hyperfields.rendering.image import Window
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.inferred import InferredCodes
from hyperfields.tasks import task_of
from hyperfields.viewer import app as app_module
from hyperfields.viewer import requests, serve
from hyperfields.viewer.app import Viewer
from hyperfields.viewer.jobs import MOST_FILES
from hyperfields.viewer.server import Gate, listen
from hyperfields.viewer.shared import FINE, SharedState

from ._octahedra import run_of
from ._viewer import CAMERA, PATIENCE, Client, decoded, get, viewing, wait_until

KINDS: list[Kind] = ["images", "shapes", "views"]


@pytest.fixture(scope="module")
def shapes() -> Iterator[Viewer]:
    with viewing("shapes") as viewer:
        yield viewer


# What is served ---------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_from_elsewhere(shapes: Viewer) -> None:
    status, headers, body = get(shapes, "/")
    assert status == 200
    assert b"hyperfields" in body
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    for name in ("main.js", "tabs.js", "style.css", "icon.svg"):
        status, headers, body = get(shapes, f"/page/{name}")
        assert status == 200
        assert b"https://" not in body
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/../../etc/passwd", "//etc/passwd", "/config.json",
     "/model.safetensors", "/page/", "/page/app.py", "/file/x/y", "/file/../run/config.json", "/thumbs/9", "/thumbs/-1",
     "/thumbs/99999999999999999999", "/live/x", "/nothing"],
)  # fmt: skip
def test_nothing_else_is_served(shapes: Viewer, path: str) -> None:
    assert get(shapes, path)[0] == 404


def test_thumbnails_show_the_scenes(shapes: Viewer) -> None:
    status, headers, body = get(shapes, "/thumbs/0")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    sheet = decoded(body)
    small, big, none = (sheet[:48, 48 * i : 48 * (i + 1)] for i in range(3))
    assert float((big < 0.95).float().mean()) > 1.5 * float((small < 0.95).float().mean()) > 0.05
    assert float(none.min()) > 0.95


def test_a_sheet_is_computed_once_for_all_who_ask_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with viewing("images") as viewer:
        pictures: list[int] = []
        picture = viewer.shared.task.picture

        def counted(*args: Any, **options: Any) -> torch.Tensor:
            pictures.append(1)
            time.sleep(0.05)
            return picture(*args, **options)

        monkeypatch.setattr(
            type(viewer.shared.task), "picture", lambda self, *args, **options: counted(*args, **options)
        )
        sheets: list[bytes] = []
        threads = [threading.Thread(target=lambda: sheets.append(get(viewer, "/thumbs/0")[2])) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(sheets) == 6
    assert len(set(sheets)) == 1
    assert len(pictures) == 2  # scenes of the run


# Who may ask ------------------------------------------------------------------------------------------


def test_other_names_of_this_machine_are_refused(shapes: Viewer) -> None:
    assert get(shapes, "/", Host="evil.example")[0] == 403
    assert get(shapes, "/", Host=f"evil.example:{shapes.port}")[0] == 403
    assert get(shapes, "/", Host="localhost:9")[0] == 200  # another port: a tunnel of ssh


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", None, "http://["])
def test_pages_of_others_cannot_talk_to_it(shapes: Viewer, origin: Any) -> None:
    address = f"{shapes.gate.origin.replace('http', 'ws')}/live?token={shapes.gate.token}"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, origin=origin, proxy=None)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=wrong", "/page/main.js", "/thumbs/0", "/file/a/b", "/no/such"]
)
def test_without_the_token_there_is_one_line(shapes: Viewer, path: str) -> None:
    status, headers, body = get(shapes, path, cookie=False)
    assert status == 403
    assert body.decode() == "wrong or no token: open the address that the viewer printed\n"
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("cookie", ["", "wrong", "é"])
def test_a_wrong_cookie_is_no_token(shapes: Viewer, cookie: str) -> None:
    name = shapes.gate.cookie.partition("=")[0]
    assert get(shapes, "/", cookie=False, Cookie=f"other=1; {name}={cookie}")[0] == 403


def test_websockets_need_the_token_too(shapes: Viewer) -> None:
    address, origin = shapes.gate.origin.replace("http", "ws") + "/live", shapes.gate.origin
    for query in ("", "?token=wrong"):
        with pytest.raises(InvalidStatus) as refused:
            connect(address + query, origin=origin, proxy=None)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
    cookie = {"Cookie": f"a=b; {shapes.gate.cookie.partition(';')[0]}"}
    with connect(address, origin=origin, proxy=None, additional_headers=cookie) as socket:  # type: ignore[arg-type]
        assert json.loads(socket.recv())["type"] == "hello"


def test_the_first_visit_leaves_a_cookie_and_no_trace(shapes: Viewer) -> None:
    status, headers, body = get(shapes, f"/?token={shapes.gate.token}", cookie=False)
    assert (status, headers["Location"]) == (303, "/")
    assert shapes.gate.token.encode() not in body
    cookie, *rules = headers["Set-Cookie"].split("; ")
    assert rules == ["Path=/", "HttpOnly", "SameSite=Lax"]  # also from a terminal in a page of another site
    assert headers["Referrer-Policy"] == "no-referrer"
    for path in ("/", "/page/main.js"):  # shared links hold no token
        assert get(shapes, path, cookie=False, Cookie=cookie)[0] == 200


def test_each_viewer_has_a_token_and_a_cookie_of_its_own() -> None:
    gates = [Gate("127.0.0.1", 8780) for _ in range(2)]  # browsers share cookies between the ports of a machine
    assert len({gate.token for gate in gates}) == len({gate.cookie.partition("=")[0] for gate in gates}) == 2
    assert all(len(gate.token) >= 32 for gate in gates)


def test_the_token_is_kept_out_of_logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG), viewing("images") as viewer:
        get(viewer, f"/?token={viewer.gate.token}", cookie=False)
        get(viewer, "/page/main.js")
        with Client(viewer) as page:
            page.request()
            page.until(level="still")
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.client"]
    assert not any(viewer.gate.token in line for line in ours)
    assert viewer.gate.token not in "".join(capfd.readouterr())


# Pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_is_answered_soon_and_then_well(kind: Kind) -> None:
    with viewing(kind) as viewer, Client(viewer) as page:
        assert page.hello["scenes"] == ["small", "big"]
        page.request(7, size=[48, 64])
        moving, still = page.until(level="moving"), page.until(level="still")
        assert (moving["id"], still["id"]) == (7, 7)
        assert moving["image"].shape[0] <= still["image"].shape[0] == 48
        assert still["latent"]["scene"] == "big"
        assert still["latent"]["nearest"][0][0] == "big"
        run = run_of(kind)
        view: Any = Window()
        if kind != "images":
            pose = app_module.requests.view(CAMERA, viewer.shared, (48, 64)).T_world_camera  # type: ignore[union-attr]
            view = camera(pose, 0.7, (48, 64))
        expected = task_of(kind).picture(run["big"].field, view, (48, 64), supersample=1)
        assert float((still["image"] - expected).abs().mean()) < 0.01  # JPEG


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_told_what_it_can_ask_for(kind: Kind) -> None:
    task = task_of(kind)
    with viewing(kind) as viewer, Client(viewer) as page:
        for name in ("has_camera", "has_mesh", "has_splits"):
            assert page.hello[name] is getattr(task, name)
        assert page.hello["channels"] == list(task.channels)
        assert (page.hello["camera"] is not None) == task.has_camera


def test_nobody_asks_for_a_kind() -> None:
    """`kind` is a word to show: neither the page nor the server decides by it (tasks do)."""
    sources = [*app_module.PAGE.glob("*.js"), *app_module.PAGE.glob("*.html"), *app_module.PAGE.parent.glob("*.py")]
    assert len(sources) > 15
    for source in sources:
        text = source.read_text()
        assert not re.search(r"""["'](images|shapes|views)["']""", text.replace("{ views:", "")), source.name
        assert not re.search(r"kind\s*[!=]==?|isinstance\([^)]*Field|case [\"'](images|shapes)", text), source.name


def test_a_point_of_the_map_lies_between(shapes: Viewer) -> None:
    with Client(shapes) as page:
        (ax, ay), (bx, by) = page.hello["places"]
        page.request(latent={"at": [0.5 * (ax + bx), 0.5 * (ay + by)]}, moving=True)
        between = page.until(type="picture")["latent"]
        assert between["scene"] is None
        assert between["nearest"][0][1] == pytest.approx(between["nearest"][1][1])
        page.request(2, latent={"key": between["key"], "coordinates": [1.0]}, moving=True)
        assert page.until(id=2)["latent"]["scene"] in ("small", "big")
        page.request(3, latent={"walk": ["small", "big", {"key": between["key"]}], "time": 0.5}, moving=True)
        assert page.until(id=3)["latent"]["scene"] == "big"
        page.request(5, latent={"scene": "big - big + small"}, moving=True)
        assert page.until(id=5)["latent"]["scene"] == "small"
        page.request(6, latent={"walk": ["big", "small + big - small"], "time": 0.5, "mode": "smooth"}, moving=True)
        assert page.until(id=6)["latent"]["scene"] == "big"
        page.request(4, latent={"seed": 3}, channel="depth", moving=True)
        assert page.until(id=4)["image"].shape[-1] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_walk_shows_what_moves(kind: Kind) -> None:
    place = {"walk": ["small", "big", "small"], "time": 0.2}
    with viewing(kind) as viewer, Client(viewer) as page:
        run, task = viewer.shared.run, viewer.shared.task
        assert page.hello["modes"] == ["moved", "lerp", "slerp", "smooth"]
        page.request(latent=place, size=[64, 64])
        shown = page.until(level="still")
        assert shown["latent"]["scene"] is None
        field = hf.Morph(run["small"], run["big"]).at(0.4).field
        view = requests.view(CAMERA, viewer.shared, (64, 64))
        wanted = task.picture(field, view, (64, 64), supersample=1, cells=FINE)
        assert float((shown["image"] - wanted).abs().mean()) < 0.01
        page.send(type="job", id=2, what="export", suffix=".png", latent=place, view=CAMERA, size=[16, 16])
        assert page.until(type="file", job=2)["name"] == "small-big-0.4.png"


def test_the_newest_request_wins_and_the_network_runs_once_a_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    with viewing("shapes") as viewer, Client(viewer) as page:
        bound: list[int] = []
        original, heard = SharedState.scene, threading.Event()

        def scene_slowly(self: Any, coordinates: torch.Tensor) -> Any:
            assert heard.wait(PATIENCE)
            return original(self, coordinates)

        monkeypatch.setattr(SharedState, "scene", scene_slowly)
        model_bind = viewer.shared.run.model.bind
        monkeypatch.setattr(viewer.shared.run.model, "bind", lambda codes: bound.append(1) or model_bind(codes))
        for number in range(1, 41):
            page.request(number, latent={"scene": "big"}, moving=number < 40)
        page.send(type="the last one")
        page.until(type="error")
        heard.set()
        answered = []
        while not answered or answered[-1]["level"] != "still" or answered[-1]["id"] != 40:
            answered.append(page.hear())
        numbers = [message["id"] for message in answered]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) <= 2  # what was under way, and the newest
        assert len(bound) == 1


def test_the_mesh_comes_when_all_is_still(shapes: Viewer) -> None:
    with Client(shapes) as page:
        page.request(3, mesh=True)
        still, mesh = page.until(level="still"), page.until(type="mesh", id=3)
        assert mesh["key"] == still["latent"]["key"]
        assert mesh["faces"] > 1000
        assert len(mesh["bytes"]) == 20 * mesh["vertices"] + 12 * mesh["faces"]
        corners = torch.frombuffer(bytearray(mesh["bytes"][: 12 * mesh["vertices"]]), dtype=torch.float32).reshape(
            -1, 3
        )
        assert float(corners.norm(dim=-1).max()) == pytest.approx(0.8, abs=0.03)


def test_inferred_scenes_are_shown_with_their_residuals() -> None:
    run = run_of("images")
    residual = {"mlp.0.bias": torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, -0.1]])}
    inferred = InferredCodes(run, ("new", "refined"), run.model.latents.codes.detach() * 0.5, residual)
    viewer = Viewer(run, Greys, inferred)
    try:
        with Client(viewer) as page:
            assert page.hello["scenes"] == ["new", "refined"]
            colors = {}
            for number, name in enumerate(inferred.names):
                page.request(number, latent={"scene": name})
                still = page.until(level="still", id=number)
                assert still["latent"]["scene"] == name
                colors[name] = still["image"].mean((0, 1))
                expected = run.task.picture(inferred.bind(name), Window(), (24, 32))
                torch.testing.assert_close(colors[name], expected.mean((0, 1)), atol=0.01, rtol=0)
            assert float(colors["refined"][0] - colors["refined"][2]) == pytest.approx(0.2, abs=0.02)
            page.request(2, latent={"scene": "big"})  # a fitted one
            assert "not among the inferred ones" in page.until(type="error")["text"]
            page.send(type="job", id=1, what="export", suffix=".safetensors", latent={"scene": "refined"})
            made = page.until(type="file", job=1)
            assert made["name"] == "refined.safetensors"
            assert get(viewer, "/thumbs/0")[0] == 200
            page.send(type="job", id=2, what="measure")
            assert "not in the family" in page.until(type="failed", job=2)["text"]
    finally:
        viewer.close()


# Bad requests -----------------------------------------------------------------------------------------

VIEW = {"type": "view", "id": 1, "latent": {"scene": "big"}, "view": CAMERA, "size": [24, 32]}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ({"type": "format the disk"}, "is unknown"),
        ({}, "is unknown"),
        (VIEW | {"size": [100_000, 100_000]}, "size: got 100000, wanted a number from 8 to 1024"),
        (VIEW | {"size": None}, r"size: got null"),
        (VIEW | {"size": [True, 8]}, "size"),
        (VIEW | {"latent": {"scene": "bigg"}}, "the nearest names are big"),
        (VIEW | {"latent": {"scene": 3}}, "wanted a text"),
        (VIEW | {"latent": None}, "latent: got null"),
        (VIEW | {"latent": {}}, "wanted one of scene"),
        (VIEW | {"latent": {"at": [0.0, "x"]}}, "at: got"),
        (VIEW | {"latent": {"at": [float("inf"), 0.0]}}, "at: got Infinity"),
        (VIEW | {"latent": {"key": "AAAAAAAAAAAAAAAA"}}, "link of another run"),
        (VIEW | {"latent": {"key": "A" * 100_000}}, "wanted a text"),
        (VIEW | {"latent": {"walk": ["big"], "time": 0}}, "walk: got 1 stops"),
        (VIEW | {"latent": {"walk": ["big"] * 1000, "time": 0}}, "walk: got 1000 stops"),
        (VIEW | {"latent": {"walk": [{"walk": ["big", "big"]}, "big"]}}, "cannot be a walk"),
        (VIEW | {"latent": {"walk": ["big", "small"], "time": 2}}, "time"),
        (VIEW | {"latent": {"walk": ["big", "small"], "time": 0.5, "mode": "x"}}, "mode"),
        (VIEW | {"latent": {"scene": "big - bigg"}}, "scene 'bigg': not in"),
        (VIEW | {"channel": "uncertainty"}, "wanted one of rgb, depth, normals"),
        (VIEW | {"channel": ["rgb"]}, "channel"),
        (VIEW | {"view": {"position": [0, 0, 0], "target": [0, 0, 0]}}, "view|position|target"),
        (VIEW | {"view": {"position": [1e300, 0, 1], "target": [0, 0, 0]}}, "position"),
        (VIEW | {"view": {"matrix": [0.0] * 16}}, "wanted a rotation"),
        (VIEW | {"background": -1}, "background"),
        ({"type": "job", "id": 1, "what": "rm"}, 'job: got "rm"'),
        ({"type": "path", "path": "{"}, "camera path: damaged"),
        ({"type": "path", "path": 7}, "nerfstudio"),
        ({"type": "cancel"}, "id: got null"),
    ],
)
def test_bad_requests_get_an_error_and_the_page_lives_on(shapes: Viewer, message: Any, text: str) -> None:
    with Client(shapes) as page:
        page.socket.send(message if isinstance(message, str) else json.dumps(message))
        answer = page.until(type="error")
        assert len(answer["text"]) < 400
        assert re.search(text, answer["text"]), answer["text"]
        page.request(2, moving=True)
        assert page.until(type="picture")["id"] == 2


def test_a_huge_message_ends_that_page_only(shapes: Viewer) -> None:
    with Client(shapes) as other:
        with Client(shapes) as page:
            page.socket.send("x" * (2**20 + 1))
            with pytest.raises(ConnectionClosedError, match="1009"):
                page.hear()
        other.request(moving=True)
        assert other.until(type="picture")["id"] == 1


# Jobs -------------------------------------------------------------------------------------------------

PATH = to_nerfstudio(CameraPath(torch.eye(4)[None], torch.tensor([0.7]), 0.2, 20.0, (16, 16)))


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ({"what": "export", "suffix": ".ply", "latent": {"scene": "big"}}, "big.ply"),
        ({"what": "export", "suffix": ".glb", "latent": {"seed": 5}}, "blend.glb"),
        ({"what": "export", "suffix": ".safetensors", "latent": {"scene": "big"}}, "big.safetensors"),
        ({"what": "export", "suffix": ".png", "latent": {"scene": "big"}, "view": CAMERA, "size": [16, 16]}, "big.png"),
        ({"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "frames": 3, "size": [16, 16]}, "morph.gif"),
        ({"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "mode": "slerp", "frames": 3, "size": [16, 16]},
         "morph.gif"),
        ({"what": "path", "suffix": ".gif", "latent": {"scene": "big"}, "path": PATH}, "path.gif"),
    ],
)  # fmt: skip
def test_a_job_gives_a_file(shapes: Viewer, job: dict[str, Any], name: str) -> None:
    with Client(shapes) as page:
        page.send(type="job", id=5, **job)
        made = page.until(type="file", job=5)
        assert made["name"] == name
        status, headers, body = get(shapes, made["url"])
        assert status == 200
        assert len(body) == made["bytes"] > 40
        assert headers["Content-Disposition"] == f'attachment; filename="{name}"'
        token = made["url"].split("/")[2]
        assert get(shapes, f"/file/{token}/../{token}/{name}")[0] == 404
    wait_until(lambda: get(shapes, made["url"])[0] == 404)  # the page is closed: so the file goes


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"what": "export", "suffix": ".exe", "latent": {"scene": "big"}}, "suffix"),
        ({"what": "export", "suffix": ["x"], "latent": {"scene": "big"}}, "suffix"),
        ({"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "frames": 10**9, "size": [16, 16]}, "frames"),
        ({"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "frames": 3, "size": [9999, 16]}, "size"),
        ({"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "size": [16, 16], "timing": "x"}, "timing"),
        ({"what": "export", "suffix": ".safetensors", "latent": {"walk": ["small", "big"], "time": 0.5}}, "two fields"),
        ({"what": "path", "suffix": ".gif", "latent": {"scene": "big"}, "path": PATH | {"seconds": 99}}, "at most"),
        ({"what": "measure"}, "does not say which family"),
    ],
)  # fmt: skip
def test_a_bad_job_fails_with_a_word(shapes: Viewer, job: dict[str, Any], text: str) -> None:
    with Client(shapes) as page:
        page.send(type="job", id=5, **job)
        assert text in page.until(type="failed", job=5)["text"]


def test_a_job_can_be_stopped_and_goes_with_its_page(shapes: Viewer) -> None:
    long = {"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "frames": 480, "size": [128, 128]}
    with Client(shapes) as page:
        page.send(type="job", id=1, **long)
        assert page.until(type="progress", job=1)["total"] >= 1
        page.send(type="cancel", id=1)
        assert page.until(type="cancelled")["job"] == 1
        page.send(type="job", id=2, **long)
        page.until(type="progress", job=2)
    wait_until(lambda: not shapes.jobs.under_way)
    assert not list(shapes.jobs._folder.iterdir())


def test_only_the_last_files_are_kept(shapes: Viewer) -> None:
    with Client(shapes) as page:
        for number in range(MOST_FILES + 2):
            page.send(type="job", id=number, what="export", suffix=".safetensors", latent={"scene": "big"})
            page.until(type="file", job=number)
        assert len(list(shapes.jobs._folder.iterdir())) == MOST_FILES


def test_a_path_comes_back_with_its_frames(shapes: Viewer) -> None:
    with Client(shapes) as page:
        page.send(type="path", path=PATH)
        answer = page.until(type="path")["path"]
        assert len(answer["camera_path"]) == 4
        assert answer["keyframes"][0]["matrix"] == pytest.approx(PATH["keyframes"][0]["matrix"])


# Many at once -----------------------------------------------------------------------------------------


def test_eight_clients_are_all_answered() -> None:
    with viewing("views") as viewer:
        answered: list[int] = []

        def use(number: int) -> None:
            with Client(viewer) as page:
                for step in range(6):
                    page.request(step, latent={"seed": 10 * number + step}, size=[128, 128], moving=step < 5)
                    page.until(type="picture", id=step)
                    answered.append(number)
                page.until(level="still")

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(answered) == 48
        assert len(viewer.shared._scenes) <= 64


JOBS: list[tuple[Kind, dict[str, Any]]] = [
    (
        "shapes",
        {"what": "walk", "suffix": ".gif", "walk": ["small", "big"], "mode": "lerp", "frames": 200, "size": [128, 128]},
    ),
    ("views", {"what": "export", "suffix": ".ply", "latent": {"scene": "big"}}),
    ("views", {"what": "path", "suffix": ".gif", "latent": {"scene": "big"}, "path": PATH | {"seconds": 8.0}}),
]


@pytest.mark.parametrize(("kind", "job"), JOBS)
def test_jobs_compute_in_turns(kind: Kind, job: dict[str, Any]) -> None:
    """While a job runs, every field is asked by whoever holds the lock, and pages come in between."""
    with viewing(kind) as viewer, Client(viewer) as page:
        outside: list[int] = []
        field = type(viewer.shared.run.model.config.field)
        call = field.__call__

        def watched(self: Any, *args: Any) -> Any:
            if not viewer.shared.lock.busy:
                outside.append(1)
            return call(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(field, "__call__", watched)
            page.send(type="job", id=1, **job)
            page.until(type="progress", job=1)
            finished = False
            for number in range(1, 6):
                page.request(number, latent={"seed": number}, moving=True)
                while True:
                    message = page.hear()
                    finished = finished or message.get("type") == "file"
                    if message.get("type") == "picture" and message["id"] == number:
                        break
            if not finished:
                page.send(type="cancel", id=1)
                while page.hear().get("type") not in ("cancelled", "file"):
                    pass
        assert not outside


def test_a_long_path_does_not_hold_up_the_others(shapes: Viewer) -> None:
    """Paths are computed on another thread than the one that sends."""
    threads: list[threading.Thread] = []
    original = app_module.to_nerfstudio

    def watched(path: CameraPath) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return original(path)

    with pytest.MonkeyPatch.context() as patch, Client(shapes) as page:
        patch.setattr(app_module, "to_nerfstudio", watched)
        page.send(type="path", path=PATH | {"seconds": 100.0, "fps": 30.0})
        assert len(page.until(type="path")["path"]["camera_path"]) == 3000
    assert threads[0] is not shapes._server._thread


def test_too_many_pages_are_turned_away(monkeypatch: pytest.MonkeyPatch, shapes: Viewer) -> None:
    monkeypatch.setattr(app_module, "MOST_CLIENTS", 1)
    wait_until(lambda: not shapes._sessions)  # those of the tests before
    with Client(shapes), pytest.raises((ConnectionClosedError, ConnectionClosedOK), match="1013"):
        Client(shapes)


# Starting and ending ----------------------------------------------------------------------------------


def test_a_busy_port_leads_to_the_next() -> None:
    with listen("127.0.0.1", 0) as busy:
        port = busy.getsockname()[1]
        with listen("127.0.0.1", port) as next_one:
            assert next_one.getsockname()[1] > port


@pytest.mark.parametrize(("host", "port", "text"), [
    ("192.0.2.7", 8780, "not an address of this machine"),
    ("no.such.name.invalid", 8780, "unknown"),
    ("127.0.0.1", 70000, "0 to 65535"),
])  # fmt: skip
def test_a_wrong_address_is_said(host: str, port: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        listen(host, port)


def test_serving_says_where_and_who_can_reach_it() -> None:
    lines: list[str] = []
    stop = threading.Event()
    stop.set()
    with socket.create_server(("0.0.0.0", 0)) as busy:
        port = busy.getsockname()[1]
        serve(run_of("images"), host="0.0.0.0", port=port, log=lines.append, stop=stop)
    text = "\n".join(lines)
    assert f"port {port} is busy" in text
    assert "whoever has the address" in text
    assert re.search(r"http://127.0.0.1:\d+/\?token=[\w-]{32}", text)
    assert "ssh -L" in text
    assert lines[-1] == "viewer closed"


# References ------------------------------------------------------------------------------------------------


class Greys:
    """The data of the images: a little brighter than what was fitted."""

    kind: Kind = "images"
    names = ("small", "big")

    def batch(self, scenes: torch.Tensor, n: int, generator: torch.Generator) -> Points:
        return Points(torch.zeros(len(scenes), n, 2), torch.zeros(len(scenes), n, 3))

    def reference(self, scene: int, split: str = "test") -> torch.Tensor:
        return torch.full((16, 16, 3), (0.6, 0.9)[scene])


def test_the_reference_comes_after_the_result_and_metrics_are_those_of_eval() -> None:
    viewer = Viewer(run_of("images"), Greys)
    try:
        with Client(viewer) as page:
            page.request(1, reference=True)
            still, reference = page.until(level="still"), page.until(level="reference")
            assert float(still["image"].mean()) == pytest.approx(0.8, abs=0.01)
            assert float(reference["image"].mean()) == pytest.approx(0.9, abs=0.01)
            page.request(2, reference=True, latent={"seed": 1})
            assert "between scenes the data show nothing" in page.until(type="no reference")["text"]
            page.send(type="job", id=1, what="measure")
            report = page.until(type="report")
            assert report["headings"][0] == "psnr [dB]"
            assert float(report["scenes"]["big"][0]) == pytest.approx(20.0, abs=0.1)
            assert float(report["mean"][0]) == pytest.approx(20.0, abs=0.1)
    finally:
        viewer.close()


def test_a_photograph_is_shown_from_its_own_camera() -> None:
    run = run_of("views")
    place = orbit_cameras(run, 5, (20, 20))[2]
    rgba = torch.cat((task_of("views").picture(run["big"].field, place, (20, 20)), torch.ones(20, 20, 1)), -1)

    class Photographs(Greys):
        kind: Kind = "views"

        def reference(self, scene: int, split: str = "test") -> Any:
            return [View(place, rgba)] * 3

    viewer = Viewer(run, Photographs)
    try:
        with Client(viewer) as page:
            page.request(1, reference=True)
            assert page.until(type="no reference")["views"] == 3
            page.request(2, reference=True, photograph=1, size=[20, 20])
            still, reference = page.until(level="still", id=2), page.until(level="reference", id=2)
            assert float((still["image"] - reference["image"]).abs().mean()) < 0.01
    finally:
        viewer.close()
