"""make campaign: kills, failing writes and malformed inputs, by the hundred. Prints a table; exit code 1 if one fails.

    python scripts/campaign.py                          all of it, under 40 minutes on two cores
    python scripts/campaign.py kills|writes|inputs      a part      --count N: fewer, to try
    python scripts/campaign.py inputs --only 17 --keep  a case again, as the table names it; its folder stays

Commands run in forks of this process, one of some in a new interpreter. Nobody is asked for anything, nothing outside
of a temporary folder is written, and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import campaign_families as families
from campaign_forks import scatter
from campaign_inputs import Inputs
from campaign_kills import Kills
from campaign_writes import Failing, may_mount
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PARTS = ("kills", "writes", "inputs")
COUNTS = {"kills": 100, "inputs": 300}
# What commands import on their way, so that forks need not.
MODULES = (
    "evaluation.added", "evaluation.compare", "evaluation.health", "evaluation.plots", "evaluation.report",
    "evaluation.uncertainty", "ops._cpu", "runs.export", "runs.field_file", "runs.inspect", "runs.render", "runs.tcnn",
    "runs.video", "scenes", "training.continual", "training.cost", "training.fit", "training.inference",
)  # fmt: skip
OTHERS = (
    "PIL.ImageOps", "av", "matplotlib.figure", "open3d", "OpenEXR", "pycolmap", "scipy.spatial", "skimage.measure",
    "torch._dynamo", "torch._refs", "trimesh",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="kills, failing writes and malformed inputs, by the hundred")
    parser.add_argument("part", nargs="?", choices=PARTS, help="default: all of them")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers; default: 0")
    parser.add_argument("--count", type=int, help="cases of each part; default: 100 kills, every write, 300 inputs")
    parser.add_argument("--match", default="", help="only commands or formats whose name holds this text")
    parser.add_argument("--only", type=int, help="one case by its number")
    parser.add_argument("--keep", action="store_true", help="do not remove the folder")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    begin, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="campaign-"))
    root.chmod(0o755)
    console, failures = Console(), []
    table = Table("part", "what", "cases", "how they ended", "failed", title=f"make campaign, seed {options.seed}")
    try:
        _prepare(root)
        made = families.families(root / "families")
        for part in PARTS if options.part is None else (options.part,):
            console.print(f"{part}: making what it needs")
            count, case, end = _part(part, root / part, made, options)
            results = _run(part, count, case, options)
            for name in dict.fromkeys(result["name"] for result in results):
                mine = [result for result in results if result["name"] == name]
                wrong = [result for result in mine if result["failure"]]
                table.add_row(part, name, str(len(mine)), end(mine), f"[red]{len(wrong)}" if wrong else "0")
                failures += [f"{part} {result['case']}, {name}: {_how(result)}{result['failure']}" for result in wrong]
            table.add_section()
    finally:
        if options.keep or failures:
            console.print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    console.print(table)
    for failure in failures:
        console.print(f"FAILED {failure}", markup=False, soft_wrap=True)
    minutes = (time.monotonic() - begin) / 60.0
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    core = sum(usage.ru_utime + usage.ru_stime for usage in used) / 60.0
    console.print(f"{len(failures)} failed, {minutes:.1f} minutes, {core:.1f} of one core")
    return 1 if failures else 0


def _part(
    part: str, root: Path, made: dict[str, Path], options: argparse.Namespace
) -> tuple[int, Callable[[int], dict[str, Any]], Callable[[list[dict[str, Any]]], str]]:
    """(number of cases, what makes the result of one, what says how some ended)."""
    count = options.count or COUNTS.get(part, 0)
    if part == "kills":
        kills = Kills(root, made, options.seed, options.match)
        cases = kills.cases(count)
        return len(cases), lambda number: kills.case(number, cases[number]), _kills
    if part == "writes":
        failing = Failing(root, made, options.match)
        on_disk = failing.real if may_mount(root / "may") else []
        chosen = [(failing.case, i) for i in range(len(failing.cases))]
        chosen += [(failing.real_case, i) for i in range(len(on_disk))]
        if options.count:
            chosen = chosen[:: max(len(chosen) // options.count, 1)][: options.count]
        return len(chosen), lambda number: chosen[number][0](chosen[number][1]), _codes
    inputs = Inputs(root, made, options.seed, count, options.match)
    return len(inputs.cases), inputs.case, _codes


def _run(
    part: str, count: int, case: Callable[[int], dict[str, Any]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The results of all cases, with a bar."""
    if options.only is not None:
        return [{"case": options.only, **case(options.only)}]
    columns = (
        TextColumn(part),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[wrong]}"),
    )
    results, wrong = [], 0
    with Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as progress:
        bar = progress.add_task(part, total=count, wrong="")
        for result in scatter(count, case, options.workers):
            results.append({"name": "the campaign itself", **result})
            wrong += bool(result["failure"])
            progress.update(bar, advance=1, wrong=f"{wrong} failed" if wrong else "")
            if result["failure"] and progress.disable:
                print(f"FAILED {part} {result['case']}: {result['failure']}", file=sys.stderr, flush=True)
    if len(results) < count:
        results.append(
            {"name": "the campaign itself", "case": -1, "failure": f"{count - len(results)} cases are missing"}
        )
    return sorted(results, key=lambda result: result["case"])


def _how(result: dict[str, Any]) -> str:
    how = result.get("how", "")
    return f"{', '.join(how) if isinstance(how, list) else how}: " if how else ""


def _kills(results: list[dict[str, Any]]) -> str:
    kills, writes = sum(r.get("kills", 0) for r in results), sum(r.get("writes", 0) for r in results)
    return f"{kills} kills, {writes} of them in the middle of a write"


def _codes(results: list[dict[str, Any]]) -> str:
    codes = Counter(result.get("code") for result in results)
    words = {2: "refused", 0: "done", 1: "came to nothing"}
    return ", ".join(f"{codes[code]} {words.get(code, f'exit code {code}')}" for code in sorted(codes, key=str))


def _prepare(root: Path) -> None:
    """Caches of its own, no downloads, one thread, and all imports done."""
    os.environ |= {"XDG_CACHE_HOME": str(root / "cache"), "TORCH_HOME": str(root / "torch"), "HF_HUB_OFFLINE": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    os.environ |= {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    for name in MODULES:
        importlib.import_module(f"hyperfields.{name}")
    for name in OTHERS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SystemExit(f"error: make campaign needs all extras: {error}") from error
    import torch

    from hyperfields.evaluation import lpips, report

    torch.set_num_threads(1)

    real = report.load_lpips

    def given(net: lpips.Net, weights: Path | None = None, **_: object) -> lpips.Lpips:
        if weights is None:
            raise lpips.LpipsUnavailable("not in a campaign")
        return real(net, weights, download=False)

    report.load_lpips = given


if __name__ == "__main__":
    sys.exit(main())
