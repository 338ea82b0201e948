"""Requests of a page: JSON read into checked values. Whatever cannot be read is an `InputError`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at
from hyperfields.cameras.keyframes import camera
from hyperfields.cameras.poses import from_opengl
from hyperfields.codes.expressions import terms
from hyperfields.codes.latent_map import LIMIT
from hyperfields.codes.paths import path_at
from hyperfields.errors import InputError
from hyperfields.rendering.image import Window
from hyperfields.runs.scene import scene_of_sum
from hyperfields.runs.timing import Timing
from hyperfields.viewer.shared import MOVED, Place, SharedState, Way

MOST_SIDE = 1024  # pixels of a live picture
MOST_WALK = 32  # scenes on a walk
AXES = 8  # sliders


@dataclasses.dataclass(frozen=True)
class ViewRequest:
    """One view of one place."""

    number: int  # of the page, comes back with the pictures
    place: Place
    view: Camera | Window
    size: tuple[int, int]  # of the finished picture
    channel: str
    background: float
    moving: bool  # something is being dragged: answer soon rather than well
    reference: bool  # the reference as well
    photograph: int | None  # number of a test view: look from its camera
    mesh: bool  # send the mesh when all is still


def decode(text: str | bytes) -> dict[str, Any]:
    """A message as a dict.

    Raises:
        InputError: no JSON object.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("message: not JSON") from None
    if not isinstance(message, dict):
        raise InputError("message: not a JSON object")
    return message


def view_request(message: dict[str, Any], shared: SharedState) -> ViewRequest:
    """
    Raises:
        InputError: something is missing, of another type, or out of range.
    """
    channels = shared.task.channels
    given = message.get("channel", channels[0])
    channel = next((name for name in channels if name == given), None)
    if channel is None:
        raise InputError(f"channel: got {short(given)}, wanted one of {', '.join(channels)}")
    photograph = message.get("photograph")
    size = pair(message.get("size"), "size", 8, MOST_SIDE)
    return ViewRequest(
        number=int(number(message.get("id", 0), "id", 0, 2**53)),
        place=place(message.get("latent"), shared),
        view=view(message.get("view"), shared, size),
        size=size,
        channel=channel,
        background=number(message.get("background", 1.0), "background", 0.0, 1.0),
        moving=message.get("moving") is True,
        reference=message.get("reference") is True,
        photograph=None if photograph is None else int(number(photograph, "photograph", 0, 10_000)),
        mesh=message.get("mesh") is True,
    )


def place(value: Any, shared: SharedState) -> Place:
    """A latent, or a place on a walk: one of {scene}, {at: [x, y]}, {key, coordinates}, {walk, time, mode}, {seed}.

    A scene is a name, or a sum of codes, `A - B + C`.

    Raises:
        InputError: as above.
    """
    if not isinstance(value, dict):
        raise InputError(f"latent: got {short(value)}, wanted an object")
    if "walk" in value and not value.keys() & {"scene", "at"}:
        return _on_walk(value, shared)
    return Place(_latent(value, shared))


def _latent(value: dict[str, Any], shared: SharedState) -> Tensor:
    """Coordinates `[k]`."""
    if "scene" in value:
        text = _text(value["scene"], "scene")
        parts = terms(text, shared.names)
        numbers = {name: shared.index(name) for _, name in parts}
        if len(parts) == 1:
            return shared.map.coordinates[numbers[parts[0][1]]]
        total = scene_of_sum(shared.run, text, parts, lambda name: shared.codes[[numbers[name]]])
        return shared.map.coordinates_of(total.code[0]).clamp(-LIMIT, LIMIT)
    if "at" in value:
        x, y = vector(value["at"], "at", 2, 100.0)
        return shared.map.at(x, y)
    if "seed" in value:
        return shared.map.draw(int(number(value["seed"], "seed", 0, 2**31)))
    if "key" in value:
        coordinates = shared.map.from_text(_text(value["key"], "key"))
        if "coordinates" in value:
            count = min(AXES, len(coordinates))
            coordinates[:count] = torch.tensor(vector(value["coordinates"], "coordinates", count, LIMIT))
        return coordinates
    raise InputError("latent: wanted one of scene, at, key, walk, seed")


