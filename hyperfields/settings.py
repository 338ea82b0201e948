"""Choices with settings, as they are written on a command line: `name`, or `name:setting=value:setting=value`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hyperfields.errors import InputError

Number = int | float


def parse_choice(what: str, text: str, known: Mapping[str, Mapping[str, Number]]) -> tuple[str, dict[str, Number]]:
    """(name, the settings that were given).

    Args:
        what: is chosen, for the message.
        known: names, with their settings and a value of each, of the type that is wanted.

    Raises:
        InputError: an unknown name or setting, or a value of another type; the text lists those there are.
    """
    name, *settings = text.strip().split(":")
    if name not in known:
        raise InputError(f"{what} {name!r}: unknown, wanted one of {', '.join(known)}")
    found: dict[str, Number] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        number = _number(value, known[name][key]) if key in known[name] else None
        if number is None:
            there = (f"{k}={'N' if isinstance(default, int) else 'X'}" for k, default in known[name].items())
            wanted = ", ".join(there) or "none"
            raise InputError(f"{what} {text!r}: setting {setting!r} is unknown, {name} has {wanted}")
        found[key] = number
    return name, found


def _number(text: str, like: Number) -> Number | None:
    """A whole number where `like` is one, else any finite one; not below 0."""
    if isinstance(like, int):
        return int(text) if text.isdecimal() else None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None
