"""A run: fitted scenes with their model, in memory or in a folder of safetensors and JSON.

    config.json         what was fitted and how, see `config.RunConfig`
    model.safetensors   networks, codes and shared tensors, 16 bits a number
    photographs.safetensors   corrections of poses, and appearance, of the training pictures, where they were learned
    codes.safetensors   where codes come from, when they are not found by descent alone (an encoder, distributions)
    state/              all that an exact resume needs, in one file, 32 bits a number; of a fit in parts, see `shards`
    metrics.jsonl       a line every few seconds of a fit          summary.json   what a finished fit took

Every file is written under a temporary name, synced and renamed: a failed write leaves the last good one. Nothing on
any load path unpickles, and nothing is imported by a name from a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields.codes.expressions import terms
from hyperfields.codes.paths import point_between
from hyperfields.data import SceneDataset, require_scenes
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.model import HyperField, ModelConfig
from hyperfields.ops.devices import require_float32
from hyperfields.process import seeded
from hyperfields.runs import codec, shards
from hyperfields.runs.atomic import new_folder, require_room, write_atomically
from hyperfields.runs.config import CONFIG, FORMAT, RunConfig, finite, read_config, write_config
from hyperfields.runs.scene import Scene, mean_frame, scene_of_sum
from hyperfields.tasks import Task, task_of

MODEL, STATE, METRICS, SUMMARY, SOURCE, PHOTOGRAPHS = (
    "model.safetensors", "state/resume.safetensors", "metrics.jsonl", "summary.json", "codes.safetensors",
    "photographs.safetensors",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """Fitted scenes. `run["bus"]` is a scene: a function of points with `render`, `mesh` and `save`; so is
    `run["bus - taxi + van"]`, that of a sum of codes.

    Weights are those of the file, 16 bits each: the quality that `evaluate` reports is that of what is rendered.

    path: folder of the run, None for one in memory. source: of the codes, as it was fitted, for `infer`.
    photographs: what was learned of the training pictures, over all scenes in their order: `poses` `[n 3 4]`,
    corrections as (rotation, translation) in the scene frame, `appearance` `[n 12]`; see `tasks.photographs`.
    summary: cost of the fit: `steps`, `seconds`, `loss`, `parameters`, `peak_memory_bytes`; empty when it is not known.
    """

    config: RunConfig
    model: HyperField
    path: Path | None = None
    source: nn.Module | None = None
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    photographs: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self.names[:3])) + (", ..." if len(self.names) > 3 else "")
        return f"Run({self.label}: {len(self.names)} scenes of {self.kind}, {names})"

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def task(self) -> Task:
        """Knowledge of the kind of these scenes."""
        task: Task = self.config.task or task_of(self.config.kind)
        return task

    @property
    def names(self) -> tuple[str, ...]:
        return self.config.scenes

    @property
    def label(self) -> str:
        """Name of the run in messages."""
        return "this run" if self.path is None else str(self.path)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @functools.cached_property
    def digest(self) -> str:
        """Short hash of the model's weights: tells which model a file of codes belongs to."""
        if self.path is not None:
            return _digest((self.path / MODEL).read_bytes())
        return _digest(_model_file(self.model))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str | int) -> Scene:
        """A scene by its name, by its number (negative ones count from the end), or by a sum of codes, `A - B + C`.

        Raises:
            InputError: no such scene, and the text lists the nearest names; a sum in a run of scenes fitted alone.
        """
        if isinstance(name, int) and not isinstance(name, bool):
            if not -len(self) <= name < len(self):
                raise InputError(
                    f"scene {name}: {self.label} has {len(self)}; wanted a number from 0 to {len(self) - 1}"
                )
            name = self.names[name]
        if not isinstance(name, str):
            raise InputError(f"scene {name!r:.60}: wanted one name or number; take run[name] for each of several")
        parts = [(1.0, name)] if name in self._numbers else terms(name, self.names)
        if len(parts) == 1:
            return Scene(self, parts[0][1], self._code(parts[0][1]))
        return scene_of_sum(self, name, parts, self._code, self.frame_of(name))

    def between(self, first: str, second: str, t: float, mode: str = "lerp") -> Scene:
        """A scene on the way from one to another in latent space: `t` 0 is the first, 1 the second, beyond them the way
        goes on. Both may be sums of codes, as for `run[...]`.

        mode: "lerp" is straight, "slerp" turns directions and interpolates lengths.

        Raises:
            InputError: unknown names or mode, a `t` that is no finite number.
        """
        try:
            t = float(t)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"t {t!r:.60}: wanted a number, 0 for the first scene and 1 for the second") from None
        if not math.isfinite(t):
            raise InputError(f"t {t}: wanted a finite number, 0 for the first scene and 1 for the second")
        ends = self.codes(first, second)
        if mode == "lerp":
            code = torch.lerp(ends[:1], ends[1:], t)  # exact at both ends
        else:
            code = point_between(ends[:1], ends[1:], ends.new_full((1, 1), t), mode)
        return Scene(self, f"{first}-{second}-{t:g}", code, fitted=False, frame=self.frame_of(first, second))

    def index(self, name: str) -> int:
        """Number of a scene.

        Raises:
            InputError: no scene of that name; the text lists the nearest ones.
        """
        if name in self._numbers:
            return self._numbers[name]
        near = difflib.get_close_matches(name, self.names, 3, 0.0)
        raise InputError(f"scene {name!r:.100}: not in {self.label}; the nearest names are {', '.join(near)}")

    def codes(self, *names: str) -> Tensor:
        """Latent codes of scenes, or of sums of them, `[s z]`; errors as of `run[name]`."""
        if all(name in self._numbers for name in names):
            return self.model.latents.codes.detach()[[self._numbers[name] for name in names]]
        return torch.cat([self[name].code for name in names])

    def frame_of(self, *names: str) -> tuple[float, ...] | None:
        """The mean of the frames of scenes, or of those in sums of them, see `Scene.frame`; without names, of all."""
        frames = self.config.picture.get("frames", {})
        parts = [name for text in names for _, name in terms(text, self.names)]
        return mean_frame(frames.get(name) for name in parts or self.names)

    def _code(self, name: str) -> Tensor:
        return self.model.latents.codes.detach()[[self.index(name)]]

    def bind(self, *names: str) -> BoundField:
        """Fields of scenes as one function of points, differentiable in these, not in the networks."""
        with torch.no_grad():
            return self.model.bind(self.codes(*names)).detach()

    def with_codes(self, names: Sequence[str], codes: Tensor) -> Run:
        """The same networks with other scenes: `names` and their codes `[s z]`."""
        with torch.device("meta"):
            model = HyperField(self.model.config, len(names))
        model.hypernet = self.model.hypernet
        model.latents.codes = nn.Parameter(codes.detach().clone())
        return dataclasses.replace(
            self, config=dataclasses.replace(self.config, scenes=tuple(names)), model=model.eval()
        )

    def save(self, folder: str | os.PathLike[str]) -> Run:
        """The run in a folder, new or empty, from which `load_run` reads it.

        Raises:
            InputError: a folder in use, or one that cannot be written.
        """
        folder = Path(folder)
        require_room(folder)
        with new_folder(folder, parents=True) as new:
            write_config(new, self.config)
            digest = write_model(new, self.model)
            if self.source is not None:
                write_source(new, self.source, digest)
            write_photographs(new, self.photographs)
            if self.summary:
                write_atomically(new / SUMMARY, json.dumps(self.summary, indent=1).encode())
        return dataclasses.replace(self, path=folder)


