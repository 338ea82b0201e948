"""`rendered_error`: from the features of samples to the error of rays, and back to the gradients, in one kernel.

A task is some rays of a scene. Of these it takes at a time as many as have samples whose activations fit in the cache:
forward through both networks, along the rays to their errors, and back by the activations that are still there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.error import pixels_errors
from hyperfields.ops._cpu.mlp import (
    MLP_POINTS,
    TILE,
    hidden_size,
    load_tile,
    mlp_tile,
    mlp_tile_backward,
    pack_scene,
    packed_size,
    pad4,
    store_tile,
    unpack_add,
)
from hyperfields.ops._cpu.operators import with_gradients
from hyperfields.ops._cpu.radiance import densities, load_directions, sigmoid_rows
from hyperfields.ops._cpu.rays import clear_of, composite_block, composite_block_backward
from hyperfields.ops._cpu.threads import parallel, pieces_of, starts_of
from hyperfields.ops._cpu.vectors import FASTMATH, u64

AT_ONCE = 1024  # samples, of more than one ray


class Samples(NamedTuple):
    """Samples of all rays, and what the rays should show."""

    features: np.ndarray  # [m * i]
    d: np.ndarray  # [m 3]
    edges: np.ndarray  # [m 2]
    starts: np.ndarray  # [r + 1] where the samples of each ray begin
    rgba: np.ndarray  # [r 4]
    haze: np.floating
    share: np.floating  # of a ray in the mean


class Network(NamedTuple):
    """A network a scene."""

    params: np.ndarray  # [s p]
    sizes: np.ndarray  # widths
    packed: int  # numbers of a packed network
    hidden: int  # numbers of a tile's activations

    @classmethod
    def of(cls, params: Tensor, sizes: list[int]) -> Network:
        numbers = params.detach().contiguous().numpy()
        return cls(numbers, np.array(sizes, np.int64), packed_size(sizes), max(hidden_size(sizes), 1))


class Head(NamedTuple):
    """What lies between and behind the networks."""

    degree: int  # of the spherical harmonics
    slope: np.floating
    ceiling: np.floating  # of the log density


class Room(NamedTuple):
    """What is known of the samples that are at work: activations by tile, and values and cotangents by sample."""

    inputs: np.ndarray  # [tiles, ...] what each network reads, and its activations
    hidden: np.ndarray
    outs: np.ndarray  # log density, then what the colour network reads
    color_hidden: np.ndarray
    colors: np.ndarray
    density: np.ndarray  # [m], [m * 3]
    rgb: np.ndarray
    g_density: np.ndarray
    g_rgb: np.ndarray
    g_edges: np.ndarray  # [m 2] that nobody asks for
    above: np.ndarray  # tiles of cotangents
    below: np.ndarray
    joined: np.ndarray
    values: np.ndarray  # [TILE]
    powers: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _room(real, tiles, density, color, rows):
    """rows: of the widest tile."""
    points, tile = tiles * int(TILE), int(TILE)
    return Room(
        np.empty((tiles, rows * tile), real),
        np.empty((tiles, density.hidden), real),
        np.zeros((tiles, rows * tile), real),
        np.empty((tiles, color.hidden), real),
        np.empty((tiles, 4 * tile), real),
        np.empty(points, real),
        np.empty(points * 3, real),
        np.empty(points, real),
        np.empty(points * 3, real),
        np.empty((points, 2), real),
        np.empty(rows * tile, real),
        np.empty(rows * tile, real),
        np.empty(rows * tile, real),
        np.empty(tile),
        np.empty(tile),
    )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _forward(samples, first, last, density, color, weights, head, room):
    """Density and colour of the samples first ... last; weights: of both networks, packed."""
    width = density.sizes[density.sizes.shape[0] - 1]
    for tile in range((last - first + int(TILE) - 1) // int(TILE)):
        place = tile * int(TILE)
        begin, count = first + place, min(int(TILE), last - first - place)
        outs, colors = room.outs[tile], room.colors[tile]
        load_tile(samples.features, begin, count, density.sizes[0], room.inputs[tile])
        mlp_tile(room.inputs[tile], weights[0], density.sizes, head.slope, room.hidden[tile], outs)
        load_directions(samples.d, begin, count, head.degree, outs, width)
        mlp_tile(outs[TILE:], weights[1], color.sizes, head.slope, room.color_hidden[tile], colors)
        sigmoid_rows(colors, 3, room.values, room.powers)
        store_tile(colors, place, count, 3, room.rgb)
        densities(outs, head.ceiling, room.values, room.powers)
        for p in range(TILE):
            room.density[u64(place) + p] = room.values[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _along_rays(samples, begin, end, alpha, room):
    """Sum of the errors of the rays begin ... end; their opacities go to `alpha`, cotangents of samples to `room`."""
    first, last, rays = samples.starts[begin], samples.starts[end], end - begin
    starts, edges = samples.starts[begin : end + 1] - first, samples.edges[first:last]
    rgb, depth, g_alpha = np.empty((rays, 3), alpha.dtype), np.empty(rays, alpha.dtype), np.empty(rays, alpha.dtype)
    g_rgb, g_depth, opacity = np.empty_like(rgb), np.zeros_like(depth), alpha[begin:end]
    values, g_values = room.rgb.reshape(-1, 3), room.g_rgb.reshape(-1, 3)
    clear = clear_of(room.density, edges, 0, last - first)
    composite_block(values, edges, starts, clear, 0, rgb, opacity, depth, 0, rays)
    total = pixels_errors(rgb, opacity, samples.rgba[begin:end], samples.haze, samples.share, g_rgb, g_alpha)
    composite_block_backward(
        room.density, values, edges, starts, clear, 0, g_rgb, g_alpha, g_depth, room.g_density, g_values, room.g_edges,
        0, rays,
    )  # fmt: skip
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH, forceinline=True)
def _backward(first, last, density, color, transposed, head, room, partial, color_partial, g_features):
    """Adds the gradients of both networks, and fills those of the features of the samples first ... last."""
    width, zero, one = density.sizes[density.sizes.shape[0] - 1], g_features.dtype.type(0), g_features.dtype.type(1)
    above, below, joined = room.above, room.below, room.joined
    for tile in range((last - first + int(TILE) - 1) // int(TILE)):
        place = tile * int(TILE)
        begin, count = first + place, min(int(TILE), last - first - place)
        outs, colors = room.outs[tile], room.colors[tile]
        load_tile(room.g_rgb, place, count, 3, above)
        for k in range(u64(3) * TILE):
            above[k] *= colors[k] * (one - colors[k])
        pull = mlp_tile_backward(
            outs[TILE:], room.color_hidden[tile], transposed[1], color.sizes, head.slope, color_partial, True, above,
            below,
        )  # fmt: skip
        for p in range(u64(count)):  # above the ceiling, too: see `truncated_exp`
            joined[p] = room.g_density[u64(place) + p] * room.density[u64(place) + p]
        for p in range(u64(count), TILE):
            joined[p] = zero
        for k in range(TILE, u64(width) * TILE):
            joined[k] = pull[k - TILE]
        for k in range(u64(width) * TILE, (u64(width) + u64(3)) // u64(4) * u64(4) * TILE):
            joined[k] = zero
        pull = mlp_tile_backward(
            room.inputs[tile], room.hidden[tile], transposed[0], density.sizes, head.slope, partial, True, joined, below
        )
        store_tile(pull, begin, count, density.sizes[0], g_features)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
def _rendered_errors(
    samples, density, color, head, tasks, tiles, rows, sums, alpha, g_features, partial, color_partial, lo, hi
):
    """sums [tasks] of errors, partial gradients [tasks, p] of both networks. tiles, rows: of the room."""
    starts, real = samples.starts, samples.features.dtype
    room = _room(real, tiles, density, color, rows)
    weights = np.zeros(density.packed, real), np.zeros(color.packed, real)
    transposed = np.zeros(density.packed, real), np.zeros(color.packed, real)
    for number in range(lo, hi):
        scene, begin, end = tasks[number]
        total = 0.0
        pack_scene(density.params[scene], density.sizes, weights[0], False)
        pack_scene(density.params[scene], density.sizes, transposed[0], True)
        pack_scene(color.params[scene], color.sizes, weights[1], False)
        pack_scene(color.params[scene], color.sizes, transposed[1], True)
        while begin < end:
            stop = begin + 1
            while stop < end and starts[stop + 1] - starts[begin] <= AT_ONCE:
                stop += 1
            first, last = starts[begin], starts[stop]
            _forward(samples, first, last, density, color, weights, head, room)
            total += _along_rays(samples, begin, stop, alpha, room)
            _backward(
                first, last, density, color, transposed, head, room, partial[number], color_partial[number], g_features
            )
            begin = stop
        sums[number] = total


def rendered_error_cpu(
    features: Tensor, density_params: Tensor, color_params: Tensor, d: Tensor, edges: Tensor, counts: Tensor,
    rgba: Tensor, density_sizes: list[int], color_sizes: list[int], degree: int, slope: float, ceiling: float,
    haze: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Mean error [], its gradients in features [m i] and in the parameters [s p] of both networks, and opacity [s r].

    d [m 3], edges [m 2], counts [s*r], rgba [s r 4].
    """
    scenes, per_scene = rgba.shape[:2]
    points, ways, spans, truth = (part.detach().contiguous().numpy() for part in (features, d, edges, rgba))
    starts, real, share = starts_of(counts), points.dtype.type, 1.0 / counts.numel()
    samples = Samples(points.reshape(-1), ways, spans, starts, truth.reshape(-1, 4), real(haze), real(share))
    density, color = Network.of(density_params, density_sizes), Network.of(color_params, color_sizes)
    head = Head(degree, real(slope), real(ceiling))
    rays_of_task = max(MLP_POINTS * len(counts) // len(features), 1)
    tasks = pieces_of(np.arange(scenes + 1) * per_scene, rays_of_task)
    alpha, g_features = (
        rgba.new_empty(scenes, per_scene),
        torch.empty_like(features, memory_format=torch.contiguous_format),
    )
    results = alpha.numpy().reshape(-1), g_features.numpy().reshape(-1)
    sums, partials = np.empty(len(tasks)), [np.zeros((len(tasks), net.packed), real) for net in (density, color)]
    tiles = -(-max(AT_ONCE, int(np.diff(starts).max())) // int(TILE))
    rows = max(map(pad4, (*density_sizes, *color_sizes))) + 4

    def task(lo: int, hi: int) -> None:
        _rendered_errors(samples, density, color, head, tasks, tiles, rows, sums, *results, *partials, lo, hi)

    parallel(task, len(tasks))
    g_params = [
        torch.zeros_like(part, memory_format=torch.contiguous_format) for part in (density_params, color_params)
    ]
    for partial, network, gradient in zip(partials, (density, color), g_params, strict=True):
        unpack_add(partial, tasks, network.sizes, gradient.numpy())
    return features.new_tensor(sums.sum() * share), g_features, *g_params, alpha


rendered_error_cpu = with_gradients(rendered_error_cpu, 3)
