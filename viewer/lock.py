"""A fair lock: one thread computes at a time, in order of arrival, what somebody drags before what stands still."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class FairLock:
    """A lock with two queues. `threading.Lock` may let the same thread in for ever."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._busy = False
        self._queues: tuple[deque[threading.Event], deque[threading.Event]] = (deque(), deque())

    @contextlib.contextmanager
    def held(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the lock; the urgent get it first."""
        self._acquire(urgent)
        try:
            yield
        finally:
            self._release()

    def give_way(self, *, urgent: bool = False) -> None:
        """While holding the lock: release it, let those who wait come first, and acquire it again."""
        with self._mutex:
            if not any(self._queues):
                return
        self._release()
        self._acquire(urgent)

    def _acquire(self, urgent: bool) -> None:
        with self._mutex:
            if not self._busy:
                self._busy = True
                return
            ours = threading.Event()
            self._queues[0 if urgent else 1].append(ours)
        ours.wait()

    def _release(self) -> None:
        """Hands over directly, so that nobody who comes later slips in."""
        with self._mutex:
            for queue in self._queues:
                if queue:
                    queue.popleft().set()
                    return
            self._busy = False
