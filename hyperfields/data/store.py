"""A packed family on any file system: scenes as ranges of bytes in a few large files, with an index.

    pack.json           kind, number of scenes, sizes of all files of records, checksum of the index; written last
    index.safetensors   names, where each scene's records lie, their checksums, facts and small tensors of the kind
    data-00000.bin ...  training data, a record a scene, back to back
    reference-00000.bin ...  what results are measured against, likewise, where it is not the training data

A scene is one range of one file, so any store that reads ranges serves: a disk, HTTP, S3 (fsspec). Nothing is
compressed, so that a record is drawn from as it was read. `Cache` holds those that were read last in one block of
bounded memory, and a thread reads the next step's meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.errors import InputError

PACK, INDEX = "pack.json", "index.safetensors"
FORMAT = 1
SHARD = 2**28  # bytes of a file of records, about
MEMORY = 2**30  # bytes of training records that a reader keeps
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+(?:::[A-Za-z][A-Za-z0-9+.-]+)*):/{1,3}(?!/)")
AGAIN = "pack the family again, or copy it again whole"


def location(path: str | os.PathLike[str]) -> str:
    """A folder or a URL as text: paths absolute; a URL that was taken for a path has its slashes again."""
    text = os.fspath(path)
    if (found := URL.match(text)) is None or os.path.exists(text):
        return os.path.abspath(text)
    slashes = ":///" if found[1].split("::")[-1] in ("file", "local") else "://"
    return f"{found[1]}{slashes}{text[found.end() :]}"


def is_url(place: str) -> bool:
    """True for what `location` has found to be a URL."""
    return not os.path.isabs(place)


def checksum(data: Any) -> int:
    """Sum of a record's 64-bit words, modulo 2^63: as fast as memory, which a CRC is not."""
    whole = len(data) // 8 * 8
    words = np.frombuffer(data, "<u8", count=whole // 8) if whole else np.zeros(0, np.uint64)
    tail = int.from_bytes(bytes(data[whole:]), "little")
    return (int(words.sum(dtype=np.uint64)) + tail + len(data)) % 2**63


class Files:
    """Ranges of bytes of the files of a folder, on a disk or behind a URL.

    Raises:
        InputError: fsspec, or what it needs for this kind of URL, is missing; a file cannot be read, or is too short.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._open: dict[str, int] = {}  # descriptors of files on a disk
        self._fs: Any = None
        if is_url(place):
            try:
                from fsspec.core import url_to_fs

                self._fs, self._root = url_to_fs(place)
            except (ImportError, ValueError, OSError) as error:
                raise InputError(f"{place}: cannot be opened ({_line(error)}); wanted a folder or a URL") from error
        weakref.finalize(self, _close, self._open)

    def name(self, file: str) -> str:
        """A file as messages call it."""
        return f"{self.place.rstrip('/')}/{file}"

    def exists(self, file: str) -> bool:
        if self._fs is None:
            return os.path.isfile(os.path.join(self.place, file))
        try:
            return bool(self._fs.isfile(f"{self._root.rstrip('/')}/{file}"))
        except Exception as error:
            raise InputError(f"{self.name(file)}: cannot be read ({_line(error)})") from error

    def whole(self, file: str) -> bytes:
        """All of a file."""
        try:
            if self._fs is None:
                return Path(self.place, file).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root.rstrip('/')}/{file}"))
        except Exception as error:  # whatever a file system raises
            raise InputError(f"{self.name(file)}: cannot be read ({_line(error)}); {AGAIN}") from error

    def require_sizes(self, sizes: Mapping[str, int]) -> None:
        """InputError for a file on a disk that is missing or has another size; elsewhere they are read to find out."""
        for file, size in sizes.items() if self._fs is None else ():
            path = os.path.join(self.place, file)
            there = os.path.getsize(path) if os.path.isfile(path) else -1
            if there != size:
                came = "is missing" if there < 0 else f"has {there:,} bytes, not {size:,}"
                raise InputError(f"{path}: {came}; {AGAIN}")

    def read(self, ranges: Sequence[tuple[str, int, int]], into: Sequence[memoryview]) -> None:
        """Fill buffers with ranges (file, first byte, bytes)."""
        if self._fs is None:
            for (file, first, size), buffer in zip(ranges, into, strict=True):
                if self._pread(file, first, buffer[:size]) != size:
                    raise InputError(f"{self.name(file)}: ends too early; {AGAIN}")
            return
        paths = [f"{self._root.rstrip('/')}/{file}" for file, _, _ in ranges]
        starts, ends = [first for _, first, _ in ranges], [first + size for _, first, size in ranges]
        try:
            answers = self._fs.cat_ranges(paths, starts, ends, on_error="return")
        except Exception as error:
            raise InputError(f"{self.place}: cannot be read ({_line(error)})") from error
        for (file, _, size), answer, buffer in zip(ranges, answers, into, strict=True):
            if isinstance(answer, BaseException):
                raise InputError(f"{self.name(file)}: cannot be read ({_line(answer)}); {AGAIN}") from answer
            if len(answer) != size:
                raise InputError(f"{self.name(file)}: ends too early; {AGAIN}")
            buffer[:size] = answer

    def _pread(self, file: str, first: int, buffer: memoryview) -> int:
        try:
            if file not in self._open:
                self._open[file] = os.open(os.path.join(self.place, file), os.O_RDONLY | os.O_CLOEXEC)
            done = 0
            while done < len(buffer):
                got = os.preadv(self._open[file], [buffer[done:]], first + done)
                if not got:
                    break
                done += got
            return done
        except OSError as error:
            raise InputError(f"{self.name(file)}: cannot be read ({error.strerror}); {AGAIN}") from error


class Records(NamedTuple):
    """Where the records of a part lie."""

    shard: NDArray[np.int64]  # [s] number of the file
    first: NDArray[np.int64]  # [s] byte in it
    size: NDArray[np.int64]  # [s] bytes
    check: NDArray[np.int64]  # [s]


class Store:
    """A packed family, opened: names, facts and small tensors in memory, records when they are asked for.

    Raises:
        InputError: a file that is missing, damaged or of another version; the text names it.
    """

    def __init__(self, place: str) -> None:
        self.files = Files(place)
        self.place = place
        try:
            head = json.loads(self.files.whole(PACK))
            version, self.kind, count = head["format"], str(head["kind"]), int(head["scenes"])
            shards = {str(part): list(map(int, sizes)) for part, sizes in head["shards"].items()}
            index_sum = int(head["index"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{self.files.name(PACK)}: damaged; {AGAIN}") from error
        if version != FORMAT:
            raise InputError(f"{self.files.name(PACK)}: of format {version!r:.20}, wanted {FORMAT}; {AGAIN}")
        self.files.require_sizes(
            {shard_name(part, number): size for part, sizes in shards.items() for number, size in enumerate(sizes)}
        )
        content = self.files.whole(INDEX)
        broken = InputError(f"{self.files.name(INDEX)}: damaged; {AGAIN}")
        if checksum(content) != index_sum:
            raise broken
        try:
            self.tensors = safetensors.torch.load(content)
            self.names = tuple(_text(self.tensors.pop("names")).split("\n"))
            self.facts: dict[str, Any] = dict(json.loads(_text(self.tensors.pop("facts"))))
            self.parts = {part: self._records(part, sizes, count) for part, sizes in shards.items()}
        except (
            safetensors.SafetensorError, ValueError, KeyError, IndexError, TypeError, OverflowError, RuntimeError,
        ) as error:  # fmt: skip
            raise broken from error
        if len(self.names) != count or count < 1:
            raise broken

    def _records(self, part: str, sizes: Sequence[int], count: int) -> Records:
        records = Records(*self.tensors.pop(f"records.{part}").numpy())
        if any(len(column) != count for column in records):
            raise ValueError("another number of records than of scenes")
        if bool((records.shard < 0).any() or (records.first < 0).any() or (records.size < 0).any()):
            raise ValueError("records before their files")
        ends = np.asarray(sizes, np.int64)[records.shard]
        if bool((records.first + records.size > ends).any()):
            raise ValueError("records out of their files")
        return records

    def read(self, part: str, scenes: Sequence[int], into: Sequence[memoryview]) -> None:
        """Fill a buffer a scene with its record, checked."""
        records = self.parts[part]
        ranges = [
            (shard_name(part, int(records.shard[s])), int(records.first[s]), int(records.size[s])) for s in scenes
        ]
        self.files.read(ranges, into)
        for scene, (file, _, size), buffer in zip(scenes, ranges, into, strict=True):
            if checksum(buffer[:size]) != int(records.check[scene]):
                raise InputError(f"{self.files.name(file)}: scene {self.names[scene]} is damaged in it; {AGAIN}")

    def record(self, part: str, scene: int) -> bytes:
        """One record."""
        data = bytearray(int(self.parts[part].size[scene]))
        self.read(part, [scene], [memoryview(data)])
        return bytes(data)

    def loaded(self, part: str, scene: int) -> tuple[dict[str, Tensor], Any]:
        """Tensors of a record of safetensors, and what JSON says beside them."""
        data = self.record(part, scene)
        tensors = safetensors.torch.load(data)
        return tensors, json.loads(_text(tensors.pop("json")))


def shard_name(part: str, number: int) -> str:
    """Name of a file of records."""
    return f"{part}-{number:05d}.bin"


def dumped(tensors: Mapping[str, Tensor], beside: Any) -> bytes:
    """A record of tensors, with something that JSON can hold."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    return safetensors.torch.save({**whole, "json": text_tensor(json.dumps(beside))})


def _text(value: Tensor) -> str:
    return value.numpy().tobytes().decode()


def text_tensor(text: str) -> Tensor:
    """Text as bytes."""
    return torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)


