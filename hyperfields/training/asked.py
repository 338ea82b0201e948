"""What is asked of a fit: its checks, and how two configs differ."""

from __future__ import annotations

from typing import Any

from hyperfields.codes import Codes, parse
from hyperfields.errors import InputError
from hyperfields.hypernets import Generator, Independent
from hyperfields.model import ModelConfig
from hyperfields.tasks import Task
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
