"""Sequences: videos, shapes or views that change. A code a sequence; the hypernetwork is given the time.

    frame (sequence v at time t):   weights = hypernetwork([z_v, t])

A frame is a scene of an ordinary data set, so every reader serves; `FrameTimes` says which sequence it belongs to and
when. Any generator can read the time as one more dimension of the code; `Dynamic` lets weights evolve along it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence as NameList

import torch
from torch import Tensor, nn

from hyperfields.codes.source import Codes, CodesLoss, CodeSource, FitContext
from hyperfields.codes.table import LatentTable
from hyperfields.errors import InputError


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """Sequence of each frame (numbered from 0) and its time in [0, 1]: `[f]` int64 and `[f]`.

    Raises:
        InputError: lengths that differ, or times outside [0, 1].
    """

    sequence: Tensor
    time: Tensor

    def __post_init__(self) -> None:
        if self.sequence.shape != self.time.shape or self.time.dim() != 1 or len(self.time) == 0:
            shapes = f"sequences {tuple(self.sequence.shape)} and times {tuple(self.time.shape)}"
            raise InputError(f"FrameTimes: got {shapes}, wanted one of each a frame")
        if float(self.time.min()) < 0.0 or float(self.time.max()) > 1.0:
            raise InputError(f"FrameTimes: times from {float(self.time.min()):g} to {float(self.time.max()):g}, "
                             "wanted 0 to 1")  # fmt: skip


def frame_times_from_names(names: NameList[str]) -> FrameTimes:
    """Times of frames that are called NAME_NUMBER: a sequence a NAME, its first frame at 0, its last at 1.

    Raises:
        InputError: a name without a number at its end.
    """
    parts = [re.fullmatch(r"(.*?)[-_.]?(\d+)", name) for name in names]
    for name, found in zip(names, parts, strict=True):
        if found is None:
            raise InputError(f"scene {name!r}: wanted frames with a number at the end of their names, e.g. walk_007")
    split = [(found[1], int(found[2])) for found in parts if found is not None]
    stems = sorted({stem for stem, _ in split})
    ends = {stem: [number for other, number in split if other == stem] for stem in stems}
    times = [(number - min(ends[stem])) / max(max(ends[stem]) - min(ends[stem]), 1) for stem, number in split]
    return FrameTimes(torch.tensor([stems.index(stem) for stem, _ in split]), torch.tensor(times))


@dataclasses.dataclass(frozen=True)
class Sequence(Codes):
    """Scenes that are frames NAME_NUMBER of sequences, see `frame_times_from_names`."""

    def build(self, context: FitContext) -> CodeSource:
        return SequenceCodes(context.latent_size, frame_times_from_names(context.data.names))


class SequenceCodes(CodeSource):
    """A code a sequence with the time as its last dimension; a scene is a frame.

    `at` gives codes of any time, also between the known frames.

    Raises:
        InputError: a latent of less than 2.
    """

    frame_sequence: Tensor
    frame_time: Tensor

    def __init__(self, latent_size: int, frames: FrameTimes) -> None:
        super().__init__()
        if latent_size < 2:
            raise InputError("sequences: wanted a latent of 2 or more: the last number is the time")
        self.latents = LatentTable(int(frames.sequence.max()) + 1, latent_size - 1, sparse=True)
        self.register_buffer("frame_sequence", frames.sequence)
        self.register_buffer("frame_time", frames.time)

    def at(self, sequences: Tensor, times: Tensor) -> Tensor:
        """Codes `[s z]` of sequences `[s]` at times `[s]` in [0, 1]. Differentiable in the codes and in the times."""
        return torch.cat((self.latents(sequences), times[:, None]), 1)

    def codes(self, scenes: Tensor, generator: torch.Generator, loss: CodesLoss) -> tuple[Tensor, None]:
        return self.at(self.frame_sequence[scenes], self.frame_time[scenes]), None

    def tables(self) -> list[nn.Parameter]:
        return [self.latents.codes]
