"""The kernels beside the reference, the usual formulations and what the machine can do at most. See `bench.py ops`.

All that is compared is timed in turns within one run, and the medians are taken: machines are noisy.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.ops._cpu.threads import parallel
from hyperfields.ops.grid import PRIMES

POINTS, SCENES = 2**18, 64
SIZES = (32, 64, 64, 16)
GRID = ops.GridSpec.make(3, 16, 2, 15, 16, 32 ** (1 / 15), False)  # 16 to 512 cells a side


class Row(NamedTuple):
    """One line of the table: `ratio` compares the kernel with `against`."""

    what: str
    milliseconds: float
    against: str
    ratio: float


def median_seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; every round makes each of them once."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def both_ways(forward: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and the gradients of all inputs."""
    cotangent = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, cotangent)


def quietly(forward: Callable[[], Tensor]) -> Callable[[], object]:
    """Forward alone, as in rendering."""

    def call() -> Tensor:
        with torch.no_grad():
            return forward()

    return call


@njit(nogil=True)
def bare_reads(table: np.ndarray, places: np.ndarray, first: int, last: int) -> None:
    """Copy what lies at `places` [levels points*corners] of `table` [levels rows], level by level, and nothing else."""
    got = np.empty(512, table.dtype)
    for level in range(places.shape[0]):
        rows = table[level]
        for begin in range(first, last, 512):
            here = places[level, begin : begin + 512]
            for k in range(np.uint64(512)):
                got[k] = rows[np.uint64(here[k])]


def places_of(x: Tensor) -> np.ndarray:
    """Rows within each level of the corners that the grid reads for points `[n 3]`: `[l n*8]`."""
    corners = torch.tensor(list(itertools.product((0, 1), repeat=3))).flip(1)
    results = []
    for level, scale in enumerate(GRID.scales):
        cell = (x * scale + 0.5).floor().long()[:, None] + corners
        if GRID.is_dense(level):
            row = (cell * torch.tensor([GRID.resolutions[level] ** d for d in range(3)])).sum(-1)
        else:
            first, second, third = (cell * torch.tensor(PRIMES[:3])).unbind(-1)
            row = first ^ second ^ third
        results.append((row % (GRID.offsets[level + 1] - GRID.offsets[level])).flatten().int())
    return torch.stack(results).numpy().view(np.uint32)


def hash_encode(rounds: int) -> list[Row]:
    x, table = torch.rand(1, POINTS, 3), torch.randn(1, GRID.rows, 2, requires_grad=True)

    def encode(backend: ops.Backend) -> Callable[[], Tensor]:
        return lambda: ops.hash_encode(x, table, GRID, backend=backend)

    # Ceilings: as many random reads of 8 bytes from a table of a level's size by torch; the kernel's own reads by the
    # barest loop, from rows of two float32 and of two bfloat16; and the writing of the result.
    wide, at_random = torch.randn(2**15).double(), torch.randint(2**15, (POINTS * 16 * 8,), dtype=torch.int32)
    places, result, piece = places_of(x[0, : 2**13]), torch.empty(POINTS, 32), 2**13
    rows8, rows4 = np.zeros((16, 2**15)), np.zeros((16, 2**15), np.float32)
    zeros = torch.zeros_like(result)

    def read(table: np.ndarray) -> None:
        def task(lo: int, hi: int) -> None:
            for number in range(lo, hi):
                first = number * piece * 8 % places.shape[1]
                bare_reads(table, places, first, first + piece * 8)

        parallel(task, POINTS // piece)

    forward = median_seconds(
        {
            "cpu": quietly(encode("cpu")),
            "reference": quietly(encode("reference")),
            "as many random reads of 8 bytes (torch.take)": lambda: torch.take(wide, at_random.long()),
            "its own reads alone, places known beforehand": lambda: read(rows8),
            "the same from rows of two bfloat16": lambda: read(rows4),
            "a copy as large as the result": lambda: result.copy_(zeros),
        },
        rounds,
    )
    backward = median_seconds(
        {name: both_ways(encode(name), [table]) for name in ("cpu", "reference")},  # type: ignore[arg-type]
        rounds,
    )
    return rows("hash_encode, 262,144 points, forward", forward) + rows("the same, forward + backward", backward)


def batched_mlp(rounds: int) -> list[Row]:
    n = POINTS // SCENES
    x = torch.randn(SCENES, n, SIZES[0], requires_grad=True)
    layers = [
        (torch.randn(SCENES, o, i, requires_grad=True), torch.randn(SCENES, o, requires_grad=True))
        for i, o in itertools.pairwise(SIZES)
    ]
    inputs = [x, *(t for layer in layers for t in layer)]
    module = nn.Sequential(*[part for i, o in itertools.pairwise(SIZES) for part in (nn.Linear(i, o), nn.ReLU())][:-1])
    names = [name for name, _ in module.named_parameters()]

    def vmapped() -> Tensor:
        weights = dict(zip(names, (t for layer in layers for t in layer), strict=True))
        result = torch.func.vmap(lambda w, p: torch.func.functional_call(module, w, (p,)))(weights, x)
        assert isinstance(result, Tensor)
        return result

    def by_hyperlight() -> Tensor:
        outputs = []
        for scene, points in enumerate(x):
            with external.using_externals(dict(zip(names, (t[scene] for layer in layers for t in layer), strict=True))):
                outputs.append(external(points))
        return torch.stack(outputs)

    def bmm() -> Tensor:
        h = x
        for number, (weight, bias) in enumerate(layers):
            h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
            h = h.relu() if number + 1 < len(layers) else h
        return h

    calls: dict[str, Callable[[], Tensor]] = {
        "cpu": lambda: ops.batched_mlp(x, layers, backend="cpu"),
        "reference (a loop over scenes)": lambda: ops.batched_mlp(x, layers, backend="reference"),
        "torch.baddbmm": bmm,
        "vmap(functional_call)": vmapped,
    }
    if importlib.util.find_spec("hyperlight"):
        hyperlight, blank = importlib.import_module("hyperlight"), copy.deepcopy(module)
        external = hyperlight.hypernetize(blank, parameters=list(blank.parameters()))
        calls["hyperlight, a loop over scenes"] = by_hyperlight
    else:
        print("hyperlight is not installed and left out: pip install hyperlight", file=sys.stderr)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    products = sum(i * o for i, o in itertools.pairwise(SIZES)) * POINTS
    results = []
    for what, way, share in (
        ("batched_mlp, 64 x 4,096 points, 32-64-64-16, forward", quietly, products / 2048**3),
        ("the same, forward + backward", lambda call: both_ways(call, inputs), 3 * products / 2048**3),
    ):
        seconds = median_seconds({name: way(call) for name, call in calls.items()} | {"peak": lambda: a @ b}, rounds)
        seconds["the peak of a matrix product of 2,048 (share of it)"] = seconds.pop("peak") * share
        results += rows(what, seconds)
    return results


def rows(what: str, seconds: dict[str, float]) -> list[Row]:
    """The kernel against each of the others: how many times as fast."""
    own = seconds.pop("cpu")
    return [Row(what, own * 1e3, name, value / own) for name, value in seconds.items()]
