"""Threads and memory of the process: torch on one thread while the kernels work, and nothing changed by an import."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import hyperfields as hf
from hyperfields import process
from hyperfields.ops.threads import kernel_threads, one_torch_thread

pytestmark = pytest.mark.filterwarnings("error")


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_torch_has_one_thread_and_the_kernels_all() -> None:
    assert kernel_threads() == 3
    with one_torch_thread():
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        with one_torch_thread():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)


def test_threads_come_back_after_an_exception() -> None:
    with pytest.raises(KeyError), one_torch_thread(), one_torch_thread():
        raise KeyError
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)


def test_a_decorated_function_computes_on_one_thread_every_time() -> None:
    @one_torch_thread()
    def threads() -> int:
        return torch.get_num_threads()

    assert [threads(), torch.get_num_threads(), threads(), torch.get_num_threads()] == [1, 3, 1, 3]


def test_other_threads_keep_theirs_whenever_they_begin() -> None:
    seen: list[tuple[int, int]] = []

    def plain() -> None:
        seen.append((torch.get_num_threads(), kernel_threads()))

    def within() -> None:
        with one_torch_thread():
            seen.append((torch.get_num_threads(), kernel_threads()))
        plain()

    with one_torch_thread():
        in_a_thread(plain)
        in_a_thread(within)
        assert torch.get_num_threads() == 1
    in_a_thread(plain)
    assert seen == [(3, 3), (1, 3), (3, 3), (3, 3)]


def test_one_thread_that_leaves_changes_nothing_for_another_that_is_within() -> None:
    left, entered, seen = threading.Event(), threading.Event(), []

    def longer() -> None:
        with one_torch_thread():
            entered.set()
            assert left.wait(300)
            seen.append((torch.get_num_threads(), kernel_threads()))

    other = threading.Thread(target=longer)
    with one_torch_thread():
        other.start()
        assert entered.wait(300)
    left.set()
    other.join()
    assert seen == [(1, 3)]
    assert torch.get_num_threads() == 3


def test_a_fit_steps_on_one_torch_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    step = hf.Trainer.step

    def watched(self: hf.Trainer, progress: hf.Progress) -> None:
        seen.append((torch.get_num_threads(), kernel_threads()))
        if progress.step == 2:
            raise ArithmeticError
        step(self, progress)

    monkeypatch.setattr(hf.Trainer, "step", watched)
    with pytest.raises(ArithmeticError):
        hf.fit(hf.Images(torch.rand(2, 8, 8, 3)), preset="tiny", steps=5, progress=False)
    assert seen == [(1, 3)] * 3
    assert torch.get_num_threads() == 3


def test_a_fit_gives_the_same_bits_at_any_number_of_threads() -> None:
    data = hf.Images(torch.rand(3, 32, 32, 3))
    states = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        states.append(hf.fit(data, steps=8, progress=False).model.state_dict())
    assert torch.get_num_threads() == 3
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


IMPORTS = """
import json, os, sys
before = dict(os.environ)
if sys.argv[1] == "torch":
    import torch
import ctypes
calls = []
class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            calls.append(name)
        return super().__getattr__(name)
ctypes.CDLL = Library
import hyperfields.cli, hyperfields.ops._cpu, hyperfields.training.fit
import torch
from hyperfields import ops
threads = torch.get_num_threads(), os.cpu_count()
ops.batched_mlp(torch.rand(1, 9, 3), [(torch.rand(1, 2, 3), None)])
print(json.dumps([dict(os.environ) == before, threads[0] == torch.get_num_threads(), calls]))
"""


@pytest.mark.parametrize("first", ["torch", "hyperfields"])
def test_importing_changes_nothing(first: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, first], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, []]


class Settings:
    """A C library that writes down what malloc is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, _: None) -> Settings:
        return self

    def mallopt(self, name: int, value: int) -> None:
        self.calls.append((name, value))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = Settings()
    monkeypatch.setattr("ctypes.CDLL", settings)
    monkeypatch.setattr(process, "_keeping", 0)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    return settings


