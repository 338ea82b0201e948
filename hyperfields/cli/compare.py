"""The verb that compares generators: `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from hyperfields.cli.common import Stopped, notes_of, read_data
from hyperfields.cli.options import (
    DEFAULT_MINUTES,
    QUIET,
    AnyFamilyPath,
    AspectChoice,
    Axis,
    Background,
    Count,
    KindChoice,
    Minutes,
    Size,
    Split,
    parse_size,
    present,
    require_length,
)
from hyperfields.errors import InputError

GENERATORS = "hierarchical,low-rank,full"


def compare(
    family: AnyFamilyPath = None,
    *,
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")],
    generators: Annotated[str, arg(metavar="A,B,C")] = GENERATORS,
    minutes: Minutes = None,
    steps: Count = None,
    bytes: Annotated[str | None, arg(metavar="B,B", help_behavior_hint=QUIET)] = None,
    seeds: Annotated[int, arg(metavar="N")] = 1,
    leaders: Count = None,
    unseen: Annotated[int, arg(metavar="N")] = 0,
    unseen_bytes: Annotated[str | None, arg(metavar="B,B", help_behavior_hint=QUIET)] = None,
    preset: Literal["tiny", "default", "faithful"] = "default",
    kind: KindChoice = None,
    size: Size = None,
    aspect: AspectChoice = None,
    background: Background = None,
    up: Axis = None,
    split: Split = None,
    limit: Count = None,
) -> None:
    """Compare generators fairly: the same family, field and budget, and only the generator differs.

    Prints a line for each result; then a table, a JSON file and a plot. After a stop the same command goes on.
    Generators take settings: low-rank:rank=8, chunked:chunk=64:hidden=32, full:hidden=64. `direct` is the baseline
    that fits each scene by itself. Without FAMILY nothing is fitted: table and plot are made again from the results in
    DIR.

    $ hyperfields compare faces --out cmp --size 64x64 --generators hierarchical,full --bytes 5000 --minutes 2
    $ hyperfields compare cars --out cmp2 --generators low-rank,chunked --steps 500 --seeds 3 --unseen 8
    $ hyperfields compare faces --out cmp3 --generators hierarchical,direct --unseen 16 --unseen-bytes 400,1200
    $ hyperfields compare --out cmp2

    Args:
        out: folder of the comparison, new or to go on with.
        generators: names with commas between them; an unknown name lists all of them.
        minutes: length of each fit in minutes; default, without --steps too: 2.
        steps: length of each fit in steps.
        bytes: bytes a scene, with its share of the networks, that generators grow to, one or several; default: the
            preset's.
        seeds: number of fits of each generator.
        leaders: only the N best at the first size and seed get the other sizes and seeds.
        unseen: hold out N scenes, evenly spread over the names, and infer their codes afterwards.
        unseen_bytes: then also infer each of them within so many bytes, one or several; pictures stand beside AVIF,
            WebP and PNG files of these bytes.
        preset: preset of the encoding and field that all share.
        kind: kind of the scenes; default: detected from the files.
        size: height and width that pictures are resized to; default: their own.
        aspect: how images come to --size, as for fit.
        background: of views, as for fit.
        up: axis that is up, as for fit.
        split: of views, as for fit.
        limit: only the first N scenes by name.
    """
    from hyperfields.evaluation.compare import Comparison, hold_out, parse_bytes, redo_report
    from hyperfields.evaluation.compare import compare as run_all
    from hyperfields.evaluation.comparison_table import format_result
    from hyperfields.training.progress import Meter, step_text

    if family is None:
        given = present(
            generators=None if generators == GENERATORS else generators, minutes=minutes, steps=steps, bytes=bytes,
            seeds=None if seeds == 1 else seeds, leaders=leaders, unseen=unseen or None, unseen_bytes=unseen_bytes,
            preset=None if preset == "default" else preset, kind=kind, size=size, aspect=aspect, background=background,
            up=up, split=split, limit=limit,
        )  # fmt: skip
        if given:
            option, value = next(iter(given.items()))
            said = f"--{option.replace('_', '-')} {value}"
            raise InputError(f"{said}: is of fits, and without FAMILY nothing is fitted; give it, or leave this out")
        _show_comparison(redo_report(out), out)
        return
    require_length(minutes, steps)
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    names = tuple(name.strip() for name in generators.split(",") if name.strip())
    if unseen_bytes is not None and not unseen:
        raise InputError(f"--unseen-bytes {unseen_bytes}: needs scenes that are left out, --unseen N")
    packed = parse_bytes(unseen_bytes, "--unseen-bytes")
    comparison = Comparison(names, minutes, steps, parse_bytes(bytes), seeds, leaders, preset, packed)
    reading = present(aspect=aspect, background=background, up=up, split=split)
    data = read_data(family, kind=kind, size=parse_size(size), limit=limit, **reading)
    for note in notes_of(data):
        print(note)
    held = None
    if unseen:
        parts = hold_out(data.names, unseen)
        data, held = (
            read_data(family, kind=data.kind, size=parse_size(size), scenes=part, **reading) for part in parts
        )
    try:
        with Meter("compare") as meter:
            report = run_all(
                data,
                out,
                comparison,
                unseen=held,
                show=lambda name, progress: meter.show(progress.fraction, f"{name}, {step_text(progress)}"),
                tell=lambda result: print(format_result(result), flush=True),
            )
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command goes on") from None
    _show_comparison(report, out)


def _show_comparison(report: dict[str, Any], out: Path) -> None:
    """The table of a comparison, and its plot where it can be drawn."""
    from hyperfields.evaluation.compare import PLOT, REPORT
    from hyperfields.evaluation.comparison_table import format_table
    from hyperfields.evaluation.plots import MissingLibrary, plot

    print(format_table(report))
    print(f"wrote {out / REPORT}")
    try:
        plot(report, out / PLOT)
    except MissingLibrary as error:
        print(f"no plot: {error}")
    else:
        print(f"wrote {out / PLOT}")
