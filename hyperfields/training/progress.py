"""Progress of long work, shown to people: a bar with an estimate of the time that is left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from hyperfields.training.trainer import Progress

PLAIN_SECONDS = 10.0  # between lines of progress that no terminal shows
BAR_SECONDS = 0.2  # between updates of a bar
CELL_SECONDS = 1.0  # between updates of a notebook's cell

OnStep = Callable[[Progress], None]


@contextlib.contextmanager
def shown(progress: bool | OnStep, what: str, first: float = 0.0) -> Iterator[OnStep]:
    """The callable that a fit calls after each step, for the `progress=` argument of the public functions.

    Args:
        progress: True for a bar, False for nothing, or a callable that is taken as it is.
        first: fraction that was done before.
    """
    if callable(progress):
        yield progress
    elif progress:
        with Meter(what, first) as meter:
            meter.show(first, "getting ready; the first fit on a machine compiles kernels")
            yield lambda state: meter.show(state.fraction, step_text(state))
    else:
        yield lambda state: None


def step_text(progress: Progress) -> str:
    """Step and loss for people."""
    return f"step {progress.step:,}, loss {progress.loss:.3g}"


def in_notebook() -> bool:
    """True in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class Meter:
    """Progress of long work: a bar in a terminal or a notebook, elsewhere a line on stderr every ten seconds."""

    def __init__(self, what: str, first: float = 0.0) -> None:
        """`first`: the share that was done before, when something goes on."""
        self.what, self.first = what, first
        self.started = self.shown = time.monotonic()
        self.begun: tuple[float, float] | None = None  # when the first gain came, and how much was done then
        self.bar: Any = None  # made at the first call: what is done at once shows none
        self.cell: Any = None  # output of a notebook

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.refresh()
            self.bar.stop()

    def show(self, share: float, text: str) -> None:
        """`share` of the work is done, in [0, 1]. Cheap enough to call at every step."""
        now = time.monotonic()
        if self.begun is None and share > self.first:  # what came before, compiling kernels, is done once
            self.begun = now, share
        if in_notebook():
            if self.cell is None or share >= 1.0 or now - self.shown > CELL_SECONDS:
                self.shown = now
                self._show_in_notebook(share, text)
            return
        if self.bar is None and sys.stderr.isatty():
            self._start_bar()
        if self.bar is not None:
            if self.shown == self.started or share >= 1.0 or now - self.shown > BAR_SECONDS:
                self.shown = now
                self.bar.update(self.task, completed=share, text=text, refresh=True)
        elif now - self.shown > PLAIN_SECONDS:
            self.shown = now
            say(self._line(share, text))

    def _line(self, share: float, text: str) -> str:
        now, left = time.monotonic(), ""
        elapsed = now - self.started
        if self.begun is not None and share > self.begun[1]:
            seconds = (now - self.begun[0]) * (1.0 - share) / (share - self.begun[1])
            left = f", about {clock(seconds)} left"
        return f"{self.what}: {100.0 * share:3.0f} %, {clock(elapsed)}{left}, {text}"

    def _show_in_notebook(self, share: float, text: str) -> None:
        from IPython.display import display

        bar = "█" * round(24 * share) + "░" * (24 - round(24 * share))
        content = {"text/plain": f"{bar} {self._line(share, text)}"}
        if self.cell is None:
            self.cell = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call, unused-ignore]
        else:
            self.cell.update(content, raw=True)

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[text]}"),
        )  # fmt: skip
        # Not refreshed by a thread of its own: the cores belong to the work.
        self.bar = progress.Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self.task = self.bar.add_task(self.what, total=1.0, completed=self.first, text="")
        self.bar.start()
        self.bar.refresh()

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        elif not in_notebook():
            say(line)

    def count(self, done: int, total: int, name: str) -> None:
        """`done` of `total` things are done, the last one is `name`."""
        self.show(done / total, f"{done} of {total}, {name}")


class Stages:
    """Work in stages that take their time each: a `Meter` for one after another."""

    def __init__(self) -> None:
        self.meter: Meter | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.meter is not None:
            self.meter.__exit__(kind, error, trace)

    def at(self, stage: str) -> Meter:
        """The meter of a stage; that of the stage before it ends."""
        if self.meter is None or self.meter.what != stage:
            self.__exit__(None, None, None)
            self.meter = Meter(stage)
        return self.meter


def say(line: str) -> None:
    """A line for people on stderr, where results do not go."""
    print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds as m:ss, with hours when there are any."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
