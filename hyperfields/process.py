"""The process itself: settings that make computing faster and are not ours to change unasked, and its random numbers.

Imports no torch until it is needed, and no kernel.

Importing hyperfields changes nothing. While a fit or a picture is computed (`ops.threads.one_torch_thread`), freed
memory stays with the process, and afterwards the C library does as before; `tune_process` makes that last.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

# Settings of glibc's malloc, by their numbers in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_lock = threading.Lock()
_keeping = 0  # how many want memory to be kept


def tune_process() -> None:
    """Settings for a process that does little else than this package; the `hyperfields` command calls it.

    Freed memory stays with the process for good. Where torch is not imported yet, idle threads of its OpenMP pool are
    told to sleep soon. Variables of the environment that set either are left alone.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"  # read once, when torch is imported
    _keep(1)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, the C library keeps what is freed, as torch's allocator for CUDA does. May be nested, on any threads.

    It returns blocks of more than 32 MB to the system whenever they are freed, and gets them anew, page by page: half
    of the time of an op on many points.
    """
    _keep(1)
    try:
        yield
    finally:
        _keep(-1)


def share_memory() -> None:
    """Threads that begin from now on take memory from one store, for good: what one has freed serves the others.

    For a process in which many threads compute in turns; 50 of them kept 1.2 GB, and keep 0.3 GB so.
    """
    _set_malloc({_ARENA_MAX: 1})


def _keep(change: int) -> None:
    global _keeping
    with _lock:
        before, _keeping = _keeping > 0, _keeping + change
        if before == (_keeping > 0):
            return
        if _keeping:  # no block is a mapping of its own
            _set_malloc({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})  # bytes
        else:  # as glibc has them after it has seen large blocks
            _set_malloc({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26})


def _set_malloc(options: dict[int, int]) -> None:
    """Settings of glibc's malloc, unless the environment has some."""
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)


_drawing = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int | None = None) -> Iterator[None]:
    """Within it, torch's global generator draws from `seed`; afterwards it is as before, and other threads wait.

    Modules draw their first values from the global generator. Without a seed those values do not matter.
    """
    import torch

    with _drawing, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        yield
