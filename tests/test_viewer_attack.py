"""The viewer among clients that do not behave: the others notice nothing, and no traceback appears."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from hyperfields.viewer import app, connection, jobs, server, session
from hyperfields.viewer.app import Viewer
from hyperfields.viewer.connection import Allowance
from hyperfields.viewer.lock import FairLock, Turn

from ._viewer import PATIENCE, Client, get, saved, viewing, wait_until

SCRIPT = Path(__file__).parents[1] / "scripts" / "attack_viewer.py"
COOKIE_AND_HOST = "Host: 127.0.0.1\r\nCookie: {}\r\n"


@pytest.fixture(scope="module")
def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attack_viewer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def viewer(capfd: pytest.CaptureFixture[str]) -> Iterator[Viewer]:
    """A viewer that writes nothing, and serves at the end as at the beginning."""
    with viewing("images") as viewer:
        yield viewer
        with Client(viewer) as page:
            page.request()
            assert page.until(level="still")["latent"]["scene"] == "big"
    assert "".join(capfd.readouterr()) == ""


def cookie(viewer: Viewer) -> str:
    return viewer.gate.cookie.partition(";")[0]


# Requests ---------------------------------------------------------------------------------------------


def test_no_path_leads_out_of_the_page(viewer: Viewer, attack: ModuleType) -> None:
    head = COOKIE_AND_HOST.format(cookie(viewer))
    for path in attack.PATHS:
        got = attack.answer(viewer.port, f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        body = got.partition(b"\r\n\r\n")[2]
        assert b"root:" not in got, path
        assert b"from __future__" not in got, path
        if path == "/?":
            assert b"<title>hyperfields</title>" in body
        else:
            assert got == b"" or got.startswith(b"HTTP/1.1 404 "), path
            assert len(body) < 100, path


def test_random_requests_leave_no_trace(viewer: Viewer, attack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.05)  # some have no end
    requests = attack.requests(random.Random(0), f"127.0.0.1:{viewer.port}", cookie(viewer))
    for request in itertools.islice(requests, 150):
        got = attack.answer(viewer.port, request)
        assert got == b"" or got.startswith(b"HTTP/1.1 "), request[:200]
        assert b" 500 " not in got[:20], request[:200]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Host: evil.example", b"403"),
        ("Host: evil.example\r\nHost: 127.0.0.1", b"403"),
        ("Host: 127.0.0.1\r\nHost: evil.example", b"403"),
        ("Host: 127.0.0.1@evil.example", b"403"),
        ("Host: evil.example@127.0.0.1", b"403"),
        ("Host: 127.0.0.1.evil.example", b"403"),
        ("Host: 127.0.0.1:80:80", b"403"),
        ("Host: 127.0.0.1#.evil.example", b"403"),
        ("Host: 127.0.0.1/..", b"403"),
        ("Host: 2130706433", b"403"),
        ("Host: [::ffff:127.0.0.1]", b"403"),
        ("Host:", b"403"),
        ("X: no host", b"403"),
        ("Host: LOCALHOST:1", b"200"),
        ("Host: [::1]", b"200"),
    ],
)
def test_only_names_of_this_machine_are_answered(
    viewer: Viewer, attack: ModuleType, headers: str, status: bytes
) -> None:
    """A site whose name is made to point here (DNS rebinding) gives that name, whatever cookie it could have."""
    got = attack.answer(viewer.port, f"GET / HTTP/1.1\r\n{headers}\r\nCookie: {cookie(viewer)}\r\n\r\n".encode())
    assert got.split(b" ", 2)[1] == status


ORIGINS = [
    [], ["http://evil.example"], ["http://{}", "http://evil.example"], ["null"], ["{}"], ["http://{}@evil.example"],
    ["http://evil.example/{}"], ["file://"],
]  # fmt: skip


@pytest.mark.parametrize("origins", ORIGINS)
def test_websockets_of_other_pages_are_refused(viewer: Viewer, attack: ModuleType, origins: list[str]) -> None:
    host = f"127.0.0.1:{viewer.port}"
    got = attack.answer(viewer.port, handshake(viewer, *(origin.format(host) for origin in origins)))
    assert got.startswith(b"HTTP/1.1 403 ")


def test_what_is_too_large_is_not_read(viewer: Viewer, attack: ModuleType) -> None:
    head = COOKIE_AND_HOST.format(cookie(viewer))
    for data in (
        b"GET /" + b"a" * 20_000_000,
        f"GET / HTTP/1.1\r\n{head}X: ".encode() + b"x" * 20_000_000,
        f"GET / HTTP/1.1\r\n{head}".encode() + b"X: y\r\n" * 2_000_000,
        f"POST /live HTTP/1.1\r\n{head}Content-Length: 20000000\r\n\r\n".encode() + b"x" * 20_000_000,
    ):
        client = socket.create_connection(("127.0.0.1", viewer.port), timeout=PATIENCE)
        with client, contextlib.suppress(ConnectionError):
            client.sendall(data)
            while client.recv(2**16):
                pass


# Connections ------------------------------------------------------------------------------------------


def test_who_asks_nothing_is_let_go(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowloris, half-open connections, and those that browsers open in advance."""
    made = connection.Connection.connection_made
    accepted: list[object] = []
    monkeypatch.setattr(
        connection.Connection, "connection_made", lambda self, transport: accepted.append(made(self, transport))
    )
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.5)
    slow = [socket.create_connection(("127.0.0.1", viewer.port), timeout=PATIENCE) for _ in range(20)]
    for number, client in enumerate(slow):
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y"[: 2 * number])
    wait_until(lambda: len(accepted) == 20)
    monkeypatch.setattr(connection, "REQUEST_SECONDS", PATIENCE)
    assert get(viewer, "/")[0] == 200
    for client in slow:
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
        client.close()


