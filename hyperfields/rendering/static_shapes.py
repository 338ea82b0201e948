"""Volume rendering in tensors whose sizes are set beforehand: what a fitting step on a GPU does.

`volume.render_volume` makes tensors as long as the samples that it finds, and so has to ask the device how long that
is. Here every size follows from the numbers of rays and samples alone: the host never waits, and a step can be recorded
and replayed. Kernels read from counts on the device how many rows of a tensor are meant, and pass over the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.ops.profiling import region
from hyperfields.rendering.base import PointFn, RadianceFn
from hyperfields.rendering.occupancy import UPDATE_EVERY, OccupancyGrid, parts_due
from hyperfields.rendering.volume import (
    FITTING,
    OPAQUE,
    WAVE,
    Fitting,
    mean_depth,
    near_factor,
    points_on_rays,
    scale_gradient,
    spread_of,
)

SAMPLES_PER_RAY = 64.0  # visible ones, before any ray was marched


class StaticRendered(NamedTuple):
    """Rendered rays. Those beyond the sample budget are zero, with `fits` False."""

    rgb: Tensor  # [s r 3] premultiplied
    alpha: Tensor  # [s r]
    depth: Tensor  # [s r] mean distance along the ray; inf where alpha is 0
    num_visible: Tensor  # [s r] int64, visible samples of each ray
    fits: Tensor  # [s r] bool: the first rays, up to the budget
    distortion: Tensor | None = None  # [s r]


def render_static(
    fn: RadianceFn,
    density: PointFn,
    rays: Rays,
    occupancy: Tensor,
    *,
    step: float,
    space: ops.Space = ops.BOX,
    offset: Tensor,
    samples: int,
    fitting: Fitting = FITTING,
) -> StaticRendered:
    """The colours of `volume.render_volume`, of as many rays as need no more than `samples` samples in all.

    Args:
        density: of `fn` alone; decides the visible samples.
        rays: origins and directions `[s r 3]`.
        occupancy: `[s g g g]` bool.
        step: length of a sample in the scene box, scene units.
        space: see `volume.render_volume`.
        offset: `[s r]` in [0, 1).
        fitting: see `volume.render_volume`.

    Differentiable as `render_volume` is.
    """
    scenes, count = rays.origins.shape[:2]
    origins, directions = (t.reshape(-1, 3) for t in rays)
    edges, first, num_marched = ops.ray_march_padded(*rays, occupancy, step, offset, space=space)
    num_visible = _count_visible(density, origins, directions, edges, first, num_marched, scenes)
    fits = num_visible.cumsum(0) <= samples
    num_used = num_visible * fits
    x, d, spans = ops.gather_samples(origins, directions, edges, first, num_used, total=samples)
    if fitting.through is not None:
        x = points_on_rays(fitting.through, spans, _with_rest(num_used, samples))
    sigma, rgb = fn(x, d, num_used.reshape(scenes, -1).sum(1))
    if fitting.near_gradients:
        factor = near_factor(spans, fitting.near_gradients)
        sigma, rgb = scale_gradient(sigma, factor), scale_gradient(rgb, factor)
    values, alpha, depth = ops.composite(sigma.squeeze(-1), rgb, spans, counts=num_used)
    shape = (scenes, count)
    return StaticRendered(
        values.reshape(*shape, 3),
        alpha.reshape(shape),
        mean_depth(depth, alpha).reshape(shape),
        num_visible.reshape(shape),
        fits.reshape(shape),
        spread_of(sigma, spans, num_used).reshape(shape) if fitting.distortion else None,
    )


def _with_rest(counts: Tensor, total: int) -> Tensor:
    """Counts with the rows behind the last sample added to those of the last ray: they then add up to `total`."""
    last = torch.zeros_like(counts)
    last[-1] = 1
    return counts + last * (total - counts.sum())


@region("what is in sight")
@torch.no_grad()
def _count_visible(
    density: PointFn,
    origins: Tensor,
    directions: Tensor,
    edges: Tensor,
    first: Tensor,
    num_marched: Tensor,
    scenes: int,
) -> Tensor:
    """Samples of each ray before it is opaque, `[r]`, of `num_marched` `[r]`: counted in waves, front to back.

    There are as many waves as the longest ray may need; the last ones are empty.
    """
    rays, opacity, visible = len(num_marched), edges.new_zeros(len(num_marched)), torch.zeros_like(num_marched)
    most, done, wave = len(edges) // max(rays, 1), 0, WAVE
    while done < most:
        length = min(wave, most - done)
        take = torch.where(opacity < OPAQUE, num_marched - done, 0).clamp(0, length)
        x, _, spans = ops.gather_samples(origins, directions, edges, first + done, take, total=rays * length)
        sigma = density(x, take.reshape(scenes, -1).sum(1)).squeeze(-1)
        kept, opacity = ops.early_termination(sigma, spans, take, opacity, OPAQUE)
        visible += kept
        wave, done = 2 * wave, done + length
    return visible


def rays_per_scene(samples: int, per_ray: float, scenes: int) -> int:
    """Rays of each scene, so that a step has about `samples` samples: some at least, and a multiple of 16."""
    return max(int(samples / (per_ray * scenes)) // 16 * 16, 64)


class StaticStepPlan:
    """Sizes of a step on views, decided before it begins.

    They depend on the mean number of visible samples of a ray, which is counted on the device; the host reads it in
    `sync`, now and then.
    """

    def __init__(self, samples: int, scenes: int, grid: OccupancyGrid) -> None:
        """samples: of a step, of all its `scenes`."""
        self.samples, self.scenes, self.grid = samples, scenes, grid
        self.max_samples = samples + samples // 4  # one step needs more than another
        device = grid.density.device
        self.per_ray = torch.full((), SAMPLES_PER_RAY, device=device)  # running mean of visible samples
        self.part = torch.zeros((), dtype=torch.int64, device=device)
        self.rays, self.parts, self.known = rays_per_scene(samples, SAMPLES_PER_RAY, scenes), 0, False
        self.step: int | None = None  # the one that is planned

    def plan(self, step: int) -> tuple[int, int]:
        """(rays of a scene, parts of the occupancy) of a step. Equal plans launch identical kernels.

        The step updates part number `part` of `parts`, or nothing when there are none: `OccupancyGrid.update_part`.
        """
        self.step, self.parts = step, parts_due(step, lambda: self.known)
        if self.parts:
            self.part.fill_(step // UPDATE_EVERY % self.parts)
        return self.rays, self.parts

    def count(self, num_visible: Tensor) -> None:
        """Note the visible samples of each ray, `[s r]`."""
        self.per_ray.lerp_(num_visible.float().mean().clamp(min=1.0), 0.1)

    def sync(self) -> None:
        """Read what was counted, and choose another number of rays when it is far off. Waits for the device."""
        self.known = self.known or self.grid.knows()
        better = rays_per_scene(self.samples, float(self.per_ray), self.scenes)
        if not 0.85 * self.rays <= better <= 1.1 * self.rays:
            self.rays = better
