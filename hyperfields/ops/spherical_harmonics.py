"""Real spherical harmonics, band by band, as plain arithmetic: on tensors, and on numbers in compiled kernels.

Source: Sloan 2008, "Stupid spherical harmonics tricks", appendix A2.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", Tensor, float)
Columns = tuple[T, ...]


def band0(x: T, y: T, z: T) -> Columns[T]:
    return (0.0 * x + 0.28209479177387814,)


def band1(x: T, y: T, z: T) -> Columns[T]:
    return -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x


def band2(x: T, y: T, z: T) -> Columns[T]:
    return (
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (3.0 * z * z - 1.0),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (x * x - y * y),
    )


def band3(x: T, y: T, z: T) -> Columns[T]:
    return (
        -0.5900435899266435 * y * (3.0 * x * x - y * y),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (5.0 * z * z - 1.0),
        0.3731763325901154 * z * (5.0 * z * z - 3.0),
        -0.4570457994644658 * x * (5.0 * z * z - 1.0),
        1.445305721320277 * z * (x * x - y * y),
        -0.5900435899266435 * x * (x * x - 3.0 * y * y),
    )


BANDS = (band0, band1, band2, band3)


def spherical_harmonics(d: Tensor, degree: int) -> Tensor:
    """d `[... 3]`, unit -> `[... degree^2]`, degree 1 to 4; columns run l = 0 ... degree - 1, m = -l ... l."""
    columns = itertools.chain(*(band(*d.unbind(-1)) for band in BANDS[:degree]))
    return torch.stack(list(columns), -1)