def test_the_silent_make_room_for_those_who_ask(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 6)
    with Client(viewer) as page:
        silent = [socket.create_connection(("127.0.0.1", viewer.port), timeout=PATIENCE) for _ in range(30)]
        assert get(viewer, "/")[0] == 200
        page.request(moving=True)
        assert page.until(type="picture")
        wait_until(lambda: len(viewer._server._connections()) <= 6)
        for client in silent:
            client.close()


def raw(viewer: Viewer, **options: Any) -> ClientConnection:
    """A websocket of which nobody reads."""
    address = f"ws://127.0.0.1:{viewer.port}/live?token={viewer.gate.token}"
    made: ClientConnection = connect(address, origin=viewer.gate.origin, proxy=None, max_size=None, **options)  # type: ignore[arg-type]
    return made


def test_a_client_that_takes_nothing_is_dropped_and_holds_up_nobody(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.5)
    heavy, jpeg = bytes(1_000_000), session.jpeg
    monkeypatch.setattr(session, "jpeg", lambda image, q: heavy if max(image.shape) == 1000 else jpeg(image, q))
    film = {"type": "job", "id": 1, "what": "walk", "suffix": ".gif", "walk": ["small", "big"], "size": [64, 64]}
    view = {"type": "view", "view": {"window": [0, 0, 1, 1]}, "latent": {"scene": "big"}, "size": [1000, 8]}
    with Client(viewer) as page, socket.create_connection(("127.0.0.1", viewer.port)) as slow:
        slow.sendall(handshake(viewer, f"http://127.0.0.1:{viewer.port}"))
        wait_until(lambda: len(viewer._sessions) == 2)
        slow.sendall(frame(json.dumps(film | {"frames": 480})))
        wait_until(lambda: viewer.jobs.under_way)
        page.send(**film | {"frames": 2})
        page.until(type="file", job=1)  # beside that of the slow one
        number = 0
        while len(viewer._sessions) == 2:
            number += 1
            with contextlib.suppress(ConnectionError):
                slow.sendall(frame(json.dumps(view | {"id": number})))
            page.request(number, moving=True)
            assert page.until(type="picture", id=number)
            assert number < 2000
        wait_until(lambda: not viewer.jobs.under_way)


def handshake(viewer: Viewer, *origins: str) -> bytes:
    """A request for a websocket, of a browser that was let in."""
    lines = [f"Host: 127.0.0.1:{viewer.port}", f"Cookie: {cookie(viewer)}", "Connection: Upgrade", "Upgrade: websocket",
             "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
             *(f"Origin: {origin}" for origin in origins)]  # fmt: skip
    return "\r\n".join(["GET /live HTTP/1.1", *lines, "", ""]).encode()


def frame(text: str, *, opcode: int = 1, fin: bool = True) -> bytes:
    """A frame of a browser; the mask is zero."""
    data = text.encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 * fin | opcode]) + size + bytes(4) + data


def drain(client: ClientConnection) -> None:
    """Read until the connection is closed, which raises."""
    while True:
        client.recv(PATIENCE)


def test_pings_without_end_and_messages_in_thousands_of_parts_end_the_connection(viewer: Viewer) -> None:
    for flood in (frame("x" * 100, opcode=9), frame("", opcode=0, fin=False), frame("x", opcode=10)):
        with raw(viewer, ping_interval=None) as client:
            client.socket.sendall(frame("", fin=False) if flood[0] == 0 else b"")
            with contextlib.suppress(OSError):  # closed by either end meanwhile
                for _ in range(40):
                    client.socket.sendall(100 * flood)
            with pytest.raises(ConnectionClosed):
                drain(client)


