"""Presets: named models and recipes for each kind of family. Values, no logic beyond filling them in."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

from hyperfields.encodings import FactoredGrid, HashGrid
from hyperfields.errors import InputError
from hyperfields.families import Kind
from hyperfields.fields import ImageField, RadianceField, ShapeField
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
    rate_networks: float = 5e-3
    rate_latents: float = 1e-1
    prior: float = 1e-6  # weight of the Gaussian prior on latents


def preset(name: Preset, kind: Kind, scenes: int, side: int) -> tuple[ModelConfig, Recipe]:
    """The model and recipe of a preset.

    Args:
        scenes: how many the family has: bases that many scenes share are cheap, so more scenes get more.
        side: longest side of the pictures in pixels, for images and views; sets the finest level.

    Raises:
        InputError: an unknown name.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: wanted one of {', '.join(PRESETS)}")
    rank = 6 if kind == "views" else 3
    generators: dict[Preset, Generator] = {"tiny": Modulation(), "default": LowRank(rank), "faithful": Full()}
    generator = generators[name]
    if kind == "images":
        many = scenes >= 256
        bases = {"tiny": 0, "default": 65 if many else 15, "faithful": 128}[name]
        grid = _grid(2, 6, 12, 5, side, bases)
        # A step of a linear head grows with the size of the code that it reads.
        recipe = Recipe(min(scenes, 128), 2**15, rate_networks=2.5e-3 if many else 5e-3)
        return ModelConfig(ImageField(grid), generator, 192 if many else 96), recipe
    if kind == "shapes":
        bases = {"tiny": 0, "default": 17, "faithful": 64}[name]
        grid = _grid(3, 6, 14, 6, 62, bases)
        return ModelConfig(ShapeField(grid), generator, 64), Recipe(min(scenes, 32), 2**16)
    if kind == "views":
        # Few scenes have little to share and get a basis each and one for all; beyond 16, a fifth as many bases as
        # scenes, so that a scene costs about a quarter of what it costs alone.
        shared = 1 + (scenes if scenes <= 16 else min(max(scenes // 5, 6), 64))
        bases = {"tiny": 0, "default": shared, "faithful": 64}[name]
        # Cells finer than the pixels fit the known views and spoil the others.
        grid = _grid(3, 8, 13, 8, min(side, 128), bases)
        field = RadianceField(grid, step=0.025)
        samples = 2**11 * min(max(scenes, 16), 32)
        return ModelConfig(field, generator, 64), Recipe(min(scenes, 32), samples, rate_grid=3e-2)
    assert_never(kind)


def _grid(dims: int, levels: int, log2_table: int, coarsest: int, finest: int, bases: int) -> HashGrid | FactoredGrid:
    finest = max(finest, coarsest)
    if bases == 0:
        return HashGrid(dims, levels, 2, log2_table, coarsest, finest)
    return FactoredGrid(dims, levels, 2, log2_table, coarsest, finest, bases=bases)
