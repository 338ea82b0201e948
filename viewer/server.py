"""The port: HTTP and websockets on an event loop in a thread of its own, and the gate that every request passes.

Who may ask: a browser that has opened the address with the token that was printed (a cookie keeps it afterwards),
under a name of this machine (`Host`); on websockets a page of this server (`Origin`).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import http
import logging
import re
import secrets
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, unquote, urlsplit

import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from hyperfields.errors import InputError
from hyperfields.viewer.connection import Connection

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
MOST_BYTES = 2**20  # of a message from a browser: a long camera path fits
ANSWER_SECONDS = 300.0  # for a request and its answer: a film over a slow line takes some
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

Respond = Callable[[Request], Awaitable[Response | None]]
Talk = Callable[[Connection], Awaitable[None]]
_NAME = re.compile(r"(\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")  # and a port, of `Host`

# Below this the library logs lines of requests, and the token with them, and a traceback for each browser that opens
# a connection in advance and lets it go.
_logger = logging.getLogger("hyperfields.viewer")
_logger.setLevel(logging.CRITICAL)


class Server:
    """A running server. `close` ends it."""

    def __init__(self, listener: socket.socket, respond: Respond, talk: Talk) -> None:
        """
        Args:
            listener: of `listen`; closed in the end.
            respond: the answer to a request; None lets a websocket open.
            talk: serves one websocket until it returns.
        """
        self._stop: asyncio.Event
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, respond, talk)), name="hyperfields-viewer", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, listener: socket.socket, respond: Respond, talk: Talk) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        async def process_request(connection: ServerConnection, request: Request) -> Response | None:
            try:
                return await respond(request)
            except Exception:  # a bug must be seen
                traceback.print_exc()
                return text(http.HTTPStatus.INTERNAL_SERVER_ERROR, "this request failed: see the viewer's terminal")

        async def handle(connection: ServerConnection) -> None:
            assert isinstance(connection, Connection)
            await talk(connection)

        try:
            server = self._server = await websockets.asyncio.server.serve(
                handle, sock=listener, process_request=process_request, max_size=MOST_BYTES, compression=None,
                open_timeout=ANSWER_SECONDS, close_timeout=1.0, server_header=None, logger=_logger,
                create_connection=Connection,
            )  # fmt: skip
        except Exception as error:  # raised again where the server is made
            self._failure = error
            return
        finally:
            self._started.set()
        async with server:
            await self._stop.wait()
            server.close()
            await asyncio.sleep(0.05)  # until what was accepted last is known
            self._drop_slow()

    def _connections(self) -> list[Connection]:
        return [connection for connection in self._server.handlers if isinstance(connection, Connection)]

    def _drop_slow(self) -> None:
        for connection in self._connections():
            if connection.request is None or connection.unsent:
                connection.transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes that wait on all connections; to be asked on the event loop."""
        return sum(connection.unsent for connection in self._connections())

    def drop_slow(self) -> None:
        """End the connections that ask nothing, or do not take what they are sent."""
        self.loop.call_soon_threadsafe(self._drop_slow)

    def close(self) -> None:
        """End all connections, then the thread."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Gate:
    """Refusals of requests that do not come from who was given the address."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.token = secrets.token_urlsafe(24)
        # Cookies are shared by all ports of a machine: each viewer has a name of its own.
        self._cookie = f"hf-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    @property
    def origin(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"{self.origin}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The header with which a browser keeps the token: out of reach for scripts and for pages of other sites."""
        return f"{self._cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"

    def refusal(self, request: Request) -> Response | None:
        """The answer to whoever may not ask; None for others."""
        host = header(request, "Host")
        if not self._is_our_name(host):
            return text(http.HTTPStatus.FORBIDDEN, f"this viewer is not called {host[:80]!r}: open {self.origin}")
        if not self.has_token(request) and not self._has_cookie(request):
            return text(http.HTTPStatus.FORBIDDEN, "wrong or no token: open the address that the viewer printed")
        if is_websocket(request) and not _same_origin(header(request, "Origin"), host):
            return text(http.HTTPStatus.FORBIDDEN, "only the viewer's own page may talk to it")
        return None

    def has_token(self, request: Request) -> bool:
        """True when the token is in the address."""
        values = parse_qs(request.path.partition("?")[2]).get("token", [])
        return any(self._matches(value) for value in values)

    def _has_cookie(self, request: Request) -> bool:
        for header in request.headers.get_all("Cookie"):
            for part in header.split(";"):
                name, _, value = part.strip().partition("=")
                if name == self._cookie and self._matches(value):
                    return True
        return False

    def _matches(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(errors="surrogateescape"), self.token.encode())

    def _is_our_name(self, host: str) -> bool:
        """True when the request was for this machine.

        A page of another site whose name is made to point here (DNS rebinding) still gives that name.
        """
        match = _NAME.fullmatch(host.lower())
        return match is not None and (self.host not in LOOPBACK or match[1].strip("[]") in LOOPBACK)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the first port from `port` on that nobody has.

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
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(100)  # two can be bound to one port, one can listen
            return listener
        except OSError as error:
            listener.close()
            if isinstance(error, PermissionError):
                raise InputError(f"--port {candidate}: needs more rights; choose one above 1023") from None
            if error.errno in _NOT_HERE:
                raise InputError(f"--host {host}: not an address of this machine ({error.strerror})") from None
    raise InputError(f"--port {port}: it and the 199 after it are busy; choose another")


def header(request: Request, name: str) -> str:
    """The value of a header that may be there once; empty if it is not, or several times."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def path_of(request: Request) -> list[str]:
    """The parts of the path after each slash, decoded once. A `..` is a name like others."""
    path = unquote(request.path.partition("?")[0])
    return path.split("/")[1:] if path.startswith("/") else []


def is_websocket(request: Request) -> bool:
    return header(request, "Upgrade").lower() == "websocket"


def reply(
    data: bytes,
    content_type: str,
    headers: dict[str, str] | None = None,
    status: http.HTTPStatus = http.HTTPStatus.OK,
) -> Response:
    """An answer that no cache keeps and no other page reads, and whose links do not tell where they were."""
    return Response(
        status.value,
        status.phrase,
        Headers(
            {
                "Content-Type": content_type,
                "Content-Length": str(len(data)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                **(headers or {}),
            }
        ),
        data,
    )


def text(status: http.HTTPStatus, line: str, headers: dict[str, str] | None = None) -> Response:
    return reply(f"{line}\n".encode(), "text/plain; charset=utf-8", headers, status)


def _same_origin(origin: str, host: str) -> bool:
    """True for a websocket of a page of this server: a browser always says which page opened it."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
