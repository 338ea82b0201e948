"""Scenes by name, and sums of them: `A - B + C`, as they are typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from torch import Tensor

_OPERATOR = re.compile(r"\s([+-])\s")  # with spaces: names have hyphens


def terms(text: str, names: Sequence[str]) -> list[tuple[float, str]]:
    """(1 or -1, name of a scene) of each part of a text like `A - B + C`, as the names are stored.

    Each part is the longest stretch that is a name, as names may have ` - ` in them; how accents were typed does not
    matter. A name that is unknown stays as it came: who looks it up knows what is near.
    """
    known, plain = set(names), {unicodedata.normalize("NFC", name): name for name in names}

    def stored(name: str) -> str:
        return name if name in known else plain.get(unicodedata.normalize("NFC", name), name)

    if (whole := stored(text)) in known:
        return [(1.0, whole)]
    signs = list(_OPERATOR.finditer(text))
    ends = [*(sign.start() for sign in signs), len(text)]
    most = max((len(_OPERATOR.findall(name)) for name in names), default=0)
    found: list[tuple[float, str]] = []
    factor, start, k = 1.0, 0, 0  # of the next part; k is the first of the places where it may end
    while k < len(ends):
        parts = {i: stored(text[start : ends[i]].strip()) for i in range(min(k + most, len(signs)), k - 1, -1)}
        k = next((i for i, name in parts.items() if name in known), k)
        found.append((factor, parts[k]))
        if k < len(signs):
            factor, start = (-1.0 if signs[k][1] == "-" else 1.0), signs[k].end()
        k += 1
    return found


def code_sum(parts: Sequence[tuple[float, str]], code: Callable[[str], Tensor]) -> Tensor:
    """The sum of codes `[1 z]` with their signs."""
    total = parts[0][0] * code(parts[0][1])
    for sign, name in parts[1:]:
        total = total + sign * code(name)
    return total
