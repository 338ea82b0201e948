"""Rows of tables and rays of pixels, as data sets draw them."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops import dispatch


def gather_pairs(
    first: tuple[Tensor, int],  # [k a], rows of a scene
    second: tuple[Tensor, int],  # [m b], rows of a scene
    scenes: Tensor,  # [s] int64
    index: Tensor,  # [s n] int64
) -> tuple[Tensor, Tensor]:  # [s n a], [s n b]
    """Rows `scene * each + index` of two tables; rows `index` of one that all scenes share, which has 0 a scene.

    As float32, of bytes their share of 255. On our threads where all is on the CPU. Not differentiable.

    Raises:
        IndexError: a row that a table has not (on the CPU).
        ValueError: rows for another number of scenes; tables that require a gradient.
    """
    dispatch.require_shape("index", index, len(scenes), index.shape[-1])
    dispatch.require_no_gradient("gather_pairs has no derivative in its tables", first[0], second[0])
    tensors = (first[0], second[0], scenes, index)
    if any(t.device.type != "cpu" for t in tensors) or dispatch.why_unavailable("cpu"):
        return _rows(*first, scenes, index), _rows(*second, scenes, index)
    from hyperfields.ops import _cpu

    return _cpu.gather_pairs_cpu(first, second, scenes, index)


def _rows(table: Tensor, each: int, scenes: Tensor, index: Tensor) -> Tensor:
    return unit(table.index_select(0, (scenes[:, None] * each + index).reshape(-1))).reshape(*index.shape, -1)


def unit(pixels: Tensor) -> Tensor:
    """Numbers as they are, bytes as floats in [0, 1]."""
    return pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels


def drawn_pixels(
    drawn: Tensor,  # [s n] float64 in [0, 1)
    counts: Tensor,  # [c] int64, pixels of each scene
    first: Tensor,  # [c] int64, where they begin
    scenes: Tensor,  # [s] int64
    valid: Tensor | None,  # [v] int64, which of all pixels count; None: all
    pixels: Tensor,  # [p] int32, of all pictures, one after another
    starts: Tensor,  # [i] int64, first pixel of each picture
    area: int | None,  # pixels of every picture, where that is the same
) -> tuple[Tensor, Tensor, Tensor]:  # [m] int32, [m] int64, [m] int32
    """Pixels at `drawn` of the way through those of their scenes, the numbers of their pictures, and their places in
    them, row by row. On our threads where all is on the CPU. Not differentiable.

    Raises:
        ValueError: numbers that are not drawn for each scene.
        IndexError: a pixel, or a scene, that there is not (on the CPU).
    """
    dispatch.require_shape("drawn", drawn, len(scenes), drawn.shape[-1])
    if drawn.device.type == "cpu" and not dispatch.why_unavailable("cpu"):
        from hyperfields.ops import _cpu

        return _cpu.drawn_pixels_cpu(drawn, counts, first, scenes, valid, pixels, starts, area)
    index = ((drawn * counts[scenes][:, None]).long() + first[scenes][:, None]).reshape(-1)
    if valid is not None:
        index = valid.index_select(0, index)
    return pixels.index_select(0, index), *image_and_pixel(index, starts, area)


def image_and_pixel(index: Tensor, starts: Tensor, area: int | None) -> tuple[Tensor, Tensor]:
    """Numbers `[m]` of pictures, and of their pixels (int32), of pixels that are counted over all pictures.

    Args:
        starts: `[p]`, first pixel of each picture.
        area: pixels of every picture, where that is the same.
    """
    if area is not None:
        image = torch.div(index, area, rounding_mode="floor")
        return image, (index - image * area).int()
    image = torch.searchsorted(starts, index, right=True) - 1
    return image, (index - starts.index_select(0, image)).int()


def pixel_rays(
    tables: Tensor,  # [p 12] float32, of each picture: see `data.PixelRays`
    widths: Tensor,  # [p] int32
    image: Tensor,  # [m] int64
    pixel: Tensor,  # [m] int32
) -> tuple[Tensor, Tensor]:  # origins and unit directions [m 3]
    """Rays of pixels of cameras without lenses: u * t[0:3] + v * t[3:6] + t[6:9], from t[9:12]. Not differentiable."""
    if tables.device.type == "cpu" and not dispatch.why_unavailable("cpu"):
        from hyperfields.ops import _cpu

        return _cpu.pixel_rays_cpu(tables, widths, image, pixel)
    v, u, table = *rows_and_columns(widths, image, pixel), tables.index_select(0, image)
    directions = torch.addcmul(table[:, 6:9], table[:, 0:3], u[:, None])
    directions.addcmul_(table[:, 3:6], v[:, None])
    directions /= torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    return table[:, 9:12].contiguous(), directions


def rows_and_columns(widths: Tensor, image: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Middles of pixels `[m]`: how far down and how far to the right, in pixels."""
    width = widths.index_select(0, image)
    row = torch.div(pixel, width, rounding_mode="floor")
    return row.float() + 0.5, (pixel - row * width).float() + 0.5
