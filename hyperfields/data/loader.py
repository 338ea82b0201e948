"""Sampling of scenes, and batches of them for loops of your own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyperfields.data.base import Pixels, Points, SceneDataset, expect, on_device
from hyperfields.errors import InputError


class SceneSampler:
    """Scenes in random order without replacement, some a step."""

    def __init__(self, scenes: int, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.scenes, self.batch_size = scenes, min(batch_size, scenes)
        self.order, self.place = torch.arange(scenes, device=device), scenes

    def draw(self, generator: torch.Generator) -> Tensor:
        """Numbers of the next `batch_size` scenes, int64."""
        if self.place + self.batch_size > self.scenes:
            order = torch.randperm(self.scenes, generator=generator, device=self.order.device)
            self.order, self.place = order, 0
        self.place += self.batch_size
        return self.order[self.place - self.batch_size : self.place]

    def upcoming(self) -> Tensor | None:
        """Those that the next `draw` gives; None where it draws a new order."""
        rest = self.order[self.place : self.place + self.batch_size]
        return rest if len(rest) == self.batch_size else None


class SceneLoader:
    """An endless iterator over (scene numbers `[s]`, batch) with random numbers of its own.

        for scenes, batch in SceneLoader(data, scenes=8, samples=4096):
            loss = ...

    Args:
        data: any `SceneDataset`.
        scenes: scenes of a batch, at most those that there are; each comes once before one comes again.
        samples: points or rays of a batch, over all its scenes.
        seed: two loaders with one seed give the same.
        device: where batches come from.

    Raises:
        InputError: `scenes` or `samples` below 1.
    """

    def __init__(
        self,
        data: SceneDataset,
        scenes: int = 32,
        samples: int = 2**15,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("scenes", scenes), ("samples", samples)):
            if value < 1:
                raise InputError(f"{name}: {value} came, wanted at least 1")
        self.data = on_device(data, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.sampler = SceneSampler(len(data.names), scenes, device)
        self.each = max(samples // self.sampler.batch_size, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Points | Pixels]]:
        return self

    def __next__(self) -> tuple[Tensor, Points | Pixels]:
        scenes = self.sampler.draw(self.generator)
        if (following := self.sampler.upcoming()) is not None:
            expect(self.data, following)
        return scenes, self.data.batch(scenes, self.each, self.generator)
