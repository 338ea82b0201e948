"""Fitting: one hypernetwork and a latent a scene, to a whole family at once."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, assert_never

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields import checkpoint, losses
from hyperfields.errors import InputError
from hyperfields.families import Family, Mesh, Pixels, Points, View, fingerprint
from hyperfields.fields import Field, RadianceField, ShapeField
from hyperfields.latents import gaussian_prior
from hyperfields.model import Bound, HyperField, ModelConfig, parameter_groups
from hyperfields.presets import Preset, Recipe, preset
from hyperfields.render import OccupancyTracker, render_volume
from hyperfields.weights import flatten

CHECKPOINT_SECONDS = 30.0  # at most this is lost to a kill
WARM_UP = 50  # steps of a rising rate
FINAL_RATE = 0.01  # of the peak, at the end of the cosine


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How long and how to fit. Exactly one of `minutes` and `steps`."""

    preset: Preset = "default"
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    individually: bool = False

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: give one of the two")
        if (self.minutes is not None and not self.minutes > 0) or (self.steps is not None and self.steps < 1):
            raise InputError(f"--minutes {self.minutes}, --steps {self.steps}: wanted a positive length")


@dataclasses.dataclass
class Progress:
    """How far a fit is. A `--minutes` fit follows the clock, a `--steps` fit its steps."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan  # smoothed
    fraction: float = 0.0
    scene: int = 0  # the scene at work, when scenes are fitted individually


class Objective:
    """The loss of a batch of scenes, and what changes beside the parameters: the occupancy of views."""

    def __init__(self, family: Family, field: Field, recipe: Recipe, scenes: int) -> None:
        self.family, self.field, self.recipe = family, field, recipe
        self.calls = 0
        self.per_ray = 64.0  # samples that a ray has had lately, to keep the points of a step even
        self.tracker: OccupancyTracker | None = None
        if isinstance(field, RadianceField):
            self.tracker = OccupancyTracker(scenes, field.occupancy, step=field.step)

    def __call__(self, bound: Bound, scenes: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of `bound`, the fields of `scenes` `[s]`, on fresh samples."""
        self.calls += 1
        if self.tracker is not None:
            return self._views(bound, self.tracker, scenes, generator)
        batch = self.family.batch(scenes, max(self.recipe.samples // len(scenes), 1), generator)
        assert isinstance(batch, Points)
        answer = bound(batch.x)
        assert isinstance(answer, Tensor)
        if isinstance(self.field, ShapeField):
            return losses.distance_loss(answer, batch.target).mean()
        return losses.color_loss(answer, batch.target).mean()

    def _views(
        self, bound: Bound, tracker: OccupancyTracker, scenes: Tensor, generator: torch.Generator
    ) -> Tensor:
        recipe = self.recipe
        # All cells at first, then now and then a share of them: a few per cent of a step.
        if self.calls % 8 < 2:
            tracker.update(bound.density, scenes, 1.0 if self.calls < 64 else 0.25, generator)
        rays = int(recipe.samples / (self.per_ray * len(scenes))) // 16 * 16
        rays = min(max(rays, 64), 4096)
        batch = self.family.batch(scenes, rays, generator)
        assert isinstance(batch, Pixels) and isinstance(self.field, RadianceField)
        offset = torch.rand(len(scenes), rays, generator=generator)
        seen = render_volume(bound, batch.rays, tracker.cells(scenes), step=self.field.step, offset=offset)
        self.per_ray = 0.9 * self.per_ray + 0.1 * max(seen.samples / (len(scenes) * rays), 1.0)
        return losses.pixel_loss(seen.rgb, seen.alpha, batch.rgba).mean()

    def state(self) -> dict[str, Tensor]:
        state = {"calls": torch.tensor(self.calls), "per_ray": torch.tensor(self.per_ray, dtype=torch.float64)}
        if self.tracker is not None:
            state["density"] = self.tracker.density
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        self.calls, self.per_ray = int(state["calls"]), float(state["per_ray"])
        if self.tracker is not None:
            self.tracker.density.copy_(state["density"])


class Optimizers:
    """Adam for grids and networks, a lazy one for latents (only the rows of the batch), one schedule for all."""

    def __init__(self, groups: dict[str, list[nn.Parameter]], recipe: Recipe) -> None:
        rates = {"grid": recipe.rate_grid, "networks": recipe.rate_networks, "latents": recipe.rate_latents}
        settings: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-15}
        dense = [
            {"params": parameters, "lr": rates[name], "peak": rates[name]}
            for name, parameters in groups.items()
            if name != "latents" and parameters
        ]
        self.all: list[torch.optim.Optimizer] = []
        if dense:
            self.all.append(torch.optim.Adam(dense, fused=True, **settings))
        if groups.get("latents"):
            rate = rates["latents"]
            sparse = [{"params": groups["latents"], "lr": rate, "peak": rate}]
            self.all.append(torch.optim.SparseAdam(sparse, **settings))

    def step(self, loss: Tensor, factor: float) -> None:
        for optimizer in self.all:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{number}/{index}/{key}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.all)
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        for number, optimizer in enumerate(self.all):
            whole = optimizer.state_dict()
            entries: dict[int, dict[str, Any]] = {}
            for name, value in state.items():
                owner, index, key = name.split("/")
                if int(owner) == number:
                    plain = key == "step" and isinstance(optimizer, torch.optim.SparseAdam)
                    entries.setdefault(int(index), {})[key] = int(value) if plain else value
            optimizer.load_state_dict({"state": entries, "param_groups": whole["param_groups"]})


def rate(progress: Progress) -> float:
    """Share of the peak rate: a short linear warm-up, then half a cosine over the fit."""
    warm = min(1.0, (progress.step + 1) / WARM_UP)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress.fraction, 1.0)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)


class Deck:
    """Scenes in random order without replacement, some a step."""

    def __init__(self, scenes: int, hand: int) -> None:
        self.scenes, self.hand = scenes, min(hand, scenes)
        self.order, self.place = torch.arange(scenes), scenes

    def draw(self, generator: torch.Generator) -> Tensor:
        if self.place + self.hand > self.scenes:
            self.order, self.place = torch.randperm(self.scenes, generator=generator), 0
        self.place += self.hand
        return self.order[self.place - self.hand : self.place]


Report = Callable[[Progress], None]
