"""A run on disk: a folder of safetensors and JSON. Nothing on any load path unpickles.

    config.json         what was fitted and how: settings, versions, scenes, fingerprint of the family
    model.safetensors   networks, codes and shared tensors, 16 bits a number
    state/              all that an exact resume needs, in one file, 32 bits a number
    codes.safetensors   where codes come from, when they are not found by descent alone (an encoder, distributions)
    metrics.jsonl       a line every few seconds of a fit          summary.json   what a finished fit took

Every file is written under a temporary name, synced and renamed: a failed write leaves the last good one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hyperfields import fields, hypernets
from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.fields import encodings
from hyperfields.model import BoundField, HyperField, ModelConfig
from hyperfields.ops.grid import GridSpec

FORMAT = 1
CONFIG, MODEL, STATE, METRICS, SUMMARY, SOURCE = (
    "config.json", "model.safetensors", "state/resume.safetensors", "metrics.jsonl", "summary.json",
    "codes.safetensors",
)  # fmt: skip

_CLASSES = {
    cls.__name__: cls
    for cls in (
        *get_args(encodings.Encoding), encodings.SphericalHarmonics, *get_args(fields.Field),
        *get_args(hypernets.Generator), hypernets.Stability, hypernets.Bayes, hypernets.Extension, ModelConfig,
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A fitted family as read from its folder."""

    path: Path
    config: dict[str, Any]
    model: HyperField

    @property
    def kind(self) -> Kind:
        return self.model.kind

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.config["scenes"])

    @property
    def digest(self) -> str:
        """A short hash of the model file: tells which model a file of codes belongs to."""
        return hashlib.sha256((self.path / MODEL).read_bytes()).hexdigest()[:16]

    def index(self, name: str) -> int:
        """Number of a scene.

        Raises:
            InputError: no scene of that name; the text lists the nearest ones.
        """
        if name in self.names:
            return self.names.index(name)
        near = difflib.get_close_matches(name, self.names, 3, 0.0)
        raise InputError(f"scene {name!r}: not in {self.path}; the nearest names are {', '.join(near)}")

    def codes(self, *names: str) -> Tensor:
        """Latent codes of scenes `[s z]`."""
        return self.model.latents.codes.detach()[[self.index(name) for name in names]]

    def bind(self, *names: str) -> BoundField:
        """The fields of scenes as one function of points; not differentiable."""
        with torch.no_grad():
            return self.model.bind(self.codes(*names))

    def with_codes(self, names: Sequence[str], codes: Tensor) -> Run:
        """The same networks with other scenes: `names` and their codes `[s z]`."""
        with torch.device("meta"):
            model = HyperField(self.model.config, len(names))
        model.hypernet = self.model.hypernet
        model.latents.codes = torch.nn.Parameter(codes.detach().clone())
        return Run(self.path, {**self.config, "scenes": list(names)}, model.eval())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or all of the new one.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}; free some space or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_json(value: Any) -> Any:
    """Configs as JSON: a dataclass becomes its fields and its class name; a grid keeps its exact numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, encodings.HashGrid | encodings.FactoredGrid):
            content["grid"] = {"scales": list(value.grid.scales), "resolutions": list(value.grid.resolutions),
                               "offsets": list(value.grid.offsets)}  # fmt: skip
        return {"class": type(value).__name__, **content}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`; lists come back as tuples.

    Raises:
        InputError: a class that this version does not know, or fields that it does not have.
    """
    if isinstance(value, dict) and "class" in value:
        name = value["class"]
        if name not in _CLASSES:
            raise InputError(f"class {name!r}: unknown, wanted one of {', '.join(sorted(_CLASSES))}")
        content = {key: from_json(item) for key, item in value.items() if key not in ("class", "grid")}
        try:
            made = _CLASSES[name](**content)
            if "grid" in value:
                numbers = {key: tuple(item) for key, item in value["grid"].items()}
                # The stored scales decide, not this machine's exp2 (see ops/grid.py).
                made.__dict__["grid"] = GridSpec(made.dims, made.features, smoothstep=made.smoothstep, **numbers)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"class {name!r}: {error}") from None
        return made
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / CONFIG, json.dumps(config, indent=1).encode())


def versions() -> dict[str, str]:
    from hyperfields import __version__

    return {"hyperfields": __version__, "torch": torch.__version__, "python": platform.python_version()}


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        InputError: no run there, a damaged one, or one from a newer version.
    """
    path = folder / CONFIG
    if not folder.is_dir() or not path.is_file():
        raise InputError(
            f"{folder}: not a run, it has no {CONFIG}; make one with: hyperfields fit FAMILY --out {folder}"
        )
    try:
        config = json.loads(path.read_bytes())
        number = config["format"]
        if not isinstance(number, int):
            raise TypeError
        if number <= FORMAT:
            for key in ("kind", "scenes", "model", "fit"):
                config[key]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged, not the JSON that fit writes; restore it or fit again") from None
    if number > FORMAT:
        raise InputError(f"{path}: format {number} is newer than this version's {FORMAT}; update hyperfields")
    return dict(config)


def write_model(folder: Path, model: HyperField) -> None:
    """All numbers of the model at 16 bits: the size of this file is what `bytes_per_scene` counts."""
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder / MODEL, safetensors.torch.save(tensors, {"format": str(FORMAT)}))


def load_run(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Run:
    """Read a run for rendering, evaluation, export or inference, on `device`.

    Raises:
        InputError: no run there, one without a model yet, a damaged one, or one from a newer version.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / MODEL
    if not path.is_file():
        raise InputError(f"{folder}: has no {MODEL} yet; finish it with: hyperfields fit ... --out {folder} --resume")
    try:
        model = HyperField(from_json(config["model"]), len(config["scenes"]))
        tensors, _ = read_tensors(path)
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged or of another model than {CONFIG} says: {str(error).splitlines()[0]}"
        ) from None
    return Run(folder, config, model.eval().to(device))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        InputError: missing or damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from None


def write_field(path: Path, bound: BoundField, info: dict[str, Any]) -> None:
    """One scene's field on its own: its weights and its config, nothing of the hypernetwork."""
    header = {"format": str(FORMAT), "field": json.dumps(to_json(bound.field)), "info": json.dumps(info)}
    tensors = {name: value.detach().contiguous() for name, value in bound.weights.items()}
    write_atomically(path, safetensors.torch.save(tensors, header))


def load_field(path: str | os.PathLike[str]) -> BoundField:
    """A standalone field written by `hyperfields export ... --out x.safetensors`, as a function of points.

    Raises:
        InputError: missing, damaged, or not a standalone field.
    """
    tensors, header = read_tensors(Path(path))
    if "field" not in header:
        raise InputError(
            f"{path}: not a standalone field; write one with: hyperfields export RUN --scene NAME --out {path}"
        )
    return BoundField(from_json(json.loads(header["field"])), tensors, 1)
