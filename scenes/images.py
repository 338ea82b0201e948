"""A folder of pictures as a family of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.scenes._common import (
    IMAGE_SUFFIXES,
    FloatArray,
    as_bytes,
    as_unit,
    by_stem,
    read_rgba,
    resize_area,
    select,
    visible_files,
)
from hyperfields.scenes.reader import Reader


def open_images(
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
) -> Images:
    """Read the png, jpg, webp and exr files of a folder; the scene names are the file names without suffix.

    Alpha is composited on white, on sRGB values as read, before resizing. Photographs are turned upright as
    their EXIF data say. Kept as uint8 when every file is 8 bit, else float32. See `read_rgba` for depths.

    Args:
        size: (height, width) to which every picture is reduced, each new pixel a mean over its area.

    Raises:
        InputError: no picture, an unreadable one, or pictures of several sizes and no `size`.
    """
    files = by_stem(visible_files(folder, IMAGE_SUFFIXES))
    if not files:
        raise InputError(f"{folder}: holds no picture; wanted {', '.join(IMAGE_SUFFIXES)} files")
    names = select(list(files), scenes, limit)
    pictures: list[NDArray[np.uint8] | FloatArray] = []
    for name in names:
        rgba = read_rgba(files[name], upright=True)
        height, width = rgba.shape[:2]
        if size is None and pictures and pictures[0].shape[:2] != (height, width):
            first = "x".join(map(str, pictures[0].shape[:2]))
            raise InputError(
                f"{files[name]}: is {height}x{width} but {files[names[0]].name} is {first} (height x width); "
                "pass --size HxW to bring all to one size"
            )
        eight_bit = rgba.dtype == np.uint8
        unit = as_unit(rgba)
        alpha = unit[..., 3:]
        white = resize_area(unit[..., :3] * alpha + (1.0 - alpha), size or (height, width))
        pictures.append(as_bytes(white) if eight_bit else white)
    if any(picture.dtype != np.uint8 for picture in pictures):
        pictures = [as_unit(picture) for picture in pictures]
    return Images(torch.from_numpy(np.stack(pictures)), names)


READER = Reader(
    kind="images",
    name="pictures",
    wants=f"pictures ({', '.join(IMAGE_SUFFIXES)})",
    detect=lambda folder: bool(visible_files(folder, IMAGE_SUFFIXES)),
    open=open_images,
    options=frozenset({"size"}),
)
