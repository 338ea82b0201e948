"""Morphs that move between scenes, and walks through several: what a film of a walk shows at each place of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hyperfields.codes.paths import MODES, path_at
from hyperfields.data import Mesh
from hyperfields.data.base import IDENTITY
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import shares_networks
from hyperfields.ops import Box, devices
from hyperfields.runs.images import IMAGE_SUFFIXES
from hyperfields.runs.meshes import MESH_SUFFIXES
from hyperfields.runs.scene import Scene, framed

MorphKind = Literal["moved", "codes"]
# Morphs of a walk, about 8 MB each, which takes its way twice: to look how much changes where, and for its frames.
KEPT = 64


class MovedScene(Scene):
    """A scene on the way from one to another: a picture, and of shapes and radiance a mesh; no field with weights."""

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """As `Scene.save`, but for the field.

        Raises:
            InputError: a suffix that is of neither a picture nor a mesh; a file that cannot be written.
        """
        if not options.get("formats") and Path(path).suffix.lower() not in (*IMAGE_SUFFIXES, *MESH_SUFFIXES):
            raise InputError(
                f"{path}: a scene of a morph is read off two fields and has none of its own; save a picture or a mesh"
            )
        return super().save(path, **options)


class Morph:
    """The way from one scene to another, of one run or of two with scenes of one kind; inferred ones, too.

        morph = hf.Morph(run["k_taxi"], run["q_public_Bus"])
        morph.at(0.5).render().shape
        morph.carried(points)  # where on the bus the points of the taxi are

    What both have is carried from one to the other, see `tasks.morphs`; it is looked for once, here.

    Raises:
        InputError: scenes of two kinds, one in its box and one in all of space; or several scenes in one.
    """

    def __init__(self, first: Scene, second: Scene) -> None:
        for scene in (first, second):
            if not isinstance(scene, Scene):
                raise InputError(f"morph: {type(scene).__name__} came, wanted two scenes, such as run[0] and run[1]")
            if not isinstance(scene.field, BoundField):
                raise InputError(f"morph: {scene.name!r} is several scenes in one; give one")
        if first.run.kind != second.run.kind:
            raise InputError(f"morph: from {first.run.kind} to {second.run.kind}; wanted two scenes of one kind")
        devices.require_float32()
        spaces = [getattr(scene.field.field, "space", None) for scene in (first, second)]
        if type(spaces[0]) is not type(spaces[1]):
            boxed, other = (first, second) if isinstance(spaces[0], Box) else (second, first)
            raise InputError(
                f"morph: {boxed.name!r} fills the scene box, {other.name!r} all of space; fit both with one --space"
            )
        self.first, self.second = first, second
        find = getattr(first.run.task, "morph", None)
        if find is None:
            raise InputError(f"morph: nothing moves between {first.run.kind}; walk by their codes: --morph codes")
        self._way = find(first.field, second.field)

    def __repr__(self) -> str:
        return f"Morph({self.first.name!r} to {self.second.name!r}, {self.first.run.kind})"

    def at(self, t: float) -> Scene:
        """The scene at `t` of the way: 0 is the first, 1 the second.

        Raises:
            InputError: a `t` that is not from 0 to 1.
        """
        if not isinstance(t, int | float | np.floating) or not 0.0 <= t <= 1.0:
            raise InputError(f"t {t!r:.60}: wanted a number from 0, the first scene, to 1, the second")
        t = float(t)
        if t in (0.0, 1.0):
            return self.second if t else self.first
        name = f"{self.first.name}-{self.second.name}-{t:g}"
        field, frame = self._way.at(t), frame_between(self.first, self.second, t)
        return MovedScene(self.first.run, name, self.first.code, fitted=False, field=field, frame=frame)

    def painted(self) -> Scene:
        """The second scene with the colours of the first; of images, the first one laid out as the second is.

        Raises:
            InputError: scenes without colours (shapes).
        """
        name = f"{self.second.name} as {self.first.name}"
        field, frame = self._way.painted(), self.second.frame
        return MovedScene(self.second.run, name, self.second.code, fitted=False, field=field, frame=frame)

    def carried(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Where in the second scene the points `[... d]` of the first are; back: of the second in the first.

        In the coordinates of `Scene.__call__`; what would leave the scene stops at its side. Differentiable in x.

        Raises:
            InputError: what are no points.
        """
        dims = self.first.field.field.dims
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[-1:] != (dims,):
            came = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"x: {came} came, wanted a tensor of points [... {dims}], floating point")
        dtype = next(iter(self.first.field.weights.values())).dtype
        carried: Tensor = self._way.carried(x.to(dtype), -1.0 if back else 1.0)
        return carried.to(x.dtype)


