"""The pictures of a capture, by the names that other programs gave them; also where the same are there smaller."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hyperfields.scenes._common import IMAGE_SUFFIXES, picture_size, visible_files

FOLDERS = ("images", "input", "rgb", "image", "photos")
SMALLER = (2, 4, 8)  # images_2 ... hold the same pictures, so many times smaller
LONGEST = 1600  # pixels; of larger pictures the largest smaller ones are read, as nerfstudio does


class Photos(NamedTuple):
    """Pictures by name."""

    folder: Path
    found: dict[str, Path]  # name -> picture
    missing: tuple[str, ...]
    note: str | None = None  # when smaller ones were chosen


def find_photos(roots: Sequence[Path], names: Sequence[str], size: tuple[int, int] | None) -> Photos | None:
    """The pictures of these names, in the first folder that holds some; None where none does.

    size: (height, width) that they will be brought to: of images, images_2, ... the smallest that suffice are read.
    """
    for root in roots:
        folders = [root / name for name in FOLDERS] + [root / f"images_{n}" for n in SMALLER] + [root]
        for folder in folders:
            if folder.is_dir() and (found := _by_name(folder, names)):
                missing = tuple(name for name in names if name not in found)
                return _sized(Photos(folder, found, missing), size)
        for folder in (root / f"images_{n}" for n in SMALLER):
            there = visible_files(folder, IMAGE_SUFFIXES) if folder.is_dir() else []
            if there and len(there) == len(names):  # renamed by LLFF's scripts, in the same order
                found = dict(zip(sorted(names), there, strict=True))
                return Photos(folder, found, (), f"pictures: those of {folder.name} have other names: taken in order")
    return None


def _by_name(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Name -> picture; a picture may have another suffix than its name."""
    found = {}
    listing: dict[Path, dict[str, Path]] = {}
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        path = folder / parts
        if ".." in parts.parts or parts.is_absolute():
            continue
        if not path.is_file():
            if path.parent not in listing:
                there = visible_files(path.parent, IMAGE_SUFFIXES) if path.parent.is_dir() else []
                listing[path.parent] = {other.stem: other for other in there}
            path = listing[path.parent].get(path.stem, path)
        if path.is_file():
            found[name] = path
    return found


def _sized(photos: Photos, size: tuple[int, int] | None) -> Photos:
    """The same in the size that is wanted, where folders beside it have them."""
    if photos.folder.name != "images" or not photos.found:
        return photos
    first = photos.found[next(iter(photos.found))]
    full = picture_size(first)
    if size is None and max(full) <= LONGEST:
        return photos
    best, shape = photos, full
    for times in SMALLER:
        folder = photos.folder.with_name(f"images_{times}")
        if not folder.is_dir():
            continue
        found = _by_name(folder, list(photos.found)) or _by_order(folder, photos.found)
        if len(found) < len(photos.found):
            continue
        smaller = picture_size(found[next(iter(photos.found))])
        enough = size is not None and (smaller[0] >= size[0] and smaller[1] >= size[1])
        if enough or (size is None and max(shape) > LONGEST):
            best, shape = Photos(folder, found, photos.missing), smaller
    if best is photos:
        return photos
    why = "they suffice for --size" if size is not None else f"those of images are longer than {LONGEST} pixels"
    note = f"pictures: those of {best.folder.name}, {shape[0]}x{shape[1]}, are read: {why}"
    return best._replace(note=note if size is not None else f"{note}; choose with --size HxW")


def _by_order(folder: Path, full: dict[str, Path]) -> dict[str, Path]:
    """Name -> smaller picture by their order, as LLFF's scripts rename them."""
    smaller = visible_files(folder, IMAGE_SUFFIXES)
    originals = visible_files(next(iter(full.values())).parent, IMAGE_SUFFIXES)
    if len(smaller) != len(originals):
        return {}
    place = {path: other for path, other in zip(originals, smaller, strict=True)}
    return {name: place[path] for name, path in full.items() if path in place}


def mask_of(image: Path, folder: Path, name: str) -> Path | None:
    """The mask of a picture in a folder `masks` beside its own: NAME.png with or without the picture's suffix."""
    masks = folder.parent / "masks"
    if not masks.is_dir():
        return None
    relative = PurePosixPath(name.replace("\\", "/"))
    candidates = (f"{relative}.png", str(relative.with_suffix(".png")), str(relative), f"{image.name}.png")
    return next((path for text in candidates if (path := masks / text).is_file()), None)
