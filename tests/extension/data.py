"""A data set and a reader of one's own: folders of `NAME.txt` with rows of grey levels, 0 to 9."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hyperfields import Images, InputError, Points
from hyperfields.scenes import Reader


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Scenes made by a formula: nothing but the members of `SceneDataset`."""

    names: tuple[str, ...] = ("wide", "narrow")
    kind: str = "images"

    def color(self, scenes: Tensor, x: Tensor) -> Tensor:
        return (0.5 + 0.5 * (x[..., :1] * 9.0 * (scenes[:, None, None] + 1)).sin()).expand(*x.shape[:-1], 3)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        return Points(x, self.color(scenes, x))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        place = (torch.arange(12) + 0.5) / 12
        x = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1).reshape(1, -1, 2)
        return self.color(torch.tensor([scene]), x).reshape(12, 12, 3)


def open_text(folder: Path, *, scenes: Sequence[str] | None = None, limit: int | None = None) -> Images:
    """Pictures of a folder of text."""
    files = [path for path in sorted(folder.glob("*.txt")) if scenes is None or path.stem in scenes][:limit]
    if not files:
        raise InputError(f"{folder}: no scene of {scenes}; wanted names of its text files")
    rows = [[[int(digit) / 9.0 for digit in line] for line in path.read_text().split()] for path in files]
    return Images(torch.tensor(rows)[..., None].expand(-1, -1, -1, 3), names=[path.stem for path in files])


TEXT = Reader("images", "text", "text files of digits", lambda folder: any(folder.glob("*.txt")), open_text)
