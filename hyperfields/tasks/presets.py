"""Presets: named models for each kind of scenes, and how they are fitted."""

from __future__ import annotations

from hyperfields.model import ModelConfig
from hyperfields.tasks import task_of
from hyperfields.tasks.config import TrainConfig as TrainConfig


def preset(name: str, kind: str, scenes: int, side: int = 1) -> tuple[ModelConfig, TrainConfig]:
    """The model of a preset and how it is fitted; see `Task.model`.

    Raises:
        InputError: an unknown name or kind.
    """
    return task_of(kind).model(name, scenes, side)
