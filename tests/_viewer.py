"""A viewer of a run whose pictures are known, and a client that talks to it as its page does."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

from hyperfields.data import Kind
from hyperfields.viewer.app import Viewer

from ._octahedra import run_of

PATIENCE = 300.0  # seconds for what comes at once on an idle machine
CAMERA = {"position": [-2.0, -2.0, 1.5], "target": [0.0, 0.0, 0.0], "fov": 0.7}


@contextlib.contextmanager
def viewing(kind: Kind, **scenes: float) -> Iterator[Viewer]:
    """A running viewer."""
    viewer = Viewer(run_of(kind, **scenes))
    try:
        yield viewer
    finally:
        viewer.close()


def wait_until(true: Callable[[], Any], pause: Callable[[float], object] = time.sleep) -> None:
    """Returns when something is true; fails when it never becomes so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        pause(0.01)


def saved(kind: Kind, folder: Path) -> Path:
    """The run of octahedra on disk."""
    run_of(kind).save(folder)
    return folder


class _AsAnswered(urllib.request.HTTPRedirectHandler):
    """Redirects are answers like others."""

    def redirect_request(self, *args: Any) -> None:
        return None


_opener = urllib.request.build_opener(_AsAnswered, urllib.request.ProxyHandler({}))


def get(viewer: Viewer, path: str, *, cookie: bool = True, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a request, by default of a browser that has opened the address."""
    if cookie:
        headers["Cookie"] = viewer.gate.cookie.partition(";")[0]
    request = urllib.request.Request(viewer.gate.origin + path, headers=headers)
    try:
        with _opener.open(request, timeout=PATIENCE) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


class Client:
    """A page without a browser."""

    def __init__(self, viewer: Viewer) -> None:
        origin = viewer.gate.origin
        self._connect(f"{origin.replace('http', 'ws')}/live?token={viewer.gate.token}", origin)

    @classmethod
    def of(cls, address: str, origin: str) -> Client:
        """One of a viewer in another process."""
        client = cls.__new__(cls)
        client._connect(address, origin)
        return client

    def _connect(self, address: str, origin: str) -> None:
        self.socket: ClientConnection = connect(address, origin=origin, max_size=None, proxy=None)  # type: ignore[arg-type]
        self.hello = self.hear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """The next message; a picture's is in "image", `[h w 3]`, other bytes in "bytes"."""
        data = self.socket.recv(timeout)
        if isinstance(data, str):
            return dict(json.loads(data))
        (length,) = struct.unpack("<I", data[:4])
        message, data = dict(json.loads(data[4 : 4 + length])), data[4 + length :]
        return message | ({"image": decoded(data)} if message["type"] == "picture" else {"bytes": data})

    def until(self, **values: Any) -> dict[str, Any]:
        """The next message with these values; a job that failed ends the wait."""
        while True:
            message = self.hear()
            if all(message.get(name) == value for name, value in values.items()):
                return message
            assert message["type"] != "failed" or message["job"] != values.get("job"), message

    def request(self, number: int = 1, **more: Any) -> None:
        """Ask for a picture."""
        view = CAMERA if self.hello["has_camera"] else {"window": [0, 0, 1, 1]}
        self.send(**{"type": "view", "id": number, "latent": {"scene": "big"}, "size": [24, 32], "view": view, **more})


def decoded(data: bytes) -> Tensor:
    """A picture file as `[h w 3]` in [0, 1]."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255.0
