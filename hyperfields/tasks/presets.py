"""Presets: named models for each kind of scenes, and how they are fitted."""

from __future__ import annotations

from hyperfields.data import Kind
from hyperfields.model import ModelConfig
from hyperfields.tasks import task_of
from hyperfields.tasks.base import PRESETS as PRESETS
from hyperfields.tasks.base import RATES as RATES
from hyperfields.tasks.base import Preset as Preset
from hyperfields.tasks.objective import TrainConfig as TrainConfig


def preset(name: Preset, kind: Kind, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
    """The model of a preset and how it is fitted; see `Task.model`.

    Raises:
        InputError: an unknown name or kind.
    """
    return task_of(kind).model(name, scenes, side)


def network_rate(generator: str, kind: Kind, scenes: int) -> float:
    """Peak rate of the networks of a generator, by its name on the command line (`hypernets.parse`)."""
    return task_of(kind).network_rate(generator, scenes)
