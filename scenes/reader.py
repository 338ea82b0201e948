"""A reader: how a folder of some layout becomes a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hyperfields.data import Kind, SceneDataset

Aspect = Literal["fit", "crop", "pad"]  # how pictures come to a size of another ratio


def _never(folder: Path) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Reader:
    """A format that `open_family` can read. `detect` and `claims` look at names only and open no file.

    `open(folder, *, scenes, limit, **options)` gives the data set, or raises InputError. `scenes` are names or fnmatch
    patterns (None: all), `limit` a number of scenes or None; of `size`, `views`, `aspect`, `background`, `up`, `split`,
    `measured`, `memory` and `progress` it gets those that `options` names, and `open_family` refuses the others (but
    leaves out progress without a word).
    """

    kind: Kind
    name: str  # of the format
    wants: str  # what it looks for, for the message about a folder that nobody can read
    detect: Callable[[Path], bool]  # is there something for this reader?
    open: Callable[..., SceneDataset]
    options: frozenset[str] = frozenset()
    claims: Callable[[Path], bool] = _never  # does all of the folder belong to it, whatever others detect?
    names: Callable[[Path], list[str]] | None = None  # of all scenes of a folder, found without opening a file
    apart: bool = False  # a scene is read alike alone and among others
