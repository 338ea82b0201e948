"""The one module that knows viser: its server, and what its WebGL scene shows below our page.

viser brings the web server, the websockets and a 3-D scene. What it lacks (a plane to drag on, pictures to click
at, addresses of our own, a look at who asks) is put in front of its server here: each request passes a `Gate`
first. It has no hook for that, so the function that opens its port is wrapped while the server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import numpy as np
import viser
import websockets.asyncio.server
from viser import _messages as viser_messages
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from hyperfields.data import Mesh
from hyperfields.viewer.camera_path import CameraPath, quaternion

PREFIX = "/viser/"  # then the name of a session
MOST_BYTES = 2**20  # of a message from a browser

Vector = tuple[float, float, float]
# Shadows are drawn from several lights, which takes seconds without a graphics card.
_PLAIN: dict[str, Any] = {"cast_shadow": False, "receive_shadow": False}

_session: contextvars.ContextVar[str] = contextvars.ContextVar("session", default="")


class Gate(Protocol):
    """What stands in front of viser's server, on its event loop."""

    async def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """An answer to a request; None hands it on, to `connect` or to viser."""

    def connect(self, path: str) -> Callable[[ServerConnection], Awaitable[None]] | None:
        """Who talks to a websocket of this path; None for viser."""


@dataclasses.dataclass
class _Scene:
    """What a session wants to be seen, and the viser client that shows it once there is one."""

    client: viser.ClientHandle | None = None
    mesh: Mesh | None = None
    path: CameraPath | None = None
    camera: tuple[Vector, Vector, float] | None = None  # position, target, fov (vertical)
    dark: bool = False
    overview: bool = False  # looked at from outside: then the path is seen too


class Stage:
    """viser's server behind our gate, and its scenes by session."""

    def __init__(self, host: str, port: int, gate: Gate) -> None:
        self._scenes: dict[str, _Scene] = {}
        self._mutex = threading.RLock()
        with _behind(gate), contextlib.redirect_stdout(io.StringIO()):
            self._server = viser.ViserServer(host=host, port=port, label="hyperfields", verbose=False)
        self.port = self._server.get_port()
        self.loop: asyncio.AbstractEventLoop = self._server.get_event_loop()
        # A page could make viser open a tunnel through a host on the internet: not from here.
        handlers = self._server._websock_server._incoming_handlers
        for message in (viser_messages.ShareUrlRequest, viser_messages.ShareUrlDisconnect):
            handlers.pop(message, None)
        self._server.gui.configure_theme(show_logo=False, show_share_button=False)
        self._server.scene.set_up_direction("+z")
        self._server.scene.configure_default_lights(cast_shadow=False)
        self._server.on_client_connect(self._connected)
        self._server.on_client_disconnect(self._left)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    def open(self, session: str) -> None:
        """A session may show a scene from now on."""
        with self._mutex:
            self._scenes[session] = _Scene()

    def forget(self, session: str) -> None:
        with self._mutex:
            self._scenes.pop(session, None)

    def knows(self, session: str) -> bool:
        with self._mutex:
            return session in self._scenes

    def show(self, session: str, **changes: Any) -> bool:
        """Change fields of a session's `_Scene`; whether somebody sees it already."""
        with self._mutex:
            scene = self._scenes.get(session)
            if scene is None:
                return False
            changed = {name for name, value in changes.items() if getattr(scene, name) is not value}
            for name in changed:
                setattr(scene, name, changes[name])
            if scene.client is not None:
                _draw(scene, changed)
            return scene.client is not None

    async def _connected(self, client: viser.ClientHandle) -> None:
        with self._mutex:
            scene = self._scenes.get(_session.get())
            if scene is not None:
                scene.client = client
                _draw(scene, {"mesh", "path", "camera", "dark"})

    async def _left(self, client: viser.ClientHandle) -> None:
        with self._mutex:
            for scene in self._scenes.values():
                if scene.client is client:
                    scene.client = None


def _draw(scene: _Scene, changed: set[str]) -> None:
    """Bring a viser client's scene up to date."""
    client = scene.client
    assert client is not None
    with client.atomic():
        if "mesh" in changed:
            if scene.mesh is None or not len(scene.mesh.faces):
                client.scene.remove_by_name("/mesh")
            else:
                vertices, faces = scene.mesh.vertices.numpy(), scene.mesh.faces.numpy()
                client.scene.add_mesh_simple("/mesh", vertices, faces, color=(216, 213, 206), **_PLAIN)
        if changed & {"path", "dark", "overview"}:
            _draw_path(client, scene.path if scene.overview else None, scene.dark)
        if "dark" in changed:
            shade = np.full((1, 1, 3), 24 if scene.dark else 255, np.uint8)
            client.scene.set_background_image(shade, format="png")
        if "camera" in changed and scene.camera is not None:
            position, target, fov = scene.camera
            client.camera.up_direction = (0.0, 0.0, 1.0)
            client.camera.position = position
            client.camera.look_at = target
            client.camera.fov = fov
    client.flush()


def _draw_path(client: viser.ClientHandle, path: CameraPath | None, dark: bool) -> None:
    client.scene.remove_by_name("/path")
    if path is None:
        return
    aspect = path.size[1] / path.size[0]
    for number, key in enumerate(path.keyframes):
        client.scene.add_camera_frustum(
            f"/path/key_{number}",
            fov=key.fov,
            aspect=aspect,
            **_PLAIN,
            scale=0.25,
            color=(213, 94, 0),
            wxyz=quaternion(key.T_world_camera[:3, :3]).numpy(),
            position=key.T_world_camera[:3, 3].numpy(),
        )
    count = min(path.frames, 200)
    if len(path.keyframes) > 1 and count > 1:
        points = np.stack([path.at(i / (count - 1)).T_world_camera[:3, 3].numpy() for i in range(count)])
        color = (86, 180, 233) if dark else (0, 114, 178)
        segments = np.stack([points[:-1], points[1:]], 1)
        client.scene.add_line_segments(
            "/path/line", points=segments, colors=color, thickness=3.0, thickness_units="screen"
        )


@contextlib.contextmanager
def _behind(gate: Gate) -> Iterator[None]:
    """While this is open, a server that viser starts asks `gate` first."""
    opened = websockets.asyncio.server.serve

    def serve(handler: Any, host: str, port: int, **options: Any) -> Any:
        viser_request = options["process_request"]

        async def request(connection: ServerConnection, asked: Request) -> Response | None:
            answer = await gate.request(connection, asked)
            if answer is not None:
                return answer
            if asked.headers.get("Upgrade", "").lower() == "websocket":
                return None
            found: Response | None = viser_request(connection, dataclasses.replace(asked, path="/"))
            return found

        async def talk(connection: ServerConnection) -> None:
            path = connection.request.path if connection.request is not None else ""
            ours = gate.connect(path)
            if ours is not None:
                await ours(connection)
                return
            _session.set(path.removeprefix(PREFIX).strip("/"))
            await handler(connection)

        return opened(talk, host, port, **{**options, "process_request": request, "max_size": MOST_BYTES})

    websockets.asyncio.server.serve = serve  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = opened  # type: ignore[misc]
