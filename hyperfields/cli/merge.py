"""The verb that puts results of many jobs together: `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.common import load, next_line, scene_count, write_json
from hyperfields.cli.options import QUIET, Folder
from hyperfields.errors import InputError

_OUT = "file of what is merged, .json or .safetensors; of a run, a new folder."
_PARTS = "reports, .json; files of codes, .safetensors; or a run, then files of its codes or runs of its networks."


def merge(
    out: Positional[Annotated[Path, arg(metavar="OUT", help=_OUT, help_behavior_hint=QUIET)]],
    parts: Positional[Annotated[tuple[Path, ...], arg(metavar="PARTS", help=_PARTS, help_behavior_hint=QUIET)]],
    *,
    run: Folder = None,
) -> None:
    """Put the results of parts together: reports, files of codes, or codes and the run that they belong to.

    Results of --shard are checked: none may be missing, none may come twice.

    $ hyperfields merge report.json reports/*.json
    $ hyperfields merge codes.safetensors codes/*.safetensors --run runs/cars
    $ hyperfields merge runs/all runs/cars codes/*.safetensors

    Args:
        run: folder of the run that files of codes belong to.
    """
    from hyperfields.evaluation.merged import merge_reports
    from hyperfields.evaluation.report import format_report
    from hyperfields.runs.merged import merge_codes, merge_runs

    if not parts:
        raise InputError("merge: no parts came; wanted OUT, then the results to put together")
    if missing := [part for part in parts if not part.exists()]:
        raise InputError(f"{missing[0]}: is not there ({len(missing)} of {len(parts)} are not)")
    if parts[0].is_dir():
        if run is not None:
            raise InputError(f"--run {run}: the run is the first of PARTS; leave it out")
        if len(parts) < 2:
            raise InputError(f"{parts[0]}: came alone; wanted the run, then files of its codes or runs of its networks")
        whole = merge_runs(load(parts[0]), parts[1:]).save(out)
        print(f"wrote {out}: {scene_count(len(whole.names))}")
        print(next_line("eval", out))
        return
    suffixes = sorted({part.suffix.lower() for part in (out, *parts)})
    if suffixes == [".json"]:
        if run is not None:
            raise InputError(f"--run {run}: is for files of codes; leave it out")
        report = merge_reports(parts)
        write_json(out, report)
        print(format_report(report))
        print(f"wrote {out}: {scene_count(len(report['scenes']))}")
    elif suffixes == [".safetensors"]:
        if run is None:
            raise InputError("--run: give the run that the codes belong to")
        merged = merge_codes(out, parts, load(run))
        print(f"wrote {out}: {scene_count(len(merged.names))}")
    else:
        raise InputError(
            f"{', '.join(suffixes)}: came together; wanted reports (.json), files of codes (.safetensors), or a run's "
            "folder first"
        )
