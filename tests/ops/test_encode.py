"""hash_encode: the reference against the formulas and by hand, every backend against the reference."""

from __future__ import annotations

import importlib.util
import itertools
import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.ops import dispatch
from hyperfields.ops.grid import PRIMES, GridSpec

from ._parity import (
    Call,
    assert_forward_derivative_is_refused_or_right,
    assert_parity,
    assert_same_at_any_number_of_threads,
    assert_second_derivative_is_refused,
    each_backend,
    each_dtype,
    needs_cpu,
    random_numbers,
)

GRIDS = {
    "3-D F1": GridSpec.make(3, 4, 1, 9, 4, 1.7),
    "3-D F2": GridSpec.make(3, 4, 2, 9, 4, 1.7),
    "3-D F4": GridSpec.make(3, 4, 4, 9, 4, 1.7),
    "3-D F8": GridSpec.make(3, 3, 8, 9, 4, 2.0),
    "3-D F2 smoothstep": GridSpec.make(3, 4, 2, 9, 4, 1.7, smoothstep=True),
    "2-D F1": GridSpec.make(2, 4, 1, 7, 4, 1.9),
    "2-D F2": GridSpec.make(2, 4, 2, 7, 4, 1.9),
    "2-D F4": GridSpec.make(2, 4, 4, 7, 4, 1.9),
    "2-D F2 smoothstep": GridSpec.make(2, 4, 2, 7, 4, 1.9, smoothstep=True),
}
# Every dtype x dimension x F is compiled by itself, some seconds each: float64 is tried at F 2 only.
GRIDS_AND_DTYPES = [
    pytest.param(grid, dtype, id=f"{name} {str(dtype).removeprefix('torch.')}")
    for name, grid in GRIDS.items()
    for dtype in (torch.float32, torch.float64)
    if dtype == torch.float32 or grid.features == 2
]
# Scales that are powers of two: float32 and float64 agree exactly on which cell a face belongs to.
EXACT = {2: GridSpec(2, 2, (4.0, 8.0, 16.0), (5, 9, 17), (0, 32, 120, 248))}
EXACT[3] = GridSpec(3, 2, (4.0, 8.0, 16.0), (5, 9, 17), (0, 128, 640, 1152))


def table_of(grid: GridSpec, scenes: int, seed: int = 7) -> Tensor:
    return random_numbers(scenes, grid.rows, grid.features, seed=seed)


