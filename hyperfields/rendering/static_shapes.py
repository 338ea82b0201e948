"""Volume rendering with as many samples as were set beforehand: what a fitting step on a GPU does.

`render.render_volume` makes tensors as long as what it finds, and so has to ask the device how long that is. Here every
size follows from the numbers of rays and samples alone: the host never waits, and a step can be recorded and replayed
(`graphs.py`). Kernels read from counts on the device how many rows of a tensor are meant, and pass over the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.ops.profiling import region
from hyperfields.rendering.volume import OPAQUE, WAVE, OccupancyTracker, PointFn, RadianceFn

FIRST_PER_RAY = 64.0  # samples of a ray, before any was marched


class StaticRendered(NamedTuple):
    """What rays saw. Rays whose samples did not fit into the budget saw nothing, and say so."""

    rgb: Tensor  # [s r 3] premultiplied
    alpha: Tensor  # [s r]
    wanted: Tensor  # [s r] int64, samples of each ray that can be seen
    whole: Tensor  # [s r] bool, the rays that fitted: the first ones


def render_static(
    fn: RadianceFn, density: PointFn, rays: Rays, occupancy: Tensor, *, step: float, offset: Tensor, samples: int
) -> StaticRendered:
    """The colours of `render.render_volume`, of as many rays as need no more than `samples` samples in all.

    Args:
        density: of `fn` alone; finds the samples that can be seen.
        rays: origins and directions `[s r 3]`.
        occupancy: `[s g g g]` bool.
        step: length of a sample, scene units.
        offset: `[s r]` in [0, 1).

    Differentiable as `render_volume` is.
    """
    scenes, count = rays.origins.shape[:2]
    origins, directions = (t.reshape(-1, 3) for t in rays)
    edges, first, numbers = ops.ray_march_padded(*rays, occupancy, step, offset)
    wanted = _in_sight(density, origins, directions, edges, first, numbers, scenes)
    whole = wanted.cumsum(0) <= samples
    taken = wanted * whole
    x, d, spans = ops.gather_samples(origins, directions, edges, first, taken, total=samples)
    sigma, rgb = fn(x, d, taken.reshape(scenes, -1).sum(1))
    values, alpha, _ = ops.composite(sigma.squeeze(-1), rgb, spans, counts=taken)
    shape = (scenes, count)
    return StaticRendered(values.reshape(*shape, 3), alpha.reshape(shape), wanted.reshape(shape), whole.reshape(shape))


@region("what is in sight")
@torch.no_grad()
def _in_sight(
    density: PointFn, origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, numbers: Tensor, scenes: int
) -> Tensor:
    """How many of the `numbers [r]` samples of each ray come before it is opaque, `[r]`: found in waves, front to back.

    There are as many waves as the longest ray may need; the last ones have nothing to do.
    """
    rays, opacity, seen = len(numbers), edges.new_zeros(len(numbers)), torch.zeros_like(numbers)
    most, done, wave = len(edges) // max(rays, 1), 0, WAVE
    while done < most:
        length = min(wave, most - done)
        take = torch.where(opacity < OPAQUE, numbers - done, 0).clamp(0, length)
        x, _, spans = ops.gather_samples(origins, directions, edges, first + done, take, total=rays * length)
        answer = density(x, take.reshape(scenes, -1).sum(1)).squeeze(-1)
        kept, opacity = ops.early_termination(answer, spans, take, opacity, OPAQUE)
        seen += kept
        wave, done = 2 * wave, done + length
    return seen


def rays_of(samples: int, per_ray: float, scenes: int) -> int:
    """Rays of each scene, so that a step has about `samples` samples: some at least, and a multiple of 16."""
    return max(int(samples / (per_ray * scenes)) // 16 * 16, 64)


class StaticStepPlan:
    """How large a step on views is, decided before it begins.

    What decides it, how many samples of a ray can be seen, is counted on the device; the host reads it now and then.
    """

    def __init__(self, samples: int, scenes: int, tracker: OccupancyTracker) -> None:
        """samples: of a step, of all its `scenes`."""
        self.samples, self.scenes, self.tracker = samples, scenes, tracker
        self.budget = samples + samples // 4  # one step needs more than another
        device = tracker.density.device
        self.per_ray = torch.full((), FIRST_PER_RAY, device=device)  # running mean of samples that can be seen
        self.part = torch.zeros((), dtype=torch.int64, device=device)
        self.rays, self.parts, self.known = rays_of(samples, FIRST_PER_RAY, scenes), 0, False

    def prepare(self, calls: int) -> tuple[int, int]:
        """(rays of a scene, parts of the occupancy) of the next step: steps with the same ones do the same.

        Of `parts` the step looks at one, number `part`; at nothing when there are none. See `OccupancyTracker.update`.
        """
        self.parts = 0
        if calls % 4 == 1:
            self.parts = 16 if calls >= 32 and self.known else 1
            self.part.fill_(calls // 4 % self.parts)
        return self.rays, self.parts

    def count(self, wanted: Tensor) -> None:
        """Note how many samples of each ray could be seen, `[s r]`."""
        self.per_ray.lerp_(wanted.float().mean().clamp(min=1.0), 0.1)

    def look(self) -> None:
        """Read what was counted, and choose another number of rays when it is far off. Waits for the device."""
        self.known = self.known or self.tracker.knows()
        better = rays_of(self.samples, float(self.per_ray), self.scenes)
        if not 0.85 * self.rays <= better <= 1.1 * self.rays:
            self.rays = better
