"""Packed points on the device: which scene, and which of its points, a program works on, without asking the host."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 512  # of a launch at least, where there are enough points: a few for each multiprocessor of a large card
SCENES = 1024  # that `cut_scenes` looks at at a time


class Pieces(NamedTuple):
    """Packed points cut into pieces that stay within a scene; a program works on one, tile by tile."""

    number: int  # at least as many as there are; the others are empty
    size: int  # points of a piece, at most
    first: Tensor  # [s + 1] int64: the first piece of each scene
    starts: Tensor  # [s + 1] int64: the first point of each scene


def pieces_of(counts: Tensor, points: int, tile: int, most: int) -> Pieces:
    """Pieces of the `points` points; `counts [s]` is on the device and is not read here.

    Large pieces share what a program reads and adds; small ones give every multiprocessor something to do.

    Args:
        tile: points that a program works on at a time, a power of two.
        most: points of a piece, a power of two.
    """
    size, scenes = max(tile, min(power_of_two(max(points // PROGRAMS, 1)), most)), counts.shape[0]
    first, starts = (torch.empty(scenes + 1, dtype=torch.int64, device=counts.device) for _ in range(2))
    with launching_on(counts):
        cut_scenes[(1,)](counts.contiguous(), first, starts, scenes, size, BLOCK=SCENES, num_warps=4)
    return Pieces(-(-points // size) + scenes, size, first, starts)


def launching_on(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def power_of_two(size: int, least: int = 16) -> int:
    """The smallest power of two that holds `size`: lengths of ranges in kernels are powers of two."""
    return max(least, 1 << (size - 1).bit_length())


@triton.jit(do_not_specialize=["scenes", "size"])
def cut_scenes(counts, first, starts, scenes, size, BLOCK: tl.constexpr):
    """Running sums of the points and of the pieces of scenes: one launch, where torch would take ten."""
    lane = tl.arange(0, BLOCK)
    points, pieces = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    tl.store(starts, points)
    tl.store(first, pieces)
    for begin in range(0, scenes, BLOCK):
        scene = begin + lane
        count = tl.load(counts + scene, scene < scenes, 0)
        cut = (count + (size - 1)) // size
        tl.store(starts + 1 + scene, points + tl.cumsum(count, 0), scene < scenes)
        tl.store(first + 1 + scene, pieces + tl.cumsum(cut, 0), scene < scenes)
        points += tl.sum(count, 0)
        pieces += tl.sum(cut, 0)


@triton.jit
def find_piece(first, starts, scenes, size):
    """(scene, begin, end) of this program's piece; begin == end when there is none for it."""
    piece = tl.program_id(0)
    low, high = scenes * 0, scenes
    while high - low > 1:  # first[low] <= piece < first[high], or there are no more pieces
        middle = (low + high) // 2
        before = tl.load(first + middle) <= piece
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    begin = tl.load(starts + low) + (piece - tl.load(first + low)) * size
    stop = tl.load(starts + low + 1)
    begin = tl.minimum(begin, stop)
    return low.to(tl.int64), begin, tl.minimum(begin + size, stop)


@triton.jit
def load_rows(source, point, live, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """Rows `point [n]` of `source [m COLUMNS]`: `[n PADDED]`, zeros where there is nothing."""
    column = tl.arange(0, PADDED)
    mask = live[:, None] & (column[None, :] < COLUMNS)
    return tl.load(source + point[:, None] * COLUMNS + column[None, :], mask, 0.0)


@triton.jit
def store_rows(target, value, point, live, COLUMNS: tl.constexpr, PADDED: tl.constexpr):
    """`value [n PADDED]` to rows `point [n]` of `target [m COLUMNS]`."""
    column = tl.arange(0, PADDED)
    mask = live[:, None] & (column[None, :] < COLUMNS)
    tl.store(target + point[:, None] * COLUMNS + column[None, :], value.to(target.dtype.element_ty), mask)
