"""The third file: the task, which says how such fields are fitted, measured and shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfields import BoundField, InputError, Mesh, Metric, ModelConfig, Modulation, Points, TrainConfig
from hyperfields.tasks.objective import PointObjective
from hyperfields.weights import Weights

from .audio_field import AudioField
from .training import Huber


@dataclasses.dataclass(frozen=True)
class AudioTask:
    """The task of one-dimensional sound; `hyperfields.Task` says what each member is."""

    kind: ClassVar[str] = "audio"
    field: ClassVar[type] = AudioField
    batch: ClassVar[type[Points]] = Points
    box: ClassVar[tuple[float, float]] = (0.0, 1.0)
    channels: ClassVar[tuple[str, ...]] = ("rgb",)
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("snr", "snr [dB]", "{:.1f}"),)
    has_camera: ClassVar[bool] = False
    has_mesh: ClassVar[bool] = False
    has_splits: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    unit: ClassVar[str] = "of full scale"
    supersample: ClassVar[int] = 1
    preview_cells: ClassVar[int] = 0
    loss: ClassVar[Any] = Huber()
    inner_rate: ClassVar[float] = 1.0

    def model(self, preset: str, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
        return ModelConfig(AudioField(), Modulation(), 8), TrainConfig(min(scenes, 32), 2**11)

    def network_rate(self, generator: Any, scenes: int) -> float:
        return 5e-3

    def objective(self, data: Any, field: Any, config: TrainConfig, scenes: int, **options: Any) -> PointObjective:
        return PointObjective(data, field, config, options.pop("loss", None) or self.loss, **options)

    def describe(self, data: Any) -> dict[str, Any]:
        return {"seconds": 1.0}

    def picture(
        self, bound: BoundField, camera: Any, size: tuple[int, int], channel: str = "rgb", background: float = 1.0,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        """The wave, drawn `[h w 3]`."""
        height, width = size
        with torch.no_grad():
            wave = bound(torch.linspace(0.0, 1.0, width)[None, :, None])[0, :, 0]
        rows = torch.linspace(1.0, -1.0, height)[:, None]
        return torch.where((rows - wave).abs() < 2.0 / height, 0.0, background)[..., None].expand(-1, -1, 3)

    def render_rays(self, bound: BoundField, rays: Any, **options: Any) -> Any:
        raise TypeError("audio: has no rays")

    def measure(
        self, bound: BoundField, data: Any, scene: int, split: str, perceptual: Mapping[str, Any], note: Any = None
    ) -> dict[str, float]:
        truth = data.reference(scene)
        with torch.no_grad():
            error = bound(torch.linspace(0.0, 1.0, len(truth))[None, :, None])[0] - truth
        return {"snr": 10.0 * math.log10(float(truth.square().mean() / error.square().mean()))}

    def pairs(self, bound: BoundField, data: Any, scene: int, split: str, numbers: Any) -> list[Any]:
        return []

    def probe(self, data: Any, scene: int, pixels: int) -> None:
        return None

    def mesh(self, bound: BoundField, resolution: int = 192) -> Mesh:
        raise InputError("audio: has no surface")

    def observe(self, data: Any, scenes: Tensor, config: Any, generator: torch.Generator) -> Tensor:
        batch = data.batch(scenes, config.points, generator)
        return torch.cat((batch.x, batch.target), -1)

    def observed_features(self, config: Any) -> int:
        return 2

    def layer_outputs(self, field: Any, weights: Weights, points: Tensor) -> dict[str, Tensor]:
        return {}

    def opacity(self, bound: BoundField, points: Tensor) -> Tensor | None:
        return None
