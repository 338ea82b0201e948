"""One scene's field on its own, in a safetensors file: its weights and its config, nothing of the hypernetwork."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch

from hyperfields.configs import to_json
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.codec import read_tensors, require_finite
from hyperfields.runs.config import FORMAT, config_from_json


def write_field(path: Path, bound: BoundField, info: dict[str, Any]) -> None:
    """Write the field of one scene.

    Raises:
        InputError: the file cannot be written.
    """
    header = {"format": str(FORMAT), "field": json.dumps(to_json(bound.field)), "info": json.dumps(info)}
    tensors = {name: value.detach().contiguous() for name, value in bound.weights.items()}
    write_atomically(path, safetensors.torch.save(tensors, header))


def load_field(path: str | os.PathLike[str], *, trust: Iterable[Any] = ()) -> BoundField:
    """A standalone field written by `Scene.save` or `hyperfields export ... --out x.safetensors`, as a function of
    points.

    Args:
        trust: classes of yours that the file may name.

    Raises:
        InputError: missing, damaged, not a standalone field, or with classes that are not trusted.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, wanted the file of one scene's field; read a run with load_run")
    tensors, header = read_tensors(Path(path))
    if "field" not in header:
        raise InputError(
            f"{path}: not a standalone field; write one with: hyperfields export RUN --scene NAME --out {path}"
        )
    try:
        field = config_from_json(json.loads(header["field"]), trust)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: damaged: its header is not JSON") from None
    check_weights(path, field, tensors)
    require_finite(Path(path), tensors)
    return BoundField(field, {name: value.float() for name, value in tensors.items()}, 1)


def check_weights(path: str | os.PathLike[str], field: Any, tensors: dict[str, Any]) -> None:
    """Raises:
    InputError: tensors that are not the weights of one scene of `field`.
    """
    spec = getattr(field, "spec", None)
    if spec is None:
        raise InputError(f"{path}: damaged: its header holds no field")
    if set(tensors) != set(spec):
        different = sorted(set(tensors) ^ set(spec))[0]
        raise InputError(f"{path}: damaged: tensor {different!r} is missing or does not belong to its field")
    for name, entry in spec.items():
        shape = tuple(tensors[name].shape)
        if shape != (1, *entry.shape) or not tensors[name].is_floating_point():
            raise InputError(f"{path}: damaged: {name} is {list(shape)}, wanted {[1, *entry.shape]}")
