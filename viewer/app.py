"""The viewer: its addresses, and the sessions of those who look."""

from __future__ import annotations

import asyncio
import dataclasses
import http
import json
import math
import mimetypes
import secrets
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from hyperfields.cameras import Camera
from hyperfields.cameras.nerfstudio import from_nerfstudio, to_nerfstudio
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.runs.cameras import native_size
from hyperfields.runs.config import CONFIG
from hyperfields.runs.run import MODEL, Run
from hyperfields.viewer import requests
from hyperfields.viewer.connection import MOST_UNSENT, Allowance, Connection
from hyperfields.viewer.jobs import Jobs
from hyperfields.viewer.server import Gate, Server, is_websocket, listen, path_of, reply, text
from hyperfields.viewer.session import Session
from hyperfields.viewer.shared import MOST_THUMBS, SHEET, THUMB, SharedState

if TYPE_CHECKING:
    from hyperfields.runs.inferred import InferredCodes

PORT = 8780
MOST_CLIENTS = 64
MESSAGES = 240.0  # of one page, a second: a little more than one for each frame of a fast screen
LONG = 2048  # bytes: a message counts as one more for each of these
WATCH_SECONDS = 2.0
LINE_POINTS = 200  # of a camera path, when it is seen from outside
PAGE = Path(__file__).parent / "page"
# The page loads nothing from elsewhere and runs no text as code.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-src 'none'; frame-ancestors 'none'"
)
_CONTENT_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Viewer:
    """A running viewer. `close` ends it."""

    def __init__(
        self,
        run: Run,
        open_dataset: Callable[[], SceneDataset] | None = None,
        inferred: InferredCodes | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
    ) -> None:
        """
        Args:
            open_dataset: reads the data of the scenes, for references and metrics; called when first asked for.
            inferred: scenes to show instead of the fitted ones.
            host: address to listen on.
            port: the first one that is free from here on is taken.

        Raises:
            InputError: the address is not one of this machine, or no port is free.
        """
        self.shared = SharedState(run, open_dataset, inferred)
        listener = listen(host, port)
        self.gate = Gate(host, int(listener.getsockname()[1]))
        self.jobs = Jobs(self.shared)
        self._sheets = ThreadPoolExecutor(2, thread_name_prefix="hyperfields-viewer-thumbs")
        self._sessions: dict[str, tuple[Session, Connection]] = {}
        self._mutex = threading.Lock()
        self._download = asyncio.Lock()
        self._hello, self._notice = json.dumps(hello(self.shared)), ""
        self._watch = threading.Thread(target=self._watch_folder, name="hyperfields-viewer-watch", daemon=True)
        self._server = Server(listener, self._respond, self._talk)
        self._watch.start()
        self.shared.warm_up()

    @property
    def port(self) -> int:
        return self.gate.port

    @property
    def url(self) -> str:
        """The address to open; it holds the token."""
        return self.gate.url

    def close(self) -> None:
        """Stop all: sessions, jobs, server. Temporary files go."""
        self.shared.closing.set()
        with self._mutex:
            sessions = dict(self._sessions)
        for name in sessions:
            self._forget(name)
        self._server.drop_slow()  # nobody waits until they have taken their pictures
        self.jobs.close()
        for session, _ in sessions.values():  # before the loop ends that their pictures go through
            session.join(5.0)
        self._sheets.shutdown(wait=True, cancel_futures=True)
        self._server.close()
        self._watch.join()

    def _watch_folder(self) -> None:
        """Tell the pages when the run on disk is not the one that they see any more."""
        folder = self.shared.run.path
        loaded = None if folder is None else _stamp(folder)
        while folder is not None and not self.shared.closing.wait(WATCH_SECONDS):
            if not self._notice and _stamp(folder) != loaded:
                line = "the run on disk has changed or gone; this is the one that was loaded: start the viewer again"
                self._notice = json.dumps({"type": "notice", "text": line})
                with self._mutex:
                    pages = [connection for _, connection in self._sessions.values()]
                for connection in pages:
                    connection.post(self._notice)

    # Requests -------------------------------------------------------------------------------------------------

    async def _respond(self, request: Request) -> Response | None:
        """The page and its files, and refusals; None opens a websocket."""
        if (refusal := self.gate.refusal(request)) is not None:
            return refusal
        path = path_of(request)
        if is_websocket(request):
            return None if path == ["live"] else text(http.HTTPStatus.NOT_FOUND, "nothing here")
        match path:
            case [""] if self.gate.has_token(request):  # the token goes: into the cookie, out of address and history
                away = {"Location": "/", "Set-Cookie": self.gate.cookie}
                return text(http.HTTPStatus.SEE_OTHER, "the viewer is at /", away)
            case [""]:
                return self._file_of_page("index.html")
            case ["page", name]:
                return self._file_of_page(name)
            case ["thumbs", number] if number.isdecimal() and len(number) < 6:
                return await self._thumbs(int(number))
            case ["file", token, name]:
                return await self._file_of_job(token, name)
        return text(http.HTTPStatus.NOT_FOUND, "nothing here")

    def _file_of_page(self, name: str) -> Response:
        """A file of the page; nothing but what lies in its folder."""
        files = {file.name: file for file in PAGE.iterdir() if file.is_file()}
        if name not in files:
            return text(http.HTTPStatus.NOT_FOUND, "nothing here")
        content_type = _CONTENT_TYPES.get(files[name].suffix, "application/octet-stream")
        policy = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
        return reply(files[name].read_bytes(), f"{content_type}; charset=utf-8", policy)

    async def _thumbs(self, number: int) -> Response:
        sheet = self.shared.finished_sheet(number)
        if sheet is None:
            sheet = await asyncio.get_running_loop().run_in_executor(self._sheets, self.shared.sheet, number)
        return text(http.HTTPStatus.NOT_FOUND, "no such sheet") if sheet is None else reply(sheet, "image/jpeg")

    async def _file_of_job(self, token: str, name: str) -> Response:
        file = self.jobs.file(token, name)
        async with self._download:  # one after another, so that all that is sent at once is known
            try:
                if file is not None and 0 < self._server.unsent > MOST_UNSENT - file.stat().st_size:
                    return text(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many downloads at once: try again")
                data = None if file is None else await asyncio.to_thread(file.read_bytes)
            except FileNotFoundError:  # its page was closed meanwhile
                data = None
        if data is None:
            return text(http.HTTPStatus.NOT_FOUND, "this file is gone: make it again")
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return reply(data, content_type, {"Content-Disposition": f'attachment; filename="{name}"'})

    # Sessions -------------------------------------------------------------------------------------------------

    async def _talk(self, connection: Connection) -> None:
        with self._mutex:
            full = len(self._sessions) >= MOST_CLIENTS
        if full:
            await connection.close(1013, f"{MOST_CLIENTS} pages are open already")
            return
        name, session = secrets.token_urlsafe(12), Session(self.shared, connection.put)
        with self._mutex:
            self._sessions[name] = session, connection
        allowance = Allowance(MESSAGES, MESSAGES)
        try:
            await connection.deliver(self._hello)
            if self._notice:
                await connection.deliver(self._notice)
            async for message in connection:
                try:
                    answer = await self._handle(name, session, requests.decode(message), connection)
                except InputError as error:
                    answer = json.dumps({"type": "error", "text": str(error)})
                if answer is not None:
                    await connection.deliver(answer)
                await asyncio.sleep(allowance.take(1.0 + len(message) / LONG))  # 0: the others come in between
        except ConnectionClosed:
            pass
        except Exception:  # a bug must be seen
            traceback.print_exc()
            raise
        finally:
            self._forget(name)

    async def _handle(self, name: str, session: Session, message: dict[str, Any], connection: Connection) -> str | None:
        """The answer to a message, if it has one at once. Nothing is computed on the event loop.

        Raises:
            InputError: what came is not a message that a page sends.
        """

        def tell(answer: dict[str, Any]) -> None:
            connection.post(json.dumps(answer), progress=answer["type"] == "progress")

        match message.get("type"):
            case "view":
                session.request(message)
            case "job":
                self.jobs.start(name, message, tell)
            case "cancel":
                self.jobs.cancel(name, int(requests.number(message.get("id"), "id", 0, 2**53)))
            case "path":
                return await asyncio.to_thread(_path_answer, message.get("path"))
            case str(other):
                raise InputError(f"message: type {other[:40]!r} is unknown")
            case _:
                raise InputError("message: has no type, which is unknown")
        return None

    def _forget(self, name: str) -> None:
        with self._mutex:
            session, _ = self._sessions.pop(name, (None, None))
        if session is not None:
            session.close()
        self.jobs.forget(name)


def hello(shared: SharedState) -> dict[str, Any]:
    """First message to a page: what there is to show, and what the page can ask for."""
    run, task = shared.run, shared.task
    height, width = native_size(run)
    view = shared.first_view((height, width))
    camera = None
    if isinstance(view, Camera):
        camera = {
            "position": [round(float(v), 5) for v in view.T_world_camera[:3, 3]],
            "target": [0.0, 0.0, 0.0],
            "fov": 2.0 * math.atan(0.5 * view.height / view.fy),
        }
    return {
        "type": "hello",
        "run": run.label if run.path is None else run.path.resolve().name,
        "kind": run.kind,  # a word to show, nothing more
        "has_camera": task.has_camera,
        "has_mesh": task.has_mesh,
        "modes": list(shared.modes),
        "has_splits": task.has_splits,
        "channels": list(task.channels),
        "scenes": list(shared.names),
        "places": [[round(float(v), 4) for v in place] for place in shared.map.places()],
        "aspect": shared.aspect(),
        "camera": camera,
        "thumbs": {"side": THUMB, "sheet": SHEET, "count": min(len(shared.names), MOST_THUMBS)},
        "latent_size": int(shared.codes.shape[1]),
        "axes": min(requests.AXES, len(shared.map.std)),
        "bytes": round(run.model.bytes_per_scene()[0]),
    }


def _stamp(folder: Path) -> list[tuple[int, int, int] | None]:
    """What tells whether the files of a run are still those that were loaded."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in (folder / CONFIG, folder / MODEL):
        try:
            about = file.stat()
            stamps.append((about.st_ino, about.st_size, about.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return stamps


def _path_answer(value: Any) -> str:
    """A path as the page keeps it: the file, whose `camera_path` has the camera of each frame, and a smooth line."""
    if not isinstance(value, dict | str):
        raise InputError("path: wanted nerfstudio's JSON")
    path = dataclasses.replace(from_nerfstudio(value), in_box=True)
    line = path.at(torch.linspace(0.0, 1.0, LINE_POINTS))[0][:, :3, 3]
    return json.dumps({"type": "path", "path": to_nerfstudio(path), "line": line.tolist()})
