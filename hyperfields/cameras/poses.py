"""Poses of cameras: where they look, what is up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.errors import InputError

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV's camera axes <-> OpenGL's
FARTHEST = 1e6  # of the numbers of a pose in a file
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


def quaternions(rotations: Tensor) -> Tensor:
    """`[n 3 3]` -> w x y z `[n 4]`, of length 1, float64.

    Each row of 4 q q^T is a multiple of q: the one with the largest diagonal loses no digits (Shepperd 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotations.double().unbind(-2))
    outer = torch.stack(
        (
            torch.stack((1 + a + e + i, h - f, c - g, d - b), -1),
            torch.stack((h - f, 1 + a - e - i, b + d, c + g), -1),
            torch.stack((c - g, b + d, 1 - a + e - i, f + h), -1),
            torch.stack((d - b, c + g, f + h, 1 - a - e + i), -1),
        ),
        -2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return torch.nn.functional.normalize(outer[torch.arange(len(outer)), largest], dim=-1)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """w x y z `[n 4]` of length 1 -> `[n 3 3]`."""
    w, x, y, z = quaternions.unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)), -1),
        torch.stack((2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)), -1),
        torch.stack((2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)


def from_opengl(matrices: list[list[float]]) -> Tensor:
    """Poses of OpenGL cameras, 16 numbers each, row by row -> `T_world_camera` `[n 4 4]` (OpenCV), exactly rigid.

    Raises:
        ValueError: not 16 finite numbers, or no rotation in them.
    """
    if any(len(matrix) != 16 for matrix in matrices):
        raise ValueError("wanted 16 finite numbers")
    given = torch.tensor(matrices, dtype=torch.float32).reshape(-1, 4, 4)
    if not bool((given.abs() <= FARTHEST).all()):  # not so for nan either
        raise ValueError("wanted 16 finite numbers")
    left, scale, right = torch.linalg.svd(given[:, :3, :3])
    rotation = left @ right
    if float(scale.min()) < 1e-4 or float(torch.linalg.det(rotation).min()) < 0.0:
        raise ValueError("wanted a rotation")
    poses = torch.eye(4).repeat(len(given), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotation, given[:, :3, 3]
    return poses @ FLIP


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
