"""Data sets made of others: a part of one, several behind one another."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data.base import Kind, Mesh, Pixels, Points, SceneDataset, View, expect, on_device, pictures_of
from hyperfields.errors import InputError


class Subset:
    """Some scenes of a data set, by number, in the order given.

    Raises:
        InputError: no scene, one that the data set does not have, one that comes twice.
    """

    def __init__(self, dataset: SceneDataset, scenes: Sequence[int]) -> None:
        scenes = [int(scene) for scene in scenes]
        count = len(dataset.names)
        if not scenes or len(set(scenes)) < len(scenes) or not all(0 <= scene < count for scene in scenes):
            raise InputError(f"scenes: {scenes} came, wanted different numbers from 0 to {count - 1}")
        self.dataset, self.scenes = dataset, tuple(scenes)
        self.kind: Kind = dataset.kind
        self.names = tuple(dataset.names[scene] for scene in scenes)
        self._numbers = torch.tensor(scenes)

    @property
    def parts(self) -> tuple[SceneDataset, ...]:
        return (self.dataset,)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        return self.dataset.batch(self._numbers[scenes], n, generator)

    def expect(self, scenes: Tensor) -> None:
        expect(self.dataset, self._numbers[scenes])

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | Sequence[View]:
        return self.dataset.reference(self.scenes[scene], split)

    def to(self, device: torch.device | str) -> Subset:
        """The same with its batches on `device`."""
        moved = copy.copy(self)
        moved.dataset, moved._numbers = on_device(self.dataset, device), self._numbers.to(device)
        return moved


class Concat:
    """The scenes of several data sets of one kind, behind one another.

    A batch asks every part for all its scenes and takes of each answer what belongs to it: more is drawn than needed,
    but no size depends on the scenes asked for, and a GPU never waits.

    Raises:
        InputError: no data set, several kinds, a name in two of them.
    """

    def __init__(self, datasets: Sequence[SceneDataset]) -> None:
        if not datasets:
            raise InputError("datasets: none came, wanted at least one")
        kinds = list(dict.fromkeys(dataset.kind for dataset in datasets))
        if len(kinds) > 1:
            raise InputError(f"datasets: {' and '.join(kinds)} came together, wanted one kind")
        self.parts = tuple(datasets)
        self.kind: Kind = kinds[0]
        self.names = tuple(name for dataset in datasets for name in dataset.names)
        if len(set(self.names)) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(
                f"datasets: scenes called {', '.join(twice[:3])} are in more than one of them; rename or leave them out"
            )

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        """See `Images`, `Shapes`, `Views`. The batch has the size of the smallest part's."""
        drawn, first, before = [], 0, 0
        for part in self.parts:
            local = scenes - first
            drawn.append((part, local, before, part.batch(local.clamp(0, len(part.names) - 1), n, generator)))
            first += len(part.names)
            before += pictures_of(part)
        # A picture whose pixels are all asked for gives each once, and then fewer than `n`.
        n = min(_samples(batch) for *_, batch in drawn)
        whole: Points | Pixels | None = None
        for part, local, before, batch in drawn:
            here = (local >= 0) & (local < len(part.names))
            if _samples(batch) > n:
                batch = part.batch(local.clamp(0, len(part.names) - 1), n, generator)
            if isinstance(batch, Pixels) and batch.images is not None:
                batch = batch._replace(images=batch.images + before)
            whole = batch if whole is None else _choose(here, batch, whole)
        assert whole is not None
        return whole

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | Sequence[View]:
        for part in self.parts:
            if scene < len(part.names):
                return part.reference(scene, split)
            scene -= len(part.names)
        raise IndexError(f"reference: scene {scene + len(self.names)} of {len(self.names)}")

    def to(self, device: torch.device | str) -> Concat:
        """The same with its batches on `device`."""
        moved = copy.copy(self)
        moved.parts = tuple(on_device(part, device) for part in self.parts)
        return moved


def _samples(batch: Points | Pixels) -> int:
    return int(batch.target.shape[1] if isinstance(batch, Points) else batch.rgba.shape[1])


def _choose(here: Tensor, one: Points | Pixels, other: Points | Pixels) -> Points | Pixels:
    """`one` for the scenes that are `here` `[s]`, `other` for the rest."""
    mask = here[:, None, None]
    if isinstance(one, Points):
        assert isinstance(other, Points)
        return Points(torch.where(mask, one.x, other.x), torch.where(mask, one.target, other.target))
    assert isinstance(other, Pixels)
    origins, directions = (torch.where(mask, a, b) for a, b in zip(one.rays, other.rays, strict=True))
    images = None
    if one.images is not None and other.images is not None:
        images = torch.where(here[:, None], one.images, other.images)
    behind = None
    if one.behind is not None or other.behind is not None:
        any_ = one.rgba.new_tensor(torch.nan)
        first, second = (any_ if batch.behind is None else batch.behind for batch in (one, other))
        behind = torch.where(mask, first, second)
    return Pixels(Rays(origins, directions), torch.where(mask, one.rgba, other.rgba), images, behind)
