"""`composite`, and the ops that lead rays through space: `ray_march`, `gather_samples`, `early_termination`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.threads import parallel, starts_of
from hyperfields.ops._cpu.vectors import FASTMATH, u64
from hyperfields.ops.profiling import region
from hyperfields.ops.reference.space import HORIZON
from hyperfields.ops.space import Space, samples_on_ray

MARCH_ROOM = 2**22  # samples that a task has room for: a few hundred rays or more, of which it touches what it finds
COMPOSITE_RAYS = 64  # whose samples are composited together
MARCH_STEPS = 16  # of a ray, in one vectorised loop


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def exp_minus_one(values, powers, count):
    """values[i] = exp(values[i]) - 1, double precision; unlike calls of the C library, two vectorised loops.

    exp(x) - 1 = 2^k (exp(r) - 1) + 2^k - 1 with r in [-ln 2 / 2, ln 2 / 2], where the Taylor series needs 13 terms.
    powers: as many numbers again.
    """
    bits = powers.view(np.int64)
    for i in range(count):
        x = values[i]
        x = -708.0 if x < -708.0 else x
        x = 709.0 if x > 709.0 else x
        k = np.floor(x * 1.4426950408889634 + 0.5)
        r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10  # ln 2 in two parts, or digits are lost
        bits[i] = (np.int64(k) + 1023) << 52
        s = 1 / 479001600 + r * (1 / 6227020800)
        s = 1 / 3628800 + r * (1 / 39916800 + r * s)
        s = 1 / 40320 + r * (1 / 362880 + r * s)
        s = 1 / 720 + r * (1 / 5040 + r * s)
        s = 1 / 24 + r * (1 / 120 + r * s)
        values[i] = r * (1.0 + r * (0.5 + r * (1 / 6 + r * s)))
    for i in range(count):
        values[i] = powers[i] * values[i] + (powers[i] - 1.0)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def clear_of(density, edges, first, last):
    """exp(-density length) - 1 of the samples first ... last."""
    count = u64(last - first)
    values, powers = np.empty(count), np.empty(count)
    for i in range(count):
        k = u64(first) + i
        values[i] = -float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0]))
    exp_minus_one(values, powers, count)
    return values


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def composite_block(values, edges, starts, clear, base, rgb, alpha, depth, begin, end):
    """Rays begin ... end; clear: `clear_of` their samples, the first of which is `base`."""
    for ray in range(begin, end):
        through = 1.0
        for c in range(values.shape[1]):
            rgb[ray, c] = 0.0
        opacity = 0.0
        distance = 0.0
        for k in range(starts[ray], starts[ray + 1]):
            weight = -through * clear[k - base]
            for c in range(values.shape[1]):
                rgb[ray, c] += weight * values[k, c]
            opacity += weight
            distance += weight * 0.5 * (edges[k, 0] + edges[k, 1])
            through -= weight
        alpha[ray] = opacity
        depth[ray] = distance


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def composite_block_backward(
    density, values, edges, starts, clear, base, g_rgb, g_alpha, g_depth, d_density, d_values, d_edges, begin, end
):
    """Cotangents of the samples of rays begin ... end from those of the rays."""
    pulls = np.empty_like(clear)
    for ray in range(begin, end):
        # dL/dtau_k = g_k T_{k+1} - sum_{j > k} g_j w_j, with g_k = dL/dw_k; first the whole sum, then what is left.
        rest = 0.0
        through = 1.0
        for k in range(starts[ray], starts[ray + 1]):
            weight = -through * clear[k - base]
            pull = g_alpha[ray] + g_depth[ray] * 0.5 * (edges[k, 0] + edges[k, 1])
            for c in range(values.shape[1]):
                pull += g_rgb[ray, c] * values[k, c]
                d_values[k, c] = weight * g_rgb[ray, c]
            pulls[k - base] = pull
            rest += weight * pull
            through -= weight
        through = 1.0
        for k in range(starts[ray], starts[ray + 1]):
            length = float(edges[k, 1]) - float(edges[k, 0])
            weight, pull = -through * clear[k - base], pulls[k - base]
            rest -= weight * pull
            through -= weight
            d_optical = pull * through - rest
            d_density[k] = d_optical * length
            d_edges[k, 0] = 0.5 * weight * g_depth[ray] - d_optical * density[k]
            d_edges[k, 1] = 0.5 * weight * g_depth[ray] + d_optical * density[k]


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays(density, values, edges, starts, rgb, alpha, depth, begin, end):
    for block in range(begin, end, COMPOSITE_RAYS):
        stop, base = min(block + COMPOSITE_RAYS, end), starts[block]
        clear = clear_of(density, edges, base, starts[stop])
        composite_block(values, edges, starts, clear, base, rgb, alpha, depth, block, stop)


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays_backward(
    density, values, edges, starts, g_rgb, g_alpha, g_depth, d_density, d_values, d_edges, begin, end
):
    for block in range(begin, end, COMPOSITE_RAYS):
        stop, base = min(block + COMPOSITE_RAYS, end), starts[block]
        clear = clear_of(density, edges, base, starts[stop])
        composite_block_backward(
            density, values, edges, starts, clear, base, g_rgb, g_alpha, g_depth, d_density, d_values, d_edges, block,
            stop,
        )  # fmt: skip


def composite_cpu(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rays = counts.shape[0]
    outputs = values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)
    inputs = [t.detach().contiguous().numpy() for t in (density, values, edges)]
    arrays, starts = [t.numpy() for t in outputs], starts_of(counts)
    parallel(lambda lo, hi: _composite_rays(*inputs, starts, *arrays, lo, hi), rays)
    return outputs


def composite_cpu_backward(
    g_rgb: Tensor,
    g_alpha: Tensor,
    g_depth: Tensor,
    density: Tensor,
    values: Tensor,
    edges: Tensor,
    counts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    flat = torch.contiguous_format
    outputs = (
        torch.empty_like(density, memory_format=flat),
        torch.empty_like(values, memory_format=flat),
        torch.empty_like(edges, memory_format=flat),
    )
    inputs = [t.detach().contiguous().numpy() for t in (density, values, edges)]
    grads = [t.detach().contiguous().numpy() for t in (g_rgb, g_alpha, g_depth)]
    arrays, starts = [t.numpy() for t in outputs], starts_of(counts)
    parallel(lambda lo, hi: _composite_rays_backward(*inputs, starts, *grads, *arrays, lo, hi), counts.shape[0])
    return outputs


def _composite_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("composite, backward")
def _composite_backward(ctx, g_rgb, g_alpha, g_depth):
    return *composite_cpu_backward(g_rgb, g_alpha, g_depth, *ctx.saved_tensors), None


composite_cpu = differentiable(composite_cpu, _composite_context, _composite_backward)


# -------------------------------------------------------------------------------------------------- ray_march


class Rays(NamedTuple):
    """Rays of all scenes, in order, and their steps."""

    origins: np.ndarray  # [s*r 3]
    directions: np.ndarray  # [s*r 3]
    offset: np.ndarray  # [s*r]
    step: np.floating
    contracted: bool  # steps and cells are those of contracted space
    nearest: np.floating  # distance before which nothing is seen; contracted only


class Cells(NamedTuple):
    """Occupied cells of the scenes."""

    occupied: np.ndarray  # [s g*g*g] bool
    side: np.int32  # g
    low: np.ndarray  # [s 3] lowest corner of the box round what is occupied
    high: np.ndarray  # [s 3]


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def enter(rays, cells, scene, ray):
    """Number of the first step of a ray, -1 if it misses the scene's box or what is occupied; and three distances.

    These are where it enters the box, where it leaves it, and where it leaves the box round what is occupied.
    """
    origins, directions, step, offset = rays.origins, rays.directions, rays.step, rays.offset
    low, high, real = cells.low, cells.high, origins.dtype.type
    one, zero = real(1.0), real(0.0)
    if rays.contracted:
        return _enter_contracted(rays, ray)
    near, far = zero, real(np.inf)  # of the scene's box
    first, last = -real(np.inf), real(np.inf)  # of the box round what is occupied
    finite = np.isfinite(offset[ray])  # comparisons with NaN let a ray pass that would then read anywhere
    for d in range(3):
        direction = directions[ray, d]
        finite = finite & np.isfinite(direction) & np.isfinite(origins[ray, d])
        inverse = one / (real(1e-12) if abs(direction) < real(1e-12) else direction)
        a, b = (-one - origins[ray, d]) * inverse, (one - origins[ray, d]) * inverse
        near, far = max(near, min(a, b)), min(far, max(a, b))
        a, b = (low[scene, d] - origins[ray, d]) * inverse, (high[scene, d] - origins[ray, d]) * inverse
        first, last = max(first, min(a, b)), min(last, max(a, b))
    last += step
    hit = finite and near < far and first < last
    k = max(int(np.floor((first - near) / step - offset[ray])) - 1, 0) if hit else -1
    return k, near, far, last


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def ray_frame(rays, ray):
    """Place of the point of a ray that is nearest to the centre, and its distance, at least 1."""
    real = rays.origins.dtype.type
    o0, o1, o2 = rays.origins[ray, 0], rays.origins[ray, 1], rays.origins[ray, 2]
    d0, d1, d2 = rays.directions[ray, 0], rays.directions[ray, 1], rays.directions[ray, 2]
    along = -(o0 * d0 + o1 * d1 + o2 * d2)
    a, b, c = o0 + along * d0, o1 + along * d1, o2 + along * d2
    return along, max(np.sqrt(a * a + b * b + c * c), real(1.0))


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _enter_contracted(rays, ray):
    """The same in contracted space, where all of a ray is inside."""
    real = rays.origins.dtype.type
    along, radius = ray_frame(rays, ray)
    near, far = (rays.nearest - along) / radius, real(2.0) - real(1.0) / real(HORIZON)
    size = abs(near)
    if size > real(1.0):
        near = (real(2.0) - real(1.0) / size) * (real(1.0) if near > 0 else real(-1.0))
    finite = np.isfinite(rays.offset[ray]) & np.isfinite(along) & np.isfinite(radius)
    return (0 if finite and near < far else -1), near, far, real(np.inf)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _next_contracted(rays, cells, ray, k, near, far, scratch):
    """Fills the scratch of `next_samples` in contracted space."""
    origins, directions, step, side = rays.origins, rays.directions, rays.step, cells.side
    real = origins.dtype.type
    half, one, two = real(0.5), real(1.0), real(2.0)
    edge, scale = np.int32(side - 1), half * real(side)
    o0, o1, o2 = origins[ray, 0], origins[ray, 1], origins[ray, 2]
    d0, d1, d2 = directions[ray, 0], directions[ray, 1], directions[ray, 2]
    along, radius = ray_frame(rays, ray)
    shift = rays.offset[ray]
    cell, begin, end = scratch
    for i in range(MARCH_STEPS):
        start = near + (real(np.int32(k) + np.int32(i)) + shift - one) * step
        stop = min(start + step, far)
        start = max(start, near)
        inside = stop > start
        outer = one / (two - max(abs(start), one))
        start = start if abs(start) <= one else (outer if start > 0 else -outer)
        outer = one / (two - max(abs(stop), one))
        stop = stop if abs(stop) <= one else (outer if stop > 0 else -outer)
        start, stop = along + radius * start, along + radius * stop
        middle = half * (start + stop)
        x, y, z = o0 + middle * d0, o1 + middle * d1, o2 + middle * d2
        size = max(max(abs(x), abs(y)), max(abs(z), one))
        size = (one - half / size) / size
        a = min(max(np.int32((x * size + one) * scale), np.int32(0)), edge)
        b = min(max(np.int32((y * size + one) * scale), np.int32(0)), edge)
        c = min(max(np.int32((z * size + one) * scale), np.int32(0)), edge)
        begin[i], end[i] = start, stop
        cell[i] = (a * side + b) * side + c if inside else np.int32(-1)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def march_scratch(origins):
    """Scratch of `next_samples`: the cell of each step, its start and stop."""
    return np.empty(MARCH_STEPS, np.int32), np.empty(MARCH_STEPS, origins.dtype), np.empty(MARCH_STEPS, origins.dtype)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def next_samples(rays, cells, scene, ray, k, near, far, last, scratch, starts, stops, count):
    """The next step (-1: the ray has left) and the new count.

    Those of the steps k ... k + MARCH_STEPS that lie in occupied cells go to `starts[count ...]` and `stops`, which
    have room for MARCH_STEPS more. Same arithmetic in the same order as the reference, so that both keep the same
    samples.
    """
    origins, directions, step, offset = rays.origins, rays.directions, rays.step, rays.offset
    occupied, side, real = cells.occupied, cells.side, origins.dtype.type
    half, one = real(0.5), real(1.0)
    edge, scale = np.int32(side - 1), half * real(side)
    o0, o1, o2 = origins[ray, 0], origins[ray, 1], origins[ray, 2]
    d0, d1, d2 = directions[ray, 0], directions[ray, 1], directions[ray, 2]
    shift, count = offset[ray], u64(count)
    cell, begin, end = scratch
    if rays.contracted:
        _next_contracted(rays, cells, ray, k, near, far, scratch)
    else:
        for i in range(MARCH_STEPS):
            start = near + (real(np.int32(k) + np.int32(i)) + shift - one) * step
            stop = min(start + step, far)
            inside = (start < far) & (start < last)
            start = max(start, near)
            middle = half * (start + stop)
            a = min(max(np.int32((o0 + middle * d0 + one) * scale), np.int32(0)), edge)
            b = min(max(np.int32((o1 + middle * d1 + one) * scale), np.int32(0)), edge)
            c = min(max(np.int32((o2 + middle * d2 + one) * scale), np.int32(0)), edge)
            begin[i], end[i] = start, stop
            cell[i] = (a * side + b) * side + c if inside & (stop > start) else np.int32(-1)
    for i in range(MARCH_STEPS):
        starts[count], stops[count] = begin[i], end[i]
        count += u64(occupied[scene, max(cell[i], 0)] & (cell[i] >= 0))
    k += MARCH_STEPS
    start = near + (real(k) + shift - one) * step
    return k if start < far and start < last else -1, count


@njit(nogil=True, cache=True, error_model="numpy")
def _march_rays(rays, cells, starts, stops, counts, begin, end):
    """Number of samples of rays begin ... end, which go to `starts` and `stops` one after another."""
    per_scene = counts.shape[0] // cells.occupied.shape[0]
    total, scratch = u64(0), march_scratch(rays.origins)
    for ray in range(begin, end):
        scene = ray // per_scene
        before = total
        k, near, far, last = enter(rays, cells, scene, ray)
        while k >= 0:
            k, total = next_samples(rays, cells, scene, ray, k, near, far, last, scratch, starts, stops, total)
        counts[ray] = total - before
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _survey(cells, low, high, begin, end):
    """Fills the corners `low` and `high` of the box round all occupied cells of a scene, from `cells` [s g g*g]."""
    size = cells.shape[1]
    shadow = np.empty(size * size, np.uint8)  # of all planes on each other
    for scene in range(begin, end):
        low[scene] = 1.0
        high[scene] = -1.0
        shadow[:] = 0
        for a in range(size):
            plane, anything = cells[scene, a], np.uint8(0)
            for i in range(u64(size * size)):
                shadow[i] |= plane[i]
                anything = np.uint8(anything | plane[i])
            if anything != 0:
                _widen(low, high, scene, 0, a, size)
        for i in range(size * size):
            if shadow[i] != 0:
                _widen(low, high, scene, 1, i // size, size)
                _widen(low, high, scene, 2, i % size, size)


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _widen(low, high, scene, axis, cell, size):
    low[scene, axis] = min(low[scene, axis], 2.0 * cell / size - 1.0)
    high[scene, axis] = max(high[scene, axis], 2.0 * (cell + 1) / size - 1.0)


def marching(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, space: Space
) -> tuple[Rays, Cells]:
    """Rays and cells as kernels take them."""
    scenes, rays = origins.shape[:2]
    flat = [t.reshape(scenes * rays, *t.shape[2:]).contiguous().numpy() for t in (origins, directions, offset)]
    dtype, side = flat[0].dtype, occupancy.shape[-1]
    occupied = occupancy.contiguous().numpy().reshape(scenes, side**3)
    planes = occupied.view(np.uint8).reshape(scenes, side, side * side)
    low, high = np.empty((scenes, 3), dtype), np.empty((scenes, 3), dtype)
    parallel(lambda lo, hi: _survey(planes, low, high, lo, hi), scenes, planes.size // 8)
    points, ways, offsets = flat
    settings = dtype.type(step), space.contracted, dtype.type(space.near)
    return Rays(points, ways, offsets, *settings), Cells(occupied, np.int32(side), low, high)


def _most_samples(directions: Tensor, step: float, space: Space) -> int:
    """Samples that a ray may have."""
    if space.contracted:
        return samples_on_ray(space, step) + 1 + MARCH_STEPS
    # Through the diagonal of the box, and more where a direction is shorter than it should be.
    lengths = torch.linalg.vector_norm(directions, dim=-1).nan_to_num(nan=1.0)
    shortest = float(lengths.min()) if lengths.numel() else 1.0
    return int(2.0 * math.sqrt(3.0) / (step * max(shortest, 1e-12))) + 3 + MARCH_STEPS


def ray_march_cpu(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, space: Space
) -> tuple[Tensor, Tensor]:
    """Edges [m 2] and counts [s*r] of rays [s r 3]. Not differentiable."""
    rays, cells = marching(origins, directions, occupancy, step, offset, space)
    longest = _most_samples(directions, step, space)
    counts = torch.zeros(origins.shape[0] * origins.shape[1], dtype=torch.int64)
    of_ray, parts = counts.numpy(), dict[int, np.ndarray]()
    at_once = max(MARCH_ROOM // longest, 1)

    def task(lo: int, hi: int) -> None:
        room = np.empty((2, min(at_once, hi - lo) * longest), rays.offset.dtype)
        for begin in range(lo, hi, at_once):
            total = _march_rays(rays, cells, *room, of_ray, begin, min(begin + at_once, hi))
            parts[begin] = room[:, :total].T.copy()

    parallel(task, len(of_ray))
    edges = origins.new_empty(sum(map(len, parts.values())), 2)
    if parts:
        np.concatenate([parts[begin] for begin in sorted(parts)], out=edges.numpy())
    return edges, counts


@njit(nogil=True, cache=True, error_model="numpy")
def _place_samples(origins, directions, edges, first, starts, x, d, spans, begin, end):
    half = edges.dtype.type(0.5)
    for ray in range(begin, end):
        source = first[ray]
        for place in range(starts[ray], starts[ray + 1]):
            spans[place, 0] = edges[source, 0]
            spans[place, 1] = edges[source, 1]
            middle = half * (edges[source, 0] + edges[source, 1])
            for axis in range(3):
                x[place, axis] = origins[ray, axis] + middle * directions[ray, axis]
                d[place, axis] = directions[ray, axis]
            source += 1


def gather_samples_cpu(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Middles [n 3], directions [n 3] and edges [n 2]; origins [r 3], first and counts [r]. Not differentiable."""
    starts = starts_of(counts)
    total = int(starts[-1])
    outputs = edges.new_empty(total, 3), edges.new_empty(total, 3), edges.new_empty(total, 2)
    inputs = [t.contiguous().numpy() for t in (origins, directions, edges, first)]
    arrays = [t.numpy() for t in outputs]
    parallel(lambda lo, hi: _place_samples(*inputs, starts, *arrays, lo, hi), counts.shape[0])
    return outputs


@njit(nogil=True, cache=True, error_model="numpy")
def _terminate_rays(density, edges, starts, opacity, opaque, counts, after, begin, end):
    for ray in range(begin, end):
        through = 1.0 - float(opacity[ray])
        kept = 0
        for k in range(starts[ray], starts[ray + 1]):
            if 1.0 - through >= opaque:
                break
            through *= np.exp(-float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0])))
            kept += 1
        counts[ray] = kept
        after[ray] = 1.0 - through


def early_termination_cpu(
    density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float
) -> tuple[Tensor, Tensor]:
    """Counts [r] and opacities [r]; density [m], counts and opacity [r]. Not differentiable."""
    kept, after = torch.empty_like(counts), torch.empty_like(opacity)
    inputs = [t.detach().contiguous().numpy() for t in (density, edges)]
    behind, arrays, starts = opacity.contiguous().numpy(), (kept.numpy(), after.numpy()), starts_of(counts)
    parallel(lambda lo, hi: _terminate_rays(*inputs, starts, behind, opaque, *arrays, lo, hi), counts.shape[0])
    return kept, after
