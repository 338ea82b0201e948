"""One client: a thread of its own that answers its latest request, and drops what nobody waits for any more."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from hyperfields.data import View
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import CELLS
from hyperfields.runs.render import SUPERSAMPLE
from hyperfields.viewer.frame import frame
from hyperfields.viewer.reference import References, reference_picture, view_picture
from hyperfields.viewer.requests import AXES, ViewRequest
from hyperfields.viewer.shared import COARSE, SharedState, jpeg

BUDGET = 0.055  # seconds that a picture may take while something moves
SMALLEST, LARGEST = 64, 320  # pixels on the longer side of such a picture
MOVING_QUALITY, STILL_QUALITY = 82, 93  # of JPEG
NEAREST = 6

Send = Callable[[str | bytes], None]
ShowMesh = Callable[[ViewRequest, Any], None]


class Superseded(Exception):
    """There is a newer request: nobody waits for this picture."""


class Session:
    """Pictures for one page. `request` may be called from any thread and never waits."""

    def __init__(self, shared: SharedState, send: Send, show_mesh: ShowMesh | None = None) -> None:
        self.shared, self._send, self._show_mesh = shared, send, show_mesh
        self._condition = threading.Condition()
        self._request: ViewRequest | None = None
        self._closed = False
        self._pixel_seconds = 4e-6  # of this scene on this machine, learned as we go
        self._truths: References | None = None
        self._thread = threading.Thread(target=self._run, name="hyperfields-viewer-session", daemon=True)
        self._thread.start()

    def request(self, request: ViewRequest) -> None:
        """Answer this one next; an older one that has not been answered never will be."""
        with self._condition:
            self._request = request
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
        while True:
            with self._condition:
                while self._request is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                request, self._request = self._request, None
            assert request is not None
            try:
                self._answer(request)
            except Superseded:
                continue
            except (InputError, ValueError) as error:
                self._tell({"type": "error", "id": request.number, "text": str(error)})
            except Exception as error:  # one bad picture must not end the session
                traceback.print_exc()
                self._tell({"type": "error", "id": request.number, "text": f"this picture failed: {error}"})

    def _answer(self, request: ViewRequest) -> None:
        began = time.monotonic()
        request, photograph = self._from_photograph(request)
        with self.shared.lock.turn(urgent=True):
            bound = self.shared.bind(request.latent)
            size = moving_size(request.size, self._pixel_seconds)
            started = time.monotonic()
            if self.shared.run.kind == "views":
                bound.occupancy(COARSE)
                started = time.monotonic()
            picture = frame(bound, request.view, size, request.channel, cells=COARSE, background=request.background)
            spent = (time.monotonic() - started) / (size[0] * size[1])
            self._pixel_seconds = 0.7 * self._pixel_seconds + 0.3 * spent
        self._send_picture(request, picture, "moving", began)
        if request.moving:
            return

        def pause() -> None:
            if self._closed or self._request is not None:
                raise Superseded
            self.shared.lock.let_others(urgent=False)

        finest = 1 if request.mesh else SUPERSAMPLE[self.shared.run.kind]
        for samples in sorted({1, finest}):  # whole first, then smooth edges
            with self.shared.lock.turn(urgent=False):
                pause()
                picture = frame(
                    bound, request.view, request.size, request.channel,
                    samples=samples, cells=CELLS, background=request.background, pause=pause,
                )  # fmt: skip
            self._send_picture(request, picture, "still", began)
        if request.truth:
            self._send_truth(request, photograph, began)
        if request.mesh and self._show_mesh is not None and self.shared.run.kind != "images":
            pause()
            self._show_mesh(request, bound)

    def _from_photograph(self, request: ViewRequest) -> tuple[ViewRequest, View | None]:
        """A look from the camera of a photograph, with its shape."""
        if request.photograph is None or self.shared.run.kind != "views":
            return request, None
        scene = self.shared.scene_at(request.latent)
        if scene is None:
            return request, None
        views = self._truth(self.shared.run.names[scene])
        if not views:
            return request, None
        view = views[request.photograph % len(views)]
        height, width = view.camera.height, view.camera.width
        scale = max(request.size) / max(height, width)
        size = max(round(height * scale), 8), max(round(width * scale), 8)
        return dataclasses.replace(request, view=view.camera, size=size), view

    def _truth(self, name: str) -> Any:
        if self._truths is None:
            self._truths = References(self.shared.family())
        return self._truths.of(name)

    def _send_truth(self, request: ViewRequest, photograph: View | None, began: float) -> None:
        """The truth of the scene, from the same place; a word where there is none."""
        scene = self.shared.scene_at(request.latent)
        if scene is None:
            self._tell({"type": "no truth", "id": request.number, "text": "between scenes there is no truth"})
            return
        name = self.shared.run.names[scene]
        try:
            truth = self._truth(name)
            if isinstance(truth, list):
                if photograph is None:
                    text = f"choose one of {len(truth)} test views to compare with"
                    self._tell({"type": "no truth", "id": request.number, "text": text, "views": len(truth)})
                    return
                picture = view_picture(photograph, request.background)
            else:
                picture = reference_picture(truth, request.view, request.size, request.background)
        except InputError as error:
            self._tell({"type": "no truth", "id": request.number, "text": str(error)})
            return
        count = len(truth) if isinstance(truth, list) else 0
        self._send_picture(request, picture, "truth", began, {"views": count})

    def _send_picture(
        self, request: ViewRequest, picture: torch.Tensor, level: str, began: float, more: dict[str, Any] | None = None
    ) -> None:
        data = jpeg(picture, MOVING_QUALITY if level == "moving" else STILL_QUALITY)
        header = {
            "type": "picture",
            "id": request.number,
            "level": level,
            "size": list(picture.shape[:2]),
            "ms": round(1e3 * (time.monotonic() - began), 1),
            "latent": describe(self.shared, request.latent),
            **(more or {}),
        }
        self._send(pack(header, data))

    def _tell(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message))


def moving_size(full: tuple[int, int], pixel_seconds: float, budget: float = BUDGET) -> tuple[int, int]:
    """The (height, width) of a picture that takes `budget` seconds, of the same shape, no larger than `full`."""
    longest = max(full)
    pixels = budget / max(pixel_seconds, 1e-9)
    side = math.sqrt(pixels * longest / min(full))
    side = min(max(side, SMALLEST), LARGEST, longest)
    side = (
        side if side == longest else 16.0 * max(math.floor(side / 16.0), 1)
    )  # a picture that keeps its size looks calm
    return max(round(full[0] * side / longest), 1), max(round(full[1] * side / longest), 1)


def describe(shared: SharedState, latent: torch.Tensor) -> dict[str, Any]:
    """What a page shows of a latent."""
    scene = shared.scene_at(latent)
    names = shared.run.names
    return {
        "scene": None if scene is None else names[scene],
        "key": shared.map.to_text(latent),
        "place": [round(float(v), 4) for v in shared.map.place(latent)],
        "coordinates": [round(float(v), 3) for v in latent[:AXES]],
        "nearest": [[names[i], round(d, 3)] for i, d in shared.map.nearest(latent, NEAREST)],
    }


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """A message of JSON and bytes: the length of the JSON (32 bit, little-endian), the JSON, the bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + data
