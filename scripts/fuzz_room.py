"""What targets of the fuzzer are made of: `Target`, a `Room` to put files into, and what a reader may do."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField
from hyperfields.fields.encodings import FactoredGrid, HashGrid, Identity
from hyperfields.hypernets import Hierarchical, Independent
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs.config import DataSource, FitSettings, RunConfig
from hyperfields.runs.run import Run
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import Fit
from hyperfields.viewer.shared import SharedState

LONGEST = 1000  # characters of a message: whatever a file holds, it does not fill the screen
Shape = Literal["bytes", "json", "lines", "safetensors", "glb"]


class Crash(Exception):
    """Something that a reader must not do; the text says what."""


class Room:
    """A folder to put files into, and runs that others belong to; made once in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> Path:
        """A file with these bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    @functools.cached_property
    def data(self) -> Images:
        return Images(torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)))

    @functools.cached_property
    def run(self) -> Run:
        """A run of images on disk, with all that a run can hold but a state."""
        run = run_of(ImageField(FactoredGrid(2, 2, 2, 5, 3, 6, bases=2), hidden=(5,)), Hierarchical(2))
        return run.save(self.folder / "run")

    @functools.cached_property
    def radiance(self) -> Run:
        """A run of radiance, in memory."""
        field = RadianceField(Identity(3), hidden=(4,), geometry=1, color_hidden=(), occupancy=8)
        return run_of(field, Hierarchical(2), size=[8, 8], fov=0.7, radius=3.5, elevation=0.5)

    @functools.cached_property
    def views(self) -> SharedState:
        """What the viewer's pages talk to."""
        return SharedState(self.radiance)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Arguments of a fit whose state is in the folder `fit`."""
        model = ModelConfig(ImageField(HashGrid(2, 2, 2, 5, 3, 6), hidden=(5,)), Hierarchical(2), 4)
        settings = {"settings": FitSettings(steps=1), "model": model, "train": TrainConfig(2, 16)}
        Fit(self.data, self.folder / "fit", **settings).run()
        return settings


def run_of(field: Field, generator: Any, **picture: Any) -> Run:
    """A run of two scenes whose networks are as they start."""
    config = ModelConfig(field, generator, 4 if not isinstance(generator, Independent) else 64)
    torch.manual_seed(0)
    model = HyperField(config, 2).eval()
    picture = picture or {"size": [8, 8]}
    source = DataSource("/nowhere/family", ("a", "b"), (8, 8))
    settings = RunConfig(
        field.kind, ("a", "b"), config, TrainConfig(2, 16), FitSettings(steps=1), picture=picture, sources=(source,)
    )
    return Run(settings, model, summary={"steps": 1, "seconds": 1.0, "loss": 0.1, "parameters": 9})


class Target(NamedTuple):
    """A format: `seeds(room)` are files of it, the first of them valid, `read(room, data)` reads one."""

    read: Callable[[Room, bytes], object]
    seeds: Callable[[Room], list[bytes]]
    shape: Shape = "bytes"  # how it is changed with its sums and lengths kept right
    words: tuple[str, ...] = ()  # that mean something in it
    named: bool = True  # a refusal gives the file's path


def outcome(target: Target, room: Room, data: bytes) -> str:
    """What a reader did, "read" or "refused".

    Raises:
        Crash: a refusal of several lines, or without the file's name.
        Exception: whatever else the reader raised.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(room, data)
    except InputError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST:
            raise Crash(f"a message of {len(text)} characters and {text.count(chr(10)) + 1} lines: {text!r}") from error
        if target.named and str(room.folder) not in text:
            raise Crash(f"a message without the file's name: {text!r}") from error
        return "refused"
    return "read"
