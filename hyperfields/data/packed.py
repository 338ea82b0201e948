"""Packed families: `pack_scenes` writes images, shapes and views into a store, `open_pack` gives them back.

A packed family draws the batches of the family that it was packed from, to the bit. In memory are names and an index,
the cameras of views, and the records of the scenes that were drawn last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.cameras import Camera, Lens, Rays
from hyperfields.data.base import SPLITS, Kind, LazyViews, Mesh, Pixels, Points, View, over_own_color, shortened
from hyperfields.data.images import Images, drawn_pixels, pixel_centres
from hyperfields.data.pixel_rays import PixelRays
from hyperfields.data.shapes import Shapes, drawn_points
from hyperfields.data.store import AGAIN, INDEX, MEMORY, PACK, Cache, Store, Writer, dumped, text_tensor
from hyperfields.data.views import Frame, Views
from hyperfields.errors import InputError, NoViews
from hyperfields.ops.gather import image_and_pixel, unit


class Deeper(Exception):
    """Pictures of more than 8 bits came after some of 8: all have to be written as floats."""


class Packed:
    """What packed families share. `reading`: how the family was read when it was packed, by option."""

    def __init__(self, store: Store, memory: int) -> None:
        self.store, self.names = store, store.names
        self.kind: Kind = store.kind
        self.notes = tuple(store.facts["notes"])
        self.reading: dict[str, Any] = dict(store.facts["reading"])
        self._cache = Cache(store, memory=memory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shortened(self.names)}; {self.store.place})"

    def expect(self, scenes: Tensor) -> None:
        """Tell the scenes `[s]` of the next batch: they are read while this one is fitted."""
        self._cache.expect(scenes)


class PackedImages(Packed):
    """`Images` from a store."""

    def __init__(self, store: Store, memory: int = MEMORY) -> None:
        super().__init__(store, memory)
        self.height, self.width = store.facts["size"]
        self._dtype = {"uint8": torch.uint8, "float32": torch.float32}[store.facts["dtype"]]
        _require_records(store, self.height * self.width * 3 * self._dtype.itemsize)
        self._centres = pixel_centres(self.height, self.width)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """See `Images.batch`."""
        rows = self._cache.rows_of(scenes)
        drawn = drawn_pixels(self._cache.block.view(self._dtype).view(-1, 3), self._centres, rows, n, generator)
        self._cache.read_ahead()
        return drawn

    def reference(self, scene: int, split: str = "test") -> Tensor:
        """See `Images.reference`."""
        record = torch.frombuffer(bytearray(self.store.record("data", scene)), dtype=self._dtype)
        return unit(record.reshape(self.height, self.width, 3))


class PackedShapes(Packed):
    """`Shapes` from a store."""

    def __init__(self, store: Store, memory: int = MEMORY) -> None:
        super().__init__(store, memory)
        self._each = int(store.facts["points"])
        self.frames = [tuple(frame) for frame in _column(store, "frames", 4).tolist()]
        _require_records(store, self._each * 16)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """See `Shapes.batch`."""
        rows = self._cache.rows_of(scenes)
        drawn = drawn_points(self._cache.block.view(torch.float32).view(-1, 4), self._each, rows, n, generator)
        self._cache.read_ahead()
        return drawn

    def reference(self, scene: int, split: str = "test") -> Mesh:
        """See `Shapes.reference`."""
        tensors, beside = self.store.loaded("reference", scene)
        scale, center, up = beside
        return Mesh(tensors["vertices"], tensors["faces"].long(), scale, tuple(center), tuple(up))


class PackedViews(Packed):
    """`Views` from a store; it draws as those draw that are in memory."""

    on_disk = False

    def __init__(self, store: Store, memory: int = MEMORY) -> None:
        super().__init__(store, memory)
        facts, tensors = store.facts, store.tensors
        self.up: tuple[float, float, float] = tuple(facts["up"])
        self.background, self.unbounded = facts["background"], bool(facts["unbounded"])
        self.frames: tuple[Frame, ...] = tuple(tuple(frame) for frame in _column(store, "frames", 4).tolist())
        self._counts = _column(store, "counting")  # [s] pixels that count
        self._views = _column(store, "pictures")  # [s] pictures
        self._behind = _column(store, "behind", 3) if "behind" in tensors else None  # as that of `Views`, [s 3]
        self._poses, self._intrinsics = tensors["poses"], tensors["intrinsics"]  # [p 4 4], [p 4] float64
        self._sizes, self._lens_of = tensors["sizes"].long(), tensors["lens_of"].tolist()  # [p 2] height and width, [p]
        self._lenses = [None if lens is None else Lens(lens[0], tuple(lens[1])) for lens in facts["lenses"]]
        self._rays = PixelRays.of_tensors(
            {name.removeprefix("rays."): value for name, value in tensors.items() if name.startswith("rays.")}
        )
        self.pictures = int(self._views.sum())  # for training, over all scenes
        if len(self._sizes) != self.pictures:
            raise InputError(f"{store.files.name(INDEX)}: damaged: another number of pictures than of cameras; {AGAIN}")
        self._first_view = torch.cumsum(self._views, 0) - self._views
        areas = self._sizes.prod(1)
        self._starts = torch.cumsum(areas, 0) - areas  # [p] first pixel of each picture, counted over all
        self._first = torch.cat((self._starts, areas.sum()[None]))[self._first_view]  # [s] of each scene
        self._pixels = torch.zeros_like(self._first).index_add_(
            0, torch.arange(len(self.names)).repeat_interleave(self._views), areas
        )
        self._area = int(areas[0]) if bool((areas == areas[0]).all()) else None  # of every picture, if it is the same
        self._masked = _record_sizes(store) > 4 * self._pixels  # [s] its record also says which pixels count
        self.sizes = tuple(sorted({(int(h), int(w)) for h, w in self._sizes.unique(dim=0).tolist()}))

    @property
    def files(self) -> list[list[str]]:
        """Files of the training pictures of each scene."""
        named: list[list[str]] = json.loads(self.store.tensors["files"].numpy().tobytes())
        return named

    @property
    def cameras(self) -> list[list[Camera]]:
        """Cameras of the training pictures of each scene, in the scene frame."""
        return [self._cameras(scene) for scene in range(len(self.names))]

    def _cameras(self, scene: int) -> list[Camera]:
        first = int(self._first_view[scene])
        numbers = range(first, first + int(self._views[scene]))
        return [
            _camera(self._poses[i], self._intrinsics[i].tolist(), self._sizes[i].tolist(), self._lenses[lens])
            for i, lens in zip(numbers, self._lens_of[numbers.start : numbers.stop], strict=True)
        ]

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Pixels:
        """See `Views.batch`."""
        rows = self._cache.rows_of(scenes)
        flat = self._cache.block.view(torch.int32).view(-1)
        base = (rows * (self._cache.stride // 4))[:, None]
        # As `pictures.InMemory` draws, which has all pixels in one row.
        drawn = torch.rand(len(scenes), n, generator=generator, dtype=torch.float64)
        place = (drawn * self._counts[scenes][:, None]).long()
        if bool((masked := self._masked[scenes]).any()):
            listed = base + self._pixels[scenes][:, None] + place
            listed = torch.where(masked[:, None], listed, base)
            place = torch.where(masked[:, None], flat[listed].long(), place)
        packed = flat.index_select(0, (base + place).reshape(-1))
        index = (place + self._first[scenes][:, None]).reshape(-1)
        image, pixel = image_and_pixel(index, self._starts, self._area)
        self._cache.read_ahead()
        origins, directions = self._rays(image, pixel)
        shape = (len(scenes), n)
        rgba = packed.view(torch.uint8).reshape(*shape, 4).float() / 255.0
        rays = Rays(origins.reshape(*shape, 3), directions.reshape(*shape, 3))
        behind = None if self._behind is None else self._behind[scenes][:, None]
        return Pixels(rays, rgba, image.reshape(shape), behind)

    def reference(self, scene: int, split: str = "test") -> Sequence[View]:
        """See `Views.reference`; the pictures of a scene are read together."""
        tensors, beside = self.store.loaded("reference", scene)
        if split not in beside:
            raise NoViews(
                f"scene {self.names[scene]}: has no {split} views in {self.store.place}; splits: {', '.join(beside)}"
            )
        training = [] if f"rgba.{split}.0" in tensors else self._training(scene)

        def view(number: int) -> View:
            name, intrinsics, lens = beside[split][number]
            rgba = training[number] if training else tensors[f"rgba.{split}.{number}"]
            given = None if lens is None else Lens(lens[0], tuple(lens[1]))
            camera = _camera(tensors[f"poses.{split}"][number], intrinsics, rgba.shape[:2], given)
            return View(camera, unit(rgba), tensors.get(f"mask.{split}.{number}"), name)

        views = LazyViews(len(beside[split]), view)
        return over_own_color(views, None if self._behind is None else self._behind[scene])

    def _training(self, scene: int) -> list[Tensor]:
        """The training pictures `[h w 4]` uint8 of a scene."""
        flat = torch.frombuffer(bytearray(self.store.record("data", scene)), dtype=torch.uint8)
        first = int(self._first_view[scene])
        sizes = self._sizes[first : first + int(self._views[scene])]
        parts = flat[: 4 * int(sizes.prod(1).sum())].split((4 * sizes.prod(1)).tolist())
        return [part.reshape(h, w, 4) for part, (h, w) in zip(parts, sizes.tolist(), strict=True)]


READERS: dict[str, Callable[[Store, int], Any]] = {
    Images.kind: PackedImages,
    Shapes.kind: PackedShapes,
    Views.kind: PackedViews,
}


def open_pack(place: str, memory: int | None = None) -> PackedImages | PackedShapes | PackedViews:
    """A packed family, from a folder or a URL.

    Args:
        memory: bytes of training records that are kept.

    Raises:
        InputError: a file that is missing, damaged or of another version; the text names it.
    """
    store = Store(place)
    if store.kind not in READERS:
        raise InputError(f"{store.files.name(PACK)}: holds {store.kind!r:.60}, wanted {', '.join(READERS)}")
    try:
        opened: PackedImages | PackedShapes | PackedViews = READERS[store.kind](
            store, MEMORY if memory is None else memory
        )
        return opened
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{store.files.name(PACK)}: damaged: it does not fit the index; {AGAIN}") from error


# Writing ------------------------------------------------------------------------------------------


class Packer:
    """Writes a family, all at once or in parts one after another (views: at once).

    Args:
        deep: write pictures as floats.
    """

    def __init__(self, writer: Writer, deep: bool = False) -> None:
        self.writer, self.deep = writer, deep
        self.kind = ""
        self.facts: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.frames: list[tuple[float, ...]] = []  # of shapes
        self.notes: list[str] = []

    def add(self, data: Any, done: Callable[[str], None] = lambda name: None) -> None:
        """Write the scenes of `data`, see `Deeper`.

        Raises:
            InputError: data of another kind, that are packed already, or pictures of several sizes.
        """
        kinds: dict[type, Callable[[Any, Callable[[str], None]], None]] = {
            Images: self._images, Shapes: self._shapes, Views: self._views,
        }  # fmt: skip
        if type(data) not in kinds:
            raise InputError(f"{type(data).__name__}: cannot be packed; wanted a folder of images, shapes or views")
        self.kind = data.kind
        said = {note.split(":")[0] for note in self.notes}  # of each sort the first: each part of a family has its own
        self.notes += [note for note in getattr(data, "notes", ()) if note.split(":")[0] not in said]
        kinds[type(data)](data, done)

    def close(self, reading: dict[str, Any]) -> None:
        """Write the index; `reading`: the options by which the family was read."""
        if self.frames:
            self.tensors["frames"] = torch.tensor(self.frames, dtype=torch.float64)
        self.writer.close(self.kind, {**self.facts, "reading": reading, "notes": self.notes}, self.tensors)

    def _images(self, data: Images, done: Callable[[str], None]) -> None:
        pixels = data._pixels.reshape(len(data.names), -1).cpu()
        if self.deep:
            pixels = unit(pixels)
        facts = {"size": [data.height, data.width], "dtype": str(pixels.dtype).removeprefix("torch.")}
        if self.facts and self.facts["size"] != facts["size"]:
            first, here = ("x".join(map(str, size)) for size in (self.facts["size"], facts["size"]))
            raise InputError(
                f"{data.names[0]}: is {here} but others are {first} (height x width); pass --size HxW to bring all to "
                "one size"
            )
        if self.facts and self.facts != facts:
            raise Deeper
        self.facts = facts
        for name, row in zip(data.names, pixels.numpy(), strict=True):
            self.writer.add(name, data=row)
            done(name)

    def _shapes(self, data: Shapes, done: Callable[[str], None]) -> None:
        self.facts = {"points": data._points_each}
        pools = data._pool.reshape(len(data.names), -1).cpu().numpy()
        for number, name in enumerate(data.names):
            mesh = data.reference(number)
            tensors = {"vertices": mesh.vertices, "faces": mesh.faces.int()}
            reference = dumped(tensors, [mesh.scale, list(mesh.center), list(mesh.up)])
            self.writer.add(name, data=pools[number], reference=reference)
            self.frames.append((mesh.scale, *mesh.center))
            done(name)

    def _views(self, data: Views, done: Callable[[str], None]) -> None:
        if self.writer.names:
            raise InputError("views: are packed all at once")
        cameras = [camera for posed in data.cameras for camera in posed]
        lenses = list(dict.fromkeys(camera.lens for camera in cameras))
        numbers = {lens: number for number, lens in enumerate(lenses)}
        self.facts = {
            "up": list(data.up), "background": data.background, "unbounded": data.unbounded,
            "lenses": [_as_json(lens) for lens in lenses],
        }  # fmt: skip
        counting, first = [], 0
        for scene, (name, posed) in enumerate(zip(data.names, data.cameras, strict=True)):
            record, count = _training_record(data, range(first, first + len(posed)))
            counting.append(count)
            first += len(posed)
            self.writer.add(name, data=record, reference=_reference_record(data, scene, record))
            done(name)
        self.tensors = {
            "frames": torch.tensor(data.frames, dtype=torch.float64),
            "counting": torch.tensor(counting),
            "pictures": torch.tensor([len(posed) for posed in data.cameras]),
            "poses": torch.stack([camera.T_world_camera for camera in cameras]),
            "intrinsics": torch.tensor([(c.fx, c.fy, c.cx, c.cy) for c in cameras], dtype=torch.float64),
            "sizes": torch.tensor([(c.height, c.width) for c in cameras], dtype=torch.int32),
            "lens_of": torch.tensor([numbers[camera.lens] for camera in cameras], dtype=torch.int32),
            "files": text_tensor(json.dumps([list(files) for files in data.files])),
            **{f"rays.{name}": value for name, value in data._rays.tensors().items()},
            **({} if data._behind is None else {"behind": data._behind[:, 0]}),
        }


def _training_record(data: Views, numbers: range) -> tuple[np.ndarray[Any, Any], int]:
    """Pixels of a scene's training pictures, and behind them the places of those that count, where not all do."""
    parts, places, masked, start = [], [], False, 0
    for number in numbers:
        size = data._picture_sizes[number]
        parts.append(data._drawing.picture(number, size).contiguous().numpy().view(np.int32).reshape(-1))
        counting = data._drawing.counting(number, size)
        area = size[0] * size[1]
        masked |= counting is not None and len(counting) < area
        places.append(start + (np.arange(area) if counting is None else counting.numpy()))
        start += area
    listed = np.concatenate(places).astype(np.int32)
    return np.concatenate([*parts, *([listed] if masked else [])]), len(listed)


