"""Ops that lead rays through space on a GPU, and compositing along them.

`ray_march`, whose result is as long as what it keeps, asks the device once how long that is; nothing else here waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperfields.ops._triton.packing import launching_on
from hyperfields.ops.reference import space as definition
from hyperfields.ops.space import Space

RAYS_PER_PROGRAM = 128  # of a program that has a thread a ray
HORIZON = tl.constexpr(2.0 - 1.0 / definition.HORIZON)  # contracted parameter at which a ray ends
SAMPLES_AT_ONCE = 32  # samples of a ray at a time, for programs that have a ray each


def starts_of(counts: Tensor) -> Tensor:
    """Starts `[r + 1]` of the elements of each among the packed ones, and how many there are."""
    starts = counts.new_zeros(counts.shape[0] + 1)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts


# -------------------------------------------------------------------------------------------------- ray_march


@triton.jit(do_not_specialize=["rays", "of_scene", "size"])
def march_rays(
    origins,
    directions,
    cells,
    offset,
    starts,
    counts,
    edges,
    rays,
    of_scene,
    size,
    half,
    step,
    nearest,
    CONTRACTED: tl.constexpr,
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts the samples of each ray, and if wanted writes their edges from `starts` on.

    Same arithmetic in the same order as the reference, and without fused multiply-adds, so that both keep the same.
    """
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = ray < rays
    zero = tl.zeros((BLOCK,), tl.float32)
    near, far = zero, zero + float("inf")
    for d in tl.static_range(3):
        o = tl.load(origins + ray * 3 + d, live, 0.0)
        v = tl.load(directions + ray * 3 + d, live, 1.0)
        inverse = tl.div_rn(zero + 1.0, tl.where(tl.abs(v) < 1e-12, 1e-12, v))
        a, b = (-1.0 - o) * inverse, (1.0 - o) * inverse
        near, far = tl.maximum(near, tl.minimum(a, b)), tl.minimum(far, tl.maximum(a, b))
    ahead = tl.load(offset + ray, live, 0.0)
    o0 = tl.load(origins + ray * 3, live, 0.0)
    o1 = tl.load(origins + ray * 3 + 1, live, 0.0)
    o2 = tl.load(origins + ray * 3 + 2, live, 0.0)
    d0 = tl.load(directions + ray * 3, live, 1.0)
    d1 = tl.load(directions + ray * 3 + 1, live, 1.0)
    d2 = tl.load(directions + ray * 3 + 2, live, 1.0)
    if CONTRACTED:
        along, radius = _ray_frame(o0, o1, o2, d0, d1, d2)
        near = _contract(tl.div_rn(nearest - along, radius))
        far = zero + HORIZON
    steps = tl.where(live & (near < far), tl.ceil(tl.div_rn(far - near, zero + step)) + 1.0, 0.0)
    first_cell = cells + ray // of_scene * size * size * size
    if WRITE:
        begin = tl.load(starts + ray, live, 0)
    kept = tl.zeros((BLOCK,), tl.int64)
    for k in range(0, tl.max(steps, 0).to(tl.int32)):
        start = near + (zero + k + ahead - 1.0) * step
        end = tl.minimum(start + step, far)
        start = tl.maximum(start, near)
        inside = live & (near < far) & (end > start)
        if CONTRACTED:
            start, end = along + radius * _expand(tl.minimum(start, far)), along + radius * _expand(end)
        middle = 0.5 * (start + end)
        x, y, z = o0 + middle * d0, o1 + middle * d1, o2 + middle * d2
        if CONTRACTED:
            reach = tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.maximum(tl.abs(z), 1.0))
            shrink = tl.div_rn(1.0 - tl.div_rn(zero + 0.5, reach), reach)
            x, y, z = x * shrink, y * shrink, z * shrink
        i = _cell(x, half)
        j = _cell(y, half)
        l = _cell(z, half)  # noqa: E741
        keep = tl.load(first_cell + (i * size + j) * size + l, inside, 0) != 0
        if WRITE:
            tl.store(edges + (begin + kept) * 2, start, keep)
            tl.store(edges + (begin + kept) * 2 + 1, end, keep)
        kept += keep.to(tl.int64)
    tl.store(counts + ray, kept, live)


