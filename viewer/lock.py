"""A fair lock: one thread computes at a time; first looks come before whole pictures, and those before jobs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from enum import IntEnum


class Turn(IntEnum):
    """What a thread wants to compute. The number is its patience: how many who come later may go first."""

    LOOK = 0  # somebody drags and waits
    PICTURE = 4  # all is still: a whole picture
    JOB = 16  # films, meshes, thumbnails
    SHARP = 32  # a picture that is whole already, with all pixels and smooth edges


class _Waiting:
    """A place in the queue."""

    def __init__(self, turn: Turn, ticket: int) -> None:
        self.turn, self.ticket, self.patience = turn, ticket, int(turn)
        self.due = 0  # at this count of arrivals it goes before whoever comes
        self.go = threading.Event()


class FairLock:
    """A lock that is handed over. (`threading.Lock` may let the same thread in for ever.)

    Within a kind of turn, who began first goes first, also after giving way: so few large pictures are in memory at a
    time. Between kinds, each comes at its due, the count of arrivals when it queued plus its patience: whoever waits
    for a look already when a job queues gets it before the job's next block, and nobody waits for ever. Patience for a
    whole picture halves each time it gives way: many blocks do not make it late while others look without a pause.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder: _Waiting | None = None
        self._queues: dict[Turn, list[_Waiting]] = {turn: [] for turn in Turn}
        self._arrivals = self._tickets = 0

    @contextlib.contextmanager
    def held(self, turn: Turn = Turn.JOB) -> Iterator[None]:
        """Hold the lock."""
        with self._mutex:
            self._tickets += 1
            ours = _Waiting(turn, self._tickets)
            free = self._holder is None
            if free:
                self._holder = ours
            else:
                self._queue(ours)
        if not free:
            ours.go.wait()
        try:
            yield
        finally:
            with self._mutex:
                self._hand_over()

    def give_way(self) -> None:
        """While holding the lock: let those who are due come first, then hold it again."""
        with self._mutex:
            ours = self._holder
            assert ours is not None
            if not any(self._queues.values()):
                return
            ours.go.clear()
            if ours.turn is Turn.PICTURE:
                ours.patience //= 2
            self._queue(ours)
            self._hand_over()
        ours.go.wait()

    @property
    def busy(self) -> bool:
        return self._holder is not None

    def waiting(self, turn: Turn | None = None) -> int:
        """Number of threads that wait, of one kind or of all."""
        return sum(len(queue) for kind, queue in self._queues.items() if turn in (None, kind))

    def _queue(self, ours: _Waiting) -> None:
        self._arrivals += 1
        ours.due = self._arrivals + ours.patience
        self._queues[ours.turn].append(ours)
        self._queues[ours.turn].sort(key=lambda one: one.ticket)

    def _hand_over(self) -> None:
        """To the first of the kind whose first is due first, so that nobody who comes later slips in."""
        heads = [queue[0] for queue in self._queues.values() if queue]
        self._holder = min(heads, key=lambda one: one.due, default=None)
        if self._holder is not None:
            self._queues[self._holder.turn].pop(0)
            self._holder.go.set()
