"""States of fits on disk: everything that an exact resume needs, in one file, or in parts by as many processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.model import HyperField
from hyperfields.runs import codec, shards
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.run import STATE
from hyperfields.training.distributed import World
from hyperfields.training.parts import PartsTrainer
from hyperfields.training.symmetry import Watch
from hyperfields.training.trainer import Progress, with_prefix

CODES = "model.latents.codes"


class Resumable(Protocol):
    """A trainer whose state is one dictionary."""

    def sync(self, progress: Progress) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class State(Protocol):
    """The state of a fit in its folder."""

    path: Path

    def exists(self) -> bool: ...

    def save(self, progress: Progress) -> None:
        """Write it, whole or not at all."""

    def load(self) -> Progress:
        """Take it over."""


class StateFile:
    """The state of a fit by one process."""

    def __init__(
        self, out: Path, model: HyperField, source: nn.Module | None, trainer: Resumable, watch: Watch | None
    ) -> None:
        self.path, self.trainer, self.watch = out / STATE, trainer, watch
        self.modules: dict[str, nn.Module] = {"model.": model} | ({} if source is None else {"source.": source})

    def exists(self) -> bool:
        return self.path.is_file()

    def save(self, progress: Progress) -> None:
        self.trainer.sync(progress)
        tensors = {
            f"{prefix}{name}": value
            for prefix, module in self.modules.items()
            for name, value in module.state_dict().items()
        }
        tensors |= {f"trainer.{name}": value for name, value in self.trainer.state_dict().items()}
        if self.watch is not None:
            tensors |= _named("symmetry.", self.watch.state())
        header = {"progress": json.dumps(dataclasses.asdict(progress))}
        write_atomically(self.path, codec.pieces(tensors, header))  # of very many scenes it is gigabytes

    def load(self) -> Progress:
        tensors, header = read_tensors(self.path)
        with _damage(self.path):
            progress = _progress(json.loads(header["progress"]))
            for prefix, module in self.modules.items():
                module.load_state_dict(with_prefix(tensors, prefix))
            self.trainer.load_state_dict(with_prefix(tensors, "trainer."))
            if self.watch is not None:
                self.watch.restore(with_prefix(tensors, "symmetry."))
        return progress


class StateParts:
    """The state of a fit in parts: each process writes those that are its own, the first one what all share.

    It is read whatever the number of parts was; that of a fit by one process without parts is read, too.
    """

    def __init__(self, out: Path, model: HyperField, trainer: PartsTrainer, scenes: int, world: World) -> None:
        """scenes: their number in all parts."""
        self.out, self.path = out, out / shards.MANIFEST
        self.model, self.trainer, self.scenes, self.world = model, trainer, scenes, world
        self._at = -1  # the step of the state on disk

    def exists(self) -> bool:
        return self.path.is_file() or (self.out / STATE).is_file()

    def save(self, progress: Progress) -> None:
        if progress.step == self._at:
            return
        try:
            with self.world.together():
                mine = self._write(progress.step)
            files = {name: entry for part in self.world.gather(mine) for name, entry in part.items()}
            with self.world.together():
                if self.world.first:
                    whole = shards.Manifest(progress.step, self.scenes, dataclasses.asdict(progress), files)
                    shards.write_manifest(self.out, whole)
                    (self.out / STATE).unlink(missing_ok=True)  # of the fit as it was before it was in parts
        except BaseException:
            if self.world.first:
                shards.drop(self.out, progress.step)
            raise
        self._at = progress.step

    def _write(self, step: int) -> dict[str, tuple[int, str]]:
        """Write the files of this process."""
        shared, rows = self.trainer.state_dict()
        rows = {f"trainer.{name}": value for name, value in rows.items()} | {CODES: self.model.latents.codes}
        files = {}
        for part in self.trainer.parts:
            each, own = (_named("objective.", state) for state in part.split_state())
            each |= {name: value[part.rows] for name, value in rows.items()}
            name = shards.part_file(part.number)
            files[name] = shards.write_file(self.out, step, name, shards.part_tensors(part.scenes, each, own))
        if self.world.first:
            tensors = _named("model.", self.model.state_dict()) | _named("trainer.", shared)
            del tensors[CODES]
            files[shards.SHARED] = shards.write_file(self.out, step, shards.SHARED, tensors)
        return files

    def codes(self) -> Tensor:
        """Codes `[scenes z]` of all parts, as they were written last."""
        manifest = shards.read_manifest(self.out)
        assert manifest is not None
        name = shards.ROWS + CODES
        return shards.read_scenes(self.out, manifest, torch.arange(self.scenes), (name,))[name]

    def load(self) -> Progress:
        manifest = shards.read_manifest(self.out)
        path = self.path if manifest is not None else self.out / STATE
        shared, found, stored = self._read_file(path) if manifest is None else self._read_parts(manifest)
        with _damage(path):
            progress = _progress(stored)
            tables = {
                name.removeprefix(shards.ROWS): torch.cat([tensors[name] for tensors in found])
                for name in found[0]
                if name.startswith((shards.ROWS + CODES, shards.ROWS + "trainer."))
            }
            self.model.load_state_dict(with_prefix(shared, "model.") | {"latents.codes": tables[CODES]})
            self.trainer.load_state_dict(with_prefix(shared, "trainer."), with_prefix(tables, "trainer."))
            for part, tensors in zip(self.trainer.parts, found, strict=True):
                rows, own = (with_prefix(tensors, f"{prefix}objective.") for prefix in (shards.ROWS, shards.OWN))
                part.objective.restore(rows | own)
        self._at = progress.step if manifest is not None else -1
        return progress

    def _read_parts(self, manifest: shards.Manifest) -> _Stored:
        shared = shards.read_file(self.out, manifest, shards.SHARED)
        found = [shards.read_part(self.out, manifest, part.number, part.scenes.cpu()) for part in self.trainer.parts]
        return shared, found, manifest.progress

    def _read_file(self, path: Path) -> _Stored:
        """The state of a fit that was not in parts, as if it had been."""
        tensors, header = read_tensors(path)
        with _damage(path):
            count = len(tensors[CODES])
            tables = {name for name in tensors if self.trainer.is_table(name.removeprefix("trainer."))} | {CODES}
            objective = {f"objective.{k}": v for k, v in with_prefix(tensors, "trainer.objective.").items()}
            rows = {name: tensors[name] for name in tables if tensors[name].dim() > 0}
            rows |= {name: value for name, value in objective.items() if value.dim() > 0 and len(value) == count}
            own = {name: value for name, value in objective.items() if name not in rows}
            found = [
                shards.part_tensors(part.scenes, {k: v[part.scenes.cpu()] for k, v in rows.items()}, own)
                for part in self.trainer.parts
            ]
            shared = {name: value for name, value in tensors.items() if name not in rows}
            return shared, found, json.loads(header["progress"])


def state_of(
    out: Path | None,
    model: HyperField,
    source: nn.Module | None,
    trainer: Resumable | PartsTrainer,
    scenes: int,
    world: World,
    watch: Watch | None,
) -> State | None:
    """The state of a fit of so many scenes; None without a folder."""
    if out is None:
        return None
    if isinstance(trainer, PartsTrainer):
        return StateParts(out, model, trainer, scenes, world)
    return StateFile(out, model, source, trainer, watch)


_Stored = tuple[dict[str, Tensor], list[dict[str, Tensor]], Any]  # shared, of each part of this process, progress


def _named(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _progress(stored: Any) -> Progress:
    progress = Progress(**stored)
    progress.check()
    return progress


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What a state that fit has not written runs into, as one line about its file."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:  # RecursionError is one
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: damaged: {reason}; fit again into another folder") from None
