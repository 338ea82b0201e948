"""One scene's field in tiny-cuda-nn's layout, and back: two files, NAME.safetensors and NAME.json.

Each vector is what the module of tinycudann that the JSON describes takes as `params`. Points for the grid are in
[0, 1]; a network's input has one more column than its features, and that is 1 (see `ops/_tcnn.py`). What stands between
the modules (the clamp of the density, spherical harmonics of directions) is our field's: see `fields.py`. Values are
float32 and not changed: what comes back is what went out, bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.configs import to_json
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field
from hyperfields.fields.encodings import TABLE, GridEncoding
from hyperfields.ops import BOX, _tcnn
from hyperfields.runs.atomic import write_together
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import config_from_json
from hyperfields.weights import Weights, layers

FORMAT = "hyperfields-tcnn-1"
SUFFIX = ".safetensors"


def networks(field: Field) -> tuple[str, ...]:
    """Names of a field's MLPs among its weights, in their order."""
    return tuple(dict.fromkeys(name.split(".")[0] for name in field.spec if name.endswith(".0.weight")))


def modules(field: Field) -> dict[str, dict[str, Any]]:
    """Arguments of tinycudann's modules for a field.

    Raises:
        InputError: an encoding or a network that tinycudann does not have.
    """
    if not isinstance(field.encoding, GridEncoding):
        name = type(field.encoding).__name__
        raise InputError(f"--format tcnn: this field's encoding is {name}; only hash grids have tinycudann's layout")
    if getattr(field, "space", BOX).contracted:
        raise InputError(
            "--format tcnn: this field lives in contracted space, which tinycudann does not know; export .safetensors"
        )
    grid = field.encoding.grid
    try:
        described: dict[str, dict[str, Any]] = {
            "encoding": {
                "module": "Encoding",
                "n_input_dims": grid.dims,
                "encoding_config": _tcnn.encoding_config(grid),
            }
        }
        for name in networks(field):
            sizes = widths(field, name)
            described[name] = {
                "module": "Network",
                "n_input_dims": sizes[0] + 1,
                "n_output_dims": sizes[-1],
                "network_config": _tcnn.network_config(sizes, activation_of(field), True),
            }
    except ValueError as error:
        raise InputError(f"--format tcnn: {error}") from None
    return described


def activation_of(field: Any) -> ops.Activation:
    """Activation of a field's MLPs.

    Raises:
        ValueError: one that tinycudann does not have.
    """
    activation: ops.Activation = field.activation
    if activation not in _tcnn.ACTIVATIONS:
        raise ValueError(f"activation {activation}: tinycudann's is another; fit with {' or '.join(_tcnn.ACTIVATIONS)}")
    return activation


def widths(field: Field, name: str) -> list[int]:
    """Inputs, hidden layers and outputs of one of a field's MLPs."""
    spec = field.spec
    sizes: list[tuple[int, ...]] = []
    while (entry := spec.get(f"{name}.{len(sizes)}.weight")) is not None:
        sizes.append(entry.shape)
    return [sizes[0][1], *(shape[0] for shape in sizes)]


def write_tcnn(path: Path, bound: BoundField, info: dict[str, Any]) -> None:
    """One scene in tiny-cuda-nn's layout: `path` (.safetensors) and the JSON beside it.

    Raises:
        InputError: another suffix, a field that tinycudann does not have, or a file that cannot be written.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"--out {path}: --format tcnn is written as {SUFFIX}, with a .json beside it")
    if bound.scenes != 1:
        raise ValueError(f"write_tcnn: got {bound.scenes} scenes, wanted one")
    described = modules(bound.field)
    tensors: dict[str, Tensor] = {"encoding": bound.weights[TABLE].detach()[0].flatten()}
    for name in networks(bound.field):
        pairs = [(w.detach()[0], None if b is None else b.detach()[0]) for w, b in layers(bound.weights, name)]
        tensors[name] = _tcnn.pack_network(pairs)
    header = {"format": FORMAT, "field": to_json(bound.field), "info": info, "modules": described}
    data = {name: value.cpu().contiguous() for name, value in tensors.items()}
    stored = safetensors.torch.save(data, {"format": FORMAT})
    write_together({path: stored, path.with_suffix(".json"): json.dumps(header, indent=1).encode()})


def read_tcnn(path: Path) -> tuple[BoundField, dict[str, Any]]:
    """The inverse of `write_tcnn`: (the field with its weights, what was written beside them).

    Raises:
        InputError: missing, damaged, or not of this layout.
    """
    beside = path.with_suffix(".json")
    if beside.exists() and not beside.is_file():  # a pipe would be waited for
        raise InputError(f"{beside}: is no file; wanted the JSON that export --format tcnn writes")
    try:
        header = json.loads(beside.read_bytes())
    except OSError as error:
        raise InputError(f"{beside}: {error.strerror}; it has to lie beside {path}, as export writes it") from None
    except (ValueError, RecursionError):
        raise InputError(f"{beside}: damaged, not the JSON that export --format tcnn writes") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{beside}: wanted format {FORMAT!r}; only what export --format tcnn wrote can be read")
    tensors, _ = read_tensors(path)
    try:
        field = config_from_json(header["field"])
        if header["modules"] != json.loads(json.dumps(modules(field))):
            raise InputError(f"{beside}: its modules are not those of its field: the file was changed")
        weights = _weights(field, tensors)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"{beside}: damaged: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    info = header.get("info", {})
    if not isinstance(info, dict):
        raise InputError(f"{beside}: damaged: its info is {info!r:.60}, wanted an object")
    return BoundField(field, weights, 1), info


def _weights(field: Field, tensors: dict[str, Tensor]) -> Weights:
    """Weights `[1 ...]` of a field from parameter vectors."""
    wanted = {"encoding", *networks(field)}
    if tensors.keys() != wanted:
        raise InputError(f"holds {', '.join(sorted(tensors))}; wanted {', '.join(sorted(wanted))}")
    assert isinstance(field.encoding, GridEncoding)
    grid = field.encoding.grid
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"{name}: got {value.dtype}, wanted torch.float32")
    if tensors["encoding"].numel() != grid.rows * grid.features:
        got = tensors["encoding"].numel()
        raise ValueError(f"encoding: got {got} parameters, wanted {grid.rows * grid.features} for its grid")
    weights: Weights = {TABLE: tensors["encoding"].reshape(1, grid.rows, grid.features)}
    for name in networks(field):
        for number, (weight, bias) in enumerate(_tcnn.unpack_network(tensors[name], widths(field, name), True)):
            assert bias is not None
            weights[f"{name}.{number}.weight"], weights[f"{name}.{number}.bias"] = weight[None], bias[None]
    return weights