def test_a_client_that_floods_is_read_slowly_and_the_others_are_served(viewer: Viewer) -> None:
    handled = 0
    handle = viewer._handle

    async def counted(name: str, *rest: Any) -> str | None:
        nonlocal handled
        handled += name == flooding
        return await handle(name, *rest)

    viewer._handle = counted  # type: ignore[method-assign]
    with raw(viewer) as flood:
        assert flood.recv(PATIENCE)  # the first message: its session is there
        (flooding,) = viewer._sessions
        text = json.dumps(
            {"type": "view", "id": 1, "latent": {"seed": 1}, "size": [8, 8], "view": {"window": [0, 0, 1, 1]}}
        )
        sent, enough = 0, threading.Event()

        def send() -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionClosed):
                while not enough.is_set():
                    flood.send(text)
                    sent += 1

        sender = threading.Thread(target=send)
        sender.start()
        wait_until(lambda: sent > handled + 100)
        with Client(viewer) as page:
            for number in range(1, 21):
                page.request(number, moving=True)
                assert page.until(type="picture", id=number)
        enough.set()
        flood.close_socket()
        sender.join(PATIENCE)
    assert handled < sent


def test_an_allowance_comes_back_evenly() -> None:
    now = 0.0
    allowance = Allowance(rate=10.0, most=5.0, clock=lambda: now)
    assert [allowance.take() for _ in range(5)] == [0.0] * 5
    assert allowance.take() == pytest.approx(0.1)
    assert allowance.take(2.0) == pytest.approx(0.3)
    now = 0.3
    assert allowance.take(0.0) == 0.0
    now = 100.0
    assert allowance.take(6.0) == pytest.approx(0.1)  # no more than the store holds


# Messages ---------------------------------------------------------------------------------------------


def test_random_messages_get_errors_and_leave_no_trace(viewer: Viewer, attack: ModuleType) -> None:
    messages = attack.messages(random.Random(0))
    for _ in range(3):
        with Client(viewer) as page:
            for message in itertools.islice(messages, 100):
                page.socket.send(message)
            page.request(123456, moving=True)
            page.until(type="picture", id=123456)


def test_values_come_back_only_as_what_they_are(viewer: Viewer) -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    with Client(viewer) as page:
        for message in ({"type": deep}, {"type": "job", "what": deep}, {"type": "view", "id": deep},
                        {"type": "view", "id": 1, "latent": deep}, {"type": "path", "path": {"keyframes": [deep]}},
                        {"type": "path", "path": {"keyframes": [{"matrix": [3e38] * 16}]}}):  # fmt: skip
            page.send(**message)
            answer = page.until(type="error")
            assert len(json.dumps(answer)) < 500


# Many at once -----------------------------------------------------------------------------------------


