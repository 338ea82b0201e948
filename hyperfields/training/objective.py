"""What a fit minimises: the loss of a batch of scenes on fresh samples, and the occupancy that goes with it."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from hyperfields.data import Pixels, Points, SceneDataset, on_device
from hyperfields.fields import Field, RadianceField, SDFField
from hyperfields.model import BoundField
from hyperfields.ops import devices
from hyperfields.ops.devices import Precision, products
from hyperfields.ops.profiling import region
from hyperfields.rendering.static_shapes import FIRST_PER_RAY, StaticStepPlan, rays_of, render_static
from hyperfields.rendering.volume import OccupancyTracker, render_volume
from hyperfields.tasks import losses
from hyperfields.tasks.presets import TrainConfig


class Objective:
    """The loss of a batch of scenes, and what changes beside the parameters: the occupancy of views."""

    def __init__(
        self,
        family: SceneDataset,
        field: Field,
        recipe: TrainConfig,
        scenes: int,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.family, self.field, self.recipe = on_device(family, device), field, recipe
        self.device, self.precision = torch.device(device), precision
        self.calls = 0
        self.per_ray = FIRST_PER_RAY  # samples that a ray has had lately, to keep the points of a step even
        self.tracker: OccupancyTracker | None = None
        self.ahead: StaticStepPlan | None = None
        if isinstance(field, RadianceField):
            self.tracker = OccupancyTracker(scenes, field.occupancy, step=field.step, device=self.device)
            if devices.is_async(self.device):
                self.ahead = StaticStepPlan(recipe.samples, min(recipe.scenes, scenes), self.tracker)

    def __call__(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of `bound`, the fields of `scenes` `[s]` (numbers in the family), on fresh samples.

        local: `[s]`, their numbers among the scenes of this objective.
        """
        self.prepare()
        return self.loss(bound, scenes, local, generator)

    def prepare(self) -> Hashable:
        """What the host has to decide before a loss; losses after the same answer do the same with other numbers."""
        self.calls += 1
        return None if self.ahead is None else self.ahead.prepare(self.calls)

    def look(self) -> None:
        """See what became of the last losses, on a GPU: waits for it."""
        if self.ahead is not None:
            self.ahead.look()

    def loss(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """The loss that `prepare` prepared."""
        with products(self.precision, self.device):
            return self._loss(bound, scenes, local, generator)

    def _loss(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        if self.ahead is not None:
            return self._views_ahead(bound, self.ahead, scenes, local, generator)
        if self.tracker is not None:
            return self._views(bound, self.tracker, scenes, local, generator)
        batch = self.family.batch(scenes, max(self.recipe.samples // len(scenes), 1), generator)
        assert isinstance(batch, Points)
        answer = bound(batch.x)
        assert isinstance(answer, Tensor)
        if isinstance(self.field, SDFField):
            return losses.distance_loss(answer, batch.target).mean()
        return losses.color_loss(answer, batch.target).mean()

    def _views(
        self,
        bound: BoundField,
        tracker: OccupancyTracker,
        scenes: Tensor,
        local: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        recipe = self.recipe
        # All cells now and then at first, later a few of them: some per cent of a step.
        if self.calls % 4 == 1:
            parts = 16 if self.calls >= 32 and tracker.knows(local) else 1
            tracker.update(bound.density, local, self.calls // 4 % parts, parts, generator)
        rays = rays_of(recipe.samples, self.per_ray, len(scenes))
        with region("batch"):
            batch = self.family.batch(scenes, rays, generator)
        assert isinstance(batch, Pixels)
        assert isinstance(self.field, RadianceField)
        offset = torch.rand(len(scenes), rays, generator=generator, device=self.device)
        cells, step = tracker.cells(local), self.field.step
        seen = render_volume(bound, batch.rays, cells, step=step, offset=offset, visible=bound.visible_samples)
        self.per_ray = 0.9 * self.per_ray + 0.1 * max(seen.samples / (len(scenes) * rays), 1.0)
        return losses.pixel_loss(seen.rgb, seen.alpha, batch.rgba).mean()

    def _views_ahead(
        self, bound: BoundField, ahead: StaticStepPlan, scenes: Tensor, local: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same where the host must not wait."""
        assert isinstance(self.field, RadianceField)
        tracker, rays, step = ahead.tracker, ahead.rays, self.field.step
        if ahead.parts:
            tracker.update(bound.density, local, ahead.part, ahead.parts, generator)
        batch = self.family.batch(scenes, rays, generator)
        assert isinstance(batch, Pixels)
        offset = torch.rand(len(scenes), rays, generator=generator, device=self.device)
        cells = tracker.cells(local)
        seen = render_static(bound, bound.density, batch.rays, cells, step=step, offset=offset, samples=ahead.budget)
        ahead.count(seen.wanted)
        error = losses.pixel_loss(seen.rgb, seen.alpha, batch.rgba) * seen.whole
        return error.sum() / seen.whole.sum().clamp(min=1)

    def state(self) -> dict[str, Tensor]:
        per_ray = self.per_ray if self.ahead is None else float(self.ahead.per_ray)
        state = {
            "calls": torch.tensor(self.calls),
            "per_ray": torch.tensor(per_ray, dtype=torch.float64),
        }
        if self.tracker is not None:
            state["density"] = self.tracker.density
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        self.calls, self.per_ray = int(state["calls"]), float(state["per_ray"])
        if self.tracker is not None:
            self.tracker.restore(state["density"])
        if self.ahead is not None:
            self.ahead.per_ray.fill_(self.per_ray)
            self.look()
