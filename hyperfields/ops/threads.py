"""Threads: torch takes one while the kernels take all of them.

Idle OpenMP threads of torch spin for milliseconds before they sleep, and so take cores from whoever has work: from the
kernels here, which run on a small thread pool of their own, and from every other process. Two fits at once were 14
times slower than one. With one torch thread there are no OpenMP threads that could spin.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from hyperfields import process


class _Here(threading.local):
    kernels = 0  # threads for the kernels that are called from this thread; 0: as many as torch has


_here = _Here()


def kernel_threads() -> int:
    """Number of threads that the CPU kernels called from this thread run on: torch's, or its former one within
    `one_torch_thread`.
    """
    return _here.kernels or torch.get_num_threads()


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within it, torch computes on one thread in the calling thread, and our kernels on as many as torch had.

    For loops in which the kernels do the work: fits, inference, pictures, measurements. Other threads of the process
    keep their number; afterwards, also after an exception, this thread has its former number again. Freed memory stays
    with the process meanwhile (`process.kept_memory`). May be nested, and decorates functions too.
    """
    if _here.kernels:
        yield
        return
    before = torch.get_num_threads()
    _here.kernels = before
    try:
        _set_here(1, elsewhere=before)
        with process.kept_memory():
            yield
    finally:
        _here.kernels = 0
        _set_here(before, elsewhere=before)


def _set_here(threads: int, *, elsewhere: int) -> None:
    """Set torch's threads in the calling thread alone.

    `torch.set_num_threads` sets those of its own thread, and with how many every later thread begins: this second
    number is put right by another thread.
    """
    if threads == torch.get_num_threads():
        return
    torch.set_num_threads(threads)
    if threads != elsewhere:
        other = threading.Thread(target=torch.set_num_threads, args=(elsewhere,))
        other.start()
        other.join()
