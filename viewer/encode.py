"""Pictures as bytes for a browser."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor


def jpeg(image: Tensor, quality: int = 90) -> bytes:
    """`[h w 3]` in [0, 1] as JPEG; from quality 90 on, colours at full resolution."""
    return _save(image, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)


def png(image: Tensor) -> bytes:
    """`[h w 3]` in [0, 1] as PNG, without loss."""
    return _save(image, "PNG", compress_level=3)


def _save(image: Tensor, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    values = (image.clamp(0.0, 1.0) * 255.0).round().byte().contiguous().numpy()
    Image.fromarray(values).save(buffer, form, **options)
    return buffer.getvalue()
