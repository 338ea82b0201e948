"""Where the time goes: named stages of the work, timed only while a `Profiler` runs."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from types import TracebackType


class Profiler:
    """`with Profiler() as watch: ...`, then `watch.seconds[stage]`, each without the stages within it.

    One at a time, for the thread that runs it: what other threads do meanwhile belongs to the stage that waits for it.
    A stage ends when Python goes on, so a GPU must be synchronised by whoever wants to know about it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._within: list[float] = []  # of each open stage: seconds of the stages inside

    def __enter__(self) -> Profiler:
        global _running
        _running = self
        return self

    def __exit__(self, *_: object) -> None:
        global _running
        _running = None


_running: Profiler | None = None


class region(contextlib.ContextDecorator):
    """Marks a piece of work: `with region("backward"):`, or `@region("march")` on a function."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = 0.0

    def _recreate_cm(self) -> region:
        return region(self.name)  # of its own for every call of a decorated function

    def __enter__(self) -> region:
        self.watch = _running
        if self.watch is not None:
            self.watch._within.append(0.0)
            self.began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.watch is None:
            return
        took = time.perf_counter() - self.began
        self.watch.seconds[self.name] += took - self.watch._within.pop()
        self.watch.calls[self.name] += 1
        if self.watch._within:
            self.watch._within[-1] += took