def frame_between(first: Scene, second: Scene, t: float) -> tuple[float, ...] | None:
    """The frame of files, in which meshes are saved; without one, a mesh is where the field has it."""
    if not (first.frame or second.frame):
        return None
    ends = zip(first.frame or IDENTITY, second.frame or IDENTITY, strict=True)
    return tuple(a + t * (b - a) for a, b in ends)


def _require_coded(scene: Scene) -> None:
    """InputError when a scene is more than its code says."""
    field = scene.run.model.bind(scene.code)
    same = field.weights.keys() == scene.field.weights.keys() and field.field == scene.field.field
    if not same or any(not torch.equal(value, scene.field.weights[name]) for name, value in field.weights.items()):
        raise InputError(
            f"scene {scene.name!r:.100}: has weights of its own, which codes do not say; walk with --morph moved"
        )


class Walk:
    """A way through two scenes or more; by codes, of one run.

    at: the field at a place from 0, the first scene, to `stretches`, the last one.
    """

    def __init__(self, scenes: Sequence[Scene], kind: MorphKind = "moved", mode: str | None = None) -> None:
        """
        Args:
            kind: "moved", see `Morph`; "codes", the fields of codes on a path through those of the scenes.
            mode: of that path, see `codes.interpolate`; default "lerp".

        Raises:
            InputError: no scenes, or fewer than two; an unknown kind or mode; a mode of what is moved; by codes, scenes
                of several runs, or with weights of their own.
        """
        if kind not in get_args(MorphKind):
            raise InputError(f"morph {kind!r:.60}: wanted 'moved' or 'codes'")
        if mode is not None and kind == "moved":
            raise InputError(f"mode {mode!r:.60}: is of a path of codes; leave it out, or ask for the morph 'codes'")
        if mode is not None and mode not in MODES:
            raise InputError(f"interpolate mode {mode!r:.60}: wanted 'lerp', 'slerp' or 'smooth'")
        scenes = () if isinstance(scenes, Scene) else tuple(scenes)
        if not scenes or not all(isinstance(scene, Scene) for scene in scenes):
            raise InputError("interpolate: wanted a list of scenes, such as [run[0], run[1]]")
        if len(scenes) < 2:
            names = " ".join(scenes[0].run.names[:2])
            raise InputError(f"interpolate: 1 scene came; a walk is between two or more, e.g. {names}")
        self.scenes, self.kind, self.mode = scenes, kind, mode or "lerp"
        self.run, self.stretches = scenes[0].run, len(scenes) - 1
        self.codes: Tensor | None = None
        if kind == "codes":
            if not shares_networks(self.run.model.config.generator):
                raise InputError(
                    f"interpolate: the scenes of {self.run.label} were fitted each alone, so that their codes have "
                    "nothing in common; walk with --morph moved"
                )
            for scene in scenes:
                if scene.run is not self.run:
                    raise InputError(
                        f"scene {scene.name!r:.100}: is of another run than {scenes[0].name!r:.100}, where its code "
                        "says something else; walk with morph 'moved'"
                    )
                _require_coded(scene)
            self.codes = torch.cat([scene.code for scene in scenes])
        self._morphs: dict[int, Morph] = {}

    def _morph(self, stretch: int) -> Morph:
        if stretch not in self._morphs:
            if len(self._morphs) >= KEPT:  # the newest goes: the first ones are needed first when the walk begins again
                self._morphs.popitem()
            self._morphs[stretch] = Morph(*self.scenes[stretch : stretch + 2])
        return self._morphs[stretch]

    def _stretch(self, place: float) -> tuple[int, float]:
        """Number of the stretch, and the place on it from 0 to 1."""
        stretch = min(int(place), self.stretches - 1)
        return stretch, min(max(place - stretch, 0.0), 1.0)

    def mesh(self, place: float, resolution: int) -> Mesh:
        """The surface there, with what leads to the coordinates of files."""
        stretch, t = self._stretch(place)
        mesh = self.run.task.mesh(self.at(place), resolution)
        return framed(mesh, frame_between(self.scenes[stretch], self.scenes[stretch + 1], t))

    def at(self, place: float) -> BoundField:
        stretch, t = self._stretch(place)
        if t in (0.0, 1.0):
            return self.scenes[stretch + int(t)].field
        if self.codes is None:
            return self._morph(stretch).at(t).field
        with torch.no_grad():
            code = path_at(self.codes, torch.tensor([place], device=self.codes.device), self.mode)
            return self.run.model.bind(code).detach()
