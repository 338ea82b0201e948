"""Presets: named models and recipes for each kind of family. Values, no logic beyond filling them in."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

from hyperfields.encodings import FactoredGrid, HashGrid
from hyperfields.families import Kind
from hyperfields.fields import Field, ImageField, RadianceField, ShapeField
from hyperfields.hypernets import Full, Generator, LowRank, Modulation
from hyperfields.model import ModelConfig

Preset = Literal["tiny", "default", "faithful"]
PRESETS: tuple[Preset, ...] = ("tiny", "default", "faithful")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is fitted. Rates are the peaks of the schedule."""

    scenes: int  # scenes of a step
    samples: int  # points of a step, over all its scenes; for views: points along rays
    rate_grid: float = 1e-2
    rate_networks: float = 2e-3
    rate_latents: float = 1e-2
    prior: float = 1e-6  # weight of the Gaussian prior on latents
    step_length: float = 0.0  # views: length of a sample along a ray, scene units


def preset(name: Preset, kind: Kind, scenes: int, side: int) -> tuple[ModelConfig, Recipe]:
    """The model and recipe of a preset.

    Args:
        scenes: how many the family has: bases that many scenes share are cheap, so more scenes get more.
        side: longest side of the pictures in pixels, for images and views; sets the finest level.
    """
    raise NotImplementedError
