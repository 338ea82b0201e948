"""What is asked of a fit: its checks, and how two configs differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.codes import Codes, parse
from hyperfields.configs import to_json
from hyperfields.data import SceneDataset
from hyperfields.data.images import at_centres
from hyperfields.errors import InputError
from hyperfields.hypernets import Generator, Independent, shares_networks
from hyperfields.model import ModelConfig
from hyperfields.ops.devices import Precision, require_precision, usable_device
from hyperfields.runs.config import FitSettings, RunConfig
from hyperfields.tasks import Task, TrainConfig
from hyperfields.training.distributed import USED_WRONG, World
from hyperfields.training.step import Progress
from hyperfields.weights import numel


def name_of(value: object) -> str:
    """What came, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def codes_of(codes: Codes | str | None) -> Codes | None:
    """The config of a source of codes.

    Raises:
        InputError: an unknown name, or something else.
    """
    if isinstance(codes, str):
        return parse(codes)
    if codes is None or (hasattr(codes, "build") and not isinstance(codes, type)):
        return codes
    made = f"{codes.__name__}()" if isinstance(codes, type) else "hf.Variational()"
    raise InputError(f"codes: {name_of(codes)} came, wanted an object, such as {made}, or a name")


def device_for(name: str, precision: Precision) -> torch.device:
    """The device of a fit.

    Raises:
        InputError: one that is not there, or has not this precision.
    """
    device = usable_device(name)
    require_precision(precision, device)
    if device.type == "cuda" and (reason := ops.backends()["triton"]):
        warnings.warn(f"--device {name}: {reason}; fitting in plain torch, which is far slower", stacklevel=2)
    return device


def require_model(model: object, task: Task) -> None:
    """Nothing, when `model` is a config of models of the task.

    Raises:
        InputError: it is not.
    """
    if isinstance(model, tuple):
        raise InputError("model: a tuple came, wanted a ModelConfig; model, train = hf.preset(...) gives both")
    if isinstance(model, Generator):
        raise InputError(
            f"model: the generator {type(model).__name__} came, wanted a ModelConfig; "
            f"model, train = hf.preset(..., generator=hf.{type(model).__name__}(...)) gives one"
        )
    if not isinstance(model, ModelConfig):
        raise InputError(f"model: {name_of(model)} came, wanted a ModelConfig; model, train = hf.preset(...) gives one")
    kind = getattr(model.field, "kind", None)
    if kind != task.kind:
        raise InputError(f"model: its field is one of {kind}, the data hold {task.kind}; wanted a field of {task.kind}")


def chosen_model(
    task: Task,
    data: SceneDataset,
    settings: FitSettings,
    model: ModelConfig | None,
    train: TrainConfig | None,
    codes: Codes | None,
    loss: Callable[..., Tensor] | None,
    picture: dict[str, Any],
) -> tuple[ModelConfig, TrainConfig]:
    """The preset's model and recipe with what was asked for instead.

    Raises:
        InputError: settings that do not go together.
    """
    capture = settings.capture
    options = capture.model_options(data.kind, picture)
    if settings.individually and codes is not None:
        raise InputError("--individually: fits the weights of each scene, there are no codes; leave it out")
    side = max(picture.get("size", (1, 1)))
    chosen = task.model(settings.preset, len(data.names), side, **options)
    if train is not None and not isinstance(train, TrainConfig):
        raise InputError(f"train: {name_of(train)} came, wanted a TrainConfig, such as hf.preset(...)[1]")
    if train is None:
        train = chosen[1] if codes is None else codes.adapt_recipe(chosen[1])
    train = capture.recipe(dataclasses.replace(train, loss=loss or train.loss or task.loss))
    if settings.individually and (train.photographs.poses or train.photographs.appearance):
        raise InputError("--individually: learns nothing of single pictures; leave --refine-poses, --appearance out")
    model = model or chosen[0]
    require_model(model, task)
    if hasattr(model.field, "pixels") and "size" in picture:
        size = picture["size"][0], picture["size"][1]
        pixels = size if at_centres(data, size) else None  # whatever another fit of this model has filled in
        model = dataclasses.replace(model, field=dataclasses.replace(model.field, pixels=pixels))
    if settings.individually and shares_networks(model.generator):
        model = alone(model)
    if codes is not None and not shares_networks(model.generator):
        name = type(model.generator).__name__
        raise InputError(
            f"codes: {type(codes).__name__} needs networks to serve, {name} has none; take another generator"
        )
    return model, train


