"""`distortion`: one pass over the samples of a ray, and three for its derivative."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.operators import differentiable
from hyperfields.ops._cpu.rays import COMPOSITE_RAYS, clear_of
from hyperfields.ops._cpu.threads import parallel, starts_of
from hyperfields.ops.profiling import region


@njit(nogil=True, cache=True, error_model="numpy")
def _distort_rays(density, edges, places, starts, spread, begin, end):
    for block in range(begin, end, COMPOSITE_RAYS):
        stop, base = min(block + COMPOSITE_RAYS, end), starts[block]
        clear = clear_of(density, edges, base, starts[stop])
        for ray in range(block, stop):
            through, total, moment, result = 1.0, 0.0, 0.0, 0.0
            for k in range(starts[ray], starts[ray + 1]):
                weight = -through * clear[k - base]
                middle = 0.5 * (float(places[k, 0]) + float(places[k, 1]))
                length = float(places[k, 1]) - float(places[k, 0])
                result += 2.0 * weight * (middle * total - moment) + weight * weight * length / 3.0
                total += weight
                moment += weight * middle
                through -= weight
            spread[ray] = result


@njit(nogil=True, cache=True, error_model="numpy")
def _distort_rays_backward(grad, density, edges, places, starts, d_density, begin, end):
    for block in range(begin, end, COMPOSITE_RAYS):
        stop, base = min(block + COMPOSITE_RAYS, end), starts[block]
        clear = clear_of(density, edges, base, starts[stop])
        pulls = np.empty_like(clear)
        for ray in range(block, stop):
            through, whole, whole_moment = 1.0, 0.0, 0.0
            for k in range(starts[ray], starts[ray + 1]):
                weight = -through * clear[k - base]
                whole += weight
                whole_moment += weight * 0.5 * (float(places[k, 0]) + float(places[k, 1]))
                through -= weight
            # dL/dw_k, and the sum of w_k dL/dw_k
            through, total, moment, rest = 1.0, 0.0, 0.0, 0.0
            for k in range(starts[ray], starts[ray + 1]):
                weight = -through * clear[k - base]
                middle = 0.5 * (float(places[k, 0]) + float(places[k, 1]))
                length = float(places[k, 1]) - float(places[k, 0])
                before, moment_before = total, moment
                total += weight
                moment += weight * middle
                behind, moment_behind = whole - total, whole_moment - moment
                pull = 2.0 * (middle * (before - behind) - moment_before + moment_behind) + weight * length / 1.5
                pulls[k - base] = pull
                rest += weight * pull
                through -= weight
            # dL/dtau_k = g_k T_{k+1} - sum_{j > k} g_j w_j, as in `composite`
            through = 1.0
            for k in range(starts[ray], starts[ray + 1]):
                weight, pull = -through * clear[k - base], pulls[k - base]
                rest -= weight * pull
                through -= weight
                length = float(edges[k, 1]) - float(edges[k, 0])
                d_density[k] = grad[ray] * (pull * through - rest) * length


def distortion_cpu(density: Tensor, edges: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    spread = density.new_empty(counts.shape[0])
    inputs = [t.detach().contiguous().numpy() for t in (density, edges, places)]
    result, starts = spread.numpy(), starts_of(counts)
    parallel(lambda lo, hi: _distort_rays(*inputs, starts, result, lo, hi), counts.shape[0])
    return spread


def distortion_cpu_backward(grad: Tensor, density: Tensor, edges: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    d_density = torch.empty_like(density, memory_format=torch.contiguous_format)
    inputs = [t.detach().contiguous().numpy() for t in (grad, density, edges, places)]
    result, starts = d_density.numpy(), starts_of(counts)
    parallel(lambda lo, hi: _distort_rays_backward(*inputs, starts, result, lo, hi), counts.shape[0])
    return d_density


def _context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@region("distortion, backward")
def _backward(ctx, grad):
    return distortion_cpu_backward(grad, *ctx.saved_tensors), None, None, None


distortion_cpu = differentiable(distortion_cpu, _context, _backward)
