"""State that all clients of one viewer share: the run, its map, bound scenes, thumbnails, references."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.codes.latent_map import latent_map
from hyperfields.codes.paths import MODES
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.image import Window
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.morphs import Morph
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene
from hyperfields.viewer.lock import FairLock
from hyperfields.viewer.reference import References

if TYPE_CHECKING:
    from hyperfields.runs.inferred import InferredCodes

THUMB = 48  # pixels a side
SHEET = 64  # thumbnails on a sheet, 8 in a row
MOST_THUMBS = 1024  # of a larger run the others are dots
COARSE = 32  # cells along a side of the grid that skips empty space, while something moves
FINE = 64  # and when all is still
MOVED = "moved"  # the way of a walk that is read off the fields of its stops; the others are paths of codes
_CACHE_BYTES = 256e6
_KEPT_MORPHS, _KEPT_MOVED = 16, 8  # ways between two scenes, and fields on them
_HINTS = 1000  # scenes among which a name like a wrong one is looked for: it takes a while


class Way(NamedTuple):
    """A place between two latents, where what both have moves from one to the other."""

    first: str  # keys on the map
    second: str
    t: float


class Place(NamedTuple):
    """What is looked at."""

    latent: Tensor  # [k] coordinates on the map; on a way, those of the mixed codes
    way: Way | None = None


class SharedState:
    """A run, ready to be viewed by several at once. Everything in it is safe to call from any thread.

    Whatever computes holds `lock`, and gives way between blocks of a few tenths of a second.
    """

    def __init__(
        self,
        run: Run,
        open_dataset: Callable[[], SceneDataset] | None = None,
        inferred: InferredCodes | None = None,
    ) -> None:
        """
        Args:
            inferred: scenes to show instead of the fitted ones. Residuals belong to these scenes alone: between them
                there are none.
        """
        self.run = run
        self.task = run.task
        self.names = run.names if inferred is None else inferred.names
        self.codes = (run.model.latents.codes if inferred is None else inferred.codes).detach()
        self.map = latent_map(self.codes)
        self._frame = (run if inferred is None else inferred).frame_of()
        self.lock = FairLock()
        self.closing = threading.Event()
        self._inferred = inferred
        self._open_dataset = open_dataset
        self._references: References | InputError | None = None
        self._numbers = {name: number for number, name in enumerate(self.names)}
        self._scenes: OrderedDict[str, Scene] = OrderedDict()
        self._sheets: dict[int, bytes] = {}
        self._mutex, self._dataset_mutex, self._sheet_mutex = threading.Lock(), threading.Lock(), threading.Lock()
        self._entering, self._finding = threading.Lock(), threading.Lock()
        self._morph = functools.lru_cache(maxsize=_KEPT_MORPHS)(self._found)
        self._moved = functools.lru_cache(maxsize=_KEPT_MOVED)(self._between)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """For a thread that is going to compute: torch takes one thread in it, so that a hundred pages do not have a
        hundred pools of threads. One enters at a time, since threads that begin meanwhile would take over the number.
        """
        with contextlib.ExitStack() as stack:
            with self._entering:
                stack.enter_context(one_torch_thread())
            yield

    def warm_up(self) -> None:
        """Render one small picture: loads the kernels, so that the first page need not wait for them. And what jobs
        import, a second or two in which no other thread gets anywhere.
        """
        with contextlib.suppress(ImportError):  # not installed: said when it is asked for
            importlib.import_module("av")
        if self.task.has_mesh:
            with contextlib.suppress(ImportError):
                importlib.import_module("skimage.measure._marching_cubes_lewiner")
                importlib.import_module("trimesh.exchange.gltf")
        size = (32, 32)
        with self.computing(), self.lock.held():
            field = self.scene(self.map.coordinates[0]).field
            self.task.picture(field, self.first_view(size), size, supersample=1, cells=COARSE)

    def first_view(self, size: tuple[int, int]) -> Camera | Window:
        """The view of a scene that a page opens with."""
        return orbit_cameras(self.run, 1, size)[0] if self.task.has_camera else Window()

    def number_at(self, coordinates: Tensor) -> int | None:
        """The number of the scene that coordinates stand for, to the digits of their text; None between scenes."""
        nearest = self.map.nearest(coordinates, 1)[0][0]
        offset = (self.map.coordinates[nearest] - coordinates).abs()
        return nearest if bool((offset < 1e-3).all()) else None

    def index(self, name: str) -> int:
        """Number of a scene.

        Raises:
            InputError: an unknown name.
        """
        if name in self._numbers:
            return self._numbers[name]
        if len(self.names) > _HINTS:
            raise InputError(f"scene {name[:60]!r}: not among the {len(self.names):,} scenes that are shown")
        return self.run.index(name) if self._inferred is None else self._inferred.index(name)

    def code(self, coordinates: Tensor) -> Tensor:
        """Coordinates `[k]` -> code `[1 z]`: of a scene, its own to the last digit."""
        number = self.number_at(coordinates)
        return self.map.code(coordinates) if number is None else self.codes[number : number + 1]

    def scene(self, coordinates: Tensor) -> Scene:
        """The scene at coordinates: the hypernetwork runs once for each, and the last ones are kept."""
        key = self.map.to_text(coordinates)
        with self._mutex:
            if key in self._scenes:
                self._scenes.move_to_end(key)
                return self._scenes[key]
        number = self.number_at(coordinates)
        scene = self.blend(self.map.code(coordinates)) if number is None else self._numbered(number)
        with self._mutex:
            self._scenes[key] = scene
            capacity = max(4, int(_CACHE_BYTES / _bytes_of(scene.field)))
            while len(self._scenes) > min(capacity, 64):
                self._scenes.popitem(last=False)
        return scene

    @property
    def modes(self) -> tuple[str, ...]:
        """Ways of a walk, the one first that is meant when none is said."""
        return (MOVED, *MODES) if getattr(self.task, "morph", None) is not None else tuple(MODES)

    def moved(self, way: Way) -> Scene:
        """The scene on a way. Waits, but for the lock, until it is known what moves where: about a second at first."""
        with self._finding:  # once, for all who wait
            self._morph(way.first, way.second)
        return self._moved(way)

    def _between(self, way: Way) -> Scene:
        return self._morph(way.first, way.second).at(way.t)

    def _found(self, first: str, second: str) -> Morph:
        return Morph(*(self.scene(self.map.from_text(text)) for text in (first, second)))

    def blend(self, code: Tensor) -> Scene:
        """The scene of a code `[1 z]`."""
        return Scene(self.run, "blend", code, fitted=False, frame=self._frame)

    def _numbered(self, number: int) -> Scene:
        name = self.names[number]
        return (self.run if self._inferred is None else self._inferred)[name]

    def finished_sheet(self, number: int) -> bytes | None:
        """JPEG of a sheet of thumbnails that has been computed already."""
        with self._mutex:
            return self._sheets.get(number)

    def sheet(self, number: int) -> bytes | None:
        """JPEG of the thumbnails of 64 scenes, 8 in a row; None when there is no such sheet.

        Computed once: whoever asks meanwhile waits.
        """
        scenes = range(number * SHEET, min((number + 1) * SHEET, len(self.names), MOST_THUMBS))
        if not scenes:
            return None
        with self.computing(), self._sheet_mutex:
            if (finished := self.finished_sheet(number)) is not None:
                return finished
            size = (THUMB, THUMB)
            view = self.first_view(size)
            sheet = torch.ones(SHEET // 8 * THUMB, 8 * THUMB, 3)
            for place, scene in enumerate(scenes):
                if self.closing.is_set():
                    return None
                row, column = (THUMB * index for index in divmod(place, 8))
                with self.lock.held():
                    picture = self.task.picture(self._numbered(scene).field, view, size, cells=COARSE)
                sheet[row : row + THUMB, column : column + THUMB] = picture
            data = jpeg(sheet, 88)
            with self._mutex:
                self._sheets[number] = data
            return data

    def dataset(self) -> SceneDataset:
        """The data of the scenes, read when they are first asked for.

        Raises:
            InputError: they are not there any more.
        """
        return self._data().dataset

    def reference(self, name: str) -> Any:
        """What the data have of a scene; see `References.of`.

        Raises:
            InputError: nothing, or it cannot be read any more.
        """
        references = self._data()
        with self._dataset_mutex:
            return references.of(name)

    def _data(self) -> References:
        with self._dataset_mutex:
            if self._references is None:
                try:
                    if self._open_dataset is None:
                        raise InputError(f"{self.run.label}: does not say which family was fitted; give --family DIR")
                    self._references = References(self._open_dataset())
                except InputError as error:
                    self._references = error
                except OSError as error:
                    self._references = InputError(f"the data of {self.run.label} cannot be read: {error}")
            if isinstance(self._references, InputError):
                raise self._references
            return self._references

    def aspect(self) -> float:
        """Width over height of the pictures."""
        height, width = native_size(self.run)
        return width / height


class FieldInTurns(BoundField):
    """The same field, which holds the lock for each block of points: for work that cannot pause by itself."""

    def __init__(self, bound: BoundField, lock: FairLock, check: Callable[[], None]) -> None:
        """
        Args:
            check: called before each block; what it raises ends the work.
        """
        super().__init__(bound.field, bound.weights, bound.scenes)
        self._lock, self._check = lock, check

    def __call__(self, *args: Any) -> Any:
        return self._in_turn(super().__call__, *args)

    def density(self, *args: Any) -> Any:
        return self._in_turn(super().density, *args)

    def cell_density(self, *args: Any) -> Any:
        return self._in_turn(super().cell_density, *args)

    def visible_samples(self, *args: Any) -> Any:
        return self._in_turn(super().visible_samples, *args)

    def _in_turn(self, compute: Callable[..., Any], *args: Any) -> Any:
        self._check()
        with self._lock.held():
            return compute(*args)


def jpeg(image: Tensor, quality: int = 90) -> bytes:
    """JPEG of `[h w 3]` in [0, 1]; from quality 90 on, colours at full resolution."""
    values = (image.clamp(0.0, 1.0) * 255.0).round().byte().contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()


def _bytes_of(bound: BoundField) -> int:
    """Memory of a bound scene with the grids that it may keep to skip empty space."""
    return COARSE**3 + FINE**3 + sum(weight.numel() * weight.element_size() for weight in bound.weights.values())
