"""Pictures of one size."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.data.base import Kind, Points, SceneDataset, as_colors, scene_names, shortened
from hyperfields.errors import InputError
from hyperfields.ops.gather import gather_pairs, unit

SCENES, SAMPLES = 8, 64  # of each, that tell whether data are pixels


class Images:
    """Pictures of one size, fitted on white.

    Args:
        pixels: `[s h w 3]`, or a list of pictures `[h w 3]` of one size (tensors, arrays, pictures of PIL); uint8, or
            floats in [0, 1]; sRGB. Lay transparent pictures over white first.
        names: one per picture, by default "0", "1", ...
        notes: lines for people about what a reader decided.

    Raises:
        InputError: pixels of another shape or type, NaN, values outside [0, 1]; names that do not fit.
    """

    kind: Kind = "images"

    def __init__(self, pixels: Any, names: Iterable[str] | None = None, notes: Iterable[str] = ()) -> None:
        self.notes = tuple(notes)
        pixels = _as_pixels(pixels)
        if pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
            raise InputError(
                f"pixels: {tuple(pixels.shape)} came, wanted [s h w 3]: scenes, rows, columns, red-green-blue"
            )
        self.names = scene_names(names, len(pixels))
        pixels = as_colors("pixels", pixels)
        self.height, self.width = int(pixels.shape[1]), int(pixels.shape[2])
        self._pixels = pixels.reshape(-1, 3).contiguous()  # [s * h * w, 3]: one gather draws a batch
        self._centres = pixel_centres(self.height, self.width, pixels.device)

    def __repr__(self) -> str:
        return f"Images({shortened(self.names)}; {self.height}x{self.width})"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        """`n` pixel centres per scene, drawn with replacement, and their colours.

        When `n` is at least the number of pixels, every pixel comes exactly once instead, row by row: the
        batch then has `height * width` points a scene and nothing is drawn from `generator`.

        Args:
            scenes: `[s]` int64.

        Returns:
            x `[s n 2]` in [0, 1]^2 (right, down) and target `[s n 3]` in [0, 1].
        """
        return drawn_pixels(self._pixels, self._centres, scenes, n, generator)

    def to(self, device: torch.device | str) -> Images:
        """The same with its pictures on `device`, where batches then come from; `generator` must be there too."""
        moved = copy.copy(self)
        moved._pixels, moved._centres = self._pixels.to(device), self._centres.to(device)
        return moved

    def reference(self, scene: int, split: str = "test") -> Tensor:
        """The picture `[h w 3]` float32 in [0, 1], on the CPU; an image has no splits, whatever `split` says."""
        count = self.height * self.width
        return unit(self._pixels[scene * count : (scene + 1) * count].cpu()).reshape(self.height, self.width, 3)


def _as_pixels(given: Any) -> Tensor:
    """Pictures as one tensor.

    Raises:
        InputError: a path, pictures of several sizes, or what is no picture.
    """
    if isinstance(given, str | PathLike):
        raise InputError(
            f"pixels: the path {str(given)!r:.100} came, wanted pictures; read a folder with hf.open_family"
        )
    try:
        if not isinstance(given, list | tuple) or not given:
            return torch.as_tensor(given)
        pictures = [_as_picture(picture) for picture in given]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"pixels: {type(given).__name__} came, wanted [s h w 3] or a list of [h w 3]") from error
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        several = ", ".join(str(list(size)) for size in sorted(sizes)[:3])
        raise InputError(f"pixels: pictures of {several} came, wanted one size; crop or resize them first")
    if len({picture.dtype for picture in pictures}) > 1:
        raise InputError("pixels: pictures of several types came, wanted all uint8 or all floats in [0, 1]")
    return torch.stack(pictures)


def _as_picture(given: Any) -> Tensor:
    if hasattr(given, "getbands"):  # of PIL
        clear = "A" in given.getbands() or "transparency" in given.info  # refused later, by its four channels
        return torch.from_numpy(np.array(given.convert("RGBA" if clear else "RGB")))
    return torch.as_tensor(given)


def at_centres(dataset: SceneDataset, size: tuple[int, int]) -> bool:
    """True if samples of images are drawn at the centres of the pixels of pictures of this size (height, width).

    Some scenes are looked at, and each of several data sets behind one another.
    """
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    if len(parts) > 1:
        return all(at_centres(part, size) for part in parts)
    count = len(dataset.names)
    probe = torch.linspace(0, count - 1, min(count, SCENES)).round().long()
    drawn = dataset.batch(probe, SAMPLES, torch.Generator().manual_seed(0))
    if not isinstance(drawn, Points) or drawn.x.shape[-1] != 2:
        return False
    places = drawn.x * drawn.x.new_tensor([size[1], size[0]]) - 0.5
    return bool(((places - places.round()).abs() < 1e-3).all())


def pixel_centres(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of pixels (right, down) in [0, 1]^2, row by row: `[h * w, 2]`."""
    v, u = torch.meshgrid(
        (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height,
        (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack((u, v), dim=-1).reshape(-1, 2)


def drawn_pixels(pixels: Tensor, centres: Tensor, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
    """The batch of `Images`, of pictures that lie one after another in `pixels` `[s * h * w, 3]`."""
    count = len(centres)
    if n >= count:
        index = torch.arange(count, device=scenes.device).expand(len(scenes), count)
    else:
        index = torch.randint(count, (len(scenes), n), generator=generator, device=generator.device)
    return Points(*gather_pairs((centres, 0), (pixels, count), scenes, index))
