"""Stages of the work: own time without what is within, and nothing at all while nobody watches."""

from __future__ import annotations

import time

import pytest

from hyperfields.ops.profiling import Profiler, region


@region("inner")
def inner(seconds: float) -> None:
    time.sleep(seconds)


def test_a_stage_does_not_count_what_is_within_it() -> None:
    with Profiler() as watch, region("outer"):
        time.sleep(0.02)
        inner(0.05)
        inner(0.05)
    assert watch.calls == {"inner": 2, "outer": 1}
    assert watch.seconds["inner"] >= 0.1
    assert 0.02 <= watch.seconds["outer"] < 0.1  # with what is within it, it would be 0.12 at least


def test_nothing_is_kept_after_the_watch_has_stopped() -> None:
    with Profiler() as watch:
        inner(0.0)
    inner(0.0)
    assert watch.calls == {"inner": 1}


def test_a_stage_that_fails_is_closed() -> None:
    with Profiler() as watch:
        with pytest.raises(ValueError, match="no"), region("outer"):
            raise ValueError("no")
        inner(0.0)
    assert watch.calls == {"outer": 1, "inner": 1}


def test_a_decorated_function_may_call_itself() -> None:
    @region("down")
    def down(depth: int) -> None:
        if depth:
            down(depth - 1)

    with Profiler() as watch:
        down(3)
    assert watch.calls == {"down": 4}
    assert watch.seconds["down"] >= 0.0
