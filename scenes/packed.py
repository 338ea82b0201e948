"""Packed families: written from folders, in parts where that is possible, and opened from a folder or a URL."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from hyperfields.data import Kind, SceneDataset, Subset
from hyperfields.data.packed import Deeper, Packer, open_pack
from hyperfields.data.shapes import Progress
from hyperfields.data.store import PACK, Files, Writer, is_url, location
from hyperfields.errors import InputError
from hyperfields.scenes._common import select

PART = 2**26  # bytes of training data that are read and written together, about


def place_of(path: str | PathLike[str]) -> str | None:
    """The folder or URL of a packed family; None for a folder that is none.

    Raises:
        InputError: a URL of something else, or one that cannot be read.
    """
    place = location(path)
    if Files(place).exists(PACK):
        return place
    if is_url(place):
        raise InputError(f"{place}: holds no {PACK}; wanted a packed family, see hyperfields pack")
    return None


def open_packed(
    place: str,
    *,
    kind: Kind | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    memory: int | None = None,
    **options: Any,
) -> SceneDataset:
    """A packed family, all of it or some scenes.

    Args:
        options: how it is to be read; what was decided when it was packed cannot be asked for otherwise.

    Raises:
        InputError: a file that is missing or damaged, another kind, an option that does not agree, unknown names.
    """
    data = open_pack(place, memory)
    if kind is not None and kind != data.kind:
        raise InputError(f"{place}: holds no {kind}, but {data.kind}")
    for option, value in options.items():
        known = _known(data, option)
        if value is not None and _plain(value) != known:
            was = "without" if known is None else f"with {_text(known)}"
            raise InputError(
                f"{option}: {_text(value)} came, but {place} was packed {was}; leave it out, or pack the family again"
            )
    if scenes is None and limit is None:
        return data
    chosen = select(data.names, scenes, limit)
    if len(chosen) == len(data.names):
        return data
    numbers = {name: number for number, name in enumerate(data.names)}
    return Subset(data, [numbers[name] for name in chosen])


def write(
    out: Path,
    names: Sequence[str],
    read: Callable[[Sequence[str]], SceneDataset],
    apart: bool,
    reading: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    """Write scenes into a new or an empty folder, which is again as it was when they cannot be.

    Args:
        read: scenes by name.
        apart: they may be read a part at a time.
        reading: options by which they are read, for the record.

    Raises:
        InputError: what `read` raises; a folder that holds files.
    """
    new = not out.exists()
    if not new and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not an empty folder; choose another")
    out.mkdir(parents=True, exist_ok=True)
    try:
        try:
            _write(out, names, read, apart, reading, progress, deep=False)
        except Deeper:
            _clear(out)
            _write(out, names, read, apart, reading, progress, deep=True)
    except BaseException:
        _clear(out)
        if new:
            out.rmdir()
        raise


def _clear(folder: Path) -> None:
    """Remove what was written into a folder that was empty."""
    for written in folder.iterdir():
        written.unlink()


def _write(
    out: Path, names: Sequence[str], read: Callable[[Sequence[str]], SceneDataset], apart: bool,
    reading: Mapping[str, Any], progress: Progress | None, deep: bool,
) -> None:  # fmt: skip
    writer, said = Writer(out), set[str]()
    packer = Packer(writer, deep)

    def done(name: str) -> None:
        if progress is not None:
            progress(len(writer.names), len(names), name)

    try:
        part = 1 if apart else len(names)
        while len(writer.names) < len(names):
            first = len(writer.names)
            with warnings.catch_warnings(record=True) as caught:
                data = read(names[first : first + part])
            for warning in caught:  # every part warns of what lies beside its scenes
                if str(warning.message) not in said:
                    said.add(str(warning.message))
                    warnings.warn(warning.message, stacklevel=4)
            packer.add(data, done)
            part = max(PART * len(writer.names) // max(writer.sizes["data"][0], 1), 1) if first == 0 else part
        packer.close({option: _plain(value) for option, value in reading.items() if option != "memory"})
    finally:
        writer.abandon()


def _known(data: Any, option: str) -> Any:
    """How a packed family was read."""
    if option == "size":  # whether it was asked for or not
        sizes = (
            [data.store.facts["size"]] if "size" in data.store.facts else list(map(list, getattr(data, "sizes", ())))
        )
        return sizes[0] if len(sizes) == 1 else data.reading.get("size")
    known = data.reading.get(option)
    return getattr(data, option, None) if known is None and option == "background" else known


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple | list) else value


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
