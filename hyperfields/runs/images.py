"""Pictures as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix, write_atomically

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_image(path: str | Path, image: Tensor | NDArray[Any]) -> None:
    """Write `image` `[h w 3 | 4]`, or grey `[h w]` or `[h w 1]`, as 8-bit .png, .jpg or .webp.

    Floats in [0, 1] (straight alpha), clamped; uint8 from 0 to 255.

    A .webp is lossless. A .jpg has no alpha: the image is laid over white.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written, another shape or type, NaN.
    """
    path = Path(path)
    from PIL import Image

    suffix = require_suffix(path, IMAGE_SUFFIXES, "an image")
    image = as_colors(image)
    if image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 1):
        image = image.reshape(*image.shape[:2], 1).expand(-1, -1, 3)
    if image.ndim != 3 or image.shape[-1] not in (3, 4) or image.numel() == 0:
        raise InputError(f"write_image: image {list(image.shape)} must be [h w 3], [h w 4] or [h w]")
    if suffix in (".jpg", ".jpeg") and image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + (1.0 - image[..., 3:])
    picture = Image.fromarray(as_bytes(image))
    buffer = io.BytesIO()
    if suffix == ".png":
        buffer.write(png(image))
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    write_atomically(path, buffer.getvalue())


def as_colors(image: Tensor | NDArray[Any]) -> Tensor:
    """Colours as float32 on the CPU; uint8 becomes [0, 1].

    Raises:
        InputError: other integers, NaN, or what is no picture.
    """
    if not isinstance(image, Tensor | np.ndarray):
        raise InputError(f"image: {type(image).__name__} came, wanted a tensor or an array [h w 3]")
    image = torch.as_tensor(image).detach().cpu()
    if image.dtype == torch.uint8:
        return image.float() / 255.0
    if not image.is_floating_point():
        raise InputError(f"image: {image.dtype} came, wanted floats in [0, 1] or uint8 in [0, 255]")
    if bool(image.isnan().any()):
        raise InputError("image: NaN came, wanted floats in [0, 1] or uint8 in [0, 255]")
    return image.float()


def png(image: Tensor) -> bytes:
    """`image` `[h w 3 | 4]` in [0, 1], clamped, as the content of an 8-bit .png."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(as_bytes(image)).save(buffer, "PNG")
    return buffer.getvalue()


def as_bytes(image: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
    """Colours in [0, 1] as 8 bits, rounded and clamped; see `as_colors`."""
    pixels: NDArray[np.uint8] = (as_colors(image).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    return pixels
