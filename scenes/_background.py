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
    rgb = picture[..., :3]
    red, green, blue = np.moveaxis(np.abs(rgb.astype(np.int16) - np.array(color, dtype=np.int16)), -1, 0)
    off = np.maximum(np.maximum(red, green), blue)
    clear = _clear(off <= _tolerance(off))
    edge = ~clear & _spread(clear)
    cut = picture.copy()
    cut[..., 3] = 255
    cut[clear] = 0
    mixed, straight = _unmixed(rgb, edge, ~clear & ~edge, np.array(color, dtype=np.float32))
    cut[mixed] = straight
    return cut


def _unmixed(
    rgb: NDArray[np.uint8], edge: NDArray[np.bool_], inner: NDArray[np.bool_], behind: NDArray[np.float32]
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], Pixels]:
    """Places of the pixels of `edge` that are mixed of the background and of what is in `inner`, and their rgba."""
    v, u = np.nonzero(edge)
    colors, inside = np.pad(rgb, ((2, 2), (2, 2), (0, 0))), np.pad(inner, 2)
    own = rgb[v, u].astype(np.int16)
    alike = np.zeros(len(v), dtype=bool)  # to one of the 5 x 5 neighbours in `inner`: edges that are not soft
    weight, total = np.zeros(len(v), np.float32), np.zeros((len(v), 3), np.float32)
    for j in range(5):
        for i in range(5):
            near, counts = colors[v + i, u + j], inside[v + i, u + j]
            alike |= counts & (np.abs(near - own).max(-1) <= SPREAD)
            weight += counts
            total += near * counts[:, None]
    own, across = own.astype(np.float32), total / np.maximum(weight, 1.0)[:, None] - behind
    length = np.square(across).sum(-1)
    share = ((own - behind) * across).sum(-1) / np.maximum(length, 1e-9)
    alpha = np.clip(share, 0.0, 1.0)
    # A mixed colour further from the background than its inside is not mixed; and straight colours stay in range.
    straight = (own - (1.0 - alpha[:, None]) * behind) / np.maximum(alpha, 1e-3)[:, None]
    good = (straight.min(-1, initial=0.0) >= -2.0) & (straight.max(-1, initial=0.0) <= 257.0)
    mixed = (weight > 0.0) & (length > 0.0) & ~alike & good
    straight = np.where((alpha > 0.0)[:, None], straight, 0.0)
    rgba = np.concatenate((straight, alpha[:, None] * 255.0), axis=-1)[mixed]
    return (v[mixed], u[mixed]), np.asarray(np.clip(rgba, 0.0, 255.0) + 0.5, dtype=np.uint8)


def _tolerance(off: NDArray[np.int16]) -> int:
    """How far the background strays on the border: 1 level where it is exact, more after JPEG.

    off: `[h w]`, largest difference of a channel from its colour.
    """
    border = np.concatenate((off[0], off[-1], off[1:-1, 0], off[1:-1, -1]))
    return max(1, int(border[border <= SPREAD].max(initial=0)))


def _clear(alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of `alike` in patches that touch the border, or are large."""
    patch = _patches(alike)
    sizes = np.bincount(patch[alike], minlength=alike.size)
    kept = sizes >= max(HOLE * alike.size, 4.0)
    for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]):
        kept[edge[edge >= 0]] = True
    return alike & kept[np.where(alike, patch, 0)]


def _patches(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the patch (4 neighbours) of each pixel; -1 outside of `mask`.

    Unbroken runs of the rows get numbers, and then the lowest one of those that they touch above and below.
    """
    first = mask.copy()
    first[:, 1:] &= ~mask[:, :-1]
    run = np.cumsum(first).reshape(mask.shape) - 1
    both = mask[1:] & mask[:-1]
    touch = both.copy()
    touch[:, 1:] &= ~both[:, :-1]
    above, below = run[:-1][touch], run[1:][touch]
    label = np.arange(max(int(run[-1, -1]) + 1, 1))
    while True:
        lowest, new = np.minimum(label[above], label[below]), label.copy()
        np.minimum.at(new, above, lowest)
        np.minimum.at(new, below, lowest)
        new = new[new]
        if np.array_equal(new, label):
            return np.where(mask, label[run], -1)
        label = new


def _spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and its 8 neighbours."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
