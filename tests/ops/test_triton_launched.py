"""Every launch, as far as it goes without a card: triton binds the arguments, specialises and compiles for a chip.

Only the start of the kernel is left out. The interpreter does nothing of this, and what is compiled ahead of time
(test_triton_compiled.py) is given its signature by the test: here it comes from the call.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops import dispatch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if ops.interpreting():
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

CHIP = 90


class Driver:
    """What triton asks of a driver before it starts a kernel."""

    def get_current_device(self) -> str:
        return "nowhere"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CHIP, 32)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often each kernel was compiled; the ops take triton, on tensors of the CPU."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    whole, made, number = JITFunction.run, set(), Counter[str]()

    def run(kernel: Any, *arguments: Any, grid: tuple[int], warmup: bool, **options: Any) -> None:
        assert grid[0] > 0
        compiled = whole(kernel, *arguments, grid=grid, warmup=True, **options)
        if compiled.hash not in made:
            made.add(compiled.hash)
            number[kernel.__name__] += 1

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", Driver())
    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(dispatch, "_why_refused", lambda *_: "")
    return number


def encode(scenes: int, points: int) -> None:
    grid = ops.GridSpec.make(3, 4, 2, 7, 4, 1.5)
    x, table = torch.rand(scenes, points, 3, requires_grad=True), torch.rand(scenes, grid.rows, 2, requires_grad=True)
    ops.hash_encode(x, table, grid, backend="triton").sum().backward()
    layers: list[tuple[Tensor, Tensor | None]] = [(torch.rand(scenes, 3, 8), torch.rand(scenes, 3))]
    ops.encode_mlp(x.detach(), table.detach(), grid, layers, backend="triton")


def network(scenes: int, points: int) -> None:
    layers: list[tuple[Tensor, Tensor | None]] = [
        (torch.rand(scenes, o, i, requires_grad=True), torch.rand(scenes, o)) for i, o in itertools.pairwise((8, 16, 4))
    ]
    ops.batched_mlp(torch.rand(scenes, points, 8), layers, backend="triton").sum().backward()


def along_rays(scenes: int, rays: int) -> None:
    origins = torch.rand(scenes, rays, 3)
    cells, step, offset = torch.ones(scenes, 4, 4, 4, dtype=torch.bool), 0.5, torch.rand(scenes, rays)
    from hyperfields.ops import _triton

    first = torch.arange(scenes * rays) * 9
    _triton.ray_march_padded_triton(origins, origins, cells, step, offset, first, 9, False, 0.0)
    counts = torch.full((scenes * rays,), 9)
    edges, flat = torch.rand(9 * scenes * rays, 2), origins.reshape(-1, 3)
    ops.gather_samples(flat, flat, edges, first, counts, total=len(edges), backend="triton")
    density, values = torch.rand(len(edges), requires_grad=True), torch.rand(len(edges), 3, requires_grad=True)
    ops.early_termination(density.detach(), edges, counts, torch.zeros(len(counts)), 0.9, backend="triton")
    ops.composite(density, values, edges, counts=counts, backend="triton").values.sum().backward()


@pytest.mark.parametrize(
    ("work", "kernels"),
    [
        (encode, {"encode_forward", "encode_backward", "encode_mlp"}),
        (network, {"mlp_forward", "mlp_backward"}),
        (along_rays, {"march_rays", "place_samples", "terminate_rays", "composite_rays", "composite_rays_backward"}),
    ],
)
def test_one_compilation_serves_any_number_of_scenes_and_points(
    work: Any, kernels: set[str], launched: Counter[str]
) -> None:
    """triton makes a number that is 1, or a multiple of 16, a part of the kernel, unless it is told not to."""
    work(1, 1)
    assert launched.keys() - {"cut_scenes"} == kernels
    work(3, 50)
    work(16, 2048)
    assert set(launched.values()) == {1}, launched


def test_marching_into_packed_samples_is_launched_twice(launched: Counter[str]) -> None:
    from hyperfields.ops._triton import rays

    origins = torch.rand(1, 5, 3)
    counts, edges = torch.zeros(5, dtype=torch.int64), torch.rand(50, 2)
    for starts in (None, torch.arange(6)):
        cells = torch.ones(1, 4, 4, 4, dtype=torch.bool)
        rays._launch_march(origins, origins, cells, 0.5, torch.rand(1, 5), starts, counts, edges, False, 0.1)
    assert launched == {"march_rays": 2}
