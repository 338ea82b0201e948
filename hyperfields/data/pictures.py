"""Training pictures: decoded, in memory up to a bound, beyond it in a file, and drawn from in batches."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.ops.gather import drawn_pixels

MEMORY = 2 * 2**30  # bytes of decoded pictures that are kept in memory
RUN = 32  # pixels of one picture that a batch draws together from a file: one page of it is read for so many
SPARE = "/var/tmp"  # for large files, where the system's folder for small ones may lie in memory


class Drawn(NamedTuple):
    """Pixels of a batch."""

    rgba: Tensor  # [m 4] uint8
    image: Tensor  # [m] int64, number of the picture
    pixel: Tensor  # [m] int32, its place in the picture, row by row


class Pictures:
    """Pictures `[h w 4]` uint8, each of its own size, in order.

    Up to `memory` bytes they stay in memory. Beyond, all go to a file without a name, which is gone with this object:
    each with its pixels in a random order, which is always the same, those that count first. A batch reads short runs
    of them, so it reads few pages, and what it draws depends on its random numbers only, never on what was read before.
    The file is not mapped: what of it is in memory is the system's cache, which gives way to everything else.

    Args:
        pixels: how many will come, where that is known: they are then written where batches are drawn from.

    Raises:
        InputError: the disk is full.
    """

    def __init__(self, memory: int = MEMORY, pixels: int = 0) -> None:
        self.memory = memory
        self.nbytes = 0  # of all pictures
        self.sizes: list[tuple[int, int]] = []  # (height, width)
        self.counting: list[int] = []  # pixels that count
        self.opaque: list[bool] = []  # alpha is 255 all over
        self._shown: list[int] = []  # pixels that count and are not transparent
        self._held: list[NDArray[np.uint8]] = []
        self._row = np.empty(pixels if 4 * pixels <= memory else 0, np.int32)  # of all pictures, one after another
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._file: _File | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def on_disk(self) -> bool:
        return self._file is not None

    def add(self, rgba: NDArray[np.uint8], counting: NDArray[np.bool_] | None = None) -> int:
        """The number of a new picture. Where `counting` `[h w]` is false, batches draw nothing."""
        assert rgba.dtype == np.uint8
        assert rgba.ndim == 3
        assert rgba.shape[2] == 4
        number = len(self.sizes)
        if counting is not None and counting.all():
            counting = None
        place = self.nbytes // 4
        self.nbytes += 4 * rgba.shape[0] * rgba.shape[1]
        self.sizes.append((rgba.shape[0], rgba.shape[1]))
        self.counting.append(rgba.shape[0] * rgba.shape[1] if counting is None else int(counting.sum()))
        opaque, shown = self._alpha(rgba, counting, self.counting[-1])
        self.opaque.append(opaque)
        self._shown.append(shown)
        if self._file is None and self.nbytes > self.memory:
            self._file = _File()
            for held, picture in enumerate(self._held):
                self._file.add(picture, self._masks.get(held))
            self._held.clear()
            self._masks.clear()
            self._row = np.empty(0, np.int32)
        if self._file is not None:
            self._file.add(rgba, counting)
        else:
            self._held.append(self._kept(rgba, place))
            if counting is not None:
                self._masks[number] = counting
        return number

    @staticmethod
    def _alpha(rgba: NDArray[np.uint8], counting: NDArray[np.bool_] | None, count: int) -> tuple[bool, int]:
        """Whether a picture is opaque, and how many of its `count` pixels that count are not transparent."""
        if rgba[..., 3].min() == 255:
            return True, count
        shown = rgba[..., 3] > 127
        return False, int(np.count_nonzero(shown if counting is None else shown & counting))

    def _kept(self, rgba: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
        """A picture at its place in the row, or by itself where there is no room."""
        area = rgba.shape[0] * rgba.shape[1]
        if place + area > len(self._row):
            return np.ascontiguousarray(rgba)
        kept = self._row[place : place + area].view(np.uint8).reshape(rgba.shape)
        kept[...] = rgba
        return kept

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """A picture `[h w 4]`; not to be written to."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._held[number] if self._file is None else self._file.picture(number, self.sizes[number])

    def replace(self, number: int, rgba: NDArray[np.uint8]) -> None:
        """Another picture of the same size at a place; the same pixels count."""
        assert rgba.shape == (*self.sizes[number], 4)
        self.opaque[number], self._shown[number] = self._alpha(rgba, self.valid(number), self.counting[number])
        if self._file is not None:
            self._file.replace(number, rgba)
        elif self._held[number].base is self._row:
            self._held[number][...] = rgba
        else:
            self._held[number] = np.ascontiguousarray(rgba)

    def valid(self, number: int) -> NDArray[np.bool_] | None:
        """Where the pixels of a picture count, `[h w]`; None: everywhere."""
        height, width = self.sizes[number]
        if self.counting[number] == height * width:
            return None
        if self._file is None:
            return self._masks[number]
        return self._file.valid(number, self.sizes[number], self.counting[number])

    def visible(self, number: int, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places in a picture of its pixels that count and are not transparent: of those `chosen`, counted in order."""
        valid = self.valid(number)
        if self.opaque[number]:
            return chosen if valid is None else np.flatnonzero(valid)[chosen]
        shown = self[number][..., 3] > 127
        return np.flatnonzero(shown if valid is None else shown & valid)[chosen]

    def visible_count(self, number: int) -> int:
        """How many pixels of a picture count and are not transparent."""
        return self._shown[number]

    def drawing(self, scenes: Sequence[int]) -> InMemory | OnDisk:
        """What batches are drawn from; `scenes` are the numbers of pictures of each scene, which lie in order.

        Pictures in memory move there: this object is empty then.
        """
        if self._file is not None:
            return OnDisk(self._file, self.sizes, self.counting, scenes)
        held, row, total = self._held, self._row, self.nbytes // 4
        if total != len(row):  # not all of them are where they were meant to be
            row, place = np.empty(total, np.int32), 0
            for number, (height, width) in enumerate(self.sizes):
                picture, held[number] = held[number], np.empty(0, np.uint8)  # freed as they are copied
                row[place : place + height * width] = _packed(picture)
                place += height * width
        made = InMemory(row, self.sizes, self._masks, scenes)
        self.nbytes, self.sizes, self.counting, self.opaque, self._shown = 0, [], [], [], []
        self._held, self._masks, self._row = [], {}, np.empty(0, np.int32)
        return made


class InMemory:
    """All pixels in one row, on any device."""

    def __init__(
        self,
        pixels: NDArray[np.int32],
        sizes: Sequence[tuple[int, int]],
        masks: dict[int, NDArray[np.bool_]],
        scenes: Sequence[int],
    ) -> None:
        """pixels: `[p]` of all pictures, an int32 (four bytes) each: a batch is then one gather of single numbers."""
        areas = torch.tensor([height * width for height, width in sizes])
        starts = torch.cumsum(areas, 0) - areas
        valid = []
        for number, start in enumerate(starts.tolist() if masks else ()):
            here = masks.get(number)
            valid.append(
                torch.arange(start, start + int(areas[number]))
                if here is None
                else start + torch.from_numpy(here).reshape(-1).nonzero().squeeze(1)
            )
        counts = areas if not valid else torch.tensor([len(part) for part in valid])
        per_scene = torch.stack([part.sum() for part in counts.split(list(scenes))])
        self._pixels = torch.from_numpy(pixels)
        self._valid = torch.cat(valid) if valid else None  # [p] int64, pixels that count
        self._counts = per_scene  # [s] of pixels that count
        self._first = torch.cumsum(per_scene, 0) - per_scene  # [s] first of each scene
        self._area = int(areas[0]) if len(set(areas.tolist())) == 1 else None  # of every picture, if it is the same
        self._starts = starts

    def draw(self, scenes: Tensor, n: int, generator: torch.Generator) -> Drawn:
        """`n` pixels of each scene `[s]`, uniform over those that count, with replacement."""
        # float64: float32 has too few steps to reach every pixel of a large scene.
        drawn = torch.rand(len(scenes), n, generator=generator, dtype=torch.float64, device=generator.device)
        packed, image, pixel = drawn_pixels(
            drawn, self._counts, self._first, scenes, self._valid, self._pixels, self._starts, self._area
        )
        return Drawn(packed.view(torch.uint8).reshape(-1, 4), image, pixel)

    def picture(self, number: int, size: tuple[int, int]) -> Tensor:
        """A picture `[h w 4]` uint8, on the CPU."""
        start = int(self._starts[number])
        return self._pixels[start : start + size[0] * size[1]].cpu().view(torch.uint8).reshape(*size, 4)

    def counting(self, number: int, size: tuple[int, int]) -> Tensor | None:
        """Places in a picture of the pixels that count, row by row, int64; None: all."""
        if self._valid is None:
            return None
        start = int(self._starts[number])
        first, last = torch.searchsorted(self._valid, torch.tensor([start, start + size[0] * size[1]]))
        return self._valid[first:last] - start

    def to(self, device: torch.device | str) -> InMemory:
        """The same on a device."""
        moved = copy.copy(self)
        for name in ("_pixels", "_valid", "_counts", "_first", "_starts"):
            part = getattr(self, name)
            setattr(moved, name, None if part is None else part.to(device))
        return moved


class OnDisk:
    """Pixels in a file, on the CPU."""

    def __init__(
        self, file: _File, sizes: Sequence[tuple[int, int]], counting: Sequence[int], scenes: Sequence[int]
    ) -> None:
        self._file, self._sizes = file, tuple(sizes)
        self._lengths = torch.tensor(counting)  # [images]
        self._ends = torch.cumsum(self._lengths, 0)
        per_scene = torch.stack([part.sum() for part in self._lengths.split(list(scenes))])
        self._counts = per_scene
        self._first = torch.cumsum(per_scene, 0) - per_scene
        self._starts, self._orders = (torch.tensor(places) for places in file.places)

    def draw(self, scenes: Tensor, n: int, generator: torch.Generator) -> Drawn:
        """`n` pixels of each scene `[s]`, each as likely as any other that counts, in runs of `RUN` of a picture."""
        runs = -(-n // RUN)
        drawn = torch.rand(len(scenes), runs, generator=generator, dtype=torch.float64)
        place = (drawn * self._counts[scenes][:, None]).long() + self._first[scenes][:, None]
        image = torch.searchsorted(self._ends, place, right=True)
        length = self._lengths[image]
        start = place - (self._ends[image] - length)
        places = torch.stack((self._starts[image], self._orders[image]), -1).reshape(-1, 2).tolist()
        each = zip(places, start.reshape(-1).tolist(), length.reshape(-1).tolist(), strict=True)
        rows = self._file.runs([(place, first, most) for both, first, most in each for place in both])
        packed, pixel = rows.reshape(len(scenes), runs, 2, RUN).unbind(2)
        images = image.repeat_interleave(RUN, dim=1)[:, :n].reshape(-1)
        packed, pixel = (part.reshape(len(scenes), -1)[:, :n].reshape(-1) for part in (packed, pixel))
        return Drawn(packed.contiguous().view(torch.uint8).reshape(-1, 4), images, pixel)

    def picture(self, number: int, size: tuple[int, int]) -> Tensor:
        """A picture `[h w 4]` uint8."""
        return torch.from_numpy(self._file.picture(number, size))

    def counting(self, number: int, size: tuple[int, int]) -> Tensor | None:
        """Places in a picture of the pixels that count, row by row, int64; None: all."""
        count = int(self._lengths[number])
        if count == size[0] * size[1]:
            return None
        return torch.from_numpy(np.flatnonzero(self._file.valid(number, size, count)))

    def to(self, device: torch.device | str) -> OnDisk:
        """The same: it stays where it is."""
        return self


class _File:
    """Numbers of 4 bytes in a file: pixels of pictures, and the orders in which they stand."""

    def __init__(self) -> None:
        folder = tempfile.gettempdir()
        if "TMPDIR" not in os.environ and os.access(SPARE, os.W_OK):
            folder = SPARE
        self._folder = Path(folder)
        self._bytes = 0
        self._pixels: list[int] = []  # where pictures start, in numbers of 4 bytes
        self._orders: list[int] = []  # and their orders
        self._shared: dict[int, int] = {}  # area -> where the order of pictures without a mask starts
        self._last = (0, np.empty(0, np.int32))  # area and order: pictures of one size follow one another
        try:
            # Unbuffered; it has no name, so nothing is left of it whatever happens.
            self._file: Any = tempfile.TemporaryFile(dir=folder, prefix="hyperfields-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._refusal(error) from error
        weakref.finalize(self, self._file.close)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead

    @property
    def places(self) -> tuple[list[int], list[int]]:
        return self._pixels, self._orders

    def add(self, rgba: NDArray[np.uint8], counting: NDArray[np.bool_] | None) -> None:
        area = rgba.shape[0] * rgba.shape[1]
        if counting is None:
            if area not in self._shared:
                self._shared[area] = self._append(self._order(area))
            order, place = self._order(area), self._shared[area]
        else:
            order = self._order(area)
            counts = counting.reshape(-1)[order]
            order = np.concatenate((order[counts], order[~counts]))
            place = self._append(order)
        self._orders.append(place)
        self._pixels.append(self._append(_packed(rgba)[order]))

    def picture(self, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        area = size[0] * size[1]
        stored, order = (self._whole(places[number], area) for places in self.places)
        flat = np.empty(area, np.int32)
        flat[order] = stored
        return flat.view(np.uint8).reshape(*size, 4)

    def valid(self, number: int, size: tuple[int, int], count: int) -> NDArray[np.bool_]:
        flat = np.zeros(size[0] * size[1], dtype=bool)
        flat[self._whole(self._orders[number], count)] = True
        return flat.reshape(size)

    def replace(self, number: int, rgba: NDArray[np.uint8]) -> None:
        order = self._whole(self._orders[number], rgba.shape[0] * rgba.shape[1])
        self._write(self._pixels[number], _packed(rgba)[order])

    def _order(self, area: int) -> NDArray[np.int32]:
        """The random order of so many pixels, always the same."""
        if self._last[0] != area:
            self._last = area, np.random.default_rng(area).permutation(np.arange(area, dtype=np.int32))
        return self._last[1]

    def runs(self, places: Sequence[tuple[int, int, int]]) -> Tensor:
        """Numbers `[k RUN]` int32 from places (where a row starts, first in it, its length), going round in the row."""
        file, parts = self._file.fileno(), []
        for row, first, length in places:
            part = os.pread(file, 4 * min(RUN, length - first), 4 * (row + first))
            while len(part) < 4 * RUN:
                part += os.pread(file, min(4 * length, 4 * RUN - len(part)), 4 * row)
            parts.append(part)
        return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.int32).reshape(-1, RUN)

    def _whole(self, place: int, count: int) -> NDArray[np.int32]:
        numbers = np.empty(count, np.int32)
        data = numbers.view(np.uint8).data
        self._file.seek(4 * place)
        while len(data):
            data = data[self._file.readinto(data) :]
        return numbers

    def _append(self, numbers: NDArray[np.int32]) -> int:
        place = self._bytes // 4
        self._write(place, numbers)
        self._bytes += 4 * len(numbers)
        return place

    def _write(self, place: int, numbers: NDArray[np.int32]) -> None:
        data = np.ascontiguousarray(numbers).view(np.uint8).data
        try:
            self._file.seek(4 * place)
            while len(data):
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> InputError:
        return InputError(
            f"{self._folder}: cannot hold the decoded pictures ({error.strerror}, after {self._bytes / 1e9:.1f} GB); "
            "make room, name another folder in TMPDIR, or bring the pictures to a smaller --size"
        )


def _packed(rgba: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.ascontiguousarray(rgba).view(np.int32).reshape(-1)
