"""Models of equal bytes: of the generators of a comparison, each as large as its scenes' bytes allow.

Equal bytes: a scene's share of all networks, and its code. The encoding is the preset's; when other bytes than the
preset's are asked for, its number of bases follows in proportion, alike for all generators. Each generator then spends
what is left in its own way: first the setting that is natural to it (its `knob`) grows as far as the bytes allow at the
preset's latent size, and what remains goes to the latent. A generator without such a setting has the latent alone.
Equal time: each has the rate of its networks that did best in short fits (its `rates`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hyperfields import hypernets
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.hypernets import shares_networks
from hyperfields.model import ModelConfig
from hyperfields.tasks import Preset, Task, TrainConfig, preset
from hyperfields.training.cost import count

LARGEST = 8192  # of a latent or of a generator's own setting

Models = dict[tuple[str, int | None], tuple[ModelConfig, TrainConfig]]


def models_of(
    family: SceneDataset, task: Task, name: Preset, generators: Sequence[str], sizes: Sequence[int | None]
) -> Models:
    """Model and recipe of each generator and size: field, encoding and recipe of the preset `name`, rates of its own.

    A generator that fits each scene alone has one size, None.

    Raises:
        InputError: bytes that a generator cannot keep to, settings that do not fit the field.
    """
    picture, scenes = task.describe(family), len(family.names)
    side, unbounded = max(picture.get("size", (1, 1))), bool(picture.get("unbounded"))
    base, recipe = preset(name, family.kind, scenes, side, unbounded=unbounded, task=task)
    models: Models = {}
    for written in generators:
        generator = hypernets.parse(written)
        if not shares_networks(generator):
            models[written, None] = base, recipe  # `Fit` takes the networks away
            continue
        model, mine = preset(name, family.kind, scenes, side, generator=generator, unbounded=unbounded, task=task)
        for size in sizes:
            if size is None:
                count(model, scenes)  # refuses settings that do not fit the field
            else:
                model = sized(base, written, scenes, size)
            models[written, size] = model, mine
    return models


def _largest(fits: Callable[[int], bool], unit: int = 1) -> int:
    """The largest multiple of `unit` that fits, by bisection; `unit` itself when none does."""
    low, high = 1, LARGEST // unit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle - 1)
    return low * unit


def sized(config: ModelConfig, name: str, scenes: int, budget: int) -> ModelConfig:
    """The same model with the generator `name`, as large as `budget` amortised bytes a scene allow: see the head.

    Raises:
        InputError: even the smallest takes more.
    """

    def fits(model: ModelConfig) -> bool:
        try:
            return count(model, scenes).amortised <= budget
        except InputError:  # a rank or a chunk that the field does not have
            return False

    encoding = config.field.encoding
    if isinstance(encoding, FactoredGrid):
        bases = max(round(encoding.bases * budget / count(config, scenes).amortised), 1)
        field = dataclasses.replace(config.field, encoding=dataclasses.replace(encoding, bases=bases))
        config = dataclasses.replace(config, field=field)
    model = dataclasses.replace(config, generator=hypernets.parse(name))
    count(model, scenes)  # refuses settings that do not fit the field
    knob = model.generator.knob
    if knob and f":{knob}=" not in name:

        def turned(value: int) -> ModelConfig:
            settings: dict[str, Any] = {knob: value}
            return dataclasses.replace(model, generator=dataclasses.replace(model.generator, **settings))

        model = turned(_largest(lambda value: fits(turned(value)), getattr(model.generator, "heads", 1)))

    def read(size: int) -> ModelConfig:
        return dataclasses.replace(model, latent_size=size)

    if not fits(read(1)):
        raise InputError(
            f"--bytes {budget:,}: {name} takes {count(read(1), scenes).amortised:,.0f} bytes a scene with a latent of "
            "one number; give more bytes, more scenes or another generator"
        )
    return read(_largest(lambda size: fits(read(size))))
