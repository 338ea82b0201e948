"""Marked points of one scene, found on another: text files in the coordinates of the scenes' own files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix, write_atomically
from hyperfields.runs.morphs import Morph
from hyperfields.runs.scene import Scene

SUFFIXES = (".txt", ".csv")


def read_marks(path: Path, dims: int) -> Tensor:
    """Points `[n d]` of a text file: one a line, with spaces or commas between the numbers; # begins a comment.

    Raises:
        InputError: a file that cannot be read, lines of other things, no points.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({type(error).__name__})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            row = torch.tensor([float(word) for word in words], dtype=torch.float64)
        except ValueError:
            row = torch.zeros(0)
        if len(row) != dims or not bool(row.isfinite().all()):
            raise InputError(f"{path}: line {number}: {line!r:.60} came, wanted {dims} numbers")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no points; wanted {dims} numbers a line")
    return torch.stack(rows)


def carry_marks(first: Scene, second: Scene, points: Path, out: Path) -> int:
    """The number of points in the file `out`: where in the second scene those of the file `points` of the first are.

    Raises:
        InputError: files that cannot be read or written; points outside of the scene; see `Morph`.
    """
    require_suffix(out, SUFFIXES, "points")
    marks = read_marks(points, first.field.field.dims)
    low, high = first.run.task.box
    place = _framed(marks, first, into=True)
    outside = ((place < low - 1e-3) | (place > high + 1e-3)).any(-1)
    if bool(outside.any()) and not getattr(getattr(first.field.field, "space", None), "contracted", False):
        row = marks[outside][0].tolist()
        raise InputError(f"{points}: {' '.join(f'{value:g}' for value in row)} lies outside of {first.name!r:.60}")
    moved = Morph(first, second).carried(place.float().to(first.field.device)).double().cpu()
    found = _framed(moved, second, into=False)
    between = "," if out.suffix.lower() == ".csv" else " "
    lines = [between.join(f"{value:.6g}" for value in row) for row in found.tolist()]
    write_atomically(out, ("\n".join(lines) + "\n").encode())
    return len(lines)


def _framed(x: Tensor, scene: Scene, *, into: bool) -> Tensor:
    """Points `[n d]` of a scene's file in its box, or back."""
    if scene.frame is None or x.shape[1] != 3:
        return x
    scale, center = scene.frame[0], x.new_tensor(scene.frame[1:])
    return (x - center) / scale if into else x * scale + center