@triton.jit
def _ray_frame(o0, o1, o2, d0, d1, d2):
    """See `reference.space.ray_frame`."""
    along = -(o0 * d0 + o1 * d1 + o2 * d2)
    a, b, c = o0 + along * d0, o1 + along * d1, o2 + along * d2
    return along, tl.maximum(tl.sqrt_rn(a * a + b * b + c * c), 1.0)


@triton.jit
def _contract(v):
    size = tl.abs(v)
    outer = 2.0 - tl.div_rn(0.0 * v + 1.0, tl.maximum(size, 1.0))
    return tl.where(size <= 1.0, v, tl.where(v > 0.0, outer, -outer))


@triton.jit
def _expand(s):
    size = tl.abs(s)
    outer = tl.div_rn(0.0 * s + 1.0, 2.0 - tl.maximum(size, 1.0))
    return tl.where(size <= 1.0, s, tl.where(s > 0.0, outer, -outer))


@triton.jit
def _cell(coordinate, half):
    """Number of the cell along an axis; clamped before it is an integer, as rays may pass far outside."""
    return tl.minimum(tl.maximum(tl.floor((coordinate + 1.0) * half), 0.0), 2.0 * half - 1.0).to(tl.int32)


def _launch_march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor,
    starts: Tensor | None,
    counts: Tensor,
    edges: Tensor,
    contracted: bool,
    nearest: float,
) -> None:
    """Fills `counts [s*r]`, and where there are `starts` also `edges`."""
    total, size = counts.shape[0], occupancy.shape[-1]
    tensors = [t.contiguous() for t in (origins, directions, occupancy.view(torch.uint8), offset)]
    if total:
        with launching_on(origins):
            march_rays[(-(-total // RAYS_PER_PROGRAM),)](
                *tensors, counts if starts is None else starts, counts, edges, total, origins.shape[1], size,
                0.5 * size, step, nearest, CONTRACTED=contracted, WRITE=starts is not None, BLOCK=RAYS_PER_PROGRAM,
                num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip


def ray_march_triton(
    origins: Tensor, directions: Tensor, occupancy: Tensor, step: float, offset: Tensor, space: Space
) -> tuple[Tensor, Tensor]:
    """Not differentiable. origins [s r 3] -> edges [m 2], counts [s*r], both on the device."""
    rays = (origins, directions, occupancy, step, offset)
    counts = torch.zeros(origins.shape[0] * origins.shape[1], dtype=torch.int64, device=origins.device)
    _launch_march(*rays, None, counts, origins, space.contracted, space.near)
    starts = starts_of(counts)
    edges = origins.new_empty(int(starts[-1]), 2)
    _launch_march(*rays, starts, counts, edges, space.contracted, space.near)
    return edges, counts


@torch.library.custom_op("hyperfields::ray_march_padded_triton", mutates_args=())
def ray_march_padded_triton(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    step: float,
    offset: Tensor,
    first: Tensor,
    room: int,
    contracted: bool,
    nearest: float,
) -> tuple[Tensor, Tensor]:
    """Not differentiable. The same, but the samples of a ray begin at its row `first [s*r]` of edges [s*r*room 2]."""
    edges, counts = origins.new_empty(first.shape[0] * room, 2), torch.zeros_like(first)
    _launch_march(origins, directions, occupancy, step, offset, first, counts, edges, contracted, nearest)
    return edges, counts


@ray_march_padded_triton.register_fake
def _(origins, directions, occupancy, step, offset, first, room, contracted, nearest):
    return origins.new_empty(first.shape[0] * room, 2), torch.empty_like(first)


# --------------------------------------------------------------------------------------------- gather_samples


@triton.jit
def place_samples(origins, directions, edges, first, starts, x, d, spans, BLOCK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + ray)
    count = tl.load(starts + ray + 1) - begin
    source = tl.load(first + ray)
    for k in range(0, count, BLOCK):
        j = k + tl.arange(0, BLOCK)
        live = j < count
        start = tl.load(edges + (source + j) * 2, live, 0.0)
        end = tl.load(edges + (source + j) * 2 + 1, live, 0.0)
        middle = 0.5 * (start + end)
        tl.store(spans + (begin + j) * 2, start, live)
        tl.store(spans + (begin + j) * 2 + 1, end, live)
        for axis in tl.static_range(3):
            o, v = tl.load(origins + ray * 3 + axis), tl.load(directions + ray * 3 + axis)
            tl.store(x + (begin + j) * 3 + axis, o + middle * v, live)
            tl.store(d + (begin + j) * 3 + axis, v + 0.0 * middle, live)


@torch.library.custom_op("hyperfields::gather_samples_triton", mutates_args=())
def gather_samples_triton(
    origins: Tensor, directions: Tensor, edges: Tensor, first: Tensor, counts: Tensor, total: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Not differentiable. origins [r 3], first and counts [r] on the device -> x, d [total 3], edges [total 2]."""
    x, d, spans = edges.new_empty(total, 3), edges.new_empty(total, 3), edges.new_empty(total, 2)
    if total:
        with launching_on(edges):
            place_samples[(counts.shape[0],)](
                origins.contiguous(), directions.contiguous(), edges.contiguous(), first.contiguous(),
                starts_of(counts), x, d, spans, BLOCK=SAMPLES_AT_ONCE, num_warps=1,
            )  # fmt: skip
    return x, d, spans


@gather_samples_triton.register_fake
def _(origins, directions, edges, first, counts, total):
    return edges.new_empty(total, 3), edges.new_empty(total, 3), edges.new_empty(total, 2)


# ------------------------------------------------------------------------------------------ early_termination


@triton.jit(do_not_specialize=["rays"])
def terminate_rays(density, edges, starts, opacity, counts, after, rays, opaque, BLOCK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = ray < rays
    begin = tl.load(starts + ray, live, 0)
    count = tl.load(starts + ray + 1, live, 0) - begin
    through = 1.0 - tl.load(opacity + ray, live, 0.0)
    kept = tl.zeros((BLOCK,), tl.int64)
    for k in range(0, tl.max(count, 0)):
        visible = (k < count) & (1.0 - through < opaque)
        start = tl.load(edges + (begin + k) * 2, visible, 0.0)
        end = tl.load(edges + (begin + k) * 2 + 1, visible, 0.0)
        sigma = tl.load(density + begin + k, visible, 0.0)
        through = tl.where(visible, through * tl.exp(-(sigma * (end - start))), through)
        kept += visible.to(tl.int64)
    tl.store(counts + ray, kept, live)
    tl.store(after + ray, 1.0 - through, live)


@torch.library.custom_op("hyperfields::early_termination_triton", mutates_args=())
def early_termination_triton(
    density: Tensor, edges: Tensor, counts: Tensor, opacity: Tensor, opaque: float
) -> tuple[Tensor, Tensor]:
    """Not differentiable. density [m], counts and opacity [r] on the device -> counts [r], opacity [r]."""
    rays = counts.shape[0]
    kept, after = torch.zeros_like(counts), torch.zeros_like(opacity, memory_format=torch.contiguous_format)
    if rays:
        with launching_on(edges):
            terminate_rays[(-(-rays // RAYS_PER_PROGRAM),)](
                density.contiguous(), edges.contiguous(), starts_of(counts), opacity.contiguous(), kept, after,
                rays, opaque, BLOCK=RAYS_PER_PROGRAM, num_warps=4,
            )  # fmt: skip
    return kept, after


@early_termination_triton.register_fake
def _(density, edges, counts, opacity, opaque):
    return torch.empty_like(counts), torch.empty_like(opacity)


# -------------------------------------------------------------------------------------------------- composite


@triton.jit
def _absorbed(optical):
    """1 - exp(-optical), to full precision where it is small."""
    series = optical * (1.0 - optical / 2.0 * (1.0 - optical / 3.0 * (1.0 - optical / 4.0 * (1.0 - optical / 5.0))))
    return tl.where(tl.abs(optical) < 0.1, series, 1.0 - tl.exp(-optical))


@triton.jit
def _samples_at(density, edges, place, live, lane):
    """(optical lengths of SAMPLES_AT_ONCE samples, what lies before each within them, start, end, density)."""
    start = tl.load(edges + place * 2, live, 0.0).to(tl.float32)
    end = tl.load(edges + place * 2 + 1, live, 0.0).to(tl.float32)
    sigma = tl.load(density + place, live, 0.0).to(tl.float32)
    # The sample before is read again instead of taken off the sum: infinite - infinite is no number.
    earlier = live & (lane > 0)
    length = tl.load(edges + place * 2 - 1, earlier, 0.0).to(tl.float32)
    length -= tl.load(edges + place * 2 - 2, earlier, 0.0).to(tl.float32)
    before = tl.cumsum(tl.load(density + place - 1, earlier, 0.0).to(tl.float32) * length, 0)
    return sigma * (end - start), before, start, end, sigma


@triton.jit
def composite_rays(
    density, values, edges, starts, rgb, alpha, depth, C: tl.constexpr, PC: tl.constexpr, BLOCK: tl.constexpr
):
    ray = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + ray)
    count = tl.load(starts + ray + 1) - begin
    lane, channel = tl.arange(0, BLOCK), tl.arange(0, PC)
    passed = 0.0  # optical length of what came before these samples
    opacity, distance = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    color = tl.zeros((BLOCK, PC), tl.float32)
    for k in range(0, count, BLOCK):
        live = k + lane < count
        place = begin + k + lane
        optical, before, start, end, _ = _samples_at(density, edges, place, live, lane)
        weight = tl.exp(-(passed + before)) * _absorbed(optical)
        opacity += weight
        distance += weight * 0.5 * (start + end)
        mask = live[:, None] & (channel[None, :] < C)
        value = tl.load(values + place[:, None] * C + channel[None, :], mask, 0.0).to(tl.float32)
        color += weight[:, None] * value
        passed += tl.sum(optical, 0)
    tl.store(rgb + ray * C + channel, tl.sum(color, 0).to(rgb.dtype.element_ty), channel < C)
    tl.store(alpha + ray, tl.sum(opacity, 0).to(alpha.dtype.element_ty))
    tl.store(depth + ray, tl.sum(distance, 0).to(depth.dtype.element_ty))


@triton.jit
def composite_rays_backward(
    g_rgb,
    g_alpha,
    g_depth,
    density,
    values,
    edges,
    starts,
    rgb,
    alpha,
    depth,
    d_density,
    d_values,
    d_edges,
    C: tl.constexpr,
    PC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dL/dtau_k = g_k T_{k+1} - sum_{j > k} g_j w_j, with g_k = dL/dw_k: the whole sum is known from the outputs."""
    ray = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + ray)
    count = tl.load(starts + ray + 1) - begin
    lane, channel = tl.arange(0, BLOCK), tl.arange(0, PC)
    pull_alpha = tl.load(g_alpha + ray).to(tl.float32)
    pull_depth = tl.load(g_depth + ray).to(tl.float32)
    pull_color = tl.load(g_rgb + ray * C + channel, channel < C, 0.0).to(tl.float32)
    color = tl.load(rgb + ray * C + channel, channel < C, 0.0).to(tl.float32)
    rest = tl.sum(pull_color * color, 0)
    rest += pull_alpha * tl.load(alpha + ray).to(tl.float32) + pull_depth * tl.load(depth + ray).to(tl.float32)
    passed = 0.0
    for k in range(0, count, BLOCK):
        live = k + lane < count
        place = begin + k + lane
        optical, before, start, end, sigma = _samples_at(density, edges, place, live, lane)
        weight = tl.exp(-(passed + before)) * _absorbed(optical)
        mask = live[:, None] & (channel[None, :] < C)
        where = place[:, None] * C + channel[None, :]
        value = tl.load(values + where, mask, 0.0).to(tl.float32)
        pull = pull_alpha + pull_depth * 0.5 * (start + end) + tl.sum(pull_color[None, :] * value, 1)
        behind = rest - tl.cumsum(weight * pull, 0)
        d_optical = pull * tl.exp(-(passed + before + optical)) - behind
        tl.store(d_values + where, (weight[:, None] * pull_color[None, :]).to(d_values.dtype.element_ty), mask)
        tl.store(d_density + place, (d_optical * (end - start)).to(d_density.dtype.element_ty), live)
        along = 0.5 * weight * pull_depth
        tl.store(d_edges + place * 2, (along - d_optical * sigma).to(d_edges.dtype.element_ty), live)
        tl.store(d_edges + place * 2 + 1, (along + d_optical * sigma).to(d_edges.dtype.element_ty), live)
        rest -= tl.sum(weight * pull, 0)
        passed += tl.sum(optical, 0)


@torch.library.custom_op("hyperfields::composite_triton", mutates_args=())
def composite_triton(density: Tensor, values: Tensor, edges: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """density [m], values [m c], edges [m 2], counts [r] on the same device."""
    rays, channels = counts.shape[0], values.shape[1]
    rgb, alpha, depth = values.new_empty(rays, channels), values.new_empty(rays), values.new_empty(rays)
    if rays:
        with launching_on(values):
            composite_rays[(rays,)](
                density.contiguous(), values.contiguous(), edges.contiguous(), starts_of(counts), rgb, alpha, depth,
                C=channels, PC=triton.next_power_of_2(channels), BLOCK=SAMPLES_AT_ONCE, num_warps=1,
            )  # fmt: skip
    return rgb, alpha, depth


@torch.library.custom_op("hyperfields::composite_triton_backward", mutates_args=())
def composite_triton_backward(
    g_rgb: Tensor,
    g_alpha: Tensor,
    g_depth: Tensor,
    density: Tensor,
    values: Tensor,
    edges: Tensor,
    counts: Tensor,
    rgb: Tensor,
    alpha: Tensor,
    depth: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = [t.contiguous() for t in (g_rgb, g_alpha, g_depth, density, values, edges)]
    d_density, d_values, d_edges = (torch.empty_like(t) for t in tensors[3:])
    channels = values.shape[1]
    if counts.shape[0]:
        with launching_on(values):
            composite_rays_backward[(counts.shape[0],)](
                *tensors, starts_of(counts), rgb, alpha, depth, d_density, d_values, d_edges,
                C=channels, PC=triton.next_power_of_2(channels), BLOCK=SAMPLES_AT_ONCE, num_warps=1,
            )  # fmt: skip
    return d_density, d_values, d_edges


@composite_triton.register_fake
def _(density, values, edges, counts):
    rays = counts.shape[0]
    return values.new_empty(rays, values.shape[1]), values.new_empty(rays), values.new_empty(rays)


@composite_triton_backward.register_fake
def _(g_rgb, g_alpha, g_depth, density, values, edges, counts, rgb, alpha, depth):
    return tuple(t.new_empty(t.shape) for t in (density, values, edges))


def _composite_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)


def _composite_backward(ctx, g_rgb, g_alpha, g_depth):
    return *composite_triton_backward(g_rgb, g_alpha, g_depth, *ctx.saved_tensors), None


composite_triton.register_autograd(_composite_backward, setup_context=_composite_context)
