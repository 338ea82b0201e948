"""The verb `inspect`: what a run holds, what `fit` finds in a folder, what a preset costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.options import (
    Axis,
    Background,
    Count,
    Flag,
    Folder,
    KindChoice,
    Name,
    PresetChoice,
    Size,
    Split,
    parse_size,
    present,
)
from hyperfields.errors import InputError


def inspect(
    path: Positional[
        Annotated[
            Path | None,
            arg(metavar="RUN|FAMILY", help="folder of a run, or of a family.", help_behavior_hint="(optional)"),
        ]
    ] = None,
    *,
    out: Folder = None,
    kind: KindChoice = None,
    size: Size = None,
    limit: Count = None,
    background: Background = None,
    up: Axis = None,
    split: Split = None,
    preset: PresetChoice = None,
    scenes: Count = None,
    generator: Name = None,
    json: Flag = False,
) -> None:
    """Show what a run or a family holds, or the cost of a preset.

    Of a run: scenes, model, sizes, settings, progress. Of a family: what fit finds in it and what is left out, splits,
    sizes, cameras, box, up axis, background, masks.

    $ hyperfields inspect runs/cars
    $ hyperfields inspect captures/fox --out fox
    $ hyperfields inspect runs/cars --json
    $ hyperfields inspect --preset default --kind views --scenes 100 --size 128x128 --generator full

    Args:
        out: of a family: folder for family.json, and for cameras.html and cameras.png, which show cameras and box.
        kind: kind of the scenes; default: detected; with --preset: images.
        size: height and width of their pictures; default: their own; with --preset of images and views: 64x64.
        limit: of a family, only the first N scenes by name.
        background: of a family, as for fit.
        up: of a family, as for fit.
        split: of a family, as for fit.
        preset: count the parameters, bytes and operations of a preset, before fitting.
        scenes: number of scenes, with --preset; default: 32.
        generator: generator instead of the preset's, e.g. chunked or low-rank:rank=8.
        json: print it as JSON.
    """
    from hyperfields.runs.config import CONFIG

    if (path is None) == (preset is None):
        both = "neither came" if path is None else "both came"
        raise InputError(f"RUN|FAMILY, --preset: {both}; give the folder of a run or of a family, or a preset")
    reading = {"--out": out, "--limit": limit, "--background": background, "--up": up, "--split": split}
    counting = {"--scenes": scenes, "--generator": generator}
    if preset is not None:
        _refuse(reading, "--preset")
        _preset(preset, kind, size, 32 if scenes is None else scenes, generator, json)
        return
    assert path is not None
    if not path.exists():
        raise InputError(f"{path}: is not there; give the folder of a run or of a family")
    if path.is_dir() and not (path / CONFIG).is_file():
        _refuse(counting, "a family")
        chosen = {"limit": limit, "background": background, "up": up, "split": split}
        _family(path, out, json, kind=kind, size=parse_size(size), **chosen)
        return
    _refuse({**reading, **counting, "--kind": kind, "--size": size}, "a run")
    _run(path, json)


def _refuse(options: Mapping[str, object], what: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{option} {value}: has no meaning for {what}; leave it out")


def _run(path: Path, json: bool) -> None:
    from json import dumps

    from hyperfields.cli.console import format_run
    from hyperfields.runs.inspect import inspect_run

    content = inspect_run(path)
    print(dumps(content, indent=1) if json else format_run(content))


def _family(path: Path, out: Path | None, json: bool, **reading: object) -> None:
    from json import dumps

    from hyperfields.cli.console import table
    from hyperfields.scenes.inspect import family_rows, inspect_family
    from hyperfields.training.progress import Meter, say

    with Meter("inspect") as meter:
        found = inspect_family(path, out=out, progress=meter.count, **present(**reading))
    print(dumps(found, indent=1) if json else table(family_rows(found)))
    if out is not None:
        files = ["family.json", *(["cameras.html", "cameras.png"] if found["kind"] == "views" else [])]
        say(f"wrote {out}: {', '.join(files)}")


def _preset(preset: str, kind: str | None, size: str | None, scenes: int, generator: str | None, json: bool) -> None:
    from json import dumps

    from hyperfields import hypernets, tasks
    from hyperfields.cli.console import table
    from hyperfields.data import KINDS
    from hyperfields.training import cost

    if scenes < 1:
        raise InputError(f"--scenes {scenes}: wanted at least 1")
    if size is not None and not tasks.task_of(kind or KINDS[0]).sized:
        raise InputError(f"--size {size}: is of pictures, of which {kind} have none; leave it out")
    side = max(parse_size(size) or (64, 64))
    chosen = None if generator is None else hypernets.parse(generator, hypernets.SHARING)
    config, _ = tasks.preset(preset, kind or KINDS[0], scenes, side, generator=chosen)
    counts = cost.count(config, scenes)
    rows = cost.format_counts(config, counts)
    print(dumps(dataclasses.asdict(counts), indent=1) if json else table(rows))
