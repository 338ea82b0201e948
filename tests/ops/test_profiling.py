"""Stages of the work: own time without what is within, and nothing at all while nobody watches."""

from __future__ import annotations

import time

import pytest

from hyperfields.ops.profiling import Profiler, region


class Clock:
    """Stands for `time.perf_counter`; only `wait` moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


@region("inner")
def inner(clock: Clock, seconds: float) -> None:
    clock.wait(seconds)


def test_a_stage_does_not_count_what_is_within_it(clock: Clock) -> None:
    with Profiler() as watch, region("outer"):
        clock.wait(0.25)
        inner(clock, 0.5)
        inner(clock, 1.0)
    assert watch.calls == {"inner": 2, "outer": 1}
    assert watch.seconds == {"inner": 1.5, "outer": 0.25}


def test_nothing_is_kept_after_the_watch_has_stopped(clock: Clock) -> None:
    with Profiler() as watch:
        inner(clock, 0.0)
    inner(clock, 0.0)
    assert watch.calls == {"inner": 1}


def test_a_stage_that_fails_is_closed(clock: Clock) -> None:
    with Profiler() as watch:
        with pytest.raises(ValueError, match="no"), region("outer"):
            raise ValueError("no")
        inner(clock, 0.0)
    assert watch.calls == {"outer": 1, "inner": 1}


def test_a_decorated_function_may_call_itself(clock: Clock) -> None:
    @region("down")
    def down(depth: int) -> None:
        clock.wait(1.0)
        if depth:
            down(depth - 1)

    with Profiler() as watch:
        down(3)
    assert watch.calls == {"down": 4}
    assert watch.seconds == {"down": 4.0}
