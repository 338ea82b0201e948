"""Paths through latent space: their shapes, and the places at which something that changes along them is even."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hyperfields.errors import InputError

MODES = ("lerp", "slerp", "smooth")


def interpolate(codes: Tensor, frames: int, mode: str = "lerp") -> Tensor:
    """A path through the codes `[c z]` -> `[frames z]`, evenly spaced, ends included.

    `lerp` is straight, from code to code; `slerp` turns directions and interpolates lengths (Shoemake 1985); `smooth`
    is a curve without corners through all codes (centripetal Catmull-Rom).

    Raises:
        ValueError: fewer than two codes or frames.
        InputError: an unknown mode.
    """
    if codes.shape[0] < 2 or frames < 2:
        raise ValueError(f"interpolate: got {codes.shape[0]} codes and {frames} frames, wanted at least 2 of each")
    return path_at(codes, torch.linspace(0.0, codes.shape[0] - 1.0, frames, device=codes.device), mode)


def path_at(codes: Tensor, places: Tensor, mode: str = "lerp") -> Tensor:
    """Codes `[n z]` at places `[n]` of the path through codes `[c z]`: place 1 is the second code, 1.5 between it and
    the third. See `interpolate`.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"interpolate mode {mode!r:.60}: wanted 'lerp', 'slerp' or 'smooth'")
    first = places.long().clamp(max=codes.shape[0] - 2)
    t = (places - first)[:, None].to(codes)
    if mode != "smooth":
        return point_between(codes[first], codes[first + 1], t, mode)
    length, slopes = _tangents(codes)
    a, b, change = codes[first], codes[first + 1], codes[first + 1] - codes[first]
    start, end = (length[first, None] * slope - change for slope in (slopes[first], slopes[first + 1]))
    curve: Tensor = a + t * (b - a) + t * (1.0 - t) * ((1.0 - t) * start - t * end)  # Hermite
    return curve


def _tangents(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the stretches `[c-1]` in the parameter of the curve, the root of the distance of their ends, and the
    slopes in the codes `[c z]`.

    Yuksel, Schaefer, Keyser 2011, "Parameterization and applications of Catmull-Rom curves": with this parameter the
    curve has no loops and no cusps. At the ends it is not bent.
    """
    steps = codes.diff(dim=0)
    length = steps.norm(dim=-1).sqrt().clamp(min=1e-6)
    pace = steps / length[:, None]
    if len(pace) == 1:
        return length, pace.repeat(2, 1)
    before, after = length[:-1, None], length[1:, None]
    inner = (after * pace[:-1] + before * pace[1:]) / (before + after)
    first, last = 1.5 * pace[:1] - 0.5 * inner[:1], 1.5 * pace[-1:] - 0.5 * inner[-1:]
    return length, torch.cat((first, inner, last))


def even_places(steps: Tensor, frames: int) -> Tensor:
    """Places `[frames]` in [0, 1] that divide a way evenly, ends included.

    steps: how far it goes between m + 1 places at even distances, `[m]`, none negative. Where it goes nowhere at all,
    or a step is not finite, the places are at even distances.

    Zhang et al. 2024, DiffMorpher, section 3.6: the cumulative length of the way, inverted.
    """
    way = np.concatenate(([0.0], np.cumsum(steps.detach().double().cpu().numpy())))
    even = np.linspace(0.0, 1.0, frames)
    if not np.isfinite(way[-1]) or not way[-1] > 0.0:
        return torch.from_numpy(even).float()
    return torch.from_numpy(np.interp(even * way[-1], way, np.linspace(0.0, 1.0, len(way)))).float()


def point_between(a: Tensor, b: Tensor, t: Tensor, mode: str = "lerp") -> Tensor:
    """Codes `[n z]` at `t` `[n 1]` of the ways from `a` to `b` `[n z]`: 0 is a, 1 is b; beyond them the way goes on.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in ("lerp", "slerp"):
        raise InputError(f"interpolate mode {mode!r:.60}: wanted 'lerp' or 'slerp'")
    if mode == "lerp":
        return a + t * (b - a)
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / length_a.clamp(min=1e-12), b / length_b.clamp(min=1e-12)
    angle = torch.acos((unit_a * unit_b).sum(-1, keepdim=True).clamp(-1.0, 1.0))
    sine = torch.sin(angle)
    turned = (torch.sin((1.0 - t) * angle) * unit_a + torch.sin(t * angle) * unit_b) / sine.clamp(min=1e-6)
    direction: Tensor = torch.where(sine > 1e-6, turned, unit_a + t * (unit_b - unit_a))
    path: Tensor = direction * (length_a + t * (length_b - length_a))
    return path
