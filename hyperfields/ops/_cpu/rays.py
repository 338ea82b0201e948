"""What rays need: `composite`, and what leads them through space: `march`, `samples`, `reach`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.threads import FAST, U, parallel, starts_of
from hyperfields.ops.profiling import region

_ROOM = 2**22  # samples that a task has room for: a few hundred rays or more, of which it touches what it finds
_RAYS = 64  # whose samples are composited together
GROUP = 16  # steps of a ray that are looked at together


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
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


@njit(nogil=True, cache=True, error_model="numpy")
def _clear(density, edges, first, last):
    """exp(-density length) - 1 of the samples first ... last."""
    count = U(last - first)
    values, powers = np.empty(count), np.empty(count)
    for i in range(count):
        k = U(first) + i
        values[i] = -float(density[k]) * (float(edges[k, 1]) - float(edges[k, 0]))
    exp_minus_one(values, powers, count)
    return values


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays(density, values, edges, starts, rgb, alpha, depth, begin, end):
    for block in range(begin, end, _RAYS):
        stop, base = min(block + _RAYS, end), starts[block]
        clear = _clear(density, edges, base, starts[stop])
        for ray in range(block, stop):
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


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_rays_backward(
    density, values, edges, starts, g_rgb, g_alpha, g_depth, d_density, d_values, d_edges, begin, end
):
    for block in range(begin, end, _RAYS):
        stop, base = min(block + _RAYS, end), starts[block]
        clear = _clear(density, edges, base, starts[stop])
        pulls = np.empty_like(clear)
        for ray in range(block, stop):
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


@torch.library.custom_op("hyperfields::composite_cpu", mutates_args=())
def composite_cpu(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rays = counts.shape[0]
    outputs = values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)
    inputs = [t.detach().contiguous().numpy() for t in (density, values, edges)]
    arrays, starts = [t.numpy() for t in outputs], starts_of(counts)
    parallel(lambda lo, hi: _composite_rays(*inputs, starts, *arrays, lo, hi), rays)
    return outputs


@torch.library.custom_op("hyperfields::composite_cpu_backward", mutates_args=())
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


@composite_cpu.register_fake
def _(density, values, edges, counts):
    rays = counts.shape[0]
    return values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)


@composite_cpu_backward.register_fake
def _(g_rgb, g_alpha, g_depth, density, values, edges, counts):
    return tuple(t.new_empty(t.shape) for t in (density, values, edges))


def _composite_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("composite, backward")
def _composite_backward(ctx, g_rgb, g_alpha, g_depth):
    return *composite_cpu_backward(g_rgb, g_alpha, g_depth, *ctx.saved_tensors), None


composite_cpu.register_autograd(_composite_backward, setup_context=_composite_context)


# ------------------------------------------------------------------------------------------------------ march


@njit(nogil=True, cache=True, error_model="numpy")
def enter(origins, directions, low, high, step, offset, scene, ray):
    """Where a ray begins, as the number of its first step, and three distances: where it enters the scene's box, where
    it leaves it, and where it leaves the box round what is occupied. The number is -1 if it misses one of them.
    """
    real = origins.dtype.type
    one, zero = real(1.0), real(0.0)
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


@njit(nogil=True, cache=True, error_model="numpy")
def march_scratch(origins):
    """What `next_samples` works with: the cell of each step, its start and stop."""
    return np.empty(GROUP, np.int32), np.empty(GROUP, origins.dtype), np.empty(GROUP, origins.dtype)


@njit(nogil=True, cache=True, error_model="numpy")
def next_samples(
    origins, directions, cells, side, step, offset, scene, ray, k, near, far, last, scratch, starts, stops, count
):
    """Those of the steps k ... k + GROUP of a ray that lie in occupied cells, to `starts[count ...]` and `stops`.

    Returns the next step (-1: the ray has left) and the new count; `starts` and `stops` have room for GROUP more. Same
    arithmetic in the same order as the reference, so that both keep the same samples.
    """
    real = origins.dtype.type
    half, one = real(0.5), real(1.0)
    edge, scale = np.int32(side - 1), half * real(side)
    o0, o1, o2 = origins[ray, 0], origins[ray, 1], origins[ray, 2]
    d0, d1, d2 = directions[ray, 0], directions[ray, 1], directions[ray, 2]
    shift, count = offset[ray], U(count)
    cell, begin, end = scratch
    for i in range(GROUP):
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
    for i in range(GROUP):
        starts[count], stops[count] = begin[i], end[i]
        count += U(cells[scene, max(cell[i], 0)] & (cell[i] >= 0))
    k += GROUP
    start = near + (real(k) + shift - one) * step
    return k if start < far and start < last else -1, count


@njit(nogil=True, cache=True, error_model="numpy")
def _march_rays(origins, directions, cells, side, low, high, step, offset, starts, stops, counts, begin, end):
    """Samples of rays begin ... end, one after another; returns how many there are."""
    rays = counts.shape[0] // cells.shape[0]
    total, scratch = U(0), march_scratch(origins)
    for ray in range(begin, end):
        scene = ray // rays
        before = total
        k, near, far, last = enter(origins, directions, low, high, step, offset, scene, ray)
        while k >= 0:
            k, total = next_samples(
                origins, directions, cells, side, step, offset, scene, ray, k, near, far, last,
                scratch, starts, stops, total,
            )  # fmt: skip
        counts[ray] = total - before
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _survey(cells, low, high, begin, end):
    """The box round all occupied cells of a scene, from `cells` [s g g*g]."""
    size = cells.shape[1]
    shadow = np.empty(size * size, np.uint8)  # of all planes on each other
    for scene in range(begin, end):
        low[scene] = 1.0
        high[scene] = -1.0
        shadow[:] = 0
        for a in range(size):
            plane, found = cells[scene, a], np.uint8(0)
            for i in range(U(size * size)):
                shadow[i] |= plane[i]
                found = np.uint8(found | plane[i])
            if found != 0:
                _widen(low, high, scene, 0, a, size)
        for i in range(size * size):
            if shadow[i] != 0:
                _widen(low, high, scene, 1, i // size, size)
                _widen(low, high, scene, 2, i % size, size)


@njit(nogil=True, cache=True, error_model="numpy")
def _widen(low, high, scene, axis, cell, size):
    low[scene, axis] = min(low[scene, axis], 2.0 * cell / size - 1.0)
    high[scene, axis] = max(high[scene, axis], 2.0 * (cell + 1) / size - 1.0)


class March(NamedTuple):
    """What a march knows of rays and scenes before it starts."""

    rays: tuple[np.ndarray, np.ndarray]  # origins and directions [s*r 3]
    cells: tuple[np.ndarray, np.int32]  # which are occupied [s g*g*g], and how many lie along a side
    box: tuple[np.ndarray, np.ndarray]  # round what is occupied, lowest and highest corner [s 3]
    step: np.floating
    offset: np.ndarray  # [s*r]
    longest: int  # most samples of a ray

    @classmethod
    def of(cls, origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor) -> March:
        scenes, rays = origins.shape[:2]
        flat = [t.reshape(scenes * rays, *t.shape[2:]).contiguous().numpy() for t in (origins, directions, offset)]
        dtype = flat[0].dtype
        side = occupancy.shape[-1]
        known = occupancy.contiguous().numpy().reshape(scenes, side**3)
        planes = known.view(np.uint8).reshape(scenes, side, side * side)
        low, high = np.empty((scenes, 3), dtype), np.empty((scenes, 3), dtype)
        parallel(lambda lo, hi: _survey(planes, low, high, lo, hi), scenes, planes.size // 8)
        # Through the diagonal of the box, and more where a direction is shorter than it should be.
        lengths = torch.linalg.vector_norm(directions, dim=-1).nan_to_num(nan=1.0)
        shortest = float(lengths.min()) if rays * scenes else 1.0
        longest = int(2.0 * math.sqrt(3.0) / (step * max(shortest, 1e-12))) + 3 + GROUP
        return cls((flat[0], flat[1]), (known, np.int32(side)), (low, high), dtype.type(step), flat[2], longest)


def march_cpu(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Not differentiable. origins [s r 3] -> edges [m 2], counts [s*r]."""
    plan = March.of(origins, directions, occupancy, step, offset)
    counts = torch.zeros(origins.shape[0] * origins.shape[1], dtype=torch.int64)
    numbers = counts.numpy()
    found: dict[int, np.ndarray] = {}

    at_once = max(_ROOM // plan.longest, 1)

    def task(lo: int, hi: int) -> None:
        room = np.empty((2, min(at_once, hi - lo) * plan.longest), plan.offset.dtype)
        for begin in range(lo, hi, at_once):
            end = min(begin + at_once, hi)
            total = _march_rays(
                *plan.rays, *plan.cells, *plan.box, plan.step, plan.offset, *room, numbers, begin, end
            )  # fmt: skip
            found[begin] = room[:, :total].T.copy()

    parallel(task, len(numbers))
    edges = origins.new_empty(sum(map(len, found.values())), 2)
    if found:
        np.concatenate([found[begin] for begin in sorted(found)], out=edges.numpy())
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


def samples_cpu(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Not differentiable. origins [r 3], first and counts [r] -> x [n 3], d [n 3], edges [n 2]."""
    starts = starts_of(counts)
    total = int(starts[-1])
    outputs = edges.new_empty(total, 3), edges.new_empty(total, 3), edges.new_empty(total, 2)
    inputs = [t.contiguous().numpy() for t in (origins, directions, edges, first)]
    arrays = [t.numpy() for t in outputs]
    parallel(lambda lo, hi: _place_samples(*inputs, starts, *arrays, lo, hi), counts.shape[0])
    return outputs


@njit(nogil=True, cache=True, error_model="numpy")
def _reach_rays(density, edges, starts, opacity, opaque, counts, after, begin, end):
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


def reach_cpu(density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float) -> tuple[Tensor, Tensor]:
    """Not differentiable. density [m], counts and opacity [r] -> counts [r], opacity [r]."""
    kept, after = torch.empty_like(counts), torch.empty_like(opacity)
    inputs = [t.detach().contiguous().numpy() for t in (density, edges)]
    behind, arrays, starts = opacity.contiguous().numpy(), (kept.numpy(), after.numpy()), starts_of(counts)
    parallel(lambda lo, hi: _reach_rays(*inputs, starts, behind, opaque, *arrays, lo, hi), counts.shape[0])
    return kept, after
