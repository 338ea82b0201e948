"""Scenes by name, and sums of them: `A - B + C`, as they are typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from torch import Tensor

_OPERATOR = re.compile(r"\s([+-])\s")  # with spaces: names have hyphens


def terms(text: str, names: Sequence[str]) -> list[tuple[float, str]]:
    """(1 or -1, name of a scene) of each part of a text like `A - B + C`, as the names are stored.

    A text that is the name of a scene is that scene; how accents were typed does not matter. A name that is unknown
    stays as it came: who looks it up knows what is near.
    """
    known, plain = set(names), {unicodedata.normalize("NFC", name): name for name in names}

    def stored(name: str) -> str:
        return name if name in known else plain.get(unicodedata.normalize("NFC", name), name)

    if (whole := stored(text)) in known:
        return [(1.0, whole)]
    first, *rest = _OPERATOR.split(text)
    more = zip(rest[::2], rest[1::2], strict=True)
    return [
        (1.0, stored(first.strip())),
        *((-1.0 if sign == "-" else 1.0, stored(name.strip())) for sign, name in more),
    ]


def code_sum(parts: Sequence[tuple[float, str]], code: Callable[[str], Tensor]) -> Tensor:
    """The sum of codes `[1 z]` with their signs."""
    total = parts[0][0] * code(parts[0][1])
    for sign, name in parts[1:]:
        total = total + sign * code(name)
    return total
