"""Small charts as SVG text, for pages; their colours are those of the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 560, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 26, 24
BINS = 24


def _svg(title: str, parts: Sequence[str]) -> str:
    head = f'<text x="{LEFT}" y="14">{html.escape(title)}</text>'
    floor = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{head}{floor}{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def bars(values: Sequence[float], title: str, form: str = "{:.2f}") -> str:
    """How many of the finite `values` lie in each of some intervals."""
    low, high = min(values), max(values)
    bins = min(BINS, max(len(values), 4))
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    each, parts = (WIDTH - LEFT - RIGHT) / bins, []
    for number, count in enumerate(counts):
        tall = (HEIGHT - TOP - BOTTOM) * count / max(counts)
        x, y = LEFT + number * each + 1, HEIGHT - BOTTOM - tall
        parts.append(f'<rect class="mark" x="{x:.1f}" y="{y:.1f}" width="{each - 2:.1f}" height="{tall:.1f}"/>')
    for place in range(5):
        value = low + place / 4 * (high - low)
        anchor = ("start", "middle", "middle", "middle", "end")[place]
        parts.append(_text(LEFT + place / 4 * (WIDTH - LEFT - RIGHT), HEIGHT - 7, form.format(value), anchor))
    parts += [_text(LEFT - 6, TOP + 8, f"{max(counts)}", "end"), _text(LEFT - 6, HEIGHT - BOTTOM, "0", "end")]
    return _svg(title, parts)


def curve(points: Sequence[tuple[float, float]], title: str) -> str:
    """Finite values against seconds above 0, which are drawn by their logarithms."""
    seconds, values = [p[0] for p in points], [p[1] for p in points]
    start, end = math.log(min(seconds)), math.log(max(seconds))
    low, high = min(values), max(values)

    def place(second: float, value: float) -> tuple[float, float]:
        across = (math.log(second) - start) / ((end - start) or 1.0)
        up = (value - low) / ((high - low) or 1.0)
        return LEFT + 8 + across * (WIDTH - LEFT - RIGHT - 24), HEIGHT - BOTTOM - 8 - up * (HEIGHT - TOP - BOTTOM - 24)

    drawn = [place(*point) for point in points]
    parts = [f'<polyline class="path" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)}"/>']
    free = -math.inf  # where the last label under the axis ends
    for (x, y), (second, value) in zip(drawn, points, strict=True):
        parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        if x - free > 34:
            parts.append(_text(x, y - 9, f"{value:.1f}"))
            parts.append(_text(x, HEIGHT - 7, f"{second:.3g} s"))
            free = x
    return _svg(title, parts)
