"""Objectives: the loss of a batch of scenes on fresh samples, and the state that changes beside the parameters.

A loop of your own, a step:

    objective.plan(step)                                # only where steps are recorded or the host must not wait
    bound = model(local)
    objective.update(bound, local, step, generator)     # once a step
    loss = objective(bound, scenes, local, generator)   # as often as you like

Random numbers of a step come from the one generator in this order: occupancy update, batch, ray offsets.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.data import Pixels, Points, SceneDataset, expect, on_device, training_cameras
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, ImageField, RadianceField, SDFField
from hyperfields.ops import devices
from hyperfields.ops.devices import Precision, products
from hyperfields.ops.profiling import region
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.occupancy import OccupancyGrid
from hyperfields.rendering.static_shapes import (
    SAMPLES_PER_RAY,
    StaticRendered,
    StaticStepPlan,
    rays_per_scene,
    render_static,
)
from hyperfields.rendering.surface import scene_interval
from hyperfields.rendering.volume import OPAQUE, Fitting, render_volume
from hyperfields.tasks.between import Mixture, MixtureLoss, at_both, color_error, radiance_error
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.losses import ColorLoss, DistanceLoss, PixelLoss
from hyperfields.tasks.photographs import Photographs

Interval = tuple[Tensor, Tensor]  # distances `[s r]` along rays, see `scene_interval`


class Loss(Protocol):
    """A prediction and its batch -> unreduced errors `[s n ...]`; see `PointObjective` and `RayObjective`."""

    def __call__(self, prediction: Any, batch: Any, /) -> Tensor: ...


class Objective(Protocol):
    """The loss that a fit minimises, with the state that goes with it."""

    device: torch.device
    field: Field
    config: TrainConfig

    def plan(self, step: int) -> Hashable:
        """The host's decisions about a step. Steps of equal plans launch identical kernels; None: nothing to decide."""

    def update(self, bound: BoundField, local: Tensor, step: int, generator: torch.Generator) -> None:
        """Bring what is kept beside the parameters up to date: once a step, before its losses. Not differentiable.

        Args:
            bound: the fields of this step's scenes.
            local: `[s]`, their indices among the scenes of this objective.
            step: number of the step, from 0.
        """

    def __call__(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss `[]` of `bound`, the fields of `scenes` `[s]` (indices in the data), on fresh samples.

        local: `[s]`, their indices among the scenes of this objective.
        """

    def expect(self, scenes: Tensor) -> None:
        """Tell the scenes `[s]` (indices in the data) of the next step: data that are read from a store read ahead."""

    def between(
        self, bound: BoundField, mixed: BoundField, share: Tensor, scenes: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss `[]` of fields of mixed codes, which no scene has; see `between.Between`.

        Args:
            bound: the fields of this step's scenes, those of pair i at i and p + i.
            mixed: fields of the codes of `p` pairs.
            share: `[p]` of the second scene of each pair.
            scenes: `[s]`, indices of the step's scenes in the data.
        """

    def sync(self) -> None:
        """Read the counters of the last steps from a GPU: waits for it."""

    def state(self) -> dict[str, Tensor]:
        """Everything that an exact resume needs."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of its own that are fitted with the model, by role; part of `state`."""


class PointObjective:
    """The loss of fields that answer points: images and shapes."""

    def __init__(
        self,
        data: SceneDataset,
        field: Field,
        config: TrainConfig,
        loss: Loss,
        mixture_loss: MixtureLoss = color_error,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """loss: (answer `[s n c]`, `Points`) -> unreduced `[s n ...]`. mixture_loss: of mixed codes."""
        self.field, self.config, self.loss, self.mixture_loss = field, config, loss, mixture_loss
        self.device, self.precision = torch.device(device), precision
        self.data = on_device(data, self.device)

    def plan(self, step: int) -> None:
        return None

    def update(self, bound: BoundField, local: Tensor, step: int, generator: torch.Generator) -> None:
        pass

    def __call__(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        with products(self.precision, self.device):
            count = max(self.config.samples // len(scenes), 1)
            batch = self.data.batch(scenes, count, generator)
            if not isinstance(batch, Points):
                raise TypeError(f"batch of {type(self.data).__name__}: got {type(batch).__name__}, wanted Points")
            error = self._in_one_op(bound, batch)
            return _errors(self.loss, bound(batch.x), batch, batch.x).mean() if error is None else error

    def _in_one_op(self, bound: BoundField, batch: Points) -> Tensor | None:
        """Mean error `[]` of fields and losses that an op knows; None for those of your own, which may inherit."""
        if type(bound.field) not in (ImageField, SDFField) or type(self.loss) not in (ColorLoss, DistanceLoss):
            return None
        width = self.loss.width if isinstance(self.loss, DistanceLoss) else 0.0
        if isinstance(self.loss, DistanceLoss) and not width > 0.0:  # which the op takes for a square
            return None
        error: Tensor | None = bound.field.mean_error(bound.weights, batch.x, batch.target, width)
        return error

    def expect(self, scenes: Tensor) -> None:
        expect(self.data, scenes)

    def between(
        self, bound: BoundField, mixed: BoundField, share: Tensor, scenes: Tensor, generator: torch.Generator
    ) -> Tensor:
        pairs = mixed.scenes
        points = self.config.between.points(self.config.samples, pairs)
        with products(self.precision, self.device):
            batch = self.data.batch(scenes[: 2 * pairs], points // 2, generator)
            assert isinstance(batch, Points)
            x = torch.cat((batch.x[:pairs], batch.x[pairs:]), 1)
            return self.mixture_loss(Mixture(mixed, x, at_both(bound, mixed, x), share[:, None, None]))

    def sync(self) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {}


class RayObjective:
    """The loss of rendered rays, with the occupancy that skips empty space: radiance fields."""

    def __init__(
        self,
        data: SceneDataset,
        field: Any,
        config: TrainConfig,
        scenes: int,
        loss: Loss,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """field: with the members of `RadianceField`, `step` and `occupancy` among them.
        loss: (rendered rays with `rgb` (premultiplied), `alpha`, `depth`; `Pixels`) -> unreduced `[s r ...]`.

        scenes: their number; `local` are indices of them.
        """
        self.field, self.config, self.loss = field, config, loss
        self.device, self.precision = torch.device(device), precision
        self.data = on_device(data, self.device)
        self.per_ray = SAMPLES_PER_RAY  # samples that a ray has had lately, to keep the points of a step even
        self.occupancy = OccupancyGrid(scenes, field.occupancy, step=field.step, device=self.device)
        self.photographs = _photographs(data, config, self.device)
        self.static: StaticStepPlan | None = None  # on devices that the host does not wait for
        if devices.is_async(self.device):
            self.static = StaticStepPlan(config.samples, min(config.scenes, scenes), self.occupancy)

    def plan(self, step: int) -> Hashable:
        return None if self.static is None else self.static.plan(step)

    def update(self, bound: BoundField, local: Tensor, step: int, generator: torch.Generator) -> None:
        with products(self.precision, self.device):
            if self.static is None:
                self.occupancy.update(bound.cell_density, local, step, generator)
                return
            if self.static.step != step:
                self.static.plan(step)
            if self.static.parts:
                self.occupancy.update_part(bound.cell_density, local, self.static.part, self.static.parts, generator)

    def __call__(self, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        with products(self.precision, self.device):
            if self.static is not None:
                return self._static_loss(self.static, bound, scenes, local, generator)
            rays = rays_per_scene(self.config.samples, self.per_ray, len(scenes))
            with region("batch"):
                batch = self._batch(scenes, rays, generator)
            offset = torch.rand(len(scenes), rays, generator=generator, device=self.device)
            batch, fitting = self._from_photographs(batch)
            cells = self.occupancy.cells(local)
            found = self._in_one_op(bound, batch, cells, offset)
            if found is None:
                rendered = render_volume(
                    bound, batch.rays, cells, step=self.field.step, space=self.field.space, offset=offset,
                    visible=bound.visible_samples, fitting=fitting,
                )  # fmt: skip
                rendered = rendered._replace(rgb=self._as_photographed(rendered, batch))
                found = self._mean_error(rendered, batch), rendered.alpha, rendered.samples
            loss, alpha, samples = found
            self.per_ray = 0.9 * self.per_ray + 0.1 * max(samples / (len(scenes) * rays), 1.0)
            if not self._may_be_dark(alpha, batch, local):
                return loss
            inside = scene_interval(batch.rays, self.field.space)
            dark = self._dark(alpha, batch, inside, local)
            return loss + _revival(bound, batch, inside, dark, self.occupancy.limit) if bool(dark.any()) else loss

    def between(
        self, bound: BoundField, mixed: BoundField, share: Tensor, scenes: Tensor, generator: torch.Generator
    ) -> Tensor:
        """At points anywhere along rays of both scenes."""
        pairs = mixed.scenes
        points = self.config.between.points(self.config.samples, pairs)
        with products(self.precision, self.device):
            rays = self._batch(scenes[: 2 * pairs], points // 2, generator).rays
            near, far = scene_interval(rays, self.field.space)
            place = torch.rand(near.shape, generator=generator, device=self.device)
            along = torch.where(far > near, near + place * (far - near), 0.0)[..., None]
            middles = rays.origins + along * rays.directions
            x, d = (torch.cat((part[:pairs], part[pairs:]), 1) for part in (middles, rays.directions))
            return radiance_error(mixed, share[:, None, None], x, d, at_both(bound, mixed, x, d))

    def _in_one_op(
        self, bound: BoundField, batch: Pixels, cells: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, int] | None:
        """(mean error `[]`, opacity `[s r]`, samples) of fields and losses that an op knows; None for others."""
        plain = batch.behind is None and self.photographs is None and self.config.near_gradients == 0.0
        if not plain or type(bound.field) is not RadianceField or type(self.loss) is not PixelLoss:
            return None
        if self.loss.distortion > 0.0:
            return None
        found: tuple[Tensor, Tensor, int] | None = bound.field.mean_error(
            bound.weights, batch.rays, cells, offset, OPAQUE, batch.rgba, self.loss.background_opacity_l1
        )
        return found

    def _mean_error(self, rendered: Rendered, batch: Pixels) -> Tensor:
        """Mean error `[]`, as one op of a loss that it knows; one of your own may inherit from that."""
        plain = batch.behind is None and rendered.distortion is None and rendered.rgb.dtype == batch.rgba.dtype
        if plain and type(self.loss) is PixelLoss:
            return ops.pixel_error(rendered.rgb, rendered.alpha, batch.rgba, self.loss.background_opacity_l1)
        return _errors(self.loss, rendered, batch, rendered.alpha).mean()

    def _from_photographs(self, batch: Pixels) -> tuple[Pixels, Fitting]:
        """The batch with its rays where the corrected poses have them, and what is asked of the renderer."""
        through = None
        if self.photographs is not None and self.photographs.poses is not None:
            assert batch.images is not None
            through = self.photographs.moved(batch.rays, batch.images)
            batch = batch._replace(rays=Rays(*(part.detach() for part in through)))
        distortion = getattr(self.loss, "distortion", 0.0) > 0.0
        depth = type(self.loss) is not PixelLoss  # one of your own may look at it
        return batch, Fitting(through, self.config.near_gradients, distortion, depth)

    def _as_photographed(self, rendered: Rendered | StaticRendered, batch: Pixels) -> Tensor:
        """Colours of rays as their pictures show them."""
        if self.photographs is None or batch.images is None:
            return rendered.rgb
        return self.photographs.colored(rendered.rgb, rendered.alpha, batch.images)

    @torch.no_grad()
    def _dark(
        self, alpha: Tensor, batch: Pixels, inside: Interval, local: Tensor, fits: Tensor | bool = True
    ) -> Tensor:
        """Rays that see something which is not there, `[s r]` bool, where a scene has many of them.

        Of a scene whose density has fallen everywhere all rays that see something; of others, long before, those that
        show hardly any of it, when they are a good part. Of pictures without clear pixels none of these: what such
        pictures show may lie outside of the box.

        alpha: rendered, `[s r]`. inside: where rays are in the scene. fits: which rays were rendered.
        """
        near, far = inside
        solid = batch.rgba[..., 3] > 0.5
        sees = solid & (far > near) & fits
        unseen = sees & (alpha < self.config.unseen)
        many = (unseen.sum(1) > MANY * sees.sum(1)) & ~solid.all(1)
        empty = self.occupancy.peak[local] < self.occupancy.limit
        return torch.where(empty[:, None], sees, unseen & many[:, None])

    @torch.no_grad()
    def _may_be_dark(self, alpha: Tensor, batch: Pixels, local: Tensor) -> bool:
        """False where `_dark` would find no ray, in a third of its operations: a ray that shows something has met the
        box, so that a larger part is unseen of all rays than of those that met it.
        """
        solid = batch.rgba[..., 3] > 0.5
        many = (solid & (alpha < self.config.unseen)).sum(1) > MANY * solid.sum(1)
        return bool((many | (self.occupancy.peak[local] < self.occupancy.limit)).any())

    def _static_loss(
        self, static: StaticStepPlan, bound: BoundField, scenes: Tensor, local: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same in tensors of planned sizes: mean over the rays that fit into the sample budget."""
        batch = self._batch(scenes, static.rays, generator)
        offset = torch.rand(len(scenes), static.rays, generator=generator, device=self.device)
        batch, fitting = self._from_photographs(batch)
        rendered = render_static(
            bound, bound.density, batch.rays, self.occupancy.cells(local), step=self.field.step, space=self.field.space,
            offset=offset, samples=static.max_samples, fitting=fitting,
        )  # fmt: skip
        rendered = rendered._replace(rgb=self._as_photographed(rendered, batch))
        static.count(rendered.num_visible)
        error = _errors(self.loss, rendered, batch, rendered.fits)
        fits = rendered.fits.reshape(*rendered.fits.shape, *(1,) * (error.dim() - 2))
        values = fits.sum() * error.shape[2:].numel()
        inside = scene_interval(batch.rays, self.field.space)
        dark = self._dark(rendered.alpha, batch, inside, local, rendered.fits)
        revival = _revival(bound, batch, inside, dark, self.occupancy.limit)
        return (error * fits).sum() / values.clamp(min=1) + revival

    def _batch(self, scenes: Tensor, rays: int, generator: torch.Generator) -> Pixels:
        batch = self.data.batch(scenes, rays, generator)
        if not isinstance(batch, Pixels):
            raise TypeError(f"batch of {type(self.data).__name__}: got {type(batch).__name__}, wanted Pixels")
        return batch

    def expect(self, scenes: Tensor) -> None:
        expect(self.data, scenes)

    def sync(self) -> None:
        if self.static is not None:
            self.static.sync()

    def state(self) -> dict[str, Tensor]:
        per_ray = self.per_ray if self.static is None else float(self.static.per_ray)
        occupancy = {f"occupancy.{name}": value for name, value in self.occupancy.state_dict().items()}
        learned = {} if self.photographs is None else self.photographs.state_dict()
        photographs = {f"photographs.{name}": value for name, value in learned.items()}
        return {"per_ray": torch.tensor(per_ray, dtype=torch.float64), **occupancy, **photographs}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.per_ray = float(state["per_ray"])
        prefix = "occupancy."
        self.occupancy.load_state_dict(
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        )
        if self.photographs is not None:
            prefix = "photographs."
            self.photographs.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )
        if self.static is not None:
            self.static.per_ray.fill_(self.per_ray)
            self.sync()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {} if self.photographs is None else self.photographs.groups()


def _photographs(data: SceneDataset, config: TrainConfig, device: torch.device) -> Photographs | None:
    """What is learned of training pictures; None where nothing is.

    Raises:
        InputError: data that do not say which picture a ray is of.
    """
    if not (config.photographs.poses or config.photographs.appearance):
        return None
    counts = [len(cameras) for cameras in training_cameras(data)]
    if not counts:
        raise InputError(
            f"PhotographConfig: {type(data).__name__} does not say which picture a ray is of; wanted hf.Views"
        )
    return Photographs(counts, config.photographs).to(device)


MANY = 0.1  # such a part of the rays that see something is too much to show nothing of it
REVIVAL = 1e-2  # weight of the term that lifts the density of empty scenes


def _revival(bound: BoundField, batch: Pixels, inside: Interval, dark: Tensor, limit: float) -> Tensor:
    """A term `[]` that lifts the density along `dark` `[s r]` rays, `inside` the scene, up to twice `limit`.

    A small object, or a part of one, lets the density fall before it is found. The gradient of the density's
    exponential falls with it, and it would never come back. Of what the term lifts, other rays clear all but the
    object. The sooner it comes, the better: rates are still high, and the place is not known as empty yet.
    """
    near, far = inside
    # No random numbers: those of the other scenes stay what they are.
    place = torch.arange(near.shape[1], device=near.device) * 0.618034 % 1.0
    along = near + place * (far - near)
    x = torch.where(dark[..., None], batch.rays.origins + along[..., None] * batch.rays.directions, 0.0)
    density = bound.density(x).squeeze(-1).float()
    lack = (math.log(2.0 * limit) - density.clamp(min=1e-30).log()).clamp(min=0.0)
    return REVIVAL * ((lack * dark).sum(1) / dark.sum(1).clamp(min=1)).mean()


def _errors(loss: Loss, prediction: Any, batch: Points | Pixels, samples: Tensor) -> Tensor:
    """Values of a loss.

    Raises:
        InputError: it cannot be called as losses are, or gives other than one value, or several, for each of `samples`
            `[s n ...]`, or such without a gradient.
    """
    try:
        error = loss(prediction, batch)
    except (TypeError, AttributeError) as failure:
        members = "batch.target" if isinstance(batch, Points) else "batch.rgba and prediction.rgb"
        reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:150]
        raise InputError(f"loss: it is called as loss(prediction, batch): {reason}; use {members}") from failure
    if not isinstance(error, Tensor) or error.shape[:2] != samples.shape[:2]:
        came = f"shape {list(error.shape)}" if isinstance(error, Tensor) else type(error).__name__
        unreduced = f"[{samples.shape[0]}, {samples.shape[1]}, ...]"
        raise InputError(f"loss: got {came}, wanted unreduced values {unreduced}; leave the mean to the objective")
    if torch.is_grad_enabled() and not error.requires_grad and _has_gradient(prediction):
        raise InputError("loss: its values have no gradient, so nothing would be fitted; leave detach, item, numpy out")
    return error


def _has_gradient(prediction: Any) -> bool:
    parts = prediction if isinstance(prediction, tuple) else (prediction,)
    return any(isinstance(part, Tensor) and part.requires_grad for part in parts)
