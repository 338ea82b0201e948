"""The verb that adds scenes to a run: `add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from hyperfields.cli.common import data_of, has_data, load, notes_of, read_alike, size_of, source_of
from hyperfields.cli.options import (
    AS_THE_RUN,
    DEFAULT_MINUTES,
    QUIET,
    Count,
    FamilyPath,
    Folder,
    Minutes,
    ReadingAlikeOptions,
    RunPath,
    parse_names,
    present,
    require_length,
)
from hyperfields.errors import InputError


def add(
    run: RunPath,
    family: FamilyPath,
    *,
    out: Annotated[Path, arg(metavar="NEW", help_behavior_hint="(required)")],
    method: Literal["extension", "output", "frozen", "naive"] = "extension",
    old: Folder = None,
    minutes: Minutes = None,
    steps: Count = None,
    numbers: Count = None,
    bases: Count = None,
    weight: Annotated[float | None, arg(metavar="W", help_behavior_hint=QUIET)] = None,
    bytes: Count = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    reading: ReadingAlikeOptions = AS_THE_RUN,
) -> None:
    """Add scenes to a run without forgetting those in it, and measure old and new ones.

    Data of the old scenes are not needed; if they are there, the old scenes are measured before and after.

    $ hyperfields add runs/cars newcars --out runs/more --minutes 3
    $ hyperfields add runs/cars newcars --out runs/codes --method frozen
    $ hyperfields add runs/cars newcars --out runs/forgot --method naive

    Args:
        out: folder of the new run; with frozen, of the codes of the new scenes.
        method: extension fits only what is added to the networks, which old scenes do not use; output fits all networks
            and penalises changes of what they generate for old scenes; frozen fits codes, then all weights of each
            new scene, as infer --refine does, for use with the old run; naive just goes on fitting, and forgets.
        old: folder of the data of the old scenes, to measure them; default: as recorded.
        minutes: length in minutes; default, without --steps too: 2.
        steps: length in steps.
        numbers: numbers added to each code, not with frozen; they are 0 for old scenes; default: 16.
        bases: tables added to a hash grid, not with frozen; default: one for every four new scenes.
        weight: weight of the penalty of --method output; default: 2.
        bytes: bytes that a new scene may take with --method frozen; default: 16 bits for each of its weights.
        seed: seed of all random numbers.
    """
    from hyperfields.evaluation.added import add_and_measure, format_added
    from hyperfields.runs.atomic import require_room

    require_length(minutes, steps)
    for option, value, fits in (
        ("--numbers", numbers, method != "frozen"),
        ("--bases", bases, method != "frozen"),
        ("--weight", weight, method == "output"),
    ):
        if value is not None and not fits:
            raise InputError(f"{option} {value:g}: has no meaning for --method {method}; leave it out")
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    require_room(out)  # said before the old scenes are measured, which is long
    loaded = load(run)
    size, scenes, limit = size_of(loaded), parse_names(reading.scenes), reading.limit
    data, looks = read_alike(loaded, family, reading.looks(), kind=loaded.kind, size=size, scenes=scenes, limit=limit)
    if scenes is None and set(data.names) & set(loaded.names):
        fresh = [name for name in data.names if name not in loaded.names]
        if not fresh:
            which = "all" if limit is None else f"the first {limit}"
            raise InputError(f"{family}: {run} has {which} of its scenes already")
        data, looks = read_alike(loaded, family, reading.looks(), kind=loaded.kind, size=size, scenes=fresh)
    for note in notes_of(data):
        print(note)
    report = add_and_measure(
        loaded,
        data,
        out,
        old_data=data_of(loaded, old) if old is not None or has_data(loaded) else None,
        minutes=minutes,
        steps=steps,
        method=method,
        bases=bases,
        bytes_per_scene=bytes,
        seed=seed,
        sources=(source_of(family, data, size, None, **looks),),
        **present(numbers=numbers, weight=weight),
    )
    print(format_added(report))
    print(f"wrote {out}")
