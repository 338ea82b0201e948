"""What `fit` and `infer` are asked for beside lengths: the generator, drawn weights, and where codes come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.configs import Setting, parse_choice, parse_settings
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.codes.table import CodeSource
    from hyperfields.data import SceneDataset
    from hyperfields.model import ModelConfig
    from hyperfields.runs.checkpoint import Run
    from hyperfields.training.fit import FitConfig

MakeSource = Callable[["ModelConfig"], "CodeSource"]


def chosen(
    family: SceneDataset, config: FitConfig, generator: str | None, bayes: str | None, stability: str | None, by: str
) -> dict[str, Any]:
    """The preset's model and recipe with what was asked for instead; nothing, where nothing was.

    by: the name of where codes come from.
    """
    asked = {"--generator": generator, "--bayes": bayes, "--stability": stability}
    given = [option for option, text in asked.items() if text is not None]
    weights = "--individually" if config.individually else "--by reptile" if by == "reptile" else None
    if weights and given:
        raise InputError(f"{weights}: fits weights themselves, nothing generates them; leave {', '.join(given)} out")
    if not given and by not in ("reptile", "cavia"):
        return {}
    from hyperfields import hypernets
    from hyperfields.tasks import task_of
    from hyperfields.tasks.presets import network_rate, preset
    from hyperfields.training.fit import alone

    picture = task_of(family.kind).describe(family)
    model, recipe = preset(config.preset, family.kind, len(family.names), max(picture.get("size", (1, 1))))
    if by == "reptile":
        return {"model": alone(model), "recipe": recipe}
    if generator is not None:
        # Not `direct`, which is --individually.
        model = dataclasses.replace(model, generator=hypernets.parse(generator, hypernets.SHARING))
        recipe = dataclasses.replace(recipe, rate_networks=network_rate(generator, family.kind, len(family.names)))
    if by == "cavia":
        from hyperfields.codes.cavia import slower

        recipe = slower(recipe)
    if stability is not None:
        sound = dataclasses.asdict(hypernets.Stability())
        settings: dict[str, Any] = parse_settings("--stability", stability, sound)
        model = dataclasses.replace(model, stability=hypernets.Stability(**settings))
    return {"model": dataclasses.replace(model, bayes=drawn_weights(bayes)), "recipe": recipe}


def drawn_weights(text: str | None) -> Any:
    """`hypernets.Bayes` of `factors:weight=1e-8` and the like."""
    from hyperfields.hypernets import Bayes

    default = Bayes()
    factors: dict[str, Setting] = {"weight": default.weight, "deviation": default.deviation}
    noise: dict[str, Setting] = {"weight": default.weight, "numbers": default.numbers}
    name, settings = parse_choice("--bayes", text or "none", {"none": {}, "factors": factors, "noise": noise})
    return Bayes(name, **settings)  # type: ignore[arg-type]


def codes_asked_for(text: str | None, old: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """(name, settings) of where codes come from, or of where those of the run to go on with do."""
    if old is not None:
        settings = dict(old)
        return settings.pop("name", "descent"), settings
    from hyperfields.codes.cavia import Meta, Reptile
    from hyperfields.codes.encoder import EncoderConfig
    from hyperfields.codes.table import DIVERGENCE

    known: dict[str, Mapping[str, Setting]] = {
        "descent": {},
        "vae": {"weight": DIVERGENCE},
        "encoder": dataclasses.asdict(EncoderConfig()),
        "cavia": dataclasses.asdict(Meta()),
        "reptile": dataclasses.asdict(Reptile()),
        "time": {},
    }
    return parse_choice("--by", text or "descent", known)


def code_source(family: SceneDataset, name: str, settings: dict[str, Any], device: str) -> MakeSource | None:
    """What makes the source of codes; None for a table."""
    if name == "descent":
        return None
    if name == "vae":
        from hyperfields.codes.table import VariationalTable

        return lambda model: VariationalTable(len(family.names), model.latent_size, **settings)
    if name == "encoder":
        from hyperfields.codes.encoder import EncoderCodes, EncoderConfig

        if device != "cpu":
            raise InputError(f"--by encoder: is for the CPU, not for {device}; leave --device out")
        return lambda model: EncoderCodes(model, family, EncoderConfig(**settings))
    if name == "cavia":
        from hyperfields.codes.cavia import RATES, InnerSteps, Meta

        return lambda model: InnerSteps(model, Meta(**{"rate": RATES[family.kind], **settings}))
    if name == "reptile":
        from hyperfields.codes.cavia import CommonStart, Reptile

        return lambda model: CommonStart(model, Reptile(**settings))
    if name == "time":
        from hyperfields.codes.sequence import TimeCodes, frame_times_from_names

        clock = frame_times_from_names(family.names)
        return lambda model: TimeCodes(model, clock)
    raise InputError(f"--resume: codes by {name!r} are not known to this version")


def infer_at_once(run: Run, family: SceneDataset, out: Path, by: str, seed: int, note: dict[str, Any]) -> None:
    """Codes without a fit, by what the run has learned for that."""
    from hyperfields.training.inference import write_codes

    if by == "encoder":
        from hyperfields.codes.encoder import load_encoded

        found = load_encoded(run.path).infer(family, seed=seed)
    else:
        from hyperfields.codes.cavia import infer_by_steps

        found = infer_by_steps(run, family, seed=seed)
    write_codes(out, dataclasses.replace(found, family=note), run)
