"""A viewer of a run whose pictures are known, and a client that talks to it as its page does."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

from hyperfields.data import Kind
from hyperfields.runs import checkpoint
from hyperfields.viewer.app import Viewer

from ._octahedra import run_of

CAMERA = {"position": [-2.0, -2.0, 1.5], "target": [0.0, 0.0, 0.0], "fov": 0.7}


@contextlib.contextmanager
def viewing(kind: Kind, **scenes: float) -> Iterator[Viewer]:
    """A running viewer."""
    viewer = Viewer(run_of(kind, **scenes))
    try:
        yield viewer
    finally:
        viewer.close()


def saved(kind: Kind, folder: Path) -> Path:
    """The run of octahedra on disk."""
    run = run_of(kind, folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint.to_json(run.model.config)
    config = {"format": checkpoint.FORMAT, "kind": kind, "model": model, "fit": {}, **run.config}
    checkpoint.write_config(folder, config)
    checkpoint.write_model(folder, run.model)
    return folder


def get(viewer: Viewer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a request."""
    request = urllib.request.Request(viewer.url.rstrip("/") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


class Client:
    """A page without a browser."""

    def __init__(self, viewer: Viewer) -> None:
        origin = viewer.url.rstrip("/")
        self.socket: ClientConnection = connect(
            origin.replace("http", "ws") + "/live",
            origin=origin,
            max_size=None,
            proxy=None,  # type: ignore[arg-type]
        )
        self.hello = self.hear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self, timeout: float = 20.0) -> dict[str, Any]:
        """The next message; a picture's is in "image", `[h w 3]`."""
        data = self.socket.recv(timeout)
        if isinstance(data, str):
            return dict(json.loads(data))
        (length,) = struct.unpack("<I", data[:4])
        return {**json.loads(data[4 : 4 + length]), "image": decoded(data[4 + length :])}

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next message with these values."""
        while True:
            message = self.hear()
            if all(message.get(name) == value for name, value in wanted.items()):
                return message

    def look(self, number: int = 1, **more: Any) -> None:
        """Ask for a picture."""
        asked = {"latent": {"scene": "big"}, "size": [24, 32], **more}
        if self.hello["kind"] != "images":
            asked = {"view": CAMERA, **asked}
        else:
            asked = {"view": {"window": [0, 0, 1, 1]}, **asked}
        self.send(type="look", id=number, **asked)


def decoded(data: bytes) -> Tensor:
    """A picture file as `[h w 3]` in [0, 1]."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255.0
