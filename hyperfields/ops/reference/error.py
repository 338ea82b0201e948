"""Definition of `pixel_error`."""

from __future__ import annotations

from torch import Tensor


def pixel_error(rgb: Tensor, alpha: Tensor, rgba: Tensor, haze: float) -> Tensor:
    """Errors `[s r]` of premultiplied colours `[s r 3]` and opacities `[s r]` against straight colours `[s r 4]`."""
    on_black, denser = rgb - rgba[..., :3] * rgba[..., 3:], alpha - rgba[..., 3]
    squares = on_black.square() + (on_black - denser[..., None]).square()
    return 0.5 * squares.mean(-1) + haze * denser.abs()
