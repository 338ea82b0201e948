"""The config of a run, typed and versioned: `config.json`."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch

from hyperfields import codes, fields, hypernets
from hyperfields.configs import Untrusted, from_json, known_as, to_json
from hyperfields.data.base import shortened
from hyperfields.errors import CONTROL, InputError
from hyperfields.fields import encodings
from hyperfields.model import ModelConfig
from hyperfields.ops import Box, Contracted, GridSpec
from hyperfields.runs.atomic import require_room, write_atomically
from hyperfields.tasks import TASKS, TrainConfig, losses
from hyperfields.tasks import config as training
from hyperfields.tasks.between import Between
from hyperfields.tasks.captures import CaptureSettings
from hyperfields.tasks.photographs import PhotographConfig

FORMAT = 2
CONFIG = "config.json"
LARGEST = 2**16  # pixels along a side of a picture
MOST_PIXELS = 2**27  # of one
LIMIT = 1e9  # of lengths and angles in a file


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Source of scenes of a run: a folder, absolute, and how it was read. `scenes` are those that it gave."""

    path: str
    scenes: tuple[str, ...]
    size: tuple[int, int] | None = None  # (height, width) that pictures were brought to
    views: tuple[int, ...] | None = None  # indices of the training views that were used
    aspect: str | None = None  # how pictures came to a size of another ratio
    background: str | None = None  # of views without alpha, a colour or "scene"
    up: str | None = None  # the axis that is up, where it was said
    split: str | None = None  # how pictures of views were divided, where it was said


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Length and seed of a fit; exactly one of `minutes` and `steps`.

    capture: of views, how they were taken.
    parts: that the family was fitted in, see `training.parts`; None: in one.
    """

    preset: str = "default"
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    individually: bool = False
    capture: CaptureSettings = dataclasses.field(default_factory=CaptureSettings)
    parts: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a seed that no generator takes; the length is checked by `training.trainer.Length`."""
        require_seed(self.seed)


def require_seed(seed: int) -> None:
    """Nothing, when `seed` is a whole number from 0 to 2**53, which files hold exactly.

    Raises:
        InputError: it is not.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**53:
        raise InputError(f"seed {seed!r:.60}: wanted a whole number from 0 to 2**53 - 1")


@dataclasses.dataclass(frozen=True, repr=False)
class RunConfig:
    """Everything that a run records of how it was made.

    codes: where codes came from, None for a table. regularizers: as text. picture: sizes, cameras and frames of the
    data, from the task, so that a run renders without its data. added: scenes that `add` brought, see
    `training.continual`. task: of a kind that is a user's.
    """

    deferred: ClassVar[tuple[str, ...]] = ("codes",)  # what rendering and measuring do without

    kind: str
    scenes: tuple[str, ...]
    model: ModelConfig
    train: TrainConfig
    fit: FitSettings
    codes: Any = None
    regularizers: tuple[str, ...] = ()
    picture: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: tuple[DataSource, ...] = ()
    fingerprint: str | None = None
    device: str = "cpu"
    precision: str = "float32"
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    added: tuple[dict[str, Any], ...] = ()
    task: Any = None
    format: int = FORMAT

    def __repr__(self) -> str:
        length = f"{self.fit.steps:,} steps" if self.fit.steps is not None else f"{self.fit.minutes:g} minutes"
        generator = type(self.model.generator).__name__
        return f"RunConfig({self.kind}, {shortened(self.scenes)}; preset {self.fit.preset}, {generator}, {length})"

    def __post_init__(self) -> None:
        """Refuses what would fail later, when the run is shown or goes on.

        Raises:
            InputError: facts about pictures, or settings of the user's classes, that cannot be.
        """
        size, frames = self.picture.get("size", (1, 1)), self.picture.get("frames", {})
        for given in (size, *(source.size for source in self.sources if source.size is not None)):
            if not is_size(given):
                raise InputError(
                    f"picture size {given!r:.60}: wanted a height and a width of 1 to {LARGEST}, and together at most "
                    f"{MOST_PIXELS:,} pixels"
                )
        if not isinstance(frames, dict) or not all(len_of(frame) == 4 and finite(*frame) for frame in frames.values()):
            raise InputError(f"picture frames {frames!r:.60}: wanted a scale and a centre for each scene")
        for name in ("fov", "radius", "elevation"):
            if name in self.picture and not finite(self.picture[name]):
                raise InputError(f"picture {name} {self.picture[name]!r:.60}: wanted a number")
        members = {
            "codes": (self.codes, "build"),
            "task": (self.task, "picture"),
            "loss": (self.train.loss, "__call__"),
        }
        for name, (value, member) in members.items():
            if not isinstance(value, Untrusted | None) and not hasattr(value, member):
                raise InputError(f"{name} {value!r:.60}: wanted an object with {member}")
        if not callable(self.train.schedule):
            raise InputError(f"schedule {self.train.schedule!r:.60}: wanted a callable")


def len_of(value: Any) -> int:
    """Length of a sequence; 0 for anything else."""
    return len(value) if isinstance(value, tuple | list) else 0


def is_size(value: Any) -> bool:
    """True for a (height, width) that a picture can have."""
    whole = len_of(value) == 2 and all(type(side) is int and 0 < side <= LARGEST for side in value)
    return whole and value[0] * value[1] <= MOST_PIXELS


def finite(*values: Any) -> bool:
    """True if all are finite numbers below LIMIT."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(abs(value) < LIMIT for value in values)