def require_pixels(run: Run, data: SceneDataset) -> None:
    """InputError unless pictures are of the size that the run was fitted to, where it knows its pixels alone."""
    fitted = getattr(run.model.config.field, "pixels", None)
    size = None if fitted is None else run.task.describe(data).get("size")
    if fitted is not None and size is not None and tuple(size) != tuple(fitted):
        here, there = ("x".join(map(str, side)) for side in (size, fitted))
        raise InputError(f"data: pictures of {here} came, {run.label} was fitted to {there}; resize them")


def require_data(run: Run, data: SceneDataset) -> None:
    """Nothing, when `run` is a run and `data` are scenes of its kind.

    Raises:
        InputError: they are not, or came in the other order; torch makes new tensors in another precision.
    """
    require_float32()
    if not isinstance(run, Run):
        raise InputError(f"run: {type(run).__name__} came, wanted a Run, the data after it; load one with hf.load_run")
    require_scenes(data)
    if data.kind != run.kind:
        raise InputError(f"{run.label}: holds {run.kind}, the family holds {data.kind}; give a family of {run.kind}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _model_file(model: HyperField) -> bytes:
    return safetensors.torch.save(codec.encode(model.state_dict()), {"format": str(FORMAT)})


def write_model(folder: Path, model: HyperField) -> str:
    """Write all weights and codes at 16 bits: the size of this file is what `bytes_per_scene` counts.

    Returns:
        Digest of the file, see `Run.digest`.
    """
    data = _model_file(model)
    write_atomically(folder / MODEL, data)
    return _digest(data)


def write_source(folder: Path, source: nn.Module, digest: str) -> None:
    """Write where codes come from, beside the model that has this digest."""
    stored = safetensors.torch.save(codec.encode(source.state_dict()), {"run": digest})
    write_atomically(folder / SOURCE, stored)


def write_photographs(folder: Path, learned: dict[str, Tensor]) -> None:
    """Write what was learned of the training pictures, if anything was."""
    if learned:
        write_atomically(folder / PHOTOGRAPHS, safetensors.torch.save(learned))


def _read_photographs(folder: Path) -> dict[str, Tensor]:
    path = folder / PHOTOGRAPHS
    if not path.is_file():
        return {}
    tensors, _ = codec.read_tensors(path)
    codec.require_finite(path, tensors)
    shapes = {"poses": (3, 4), "appearance": (12,)}
    for name, value in tensors.items():
        if name not in shapes or value.dim() < 1 or value.shape[1:] != shapes[name]:
            raise InputError(f"{path}: damaged: {name} {list(value.shape)} came; fit again")
    return dict(tensors)


def load_run(folder: str | os.PathLike[str], device: torch.device | str = "cpu", *, trust: Iterable[Any] = ()) -> Run:
    """A run for rendering, evaluation, export or inference, on `device`.

    Args:
        trust: classes and functions of yours that the run may name: generators, encodings, losses and so on. Nothing is
            imported by a name from a file.

    Raises:
        InputError: no run there, one without a model yet, a damaged one, one of another version, or one that names
            classes which are not trusted.
    """
    require_float32()
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder}: is a file, wanted the folder of a run; {_what_reads(folder)}")
    config = read_config(folder, trust)
    path = folder / MODEL
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {MODEL} yet, {_steps_there(folder)}; "
            f"finish it with: hyperfields fit ... --out {folder} --resume"
        )
    tensors, _ = codec.read_tensors(path)
    codec.require_finite(path, tensors)
    try:
        model = model_from_tensors(config.model, len(config.scenes), codec.decode(tensors))
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: damaged or of another model than config.json says: {reason}") from None
    summary, learned = read_summary(folder), _read_photographs(folder)
    return Run(config, model.eval().to(device), folder, summary=summary, photographs=learned)


