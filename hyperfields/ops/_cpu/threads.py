"""Tasks of a kernel, which do not depend on the number of threads, and the small pool of threads that runs them."""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import njit
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
                    file.save = functools.partial(_save_kernel, file)


def _save_kernel(file: Any, key: Any, data: Any) -> None:
    """Keep a kernel in numba's cache, for processes that look at the same time, too.

    numba writes the index before the machine code, and numbers the files: meanwhile another process may find there what
    an older source gave, or the code for other types that a third one wrote. Here a file has the name of its source and
    its types, and is there before the index says so.
    """
    base = file._index_name.removesuffix(".nbi")
    name = f"{base}.{hashlib.sha256(file._source_stamp + repr(key).encode()).hexdigest()[:16]}.nbc"
    file._save_data(name, data)
    known = file._load_index()
    if not known:  # of other sources, if of any
        for old in Path(file._cache_path).glob(f"{glob.escape(base)}.*.nbc"):
            if old.name != name:
                old.unlink(missing_ok=True)
    file._save_index({**known, key: name})


ENOUGH = 2**18  # numbers that are moved, from which on a second thread helps
_work: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what threads of the pool wait for
_threads = 0  # of the pool


def _forget_pool() -> None:
    global _work, _threads
    _work, _threads = SimpleQueue(), 0


os.register_at_fork(after_in_child=_forget_pool)


def _serve(work: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        work.get()()


def _grow_pool(threads: int) -> None:
    global _threads
    while _threads < threads:
        _threads += 1
        threading.Thread(target=_serve, args=(_work,), name=f"hyperfields_{_threads}", daemon=True).start()


@functools.lru_cache(4096)
def _bounds(count: int, threads: int) -> tuple[int, ...]:
    """Where ranges of pieces begin, and the end: ever smaller ones, so that threads whose pieces take longer than those
    of others end together with them all the same. Some 4 ranges a thread.

    Source: Polychronopoulos, Kuck 1987, "Guided self-scheduling".
    """
    bounds, least = [0], -(-count // (12 * threads))
    while (left := count - bounds[-1]) > 0:
        bounds.append(bounds[-1] + min(left, max(2 * left // (3 * threads), least)))
    return tuple(bounds)


def parallel(task: Callable[[int, int], None], count: int, numbers: int = ENOUGH) -> None:
    """Run task(lo, hi) over ranges that cover 0 ... count, on `kernel_threads()` threads.

    A range is some pieces: entering a kernel from Python (about 10 us) is paid a few times an op, not once a piece.
    Nobody waits for a thread that has not begun a range: to wake one takes up to 100 us.

    numbers: that are moved in all, where it may be so few that a second thread would come too late.
    """
    threads = min(kernel_threads(), count) if numbers >= ENOUGH else 1
    if threads <= 1:
        if count:
            task(0, count)
        return
    bounds = _bounds(count, threads)
    ranges = len(bounds) - 1
    order = itertools.count()
    done: SimpleQueue[BaseException | None] = SimpleQueue()  # an entry for each range that a helper ran

    def help_out() -> None:
        while (index := next(order)) < ranges:
            try:
                task(bounds[index], bounds[index + 1])
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)

    _grow_pool(threads - 1)
    for _ in range(threads - 1):
        _work.put(help_out)
    own = 0
    while (index := next(order)) < ranges:
        task(bounds[index], bounds[index + 1])
        own += 1
    for _ in range(ranges - own):
        if (failure := done.get()) is not None:
            raise failure


def starts_of(counts: Tensor) -> np.ndarray:
    """counts `[s]` -> where each begins among packed ones, and the end: `[s + 1]`."""
    starts = np.zeros(counts.shape[0] + 1, np.int64)
    np.cumsum(counts.numpy(), out=starts[1:])
    return starts


@njit(cache=True, error_model="numpy")
def pieces_of(starts, size):
    """Cut packed points into pieces of at most `size` that stay within a scene: rows (scene, begin, end)."""
    count = 0
    for scene in range(len(starts) - 1):
        count += (starts[scene + 1] - starts[scene] + size - 1) // size
    pieces, number = np.empty((count, 3), np.int64), 0
    for scene in range(len(starts) - 1):
        for begin in range(starts[scene], starts[scene + 1], size):
            pieces[number, 0], pieces[number, 1] = scene, begin
            pieces[number, 2] = min(begin + size, starts[scene + 1])
            number += 1
    return pieces
