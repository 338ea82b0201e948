"""The second file: the data. Tones of a pitch of their own."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hyperfields import Points


@dataclasses.dataclass(frozen=True)
class Tones:
    """Scenes of kind "audio"."""

    names: tuple[str, ...] = ("low", "middle", "high")
    kind: str = "audio"

    def pressure(self, scenes: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (x * 6.0 * (scenes[:, None, None] + 1)).sin()

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 1, generator=generator)
        return Points(x, self.pressure(scenes, x))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        return self.pressure(torch.tensor([scene]), torch.linspace(0.0, 1.0, 100)[None, :, None])[0]
