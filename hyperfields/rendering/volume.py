"""Renderers: each takes a function of points and returns pictures. None of them knows what a field is.

A function answers packed points: `fn(x [m d], counts [s])` for images and distances, `fn(x, d, counts)` for
radiance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.cameras import Rays
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import one_torch_thread

PointFn = Callable[[Tensor, Tensor], Tensor]  # (x [m d], counts [s]) -> [m c]
RadianceFn = Callable[
    ..., tuple[Tensor, Tensor]
]  # (x, d, counts) -> density [m 1], rgb [m 3]; and what visible encoded
# (rays, occupancy, offset, opaque) -> the samples that can be seen, or None for all
VisibleSamplesFn = Callable[[Rays, Tensor, Tensor | None, float], ops.VisibleSamples | None]

RAYS = 2**14  # rays whose samples are looked for at a time without gradients, on a CPU
BLOCK = 2**18  # points that a renderer asks for at a time: bounds the memory of a picture of any size
WAVE = 16  # samples of a ray before the first look at its opacity; later waves are longer
OPAQUE = 0.999  # opacity from which a ray shows no more of what lies behind


class Rendered(NamedTuple):
    """What rays saw. Colours are premultiplied: add `(1 - alpha) * background`."""

    rgb: Tensor  # [s r 3]
    alpha: Tensor  # [s r]
    depth: Tensor  # [s r] mean distance along the ray, world units; inf where alpha is 0
    normals: Tensor | None = None  # [s r 3] unit, world frame, zero where nothing was hit
    samples: int = 0  # points that the function was asked for


def block_of(device: torch.device) -> int:
    """Points that a renderer asks for at a time; of few, a GPU spends its time on launches and on waiting."""
    return BLOCK if device.type == "cpu" else 8 * BLOCK


def on_background(rendered: Rendered, background: float = 1.0) -> Tensor:
    """Colours over an even background, `[s r 3]`."""
    return rendered.rgb + (1.0 - rendered.alpha[..., None]) * background


def pixel_centers(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of all pixels in [0, 1]^2, row by row: `[height * width, 2]`, x to the right, y down."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    v, u = torch.meshgrid((rows + 0.5) / height, (columns + 0.5) / width, indexing="ij")
    return torch.stack((u, v), -1).reshape(-1, 2)


@torch.no_grad()
@one_torch_thread()
def sample_image(fn: PointFn, scenes: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Images `[s h w c]` of `scenes` image functions, in blocks of bounded memory. Not differentiable.

    device: where the points are made.
    """
    x = pixel_centers(height, width, device)
    rows = []
    for block in x.split(max(BLOCK // scenes, 1)):
        counts = torch.full((scenes,), block.shape[0], device=device)
        rows.append(fn(block.repeat(scenes, 1), counts).reshape(scenes, block.shape[0], -1))
    return torch.cat(rows, 1).reshape(scenes, height, width, -1)


@torch.no_grad()
@one_torch_thread()
def occupancy_grid(
    density: PointFn,
    scenes: int,
    size: int = 64,
    *,
    threshold: float = 0.01,
    step: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Cells of [-1, 1]^3 in which a step of length `step` has an opacity above `threshold`: `[s g g g]` bool.

    A cell is judged by its centre and its corners, and a cell next to an occupied one is kept, since a thin
    part may pass between those points. A grid of more than 32 cells a side, when even, looks only inside the
    occupied cells of the grid of half its size. Not differentiable.
    """
    limit = -math.log1p(-threshold) / step
    if size > 32 and size % 2 == 0:
        coarse = occupancy_grid(density, scenes, size // 2, threshold=threshold, step=step, device=device)
        inside = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    else:
        inside = torch.ones(scenes, size, size, size, dtype=torch.bool, device=device)
    centers = _dense_at(density, inside, 1.0 / size - 1.0, limit)
    around = torch.nn.functional.max_pool3d(inside[:, None].float(), 2, 1, 1)[:, 0] > 0  # their corners
    corners = _dense_at(density, around, -1.0, limit)
    return dilate(centers | dilate_corners(corners)) & inside


def _dense_at(density: PointFn, where: Tensor, low: float, limit: float) -> Tensor:
    """Points of an even grid from `low` to `-low` that are in `where` `[s a a a]` and denser than `limit`."""
    scenes, side = where.shape[:2]
    axis = torch.linspace(low, -low, side, device=where.device)
    index = where.nonzero()  # [m 4], sorted by scene
    found = torch.zeros_like(where)
    for block in index.split(block_of(where.device)):
        counts = torch.bincount(block[:, 0], minlength=scenes)
        found[tuple(block.T)] = density(axis[block[:, 1:]], counts).squeeze(-1) > limit
    return found


def dilate_corners(corners: Tensor) -> Tensor:
    """Corners `[s g+1 g+1 g+1]` bool -> cells `[s g g g]` with at least one true corner."""
    return torch.nn.functional.max_pool3d(corners[:, None].float(), 2, 1)[:, 0] > 0


def dilate(cells: Tensor) -> Tensor:
    """Cells `[s g g g]` and their 26 neighbours."""
    return torch.nn.functional.max_pool3d(cells[:, None].float(), 3, 1, 1)[:, 0] > 0


def render_volume(
    fn: RadianceFn,
    rays: Rays,
    occupancy: Tensor,
    *,
    step: float,
    offset: Tensor | None = None,
    visible: VisibleSamplesFn | None = None,
) -> Rendered:
    """Volume rendering of radiance functions, one a scene, through samples in occupied cells only.

    Args:
        fn: radiance function of packed points.
        rays: origins and directions `[s r 3]`.
        occupancy: `[s g g g]` bool.
        step: length of a sample, scene units.
        offset: `[s r]` in [0, 1), random while fitting; 0.5 when None.
        visible: finds the samples that can be seen, by the density alone, and `fn` is asked for no others. Without it,
            `fn` is asked for all with gradients, and in waves from front to back without them.

    Differentiable in whatever `fn` is differentiable in; not in the rays. Where what cannot be seen is not asked
    for (with `visible`, and always under `torch.no_grad`), the colours differ by less than 1e-3.
    """
    if torch.is_grad_enabled():
        seen = None if visible is None else visible(rays, occupancy, offset, OPAQUE)
        return _render_seen(fn, rays, _all_samples(rays, occupancy, step, offset) if seen is None else seen)
    if visible is None or rays.origins.device.type != "cpu":
        return _render_waves(fn, rays, occupancy, step, offset)
    blocks = []
    size = max(RAYS // rays.origins.shape[0], 1)
    for begin in range(0, max(rays.origins.shape[1], 1), size):
        block = Rays(*(part[:, begin : begin + size] for part in rays))
        shift = None if offset is None else offset[:, begin : begin + size]
        seen = visible(block, occupancy, shift, OPAQUE)
        if seen is None:
            return _render_waves(fn, rays, occupancy, step, offset)
        blocks.append(_render_seen(fn, block, seen))
    rgb, alpha, depth = (torch.cat(parts, 1) for parts in zip(*(block[:3] for block in blocks), strict=True))
    return Rendered(rgb, alpha, depth, samples=sum(block.samples for block in blocks))


def _all_samples(rays: Rays, occupancy: Tensor, step: float, offset: Tensor | None) -> ops.VisibleSamples:
    """All samples of all rays in occupied cells."""
    edges, numbers = ops.ray_march(*rays, occupancy, step, offset)
    origins, directions = (t.reshape(-1, 3) for t in rays)
    return ops.VisibleSamples(
        *ops.gather_samples(origins, directions, edges, numbers.cumsum(0) - numbers, numbers), numbers, None
    )


def _render_seen(fn: RadianceFn, rays: Rays, seen: ops.VisibleSamples) -> Rendered:
    """Rays whose samples are known."""
    scenes, count = rays.origins.shape[:2]
    if seen.edges.shape[0] == 0:
        empty = rays.origins.new_zeros(scenes, count)
        return Rendered(torch.zeros_like(rays.origins), empty, torch.full_like(empty, math.inf))
    known = () if seen.encoded is None else (seen.encoded,)
    sigma, rgb = fn(seen.x, seen.d, seen.counts.reshape(scenes, -1).sum(1), *known)
    values, alpha, depth = ops.composite(sigma.squeeze(-1), rgb, seen.edges, counts=seen.counts)
    return Rendered(
        values.reshape(scenes, count, 3),
        alpha.reshape(scenes, count),
        _mean_depth(depth, alpha).reshape(scenes, count),
        samples=seen.edges.shape[0],
    )


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
        length = max(min(wave, block_of(opacity.device) // alive), 1)
        yield first + done, left.clamp(max=length)
        wave, done = 2 * wave, done + length


def _render_waves(fn: RadianceFn, rays: Rays, occupancy: Tensor, step: float, offset: Tensor | None) -> Rendered:
    """The same in waves, front to back, until a ray is opaque."""
    scenes, count = rays.origins.shape[:2]
    origins, directions = (t.reshape(-1, 3) for t in rays)
    edges, numbers = ops.ray_march(*rays, occupancy, step, offset)
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
        _mean_depth(seen[:, 4], seen[:, 3]).reshape(scenes, count),
        samples=samples,
    )


def _mean_depth(depth: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(alpha > 1e-4, depth / alpha.clamp(min=1e-4), torch.full_like(depth, math.inf))


def box_interval(rays: Rays, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays `[s r 3]` enter and leave boxes from `low` to `high` `[s 3]`; near >= far when they miss."""
    origins, d = rays
    inverse = 1.0 / torch.where(d.abs() < 1e-12, torch.full_like(d, 1e-12), d)
    a, b = (low[:, None] - origins) * inverse, (high[:, None] - origins) * inverse
    return torch.minimum(a, b).amax(-1).clamp(min=0.0), torch.maximum(a, b).amin(-1)


@one_torch_thread()
def trace_surface(
    fn: PointFn,
    rays: Rays,
    *,
    steps: int = 128,
    tolerance: float = 5e-4,
    longest: float = 0.3,
    caution: float = 0.9,
) -> Rendered:
    """First surfaces of signed distance functions, one a scene, shaded by `shade`.

    Rays start where they enter the box [-1, 1]^3 and move on by `caution` times the distance, at most
    `longest`: far from the surface fields are less exact. Where the sign changes, the place is found by
    bisection. Not differentiable.

    Args:
        fn: signed distance of packed points, negative inside, scene units.
        rays: origins and directions `[s r 3]`.
        steps: most evaluations on a ray; one that is still under way then has missed.
        tolerance: distance at which a point is on the surface, scene units.

    Returns:
        alpha 0 or 1, depth inf where nothing was hit; a ray that starts inside hits at its start.

    Source: Hart 1996, "Sphere tracing", section 2.
    """
    scenes, count = rays.origins.shape[:2]
    ends = rays.origins.new_ones(scenes, 3)
    near, far = (t.reshape(-1) for t in box_interval(rays, -ends, ends))
    origins, directions = (t.reshape(-1, 3) for t in rays)

    def ask(ray: Tensor, t: Tensor) -> Tensor:
        x = torch.addcmul(origins[ray], t[:, None], directions[ray])
        return fn(x, torch.bincount(ray // count, minlength=scenes)).squeeze(-1)

    depth = torch.full_like(near, math.inf)
    samples = 0
    with torch.no_grad():
        ray = (near < far).nonzero().squeeze(1)
        t = near[ray]
        before = t  # the last point outside
        crossed: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(steps):
            if not len(ray):
                break
            value = ask(ray, t)
            samples += len(ray)
            inside, close = value < 0.0, value.abs() < tolerance
            depth[ray[close]] = t[close]
            cross = inside & ~close
            crossed.append((ray[cross], before[cross], t[cross]))
            ahead = t + (caution * value).clamp(min=tolerance, max=longest)
            going = ~(inside | close) & (ahead < far[ray])
            ray, before, t = ray[going], t[going], ahead[going]
        crossed.append((ray[:0], t[:0], t[:0]))
        ray, low, high = (torch.cat(parts) for parts in zip(*crossed, strict=True))
        order = ray.argsort()  # packed points are sorted by scene
        ray, low, high = ray[order], low[order], high[order]
        for _ in range(math.ceil(math.log2(longest / tolerance))):
            if not len(ray):
                break
            middle = 0.5 * (low + high)
            inside = ask(ray, middle) < 0.0
            samples += len(ray)
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        depth[ray] = 0.5 * (low + high)

        normals, rgb = torch.zeros_like(origins), torch.zeros_like(origins)
        hit = depth.isfinite().nonzero().squeeze(1)
        if len(hit):
            x = torch.addcmul(origins[hit], depth[hit, None], directions[hit])
            counts = torch.bincount(hit // count, minlength=scenes)
            normals[hit] = surface_normals(fn, x, counts)
            rgb[hit] = shade(normals[hit], directions[hit], openness(fn, x, normals[hit], counts))
    shape = (scenes, count)
    return Rendered(
        rgb.reshape(*shape, 3),
        depth.isfinite().to(rgb.dtype).reshape(shape),
        depth.reshape(shape),
        normals.reshape(*shape, 3),
        samples,
    )


def surface_normals(fn: PointFn, x: Tensor, counts: Tensor, reach: float = 0.01) -> Tensor:
    """Unit normals `[m 3]` of a distance function at packed points, by differences over `reach`, scene units.

    Unlike gradients at a point they do not show the cells of a grid, where those jump from cell to cell.
    Source: Quilez 2015, "Normals for an SDF" (four corners of a tetrahedron).
    """
    corners = x.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    slope = sum(corner * fn(x + reach * corner, counts) for corner in corners)
    return torch.nn.functional.normalize(torch.as_tensor(slope), dim=-1)


def openness(fn: PointFn, x: Tensor, normals: Tensor, counts: Tensor) -> Tensor:
    """How much of the light from all round reaches surface points, `[m 1]` from 0 in a hole to 1 in the open.

    Where nothing is near, the distance grows along the normal as fast as the way.
    Source: Evans 2006, "Fast approximations for global illumination on dynamic scenes", ambient occlusion.
    """
    closed = torch.zeros_like(x[:, :1])
    for way, weight in ((0.02, 0.45), (0.05, 0.35), (0.1, 0.3)):
        closed += weight * (1.0 - fn(x + way * normals, counts) / way).clamp(0.0, 1.0)
    return (1.0 - closed).clamp(0.0, 1.0)


def shade(normals: Tensor, directions: Tensor, openness: Tensor | float = 1.0) -> Tensor:
    """Colours `[n 3]` of a matt, light grey surface in a studio; normals and directions `[n 3]` are unit.

    The lights stand still in the world (+Z up): a sky that fades to a floor, a warm key light from the upper
    front left (-X, -Y), a cool fill from the right, and a rim where the surface turns away from the eye.
    `openness` `[n 1]` dims them in corners. Light is added linearly and then encoded by a gamma of 2.2.
    """

    def lit(direction: tuple[float, float, float], wrap: float) -> Tensor:
        light = torch.nn.functional.normalize(normals.new_tensor(direction), dim=0)
        return (((normals * light).sum(-1, keepdim=True) + wrap) / (1.0 + wrap)).clamp(min=0.0)

    def color(*rgb: float) -> Tensor:
        return normals.new_tensor(rgb)

    up = 0.5 + 0.5 * normals[:, 2:]
    facing = -(normals * directions).sum(-1, keepdim=True).clamp(max=0.0)
    light = torch.lerp(color(0.13, 0.12, 0.12), color(0.30, 0.33, 0.38), up) * openness
    light = light + lit((-0.6, -0.7, 0.6), 0.1) * color(0.58, 0.52, 0.44) * (0.4 + 0.6 * openness)
    light = light + lit((0.9, -0.2, 0.3), 0.3) * color(0.10, 0.13, 0.18) * (0.4 + 0.6 * openness)
    light = light + (1.0 - facing) ** 4 * up * openness * color(0.12, 0.13, 0.15)
    return (light * color(0.70, 0.72, 0.75)).clamp(0.0, 1.0) ** (1.0 / 2.2)


class OccupancyTracker:
    """Which cells of each scene's box are worth sampling while the fields still change.

    Keeps a decaying maximum of the density seen in every cell (Mueller et al. 2022, appendix C), one grid a
    scene. Everything counts as occupied until it was looked at.
    """

    def __init__(
        self,
        scenes: int,
        size: int,
        *,
        step: float,
        threshold: float = 0.01,
        decay: float = 0.6,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size, self.decay = size, decay
        self.limit = -math.log1p(-threshold) / step
        self.density = torch.full((scenes, size**3), math.inf, device=device)
        self.occupied = torch.ones(scenes, size**3, dtype=torch.bool, device=device)
        self.known = torch.zeros(scenes, dtype=torch.bool, device=device)  # scenes that were found to be looked at

    def cells(self, scenes: Tensor) -> Tensor:
        """Occupied cells of `scenes` `[s]`: `[s g g g]` bool."""
        return self.occupied[scenes].reshape(-1, self.size, self.size, self.size)

    def knows(self, scenes: Tensor | None = None) -> bool:
        """Whether each of `scenes` `[s]`, by default all, was looked at, cell by cell, at least once."""
        scenes = torch.arange(len(self.known), device=self.known.device) if scenes is None else scenes
        new = scenes[~self.known[scenes]]
        self.known[new] = ~self.density[new].isinf().any(1)
        return bool(self.known[new].all())

    def restore(self, density: Tensor) -> None:
        """Go on from `density` `[s g^3]`, what it was before."""
        self.density.copy_(density)
        self.occupied.copy_(self.density > self.limit)
        self.known.zero_()

    @region("occupancy")
    @torch.no_grad()
    def update(
        self, density: PointFn, scenes: Tensor, part: int | Tensor, parts: int, generator: torch.Generator
    ) -> None:
        """Look at a random point of every cell of `scenes` whose number is `part` modulo `parts`."""
        device = self.density.device
        cell = (torch.arange(0, self.size**3, parts, device=device) + part) % self.size**3
        index = torch.stack((cell // self.size**2, cell // self.size % self.size, cell % self.size), -1)
        jitter = torch.rand(len(scenes), *index.shape, generator=generator, device=device)
        x = ((index + jitter) * (2.0 / self.size) - 1.0).reshape(-1, 3)
        seen = density(x, torch.full((len(scenes),), len(cell), device=device)).reshape(len(scenes), -1)
        where = scenes[:, None], cell
        old = self.density[where]
        new = torch.where(old.isinf(), seen, torch.maximum(old * self.decay, seen))
        self.density[where], self.occupied[where] = new, new > self.limit
