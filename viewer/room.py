"""What all clients of one viewer share: the run, its map, bound scenes, thumbnails, truth."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.evaluation.report import evaluate
from hyperfields.fields import BoundField, RadianceField
from hyperfields.rendering.pictures import CELLS
from hyperfields.runs.checkpoint import Run
from hyperfields.runs.render import bind, native_size, orbit_cameras
from hyperfields.viewer.encode import jpeg
from hyperfields.viewer.frame import Window, frame
from hyperfields.viewer.latent_map import latent_map
from hyperfields.viewer.turns import Turns

THUMB = 48  # pixels a side
SHEET = 64  # thumbnails on a sheet, 8 in a row
MOST_THUMBS = 1024  # of a larger run the others are dots
COARSE = 32  # cells along a side of the grid that skips empty space, while something moves
_CACHE_BYTES = 256e6


class Room:
    """A run, ready to be looked at by several at once. Everything in it is safe to call from any thread."""

    def __init__(self, run: Run, open_family: Callable[[], SceneDataset] | None = None) -> None:
        self.run = run
        self.codes = run.model.latents.codes.detach()
        self.map = latent_map(self.codes)
        self.turns = Turns()
        self._open_family = open_family
        self._family: SceneDataset | InputError | None = None
        self._report: dict[str, Any] | None = None
        self._bound: OrderedDict[str, BoundField] = OrderedDict()
        self._sheets: dict[int, bytes] = {}
        self._mutex, self._family_mutex = threading.Lock(), threading.Lock()

    def warm(self) -> None:
        """One small picture: loads the kernels, so that the first page need not wait for them."""
        size = (32, 32)
        frame(self.bind(self.map.coordinates[0]), self.front(size), size, cells=COARSE)

    def front(self, size: tuple[int, int]) -> Camera | Window:
        """The first look at a scene."""
        return Window() if self.run.kind == "images" else orbit_cameras(self.run, 1, size)[0]

    def scene_at(self, coordinates: Tensor) -> int | None:
        """The scene that coordinates stand for, to the digits of their text; None between scenes."""
        found = self.map.nearest(coordinates, 1)[0][0]
        away = (self.map.coordinates[found] - coordinates).abs()
        return found if bool((away < 1e-3).all()) else None

    def code(self, coordinates: Tensor) -> Tensor:
        """Coordinates `[k]` -> code `[1 z]`: of a scene, the one that was fitted, to the last digit."""
        scene = self.scene_at(coordinates)
        return self.map.code(coordinates) if scene is None else self.codes[scene : scene + 1]

    def bind(self, coordinates: Tensor) -> BoundField:
        """The field at coordinates: the hypernetwork runs once for each, and the last ones are kept."""
        key = self.map.to_text(coordinates)
        with self._mutex:
            if key in self._bound:
                self._bound.move_to_end(key)
                return self._bound[key]
        bound = bind(self.run, self.code(coordinates))
        with self._mutex:
            self._bound[key] = bound
            room = max(4, int(_CACHE_BYTES / max(_bytes_of(bound), 1)))
            while len(self._bound) > min(room, 64):
                self._bound.popitem(last=False)
        return bound

    def sheet(self, number: int) -> bytes | None:
        """JPEG of the thumbnails of 64 scenes, 8 in a row; None when there is no such sheet."""
        first = number * SHEET
        if number < 0 or first >= min(len(self.run.names), MOST_THUMBS):
            return None
        with self._mutex:
            if number in self._sheets:
                return self._sheets[number]
        size = (THUMB, THUMB)
        view = self.front(size)
        sheet = torch.ones(SHEET // 8 * THUMB, 8 * THUMB, 3)
        for place, scene in enumerate(range(first, min(first + SHEET, len(self.run.names)))):
            with self.turns.turn(urgent=False):
                bound = bind(self.run, self.codes[scene : scene + 1])
                row, column = divmod(place, 8)
                sheet[row * THUMB : (row + 1) * THUMB, column * THUMB : (column + 1) * THUMB] = frame(
                    bound, view, size, cells=COARSE, samples=2 if self.run.kind == "shapes" else 1
                )
        data = jpeg(sheet, 88)
        with self._mutex:
            self._sheets[number] = data
        return data

    def family(self) -> SceneDataset:
        """The data that were fitted, read when they are first asked for.

        Raises:
            InputError: they are not there any more.
        """
        with self._family_mutex:
            if self._family is None:
                try:
                    if self._open_family is None:
                        raise InputError(f"{self.run.path}: does not say which family was fitted; give --family DIR")
                    self._family = self._open_family()
                except InputError as error:
                    self._family = error
            if isinstance(self._family, InputError):
                raise self._family
            return self._family

    def report(self, progress: Callable[[int, int, str], None]) -> dict[str, Any]:
        """What `hyperfields eval` measures, of all scenes; measured once."""
        family = self.family()
        if self._report is None:
            self._report = evaluate(self.run, family, report=progress)
        return self._report

    @property
    def measured(self) -> bool:
        return self._report is not None

    def aspect(self) -> float:
        """Width over height of the pictures."""
        height, width = native_size(self.run)
        return width / height


def _bytes_of(bound: BoundField) -> int:
    """Of a bound scene with what it keeps to skip empty space."""
    occupancy = COARSE**3 + CELLS**3 if isinstance(bound.field, RadianceField) else 0
    return occupancy + sum(weight.numel() * weight.element_size() for weight in bound.weights.values())