def points_of(grid: GridSpec, count: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    """`[count d]`, uniform, float32 values, none so near a cell face that float32 may take the next cell."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(2 * count + 64, grid.dims, generator=generator) * (high - low) + low).double()
    place = x[:, :, None] * torch.tensor(grid.scales, dtype=torch.float64) + 0.5
    clear = ((place - place.round()).abs() > 1e-4).all(-1).all(-1)
    assert int(clear.sum()) >= count
    return x[clear][:count]


def encode(grid: GridSpec, counts: list[int] | None = None) -> Call:
    numbers = None if counts is None else torch.tensor(counts)
    return lambda backend, x, table: ops.hash_encode(x, table, grid, counts=numbers, backend=backend)


def by_the_formulas(x: list[float], table: Tensor, grid: GridSpec) -> list[float]:
    """One point, by the formulas at the head of `ops/grid.py`, in Python integers, without the reference."""
    result = []
    for level, scale in enumerate(grid.scales):
        rows, resolution = grid.offsets[level + 1] - grid.offsets[level], grid.resolutions[level]
        place = [c * scale + 0.5 for c in x]
        cell = [math.floor(p) for p in place]
        blend = [p - g for p, g in zip(place, cell, strict=True)]
        if grid.smoothstep:
            blend = [w * w * (3 - 2 * w) for w in blend]
        total = torch.zeros(grid.features, dtype=torch.float64)
        for corner in itertools.product((0, 1), repeat=grid.dims):
            vertex = [(g + bit) % 2**32 for g, bit in zip(cell, corner, strict=True)]
            if rows >= resolution**grid.dims:
                row = sum(v * resolution**d for d, v in enumerate(vertex)) % 2**32
            else:
                row = 0
                for v, prime in zip(vertex, PRIMES, strict=False):
                    row ^= v * prime % 2**32
            weight = math.prod(w if bit else 1 - w for w, bit in zip(blend, corner, strict=True))
            total += weight * table[grid.offsets[level] + row % rows]
        result += total.tolist()
    return result


# --------------------------------------------------------------------------------------------------- the grid


def test_the_grid_has_as_many_numbers_as_in_tiny_cuda_nn() -> None:
    grid = GridSpec.make(3, 16, 2, 19, 16, 1.51572)
    assert grid.rows * grid.features == 13_074_912
    assert grid.channels == 32
    assert grid.resolutions[:2] == (16, 25)
    assert [grid.is_dense(level) for level in range(16)] == [True] * 4 + [False] * 12  # 85^3 > 2^19


def test_the_parity_grids_have_dense_and_hashed_levels() -> None:
    for grid in [*GRIDS.values(), *EXACT.values()]:
        assert {grid.is_dense(level) for level in range(grid.levels)} == {True, False}


def test_levels_are_padded_to_eight_rows_and_cut_to_the_table() -> None:
    grid = GridSpec.make(2, 3, 4, 6, 3, 2.0)
    assert grid.scales == (2.0, 5.0, 11.0)
    assert grid.resolutions == (3, 6, 12)
    assert grid.offsets == (0, 16, 16 + 40, 16 + 40 + 64)  # roundup8(9), roundup8(36), 2^6 instead of 144


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": 0}, "grid dims: got 0, wanted 1 to 7"),
        ({"dims": 8}, "grid dims: got 8, wanted 1 to 7"),
        ({"levels": 0}, "got levels 0"),
        ({"features": 0}, "features 0"),
        ({"log2_table": 2}, "log2_table 2"),
        ({"base_resolution": 1}, "base_resolution 1"),
        ({"per_level_scale": 0.5}, r"per_level_scale 0\.5; wanted at least 1, 1, 3, 2 and 1\.0"),
    ],
)
def test_a_grid_out_of_range_is_refused(changed: dict[str, float], message: str) -> None:
    numbers = {
        "dims": 3,
        "levels": 2,
        "features": 2,
        "log2_table": 9,
        "base_resolution": 4,
        "per_level_scale": 2.0,
    }
    with pytest.raises(ValueError, match=message):
        GridSpec.make(**(numbers | changed))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- by hand


@each_backend
def test_a_two_by_two_grid_is_what_is_computed_by_hand(backend: ops.Backend) -> None:
    grid = GridSpec.make(2, 1, 1, 3, 2, 1.0)  # scale 1, resolution 2, 8 rows; position = x + 0.5
    table = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 7.0, 8.0]).reshape(1, 8, 1)
    x = torch.tensor([[[0.0, 0.0], [0.5, 0.5], [0.5, 0.0], [0.0, 0.5], [0.25, 0.75]]])
    wanted = [
        (1 + 10 + 100 + 1000) / 4,  # half-way between vertices (0, 0) (1, 0) (0, 1) (1, 1): rows 0 to 3
        1000.0,  # vertex (1, 1): row 1 + 2
        (10 + 1000) / 2,  # (1, 0) and (1, 1)
        (100 + 1000) / 2,  # (0, 1) and (1, 1)
        # position (0.75, 1.25): vertices (0, 1) (1, 1) (0, 2) (1, 2), rows 2 to 5
        0.25 * 0.75 * 100 + 0.75 * 0.75 * 1000 + 0.25 * 0.25 * 10000 + 0.75 * 0.25 * 100000,
    ]
    result = ops.hash_encode(x, table, grid, backend=backend)
    assert result.flatten().tolist() == wanted


@each_backend
@pytest.mark.parametrize("dims", [2, 3])
def test_a_vertex_gives_its_row(backend: ops.Backend, dims: int) -> None:
    grid = EXACT[dims]
    table = table_of(grid, 1)
    cells = torch.tensor(list(itertools.product(range(1, 5), repeat=dims)))
    x = (cells - 0.5) / 4.0  # vertices of level 0, scale 4: position is exactly the vertex
    result = ops.hash_encode(x[None].double(), table, grid, backend=backend)[0, :, :2]
    rows = (cells * torch.tensor([5**d for d in range(dims)])).sum(1) % grid.offsets[1]
    assert torch.equal(result, table[0, rows])


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_the_reference_follows_the_formulas(grid: GridSpec) -> None:
    table = table_of(grid, 1)
    x = torch.cat((points_of(grid, 15), points_of(grid, 15, -2.5, 3.5, seed=1)))
    x = torch.cat((x, torch.zeros(1, grid.dims), torch.ones(1, grid.dims)))
    result = ops.hash_encode(x[None], table, grid, backend="reference")[0]
    wanted = torch.tensor([by_the_formulas(point, table[0], grid) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)


@each_backend
@pytest.mark.parametrize("grid", [GRIDS["3-D F2"], GRIDS["2-D F2 smoothstep"]], ids=["3-D", "2-D smoothstep"])
def test_a_constant_table_gives_that_constant_everywhere_and_no_gradient(backend: ops.Backend, grid: GridSpec) -> None:
    x = (torch.rand(1, 300, grid.dims, dtype=torch.float64) * 6 - 2.5).requires_grad_()
    result = ops.hash_encode(x, torch.full((1, grid.rows, 2), 0.75, dtype=torch.float64), grid, backend=backend)
    torch.testing.assert_close(result, torch.full_like(result, 0.75))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.abs().max() < 1e-12


# ----------------------------------------------------------------------------------------------------- parity


@each_backend
@pytest.mark.parametrize("shared", [False, True], ids=["a table each", "one table"])
@pytest.mark.parametrize("n", [0, 1, 1001])
@pytest.mark.parametrize("scenes", [1, 3])
@pytest.mark.parametrize(("grid", "dtype"), GRIDS_AND_DTYPES)
def test_forward_and_gradients_are_those_of_the_reference(
    grid: GridSpec, dtype: torch.dtype, scenes: int, n: int, shared: bool, backend: str
) -> None:
    x = points_of(grid, scenes * n).reshape(scenes, n, grid.dims)
    table = table_of(grid, 1 if shared else scenes)
    assert_parity(encode(grid), backend, {"x": x, "table": table}, dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("shared", [False, True], ids=["a table each", "one table"])
@pytest.mark.parametrize("counts", [[300, 0, 701], [0, 5], [0, 0, 0], [1]], ids=str)
@pytest.mark.parametrize("name", ["3-D F2", "2-D F2 smoothstep"])
def test_ragged_points_are_those_of_the_reference(
    name: str, counts: list[int], shared: bool, dtype: torch.dtype, backend: str
) -> None:
    grid = GRIDS[name]
    inputs = {"x": points_of(grid, sum(counts)), "table": table_of(grid, 1 if shared else len(counts))}
    assert_parity(encode(grid, counts), backend, inputs, dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("name", ["3-D F2", "2-D F2", "3-D F2 smoothstep"])
def test_points_on_the_box_and_outside_it_are_those_of_the_reference(
    name: str, dtype: torch.dtype, backend: str
) -> None:
    grid = GRIDS[name]
    edges = torch.tensor(list(itertools.product((0.0, 1.0), repeat=grid.dims)), dtype=torch.float64)
    outside = points_of(grid, 400, -2.5, 3.5)
    x = torch.cat((edges, points_of(grid, 300, seed=3), outside))[None]
    assert_parity(encode(grid), backend, {"x": x, "table": table_of(grid, 1)}, dtype)
    assert_parity(encode(grid), backend, {"x": edges[None], "table": table_of(grid, 1)}, dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("smoothstep", [False, True], ids=["linear", "smoothstep"])
@pytest.mark.parametrize("dims", [2, 3])
def test_points_on_cell_faces_are_those_of_the_reference(
    dims: int, smoothstep: bool, dtype: torch.dtype, backend: str
) -> None:
    grid = GridSpec(dims, 2, EXACT[dims].scales, EXACT[dims].resolutions, EXACT[dims].offsets, smoothstep)
    faces = (torch.arange(-2, 8, dtype=torch.float64) - 0.5) / 4.0  # faces of level 0, three of them outside
    x = torch.cartesian_prod(*[faces] * dims)[None]
    assert_parity(encode(grid), backend, {"x": x, "table": table_of(grid, 1)}, dtype)


@needs_cpu
def test_many_points_are_those_of_the_reference() -> None:
    """More than one task and many blocks, the last ones not full."""
    grid = GRIDS["3-D F2"]
    inputs = {"x": points_of(grid, 9001), "table": table_of(grid, 3)}
    assert_parity(encode(grid, [4097, 0, 4904]), "cpu", inputs, torch.float32)


@each_backend
def test_memory_order_does_not_matter(backend: ops.Backend) -> None:
    grid = GRIDS["3-D F2"]
    x, table = points_of(grid, 60).reshape(2, 30, 3), table_of(grid, 2)
    plain = [x.clone().requires_grad_(), table.clone().requires_grad_()]
    strange = [x.mT.contiguous().mT.requires_grad_(), table.mT.contiguous().mT.requires_grad_()]
    assert not any(t.is_contiguous() for t in strange)
    results = [ops.hash_encode(a, b, grid, backend=backend) for a, b in (plain, strange)]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad(r.sum(), leaves) for r, leaves in zip(results, (plain, strange), strict=True)]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@each_backend
@pytest.mark.parametrize("wanted", ["x", "table"])
def test_one_gradient_alone_is_the_one_of_both(backend: ops.Backend, wanted: str) -> None:
    grid = GRIDS["2-D F2"]
    inputs = {"x": points_of(grid, 50)[None], "table": table_of(grid, 1)}
    both = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    alone = {name: t.clone().requires_grad_(name == wanted) for name, t in inputs.items()}
    gradients = [
        torch.autograd.grad(ops.hash_encode(**i, grid=grid, backend=backend).square().sum(), i[wanted])[0]
        for i in (both, alone)
    ]
    assert gradients[1].any()
    assert torch.equal(*gradients)


@each_backend
def test_a_point_that_is_no_number_gives_none_and_disturbs_no_other(backend: ops.Backend) -> None:
    grid = GRIDS["3-D F2"]
    x, table = points_of(grid, 40)[None], table_of(grid, 1)
    clean = ops.hash_encode(x, table, grid, backend=backend)
    x[0, 7, 1] = math.nan
    result = ops.hash_encode(x, table, grid, backend=backend)
    assert result[0, 7].isnan().all()
    others = torch.arange(40) != 7
    torch.testing.assert_close(result[0, others], clean[0, others], rtol=1e-14, atol=1e-14)


@each_backend
def test_scenes_in_one_batch_are_the_scenes_one_by_one(backend: ops.Backend) -> None:
    grid, counts = GRIDS["2-D F2"], [4, 0, 9]
    x, table = points_of(grid, 13), table_of(grid, 3)
    batch = ops.hash_encode(x, table, grid, counts=torch.tensor(counts), backend=backend)
    pieces = zip(x.split(counts), table[:, None], strict=True)
    loop = [ops.hash_encode(p[None], t, grid, backend=backend)[0] for p, t in pieces]
    torch.testing.assert_close(batch, torch.cat(loop), rtol=1e-14, atol=1e-14)


@needs_cpu
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    grid = GRIDS["3-D F2"]
    inputs = {"x": points_of(grid, 12000).float(), "table": table_of(grid, 3).float()}
    assert_same_at_any_number_of_threads(encode(grid, [9000, 0, 3000]), inputs)


# ------------------------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("shared", [False, True], ids=["a table each", "one table"])
@pytest.mark.parametrize("smoothstep", [False, True], ids=["linear", "smoothstep"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_reference_has_first_and_second_derivatives(dims: int, smoothstep: bool, shared: bool) -> None:
    grid = GridSpec.make(dims, 2, 2, 3, 2, 1.7, smoothstep)
    x = points_of(grid, 5).requires_grad_()
    table = table_of(grid, 1 if shared else 2).requires_grad_()
    counts = torch.tensor([2, 3])

    def call(x: Tensor, table: Tensor) -> Tensor:
        return ops.hash_encode(x, table, grid, counts=counts, backend="reference")

    assert torch.autograd.gradcheck(call, (x, table))
    assert torch.autograd.gradgradcheck(call, (x, table))


@needs_cpu
@pytest.mark.parametrize("name", ["3-D F2", "2-D F2 smoothstep"])
def test_the_cpu_kernels_refuse_a_second_derivative(name: str) -> None:
    grid = GRIDS[name]
    inputs = {"x": points_of(grid, 8)[None], "table": table_of(grid, 1)}
    assert_second_derivative_is_refused(encode(grid), inputs, "hash_encode_cpu_backward")


@needs_cpu
def test_a_forward_mode_derivative_is_refused_or_right() -> None:
    grid = GRIDS["3-D F2"]
    inputs = {"x": points_of(grid, 8)[None], "table": table_of(grid, 1)}
    assert_forward_derivative_is_refused_or_right(encode(grid), inputs)


# ------------------------------------------------------------------------------------------ torch's operators


# -------------------------------------------------------------------------------------------- choice, refusal


@needs_cpu
def test_auto_takes_the_kernels_where_they_can_run() -> None:
    grid = GRIDS["3-D F2"]
    x, table = points_of(grid, 40)[None].float(), table_of(grid, 1).float()
    assert torch.equal(ops.hash_encode(x, table, grid), ops.hash_encode(x, table, grid, backend="cpu"))
    x.requires_grad_()
    assert type(ops.hash_encode(x, table, grid).grad_fn).__name__ != "CatBackward0"  # the reference ends in cat


@pytest.mark.parametrize("dims", [1, 4])
def test_auto_takes_the_reference_where_the_kernels_cannot_run(dims: int) -> None:
    grid = GridSpec.make(dims, 2, 2, 6, 2, 2.0)
    x, table = points_of(grid, 9)[None], table_of(grid, 1)
    wanted = [by_the_formulas(point, table[0], grid) for point in x[0].tolist()]
    torch.testing.assert_close(ops.hash_encode(x, table, grid)[0], torch.tensor(wanted, dtype=torch.float64))
    with pytest.raises(
        ValueError,
        match=rf"backend 'cpu' cannot run this call: grids of {dims} dimensions \(2 and 3 are compiled\); "
        "use backend='reference' or 'auto'",
    ):
        ops.hash_encode(x, table, grid, backend="cpu")


def test_a_dtype_that_is_not_compiled_is_refused_by_name_and_taken_by_the_reference() -> None:
    grid = GRIDS["2-D F2"]
    x, table = points_of(grid, 9)[None].half(), table_of(grid, 1).half()
    with pytest.raises(ValueError, match=r"dtype is torch\.float16, the cpu kernels take float32 and float64; use"):
        ops.hash_encode(x, table, grid, backend="cpu")
    result = ops.hash_encode(x, table, grid)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, ops.hash_encode(x, table, grid, backend="reference"))


def test_a_device_that_is_not_the_cpu_is_refused_by_name() -> None:
    grid = GRIDS["2-D F2"]
    x, table = torch.zeros(1, 2, 2, device="meta"), torch.zeros(1, grid.rows, 2, device="meta")
    with pytest.raises(ValueError, match="backend 'cpu' cannot run this call: tensors are on meta"):
        ops.hash_encode(x, table, grid, backend="cpu")


def test_without_numba_auto_takes_the_reference_and_cpu_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "installed", lambda name: False)
    found = ops.backends()
    assert (found["cpu"], found["reference"]) == ("numba is not installed: pip install numba", "")
    assert found["triton"].startswith("triton is not installed: pip install triton")
    grid = GRIDS["2-D F2"]
    x, table = points_of(grid, 9)[None], table_of(grid, 1)
    assert torch.equal(ops.hash_encode(x, table, grid), ops.hash_encode(x, table, grid, backend="reference"))
    with pytest.raises(ValueError, match="cannot run this call: numba is not installed: pip install numba; use"):
        ops.hash_encode(x, table, grid, backend="cpu")


def test_packages_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fitting step on a GPU asks what can run; a search of `sys.path` takes longer than a kernel."""
    before = ops.backends()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"looked for {name} again"))
    assert ops.backends() == before


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    grid = GRIDS["2-D F2"]
    with pytest.raises(
        ValueError, match="backend: got 'gpu', wanted one of 'auto', 'triton', 'cpu', 'reference', 'tcnn'"
    ):
        ops.hash_encode(torch.zeros(1, 2, 2), torch.zeros(1, grid.rows, 2), grid, backend="gpu")  # type: ignore[arg-type]