def ours() -> dict[str, Any]:
    """Classes that files may name, by their names."""
    generators = {type(make()) for make in {**hypernets.GENERATORS, **hypernets.OF_TIME}.values()}
    return known_as(
        (
            GridSpec, encodings.Identity, encodings.Fourier, encodings.HashGrid, encodings.FactoredGrid,
            encodings.SphericalHarmonics, Box, Contracted, fields.ImageField, fields.SDFField, fields.RadianceField,
            *generators, hypernets.Stability, hypernets.Bayes, hypernets.Extension,
            *codes.SOURCES.values(), ModelConfig, TrainConfig, PhotographConfig, Between,
            training.Cosine, training.Adam, training.RelativeClip,
            *losses.LOSSES, RunConfig, FitSettings, CaptureSettings, DataSource,
        )
    )  # fmt: skip


def config_from_json(value: Any, trust: Iterable[Any] = ()) -> Any:
    """A config of ours, or of `trust`: classes and functions of the user's that files may name.

    Raises:
        InputError: see `configs.from_json`.
    """
    return from_json(value, {**ours(), **known_as(trust)})


def versions() -> dict[str, str]:
    """Versions of what a run was made with."""
    from hyperfields import __version__

    return {"hyperfields": __version__, "torch": torch.__version__, "python": platform.python_version()}


def require_new(folder: Path) -> None:
    """Nothing, when a fit can begin in a folder.

    Raises:
        InputError: it holds a fit, or other files, or is a file.
    """
    if (folder / CONFIG).exists():
        raise InputError(f"{folder}: holds a fit already; go on with it by --resume, or choose another --out")
    require_room(folder)


def write_config(folder: Path, config: RunConfig) -> None:
    """Write `config.json`.

    Raises:
        InputError: the folder cannot be written.
    """
    write_atomically(folder / CONFIG, json.dumps(to_json(config), indent=1).encode())


def read_config(folder: Path, trust: Iterable[Any] = ()) -> RunConfig:
    """The settings of a run.

    Raises:
        InputError: no run there, a damaged one, one of another version, or one with classes that are not trusted.
    """
    path = folder / CONFIG
    if not folder.is_dir() or not path.is_file():
        raise InputError(
            f"{folder}: not a run, it has no {CONFIG}; make one with: hyperfields fit FAMILY --out {folder}"
        )
    damaged = f"{path}: damaged, not the JSON that fit writes; restore it or fit again"
    try:
        content = json.loads(path.read_bytes())
        number = content["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(damaged) from None
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(damaged)
    if number > FORMAT:
        raise InputError(f"{path}: format {number} is newer than this version's {FORMAT}; update hyperfields")
    if number < FORMAT:
        raise InputError(f"{path}: format {number} is older than this version's {FORMAT}; fit again")
    try:
        config = config_from_json(content, trust)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(damaged) from None
    if not isinstance(config, RunConfig) or not config.scenes:
        raise InputError(damaged)
    if (config.fit.minutes is None) == (config.fit.steps is None):
        raise InputError(f"{path}: says neither minutes nor steps of its fit, or both; restore it or fit again")
    if len(set(config.scenes)) < len(config.scenes):
        twice = max(config.scenes, key=config.scenes.count)
        raise InputError(f"{path}: scene {twice!r} comes twice, wanted names that differ; restore it or fit again")
    if any(CONTROL.search(name) for name in config.scenes):
        raise InputError(f"{path}: names of scenes hold characters that cannot be shown; restore it or fit again")
    if config.task is None and config.kind not in TASKS:
        raise InputError(f"{path}: kind {config.kind!r}: unknown, wanted one of {', '.join(TASKS)}")
    if getattr(config.model.field, "kind", None) != config.kind:
        raise InputError(f"{path}: its field is not one of {config.kind}; restore it or fit again")
    return config
