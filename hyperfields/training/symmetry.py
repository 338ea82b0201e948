"""Symmetry: a family whose scenes all look the same in a mirror. A view of a scene then tells two.

Cars, fish and faces have a left side that mirrors the right one; nobody says so beforehand, the fitted scenes do. Along
rays of some cameras, and along these rays mirrored, every fitted scene is compared with itself, and the rays
with another scene: where the first differs far less than the second, the plane is one of symmetry.
Source: Wu, Rupprecht, Vedaldi 2020, "Unsupervised learning of probably symmetric deformable 3D objects", has the
mirrored picture as a second view of one object; there symmetry is assumed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import Kind, Mesh, Pixels, Points, SceneDataset, View, on_device
from hyperfields.model import HyperField
from hyperfields.rendering.base import on_background
from hyperfields.runs.run import Run
from hyperfields.tasks import Task, TrainConfig
from hyperfields.tasks.objective import RayObjective
from hyperfields.training.refinement import pictures_of
from hyperfields.training.trainer import Progress, Trainer

SCENES, RAYS = 8, 256  # fitted scenes that are looked at, and rays of each
CELLS = 40  # along a side of the grid that skips empty space
ALIKE = 0.25  # of the squared difference to another scene: symmetric scenes differ by less from their mirror image
SHARE = 0.5  # of the rays of a step that are mirrored, over the root of the number of pictures of a scene
LOOK = 0.2  # of a fit, from where on its scenes can be recognised
FEW = 8  # pictures of a scene from which on what is not seen in them matters less than what is not symmetric


class Mirrored:
    """Views of which a share of the rays are seen in the mirror at the plane through 0 across an axis."""

    def __init__(self, dataset: SceneDataset, axis: int) -> None:
        self.kind: Kind = dataset.kind
        self.dataset, self.axis = dataset, axis
        self.share = SHARE / math.sqrt(max(pictures_of(dataset), 1))
        self.names = dataset.names

    @property
    def parts(self) -> tuple[SceneDataset, ...]:
        return (self.dataset,)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        batch = self.dataset.batch(scenes, n, generator)
        assert isinstance(batch, Pixels)
        count = round(n * self.share)
        mirrored = mirror(Rays(*(part[:, :count] for part in batch.rays)), self.axis)
        rays = (torch.cat((new, old[:, count:]), 1) for new, old in zip(mirrored, batch.rays, strict=True))
        return batch._replace(rays=Rays(*rays))

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | Sequence[View]:
        return self.dataset.reference(scene, split)

    def to(self, device: torch.device | str) -> Mirrored:
        """The same with its batches on `device`."""
        moved = copy.copy(self)
        moved.dataset = on_device(self.dataset, device)
        return moved


def mirror(rays: Rays, axis: int) -> Rays:
    """Rays `[... 3]` in the mirror at the plane through 0 across an axis."""
    sign = torch.ones(3, device=rays.origins.device)
    sign[axis] = -1.0
    return Rays(rays.origins * sign, rays.directions * sign)


def counts(model: HyperField, train: TrainConfig, data: SceneDataset) -> bool:
    """Whether symmetry would count: a scene is seen in few pictures of known poses, in the scene box."""
    space = getattr(model.config.field, "space", None)
    if space is None or space.contracted or train.photographs.poses:
        return False
    return 0 < pictures_of(data) <= FEW


class Watch:
    """Looks once, early in a fit of views, whether its scenes are symmetric; their few pictures then count twice.

    axis: across which they are, once it is known; None: across none.
    """

    def __init__(self, model: HyperField, task: Task, trainer: Trainer, data: SceneDataset) -> None:
        self.model, self.task, self.trainer, self.data = model, task, trainer, data
        self.axis: int | None = None
        by_rays = isinstance(trainer.objective, RayObjective)
        self.looks = by_rays and len(data.names) > 1 and counts(model, trainer.config, data)

    def follow(self, progress: Progress) -> None:
        """Call it after each step."""
        if self.looks and progress.fraction >= LOOK:
            self._found(plane_of(self.model, self.task, self.data))

    def _found(self, axis: int | None) -> None:
        self.looks, self.axis = False, axis
        objective = self.trainer.objective
        if axis is not None and isinstance(objective, RayObjective):
            objective.data = on_device(Mirrored(self.data, axis), objective.device)
            self.trainer.execute.reset()

    def state(self) -> dict[str, Tensor]:
        """What a resumed fit needs: the axis, -1 for none; nothing before it has looked."""
        return {} if self.looks else {"axis": torch.tensor(-1 if self.axis is None else self.axis)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        if self.looks and "axis" in state:
            self._found({0: 0, 1: 1, 2: 2}.get(int(state["axis"])))


def with_mirrored(run: Run, data: SceneDataset) -> SceneDataset:
    """Data of new scenes, with a share of their rays mirrored where the run's family is symmetric and this counts."""
    if not counts(run.model, run.config.train, data):
        return data
    axis = plane_of(run.model, run.task, data)
    return data if axis is None else Mirrored(data, axis)


@torch.no_grad()
def plane_of(model: HyperField, task: Task, data: SceneDataset, seed: int = 0) -> int | None:
    """The axis across which the scenes of a model are symmetric, along rays of `data`; None where there is none, or one
    scene alone.
    """
    codes = model.latents.codes.detach()
    count = min(len(codes), SCENES)
    if count < 2:
        return None
    device, generator = codes.device, torch.Generator(codes.device).manual_seed(seed)
    chosen = torch.linspace(0, len(codes) - 1, count, device=device).round().long()
    batch = on_device(data, device).batch(torch.arange(count, device=device) % len(data.names), RAYS, generator)
    assert isinstance(batch, Pixels)
    seen: list[Tensor] = []
    for number, scene in enumerate(chosen):
        # Its own rays, these mirrored across each axis, and the rays of the scene before it.
        own, before = (Rays(*(part[n] for part in batch.rays)) for n in (number, number - 1))
        asked = [own, *(mirror(own, axis) for axis in range(3)), before]
        rays = Rays(*(torch.cat(parts)[None] for parts in zip(*asked, strict=True)))
        rendered = task.render_rays(model.bind(codes[scene][None]), rays, cells=CELLS)
        seen.append(on_background(rendered, 1.0).reshape(len(asked), RAYS, 3))
    pictures = torch.stack(seen)
    theirs = pictures[:, 0]
    other = (pictures[:, 4] - theirs.roll(1, 0)).square().mean()
    mirrored = (pictures[:, 1:4] - theirs[:, None]).square().mean((0, 2, 3))
    best = int(mirrored.argmin())
    return best if bool(mirrored[best] < ALIKE * other) else None
