"""Paths through latent space."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.errors import InputError


def interpolate(codes: Tensor, frames: int, mode: str = "lerp") -> Tensor:
    """A path through the codes `[c z]` -> `[frames z]`, evenly spaced, ends included.

    `lerp` is straight; `slerp` turns directions and interpolates lengths (Shoemake 1985).

    Raises:
        ValueError: fewer than two codes or frames.
        InputError: an unknown mode.
    """
    if codes.shape[0] < 2 or frames < 2:
        raise ValueError(f"interpolate: got {codes.shape[0]} codes and {frames} frames, wanted at least 2 of each")
    place = torch.linspace(0.0, codes.shape[0] - 1.0, frames, device=codes.device)
    first = place.long().clamp(max=codes.shape[0] - 2)
    t = (place - first)[:, None].to(codes)
    return point_between(codes[first], codes[first + 1], t, mode)


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
