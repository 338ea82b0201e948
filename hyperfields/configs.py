"""Configs as text and as JSON.

On a command line: `rank=8:mode=add`, or after a name, `low-rank:rank=8:mode=add`. In files: a dataclass is its fields
and the name of its class, which is looked up among classes that are known; nothing is imported by a name from a file.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

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
    settings: dict[str, Setting] = {}
    for setting in text.split(":") if text else ():
        key, _, written = setting.partition("=")
        value = _value(written, known[key]) if key in known else None
        if value is None:
            wanted = ", ".join(f"{k}={FORMS[type(default)]}" for k, default in known.items()) or "none"
            raise InputError(f"{what}: no setting {setting!r}, wanted {wanted}")
        settings[key] = value
    return settings


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


# JSON ---------------------------------------------------------------------------------------------


def name_of(value: Any) -> str:
    """Name of a class or a function in files: its own for those of hyperfields, `module:qualname` for a user's."""
    if value.__module__.split(".")[0] == "hyperfields":
        return str(value.__name__)
    if "<lambda>" in value.__qualname__ or ("<" in value.__qualname__ and not isinstance(value, type)):
        what = "a lambda" if value.__name__ == "<lambda>" else f"the local function {value.__name__}"
        raise InputError(f"{what} has no name to load it by; define it at the top of a module, or fit without a folder")
    return f"{value.__module__}:{value.__qualname__}"


class Untrusted:
    """A part of a config of a user's class that was not trusted when it was read; using it raises.

    Only fields that a class lists in `deferred` may stay so: a run with a loss of one's own renders without it.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __call__(self, *_: Any) -> Any:
        """Raises:
        InputError: always.
        """
        name = str(self.content.get("class") or self.content.get("function"))
        raise _not_trusted("class" if "class" in self.content else "function", name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self()


def to_json(value: Any) -> Any:
    """A config as what JSON can hold: a dataclass as `{"class": NAME, fields...}`, a function as `{"function": NAME}`.

    Raises:
        InputError: something that is neither a config nor plain data, or has no name.
    """
    if isinstance(value, Untrusted):
        return value.content
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": name_of(type(value)), **fields}
    if isinstance(value, types.FunctionType):
        return {"function": name_of(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"{type(value).__name__}: cannot be saved in a run; wanted a frozen dataclass, a function or plain data"
    )


def parts_of(value: Any) -> set[Any]:
    """Classes and functions that a config is made of, at any depth: what `from_json` has to know to read it back."""
    if isinstance(value, types.FunctionType):
        return {value}
    if isinstance(value, tuple | list):
        found = set[Any]()
        for part in value:  # names of a million scenes, say
            if not isinstance(part, str):
                found |= parts_of(part)
        return found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value)}.union(*(parts_of(getattr(value, f.name)) for f in dataclasses.fields(value)))
    return set()


def known_as(values: Iterable[Any]) -> dict[str, Any]:
    """Classes and functions, or one of them, by their names in files.

    Raises:
        InputError: something else, or one without a name.
    """
    if isinstance(values, type | types.FunctionType):
        values = (values,)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"trust: {values!r:.60} came, wanted a list of classes and functions")
    values = tuple(values)
    for value in values:
        if not hasattr(value, "__qualname__"):
            raise InputError(f"trust: {value!r:.60} came, wanted a class or a function, the object and not its name")
    return {name_of(value): value for value in values}


def from_json(value: Any, known: Mapping[str, Any]) -> Any:
    """The inverse of `to_json`; lists come back as tuples.

    Args:
        known: classes and functions that may be made, by `known_as`.

    Raises:
        InputError: a class that is not known, fields that it does not have, or values of another type.
    """
    if isinstance(value, list):
        return tuple(from_json(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    if "function" in value:
        return _look_up("function", value["function"], known)
    if "class" not in value:
        return {key: from_json(item, known) for key, item in value.items()}
    made = _look_up("class", value["class"], known)
    deferred = getattr(made, "deferred", ())
    content = {
        key: Untrusted(item) if key in deferred and _is_foreign(item, known) else from_json(item, known)
        for key, item in value.items()
        if key != "class"
    }
    name = value["class"]
    if not (isinstance(made, type) and dataclasses.is_dataclass(made)):
        raise InputError(f"class {name!r}: is no config")
    hints = _hints(made)
    for key, item in content.items():
        if key in hints and not _fits(item, hints[key]):
            raise InputError(f"class {name!r}: {key} is {item!r:.60}, wanted {_shown(hints[key])}")
    try:
        config = made(**content)
    except (TypeError, ValueError, OverflowError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"class {name!r}: {error}") from None
    for key, item in content.items():
        if getattr(config, key, item) != item:  # e.g. the layout of a grid that does not follow from its settings
            raise InputError(f"class {name!r}: its {key} does not fit its other settings")
    return config


def _look_up(what: str, name: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(name, str):
        raise InputError(f"{what} {name!r:.60}: wanted a name")
    if name in known:
        return known[name]
    if ":" in name:
        raise _not_trusted(what, name)
    ours = ", ".join(sorted(key for key in known if ":" not in key))
    raise InputError(f"{what} {name!r:.100}: unknown, wanted one of {ours}")


def _not_trusted(what: str, name: str) -> InputError:
    last = name.rpartition(":")[2].rpartition(".")[2]
    return InputError(f"{what} {name!r:.100}: is not part of hyperfields; import it and load with trust=[{last}]")


def _is_foreign(item: Any, known: Mapping[str, Any]) -> bool:
    """True for the JSON of a class or function of a user's that is not among those that are known."""
    name = (item.get("class") or item.get("function")) if isinstance(item, dict) else None
    return isinstance(name, str) and ":" in name and name not in known


@functools.cache
def _hints(made: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made)
    except (NameError, TypeError):  # annotations of a user's class that are not importable
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """True if a value read from JSON is of an annotated type; types that JSON cannot tell are not checked."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(_fits, value, args))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if hint is float:
        if isinstance(value, int):  # JSON does not tell 1 from 1.0
            return not isinstance(value, bool) and abs(value) < 2**53
        return isinstance(value, float) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    return True


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
