"""What a page may ask for: JSON read into checked values. Whatever cannot be read is an `InputError`."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at
from hyperfields.codes.table import interpolate
from hyperfields.errors import InputError
from hyperfields.rendering.pictures import CHANNELS, Channel
from hyperfields.viewer.camera_path import Keyframe, camera, from_opengl
from hyperfields.viewer.frame import Window
from hyperfields.viewer.latent_map import LIMIT
from hyperfields.viewer.shared import SharedState

MOST_BYTES = 2**20  # of a message: a long camera path fits
MOST_SIDE = 1024  # pixels of a live picture
MOST_WALK = 32  # scenes on a walk
AXES = 8  # sliders
MODES = ("lerp", "slerp")
Mode = Literal["lerp", "slerp"]


@dataclasses.dataclass(frozen=True)
class ViewRequest:
    """One look at one latent."""

    number: int  # of the page, comes back with the pictures
    latent: Tensor  # [k] coordinates on the map
    view: Camera | Window
    size: tuple[int, int]  # of the finished picture
    channel: Channel
    background: float
    moving: bool  # something is being dragged: answer soon rather than well
    truth: bool  # the truth as well
    photograph: int | None  # number of a test view: look from its camera
    mesh: bool  # show the mesh when all is still


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
    channel = message.get("channel", "rgb")
    allowed = CHANNELS[:1] if shared.run.kind == "images" else CHANNELS
    if channel not in allowed:
        raise InputError(f"channel: got {_short(channel)}, wanted one of {', '.join(allowed)}")
    photograph = message.get("photograph")
    size = pair(message.get("size"), "size", 8, MOST_SIDE)
    return ViewRequest(
        number=int(number(message.get("id", 0), "id", 0, 2**53)),
        latent=latent(message.get("latent"), shared),
        view=view(message.get("view"), shared, size),
        size=size,
        channel=channel,
        background=number(message.get("background", 1.0), "background", 0.0, 1.0),
        moving=message.get("moving") is True,
        truth=message.get("truth") is True,
        photograph=None if photograph is None else int(number(photograph, "photograph", 0, 10_000)),
        mesh=message.get("mesh") is True,
    )


def latent(value: Any, shared: SharedState) -> Tensor:
    """Coordinates `[k]` of a latent: one of {scene}, {at: [x, y]}, {key, coordinates}, {walk, time, mode}, {seed}.

    Raises:
        InputError: as above.
    """
    if not isinstance(value, dict):
        raise InputError(f"latent: got {_short(value)}, wanted an object")
    if "scene" in value:
        return shared.map.coordinates[shared.run.index(_text(value["scene"], "scene"))]
    if "at" in value:
        x, y = numbers(value["at"], "at", 2, 100.0)
        return shared.map.at(x, y)
    if "walk" in value:
        codes = walk(value["walk"], shared)
        place = number(value.get("time", 0.0), "time", 0.0, 1.0) * (len(codes) - 1)
        first = min(int(place), len(codes) - 2)
        if place == first:
            return codes[first]
        if place == first + 1:
            return codes[first + 1]
        # In code space, as `hyperfields interpolate` walks; then back to coordinates.
        ends = torch.cat([shared.code(code) for code in codes[first : first + 2]])
        steps = 256
        path = interpolate(ends, steps + 1, mode(value))
        t = (place - first) * steps
        low = min(int(t), steps - 1)
        found = torch.lerp(path[low], path[low + 1], t - low)
        return ((found - shared.map.mean) @ shared.map.axes.T) / shared.map.std
    if "seed" in value:
        return shared.map.draw(int(number(value["seed"], "seed", 0, 2**31)))
    if "key" in value:
        found = shared.map.from_text(_text(value["key"], "key"))
        if "coordinates" in value:
            count = min(AXES, len(found))
            given = numbers(value["coordinates"], "coordinates", count, LIMIT)
            found[:count] = torch.tensor(given)
        return found
    raise InputError("latent: wanted one of scene, at, key, walk, seed")


def walk(value: Any, shared: SharedState) -> list[Tensor]:
    """Coordinates of the stops of a walk; names of scenes, or objects as for `latent`.

    Raises:
        InputError: fewer than two, too many, or an unknown one.
    """
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_WALK:
        count = len(value) if isinstance(value, list) else _short(value)
        raise InputError(f"walk: got {count} stops, wanted 2 to {MOST_WALK}")
    found = []
    for stop in value:
        if isinstance(stop, dict) and "walk" in stop:
            raise InputError("walk: a stop cannot be a walk")
        found.append(latent(stop if isinstance(stop, dict) else {"scene": stop}, shared))
    return found


def mode(value: dict[str, Any]) -> Mode:
    """
    Raises:
        InputError: an unknown one.
    """
    found = value.get("mode", "lerp")
    if found not in get_args(Mode):
        raise InputError(f"mode: got {_short(found)}, wanted lerp or slerp")
    return "slerp" if found == "slerp" else "lerp"


def view(value: Any, shared: SharedState, size: tuple[int, int]) -> Camera | Window:
    """A window for images; else a camera from {position, target, fov} or {matrix, fov}.

    Angles are vertical and in radians; a matrix is an OpenGL camera's, row by row, as in nerfstudio's files.

    Raises:
        InputError: as above, or a camera that looks along its own vertical.
    """
    if not isinstance(value, dict):
        raise InputError(f"view: got {_short(value)}, wanted an object")
    if shared.run.kind == "images":
        left, top, right, bottom = numbers(value.get("window", [0, 0, 1, 1]), "window", 4, 100.0)
        if not (right - left > 1e-4 and bottom - top > 1e-4):
            raise InputError("window: wanted left < right and top < bottom")
        return Window(left, top, right, bottom)
    fov = number(value.get("fov", 0.69), "fov", 0.02, 3.0)
    try:
        if "matrix" in value:
            pose = from_opengl(numbers(value["matrix"], "matrix", 16, 1e4))
        else:
            position, target = (torch.tensor(numbers(value.get(k), k, 3, 1e3)) for k in ("position", "target"))
            pose = look_at(position, target)
    except ValueError as error:
        raise InputError(f"view: {error}") from None
    return camera(Keyframe(pose, fov), size)


def number(value: Any, name: str, low: float, high: float) -> float:
    """
    Raises:
        InputError: no finite number between `low` and `high`.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name}: got {_short(value)}, wanted a number from {low:g} to {high:g}")
    return float(value)


def numbers(value: Any, name: str, count: int, limit: float) -> list[float]:
    """
    Raises:
        InputError: not `count` finite numbers within +-`limit`.
    """
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"{name}: got {_short(value)}, wanted {count} numbers")
    return [number(item, name, -limit, limit) for item in value]


def pair(value: Any, name: str, low: int, high: int) -> tuple[int, int]:
    """(height, width).

    Raises:
        InputError: not two numbers from `low` to `high`.
    """
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{name}: got {_short(value)}, wanted [height, width]")
    height, width = (number(item, name, low, high) for item in value)
    return int(height), int(width)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > 4000:
        raise InputError(f"{name}: got {_short(value)}, wanted a text")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
