"""Families of very many scenes: networks and bases are fitted to a part of them, then every other scene gets a code.

The part is fitted as any family is. With its networks frozen, codes of other scenes depend on nothing but their own
data: they are fitted in blocks, one after another here, or each by a job of its own (`infer --shard`, then `merge`),
without any communication. Fused-Planes fits its bases on 500 scenes and adds the others so (docs/scale.md).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperfields.configs import parts_of
from hyperfields.data import SceneDataset, Subset, require_scenes
from hyperfields.errors import InputError
from hyperfields.hypernets import shares_networks
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.config import require_new, write_config
from hyperfields.runs.inferred import InferredCodes, load_codes
from hyperfields.runs.merged import with_scenes
from hyperfields.runs.run import SUMMARY, Run, load_run, write_model
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.trainer import Progress

BASES, CODES = "bases", "codes"  # folders in that of the run while it is made
VISITS = 150  # steps that a scene takes part in while its code is fitted
BLOCK = 2048  # scenes whose codes are fitted together

Read = Callable[[list[str]], SceneDataset]


def part_names(names: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of the names, drawn at random, in their order.

    Raises:
        InputError: as many as there are, or less than 1.
    """
    if not 1 <= count < len(names):
        raise InputError(f"--bases-from {count}: the family has {len(names)} scenes; wanted fewer, and at least 1")
    chosen = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:count]
    return [names[number] for number in chosen.sort().values.tolist()]


def fit_many(
    data: SceneDataset,
    out: str | Path | None = None,
    *,
    bases_from: int,
    seed: int = 0,
    progress: bool | OnStep = True,
    **options: Any,
) -> Run:
    """A run of all scenes of `data`: networks and bases are fitted to some, the others get codes.

    Args:
        bases_from: scenes, drawn at random, that networks and bases are fitted to.
        options: of `fit`, for these: `minutes` or `steps`, `preset`, `model`, `resume` and so on.

    Raises:
        InputError: as `fit`; options by which codes are no table, or something is learned of single pictures; several
            ranks.
    """
    require_scenes(data)
    for option in ("codes", "individually", "refine_poses", "appearance"):
        if options.get(option):
            raise InputError(f"{option}: cannot be had with bases_from, which fits codes with networks frozen")
    if (world := options.get("world")) is not None and world.size > 1:
        raise InputError("bases_from: needs one process; fit some scenes on several ranks, then infer the others")
    folder = None if out is None else Path(out)
    if folder is not None and not options.get("resume"):
        require_new(folder)
    places = {name: place for place, name in enumerate(data.names)}

    def read(names: list[str]) -> SceneDataset:
        return Subset(data, [places[name] for name in names])

    part = read(part_names(data.names, bases_from, seed))
    run = fit(part, None if folder is None else folder / BASES, seed=seed, progress=progress, **options)
    return finish(run, list(data.names), read, folder, seed=seed, progress=progress)


def finish(
    run: Run, names: list[str], read: Read, out: Path | None, *, seed: int = 0, progress: bool | OnStep = True
) -> Run:
    """The run of all scenes from that of a part: codes of those that it lacks, then everything in one folder.

    What was made before a stop is taken as it is.

    Args:
        names: of all scenes, in the order of the new run.
        read: scenes by name.
        out: folder of the new run; that of a part lies in it, and is removed at the end.
    """
    if not shares_networks(run.model.config.generator):
        raise InputError(f"{run.label}: has no networks that could give other scenes codes")
    known = set(run.names)
    rest = [name for name in names if name not in known]
    blocks = [rest[first : first + BLOCK] for first in range(0, len(rest), BLOCK)]
    found: list[InferredCodes] = []
    if out is not None:
        (out / CODES).mkdir(parents=True, exist_ok=True)
    with shown(progress, "codes") as on_step:
        for number, block in enumerate(blocks):
            file = None if out is None else out / CODES / f"{number:05}.safetensors"

            def report(state: Progress, number: int = number) -> None:
                on_step(dataclasses.replace(state, fraction=(number + state.fraction) / len(blocks)))

            done = None if file is None else _before(file, run, block)
            if done is None:
                steps = max(math.ceil(VISITS * len(block) / run.config.train.scenes), VISITS)
                done = infer(run, read(block), file, steps=steps, seed=seed + 1 + number, progress=report)
            found.append(done)
    whole = _together(run, names, found)
    if out is None:
        return whole
    write_config(out, whole.config)
    write_model(out, whole.model)
    write_atomically(out / SUMMARY, json.dumps(whole.summary, indent=1).encode())
    for folder in (out / BASES, out / CODES):
        if folder.is_dir():
            gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
            os.replace(folder, gone)  # at once: half a folder would be gone on with
            shutil.rmtree(gone, ignore_errors=True)
    return load_run(out, run.model.latents.codes.device, trust=parts_of(run.config))


def _before(file: Path, run: Run, block: Sequence[str]) -> InferredCodes | None:
    """Codes that were found before a stop, for the same networks and scenes."""
    if not file.is_file():
        return None
    try:
        codes = load_codes(file, run)
    except InputError:  # of bases that were fitted further since
        return None
    return codes if codes.names == tuple(block) else None


def _together(run: Run, names: Sequence[str], found: Sequence[InferredCodes]) -> Run:
    """The run with the scenes that were found, in memory, in the order of `names`."""
    added = tuple(name for part in found for name in part.names)
    codes = torch.cat([part.codes for part in found])
    frames = {name: frame for part in found for name, frame in (part.source.get("frames") or {}).items()}
    sources = [dataclasses.replace(source, scenes=added) for source in run.config.sources[:1]]  # read as the part was
    whole = with_scenes(run, added, codes, sources, frames)
    place = {name: number for number, name in enumerate(whole.names)}
    ordered = whole.with_codes(names, whole.model.latents.codes.detach()[[place[name] for name in names]])
    sources = [dataclasses.replace(source, scenes=tuple(names)) for source in ordered.config.sources]
    config = dataclasses.replace(ordered.config, sources=tuple(sources))
    summary = {**run.summary, "bases_from": len(run.names)}
    return dataclasses.replace(ordered, config=config, path=None, summary=summary)