class Watched(FairLock):
    """Notes when a job's block comes before a look that was waiting already."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: dict[int, set[int]] = {}
        self.looks: list[int] = []
        self.blocks = self.overtaken = 0

    def _queue(self, ours: Any) -> None:
        if ours.turn is Turn.JOB:
            self.owed[id(ours)] = {other.ticket for other in self._queues[Turn.LOOK]}
        super()._queue(ours)

    def _hand_over(self) -> None:
        super()._hand_over()
        if self._holder is None:
            return
        if self._holder.turn is Turn.LOOK:
            self.looks.append(self._holder.ticket)
        elif self._holder.turn is Turn.JOB:
            self.blocks += 1
            self.overtaken += not self.owed.pop(id(self._holder), set()) <= set(self.looks)


def test_fifty_look_while_a_film_and_a_mesh_are_made() -> None:
    """Between two blocks of a job, everybody who was waiting for a look has got one; and the jobs come to an end."""
    with viewing("shapes") as viewer:
        lock = viewer.shared.lock = Watched()
        film = {
            "what": "walk",
            "suffix": ".gif",
            "walk": ["small", "big"],
            "mode": "lerp",
            "frames": 24,
            "size": [32, 32],
        }
        with contextlib.ExitStack() as stack:
            pages = [stack.enter_context(Client(viewer)) for _ in range(50)]
            pages[0].send(type="job", id=1, **film)
            pages[1].send(type="job", id=1, what="export", suffix=".ply", latent={"scene": "big"})
            for step in range(40):
                for number, page in enumerate(pages):
                    page.request(step, latent={"seed": number % 7}, moving=True)
                for page in pages:
                    assert page.until(type="picture", id=step)
                if step and lock.blocks > 6:  # until jobs have begun, there are none
                    break
            pages[0].until(type="file", job=1)
            pages[1].until(type="file", job=1)
        assert lock.blocks > 6
        assert len(lock.looks) > 50
        assert lock.overtaken == 0


def test_jobs_of_several_run_side_by_side_and_those_of_one_after_another(viewer: Viewer) -> None:
    running: list[tuple[str, int]] = []
    most: list[int] = []
    go = threading.Event()

    def make(job: jobs.Job, message: dict[str, Any]) -> None:
        running.append((job.owner, job.number))
        most.append(len(viewer.jobs._running))
        assert len({other.owner for other in viewer.jobs._running}) == len(viewer.jobs._running)
        assert go.wait(PATIENCE)

    viewer.jobs._makers["export"] = make
    heard: list[dict[str, Any]] = []
    for owner, number in (("a", 1), ("a", 2), ("b", 1), ("a", 3), ("c", 1), ("d", 1)):
        viewer.jobs.start(owner, {"what": "export", "id": number}, heard.append)
    wait_until(lambda: len(running) == 3)
    assert sorted(running) == [("a", 1), ("b", 1), ("c", 1)]
    viewer.jobs.start("a", {"what": "export", "id": 4}, heard.append)
    with pytest.raises(jobs.InputError, match="4 of this page are under way"):
        viewer.jobs.start("a", {"what": "export", "id": 5}, heard.append)
    viewer.jobs.forget("a")  # its waiting ones go at once, and make room
    assert [message["job"] for message in heard if message["type"] == "cancelled"] == [2, 3, 4]
    go.set()
    wait_until(lambda: not viewer.jobs.under_way)
    assert max(most) == 3
    assert running[-1] == ("d", 1)


def test_more_than_the_pages_that_are_allowed_are_told(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.MOST_CLIENTS >= 50
    monkeypatch.setattr(app, "MOST_CLIENTS", 1)
    with Client(viewer), pytest.raises(ConnectionClosed, match="1013"):
        Client(viewer)


def test_downloads_that_nobody_takes_are_bounded(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(viewer) as page:
        page.send(type="job", id=1, what="export", suffix=".png", latent={"scene": "big"}, size=[16, 16],
                  view={"window": [0, 0, 1, 1]})  # fmt: skip
        made = page.until(type="file", job=1)
        assert get(viewer, made["url"])[0] == 200
        monkeypatch.setattr(server.Server, "unsent", property(lambda self: app.MOST_UNSENT))
        status, _, body = get(viewer, made["url"])
        assert (status, body) == (503, b"too many downloads at once: try again\n")


# The folder, and the end ------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of each file."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(f): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files}


@contextlib.contextmanager
def killed_in_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """A failed test does not wait for its viewer."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_folder_may_be_damaged_and_the_end_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    run = saved("shapes", tmp_path / "run")
    before = contents(run)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-P", "-m", "hyperfields", "view", str(run), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    ) as process, killed_in_the_end(process):  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        origin, _, token = lines[0].split()[-1].partition("/?token=")
        address = f"{origin.replace('http', 'ws')}/live?token={token}"
        page = Client.of(address, origin)
        for job in (
            {"what": "export", "suffix": ".ply", "latent": {"scene": "big"}},
            {"what": "export", "suffix": ".safetensors", "latent": {"scene": "small"}},
        ):
            page.send(type="job", id=1, **job)
            page.until(type="file", job=1)
        page.request(1)
        page.until(level="still", id=1)
        assert contents(run) == before  # nothing is written into it
        if number == signal.SIGTERM:
            for file in run.glob("*.safetensors"):
                os.truncate(file, 10)  # in place: whoever has mapped it would get SIGBUS
        else:
            shutil.rmtree(run)
        assert "has changed or gone" in page.until(type="notice")["text"]
        page.request(2, latent={"scene": "small"}, mesh=True)
        page.until(type="mesh", id=2)
        late = Client.of(address, origin)
        assert late.until(type="notice")
        # The end, with clients of all sorts: one that reads nothing, one that asks nothing, a film under way.
        slow = connect(address, origin=origin, proxy=None, max_size=None, max_queue=1)  # type: ignore[arg-type]
        port = int(origin.rpartition(":")[2])
        silent = socket.create_connection(("127.0.0.1", port))
        silent.sendall(b"GET / HT")
        late.send(type="job", id=9, what="walk", suffix=".gif", walk=["small", "big"], frames=480, size=[256, 256])
        late.until(type="progress", job=9)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
        for client in (page.socket, late.socket, slow):
            client.close_socket()
        silent.close()
    assert (process.returncode, errors) == (0, "")
    assert rest.strip() == "viewer closed"
    assert not list(temporary.glob("hyperfields-view-*"))
    assert token not in rest
