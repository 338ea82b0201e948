"""Every scene alone: models of one scene, `hypernets.Independent` weights, fitted one after another by the same
trainer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperfields.data import SceneDataset
from hyperfields.fields import BoundField
from hyperfields.model import HyperField
from hyperfields.ops.devices import Precision
from hyperfields.process import seeded
from hyperfields.tasks import Task, TrainConfig
from hyperfields.training.trainer import Fields, Length, Progress, Trainer, with_prefix
from hyperfields.weights import WeightSpec, flatten

SAMPLES = 2**13  # one scene does better with more and smaller steps (NUMBERS.md)


class SceneWeights(nn.Module):
    """Weights of one scene as parameters of their own."""

    def __init__(self, spec: WeightSpec) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.values = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(entry.initial()[None]) for name, entry in spec.items()}
        )

    def forward(self) -> dict[str, Tensor]:
        """Weights `[1 ...]` by name."""
        return {name.replace("/", "."): value for name, value in self.values.items()}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by role: what a family would share is `grid`."""
        groups: dict[str, list[nn.Parameter]] = {"grid": [], "networks": []}
        for name, entry in self.spec.items():
            groups["networks" if entry.source == "generated" else "grid"].append(self.values[name.replace(".", "/")])
        return groups


class AloneTrainer:
    """Trainers of single scenes, one after another in even shares of the length; codes of `model` are the weights."""

    def __init__(
        self,
        model: HyperField,
        data: SceneDataset,
        task: Task,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.model, self.data, self.task, self.seed = model, data, task, seed
        self.config = dataclasses.replace(config, scenes=1, samples=min(config.samples, SAMPLES))
        self.device, self.precision = device, precision
        self._begin(0)

    def _begin(self, scene: int) -> None:
        field = self.model.config.field
        with seeded(self.seed + scene):
            self.weights = SceneWeights(field.spec).to(self.device)

        def bind(local: Tensor, generator: torch.Generator) -> Fields:
            return Fields(BoundField(field, self.weights(), 1))

        objective = self.task.objective(
            self.data, field, self.config, 1, device=self.device, precision=self.precision, loss=self.config.loss
        )
        self.trainer = Trainer(
            bind, self.weights.groups(), objective, torch.tensor([scene]), self.config, self.seed + scene
        )

    def fit(
        self, length: Length, progress: Progress, *, on_step: Callable[[Progress], float | None] = lambda progress: None
    ) -> None:
        """Steps until every scene had its share; `progress.scene` is the scene at work. See `Trainer.fit`."""
        count = len(self.data.names)
        while progress.scene < count:
            share = (progress.scene / count, (progress.scene + 1) / count)
            self.trainer.fit(length, progress, stage=share, on_step=on_step)
            with torch.no_grad():
                self.model.latents.codes[progress.scene] = flatten(self.weights(), self.weights.spec)[0]
            progress.scene += 1
            if progress.scene < count:
                self._begin(progress.scene)

    @torch.no_grad()
    def bound(self) -> BoundField:
        """The field of the scene at work, as it is now."""
        return BoundField(self.model.config.field, {k: v.detach() for k, v in self.weights().items()}, 1)

    def sync(self, progress: Progress) -> None:
        """See `Trainer.sync`."""
        self.trainer.sync(progress)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the scene at work; those that are done are in the model."""
        return {
            "scene": self.trainer.scenes.clone(),
            **{f"weights.{name}": value for name, value in self.weights.state_dict().items()},
            **self.trainer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self._begin(int(state["scene"]))
        self.weights.load_state_dict(with_prefix(state, "weights."))
        self.trainer.load_state_dict({name: value for name, value in state.items() if name != "scene"})