KEEP, GIVE_BACK = [(-4, 0), (-1, 2**31 - 1)], [(-4, 65536), (-3, 2**25), (-1, 2**26)]


def test_memory_is_kept_as_long_as_anybody_computes(library: Settings) -> None:
    with contextlib.suppress(KeyError), one_torch_thread():
        in_a_thread(one_torch_thread()(lambda: None))
        assert library.calls == KEEP
        raise KeyError
    assert library.calls == KEEP + GIVE_BACK


def test_a_tuned_process_keeps_its_memory(library: Settings) -> None:
    process.tune_process()
    with one_torch_thread():
        pass
    assert library.calls == KEEP


def test_settings_of_the_user_stay(library: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with one_torch_thread():
        pass
    assert library.calls == []


@pytest.mark.parametrize(
    ("given", "wanted"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")]
)
def test_idle_threads_are_told_to_sleep_unless_somebody_chose_otherwise(given: dict[str, str], wanted: str) -> None:
    chosen = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in chosen} | given
    code = "import os, hyperfields; hyperfields.tune_process(); print(os.environ.get('GOMP_SPINCOUNT', ''))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.strip() == wanted


def test_kernels_are_compiled_anew_when_a_file_beside_them_changes(tmp_path: Path) -> None:
    """The cache of a kernel is good for one state of all files that a kernel may call."""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from kernels.caller import caller\nfrom kernels.threads import stamp_kernels\nstamp_kernels()\n"
    )
    (package / "caller.py").write_text(
        "from numba import njit\nfrom kernels.called import called\n"
        "@njit(cache=True)\ndef caller(x):\n    return called(x)\n"
    )
    from hyperfields.ops._cpu import threads

    (package / "threads.py").write_text(Path(threads.__file__).read_text())
    answers = []
    for number in (1, 1, 2):
        (package / "called.py").write_text(
            f"from numba import njit\n@njit(cache=True)\ndef called(x):\n    return x + {number}\n"
        )
        code = "from kernels import caller; print(caller(1), sum(caller.stats.cache_hits.values()))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )  # fmt: skip
        answers.append(done.stdout.split())
    assert answers == [["2", "0"], ["2", "1"], ["3", "0"]]


def test_the_cache_gives_no_kernel_of_other_sources_or_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while another process writes into it."""
    from numba.core.caching import IndexDataCacheFile

    from hyperfields.ops._cpu.threads import _save_kernel

    def cache(stamp: bytes) -> IndexDataCacheFile:
        return IndexDataCacheFile(str(tmp_path), "kernel-1", stamp)

    old, new = cache(b"old"), cache(b"new")
    _save_kernel(old, "float32", "old code")
    assert old.load("float32") == "old code"
    save_data = IndexDataCacheFile._save_data

    def looked_at(file: IndexDataCacheFile, name: str, data: str) -> None:
        assert file.load("float32") is None
        save_data(file, name, data)
        assert file.load("float32") in (None, "code")

    with monkeypatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "_save_data", looked_at)
        _save_kernel(new, "float32", "code")
    assert new.load("float32") == "code"
    assert len(list(tmp_path.glob("*.nbc"))) == 1  # nothing of the old source stays
    other = cache(b"new")  # two processes that have seen the same index write for other types
    before = other._load_index()
    _save_kernel(new, "float64", "code of doubles")
    monkeypatch.setattr(other, "_load_index", lambda: before)
    _save_kernel(other, "int64", "code of integers")
    last = cache(b"new")
    assert [last.load(key) for key in ("float32", "float64", "int64")] == ["code", None, "code of integers"]


def test_fits_in_two_threads_are_those_of_one() -> None:
    """Values that modules start with come from the global generator, which one thread at a time may seed."""
    data = hf.Images(torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)))
    alone = [hf.fit(data, steps=3, seed=seed, progress=False).model.latents.codes for seed in (0, 1)]
    together: dict[int, torch.Tensor] = {}

    def one(seed: int) -> None:
        together[seed] = hf.fit(data, steps=3, seed=seed, progress=False).model.latents.codes

    for _ in range(3):
        threads = [threading.Thread(target=one, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(together[seed], alone[seed]) for seed in (0, 1))
