"""One writer a run folder."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.runs.config import FitSettings
from hyperfields.runs.lock import LOCK, FolderLock
from hyperfields.training.fit import Fit, fit

HOLD = """
    import sys, time
    from pathlib import Path
    from hyperfields.runs.lock import FolderLock
    lock = FolderLock(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(60)
"""


def data() -> Images:
    return Images((torch.arange(8 * 8 * 3) % 256).reshape(1, 8, 8, 3).byte())


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data(), run, steps=1, progress=False)
    assert not (run / LOCK).exists()  # nothing stays behind
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(HOLD), str(run)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=rf"run: process {holder.pid} is writing into it; wait until it ends"):
            fit(data(), run, steps=2, resume=True, progress=False)
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    finally:
        holder.kill()
        holder.communicate()
    assert (run / LOCK).exists()  # left by a kill, and no hindrance
    (run / ".model.safetensors.0badcafe.tmp").write_bytes(b"of another process")
    assert fit(data(), run, steps=2, resume=True, progress=False).summary["steps"] == 2
    assert (run / ".model.safetensors.0badcafe.tmp").read_bytes() == b"of another process"
    assert not (run / LOCK).exists()


def test_a_fit_that_cannot_begin_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        Fit(data(), tmp_path / "run", FitSettings(steps=1), resume=True)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_fit_of_this_process_that_was_never_run_is_no_hindrance(tmp_path: Path) -> None:
    first = Fit(data(), tmp_path / "run", FitSettings(steps=1))
    with pytest.warns(UserWarning, match="starts again at step 0"):
        second = Fit(data(), tmp_path / "run", FitSettings(steps=1), resume=True)
    second.run()
    first.lock.release() if first.lock is not None else None


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        lock = FolderLock(tmp_path / "new")
        assert (tmp_path / "new" / LOCK).read_text().isdecimal()
        lock.release()
        lock.release()
    assert list((tmp_path / "new").iterdir()) == []
