"""Results of many jobs put together: files of codes of parts of a family, and a run with codes that belong to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs import codec
from hyperfields.runs.config import DataSource, versions
from hyperfields.runs.inferred import InferredCodes, load_codes, require_codes_file, write_codes
from hyperfields.runs.run import Run, load_run

Shard = tuple[int, int]  # (number from 1, of so many)


def part_of(names: Sequence[str], shard: Shard | None) -> list[str]:
    """The names of a part; all, without one. Parts are of one size, but for one more at most, and in order.

    Raises:
        InputError: more parts than names.
    """
    if shard is None:
        return list(names)
    number, count = shard
    if count > len(names):
        raise InputError(
            f"--shard {number}/{count}: more parts than the {len(names)} scenes; take {len(names)} at most"
        )
    return list(names[(number - 1) * len(names) // count : number * len(names) // count])


def shard_text(shard: Shard) -> str:
    """A part as it is recorded."""
    return f"{shard[0]}/{shard[1]}"


def require_all_parts(given: Sequence[tuple[str, Any]]) -> None:
    """Nothing, when results are all parts of one whole, or none of them says that it is a part.

    Args:
        given: (file, the part that it says it is, or None).

    Raises:
        InputError: one comes twice, is of another number of parts, or is missing.
    """
    if all(text is None for _, text in given):
        return
    seen: dict[int, str] = {}
    counts = set()
    for file, text in given:
        number, _, count = str(text).partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise InputError(f"{file}: says no part, as others do; wanted results of --shard i/n, or none of it")
        if int(number) in seen:
            raise InputError(f"{file}: is part {text}, as {seen[int(number)]} is; give each part once")
        seen[int(number)] = file
        counts.add(int(count))
    if len(counts) > 1:
        raise InputError(f"{given[0][0]}: parts of {' and of '.join(map(str, sorted(counts)))}, wanted those of one")
    whole = counts.pop()
    if missing := sorted(set(range(1, whole + 1)) - set(seen)):
        raise InputError(f"part {missing[0]}/{whole}: is missing ({len(missing)} are); run it, then merge again")


def merge_codes(out: Path, paths: Sequence[Path], run: Run) -> InferredCodes:
    """Write one file of codes from those of parts.

    Raises:
        InputError: codes of another run, parts that do not belong together, a scene that comes twice, a missing part.
    """
    require_codes_file(out)
    parts = [load_codes(path, run) for path in paths]
    merged = joined(parts, [str(path) for path in paths])
    write_codes(out, merged)
    return merged


def joined(parts: Sequence[InferredCodes], files: Sequence[str]) -> InferredCodes:
    """Inferred scenes of parts as one; `files` are their names in messages."""
    sorts = [(sorted(part.residual), part.std is not None, bool(part.packed)) for part in parts]
    for file, sort in zip(files, sorts, strict=True):
        if sort != sorts[0]:
            raise InputError(f"{file}: was inferred in another way than {files[0]} (--refine, --bytes or --by)")
    require_all_parts([(file, part.source.get("shard")) for file, part in zip(files, parts, strict=True)])
    names: dict[str, str] = {}
    for file, part in zip(files, parts, strict=True):
        for name in part.names:
            if name in names:
                raise InputError(f"{file}: scene {name!r} is in {names[name]} too; wanted parts without common scenes")
            names[name] = file
    facts = [_facts(part.source) for part in parts]
    for file, fact in zip(files, facts, strict=True):
        if fact != facts[0]:
            key = next(key for key in fact.keys() | facts[0].keys() if fact.get(key) != facts[0].get(key))
            raise InputError(f"{file}: its {key} is not that of {files[0]}; wanted parts of one family, read alike")
    frames = {name: frame for part in parts for name, frame in (part.source.get("frames") or {}).items()}
    mirrors = {part.source.get("mirror") for part in parts}  # each part has looked for itself
    mirror = mirrors.pop() if len(mirrors) == 1 else None
    std = None if parts[0].std is None else torch.cat([part.std for part in parts if part.std is not None])
    return InferredCodes(
        parts[0].run,
        tuple(names),
        torch.cat([part.codes for part in parts]),
        {key: torch.cat([part.residual[key] for part in parts]) for key in parts[0].residual},
        std,
        {**facts[0], **({"frames": frames} if frames else {}), **({"mirror": mirror} if mirror else {})},
        tuple(packed for part in parts for packed in part.packed),
    )


def _facts(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key not in ("shard", "frames", "mirror")}


def merge_runs(run: Run, paths: Sequence[Path]) -> Run:
    """The run, in memory, with more scenes: those of files of codes that belong to it, and of runs of its networks.

    Raises:
        InputError: codes or networks of another run; residuals or distributions, which a run does not hold; names that
            it has already; a missing part.
    """
    inferred = [(path, load_codes(path, run)) for path in paths if path.is_file()]
    for path, part in inferred:
        if part.residual or part.std is not None:
            raise InputError(f"{path}: holds more than codes; a run holds codes alone: infer without --refine, --bytes")
    if inferred:
        together = joined([part for _, part in inferred], [str(path) for path, _ in inferred])
        frames = dict(together.source.get("frames") or {})
        run = with_scenes(run, together.names, together.codes, [source_in(together)], frames)
    for path in paths:
        if not path.is_file():
            other = load_run(path, run.model.latents.codes.device)
            _require_same_networks(run, other)
            more = other.config.picture.get("frames", {})
            run = with_scenes(run, other.names, other.model.latents.codes.detach(), other.config.sources, more)
    return run


def source_in(inferred: InferredCodes) -> DataSource | None:
    """Where inferred scenes came from, as a run records it; None where that is not known."""
    facts = inferred.source
    if not isinstance(facts.get("path"), str):
        return None
    size, views = facts.get("size"), facts.get("views")
    reading = {key: facts.get(key) for key in ("aspect", "background", "up", "split")}
    return DataSource(
        facts["path"], inferred.names, None if size is None else (int(size[0]), int(size[1])),
        None if views is None else tuple(views), **reading,
    )  # fmt: skip


def with_scenes(
    run: Run, names: Sequence[str], codes: Tensor, sources: Sequence[DataSource | None], frames: Mapping[str, Any]
) -> Run:
    """The run, in memory, with more scenes by their codes; sources that were read alike become one.

    Raises:
        InputError: a name that it has already.
    """
    known = set(run.names)
    if twice := [name for name in names if name in known]:
        raise InputError(f"scene {twice[0]!r}: is in {run.label} already ({len(twice)} are)")
    every = torch.cat((run.model.latents.codes.detach(), codec.round_trip(codes.to(run.model.latents.codes.device))))
    together: dict[DataSource, list[str]] = {}
    for source in (*run.config.sources, *(source for source in sources if source is not None)):
        together.setdefault(dataclasses.replace(source, scenes=()), []).extend(source.scenes)
    picture = dict(run.config.picture)
    if whole := {**picture.get("frames", {}), **{name: list(frame) for name, frame in frames.items()}}:
        picture["frames"] = whole
    made = run.with_codes((*run.names, *names), every)
    config = dataclasses.replace(
        made.config,
        picture=picture,
        sources=tuple(dataclasses.replace(alike, scenes=tuple(own)) for alike, own in together.items()),
        fingerprint=None,
        added=(*run.config.added, {"to": run.label, "scenes": len(names), "method": "codes"}),
        versions=versions(),
    )
    return dataclasses.replace(made, config=config, path=None)


def _require_same_networks(run: Run, other: Run) -> None:
    """InputError unless two runs differ in their scenes only."""
    ours, theirs = (one.model.hypernet.state_dict() for one in (run, other))
    same = run.model.config == other.model.config and ours.keys() == theirs.keys()
    if not same or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise InputError(
            f"{other.label}: has other networks than {run.label}; wanted runs that share them, made by infer and merge"
        )


def read_reports(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reports of `hyperfields eval`, as JSON.

    Raises:
        InputError: a file that is none.
    """
    reports = []
    for path in paths:
        try:
            report = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not readable as JSON ({str(error).splitlines()[0][:100]})") from None
        keys = {"kind", "scenes", "per_view", "mean", "bytes_per_scene", "notes", "seconds"}
        if not isinstance(report, dict) or not keys <= report.keys() or not isinstance(report["scenes"], dict):
            raise InputError(f"{path}: no report; make one with: hyperfields eval RUN --out {path}")
        reports.append(report)
    return reports
