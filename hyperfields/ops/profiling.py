"""Times of named regions of the work, taken only while a `Profiler` runs."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class Profiler:
    """Seconds and calls of regions: `with Profiler() as profiler: ...`, then `profiler.seconds[name]`.

    The seconds of a region are without those of the regions within it. One profiler at a time, for the thread that
    runs it: what other threads do meanwhile belongs to the region that waits for it. A region ends when Python goes
    on, so a GPU must be synchronised by whoever wants to know about it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._within: list[float] = []  # of each open region: seconds of the regions inside

    def __enter__(self) -> Profiler:
        global _running
        _running = self
        return self

    def __exit__(self, *_: object) -> None:
        global _running
        _running = None


_running: Profiler | None = None


class region:
    """Context or decorator that names a piece of work: `with region("backward"):`, or `@region("ray_march")`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = 0.0

    def __call__(self, function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
        @functools.wraps(function)
        def named(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
            if _running is None:
                return function(*args, **kwargs)
            with region(self.name):
                return function(*args, **kwargs)

        return named

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