def _on_walk(value: dict[str, Any], shared: SharedState) -> Place:
    """A place on a walk, as `hyperfields interpolate` walks: in code space, then back; or what moves."""
    stops, chosen = walk(value["walk"], shared), mode(value, shared)
    at = number(value.get("time", 0.0), "time", 0.0, 1.0) * (len(stops) - 1)
    before = int(at)
    if at == before:
        return Place(stops[before])
    codes = torch.cat([shared.code(stop) for stop in stops])
    path = "lerp" if chosen == MOVED else chosen
    latent = shared.map.coordinates_of(path_at(codes, torch.tensor([at], dtype=torch.float64), path)[0])
    if chosen != MOVED:
        return Place(latent)
    first, second = (shared.map.to_text(stop) for stop in stops[before : before + 2])
    return Place(latent, Way(first, second, at - before))


def walk(value: Any, shared: SharedState) -> list[Tensor]:
    """Coordinates of the stops of a walk; names of scenes, or objects as for `latent`.

    Raises:
        InputError: fewer than two, too many, or an unknown one.
    """
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_WALK:
        count = len(value) if isinstance(value, list) else short(value)
        raise InputError(f"walk: got {count} stops, wanted 2 to {MOST_WALK}")
    if any(isinstance(stop, dict) and "walk" in stop for stop in value):
        raise InputError("walk: a stop cannot be a walk")
    return [_latent(stop if isinstance(stop, dict) else {"scene": stop}, shared) for stop in value]


def mode(value: dict[str, Any], shared: SharedState) -> str:
    """
    Raises:
        InputError: an unknown one.
    """
    return _choice(value, "mode", shared.modes)


def timing(value: dict[str, Any]) -> str:
    """
    Raises:
        InputError: an unknown one.
    """
    return _choice(value, "timing", get_args(Timing))


def _choice(value: dict[str, Any], name: str, known: Sequence[str]) -> str:
    """One of those that are known, the first when none is given."""
    given = value.get(name, known[0])
    if given not in known:
        raise InputError(f"{name}: got {short(given)}, wanted {' or '.join(known)}")
    return str(given)


def view(value: Any, shared: SharedState, size: tuple[int, int]) -> Camera | Window:
    """A camera from {position, target, fov} or {matrix, fov}; a window where scenes have no camera.

    Angles are vertical and in radians; a matrix is an OpenGL camera's, row by row, as in nerfstudio's files.

    Raises:
        InputError: as above, or a camera that looks along its own vertical.
    """
    if not isinstance(value, dict):
        raise InputError(f"view: got {short(value)}, wanted an object")
    if not shared.task.has_camera:
        left, top, right, bottom = vector(value.get("window", [0, 0, 1, 1]), "window", 4, 100.0)
        if not (right - left > 1e-4 and bottom - top > 1e-4):
            raise InputError("window: wanted left < right and top < bottom")
        return Window(left, top, right, bottom)
    fov = number(value.get("fov", 0.69), "fov", 0.02, 3.0)
    try:
        if "matrix" in value:
            pose = from_opengl([vector(value["matrix"], "matrix", 16, 1e4)])[0]
        else:
            position, target = (torch.tensor(vector(value.get(k), k, 3, 1e3)) for k in ("position", "target"))
            pose = look_at(position, target)
    except ValueError as error:
        raise InputError(f"view: {error}") from None
    return camera(pose, fov, size)


def number(value: Any, name: str, low: float, high: float) -> float:
    """
    Raises:
        InputError: no finite number between `low` and `high`.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # neither holds for nan; integers may be too large for a float
        raise InputError(f"{name}: got {short(value)}, wanted a number from {low:g} to {high:g}")
    return float(value)


def vector(value: Any, name: str, count: int, limit: float) -> list[float]:
    """
    Raises:
        InputError: not `count` finite numbers within +-`limit`.
    """
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"{name}: got {short(value)}, wanted {count} numbers")
    return [number(item, name, -limit, limit) for item in value]


def pair(value: Any, name: str, low: int, high: int) -> tuple[int, int]:
    """(height, width).

    Raises:
        InputError: not two numbers from `low` to `high`.
    """
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{name}: got {short(value)}, wanted [height, width]")
    height, width = (number(item, name, low, high) for item in value)
    return int(height), int(width)


def short(value: Any) -> str:
    """What came, as text for a message."""
    try:
        text = json.dumps(value, default=str)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > 4000:
        raise InputError(f"{name}: got {short(value)}, wanted a text")
    return value
