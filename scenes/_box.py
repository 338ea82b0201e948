"""What a transforms file says about the box of its scene and what is up; without that, `data.boxes` finds them."""

from __future__ import annotations

import numpy as np

from hyperfields.data.boxes import Box
from hyperfields.scenes._frames import Hints

NGP_SCALE, NGP_OFFSET = 0.33, 0.5  # instant-ngp's, where the file gives none


def hinted_box(hints: Hints) -> Box | None:
    """The box by instant-ngp's scale and offset: p * scale + offset lies in a cube of side aabb_scale round 0.5."""
    if hints.scale is None and hints.offset is None:
        return None
    scale = NGP_SCALE if hints.scale is None else hints.scale
    offset = np.full(3, NGP_OFFSET) if hints.offset is None else hints.offset
    x, y, z = ((0.5 - offset) / scale).tolist()
    return Box(0.5 * (hints.aabb_scale or 1.0) / scale, (x, y, z), "from scale, offset and aabb_scale")


def largest_box(hints: Hints) -> Box | None:
    """The box that a scene is not larger than, by aabb_scale alone."""
    if hints.aabb_scale is None:
        return None
    return Box(0.5 * hints.aabb_scale / NGP_SCALE, how="from aabb_scale")


def hinted_up(hints: Hints) -> tuple[float, float, float] | None:
    """The direction that is up, where the file gives one."""
    if hints.up is None or np.linalg.norm(hints.up) == 0.0:
        return None
    x, y, z = (hints.up / np.linalg.norm(hints.up)).tolist()
    return x, y, z
