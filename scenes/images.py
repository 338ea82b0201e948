"""A folder of pictures as a family of images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.data import Kind, Points
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


class Images:
    """Pictures of one size, fitted on white.

    Args:
        names: sorted, one per picture.
        pixels: `[s h w 3]`, uint8, or float32 in [0, 1]; sRGB as read.
    """

    kind: Kind = "images"

    def __init__(self, names: Sequence[str], pixels: Tensor) -> None:
        if pixels.ndim != 4 or pixels.shape[0] != len(names) or pixels.shape[3] != 3:
            raise ValueError(
                f"pixels: {tuple(pixels.shape)} came for {len(names)} names, wanted [s h w 3] with s names"
            )
        self.names = tuple(names)
        self.height, self.width = int(pixels.shape[1]), int(pixels.shape[2])
        self._pixels = pixels.reshape(-1, 3).contiguous()  # [s * h * w, 3]: one gather draws a batch
        v, u = torch.meshgrid(
            (torch.arange(self.height, dtype=torch.float32) + 0.5) / self.height,
            (torch.arange(self.width, dtype=torch.float32) + 0.5) / self.width,
            indexing="ij",
        )
        self._centres = torch.stack((u, v), dim=-1).reshape(-1, 2)  # [h * w, 2]

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """`n` pixel centres per scene, drawn with replacement, and their colours.

        When `n` is at least the number of pixels, every pixel comes exactly once instead, row by row: the
        batch then has `height * width` points a scene and nothing is drawn from `generator`.

        Args:
            scenes: `[s]` int64.

        Returns:
            x `[s n 2]` in [0, 1]^2 (right, down) and target `[s n 3]` in [0, 1].
        """
        count = self.height * self.width
        if n >= count:
            index = torch.arange(count, device=scenes.device).expand(len(scenes), count)
            x = self._centres.expand(len(scenes), count, 2).contiguous()
        else:
            index = torch.randint(count, (len(scenes), n), generator=generator, device=generator.device)
            x = self._centres.index_select(0, index.reshape(-1)).reshape(*index.shape, 2)
        rows = (scenes[:, None] * count + index).reshape(-1)
        return Points(x, _unit(self._pixels.index_select(0, rows)).reshape(*index.shape, 3))

    def to(self, device: torch.device | str) -> Images:
        """The same with its pictures on `device`, where batches then come from; `generator` must be there too."""
        moved = copy.copy(self)
        moved._pixels, moved._centres = self._pixels.to(device), self._centres.to(device)
        return moved

    def reference(self, scene: int, split: str = "test") -> Tensor:
        """The picture `[h w 3]` float32 in [0, 1]; an image has no splits, so `split` makes no difference."""
        count = self.height * self.width
        return _unit(self._pixels[scene * count : (scene + 1) * count].cpu()).reshape(self.height, self.width, 3)


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels


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
    return Images(names, torch.from_numpy(np.stack(pictures)))