X, TABLE, COUNTS = torch.zeros(2, 5, 2), torch.zeros(2, GRIDS["2-D F2"].rows, 2), torch.tensor([4, 6])


@pytest.mark.parametrize(
    ("x", "table", "counts", "error", "message"),
    [
        (
            X[0],
            TABLE,
            None,
            ValueError,
            r"x: got shape \(5, 2\) with counts None; wanted \[s n d\], or \[m d\]",
        ),
        (X, TABLE, COUNTS, ValueError, r"x: got shape \(2, 5, 2\) with counts \(2,\); wanted"),
        (
            X.reshape(10, 2),
            TABLE,
            COUNTS.int(),
            TypeError,
            r"counts: got torch\.int32 on cpu, wanted torch\.int64",
        ),
        (
            X.reshape(10, 2),
            TABLE,
            COUNTS - 1,
            ValueError,
            "counts: sum is 8, wanted the 10 points of x, none neg",
        ),
        (
            X.reshape(10, 2),
            TABLE,
            torch.tensor([11, -1]),
            ValueError,
            "wanted the 10 points of x, none negative",
        ),
        (
            X.double(),
            TABLE,
            None,
            TypeError,
            r"got x torch\.float64 on cpu, table torch\.float32 on cpu; wanted one",
        ),
        (torch.zeros(2, 5, 3), TABLE, None, ValueError, "x: got 3 coordinates, wanted the grid's 2"),
        (X, TABLE[:, :-1], None, ValueError, r"table: got shape \(2, \d+, 2\), wanted \[2 or 1, \d+, 2\]"),
        (X, TABLE[0], None, ValueError, r"table: got shape \(\d+, 2\), wanted \[2 or 1, \d+, 2\]"),
        (X, TABLE.repeat(2, 1, 1), None, ValueError, r"table: got shape \(4, \d+, 2\), wanted \[2 or 1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    x: Tensor, table: Tensor, counts: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.hash_encode(x, table, GRIDS["2-D F2"], counts=counts)
