"""Stops that wait for the end of a step: what is saved is then exact."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from hyperfields.training.progress import say


class Terminated(SystemExit):
    """SIGTERM, after the state is saved. A program that does not catch it ends with exit code 143, as by the signal."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextlib.contextmanager
def between_steps(*, patient: bool = False) -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C and SIGTERM back until the yielded function is called, between two steps, which then raises
    KeyboardInterrupt or `Terminated`.

    A second signal ends at once and saves nothing; the last state on disk stays good. A handler of SIGTERM that the
    program has already stays in place.

    patient: a second signal changes nothing, since torchrun passes each on to its ranks, who have had it already.
    """
    asked: int | None = None
    compiling = True  # until the first step is taken

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked is not None:
            if patient:
                return
            raise SystemExit(128 + number)
        asked = number
        if compiling:
            with contextlib.suppress(OSError, RuntimeError):  # the signal may have come in the middle of a line
                say("stopping after the kernels are compiled")

    def stop_if_asked() -> None:
        nonlocal compiling
        compiling = False
        if asked is not None:
            raise Terminated if asked == signal.SIGTERM else KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield stop_if_asked
        return
    before = {signal.SIGINT: signal.signal(signal.SIGINT, on_signal)}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop_if_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
