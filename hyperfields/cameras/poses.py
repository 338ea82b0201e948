"""Poses of cameras: where they look, what is up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.errors import InputError

Vector = Tensor | Sequence[float]  # or an array


def look_at(position: Vector, target: Vector, up: Vector | None = None) -> Tensor:
    """`T_world_camera` `[4 4]` (OpenCV) of a camera at `position` `[3]` that looks at `target` `[3]`.

    up: default +Z, and +Y for a camera that looks straight up or down.

    Raises:
        InputError: when the viewing direction is zero or parallel to an `up` that was given.
    """
    position, target = (as_tensor(n, v, (3,)).float() for n, v in (("position", position), ("target", target)))
    forward = target - position
    if up is None:
        level = float(forward[:2].norm()) >= 1e-8 * (1.0 + float(forward.norm()))
        up = forward.new_tensor([0.0, 0.0, 1.0] if level else [0.0, 1.0, 0.0])
    up = as_tensor("up", up, (3,)).to(forward)
    right = torch.linalg.cross(forward, up)
    if float(right.norm()) < 1e-8 * (1.0 + float(forward.norm())):
        raise InputError(f"look_at: direction {forward.tolist()} is zero or parallel to up {up.tolist()}")
    forward, right = forward / forward.norm(), right / right.norm()
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, torch.linalg.cross(forward, right), forward
    pose[:3, 3] = position
    return pose


def turned_to(up: Sequence[float]) -> Tensor | None:
    """The rotation `[3 3]` that takes +Z to the direction `up` the shortest way; None where that is +Z."""
    axis = torch.nn.functional.normalize(torch.tensor([float(value) for value in up], dtype=torch.float64), dim=0)
    if float(axis[2]) > 1.0 - 1e-12:
        return None
    if float(axis[2]) < -1.0 + 1e-12:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]], dtype=torch.float64)
    turn: Tensor = torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1.0 + z)
    return turn.float()


def as_tensor(name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
    """A tensor as it is, an array or a list as float32.

    Raises:
        InputError: another shape, or what holds no numbers.
    """
    try:
        tensor = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, dtype=np.float32))
    except (TypeError, ValueError):
        raise InputError(f"{name}: {given!r:.60} came, wanted numbers {list(shape)}") from None
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name}: shape {list(tensor.shape)} came, wanted {list(shape)}")
    return tensor
