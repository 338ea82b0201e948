"""Alpha of pictures without alpha, from a background of one colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from hyperfields.errors import InputError

Color = tuple[int, int, int]  # 0 to 255
SCENE = "scene"  # a solid surrounding: every pixel shows the scene
EVEN = 0.98  # share of the border pixels of all pictures that have the background's colour ...
SPREAD = 8  # ... within so many levels, as JPEG leaves them
HOLE = 0.002  # share of a picture from which an enclosed patch of the colour is a hole, not a part that looks alike

Pixels = NDArray[np.uint8]  # straight rgba


def parse_background(text: str) -> Color | None:
    """The colour of `white`, `#808080` and the like; None for "scene".

    Raises:
        InputError: no colour.
    """
    if text == SCENE:
        return None
    try:
        color = ImageColor.getrgb(text)
    except ValueError:
        raise InputError(
            f"--background {text!r}: wanted white, black, a colour like #8090a0, or scene (nothing is behind)"
        ) from None
    if len(color) != 3:
        raise InputError(f"--background {text!r}: has alpha; wanted a solid colour like #8090a0")
    return color[0], color[1], color[2]


def share_of(color: Color, border: NDArray[np.uint8]) -> float:
    """Share of border pixels `[n 3]` that have about this colour."""
    return float((np.abs(border.astype(np.int16) - color).max(axis=-1) <= SPREAD).mean()) if len(border) else 0.0


def background_text(color: Color) -> str:
    """A colour as `parse_background` reads it."""
    names = {(255, 255, 255): "white", (0, 0, 0): "black"}
    return names.get(color) or "#{:02x}{:02x}{:02x}".format(*color)


def border_pixels(picture: Pixels, counting: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Colours `[n 3]` along the edges of a picture `[h w 4]`, where its mask `[h w]` leaves them in."""
    if counting is not None:
        edge = np.zeros(picture.shape[:2], dtype=bool)
        edge[[0, -1]] = edge[:, [0, -1]] = True
        return picture[edge & counting][:, :3]
    return np.concatenate((picture[0], picture[1:-1, 0], picture[1:-1, -1], picture[-1]))[:, :3]


def border_color(border: NDArray[np.uint8]) -> Color | None:
    """The colour of nearly all border pixels `[n 3]` of opaque pictures; None where borders show the scene."""
    if not len(border):
        return None
    border = border.astype(np.int16)
    color = np.median(border, axis=0)
    even = (np.abs(border - color).max(axis=-1) <= SPREAD).mean()
    if even < EVEN:
        return None
    red, green, blue = (round(float(channel)) for channel in color)
    return red, green, blue


def cut_out(picture: Pixels, color: Color) -> Pixels:
    """An opaque picture `[h w 4]` with alpha 0 where the background is seen, and soft edges; straight colours.

    Laid over `color` it looks as before. Background are pixels of its colour that hang together with the border, and
    enclosed patches of them that are too large for a highlight. Pixels beside it are mixed: their alpha is the place of
    their colour between the background's and that of the pixels further inside.
    """
    rgb = picture[..., :3].astype(np.float32)
    behind = np.array(color, dtype=np.float32)
    alike = np.abs(rgb - behind).max(axis=-1) <= _tolerance(rgb, behind)
    clear = _clear(alike)
    edge = ~clear & _spread(clear)
    inner = (~clear & ~edge).astype(np.float32)
    weight = _sum5(inner)
    inside = _sum5(rgb * inner[..., None]) / np.maximum(weight, 1.0)[..., None]
    across = inside - behind
    length = np.square(across).sum(-1)
    mixed = edge & (weight > 0.0) & (length > 0.0) & ~_like_neighbour(rgb, inner > 0.0)
    share = ((rgb - behind) * across).sum(-1) / np.maximum(length, 1e-9)
    alpha = np.where(clear, 0.0, np.where(mixed, np.clip(share, 0.0, 1.0), 1.0))
    # A mixed colour further from the background than its inside is not mixed; and straight colours stay in range.
    straight = (rgb - (1.0 - alpha[..., None]) * behind) / np.maximum(alpha, 1e-3)[..., None]
    bad = (straight.min(-1) < -2.0) | (straight.max(-1) > 257.0)
    alpha, straight = np.where(bad & ~clear, 1.0, alpha), np.where((bad & ~clear)[..., None], rgb, straight)
    straight = np.where((alpha > 0.0)[..., None], straight, 0.0)
    result = np.concatenate((straight, alpha[..., None] * 255.0), axis=-1)
    return np.asarray(np.clip(result, 0.0, 255.0) + 0.5, dtype=np.uint8)


def _tolerance(rgb: NDArray[np.float32], behind: NDArray[np.float32]) -> float:
    """How far the background strays on the border: 1 level where it is exact, more after JPEG."""
    border = np.concatenate((rgb[0], rgb[-1], rgb[1:-1, 0], rgb[1:-1, -1]))
    off = np.abs(border - behind).max(axis=-1)
    off = off[off <= SPREAD]
    return float(max(1.0, off.max(initial=0.0)))


def _clear(alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of `alike` in patches that touch the border, or are large."""
    patch = _patches(alike)
    sizes = np.bincount(patch[alike], minlength=alike.size)
    kept = sizes >= max(HOLE * alike.size, 4.0)
    for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]):
        kept[edge[edge >= 0]] = True
    return alike & kept[np.where(alike, patch, 0)]


def _patches(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the patch (4 neighbours) of each pixel, the lowest index in it; -1 outside of `mask`."""
    label = np.where(mask, np.arange(mask.size).reshape(mask.shape), mask.size)
    while True:  # the lowest label of each unbroken run, along rows and columns in turn
        new = np.where(mask, _lowest(_lowest(label, mask).T, mask.T).T, mask.size)
        if np.array_equal(new, label):
            return np.asarray(np.where(mask, label, -1), dtype=np.int64)
        label = new


def _lowest(label: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The lowest label of the run in its row that a pixel is part of."""
    first = np.ones(mask.shape, dtype=bool)
    first[:, 1:] = mask[:, 1:] != mask[:, :-1]
    starts = np.flatnonzero(first)
    lowest = np.minimum.reduceat(np.ascontiguousarray(label).reshape(-1), starts)
    return np.asarray(np.repeat(lowest, np.diff(starts, append=mask.size)).reshape(mask.shape))


def _like_neighbour(rgb: NDArray[np.float32], inner: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that have the colour of one of their 5 x 5 neighbours in `inner`: edges that are not soft."""
    h, w = inner.shape
    colors, inside = np.pad(rgb, ((2, 2), (2, 2), (0, 0))), np.pad(inner, 2)
    alike = np.zeros((h, w), dtype=bool)
    for i in range(5):
        for j in range(5):
            near = np.abs(colors[i : i + h, j : j + w] - rgb).max(-1) <= SPREAD
            alike |= near & inside[i : i + h, j : j + w]
    return alike


def _spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and its 8 neighbours."""
    padded = np.pad(mask, 1)
    h, w = mask.shape
    return np.asarray(np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0))


def _sum5(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over the 5 x 5 neighbours of each pixel."""
    padded = np.pad(values, ((2, 2), (2, 2)) + ((0, 0),) * (values.ndim - 2))
    h, w = values.shape[:2]
    rows = np.sum([padded[i : i + h] for i in range(5)], axis=0)
    return np.asarray(np.sum([rows[:, j : j + w] for j in range(5)], axis=0), dtype=np.float32)
