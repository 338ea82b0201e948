"""Tasks of a kernel, which do not depend on the number of threads, and the small pool of threads that runs them."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from hyperfields.ops.threads import kernel_threads

# NaN and infinity keep their meaning; only the order of sums may change.
FAST = {"contract", "reassoc", "nsz"}
U = np.uint64  # unsigned indices need no wrap-around check, which is what lets LLVM vectorise the loops


def stamp_kernels() -> None:
    """Have numba's cache compile kernels anew when any source beside them has changed.

    numba looks at the file of a kernel and not at those of what it calls: a pull that changes only these would leave
    the old machine code in use. Call it when all kernels are imported and before the first one runs.
    """
    folder = Path(__file__).parent
    sources = [*sorted(folder.glob("*.py")), folder.parent / "spherical_harmonics.py"]
    stamp = hashlib.sha256(b"".join(source.read_bytes() for source in sources if source.is_file())).digest()
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{__package__}."):
            for value in vars(module).values():
                file = getattr(getattr(value, "_cache", None), "_cache_file", None)
                if file is not None and hasattr(file, "_source_stamp"):  # numba has no public name for it
                    file._source_stamp = stamp


ENOUGH = 2**18  # numbers that are moved, from which on a second thread helps
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def parallel(task: Callable[[int, int], None], count: int, numbers: int = ENOUGH) -> None:
    """Run task(lo, hi) over ranges that cover 0 ... count, on `kernel_threads()` threads.

    A range is a few pieces: entering a kernel from Python (about 10 us) is paid a few times an op, not once a piece.
    numbers: that are moved in all, where it may be so few that to wake a thread (about 100 us) takes longer.
    """
    global _pool
    threads = min(kernel_threads(), count) if numbers >= ENOUGH else 1
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
