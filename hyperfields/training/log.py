"""The log of a fit, a line every few seconds: step, seconds, loss, and held-out quality where it is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperfields.runs.atomic import append, write_atomically
from hyperfields.runs.run import METRICS
from hyperfields.training.curve import Point
from hyperfields.training.trainer import Progress


class Log:
    """`metrics.jsonl` in the folder of a run; without a folder nothing is written."""

    def __init__(self, out: Path | None) -> None:
        self.path = None if out is None else out / METRICS

    def line(self, progress: Progress) -> None:
        """How far the fit is."""
        self._append(progress.step, progress.seconds, progress.loss)

    def point(self, point: Point, loss: float) -> None:
        """A point of the curve."""
        self._append(point.step, point.seconds, loss, held_out_psnr=round(point.psnr, 4))

    def _append(self, step: int, seconds: float, loss: float, **more: float) -> None:
        if self.path is not None:
            line = {"step": step, "seconds": round(seconds, 3), "loss": loss, **more}
            append(self.path, json.dumps(line) + "\n")

    def cut(self, step: int) -> list[dict[str, Any]]:
        """The lines that stay: not those after the state that is gone on with, nor what a kill or a full disk cut."""
        if self.path is None or not self.path.is_file():
            return []
        kept, lines = [], []
        for line in self.path.read_text(errors="replace").splitlines(True):
            try:
                entry = json.loads(line)
                if entry["step"] <= step:
                    kept.append(line)
                    lines.append(entry)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_atomically(self.path, "".join(kept).encode())
        return lines
