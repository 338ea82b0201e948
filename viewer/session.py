"""One client: a thread of its own that answers its latest request, and drops what nobody waits for any more."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import struct
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.data import Mesh, View
from hyperfields.errors import InputError
from hyperfields.rendering.meshing import vertex_normals
from hyperfields.viewer.lock import Turn
from hyperfields.viewer.reference import photograph_picture, reference_picture
from hyperfields.viewer.requests import AXES, ViewRequest, view_request
from hyperfields.viewer.shared import COARSE, FINE, FieldInTurns, SharedState, jpeg

BUDGET = 0.055  # seconds that a picture may take while something moves
CROWD = 4  # when more than these wait, each gets a smaller picture, so that all are served as soon
SMALLEST, LARGEST = 64, 320  # pixels on the longer side of such a picture
WHOLE = 512  # pixels on the longer side of the first finished picture
MOVING_QUALITY, STILL_QUALITY = 82, 93  # of JPEG
NEAREST = 6

Send = Callable[[str | bytes], None]


class Superseded(Exception):
    """There is a newer request: nobody waits for this picture."""


class Session:
    """Pictures for one page. `request` may be called from any thread and never waits."""

    def __init__(self, shared: SharedState, send: Send) -> None:
        self.shared, self._send = shared, send
        self._condition = threading.Condition()
        self._message: dict[str, Any] | None = None
        self._closed = False
        self._pixel_seconds = 4e-6  # of this scene on this machine, learned as we go
        self._thread = threading.Thread(target=self._run, name="hyperfields-viewer-session", daemon=True)
        self._thread.start()

    def request(self, message: dict[str, Any]) -> None:
        """Answer this one next; an older one that has not been answered never will be."""
        with self._condition:
            self._message = message
            self._condition.notify()

    def close(self) -> None:
        """End the thread; what it computes is dropped."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(seconds)

    def _run(self) -> None:
        with self.shared.computing():
            self._answer_until_closed()

    def _answer_until_closed(self) -> None:
        while True:
            with self._condition:
                while self._message is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                message, self._message = self._message, None
            assert message is not None
            try:
                self._answer(view_request(message, self.shared))
            except Superseded:
                continue
            except (InputError, ValueError) as error:
                self._tell({"type": "error", "text": str(error)})
            except Exception as error:  # one bad picture must not end the session
                traceback.print_exc()
                self._tell({"type": "error", "text": f"this picture failed: {error}"})

    def _answer(self, request: ViewRequest) -> None:
        began = time.monotonic()
        request, photograph = self._from_photograph(request)
        lock, task = self.shared.lock, self.shared.task
        moved = None if request.place.way is None else self.shared.moved(request.place.way)
        with lock.held(Turn.LOOK):
            if self._closed:
                raise Superseded
            bound = (moved or self.shared.scene(request.place.latent)).field
            with contextlib.suppress(TypeError):  # a field without density has no grid
                bound.occupancy(COARSE)  # once a field: not counted below
            budget = BUDGET / max(1.0, lock.waiting(Turn.LOOK) / CROWD)
            size = moving_size(request.size, self._pixel_seconds, budget)
            started = time.monotonic()
            picture = task.picture(
                bound, request.view, size, request.channel, request.background, supersample=1, cells=COARSE
            )
            seconds = (time.monotonic() - started) / (size[0] * size[1])
            self._pixel_seconds = 0.7 * self._pixel_seconds + 0.3 * seconds
        self._send_picture(request, picture, "moving", began)
        if request.moving:
            return
        for turn, size, supersample, cells in self._passes(request):
            with lock.held(turn):
                self._check()
                picture = task.picture(
                    bound, request.view, size, request.channel, request.background,
                    supersample=supersample, cells=cells, pause=self._pause,
                )  # fmt: skip
            self._send_picture(request, picture, "still", began)
            if request.reference:
                self._send_reference(request, photograph, size, supersample, began)
        if request.mesh and task.has_mesh:
            mesh = task.mesh(FieldInTurns(bound, lock, self._check), task.preview_cells)
            header = {"type": "mesh", "id": request.number, "key": self.shared.map.to_text(request.place.latent)}
            self._put(pack(header | mesh_header(mesh), mesh_bytes(mesh)))

    def _passes(self, request: ViewRequest) -> list[tuple[Turn, tuple[int, int], int, int]]:
        """(turn, (height, width), rays along a pixel's side, cells) of the finished pictures: first a whole one, of
        half the size when many wait for theirs, then all that was asked for. A mesh covers it: one is enough.
        """
        longest, crowded = max(request.size), self.shared.lock.waiting() > CROWD
        scale = min(WHOLE / longest, 0.5 if crowded and longest >= 2 * SMALLEST else 1.0)
        first = Turn.PICTURE, _scaled(request.size, scale), 1, COARSE if crowded else FINE
        last = Turn.SHARP, request.size, self.shared.task.supersample, FINE
        return [first] if request.mesh or first[1:] == last[1:] else [first, last]

    def _check(self) -> None:
        if self._closed or self._message is not None:
            raise Superseded

    def _pause(self) -> None:
        """Between blocks of a picture, holding the lock."""
        self._check()
        self.shared.lock.give_way()

    def _from_photograph(self, request: ViewRequest) -> tuple[ViewRequest, View | None]:
        """A view from the camera of a photograph, with its shape."""
        if request.photograph is None or not self.shared.task.has_splits:
            return request, None
        scene = self.shared.number_at(request.place.latent)
        views = None if scene is None else self.shared.reference(self.shared.names[scene])
        if not views:
            return request, None
        view = views[request.photograph % len(views)]
        height, width = view.camera.height, view.camera.width
        scale = max(request.size) / max(height, width)
        size = max(round(height * scale), 8), max(round(width * scale), 8)
        return dataclasses.replace(request, view=view.camera, size=size), view

    def _send_reference(
        self, request: ViewRequest, photograph: View | None, size: tuple[int, int], supersample: int, began: float
    ) -> None:
        """Send the data's picture of the scene from the same place, or a word where there is none."""

        def no_reference(text: str, **more: Any) -> None:
            self._tell({"type": "no reference", "id": request.number, "text": text, **more})

        scene = self.shared.number_at(request.place.latent)
        if scene is None:
            return no_reference("between scenes the data show nothing")
        try:
            reference = self.shared.reference(self.shared.names[scene])
            count = len(reference) if isinstance(reference, Sequence) else 0
            if photograph is not None:
                picture = photograph_picture(photograph, request.background)
                return self._send_picture(request, picture, "reference", began, views=count)
            if count:
                return no_reference(f"choose one of {count} test views to compare with", views=count)
            with self.shared.lock.held():
                picture = reference_picture(reference, request.view, size, request.background, supersample, self._pause)
            self._send_picture(request, picture, "reference", began)
        except InputError as error:
            no_reference(str(error))

    def _send_picture(self, request: ViewRequest, picture: Tensor, level: str, began: float, **more: Any) -> None:
        data = jpeg(picture, MOVING_QUALITY if level == "moving" else STILL_QUALITY)
        header = {
            "type": "picture",
            "id": request.number,
            "level": level,
            "size": list(picture.shape[:2]),
            "ms": round(1e3 * (time.monotonic() - began), 1),
            "latent": describe(self.shared, request.place.latent),
            **more,
        }
        self._put(pack(header, data))

    def _tell(self, message: dict[str, Any]) -> None:
        self._put(json.dumps(message))

    def _put(self, message: str | bytes) -> None:
        if not self._closed:
            self._send(message)


