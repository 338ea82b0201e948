"""Photographs on their way into a capture: found, checked, turned upright, and given names that every program takes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hyperfields.errors import InputError
from hyperfields.scenes._common import (
    IMAGE_SUFFIXES,
    UNREAD_IMAGES,
    folders_below,
    opened_picture,
    plain_name,
    read_rgba,
    visible_files,
)

FEWEST = 3  # photographs that cameras can be found for
SMALLEST = 32  # pixels a side
KEPT = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",)}  # formats that are copied as they are
EXIF_ORIENTATION = 0x0112
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts", ".wmv")


class Photograph(NamedTuple):
    """A picture file and what it is called in the capture."""

    source: Path
    name: str  # below images/, with suffix
    folder: str  # it lies in, below the folder that was given; "" at its top


def find_photographs(folder: Path, *, below: bool) -> tuple[list[Photograph], list[str]]:
    """The photographs of a folder in natural order (9 before 10), and lines about what is left out.

    Args:
        below: also those in the folders below; without photographs of its own a folder gives these anyway.

    Raises:
        InputError: no such folder, too few photographs.
    """
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder; wanted a folder of photographs, or a video")
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is a file, but no video that is read ({', '.join(VIDEO_SUFFIXES)}); wanted a folder of "
            "photographs, or a video"
        )
    try:
        own = visible_files(folder, IMAGE_SUFFIXES)
        deeper = [path for child in folders_below(folder) for path in visible_files(child, IMAGE_SUFFIXES)]
        unread = visible_files(folder, tuple(UNREAD_IMAGES))
        videos = visible_files(folder, VIDEO_SUFFIXES)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    taken = [*own, *deeper] if below or not own else own
    if len(taken) < FEWEST:
        raise InputError(f"{folder}: {_too_few(len(taken), unread, videos)}")
    notes = []
    if own and deeper and not below:
        notes.append(f"{len(deeper)} pictures in folders below are left out; take them in with --cameras folder")
    for files, text in ((unread, UNREAD_IMAGES[unread[0].suffix.lower()] if unread else ""), (videos, "give it alone")):
        if files:
            many = f"{len(files)} files are" if len(files) > 1 else "1 file is"
            notes.append(f"{many} left out ({', '.join(p.name for p in files[:3])}{', ...' * bool(files[3:])}): {text}")
    return _named(sorted(taken, key=lambda path: natural(str(path.relative_to(folder)))), folder), notes


def _too_few(count: int, unread: list[Path], videos: list[Path]) -> str:
    if unread:
        what = UNREAD_IMAGES[unread[0].suffix.lower()]
        return f"{count or 'no'} photographs in it, and {len(unread)} {unread[0].suffix} that are not read; {what}"
    if videos:
        return f"{count or 'no'} photographs in it, but {videos[0].name}; give the video itself: {videos[0]}"
    if not count:
        return "no photographs in it or below; wanted a folder of photographs, or a video"
    there = f"{count} photograph{'s' if count > 1 else ''}"
    return f"{there} in it; wanted {FEWEST} at least, better 30, each overlapping the next by two thirds"


def natural(text: str) -> list[tuple[int, int | str]]:
    """A key to sort by in which numbers count as numbers."""
    return [(0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in re.split(r"(\d+)", text) if part]


def _named(paths: list[Path], top: Path) -> list[Photograph]:
    """Names without spaces, which split the lines of COLMAP's files, and each once."""
    photographs: list[Photograph] = []
    seen: set[str] = set()
    for path in paths:
        folder = path.relative_to(top).parent.as_posix()
        folder = "" if folder == "." else folder
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        stem = _plain("_".join([*folder.split("/"), path.stem] if folder else [path.stem]))
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in seen:
            number += 1
            name = f"{stem}_{number}{suffix}"
        seen.add(name.casefold())
        photographs.append(Photograph(path, name, folder))
    return photographs


def _plain(stem: str) -> str:
    return re.sub(r"[^\w.+-]", "_", plain_name(stem)).lstrip(".") or "_"


def prepare(
    photographs: list[Photograph], images: Path, progress: Callable[[int, int, str], None]
) -> dict[str, tuple[int, int]]:
    """Write upright copies into `images`, those that are there already left as they are; name -> (height, width).

    Raises:
        InputError: a file that is no picture or cut short, a tiny picture.
    """
    sizes = {}
    for done, photograph in enumerate(photographs, 1):
        target = images / photograph.name
        if not target.is_file():
            part = target.with_name(f".{target.name}.part")
            try:
                _write_upright(photograph.source, part, target.suffix)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        with opened_picture(target) as picture:
            width, height = picture.size
        if min(width, height) < SMALLEST:
            raise InputError(
                f"{photograph.source}: is {height}x{width} (height x width); wanted {SMALLEST} pixels a side at least"
            )
        sizes[photograph.name] = height, width
        progress(done, len(photographs), photograph.source.name)
    return sizes


def _write_upright(source: Path, target: Path, suffix: str) -> None:
    """A copy of a picture, turned as its EXIF orientation says; its bytes are kept where nothing has to change."""
    with opened_picture(source) as picture:
        picture.load()  # a file that is cut short shows here
        turned = picture.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
        plain = picture.mode in ("L", "RGB", "RGBA") and getattr(picture, "n_frames", 1) == 1
        if plain and not turned and suffix in KEPT.get(picture.format or "", ()):
            shutil.copyfile(source, target)
            return
        if plain:
            upright = ImageOps.exif_transpose(picture)
            _save(upright, target, suffix)
            return
    pixels = read_rgba(source, upright=True)
    if pixels.dtype != np.uint8:
        pixels = np.asarray(pixels * 255.0 + 0.5, dtype=np.uint8)
    whole = bool((pixels[..., 3] == 255).all())
    _save(Image.fromarray(np.ascontiguousarray(pixels[..., :3] if whole else pixels)), target, suffix)


def _save(picture: Image.Image, target: Path, suffix: str) -> None:
    exif = picture.getexif()  # the focal length: COLMAP starts from it
    if suffix in KEPT["JPEG"]:
        picture.convert("RGB").save(target, "JPEG", quality=95, subsampling=0, exif=exif)
    else:
        picture.save(target, "PNG", exif=exif)