def _reference_record(data: Views, scene: int, record: np.ndarray[Any, Any]) -> bytes:
    """The views of all splits; pictures that are the training ones are not written twice."""
    tensors: dict[str, Tensor] = {}
    beside: dict[str, Any] = {}
    for split in SPLITS:
        try:
            views = list(data.reference(scene, split))
        except InputError:
            continue
        if not views:
            continue
        beside[split] = [[view.name, _intrinsics(view.camera), _as_json(view.camera.lens)] for view in views]
        tensors[f"poses.{split}"] = torch.stack([view.camera.T_world_camera for view in views])
        pictures = [_narrow(view.rgba) for view in views]
        same = split == "train" and _are_pixels(pictures, record)
        for number, (view, picture) in enumerate(zip(views, pictures, strict=True)):
            if not same:
                tensors[f"rgba.{split}.{number}"] = picture
            if view.mask is not None:
                tensors[f"mask.{split}.{number}"] = view.mask
    return dumped(tensors, beside)


def _are_pixels(pictures: Sequence[Tensor], record: np.ndarray[Any, Any]) -> bool:
    """True if pictures are what a training record begins with."""
    if any(picture.dtype != torch.uint8 for picture in pictures):
        return False
    flat = torch.cat([picture.reshape(-1) for picture in pictures]).numpy()
    return len(flat) <= 4 * len(record) and bool((flat == record.view(np.uint8)[: len(flat)]).all())