def moving_size(full: tuple[int, int], pixel_seconds: float, budget: float = BUDGET) -> tuple[int, int]:
    """The (height, width) of a picture that takes `budget` seconds, of the same shape, no larger than `full`."""
    longest = max(full)
    pixels = budget / max(pixel_seconds, 1e-9)
    side = math.sqrt(pixels * longest / min(full))
    side = min(max(side, SMALLEST), LARGEST, longest)
    if side != longest:  # a picture that keeps its size looks calm
        side = 16.0 * max(math.floor(side / 16.0), 1)
    return _scaled(full, side / longest)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def describe(shared: SharedState, latent: Tensor) -> dict[str, Any]:
    """Facts about a latent that a page shows."""
    scene = shared.number_at(latent)
    names = shared.names
    return {
        "scene": None if scene is None else names[scene],
        "key": shared.map.to_text(latent),
        "place": [round(float(v), 4) for v in shared.map.place(latent)],
        "coordinates": [round(float(v), 3) for v in latent[:AXES]],
        "nearest": [[names[i], round(d, 3)] for i, d in shared.map.nearest(latent, NEAREST)],
    }


def mesh_header(mesh: Mesh) -> dict[str, int]:
    """The sizes of the arrays of `mesh_bytes`."""
    return {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}


def mesh_bytes(mesh: Mesh) -> bytes:
    """A mesh for WebGL, little-endian: positions `[v 3]` float32, normals `[v 4]` int8 (x y z 0), colours `[v 4]` uint8
    (0 0 0 0 where the mesh has none), faces `[f 3]` uint32.
    """
    pad = torch.nn.functional.pad
    colors = (
        mesh.vertices.new_zeros(len(mesh.vertices), 4) if mesh.colors is None else pad(mesh.colors, (0, 1), value=1.0)
    )
    arrays = (
        mesh.vertices.numpy().astype("<f4"),
        (pad(vertex_normals(mesh), (0, 1)) * 127.0).round().to(torch.int8).numpy(),
        (colors * 255.0).round().to(torch.uint8).numpy(),
        mesh.faces.numpy().astype("<u4"),
    )
    return b"".join(array.tobytes() for array in arrays)


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """A message of JSON and bytes: the length of the JSON (32 bit, little-endian), the JSON, the bytes.

    Spaces after the JSON bring the bytes to a multiple of 4, so that a page can use them as numbers.
    """
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + data
