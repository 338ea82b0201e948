"""How work is cut and shared out: tasks that do not depend on the number of threads, on a small pool of threads."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# NaN and infinity keep their meaning; only the order of sums may change.
FAST = {"contract", "reassoc", "nsz"}
U = np.uint64  # unsigned indices need no wrap-around check, which is what lets LLVM vectorise the loops


def _keep_memory() -> None:
    """Have the C library keep what is freed, as torch's allocator for CUDA does, instead of giving it back at once.

    It returns blocks of more than 32 MB to the system whenever they are freed, and gets them anew, page by page: half
    of the time of `hash_encode` on many points. Whoever has set one of glibc's own variables is left alone.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def forget_stale_kernels(folder: Path) -> None:
    """Delete numba's indices of compiled kernels that are older than any source file beside them.

    numba looks at the file of a kernel and not at those of what it calls: a pull that changes only these would leave
    the old machine code in use.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        with contextlib.suppress(OSError):  # another process was faster, or it is not ours
            if index.stat().st_mtime < newest <= time.time():  # not where clocks disagree
                index.unlink()


_keep_memory()
forget_stale_kernels(Path(__file__).parent)
ENOUGH = 2**18  # numbers that are moved, from which on a second thread helps
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def parallel(task: Callable[[int, int], None], count: int, numbers: int = ENOUGH) -> None:
    """Run task(lo, hi) over ranges that cover 0 ... count, on as many threads as torch uses.

    A range is a few pieces: entering a kernel from Python (about 10 us) is paid a few times an op, not once a piece.
    numbers: that are moved in all, where it may be so few that to wake a thread (about 100 us) takes longer.
    """
    global _pool
    threads = min(torch.get_num_threads(), count) if numbers >= ENOUGH else 1
    if threads <= 1:
        if count:
            task(0, count)
        return
    ranges = min(count, 4 * threads)
    bounds = [count * r // ranges for r in range(ranges + 1)]
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="hyperfields")
    order = itertools.count()

    def work() -> None:
        while (index := next(order)) < ranges:
            task(bounds[index], bounds[index + 1])

    futures = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        future.result()


def starts_of(counts: Tensor) -> np.ndarray:
    """counts `[s]` -> where each begins among packed ones, and the end: `[s + 1]`."""
    starts = np.zeros(counts.shape[0] + 1, np.int64)
    np.cumsum(counts.numpy(), out=starts[1:])
    return starts


def pieces_of(starts: np.ndarray, size: int) -> np.ndarray:
    """Cut packed points into pieces of at most `size` that stay within a scene: rows (scene, begin, end)."""
    pieces = [
        (scene, begin, min(begin + size, int(end)))
        for scene, (start, end) in enumerate(itertools.pairwise(starts.tolist()))
        for begin in range(start, end, size)
    ]
    return np.array(pieces, np.int64).reshape(-1, 3)
