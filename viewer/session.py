"""One client: a thread of its own that answers its latest wish, and drops what nobody waits for any more."""

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
from hyperfields.tasks import task_of
from hyperfields.viewer.encode import jpeg
from hyperfields.viewer.frame import frame
from hyperfields.viewer.messages import AXES, Look
from hyperfields.viewer.room import COARSE, Room
from hyperfields.viewer.truth import Truths, truth_picture, view_picture

BUDGET = 0.055  # seconds that a picture may take while something moves
SMALLEST, LARGEST = 64, 320  # pixels on the longer side of such a picture
MOVING_QUALITY, STILL_QUALITY = 82, 93  # of JPEG
NEAREST = 6

Send = Callable[[str | bytes], None]
ShowMesh = Callable[[Look, Any], None]


class Superseded(Exception):
    """There is a newer wish: nobody waits for this picture."""


class Session:
    """Pictures for one page. `wish` may be called from any thread and never waits."""

    def __init__(self, room: Room, send: Send, show_mesh: ShowMesh | None = None) -> None:
        self.room, self._send, self._show_mesh = room, send, show_mesh
        self._condition = threading.Condition()
        self._wish: Look | None = None
        self._closed = False
        self._pixel_seconds = 4e-6  # of this scene on this machine, learned as we go
        self._truths: Truths | None = None
        self._thread = threading.Thread(target=self._run, name="hyperfields-viewer-session", daemon=True)
        self._thread.start()

    def wish(self, wish: Look) -> None:
        """Answer this one next; an older one that has not been answered never will be."""
        with self._condition:
            self._wish = wish
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
                while self._wish is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                wish, self._wish = self._wish, None
            assert wish is not None
            try:
                self._answer(wish)
            except Superseded:
                continue
            except (InputError, ValueError) as error:
                self._tell({"type": "error", "id": wish.number, "text": str(error)})
            except Exception as error:  # one bad picture must not end the session
                traceback.print_exc()
                self._tell({"type": "error", "id": wish.number, "text": f"this picture failed: {error}"})

    def _answer(self, wish: Look) -> None:
        began = time.monotonic()
        wish, photograph = self._from_photograph(wish)
        with self.room.turns.turn(urgent=True):
            bound = self.room.bind(wish.latent)
            size = moving_size(wish.size, self._pixel_seconds)
            started = time.monotonic()
            if self.room.run.kind == "views":
                bound.occupancy(COARSE)
                started = time.monotonic()
            picture = frame(bound, wish.view, size, wish.channel, cells=COARSE, background=wish.background)
            spent = (time.monotonic() - started) / (size[0] * size[1])
            self._pixel_seconds = 0.7 * self._pixel_seconds + 0.3 * spent
        self._send_picture(wish, picture, "moving", began)
        if wish.moving:
            return

        def pause() -> None:
            if self._closed or self._wish is not None:
                raise Superseded
            self.room.turns.let_others(urgent=False)

        finest = 1 if wish.mesh else task_of(self.room.run.kind).supersample
        for samples in sorted({1, finest}):  # whole first, then smooth edges
            with self.room.turns.turn(urgent=False):
                pause()
                picture = frame(
                    bound, wish.view, wish.size, wish.channel,
                    samples=samples, cells=CELLS, background=wish.background, pause=pause,
                )  # fmt: skip
            self._send_picture(wish, picture, "still", began)
        if wish.truth:
            self._send_truth(wish, photograph, began)
        if wish.mesh and self._show_mesh is not None and self.room.run.kind != "images":
            pause()
            self._show_mesh(wish, bound)

    def _from_photograph(self, wish: Look) -> tuple[Look, View | None]:
        """A look from the camera of a photograph, with its shape."""
        if wish.photograph is None or self.room.run.kind != "views":
            return wish, None
        scene = self.room.scene_at(wish.latent)
        if scene is None:
            return wish, None
        views = self._truth(self.room.run.names[scene])
        if not views:
            return wish, None
        view = views[wish.photograph % len(views)]
        height, width = view.camera.height, view.camera.width
        scale = max(wish.size) / max(height, width)
        size = max(round(height * scale), 8), max(round(width * scale), 8)
        return dataclasses.replace(wish, view=view.camera, size=size), view

    def _truth(self, name: str) -> Any:
        if self._truths is None:
            self._truths = Truths(self.room.family())
        return self._truths.of(name)

    def _send_truth(self, wish: Look, photograph: View | None, began: float) -> None:
        """The truth of the scene, from the same place; a word where there is none."""
        scene = self.room.scene_at(wish.latent)
        if scene is None:
            self._tell({"type": "no truth", "id": wish.number, "text": "between scenes there is no truth"})
            return
        name = self.room.run.names[scene]
        try:
            truth = self._truth(name)
            if isinstance(truth, list):
                if photograph is None:
                    text = f"choose one of {len(truth)} test views to compare with"
                    self._tell({"type": "no truth", "id": wish.number, "text": text, "views": len(truth)})
                    return
                picture = view_picture(photograph, wish.background)
            else:
                picture = truth_picture(truth, wish.view, wish.size, wish.background)
        except InputError as error:
            self._tell({"type": "no truth", "id": wish.number, "text": str(error)})
            return
        count = len(truth) if isinstance(truth, list) else 0
        self._send_picture(wish, picture, "truth", began, {"views": count})

    def _send_picture(
        self, wish: Look, picture: torch.Tensor, level: str, began: float, more: dict[str, Any] | None = None
    ) -> None:
        data = jpeg(picture, MOVING_QUALITY if level == "moving" else STILL_QUALITY)
        header = {
            "type": "picture",
            "id": wish.number,
            "level": level,
            "size": list(picture.shape[:2]),
            "ms": round(1e3 * (time.monotonic() - began), 1),
            "latent": describe(self.room, wish.latent),
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


def describe(room: Room, latent: torch.Tensor) -> dict[str, Any]:
    """What a page shows of a latent."""
    scene = room.scene_at(latent)
    names = room.run.names
    return {
        "scene": None if scene is None else names[scene],
        "key": room.map.to_text(latent),
        "place": [round(float(v), 4) for v in room.map.place(latent)],
        "coordinates": [round(float(v), 3) for v in latent[:AXES]],
        "nearest": [[names[i], round(d, 3)] for i, d in room.map.nearest(latent, NEAREST)],
    }


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """A message of JSON and bytes: the length of the JSON (32 bit, little-endian), the JSON, the bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + data
