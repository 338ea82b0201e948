"""Kill one of two ranks of a fit at a random moment, many times: every fit has to end, about as well as undisturbed.

    python scripts/kill_ranks.py --times 10

Ranks are started by torchrun with `--max-restarts`, and save their state twice a second instead of every 30 s. Prints a
line a fit (when it was killed, how often ranks were started, its loss), and ends with code 1 if one did not end well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESTARTS = 3


def ranks_of(launcher: int) -> list[int]:
    """Processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if b"--as-rank" in Path(f"/proc/{child}/cmdline").read_bytes()]


def fit(family: Path, out: Path, steps: int, kill_after: float | None) -> tuple[float | None, int, str]:
    """(loss or None, starts, what was killed) of a fit by two ranks; kill_after: seconds from the first state on."""
    command = [
        sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(RESTARTS), __file__, "--as-rank", str(family), "--out", str(out), "--steps", str(steps),
    ]  # fmt: skip
    with open(out.with_suffix(".log"), "wb") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log)
        killed = "nothing"
        while kill_after is not None and launcher.poll() is None:
            if not (out / "state/manifest.json").is_file():
                time.sleep(0.02)
                continue
            time.sleep(kill_after)
            kill_after = None
            if ranks := ranks_of(launcher.pid):
                rank = random.randrange(len(ranks))
                os.kill(ranks[rank], signal.SIGKILL)
                killed = f"rank {rank} after step {json.loads((out / 'state/manifest.json').read_bytes())['step']}"
        launcher.wait()
    starts = out.with_suffix(".log").read_bytes().count(b"2 ranks, the scenes in")
    if launcher.returncode or not (out / "summary.json").is_file():
        return None, starts, killed
    return float(json.loads((out / "summary.json").read_bytes())["loss"]), starts, killed


def as_rank(words: list[str]) -> int:
    """What torchrun starts: the command, with states that are saved more often."""
    import hyperfields.training.fit as fitting
    from hyperfields.cli import main

    fitting.CHECKPOINT_SECONDS = 0.5
    return main(["fit", *words, "--preset", "tiny", "--limit", "32", "--size", "32x32"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--longest", type=float, default=5.0, help="seconds after the first state; less than a fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    from hyperfields.scenes import SAMPLES

    good, losses = True, []
    with tempfile.TemporaryDirectory() as folder:
        whole, _, _ = fit(SAMPLES / "emoji", Path(folder) / "whole", options.steps, None)
        print(f"undisturbed: loss {whole}", flush=True)
        for number in range(options.times):
            out = Path(folder) / str(number)
            loss, starts, killed = fit(SAMPLES / "emoji", out, options.steps, random.uniform(0.0, options.longest))
            print(f"killed {killed}, started {starts} times: loss {loss}", flush=True)
            good &= loss is not None
            if loss is None:
                print(out.with_suffix(".log").read_text()[-2000:])
            losses += [] if loss is None else [loss]
    print(f"{len(losses)} of {options.times} ended, mean loss {statistics.fmean(losses or [float('nan')]):.6g}")
    return 0 if good and whole is not None else 1


if __name__ == "__main__":
    raise SystemExit(as_rank(sys.argv[2:]) if sys.argv[1:2] == ["--as-rank"] else main())
