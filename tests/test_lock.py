"""One writer a run folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.evaluation.compare import Comparison, compare
from hyperfields.runs.atomic import new_folder
from hyperfields.runs.config import FitSettings
from hyperfields.runs.lock import LOCK, FileLock, FolderLock
from hyperfields.training.continual import add
from hyperfields.training.fit import Fit, fit
from hyperfields.training.inference import infer

HOLD = """
    import sys
    from pathlib import Path
    from hyperfields.runs.lock import FolderLock
    lock = FolderLock(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
"""


def data() -> Images:
    return Images((torch.arange(8 * 8 * 3) % 256).reshape(1, 8, 8, 3).byte())


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data(), run, steps=1, progress=False)
    assert not (run / LOCK).exists()  # nothing stays behind
    with held(run, "FolderLock") as number:
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=rf"run: process {number} is writing into it; wait until it ends"):
            fit(data(), run, steps=2, resume=True, progress=False)
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
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
        lock = FolderLock(tmp_path / "new" / "deep")
        assert (tmp_path / "new" / "deep" / LOCK).read_text().isdecimal()
        lock.release()
        lock.release()
    assert list(tmp_path.iterdir()) == []  # folders that it made and nobody used
    (tmp_path / "old").mkdir()
    with FolderLock(tmp_path / "old"), FileLock(tmp_path / "codes.safetensors"):
        assert {path.name for path in tmp_path.iterdir()} == {"old", ".codes.safetensors.lock"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@contextlib.contextmanager
def held(path: Path, kind: str) -> Iterator[int]:
    """The number of a process that holds the lock on a folder or a file, until it is killed."""
    code = textwrap.dedent(HOLD).replace("FolderLock", kind)
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def test_add_infer_and_compare_are_refused_by_name_too(tmp_path: Path) -> None:
    run = fit(data(), tmp_path / "run", steps=1, preset="tiny", progress=False)
    new = Images(torch.zeros(1, 8, 8, 3).byte(), names=["new"])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with held(tmp_path / "out", "FolderLock") as number:
        wanted = rf"out: process {number} is writing into it; wait"
        for method in ("extension", "frozen"):
            with pytest.raises(InputError, match=wanted):
                add(run, new, tmp_path / "out", steps=1, method=method, progress=False)
        with pytest.raises(InputError, match=wanted):
            compare(data(), tmp_path / "out", Comparison(("full",), steps=1, preset="tiny"))
        with pytest.raises(InputError, match=wanted):
            run.save(tmp_path / "out")
        with pytest.raises(InputError, match=wanted), new_folder(tmp_path / "out"):
            pass
        # A file in a folder that another process writes into.
        with pytest.raises(InputError, match=rf"codes.safetensors: process {number} is writing into it; wait"):
            infer(run, new, tmp_path / "out" / "codes.safetensors", steps=1, progress=False)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    with held(tmp_path / "codes.safetensors", "FileLock") as number:
        with pytest.raises(InputError, match=rf"codes.safetensors: process {number} is writing into it; wait"):
            infer(run, new, tmp_path / "codes.safetensors", steps=1, progress=False)
        infer(run, new, tmp_path / "others.safetensors", steps=1, progress=False)
    # What kills have left hinders nobody.
    assert add(run, new, tmp_path / "out", steps=1, progress=False).names == ("0", "new")
    infer(run, new, tmp_path / "codes.safetensors", steps=1, progress=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run", "out", "codes.safetensors", "others.safetensors"}
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
