"""Quality along a fit: the PSNR of held-out pixels, at moments that lie ever further apart.

Nothing of the fit changes: no random number is drawn, and the time is not the fit's.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.tasks import Task
from hyperfields.training.trainer import Length, Progress

SECONDS = (15, 30, 60, 120, 300, 600, 1200, 1800)  # of fits of so many minutes; then every half hour
SHARES = tuple(2.0**-halvings for halvings in range(6, -1, -1))  # of fits of so many steps
PIXELS = 2**13  # of each scene
SCENES = 4  # of many, evenly spread


@dataclasses.dataclass(frozen=True)
class Point:
    """A moment of a fit; psnr in dB, of the mean squared error of all held-out pixels of a scene, mean over scenes."""

    step: int
    seconds: float
    psnr: float


class Curve:
    """Measures a fit when it is time.

    Args:
        tell: called with each point.

    Raises:
        InputError: no scene has held-out views.
    """

    def __init__(
        self, data: SceneDataset, task: Task, length: Length, tell: Callable[[Point], None] = lambda point: None
    ) -> None:
        count = len(data.names)
        watched = sorted({round(i * (count - 1) / max(SCENES - 1, 1)) for i in range(min(SCENES, count))})
        probes = {scene: task.probe(data, scene, PIXELS) for scene in watched}
        self.probes = {scene: probe for scene, probe in probes.items() if probe is not None}
        if not self.probes:
            raise InputError(f"--curve: these {data.kind} hold no views back from the fit; leave it out")
        self.length, self.tell = length, tell
        self.points: list[Point] = []
        self._moments = _moments(length)
        self._next = next(self._moments)

    def go_on(self, points: list[Point], progress: Progress) -> None:
        """Take over the points of a fit that goes on from `progress`."""
        self.points = points
        self._skip(progress)

    def due(self, progress: Progress) -> bool:
        """True when it is time for the next point."""
        if self._place(progress) < self._next:
            return False
        self._skip(progress)
        return True

    def measure(self, progress: Progress, fields: Callable[[int], BoundField]) -> float:
        """Seconds that a measurement took; none is made twice at a step. `fields` gives that of a scene."""
        if self.points and self.points[-1].step >= progress.step:
            return 0.0
        started = time.monotonic()
        errors = [probe(fields(scene)) for scene, probe in self.probes.items()]
        psnr = statistics.fmean(-10.0 * math.log10(max(error, 1e-12)) for error in errors)
        self.points.append(Point(progress.step, progress.seconds, psnr))
        self.tell(self.points[-1])
        return time.monotonic() - started

    def _place(self, progress: Progress) -> float:
        return progress.seconds if self.length.steps is None else float(progress.step)

    def _skip(self, progress: Progress) -> None:
        while self._next <= self._place(progress):
            self._next = next(self._moments)


def _moments(length: Length) -> Iterator[float]:
    """Seconds, or steps, at which a fit is measured; the end is measured anyway."""
    if length.steps is not None:
        yield from (max(round(share * length.steps), 1) for share in SHARES[:-1])
        while True:
            yield math.inf
    yield from map(float, SECONDS)
    moment = float(SECONDS[-1])
    while True:
        moment += SECONDS[-1]
        yield moment


def points_of(lines: list[Any]) -> list[Point]:
    """The points among the lines of a log; what is none is passed over."""
    points = []
    for line in lines:
        try:
            points.append(Point(int(line["step"]), float(line["seconds"]), float(line["held_out_psnr"])))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return points