def _narrow(rgba: Tensor) -> Tensor:
    """A picture in 8 bits where these hold it exactly."""
    narrow = (rgba * 255.0).round().to(torch.uint8)
    return narrow if torch.equal(unit(narrow), rgba) else rgba


def _camera(pose: Tensor, intrinsics: Sequence[float], size: Sequence[int], lens: Lens | None) -> Camera:
    fx, fy, cx, cy = intrinsics
    return Camera(pose.clone(), fx, fy, cx, cy, size[1], size[0], lens)


def _intrinsics(camera: Camera) -> list[float]:
    return [camera.fx, camera.fy, camera.cx, camera.cy]


def _as_json(lens: Lens | None) -> Any:
    return None if lens is None else [lens.model, list(lens.coefficients)]


def _column(store: Store, name: str, width: int | None = None) -> Tensor:
    """A small tensor with a row a scene; ValueError for another shape."""
    value = store.tensors[name]
    if value.shape != ((len(store.names),) if width is None else (len(store.names), width)):
        raise ValueError(name)
    return value


def _record_sizes(store: Store) -> Tensor:
    return torch.from_numpy(store.parts["data"].size.copy())


def _require_records(store: Store, size: int) -> None:
    """ValueError unless all training records have `size` bytes."""
    if bool((store.parts["data"].size != size).any()):
        raise ValueError("records of another size")
