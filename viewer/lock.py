"""Whose turn it is to compute: one at a time, in order of arrival, what somebody drags at before what stands still."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class FairLock:
    """A fair lock with two queues. `threading.Lock` may let the same thread in for ever."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._busy = False
        self._queues: tuple[deque[threading.Event], deque[threading.Event]] = (deque(), deque())

    @contextlib.contextmanager
    def turn(self, urgent: bool) -> Iterator[None]:
        """Wait until it is our turn; the urgent go first."""
        self._take(urgent)
        try:
            yield
        finally:
            self._leave()

    def let_others(self, urgent: bool) -> None:
        """Within a turn: let go, let those who wait come first, and take up again."""
        with self._mutex:
            if not any(self._queues):
                return
        self._leave()
        self._take(urgent)

    def _take(self, urgent: bool) -> None:
        with self._mutex:
            if not self._busy:
                self._busy = True
                return
            ours = threading.Event()
            self._queues[0 if urgent else 1].append(ours)
        ours.wait()

    def _leave(self) -> None:
        """Hands over directly, so that nobody who comes later slips in."""
        with self._mutex:
            for queue in self._queues:
                if queue:
                    queue.popleft().set()
                    return
            self._busy = False