class Writer:
    """Writes a packed family into a folder, scene by scene; `close` makes it whole.

    What it holds in memory are the names and where records lie: any number of bytes goes through it.
    """

    def __init__(self, folder: Path, shard: int = SHARD) -> None:
        self.folder, self.shard = folder, shard
        self.names: list[str] = []
        self.columns: dict[str, list[tuple[int, int, int, int]]] = {}
        self.sizes: dict[str, list[int]] = {}
        self._files: dict[str, Any] = {}

    def add(self, name: str, **records: Any) -> None:
        """One more scene; each part takes bytes, or an array of them."""
        self.names.append(name)
        for part, data in records.items():
            data = memoryview(data).cast("B")
            sizes = self.sizes.setdefault(part, [])
            if not sizes or sizes[-1] + len(data) > self.shard:
                if part in self._files:
                    _finish(self._files[part])
                self._files[part] = open(self.folder / shard_name(part, len(sizes)), "xb")  # noqa: SIM115
                sizes.append(0)
            self._files[part].write(data)
            place = len(sizes) - 1, sizes[-1], len(data), checksum(data)
            self.columns.setdefault(part, []).append(place)
            sizes[-1] += len(data)

    def close(self, kind: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the index, and last what says that all is there."""
        for file in self._files.values():
            _finish(file)
        self._files.clear()
        places = {f"records.{part}": torch.tensor(rows).T for part, rows in self.columns.items()}
        texts = {"names": text_tensor("\n".join(self.names)), "facts": text_tensor(json.dumps(dict(facts)))}
        whole = {name: value.contiguous() for name, value in {**texts, **places, **tensors}.items()}
        index = safetensors.torch.save(whole)
        with open(self.folder / INDEX, "xb") as file:
            file.write(index)
            _finish(file)
        head = {
            "format": FORMAT, "kind": kind, "scenes": len(self.names), "shards": self.sizes, "index": checksum(index),
        }  # fmt: skip
        with open(self.folder / PACK, "x", encoding="utf-8") as head_file:
            json.dump(head, head_file)
            _finish(head_file)

    def abandon(self) -> None:
        """Close the files after an error."""
        for file in self._files.values():
            file.close()


def _finish(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


class Cache:
    """Training records in one block of memory, `[rows, bytes]`, those of the last steps; the oldest gives way.

    `rows_of` reads what is missing. Records that `expect` was told are read by a thread once `read_ahead` is called,
    after a batch was drawn. What is drawn never depends on it.
    """

    def __init__(self, store: Store, part: str = "data", memory: int = MEMORY) -> None:
        self.store, self.part, self.memory = store, part, memory
        self.stride = int(store.parts[part].size.max())
        self._allocate(min(max(memory // max(self.stride, 1), 1), len(store.names)))
        self._expected: NDArray[np.int64] | None = None
        self._pending: tuple[concurrent.futures.Future[None], NDArray[np.int64], NDArray[np.int64]] | None = None
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None

    def _allocate(self, rows: int) -> None:
        self.block = torch.empty(rows, self.stride, dtype=torch.uint8)  # what is never filled takes no memory
        self._view = memoryview(self.block.numpy()).cast("B")  # type: ignore[arg-type]
        self._row_of = np.full(len(self.store.names), -1, np.int32)
        self._scene_in = np.full(rows, -1, np.int64)
        self._oldest = 0

    def rows_of(self, scenes: Tensor) -> Tensor:
        """Rows of `block` with the records of scenes `[s]`, `[s]` int64. Call it again before every batch.

        Raises:
            InputError: a record that cannot be read or is damaged.
        """
        wanted = scenes.numpy()
        self._settle()
        missing = np.unique(wanted[self._row_of[wanted] < 0])
        if len(missing):
            different = np.unique(wanted)
            if len(different) > len(self._scene_in):  # a step needs them all at once
                self._allocate(len(different))
                missing = different
            rows = self._take(missing, keep=different)
            self._fill(missing, rows)
            self._enter(missing, rows)
        return torch.from_numpy(self._row_of[wanted].astype(np.int64))

    def expect(self, scenes: Tensor) -> None:
        """Tell the scenes `[s]` of the next step."""
        self._expected = scenes.numpy()

    def read_ahead(self) -> None:
        """Begin to read what is expected; the batch of this step must have been drawn."""
        expected, self._expected = self._expected, None
        if expected is None or self._pending is not None:
            return
        missing = np.unique(expected[self._row_of[expected] < 0])
        different = np.unique(expected)
        if not len(missing) or len(different) > len(self._scene_in):
            return
        rows = self._take(missing, keep=different)
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "hyperfields-pack")
            weakref.finalize(self, self._thread.shutdown, wait=False)
        self._pending = self._thread.submit(self._fill, missing, rows), missing, rows

    def _settle(self) -> None:
        """Wait for what the thread reads."""
        if self._pending is not None:
            (reading, scenes, rows), self._pending = self._pending, None
            reading.result()
            self._enter(scenes, rows)

    def _take(self, scenes: NDArray[np.int64], keep: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows for scenes: the oldest, but those of `keep`; what was in them is forgotten."""
        count = len(self._scene_in)
        order = (self._oldest + np.arange(count)) % count
        if count > 4 * (len(scenes) + len(keep)):  # enough of them to choose from
            order = order[: 2 * (len(scenes) + len(keep))]
        free = order[~np.isin(self._scene_in[order], keep)][: len(scenes)]
        self._oldest = int(free[-1] + 1) % count
        before = self._scene_in[free]
        self._row_of[before[before >= 0]] = -1
        self._scene_in[free] = -1
        return free

    def _fill(self, scenes: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        starts = (rows * self.stride).tolist()
        self.store.read(self.part, scenes.tolist(), [self._view[start : start + self.stride] for start in starts])

    def _enter(self, scenes: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self._row_of[scenes], self._scene_in[rows] = rows, scenes


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
