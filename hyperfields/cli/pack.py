"""The verb that writes a family into a few large files: `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.common import next_line, notes_of, scene_count
from hyperfields.cli.options import (
    AS_IT_IS,
    QUIET,
    FamilyPath,
    ReadingOptions,
    parse_names,
    parse_size,
    present,
)


def pack(
    family: FamilyPath,
    out: Positional[Annotated[Path, arg(metavar="OUT", help="new folder.", help_behavior_hint=QUIET)]],
    *,
    reading: ReadingOptions = AS_IT_IS,
) -> None:
    """Pack a family into a few large files, which fit reads with bounded memory, also from a URL.

    OUT can be copied to any server or bucket; every verb takes it, or its URL, for FAMILY. How pictures are read is
    decided here.

    $ hyperfields pack photos packed --size 64x64
    $ hyperfields fit packed --out runs/photos
    $ hyperfields fit s3://bucket/packed --out runs/photos
    """
    from hyperfields.runs.atomic import new_folder
    from hyperfields.scenes import open_family, pack_family
    from hyperfields.training.progress import Meter

    options = {**present(size=parse_size(reading.size)), **reading.looks()}
    names = parse_names(reading.scenes)
    with new_folder(out, parents=True) as folder, Meter("pack") as meter:
        pack_family(
            family, folder, kind=reading.kind, scenes=names, limit=reading.limit, progress=meter.count, **options
        )
    data = open_family(out)
    for note in notes_of(data):
        print(note)
    total = sum(file.stat().st_size for file in out.iterdir())
    print(f"wrote {out}: {scene_count(len(data.names))} of {data.kind}, {total / 1e6:,.1f} MB")
    print(next_line("fit", out, "--out", f"runs/{out.name}"))
