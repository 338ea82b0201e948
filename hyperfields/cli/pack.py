"""The verb that writes a family into a few large files: `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.common import next_line, notes_of, scene_count
from hyperfields.cli.options import (
    QUIET,
    AspectChoice,
    Axis,
    Background,
    Count,
    FamilyPath,
    KindChoice,
    Size,
    Split,
    Text,
    parse_names,
    parse_size,
    present,
)


def pack(
    family: FamilyPath,
    out: Positional[Annotated[Path, arg(metavar="OUT", help="new folder.", help_behavior_hint=QUIET)]],
    *,
    kind: KindChoice = None,
    size: Size = None,
    scenes: Text = None,
    limit: Count = None,
    aspect: AspectChoice = None,
    background: Background = None,
    up: Axis = None,
    split: Split = None,
) -> None:
    """Pack a family into a few large files, which fit reads with bounded memory, also from a URL.

    OUT can be copied to any server or bucket; every verb takes it, or its URL, for FAMILY. How pictures are read is
    decided here.

    $ hyperfields pack photos packed --size 64x64
    $ hyperfields fit packed --out runs/photos
    $ hyperfields fit s3://bucket/packed --out runs/photos

    Args:
        kind: kind of the scenes; default: detected from the files.
        size: height and width that pictures are resized to; default: their own.
        scenes: names, or patterns with *, of the scenes to pack; default: all.
        limit: only the first N scenes by name.
        aspect: how images come to a --size of another ratio, as for fit.
        background: colour behind the objects of pictures without alpha, as for fit.
        up: axis of the files that is up, as for fit.
        split: which pictures of views are held out, as for fit.
    """
    from hyperfields.runs.atomic import new_folder
    from hyperfields.scenes import open_family, pack_family
    from hyperfields.training.progress import Meter

    options = present(size=parse_size(size), aspect=aspect, background=background, up=up, split=split)
    with new_folder(out, parents=True) as folder, Meter("pack") as meter:
        pack_family(family, folder, kind=kind, scenes=parse_names(scenes), limit=limit, progress=meter.count, **options)
    data = open_family(out)
    for note in notes_of(data):
        print(note)
    total = sum(file.stat().st_size for file in out.iterdir())
    print(f"wrote {out}: {scene_count(len(data.names))} of {data.kind}, {total / 1e6:,.1f} MB")
    print(next_line("fit", out, "--out", f"runs/{out.name}"))