def require_parts(config: RunConfig, curve: bool, out: Path | None, ranks: int) -> None:
    """Nothing, when a fit can be made in parts, by so many processes.

    Raises:
        InputError: something is asked for that only one process without parts can do.
    """
    photographs = config.train.photographs
    asked = {
        "--individually": config.fit.individually,
        "--by": config.codes is not None,
        "--refine-poses, --appearance": bool(photographs.poses or photographs.appearance),
        "--curve": curve,
    }
    for option, given in asked.items():
        if given:
            raise InputError(f"{option}: cannot be had from several ranks, or with --parts; fit with one process")
    if ranks > 1 and out is None:
        raise InputError(f"out: none came for {ranks} ranks, wanted a folder that all of them see")


def require_alike(config: RunConfig, world: World) -> None:
    """Nothing, when all ranks are asked for the same.

    Raises:
        InputError: one sees another family, or other settings.
    """
    if world.size == 1:
        return
    mine = _asked(config)
    if len(set(world.gather(hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()))) == 1:
        return
    first, *others = world.gather(mine)
    rank, text = next((rank, text) for rank, other in enumerate(others, 1) if (text := _difference(first, other)))
    text = f"rank 0 and rank {rank} differ: {text}; give all ranks the same family and settings"
    world.end(InputError(text), USED_WRONG)


def require_same(out: Path, old: RunConfig, config: RunConfig) -> None:
    """Nothing, when the fit in `out`, whose config is `old`, can go on as `config`.

    Raises:
        InputError: it is another one.
    """
    fit = old.fit
    if not config.fit.individually:  # the length may be another, and how many processes there are
        ours = config.fit
        fit = dataclasses.replace(fit, minutes=ours.minutes, steps=ours.steps, parts=ours.parts)
    if found := _difference(_asked(dataclasses.replace(old, fit=fit)), _asked(config)):
        raise InputError(f"{out}: holds another fit: {found}; resume with the same family and settings")


def nothing_to_do(settings: FitSettings, progress: Progress) -> str:
    """Where a fit is that was asked for no more, and what to ask for."""
    if settings.steps is not None:
        return f"{progress.step:,} steps, nothing to do; give --steps above {progress.step}"
    minutes = f"{progress.seconds / 60.0:.3g}"
    return f"{minutes} minutes ({progress.step:,} steps), nothing to do; give --minutes above {minutes}"


def _asked(config: RunConfig) -> dict[str, Any]:
    """What decides a fit, as JSON. Files may lie elsewhere, on another device."""
    keys = ("kind", "scenes", "fingerprint", "model", "train", "fit", "codes", "regularizers")
    return {key: to_json(getattr(config, key)) for key in keys}


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first setting that differs, in words; empty if none does."""
    for key, value in theirs.items():
        if found := difference(value, ours[key], key):
            return "other data or another size" if key == "fingerprint" else found
    return ""


def difference(theirs: Any, ours: Any, name: str) -> str:
    """The first setting that differs between two configs as JSON, "seed 0, not 4"; empty if none does."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
        parts = (difference(theirs[key], ours[key], key) for key in theirs)
        return next(filter(None, parts), "")
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return f"{len(theirs)} {name}, not {len(ours)}"
        return next(filter(None, (difference(*pair, name) for pair in zip(theirs, ours, strict=True))), "")
    return "" if theirs == ours else f"{name} {_short(theirs)}, not {_short(ours)}"


def _short(value: Any) -> str:
    """A part of a config for a message: the class of one that has settings of its own."""
    return str(value.get("class", "of other settings") if isinstance(value, dict) else value)[:60]


def alone(model: ModelConfig) -> ModelConfig:
    """The same field without a hypernetwork: every scene owns its table and its networks."""
    return ModelConfig(model.field, Independent(), numel(model.field.spec))
