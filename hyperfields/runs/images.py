"""Pictures as files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.runs.atomic import require_suffix, write_atomically

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_image(path: str | Path, image: Tensor) -> None:
    """Write `image` `[h w 3 | 4]` in [0, 1] (straight alpha), clamped, as 8-bit .png, .jpg or .webp.

    A .webp is lossless. A .jpg has no alpha: the image is laid over white.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written.
        ValueError: for another shape.
    """
    path = Path(path)
    from PIL import Image

    suffix = require_suffix(path, IMAGE_SUFFIXES, "an image")
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError(f"write_image: image {list(image.shape)} must be [h w 3] or [h w 4]")
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


def png(image: Tensor) -> bytes:
    """`image` `[h w 3 | 4]` in [0, 1], clamped, as the content of an 8-bit .png."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(as_bytes(image)).save(buffer, "PNG")
    return buffer.getvalue()


def as_bytes(image: Tensor) -> NDArray[np.uint8]:
    """Colours in [0, 1] as 8 bits, rounded and clamped."""
    pixels: NDArray[np.uint8] = (image.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    return pixels
