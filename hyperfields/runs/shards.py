"""The state of a fit in parts: a file a part, with the numbers of its scenes, and one of what all scenes share.

    state/manifest.json                       last, and at once: step, scenes, and the files with their digests
    state/00001200/shared.safetensors         networks, bases and their moments
    state/00001200/part-00003.safetensors     `scenes` [n], their codes, moments and occupancy [n ...]

A state is what the manifest names: files of one that was not finished are never read. Any number of processes reads it,
each the scenes that are its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs import codec
from hyperfields.runs.atomic import write_atomically

FORMAT = 1
FOLDER, MANIFEST, SHARED = "state", "state/manifest.json", "shared.safetensors"
ROWS, OWN = "rows.", "own."  # prefixes: with a row a scene; of a part as a whole
AGAIN = "restore it, or fit again into another folder"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A state that is whole. files: name -> (bytes, digest)."""

    step: int
    scenes: int
    progress: dict[str, Any]
    files: dict[str, tuple[int, str]]


def part_file(part: int) -> str:
    return f"part-{part:05}.safetensors"


def step_folder(run: Path, step: int) -> Path:
    return run / FOLDER / f"{step:08}"


def write_file(run: Path, step: int, name: str, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write one file of a state that is being made: (bytes, digest).

    Raises:
        InputError: it cannot be written.
    """
    digest, size = hashlib.sha256(), 0

    def pieces() -> Iterator[bytes | memoryview]:
        nonlocal size
        for piece in codec.pieces(tensors, {}):
            digest.update(piece)
            size += len(piece)
            yield piece

    write_atomically(step_folder(run, step) / name, pieces())
    return size, digest.hexdigest()


def part_tensors(scenes: Tensor, rows: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Content of the file of a part. rows: `[n ...]` for its scenes `[n]`. own: of the part as a whole."""
    named = {f"{ROWS}{name}": value for name, value in rows.items()}
    return {"scenes": scenes, **named, **{f"{OWN}{name}": value for name, value in own.items()}}


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Make a state, whose files are all written, the one that is read; earlier ones go.

    Raises:
        InputError: it cannot be written.
    """
    content = {"format": FORMAT, **dataclasses.asdict(manifest)}
    write_atomically(run / MANIFEST, json.dumps(content, indent=1).encode())
    for other in (run / FOLDER).iterdir():
        if other.is_dir() and other != step_folder(run, manifest.step):
            shutil.rmtree(other, ignore_errors=True)


def drop(run: Path, step: int) -> None:
    """Remove the files of a state that could not be finished."""
    if _whole_step(run) != step:
        shutil.rmtree(step_folder(run, step), ignore_errors=True)


def _whole_step(run: Path) -> int | None:
    try:
        manifest = read_manifest(run)
    except InputError:
        return None
    return None if manifest is None else manifest.step


def read_manifest(run: Path) -> Manifest | None:
    """The last state that is whole; None without one.

    Raises:
        InputError: a manifest that is damaged, or of another version.
    """
    path = run / MANIFEST
    if not path.is_file():
        return None
    damaged = f"{path}: damaged, not the JSON that fit writes; {AGAIN}"
    try:
        content = json.loads(path.read_bytes())
        number = content.pop("format")
        manifest = Manifest(**content)
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest.files.items()}
        good = type(manifest.step) is int and type(manifest.scenes) is int and isinstance(manifest.progress, dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(damaged) from None
    if number != FORMAT:
        raise InputError(f"{path}: format {number!r:.20}, wanted {FORMAT}; update hyperfields or fit again")
    if not good or SHARED not in files or any("/" in name or not name.endswith(".safetensors") for name in files):
        raise InputError(damaged)
    return dataclasses.replace(manifest, files=files)


def read_file(run: Path, manifest: Manifest, name: str) -> dict[str, Tensor]:
    """Tensors of a file of a state.

    Raises:
        InputError: missing, or other than what was written.
    """
    path = step_folder(run, manifest.step) / name
    size, digest = manifest.files[name]
    try:
        with open(path, "rb") as file:
            found = file.seek(0, 2)
            file.seek(0)
            whole = found == size and hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the manifest beside its folder names it: {AGAIN}") from None
    if not whole:
        raise InputError(f"{path}: damaged, {found:,} bytes of {size:,}, or others than were written; {AGAIN}")
    return codec.read_tensors(path)[0]


def read_part(run: Path, manifest: Manifest, part: int, scenes: Tensor) -> dict[str, Tensor]:
    """What is stored of `scenes` `[s]`: under `rows.` with a row for each, in their order; under `own.` what the part
    of the first of them has as a whole.

    The file of this part is looked at first; without luck all are, one at a time.

    Raises:
        InputError: a file that is missing or damaged; scenes that no part holds.
    """
    if part_file(part) in manifest.files:
        tensors = read_file(run, manifest, part_file(part))
        if torch.equal(tensors.get("scenes", torch.empty(0)), scenes):
            return tensors
    return read_scenes(run, manifest, scenes, (ROWS, OWN))


def read_scenes(run: Path, manifest: Manifest, scenes: Tensor, wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """The same of scenes of any parts. wanted: beginnings of the names of tensors.

    Raises:
        InputError: see `read_part`.
    """
    place = torch.full((manifest.scenes,), -1)
    place[scenes] = torch.arange(len(scenes))
    found: dict[str, Tensor] = {}
    missing = torch.ones(len(scenes), dtype=torch.bool)
    for name in sorted(set(manifest.files) - {SHARED}):
        tensors = read_file(run, manifest, name)
        try:
            to = place[tensors["scenes"]]
            here = to >= 0
            missing[to[here]] = False
            for key, value in tensors.items():
                if key.startswith(wanted) and key.startswith(ROWS):
                    rows = found.setdefault(key, value.new_zeros(len(scenes), *value.shape[1:]))
                    rows[to[here]] = value[here]
                elif key.startswith(wanted) and bool((to == 0).any()):
                    found[key] = value
        except (KeyError, IndexError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{step_folder(run, manifest.step) / name}: damaged: {reason}; {AGAIN}") from None
    if bool(missing.any()):
        number = int(scenes[missing][0])
        raise InputError(f"{run / MANIFEST}: no part holds scene number {number}; {AGAIN}")
    return found
