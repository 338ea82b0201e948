"""Settings as they are written on a command line: `rank=8:mode=add`, or after a name, `low-rank:rank=8:mode=add`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hyperfields.errors import InputError

Setting = bool | int | float | str
FORMS: dict[type, str] = {bool: "yes|no", int: "N", float: "X", str: "WORD"}


def parse_choice(what: str, text: str, known: Mapping[str, Mapping[str, Setting]]) -> tuple[str, dict[str, Setting]]:
    """(name, the settings that were given after it).

    Args:
        what: is chosen, for the message.
        known: names, with their settings and a value of each, of the type that is wanted.

    Raises:
        InputError: an unknown name or setting, or a value of another type; the text lists those there are.
    """
    name, _, settings = text.strip().partition(":")
    if name not in known:
        raise InputError(f"{what} {name!r}: unknown, wanted one of {', '.join(known)}")
    return name, parse_settings(f"{what} {name}", settings, known[name])


def parse_settings(what: str, text: str, known: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings that were given: `rank=8:mode=add`.

    Raises:
        InputError: see `parse_choice`.
    """
    found: dict[str, Setting] = {}
    for setting in text.split(":") if text else ():
        key, _, written = setting.partition("=")
        value = _value(written, known[key]) if key in known else None
        if value is None:
            wanted = ", ".join(f"{k}={FORMS[type(default)]}" for k, default in known.items()) or "none"
            raise InputError(f"{what}: no setting {setting!r}, wanted {wanted}")
        found[key] = value
    return found


def _value(text: str, like: Setting) -> Setting | None:
    """Of the type of `like`; numbers are finite and not below 0."""
    if isinstance(like, bool):
        return {"yes": True, "no": False}.get(text)
    if isinstance(like, int):
        return int(text) if text.isdecimal() else None
    if isinstance(like, str):
        return text or None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None
