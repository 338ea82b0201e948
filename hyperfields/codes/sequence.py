"""Families of sequences: videos, shapes or views that change. A code a sequence; the hypernetwork is given the time.

    frame (sequence v at time t):   weights = hypernetwork([z_v, t])

A frame is a scene of an ordinary family, so every reader serves; a `FrameTimes` says which sequence it belongs to and when.
Any generator can read the time as one more number of the code; `Dynamic` lets weights evolve along it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hyperfields.codes.table import CodeSource, LatentTable
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.hypernets import Independent
from hyperfields.model import BoundField, HyperField, ModelConfig, parameter_groups
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.optim import Optimization, Progress


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """For each frame, its sequence (numbered from 0) and its time in [0, 1]: `[f]` int64 and `[f]`.

    Raises:
        InputError: lengths that differ, or times outside [0, 1].
    """

    sequence: Tensor
    time: Tensor

    def __post_init__(self) -> None:
        if self.sequence.shape != self.time.shape or self.time.dim() != 1 or len(self.time) == 0:
            raise InputError(f"FrameTimes: got sequences {tuple(self.sequence.shape)} and times {tuple(self.time.shape)}, "
                             "wanted one of each a frame")  # fmt: skip
        if float(self.time.min()) < 0.0 or float(self.time.max()) > 1.0:
            raise InputError(f"FrameTimes: times from {float(self.time.min()):g} to {float(self.time.max()):g}, "
                             "wanted 0 to 1")  # fmt: skip


def frame_times_from_names(names: Sequence[str]) -> FrameTimes:
    """The clock of frames that are called NAME_NUMBER: a sequence a NAME, its first frame at 0, its last at 1.

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


class TimeCodes(CodeSource):
    """A code a sequence with the time as its last number, for `fit.Fit`: a scene is a frame.

    Raises:
        InputError: a latent of less than 2.
    """

    name = "time"

    def __init__(self, config: ModelConfig, clock: FrameTimes) -> None:
        super().__init__()
        if config.latent_size < 2:
            raise InputError("sequences: wanted a latent of 2 or more: the last number is the time")
        self.latents = LatentTable(int(clock.sequence.max()) + 1, config.latent_size - 1)
        self.register_buffer("sequence", clock.sequence)
        self.register_buffer("time", clock.time)

    sequence: Tensor
    time: Tensor

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        codes = torch.cat((self.latents(self.sequence[scenes]), self.time[scenes][:, None]), 1)
        return codes, torch.zeros((), device=codes.device)

    def tables(self) -> list[nn.Parameter]:
        return [self.latents.codes]


class SequenceModel(nn.Module):
    """A model whose last code number is the time, and a code `[z - 1]` for each sequence."""

    def __init__(self, config: ModelConfig, sequences: int) -> None:
        super().__init__()
        if isinstance(config.generator, Independent) or config.latent_size < 2:
            raise InputError(
                "sequences: wanted a generator with networks and a latent of 2 or more: the last is the time"
            )
        self.model = HyperField(config, 1)
        self.latents = LatentTable(sequences, config.latent_size - 1)

    def bind(self, sequences: Tensor, times: Tensor) -> BoundField:
        """The fields of sequences `[s]` at times `[s]` in [0, 1], also at times between the known frames.

        Differentiable in codes, networks and times.
        """
        return self.model.bind(torch.cat((self.latents(sequences), times[:, None]), 1))


def fit_sequences(
    family: SceneDataset,
    clock: FrameTimes,
    config: ModelConfig,
    recipe: TrainConfig,
    *,
    steps: int,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> SequenceModel:
    """Fit the frames of all sequences.

    Args:
        family: a scene is a frame.
        recipe: `scenes` counts frames of a step.

    Raises:
        InputError: a clock for another number of frames, or a generator that cannot read the time.
    """
    count = len(family.names)
    if len(clock.time) != count:
        raise InputError(f"FrameTimes: got {len(clock.time)} frames, the family has {count}")
    torch.manual_seed(seed)
    found = SequenceModel(config, int(clock.sequence.max()) + 1)
    groups = {**parameter_groups(found.model), "latents": [found.latents.codes]}

    def bind(local: Tensor) -> tuple[BoundField, None]:
        return found.bind(clock.sequence[local], clock.time[local]), None

    objective = task_of(family.kind).objective(family, config.field, recipe, count)
    work = Optimization(bind, groups, objective, torch.arange(count), seed)
    progress = Progress()
    for step in range(steps):
        progress.fraction = step / steps
        work.step(progress)
        report(progress)
    return found
