"""Volume rendering of radiance functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.rendering.base import RadianceFn, Rendered, VisibleSamplesFn, points_per_block

VISIBLE_RAYS = 2**14  # rays whose samples are looked for at a time without gradients, on a CPU
WAVE = 16  # samples of a ray before the first look at its opacity; later waves are longer
OPAQUE = 0.999  # opacity from which a ray shows no more of what lies behind


class Fitting(NamedTuple):
    """What only fits ask of a renderer.

    through: rays of the same values as those that are rendered, to which gradients flow from the points of samples. The
        distances of samples, and the directions by which colours differ, count as fixed.
    near_gradients: distance from a camera, scene units, within which gradients of samples fall with its square, see
        `near_factor`; 0: none do.
    distortion: whether the spread of what is seen is wanted.
    depth: whether distances are wanted; without, `Rendered.depth` may be empty.
    """

    through: Rays | None = None
    near_gradients: float = 0.0
    distortion: bool = False
    depth: bool = True


FITTING = Fitting()


def render_volume(
    fn: RadianceFn,
    rays: Rays,
    occupancy: Tensor,
    *,
    step: float,
    space: ops.Space = ops.BOX,
    offset: Tensor | None = None,
    visible: VisibleSamplesFn | None = None,
    fitting: Fitting = FITTING,
) -> Rendered:
    """Volume rendering of radiance functions, one a scene, through samples in occupied cells only.

    Args:
        fn: radiance function of packed points.
        rays: origins and directions `[s r 3]`.
        occupancy: `[s g g g]` bool.
        step: length of a sample in the scene box, scene units.
        space: the scene box, or all of space, contracted: cells are then those of the contracted cube, samples grow
            with the distance, and `fn` is asked at points of space.
        offset: `[s r]` in [0, 1), random while fitting; 0.5 when None.
        visible: gives the visible samples, by the density alone, and `fn` is evaluated at no others. Without it,
            `fn` is evaluated at all with gradients, and in waves from front to back without them.
        fitting: what only fits ask for.

    Differentiable in whatever `fn` is differentiable in; in rays only through `fitting.through`. Where hidden samples
    are not evaluated (with `visible`, and always under `torch.no_grad`), the colours differ by less than 1e-3.
    """
    if torch.is_grad_enabled():
        seen = None if visible is None else visible(rays, occupancy, offset, OPAQUE)
        seen = all_samples(rays, occupancy, step, offset, space) if seen is None else seen
        return _render_seen(fn, rays, seen, fitting)
    if visible is None or rays.origins.device.type != "cpu":
        return _render_waves(fn, rays, occupancy, step, offset, space)
    blocks = []
    size = max(VISIBLE_RAYS // rays.origins.shape[0], 1)
    for begin in range(0, max(rays.origins.shape[1], 1), size):
        block = Rays(*(part[:, begin : begin + size] for part in rays))
        shift = None if offset is None else offset[:, begin : begin + size]
        seen = visible(block, occupancy, shift, OPAQUE)
        if seen is None:
            return _render_waves(fn, rays, occupancy, step, offset, space)
        blocks.append(_render_seen(fn, block, seen))
    rgb, alpha, depth = (torch.cat(parts, 1) for parts in zip(*(block[:3] for block in blocks), strict=True))
    return Rendered(rgb, alpha, depth, samples=sum(block.samples for block in blocks))


def all_samples(
    rays: Rays, occupancy: Tensor, step: float, offset: Tensor | None, space: ops.Space
) -> ops.VisibleSamples:
    """All samples of all rays in occupied cells."""
    edges, numbers = ops.ray_march(*rays, occupancy, step, offset, space=space)
    origins, directions = (t.reshape(-1, 3) for t in rays)
    return ops.VisibleSamples(
        *ops.gather_samples(origins, directions, edges, numbers.cumsum(0) - numbers, numbers), numbers, None
    )


def _render_seen(fn: RadianceFn, rays: Rays, seen: ops.VisibleSamples, fitting: Fitting = FITTING) -> Rendered:
    """Rays whose samples are known."""
    scenes, count = rays.origins.shape[:2]
    if seen.edges.shape[0] == 0:
        empty = rays.origins.new_zeros(scenes, count)
        spread = empty if fitting.distortion else None
        return Rendered(torch.zeros_like(rays.origins), empty, torch.full_like(empty, math.inf), distortion=spread)
    x = seen.x if fitting.through is None else points_on_rays(fitting.through, seen.edges, seen.counts)
    known = () if seen.encoded is None else (seen.encoded,)
    sigma, rgb = fn(x, seen.d, seen.counts.reshape(scenes, -1).sum(1), *known)
    if fitting.near_gradients:
        factor = near_factor(seen.edges, fitting.near_gradients)
        sigma, rgb = scale_gradient(sigma, factor), scale_gradient(rgb, factor)
    values, alpha, depth = ops.composite(sigma.squeeze(-1), rgb, seen.edges, counts=seen.counts)
    return Rendered(
        values.reshape(scenes, count, 3),
        alpha.reshape(scenes, count),
        mean_depth(depth, alpha).reshape(scenes, count) if fitting.depth else alpha.new_empty(0),
        samples=seen.edges.shape[0],
        distortion=spread_of(sigma, seen.edges, seen.counts).reshape(scenes, count) if fitting.distortion else None,
    )


def points_on_rays(rays: Rays, edges: Tensor, counts: Tensor) -> Tensor:
    """Middles `[m 3]` of samples, differentiable in the rays `[s r 3]`; edges `[m 2]`, counts `[s*r]`."""
    origins, directions = (t.reshape(-1, 3) for t in rays)
    ray = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=len(edges))
    return origins[ray] + 0.5 * (edges[:, :1] + edges[:, 1:]) * directions[ray]


def near_factor(edges: Tensor, reach: float) -> Tensor:
    """Factor `[m 1]` of the gradients of samples: the square of their distance from the camera over `reach`, up to 1.

    Near a camera are the samples of all its rays, and of none of another's: without the factor, which is their number
    over that of samples further off, they are fitted with fog. Source: Philip and Deschaintre 2023, "Floaters no more:
    radiance field gradient scaling for improved near-camera training", equation 9.
    """
    return (0.5 / reach * (edges[:, :1] + edges[:, 1:])).square().clamp(max=1.0)


class _ScaleGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """x, whose gradient is multiplied by `factor` on the way back."""
    scaled: Tensor = _ScaleGradient.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


def spread_of(density: Tensor, edges: Tensor, counts: Tensor) -> Tensor:
    """Spread `[r]` of what rays see in t / (1 + t): near a camera a distance counts, far from it a ratio."""
    return ops.distortion(density.squeeze(-1), edges, edges / (1.0 + edges), counts)


def _waves(first: Tensor, numbers: Tensor, opacity: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Packed samples front to back, a few of every ray at a time, until a ray has no more or is opaque.

    Args:
        first: where the samples of each ray begin among the packed ones, `[r]`.
        numbers: how many each has, `[r]`.
        opacity: `[r]`, of what was seen so far; the caller brings it up to date between waves.

    Yields:
        the first sample of this wave and how many there are, of every ray: `[r]` each.
    """
    wave, done = WAVE, 0
    while True:
        left = torch.where(opacity < OPAQUE, numbers - done, 0).clamp(min=0)
        alive = int(left.count_nonzero())
        if alive == 0:
            return
        length = max(min(wave, points_per_block(opacity.device) // alive), 1)
        yield first + done, left.clamp(max=length)
        wave, done = 2 * wave, done + length


def _render_waves(
    fn: RadianceFn, rays: Rays, occupancy: Tensor, step: float, offset: Tensor | None, space: ops.Space
) -> Rendered:
    """The same in waves, front to back, until a ray is opaque."""
    scenes, count = rays.origins.shape[:2]
    origins, directions = (t.reshape(-1, 3) for t in rays)
    edges, numbers = ops.ray_march(*rays, occupancy, step, offset, space=space)
    seen = edges.new_zeros(len(numbers), 5)  # colour, opacity, opacity-weighted distance
    samples = 0
    for begin, take in _waves(numbers.cumsum(0) - numbers, numbers, seen[:, 3]):
        x, d, spans = ops.gather_samples(origins, directions, edges, begin, take)
        density, rgb = fn(x, d, take.reshape(scenes, -1).sum(1))
        part = ops.composite(density.squeeze(-1), rgb, spans, counts=take)
        through = 1.0 - seen[:, 3:4]
        seen += through * torch.cat((part.values, part.alpha[:, None], part.depth[:, None]), 1)
        samples += len(x)
    return Rendered(
        seen[:, :3].reshape(scenes, count, 3),
        seen[:, 3].reshape(scenes, count),
        mean_depth(seen[:, 4], seen[:, 3]).reshape(scenes, count),
        samples=samples,
    )


def mean_depth(depth: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(alpha > 1e-4, depth / alpha.clamp(min=1e-4), torch.full_like(depth, math.inf))
