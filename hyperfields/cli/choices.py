"""Settings as text: the generator, its stability, drawn weights, and where codes come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hyperfields.configs import Setting, parse_choice, parse_settings
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.codes import Codes
    from hyperfields.data import SceneDataset
    from hyperfields.hypernets import Bayes, Stability
    from hyperfields.model import ModelConfig
    from hyperfields.tasks import TrainConfig


def parse_codes(text: str | None) -> Codes | None:
    """Where codes come from, of `cavia:order=2` and the like; None for a table.

    Raises:
        InputError: an unknown name or setting; the text lists those there are.
    """
    from hyperfields.codes import SOURCES

    known: dict[str, Mapping[str, Setting]] = {"descent": {}}
    known |= {name: _settings(make()) for name, make in SOURCES.items()}
    name, settings = parse_choice("--by", text or "descent", known)
    return None if name == "descent" else SOURCES[name](**settings)


def parse_bayes(text: str | None) -> Bayes:
    """Distribution over weights of `factors:weight=1e-8` and the like.

    Raises:
        InputError: an unknown name or setting; the text lists those there are.
    """
    from hyperfields.hypernets import Bayes

    default = Bayes()
    factors: dict[str, Setting] = {"weight": default.weight, "deviation": default.deviation}
    noise: dict[str, Setting] = {"weight": default.weight, "numbers": default.numbers}
    name, settings = parse_choice("--bayes", text or "none", {"none": {}, "factors": factors, "noise": noise})
    return Bayes(name, **settings)  # type: ignore[arg-type]


def parse_stability(text: str) -> Stability:
    """Stability of `share=0.2:spectral=4` and the like.

    Raises:
        InputError: an unknown setting; the text lists those there are.
    """
    from hyperfields.hypernets import Stability

    settings: dict[str, Any] = parse_settings("--stability", text, _settings(Stability()))
    return Stability(**settings)


def _settings(config: Any) -> dict[str, Setting]:
    return dataclasses.asdict(config)


def model_of(
    data: SceneDataset,
    preset: str,
    codes: Codes | None,
    individually: bool,
    generator: str | None,
    bayes: str | None,
    stability: str | None,
) -> tuple[ModelConfig | None, TrainConfig | None]:
    """The preset's model and recipe with what was asked for instead; (None, None) where nothing was.

    Raises:
        InputError: settings that do not go together, or that are not there.
    """
    asked = {"--generator": generator, "--bayes": bayes, "--stability": stability}
    given = [option for option, text in asked.items() if text is not None]
    independent = codes is not None and codes.independent
    if given and (individually or independent):
        how = "--individually" if individually else "--by reptile"
        raise InputError(f"{how}: fits weights themselves, nothing generates them; leave {', '.join(given)} out")
    if not given:
        return None, None
    from hyperfields import hypernets
    from hyperfields.tasks import task_of

    task, count = task_of(data.kind), len(data.names)
    model, train = task.model(preset, count, max(task.describe(data).get("size", (1, 1))))
    if generator is not None:
        # Not `direct`, which is --individually.
        model = dataclasses.replace(model, generator=hypernets.parse(generator, hypernets.SHARING))
        train = dataclasses.replace(train, rate_networks=task.network_rate(model.generator, count))
    if codes is not None:
        train = codes.adapt_recipe(train)
    if stability is not None:
        model = dataclasses.replace(model, stability=parse_stability(stability))
    return dataclasses.replace(model, bayes=parse_bayes(bayes)), train
