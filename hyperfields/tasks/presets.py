"""Presets: named models and recipes for each kind of family. Values, no logic beyond filling them in."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.fields import ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, HashGrid
from hyperfields.hypernets import Full, Generator, Hierarchical, Modulation
from hyperfields.model import ModelConfig

Preset = Literal["tiny", "default", "faithful"]
MANY = 256  # images from which a family has larger codes and more bases
PRESETS: tuple[Preset, ...] = ("tiny", "default", "faithful")

RATES: dict[str, dict[Kind, float]] = {  # times the base rate of networks: what did best in short fits (NUMBERS.md)
    "full": {"images": 2.0, "shapes": 4.0, "views": 1.0},
    "per-layer": {"images": 4.0, "shapes": 2.0, "views": 2.0},
    "hierarchical": {"images": 2.0, "shapes": 2.0, "views": 2.0},
    "chunked": {"images": 4.0, "shapes": 1.0, "views": 2.0},
    "cppn": {"images": 2.0, "shapes": 2.0, "views": 2.0},
    "low-rank": {"images": 2.0, "shapes": 1.0, "views": 2.0},
    "lora": {"images": 2.0, "shapes": 1.0, "views": 2.0},
    "scale-shift": {"images": 4.0, "shapes": 1.0, "views": 2.0},
    "shift": {"images": 4.0, "shapes": 1.0, "views": 2.0},
    "weight-tokens": {"images": 2.0, "shapes": 1.0, "views": 2.0},
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is fitted. Rates are the peaks of the schedule."""

    scenes: int  # scenes of a step
    samples: int  # points of a step, over all its scenes; for views: points along rays
    rate_grid: float = 1e-2
    rate_networks: float = 5e-3
    rate_latents: float = 1e-1
    prior: float = 1e-6  # weight of the Gaussian prior on latents


def preset(name: Preset, kind: Kind, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
    """The model and recipe of a preset.

    Args:
        scenes: how many the family has: bases that many scenes share are cheap, so more scenes get more.
        side: longest side of the pictures in pixels, for images and views; sets the finest level.

    Raises:
        InputError: an unknown name.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: wanted one of {', '.join(PRESETS)}")
    # The best of those compared at equal bytes and minutes (NUMBERS.md, section Generators).
    best = Hierarchical(24 if kind == "images" else 32)
    generators: dict[Preset, tuple[str, Generator]] = {
        "tiny": ("scale-shift", Modulation()),
        "default": ("hierarchical", best),
        "faithful": ("full", Full()),
    }
    called, generator = generators[name]
    rate = network_rate(called, kind, scenes)
    if kind == "images":
        many = scenes >= MANY
        bases = {"tiny": 0, "default": 65 if many else 15, "faithful": 128}[name]
        grid = _grid(2, 6, 12, 5, side, bases)
        recipe = TrainConfig(min(scenes, 128), 2**15, rate_networks=rate)
        return ModelConfig(ImageField(grid), generator, 192 if many else 96), recipe
    if kind == "shapes":
        bases = {"tiny": 0, "default": 17, "faithful": 64}[name]
        grid = _grid(3, 6, 14, 6, 62, bases)
        return ModelConfig(SDFField(grid), generator, 64), TrainConfig(min(scenes, 32), 2**16, rate_networks=rate)
    if kind == "views":
        # Few scenes have little to share and get a basis each and one for all; beyond 16, a fifth as many bases as
        # scenes, so that a scene costs about a quarter of what it costs alone.
        shared = 1 + (scenes if scenes <= 16 else min(max(scenes // 5, 6), 64))
        bases = {"tiny": 0, "default": shared, "faithful": 64}[name]
        # Cells finer than the pixels fit the known views and spoil the others.
        grid = _grid(3, 8, 13, 8, min(side, 128), bases)
        field = RadianceField(grid, step=0.025)
        samples = 2**11 * min(max(scenes, 16), 32)
        return ModelConfig(field, generator, 64), TrainConfig(
            min(scenes, 32), samples, rate_grid=3e-2, rate_networks=rate
        )
    assert_never(kind)


def network_rate(generator: str, kind: Kind, scenes: int) -> float:
    """The peak rate of the networks of a generator, by its name on the command line (`hypernets.parse`)."""
    # A step of a linear head grows with the size of the code that it reads, and many images get larger codes.
    base = 1.25e-3 if kind == "images" and scenes >= MANY else 5e-3
    return base * RATES.get(generator.partition(":")[0], {kind: 1.0})[kind]


def _grid(dims: int, levels: int, log2_table: int, coarsest: int, finest: int, bases: int) -> HashGrid | FactoredGrid:
    finest = max(finest, coarsest)
    if bases == 0:
        return HashGrid(dims, levels, 2, log2_table, coarsest, finest)
    return FactoredGrid(dims, levels, 2, log2_table, coarsest, finest, bases=bases)
