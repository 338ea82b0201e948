"""Readers: folders of images, meshes and posed views as data sets of hyperfields.data.

May import: cameras, data, errors. To add a format, write one file here with a `Reader` in it, and a line in `READERS`;
for one of scene folders with cameras, a `Format` and a line in `views.FORMATS`.
One of your own works from outside too: `open_family(path, readers=(*READERS, MINE))`. samples/ holds four small
families.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from hyperfields.data import Images, Kind, SceneDataset, Shapes, Views
from hyperfields.data.shapes import Progress
from hyperfields.errors import InputError
from hyperfields.scenes import images, meshes, packed, views
from hyperfields.scenes._common import MOST_BYTES, UNREAD_IMAGES, UNREAD_MESHES, folders_below, select, visible_files
from hyperfields.scenes.reader import Aspect, Reader

__all__ = [
    "READERS",
    "SAMPLES",
    "Images",
    "Reader",
    "Shapes",
    "Views",
    "detect_kind",
    "family_names",
    "open_family",
    "pack_family",
]

SAMPLES = Path(__file__).parent / "samples"  # emoji, shapes_cars, cars_views and toy_cars
READERS: tuple[Reader, ...] = (images.READER, meshes.READER, views.READER)  # of one kind, the first that detects reads


def open_family(
    path: str | PathLike[str],
    *,
    kind: Kind | None = None,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    views: Sequence[int] | None = None,
    aspect: Aspect | None = None,
    background: str | None = None,
    up: str | None = None,
    split: str | None = None,
    measured: views.Measured | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    readers: Sequence[Reader] = READERS,
) -> SceneDataset:
    """Open a folder of images, meshes or scene folders, or a packed family; its `kind` says which it was.

    Args:
        path: a folder of pictures, of meshes, of scene folders (see docs/captures.md), or one such scene; or what
            `pack_family` wrote, a folder or a URL.
        kind: needed only when the folder holds several kinds.
        size: (height, width) of the pictures, for images and views.
        scenes: names or fnmatch patterns; default all.
        limit: only the first so many by name, counted after `scenes`.
        views: numbers of the training pictures to use, for views only; default all.
        aspect: how images come to a `size` of another ratio, "crop" (default), "pad" or "fit", see `open_images`.
        background: of views without alpha, a colour or "scene", see `open_views`; default found from their borders.
        up: axis that is up in pictures, "x", "y", "z", "-x" ..., for shapes and views; default by format or cameras.
        split: how the pictures of views are divided, see `open_views`.
        measured: what is known of views that are only measured, see `Measured`.
        memory: bytes of the training pictures of views that are kept in memory, default 2 GiB; more of them go to a
            temporary file. Of packed families, bytes of the scenes that are kept in memory, default 1 GiB.
        progress: called as (done, total, name) after each shape, or each picture of views.
        readers: the formats to try.

    Raises:
        InputError: the folder or something in it cannot be used: see `open_images`, `open_meshes`,
            `open_views`.
    """
    options: dict[str, Any] = {"size": size, "views": views, "aspect": aspect, "background": background, "up": up}
    options |= {"split": split}
    if (place := packed.place_of(path)) is not None:
        return packed.open_packed(place, kind=kind, scenes=scenes, limit=limit, memory=memory, **options)
    folder = Path(path)
    reader = _reader(folder, kind, readers)
    if size is not None and not (min(size) >= 1 and size[0] * size[1] <= MOST_BYTES // 4):
        raise InputError(
            f"size: {size[0]}x{size[1]} came, wanted HxW of at least 1x1 and at most {MOST_BYTES // 4:,} pixels"
        )
    given = {**options, "measured": measured, "memory": memory}
    for option, value in given.items():
        if value is not None and option not in reader.options:
            kinds = " and ".join(dict.fromkeys(other.kind for other in readers if option in other.options))
            dashes = "--" if option in ("views", "aspect", "background", "up", "split") else ""
            raise InputError(
                f"{dashes}{option}: is for {kinds or 'other formats'}, but the family holds {reader.kind}; leave it out"
            )
    given["progress"] = progress
    options = {option: value for option, value in given.items() if option in reader.options}
    data = reader.open(folder, scenes=scenes, limit=limit, **options)
    if not all(hasattr(data, member) for member in ("kind", "names", "batch")) or data.kind != reader.kind:
        came = getattr(data, "kind", type(data).__name__)
        raise InputError(f"{folder}: the reader of {reader.name} gave {came}; wanted a data set of {reader.kind}")
    return data


def family_names(
    path: str | PathLike[str], *, kind: Kind | None = None, scenes: Sequence[str] | None = None,
    limit: int | None = None, readers: Sequence[Reader] = READERS,
) -> list[str]:  # fmt: skip
    """Names of the scenes that `open_family` would open, in its order, found without reading them.

    Raises:
        InputError: as `open_family` for names and folders.
    """
    if (place := packed.place_of(path)) is not None:
        return list(packed.open_packed(place, kind=kind, scenes=scenes, limit=limit).names)
    folder = Path(path)
    reader = _reader(folder, kind, readers)
    if reader.names is None:
        return list(reader.open(folder, scenes=scenes, limit=limit).names)
    return select(reader.names(folder), scenes, limit)


def pack_family(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    kind: Kind | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    readers: Sequence[Reader] = READERS,
    **options: Any,
) -> list[str]:
    """Write a family into a few large files, which `open_family` reads with bounded memory, also from a URL.

    Images and shapes are read in parts, so they may be larger than memory; of views, what is over `memory` lies in a
    temporary file meanwhile.

    Args:
        out: a new or an empty folder; what is written last is its pack.json.
        options: of `open_family`: size, aspect, background, up, split, views, memory.
        progress: called as (done, total, name) after each scene.

    Returns:
        Names of the scenes.

    Raises:
        InputError: as `open_family`; a family that is packed already; an `out` that holds files.
    """
    if packed.place_of(path) is not None:
        raise InputError(f"{path}: is packed already; copy it as it is")
    folder = Path(path)
    reader = _reader(folder, kind, readers)
    names = family_names(folder, kind=kind, scenes=scenes, limit=limit, readers=readers)

    def read(part: Sequence[str] | None) -> SceneDataset:
        return open_family(folder, kind=reader.kind, scenes=part, readers=readers, **options)

    packed.write(Path(out), names, read if reader.apart else lambda part: read(names), reader.apart, options, progress)
    return names


def detect_kind(path: str | PathLike[str], readers: Sequence[Reader] = READERS) -> Kind:
    """Kind of the scenes in a folder: "images", "shapes" or "views".

    Raises:
        InputError: no folder, an empty one, nothing in it that can be fitted, or more than one kind.
    """
    return _reader(Path(path), None, readers).kind


def _reader(folder: Path, kind: Kind | None, readers: Sequence[Reader]) -> Reader:
    """The reader for a folder; raises InputError when it is no readable folder, or no reader or several fit."""
    if kind is not None and kind not in (kinds := list(dict.fromkeys(reader.kind for reader in readers))):
        raise InputError(f"kind: {kind!r} came, wanted one of {', '.join(kinds)}")
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; wanted the folder of a family")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; wanted the folder that holds the family")
    try:
        if not any(folder.iterdir()):
            raise InputError(f"{folder}: is empty; wanted pictures, meshes or scene folders")
        fitting = [reader for reader in readers if reader.detect(folder)]
        claiming = [reader for reader in fitting if reader.claims(folder)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    held = list(dict.fromkeys(reader.kind for reader in fitting))
    if kind is not None and kind not in held:
        raise InputError(f"{folder}: holds no {kind}, but {' and '.join(held) or 'nothing to fit'}")
    if kind is None and claiming:
        return claiming[0]
    if kind is None and len(held) > 1:
        raise InputError(f"{folder}: holds {' and '.join(held)}; say which with --kind {'|'.join(held)}")
    if not fitting:
        *most, last = [reader.wants for reader in readers] or ["a reader"]
        wants = f"{', '.join(most)} or {last}" if most else last
        raise InputError(f"{folder}: nothing to fit in it; {_seen_below(folder, readers) or f'wanted {wants}'}")
    return next(reader for reader in (*claiming, *fitting) if kind in (None, reader.kind))


def _seen_below(folder: Path, readers: Sequence[Reader]) -> str | None:
    """What there is instead of something that can be fitted, and what to type; None when there is nothing."""
    try:
        told = next((text for p in (folder, *folders_below(folder)) if (text := views.foreign_capture(p))), None)
        if told is not None:
            return told
        for unread in (UNREAD_IMAGES, UNREAD_MESHES):
            if left := visible_files(folder, tuple(unread)):
                return f"{len(left)} {left[0].suffix} are there and not read; {unread[left[0].suffix.lower()]}"
        holding = [
            (below, reader.kind) for below in folders_below(folder) for reader in readers if reader.detect(below)
        ]
    except OSError:
        return None
    if not holding:
        return None
    first, kind = holding[0]
    names = ", ".join(str(below.relative_to(folder)) for below, _ in holding[:3]) + (", ..." if holding[3:] else "")
    return f"its folders hold something ({names}): give one of them, {first} with {kind}, or put all files into one"
