"""A folder of pictures as a family of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.scenes._common import (
    IMAGE_SUFFIXES,
    UNREAD_IMAGES,
    FloatArray,
    as_bytes,
    as_unit,
    by_stem,
    read_rgba,
    require_size,
    resize_area,
    row_bands,
    select,
    visible_files,
    warn_left_out,
)
from hyperfields.scenes.reader import Aspect, Reader

Pixels = NDArray[np.uint8] | FloatArray
SAME = 0.02  # relative difference of width to height that nobody sees


def open_images(
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    aspect: Aspect | None = None,
) -> Images:
    """Read the pictures of a folder; the scene names are the file names without suffix.

    Alpha is composited on white, on sRGB values as read, before resizing. Photographs are turned upright as
    their EXIF data say. Kept as uint8 when every file is 8 bit, else float32. See `read_rgba` for depths.

    Args:
        size: (height, width) to which every picture is reduced, each new pixel a mean over its area.
        aspect: of pictures whose sides have another ratio than `size`: "crop" keeps the middle (default), "pad" adds
            white, "fit" squeezes.

    Raises:
        InputError: no picture, an unreadable one, or pictures of several sizes and no `size`.

    Warns:
        UserWarning: pictures in formats that are not read.
    """
    if aspect not in (None, *get_args(Aspect)):
        raise InputError(f"aspect: {aspect!r} came, wanted one of {', '.join(get_args(Aspect))}")
    if aspect is not None and size is None:
        raise InputError(f"--aspect {aspect}: is of pictures that are resized; give --size HxW too, or leave it out")
    files = by_stem(visible_files(folder, IMAGE_SUFFIXES))
    if not files:
        raise InputError(f"{folder}: holds no picture; wanted {', '.join(IMAGE_SUFFIXES)} files")
    names = select(list(files), scenes, limit)
    warn_left_out(folder, UNREAD_IMAGES)
    changed: list[str] = []  # names of pictures whose ratio is another
    small: list[str] = []  # and of those that are smaller
    pictures: list[Pixels] = []
    for name in names:
        rgba = read_rgba(files[name], upright=True)
        height, width = rgba.shape[:2]
        if size is None and pictures and pictures[0].shape[:2] != (height, width):
            first = "x".join(map(str, pictures[0].shape[:2]))
            raise InputError(
                f"{files[name]}: is {height}x{width} but {files[names[0]].name} is {first} (height x width); "
                "pass --size HxW to bring all to one size"
            )
        if size is not None and abs(width * size[0] / (height * size[1]) - 1.0) > SAME:
            changed.append(name)
            rgba = _with_ratio(files[name], rgba, size, aspect or "crop")
        if size is not None and (rgba.shape[0] < size[0] or rgba.shape[1] < size[1]):
            small.append(name)
        eight_bit = rgba.dtype == np.uint8
        if size is not None:
            white = resize_area(rgba, size, _over_white)
            pictures.append(as_bytes(white) if eight_bit else white)
        else:
            bands = [_over_white(rgba[band]) for band in row_bands(height, width)]
            pictures.append(np.concatenate([as_bytes(band) if eight_bit else band for band in bands]))
    if any(picture.dtype != np.uint8 for picture in pictures):
        pictures = [as_unit(picture) for picture in pictures]
    notes = []
    if size is not None and changed and aspect is None:
        notes.append(
            f"size: {len(changed)} of {len(names)} pictures have other sides than {size[0]}:{size[1]} "
            f"({changed[0]} for one), of these the middle is used; choose with --aspect fit|crop|pad"
        )
    if size is not None and small:
        notes.append(
            f"size: {len(small)} of {len(names)} pictures are smaller than {size[0]}x{size[1]}, {small[0]} for one, "
            "and were enlarged: nothing finer is in them"
        )
    return Images(torch.from_numpy(np.stack(pictures)), names, notes=notes)


def _over_white(rgba: Pixels) -> FloatArray:
    """Straight rgba `[h w 4]` laid over white, `[h w 3]`."""
    unit = as_unit(rgba)
    alpha = unit[..., 3:]
    return unit[..., :3] * alpha + (1.0 - alpha)


def _with_ratio(path: Path, picture: Pixels, size: tuple[int, int], aspect: Aspect) -> Pixels:
    """A picture `[h w 4]` whose sides have the ratio of `size`, to a pixel: its middle, or with white added."""
    height, width = picture.shape[:2]
    if aspect == "fit":
        return picture
    grow = aspect == "pad"
    wide = width * size[0] > height * size[1]
    if wide != grow:  # the width changes
        new = (height, max(round(height * size[1] / size[0]), 1))
    else:
        new = (max(round(width * size[0] / size[1]), 1), width)
    if grow:
        require_size(path, *new, 4 * picture.itemsize)
        padded = np.full((*new, 4), 255 if picture.dtype == np.uint8 else 1.0, dtype=picture.dtype)
        top, left = (new[0] - height) // 2, (new[1] - width) // 2
        padded[top : top + height, left : left + width] = picture
        return padded
    top, left = (height - new[0]) // 2, (width - new[1]) // 2
    return picture[top : top + new[0], left : left + new[1]]


READER = Reader(
    kind="images",
    name="pictures",
    wants=f"pictures ({', '.join(IMAGE_SUFFIXES)})",
    detect=lambda folder: bool(visible_files(folder, IMAGE_SUFFIXES)),
    open=open_images,
    options=frozenset({"size", "aspect"}),
    names=lambda folder: list(by_stem(visible_files(folder, IMAGE_SUFFIXES))),
    apart=True,
)
