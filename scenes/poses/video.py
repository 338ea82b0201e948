"""Frames of a video: the sharpest of each of as many equal stretches of time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperfields.errors import InputError
from hyperfields.scenes._common import one_line

FRAMES = 60
JUDGED = 480  # pixels of the longer side that sharpness is judged at


def write_frames(
    video: Path, count: int, images: Path, progress: Callable[[int, int, str], None]
) -> dict[str, tuple[int, int]]:
    """Write the sharpest frame of each of `count` stretches, upright; name -> (height, width).

    Raises:
        InputError: `av` is missing, the file is no video or shorter than `count` frames.
    """
    try:
        import av
    except ImportError:
        raise InputError(f"{video}: reading a video needs av; pip install 'hyperfields[captures]'") from None
    sizes: dict[str, tuple[int, int]] = {}
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise InputError(f"{video}: holds no pictures, only {', '.join(s.type for s in container.streams)}")
            stream: Any = container.streams.video[0]
            stream.thread_type = "AUTO"
            seconds = _length(container, stream)
            best: tuple[float, Any] | None = None
            current, seen = 0, 0
            for frame in container.decode(stream):
                at = float(frame.time or 0.0) - float((stream.start_time or 0) * stream.time_base)
                window = min(int(at / seconds * count), count - 1)
                if window > current and best is not None:
                    _write(best[1], images, len(sizes), sizes)
                    best = None
                current = max(window, current)
                sharp = sharpness(_grey(frame))
                if best is None or sharp > best[0]:
                    best = sharp, frame
                seen += 1
                progress(min(round(1000 * at / seconds), 999), 1000, f"{len(sizes) + 1} of {count} frames")
            if best is not None:
                _write(best[1], images, len(sizes), sizes)
            progress(1000, 1000, f"{len(sizes)} of {count} frames")
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{video}: not a readable video ({one_line(error)}); convert it to .mp4 (H.264)") from error
    if len(sizes) < count:
        raise InputError(
            f"{video}: has {seen} frames, in {len(sizes)} of {count} stretches; ask for less with --frames"
        )
    return sizes


def _length(container: Any, stream: Any) -> float:
    """Seconds that a video takes."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration) / 1e6
    raise InputError(f"{container.name}: does not say how long it is; convert it to .mp4 (H.264)")


def _grey(frame: Any) -> NDArray[np.float32]:
    scale = min(1.0, JUDGED / max(frame.width, frame.height))
    small = frame.reformat(width=max(round(frame.width * scale), 2), height=max(round(frame.height * scale), 2))
    return np.asarray(small.to_ndarray(format="gray"), dtype=np.float32)


def sharpness(grey: NDArray[np.float32]) -> float:
    """Variance of the Laplacian of a picture `[h w]`: low where it is blurred (Pech-Pacheco 2000)."""
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4.0 * inner).var()) if inner.size else 0.0


def _write(frame: Any, images: Path, number: int, sizes: dict[str, tuple[int, int]]) -> None:
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as numpy's
    pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    name = f"frame_{number:04}.jpg"
    Image.fromarray(pixels).save(images / name, "JPEG", quality=95, subsampling=0)
    sizes[name] = pixels.shape[0], pixels.shape[1]
