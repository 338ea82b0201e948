"""Scenes of several runs in one picture or film."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hyperfields.cameras import Camera
from hyperfields.errors import InputError
from hyperfields.rendering.composition import Composition, Placement, turned
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene

KEYS = ("run", "scene", "codes", "position", "turn", "rotation", "scale")


class ComposedScene(Scene):
    """Radiance scenes with their placements: `render` shows all of them, and films circle them.

    Cameras are in the frame of the placements; those that are not given circle its origin at a distance from which all
    is seen.

    Raises:
        InputError: scenes of another kind, several without end; see `compose`.
    """

    def __init__(self, parts: Sequence[tuple[Scene, Placement]]) -> None:
        for scene, _ in parts:
            if not hasattr(scene.field.field, "space"):
                raise InputError(f"compose: scene {scene.name!r} is one of {scene.run.kind}; wanted radiance (views)")
        field: Any = Composition([(scene.field, placement) for scene, placement in parts])
        first = parts[0][0]
        reach = max(math.dist(placement.position, (0.0, 0.0, 0.0)) + placement.scale for _, placement in parts)
        picture = dict(first.run.config.picture)
        picture["radius"] = picture.get("radius", 3.6) * max(reach, 1e-3)
        run = Run(dataclasses.replace(first.run.config, picture=picture), first.run.model)
        names = " and ".join(scene.name for scene, _ in parts[:3])
        super().__init__(run, f"{names}{' ...' if len(parts) > 3 else ''}", first.code, fitted=False, field=field)

    def __call__(self, *_: Any) -> NoReturn:
        raise InputError("compose: several scenes are no function of points; ask each of them")

    def mesh(self, resolution: int = 192, *, cameras: Sequence[Camera] = ()) -> NoReturn:
        raise InputError("compose: several scenes have no surface of their own; mesh each of them")

    def save(self, path: str | os.PathLike[str], **_: Any) -> NoReturn:
        raise InputError("compose: several scenes are no field of their own; save each of them, or render")


def compose(parts: Sequence[Scene | tuple[Scene, Placement]]) -> ComposedScene:
    """Radiance scenes of one or several runs as one that can be rendered.

        street = hf.compose([run["bus"], (other["taxi"], hf.Placement(position=(1.5, 0.0, 0.0), scale=0.8))])
        street.render(size=512)

    A scene without a placement stands where its box is. One at most may fill all of space: the background.

    Raises:
        InputError: no scenes, of other kinds, or several without end.
    """
    pairs = [(part, Placement()) if isinstance(part, Scene) else part for part in parts]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Scene)):
            raise InputError(f"compose: {type(pair).__name__} came, wanted a scene or (scene, Placement)")
        if not isinstance(pair[1], Placement):
            raise InputError(f"compose: {type(pair[1]).__name__} came for a placement, wanted hf.Placement(...)")
    if not pairs:
        raise InputError("compose: no scene came, wanted at least one")
    return ComposedScene(pairs)


def read_composition(path: Path, scene_of: Callable[[Path, str | None, Path | None], Scene]) -> ComposedScene:
    """The scenes of a JSON file: {"scenes": [{"run", "scene", "codes", "position", "turn" or "rotation", "scale"}]}.

    Paths are relative to the file. `turn` is in degrees about +Z, `rotation` has 3 rows.

    Args:
        scene_of: (run, name or None, file of codes or None) -> the scene.

    Raises:
        InputError: what cannot be read, unknown keys, or placements that are none.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: is no file; wanted JSON with scenes")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({type(error).__name__})") from None
    entries = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or set(content) != {"scenes"}:
        raise InputError(f'{path}: wanted {{"scenes": [{{"run": ..., "scene": ...}}, ...]}} and no other key')
    parts = []
    for number, entry in enumerate(entries):
        where = f"{path}: scene {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("run"), str):
            raise InputError(f'{where}: wanted {{"run": FOLDER, "scene": NAME, ...}}')
        if unknown := sorted(set(entry) - set(KEYS)):
            raise InputError(f"{where}: key {unknown[0]!r:.60} is unknown, wanted some of {', '.join(KEYS)}")
        if "turn" in entry and "rotation" in entry:
            raise InputError(f"{where}: turn and rotation: give one of the two")
        names = {key: entry.get(key) for key in ("scene", "codes")}
        if any(not isinstance(value, str | None) for value in names.values()):
            raise InputError(f"{where}: scene and codes: wanted text")
        try:
            rotation = turned(entry.get("turn", 0.0)) if "rotation" not in entry else entry["rotation"]
            placement = Placement(
                tuple(entry.get("position", (0.0, 0.0, 0.0))), tuple(map(tuple, rotation)), entry.get("scale", 1.0)
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{where}: wanted numbers: position x y z, turn in degrees, scale above 0") from None
        codes = None if names["codes"] is None else path.parent / names["codes"]
        try:
            parts.append((scene_of(path.parent / entry["run"], names["scene"], codes), placement))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (OSError, ValueError) as error:  # a name that no file can have
            raise InputError(f"{where}: run {entry['run']!r:.60} cannot be read ({error})") from None
    try:
        return compose(parts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
