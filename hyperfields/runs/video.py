"""Animations as files."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix, write_atomically
from hyperfields.runs.images import as_bytes

ANIMATION_SUFFIXES = (".gif", ".mp4")


def write_animation(path: str | Path, frames: Iterable[Tensor], fps: float = 24.0) -> None:
    """Write `frames`, each `[h w 3]` in [0, 1], as .gif (repeats for ever) or .mp4 (H.264).

    A .gif has 256 colours a frame and times in 1/100 s, no frame under 2/100 s; equal neighbours become one
    long frame. An .mp4 needs even sides: an odd one repeats its last row or column.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written, no `av` for an .mp4.
        ValueError: when there are no frames, or they differ in size or are not `[h w 3]`.
    """
    path = Path(path)
    suffix = require_suffix(path, ANIMATION_SUFFIXES, "an animation")
    if not fps > 0.0:
        raise ValueError(f"write_animation: fps {fps} must be above 0")
    arrays = _same_sized(frames)  # one after another: of a film only what is written already is in memory
    write_atomically(path, _gif(arrays, fps) if suffix == ".gif" else _mp4(arrays, fps))


def _same_sized(frames: Iterable[Tensor]) -> Iterator[NDArray[np.uint8]]:
    shape = None
    for i, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[-1] != 3:
            raise ValueError(f"write_animation: frame {i} is {list(frame.shape)}, must be [h w 3]")
        array = as_bytes(frame)
        shape = shape or array.shape
        if array.shape != shape:
            raise ValueError(f"write_animation: frame {i} is {array.shape[:2]}, the first is {shape[:2]}")
        yield array
    if shape is None:
        raise ValueError("write_animation: no frames")


def _gif(frames: Iterator[NDArray[np.uint8]], fps: float) -> bytes:
    from PIL import Image

    # Each frame its own palette, from its own colours; without dithering still parts stay still.
    pictures = [Image.fromarray(f).quantize(256, Image.Quantize.MEDIANCUT) for f in frames]
    # Times are whole 1/100 s: rounding the end of each frame keeps the speed right on average.
    ends = [round(100.0 * (i + 1) / fps) for i in range(len(pictures))]
    times = [10 * max(b - a, 2) for a, b in itertools.pairwise([0, *ends])]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _mp4(frames: Iterator[NDArray[np.uint8]], fps: float) -> bytes:
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"av, which .mp4 needs, cannot be imported ({error}): pip install 'hyperfields[video]', or write a .gif"
        ) from error
    first = next(frames)
    height, width = first.shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"  # the only layout that every player shows
        for frame in itertools.chain([first], frames):
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