def _what_reads(path: Path) -> str:
    """The way to read a file that is no run."""
    if path.name in (CONFIG, MODEL, SOURCE, SUMMARY, METRICS, PHOTOGRAPHS):
        return f"give {path.parent}"
    try:
        header = codec.read_tensors(path)[1]
    except InputError:
        return "runs are made by hyperfields.fit"
    return "read a scene's field with load_field" if "field" in header else "read inferred codes with load_codes"


def _steps_there(folder: Path) -> str:
    """The steps that a stopped fit has taken, in words."""
    try:
        if (manifest := shards.read_manifest(folder)) is not None:
            progress = manifest.progress
        else:
            progress = json.loads(codec.read_tensors(folder / STATE)[1]["progress"])
        return f"only a state after {int(progress['step']):,} steps"
    except (InputError, KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return "and no saved steps"


def model_from_tensors(config: ModelConfig, scenes: int, tensors: dict[str, Tensor]) -> HyperField:
    """A model with given weights and codes.

    Raises:
        ValueError: tensors that are not those of the model.
    """
    with torch.device("meta"):  # shapes first: a damaged config allocates nothing
        shapes = {name: value.shape for name, value in HyperField(config, scenes).state_dict().items()}
    if set(shapes) != set(tensors):
        raise ValueError(f"tensor {sorted(set(shapes) ^ set(tensors))[0]!r} is missing or does not belong to it")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, wanted {list(shape)}")
    with seeded():
        model = HyperField(config, scenes)
    model.load_state_dict(tensors)
    return model


def read_summary(folder: Path) -> dict[str, Any]:
    """Cost of a finished fit; empty when the fit is not finished or the file is damaged."""
    try:
        path = folder / SUMMARY
        summary = json.loads(path.read_bytes()) if path.is_file() else {}  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) and finite(*map(summary.get, ("steps", "seconds"))) else {}
