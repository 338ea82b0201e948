"""Settings of a fit: everything that decides it beside the model, as values that a run records."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from hyperfields.errors import InputError
from hyperfields.tasks.between import Between
from hyperfields.tasks.photographs import PhotographConfig


@dataclasses.dataclass(frozen=True)
class Cosine:
    """A factor on all rates: a linear rise over `warmup` steps, then half a cosine down to `final`.

    A schedule of your own is a frozen dataclass with this call.
    """

    warmup: int = 50
    final: float = 0.01

    def __call__(self, step: int, fraction: float) -> float:
        """Factor in [0, 1] at a step (from 0) and a fraction in [0, 1] of the fit's length."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
        return rise * (self.final + (1.0 - self.final) * cosine)


@dataclasses.dataclass(frozen=True)
class Adam:
    """Settings of Adam. Rows of a table that few points reach have tiny gradients, which a small eps keeps alive; in
    the networks the same eps blows noise up to full steps, and fits diverge.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15  # of grids, latents and groups of your own
    eps_networks: float = 1e-6


@dataclasses.dataclass(frozen=True)
class RelativeClip:
    """Gradients of grids and networks are cut to `limit` times the running mean of their norm (0: never).

    Heads of large codes blow up on a single outlier.
    """

    limit: float = 1.5
    memory: float = 0.95  # of the running mean


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a fit. Rates are the peaks of the schedule.

    scenes: of a step. samples: points of a step, over all its scenes; for views points along rays.
    prior: weight of the Gaussian prior on latents. loss: `loss(prediction, batch)` -> unreduced errors; None takes the
    task's.
    rates: of parameter groups of your own, (name, rate) each.
    photographs: what is learned of each training picture; views only. near_gradients: distance from cameras, scene
    units, within which gradients are scaled down; views only, 0: nowhere. between: what is asked of mixed codes.
    unseen: opacity of rays that see something, below which density is lifted there, should many rays of a scene have
    less; views only, 0: only in scenes that have lost all their density.
    """

    deferred: ClassVar[tuple[str, ...]] = ("loss", "schedule")  # what rendering and measuring do without

    scenes: int
    samples: int
    rate_grid: float = 1e-2
    rate_networks: float = 5e-3
    rate_latents: float = 1e-1
    prior: float = 1e-6
    loss: Any = None
    schedule: Any = dataclasses.field(default_factory=Cosine)
    adam: Adam = dataclasses.field(default_factory=Adam)
    clip: RelativeClip = dataclasses.field(default_factory=RelativeClip)
    rates: tuple[tuple[str, float], ...] = ()
    photographs: PhotographConfig = dataclasses.field(default_factory=PhotographConfig)
    near_gradients: float = 0.0
    between: Between = dataclasses.field(default_factory=Between)
    unseen: float = 0.15

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.samples < 1:
            raise InputError(
                f"TrainConfig: got {self.scenes} scenes and {self.samples} samples, wanted at least 1 of each"
            )
        if not 0.0 <= self.near_gradients < math.inf:
            raise InputError(f"TrainConfig: near_gradients {self.near_gradients}: wanted a distance of 0 or more")
        if not 0.0 <= self.unseen <= 1.0:
            raise InputError(f"TrainConfig: unseen {self.unseen}: wanted an opacity from 0 to 1")

    def for_new_scenes(self, **changes: Any) -> TrainConfig:
        """The recipe for scenes that a fitted run is shown, with `changes`.

        Their density begins as that of a scene, so it is not lost as in a fit from nothing. Lifted where a code cannot
        show it, it would take the code away from what it can show.
        """
        return dataclasses.replace(self, unseen=0.0, **changes)

    def rate(self, group: str) -> float:
        """Peak rate of a group of parameters.

        Raises:
            InputError: a group that has none.
        """
        rates = {
            "grid": self.rate_grid,
            "networks": self.rate_networks,
            "latents": self.rate_latents,
            "poses": self.photographs.poses,
            "appearance": self.photographs.appearance,
            **dict(self.rates),
        }
        if group not in rates:
            raise InputError(f"parameter group {group!r}: has no rate; give TrainConfig(rates=(({group!r}, 1e-3),))")
        return rates[group]
