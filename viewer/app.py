"""The server of the viewer: addresses, who may ask, and the sessions of those who look."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http
import json
import math
import mimetypes
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from websockets import Headers
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import CHANNELS
from hyperfields.runs.checkpoint import Run
from hyperfields.runs.render import native_size, orbit_cameras
from hyperfields.tasks import task_of
from hyperfields.viewer import messages
from hyperfields.viewer.camera_path import CameraPath, from_nerfstudio, to_nerfstudio
from hyperfields.viewer.frame import Window
from hyperfields.viewer.jobs import Jobs
from hyperfields.viewer.messages import Look
from hyperfields.viewer.room import MOST_THUMBS, SHEET, THUMB, Room
from hyperfields.viewer.session import Session
from hyperfields.viewer.stage import PREFIX, Stage, Vector

PORT = 8780
MOST_CLIENTS = 32
MESH_CELLS = {"shapes": 112, "views": 80}  # a side, of the mesh that is shown when all is still
SEND_SECONDS = 20.0  # a client that takes nothing for so long has gone
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

_PAGE = Path(__file__).parent / "page"
# The page loads nothing from elsewhere; viser's own page needs inline scripts and workers, but no other host either.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; connect-src 'self' ws: wss:; "
    "frame-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_VISER_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; worker-src blob: data: 'self'; "
    "connect-src 'self' ws: wss: data: blob:; frame-ancestors 'self'"
)


class Viewer:
    """A running viewer. `close` ends it."""

    def __init__(
        self,
        run: Run,
        open_family: Callable[[], SceneDataset] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
    ) -> None:
        """
        Args:
            open_family: reads the data that were fitted, for truth and metrics; called when first asked for.
            host: address to listen on.
            port: the first one that is free from here on is taken.

        Raises:
            InputError: the address is not one of this machine, or no port is free.
        """
        self.host = host
        self.room = Room(run, open_family)
        self.room.warm()
        self.jobs = Jobs(self.room)
        self._sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._mutex = threading.Lock()
        self.stage = Stage(host, free_port(host, port), self)

    @property
    def port(self) -> int:
        return self.stage.port

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.port}/"

    def close(self) -> None:
        """Stop all: sessions, jobs, server. Temporary files go."""
        with self._mutex:
            sessions = dict(self._sessions)
        for name in sessions:
            self._forget(name)
        self.jobs.close()
        for session in sessions.values():  # before the loop ends that their pictures go through
            session.join(5.0)
        self.stage.close()

    # Requests -------------------------------------------------------------------------------------------------

    async def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """See `stage.Gate`: the page and its files, and refusal of whoever may not ask."""
        host = request.headers.get("Host", "")
        if not self._is_our_name(host):
            return _say(http.HTTPStatus.FORBIDDEN, f"this viewer is not called {host[:80]!r}: open {self.url}")
        path = unquote(urlsplit(request.path).path)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            if not _same_origin(request.headers.get("Origin"), host):
                return _say(http.HTTPStatus.FORBIDDEN, "only the viewer's own page may talk to it")
            known = path == "/live" or (path.startswith(PREFIX) and self.stage.knows(_session_in(path)))
            return None if known else _say(http.HTTPStatus.NOT_FOUND, "nothing here")
        parts = path.strip("/").split("/")
        if path.startswith(PREFIX):
            return None if self.stage.knows(_session_in(path)) else _say(http.HTTPStatus.NOT_FOUND, "no such session")
        if path == "/" or (len(parts) == 2 and parts[0] == "page"):
            return _page("index.html" if path == "/" else parts[1])
        if len(parts) == 2 and parts[0] == "thumbs" and parts[1].isdecimal() and len(parts[1]) < 6:
            loop = asyncio.get_running_loop()
            sheet = await loop.run_in_executor(None, self.room.sheet, int(parts[1]))
            return _say(http.HTTPStatus.NOT_FOUND, "no such sheet") if sheet is None else _reply(sheet, "image/jpeg")
        if len(parts) == 3 and parts[0] == "file":
            file = self.jobs.file(parts[1], parts[2])
            if file is None:
                return _say(http.HTTPStatus.NOT_FOUND, "this file is gone: make it again")
            data = await asyncio.get_running_loop().run_in_executor(None, file.read_bytes)
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            return _reply(data, kind, {"Content-Disposition": f'attachment; filename="{file.name}"'})
        return _say(http.HTTPStatus.NOT_FOUND, "nothing here")

    def _is_our_name(self, host: str) -> bool:
        """A page of another site whose name is made to point here (DNS rebinding) still says that name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if self.host in LOOPBACK:
            return name in LOOPBACK
        return bool(name)

    # Sessions -------------------------------------------------------------------------------------------------

    def connect(self, path: str) -> Callable[[ServerConnection], Awaitable[None]] | None:
        """See `stage.Gate`."""
        return self._talk if urlsplit(path).path == "/live" else None

    async def _talk(self, connection: ServerConnection) -> None:
        with self._mutex:
            full = len(self._sessions) >= MOST_CLIENTS
        if full:
            await connection.close(1013, f"{MOST_CLIENTS} pages are open already")
            return
        name, loop = secrets.token_urlsafe(12), asyncio.get_running_loop()

        def send(message: str | bytes) -> None:
            """From any other thread: waits until the browser has room, so pictures never pile up."""
            if loop.is_closed():
                return
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                asyncio.run_coroutine_threadsafe(connection.send(message), loop).result(SEND_SECONDS)

        def tell(message: dict[str, Any]) -> None:
            send(json.dumps(message))

        session = Session(self.room, send, lambda look, bound: self._show_mesh(name, look, bound, tell))
        self.stage.open(name)
        with self._mutex:
            self._sessions[name] = session
        try:
            await connection.send(json.dumps(self._hello(name)))
            async for text in connection:
                try:
                    await self._hear(name, session, messages.decode(text), tell, connection)
                except InputError as error:
                    await connection.send(json.dumps({"type": "error", "text": str(error)}))
        except ConnectionClosed:
            pass
        finally:
            self._forget(name)

    async def _hear(
        self,
        name: str,
        session: Session,
        message: dict[str, Any],
        tell: Callable[[dict[str, Any]], None],
        connection: ServerConnection,
    ) -> None:
        """
        Raises:
            InputError: what came is not a message that a page sends.
        """
        kind = message.get("type")
        if kind == "look":
            session.wish(messages.look(message, self.room))
        elif kind == "job":
            self.jobs.start(name, message, tell)
        elif kind == "cancel":
            self.jobs.cancel(name, int(messages.number(message.get("id"), "id", 0, 2**53)))
        elif kind == "path":
            path = _path(message)
            self.stage.show(name, path=path)
            await connection.send(json.dumps(_path_answer(path)))
        elif kind == "stage":
            look = messages.view(message.get("view"), self.room, (64, 64))
            if not isinstance(look, Window):
                pose, fov = look.T_world_camera, messages.number(message["view"].get("fov", 0.69), "fov", 0.02, 3.0)
                target = messages.numbers(message["view"].get("target", [0, 0, 0]), "target", 3, 1e3)
                self.stage.show(
                    name,
                    camera=(_vector(pose[:3, 3].tolist()), _vector(target), fov),
                    dark=message.get("dark") is True,
                    overview=message.get("overview") is True,
                )
        else:
            raise InputError(f"message: type {str(kind)[:40]!r} is unknown")

    def _show_mesh(self, name: str, look: Look, bound: Any, tell: Callable[[dict[str, Any]], None]) -> None:
        """On a session's own thread: the mesh of what is still, for viser's scene."""
        mesh = task_of(self.room.run.kind).mesh(bound, MESH_CELLS[self.room.run.kind])
        self.stage.show(name, mesh=mesh)
        tell({"type": "mesh", "id": look.number, "faces": len(mesh.faces)})

    def _forget(self, name: str) -> None:
        with self._mutex:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()
        self.stage.forget(name)
        self.jobs.forget(name)

    def _hello(self, name: str) -> dict[str, Any]:
        """What a page needs before its first picture."""
        run, room = self.room.run, self.room
        height, width = native_size(run)
        first = orbit_cameras(run, 1, (height, width))[0]
        return {
            "type": "hello",
            "session": name,
            "run": run.path.resolve().name,
            "kind": run.kind,
            "scenes": list(run.names),
            "places": [[round(float(v), 4) for v in place] for place in room.map.places()],
            "spread": [round(float(v), 5) for v in room.map.std[: messages.AXES]],
            "channels": list(CHANNELS[:1] if run.kind == "images" else CHANNELS),
            "aspect": room.aspect(),
            "native": [height, width],
            "camera": {
                "position": [round(float(v), 5) for v in first.T_world_camera[:3, 3]],
                "target": [0.0, 0.0, 0.0],
                "fov": 2.0 * math.atan(0.5 * first.height / first.fy),
            },
            "thumbs": {"side": THUMB, "sheet": SHEET, "count": min(len(run.names), MOST_THUMBS)},
            "latent_size": int(room.codes.shape[1]),
            "axes": min(messages.AXES, len(room.map.std)),
            "bytes": round(run.model.bytes_per_scene()[0]),
        }


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens at.

    Raises:
        InputError: the address is not one of this machine, or no port is free.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: wanted a number from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise InputError(f"--host {host}: unknown ({error.strerror}); leave it out to listen on 127.0.0.1") from None
    for candidate in range(port, min(port + 200, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except PermissionError:
                raise InputError(f"--port {candidate}: needs more rights; choose one above 1023") from None
            except OSError as error:
                if error.errno in _NOT_HERE:
                    raise InputError(f"--host {host}: not an address of this machine ({error.strerror})") from None
                continue
            return int(probe.getsockname()[1])
    raise InputError(f"--port {port}: it and the 199 after it are busy; choose another")


def _path(message: dict[str, Any]) -> CameraPath:
    value = message.get("path")
    if not isinstance(value, dict | str):
        raise InputError("path: wanted nerfstudio's JSON")
    return from_nerfstudio(value)


def _path_answer(path: CameraPath) -> dict[str, Any]:
    """A path as the page keeps it: the file, whose `camera_path` says where the camera is at each frame."""
    return {"type": "path", "path": to_nerfstudio(path)}


def _vector(numbers: list[float]) -> Vector:
    x, y, z = numbers
    return x, y, z


def _session_in(path: str) -> str:
    return path.removeprefix(PREFIX).strip("/")


def _same_origin(origin: str | None, host: str) -> bool:
    """Whether a websocket was opened by a page of this server: a browser always says which page it was."""
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _page(name: str) -> Response:
    """A file of the page; nothing but what lies in its folder."""
    files = {file.name: file for file in _PAGE.iterdir() if file.is_file()}
    if name not in files:
        return _say(http.HTTPStatus.NOT_FOUND, "nothing here")
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    kind = kinds.get(files[name].suffix, "application/octet-stream")
    policy = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
    return _reply(files[name].read_bytes(), f"{kind}; charset=utf-8", policy)


def _reply(
    data: bytes, kind: str, more: dict[str, str] | None = None, status: http.HTTPStatus = http.HTTPStatus.OK
) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }
    )
    return Response(status.value, status.phrase, headers, data)


def _say(status: http.HTTPStatus, text: str) -> Response:
    return _reply(f"{text}\n".encode(), "text/plain; charset=utf-8", status=status)
