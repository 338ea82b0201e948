"""Packed points on the device: which scene, and which of its points, a program works on, without asking the host."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Pieces(NamedTuple):
    """Packed points cut into pieces that stay within a scene."""

    number: int  # at least as many as there are; the others are empty
    first: Tensor  # [s + 1] int64: the first piece of each scene
    starts: Tensor  # [s + 1] int64: the first point of each scene


def pieces_of(counts: Tensor, points: int, size: int) -> Pieces:
    """Pieces of at most `size` of the `points` points; `counts [s]` is on the device and is not read here."""
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    first = torch.nn.functional.pad(((counts + (size - 1)) // size).cumsum(0), (1, 0))
    return Pieces(-(-points // size) + counts.shape[0], first, starts)


def launching_on(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def power_of_two(size: int, least: int = 16) -> int:
    """The smallest power of two that holds `size`: lengths of ranges in kernels are powers of two."""
    return max(least, 1 << (size - 1).bit_length())


@triton.jit
def find_piece(first, starts, scenes, SIZE: tl.constexpr):
    """(scene, begin, end) of this program's piece; begin == end when there is none for it."""
    piece = tl.program_id(0)
    low, high = scenes * 0, scenes
    while high - low > 1:  # first[low] <= piece < first[high], or there are no more pieces
        middle = (low + high) // 2
        before = tl.load(first + middle) <= piece
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    begin = tl.load(starts + low) + (piece - tl.load(first + low)) * SIZE
    stop = tl.load(starts + low + 1)
    begin = tl.minimum(begin, stop)
    return low.to(tl.int64), begin, tl.minimum(begin + SIZE, stop)


@triton.jit
def load_rows(source, point, live, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """Rows `point [n]` of `source [m COLUMNS]`: `[n PADDED]`, zeros where there is nothing."""
    column = tl.arange(0, PADDED)
    there = live[:, None] & (column[None, :] < COLUMNS)
    return tl.load(source + point[:, None] * COLUMNS + column[None, :], there, 0.0)


@triton.jit
def store_rows(target, value, point, live, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """`value [n PADDED]` to rows `point [n]` of `target [m COLUMNS]`."""
    column = tl.arange(0, PADDED)
    there = live[:, None] & (column[None, :] < COLUMNS)
    tl.store(target + point[:, None] * COLUMNS + column[None, :], value.to(target.dtype.element_ty), there)
