"""The triton kernels against the float64 reference: values and all gradients, as vectors.

On a GPU these tests run on it (`make test-gpu`). Without one they run in triton's interpreter, at the same small sizes:
`test_triton_interpreted.py` starts a pytest of its own for them, since the interpreter is chosen when triton is
imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields import ops

from ._parity import (
    OPCHECK,
    Call,
    assert_gradient_close,
    assert_parity,
    outputs_and_gradients,
    random_numbers,
    seeded,
)

if reason := ops.backends()["triton"]:
    pytest.skip(f"{reason} (test_triton_interpreted.py runs these without one)", allow_module_level=True)

from hyperfields.ops import dispatch
from hyperfields.ops._triton import packing

DEVICE = "cpu" if ops.interpreting() else "cuda"
COUNTS = [70, 0, 130, 1]
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no bfloat16 products")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """New tensors hold no zeros by accident, but numbers that show: what a kernel does not write is seen."""
    if DEVICE == "cuda":
        # The next tensors get this memory, large ones as small ones, which torch keeps apart.
        blocks = [torch.full((size,), math.nan, device="cuda") for size in (2**26, *[2**17] * 64)]
        del blocks
        yield
        return
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program works through several tiles, as in large launches, though there are few points."""
    monkeypatch.setattr(packing, "PROGRAMS", 1)


def close(dtype: torch.dtype, call: Call, inputs: dict[str, Tensor]) -> None:
    assert_parity(call, "triton", {name: value.to(DEVICE) for name, value in inputs.items()}, dtype)


# ------------------------------------------------------------------------------------------------ hash_encode


def grid_of(dims: int, smooth: bool = False, features: int = 2, levels: int = 4) -> ops.GridSpec:
    return ops.GridSpec.make(dims, levels, features, 7, 4, 1.7, smooth)  # dense levels and hashed ones


def clear_points(count: int, grid: ops.GridSpec, seed: int = 0) -> Tensor:
    """`[n d]` in and round [0, 1], none so near to a face of a cell that rounding may take its other side."""
    x = torch.rand(8 * count, grid.dims, generator=seeded(seed)) * 1.4 - 0.2
    place = x.double()[:, None] * torch.tensor(grid.scales, dtype=torch.float64)[:, None] + 0.5
    clear = ((place - place.round()).abs() > 1e-3).flatten(1).all(1)
    assert int(clear.sum()) >= count
    return x[clear][:count].double()


def encode(grid: ops.GridSpec, counts: list[int] | None = None) -> Call:
    numbers = None if counts is None else torch.tensor(counts)

    def call(backend: ops.Backend, x: Tensor, table: Tensor) -> Tensor:
        return ops.hash_encode(x, table, grid, counts=numbers, backend=backend)

    return call


@pytest.mark.parametrize("shared", [False, True], ids=["own tables", "one table"])
@pytest.mark.parametrize("smooth", [False, True], ids=["linear", "smoothstep"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_grid_is_that_of_the_reference(dims: int, smooth: bool, shared: bool) -> None:
    grid = grid_of(dims, smooth)
    table = random_numbers(1 if shared else len(COUNTS), grid.rows, 2, seed=1)
    inputs = {"x": clear_points(sum(COUNTS), grid), "table": table.float().double()}
    close(torch.float32, encode(grid, COUNTS), inputs)


@pytest.mark.parametrize(
    ("dims", "features", "levels"), [(3, 1, 3), (3, 3, 5), (3, 4, 2), (3, 8, 1), (2, 1, 5), (2, 4, 3), (2, 8, 5)]
)
def test_any_number_of_features_and_levels(dims: int, features: int, levels: int) -> None:
    grid = grid_of(dims, features=features, levels=levels)
    table = random_numbers(2, grid.rows, features, seed=1).float().double()
    close(torch.float32, encode(grid), {"x": clear_points(60, grid).reshape(2, 30, dims), "table": table})


def test_a_grid_of_16_bits_is_near_the_reference() -> None:
    grid = grid_of(3)
    x = clear_points(50, grid).half().double()
    place = x[:, None] * torch.tensor(grid.scales, dtype=torch.float64)[:, None] + 0.5
    x = x[((place - place.round()).abs() > 1e-3).flatten(1).all(1)]
    table = random_numbers(1, grid.rows, 2, seed=1).half().double()
    close(torch.float16, encode(grid), {"x": x[None], "table": table})


@pytest.mark.parametrize("n", [0, 1])
def test_few_points_in_a_grid(n: int) -> None:
    grid = grid_of(2)
    table = random_numbers(3, grid.rows, 2).float().double()
    close(torch.float32, encode(grid), {"x": clear_points(3 * n, grid).reshape(3, n, 2), "table": table})


def test_on_faces_and_far_outside_values_and_tables_agree() -> None:
    grid = grid_of(3)
    axis = torch.tensor([0.0, 1.0, 0.5, 0.25, -3.0, 7.5, 20.0])
    x = torch.cartesian_prod(axis, axis, axis)[None].to(DEVICE)
    table = random_numbers(1, grid.rows, 2).float().to(DEVICE).requires_grad_()
    results = []
    for backend in ("triton", "reference"):
        value = ops.hash_encode(x, table, grid, backend=backend)  # type: ignore[arg-type]
        results.append((value, *torch.autograd.grad(value.square().sum(), table)))
    for got, wanted in zip(*results, strict=True):
        assert_gradient_close(got, wanted, 1e-4)
    # Farther away float32 has too few digits for one answer: a GPU does not round between product and sum.
    value = ops.hash_encode(1e4 * x, table.detach(), grid, backend="triton")
    assert float(value.abs().max()) <= 1.001 * float(table.detach().abs().max())


# ------------------------------------------------------------------------------------------------ batched_mlp

WIDTHS = {
    "one layer": (7, 3),
    "one number": (1, 1),
    "usual": (16, 32, 32, 4),
    "not padded": (5, 13, 33, 3),
    "narrow middle": (6, 1, 7),
    "five layers": (3, 9, 17, 9, 9, 2),
    "wide": (20, 40, 64, 5),
}


def parameters(widths: tuple[int, ...], scenes: int, biases: str = "all") -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for number, (i, o) in enumerate(itertools.pairwise(widths)):
        made[f"w{number}"] = (random_numbers(scenes, o, i, seed=10 + number) * (2.0 / i) ** 0.5).half().double()
        if biases == "all" or (biases == "some" and number % 2 == 0):
            made[f"b{number}"] = (0.5 * random_numbers(scenes, o, seed=50 + number)).half().double()
    return made


def layers_of(named: dict[str, Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    return [(named[f"w{i}"], named.get(f"b{i}")) for i in range(sum(name[0] == "w" for name in named))]


def points_of(named: dict[str, Tensor], counts: list[int], slope: float, margin: float = 1e-5) -> Tensor:
    """`[m i]`, none so near to a kink that rounding may take its other side; numbers that float16 has."""
    found = []
    for scene, count in enumerate(counts):
        x = random_numbers(12 * count + 256, named["w0"].shape[2], seed=scene).half().double()
        clear, h = torch.ones(len(x), dtype=torch.bool), x
        for weight, bias in layers_of(named)[:-1]:
            h = h @ weight[scene].T + (0.0 if bias is None else bias[scene])
            clear &= (h.abs() > margin).all(1)
            h = torch.nn.functional.leaky_relu(h, slope)
        assert int(clear.sum()) >= count
        found.append(x[clear][:count])
    return torch.cat(found)


def mlp(counts: list[int], activation: ops.Activation = "leaky_relu") -> Call:
    numbers = torch.tensor(counts)

    def call(backend: ops.Backend, x: Tensor, **named: Tensor) -> Tensor:
        return ops.batched_mlp(x, layers_of(named), activation, counts=numbers, backend=backend)

    return call


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01), ("sine", 1.0)])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
def test_a_network_is_that_of_the_reference(widths: tuple[int, ...], activation: ops.Activation, slope: float) -> None:
    counts = COUNTS if max(widths) < 64 else [20, 33]
    named = parameters(widths, len(counts))
    close(torch.float32, mlp(counts, activation), {"x": points_of(named, counts, slope), **named})


@pytest.mark.parametrize("biases", ["none", "some"])
def test_layers_without_biases(biases: str) -> None:
    named = parameters((5, 13, 33, 3), len(COUNTS), biases)
    close(torch.float32, mlp(COUNTS), {"x": points_of(named, COUNTS, 0.01), **named})


@pytest.mark.parametrize("programs", [1, 512])
@pytest.mark.parametrize("counts", [[0, 0], [1], [1500, 0, 1025]], ids=str)
def test_any_number_of_points(counts: list[int], programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one program a scene, whose gradients are added up; none at all."""
    monkeypatch.setattr(packing, "PROGRAMS", programs)
    named = parameters((3, 8, 2), len(counts))
    close(torch.float32, mlp(counts), {"x": points_of(named, counts, 0.01), **named})


@pytest.mark.parametrize(
    ("widths", "activation"),
    [((16, 32, 4), "leaky_relu"), ((8, 64, 64, 3), "leaky_relu"), ((20, 100, 128, 5), "sine")],  # many kinks: none
    ids=str,
)
def test_a_network_of_16_bits_is_near_the_reference(widths: tuple[int, ...], activation: ops.Activation) -> None:
    named = parameters(widths, 2)
    margin = 2e-2 if activation == "leaky_relu" else 0.0
    close(torch.float16, mlp([40, 65], activation), {"x": points_of(named, [40, 65], 0.01, margin), **named})


@on_a_gpu
def test_mixed_precision_is_near_the_reference() -> None:
    """float32 tensors; float16 products forward, bfloat16 ones backward, whatever the size of the cotangents."""
    named = {name: value.to(DEVICE) for name, value in parameters((16, 64, 64, 4), 2).items()}
    x = points_of({name: value.cpu() for name, value in named.items()}, [300, 500], 0.01, 2e-2).to(DEVICE)
    inputs = {name: value.float() for name, value in {"x": x, **named}.items()}
    wanted, gradients = outputs_and_gradients(mlp([300, 500]), "reference", {k: v.double() for k, v in inputs.items()})
    for scale in (1.0, 1e-9):

        def call(backend: ops.Backend, scale: float = scale, **tensors: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.float16):
                return mlp([300, 500])(backend, **tensors) * scale

        got, found = outputs_and_gradients(call, "triton", inputs)
        assert got[0].dtype == torch.float32
        torch.testing.assert_close(got[0].double() / scale, wanted[0], rtol=5e-3, atol=5e-3)
        for name, gradient in found.items():
            assert gradient.dtype == torch.float32
            relative = (gradient.double() / scale - gradients[name]).norm() / gradients[name].norm()
            assert float(relative) < 1e-2, name


# -------------------------------------------------------------------------------- encoding and network at once


@pytest.mark.parametrize("activation", ["leaky_relu", "sine"])
@pytest.mark.parametrize("dims", [2, 3])
def test_encoding_and_network_in_one_kernel_are_the_two(dims: int, activation: ops.Activation) -> None:
    grid = grid_of(dims)
    named = {name: value.float().to(DEVICE) for name, value in parameters((grid.channels, 20, 33, 5), 4).items()}
    x = clear_points(sum(COUNTS), grid).float().to(DEVICE)
    table = random_numbers(4, grid.rows, 2).float().to(DEVICE)
    arguments = (x, table, grid, layers_of(named), activation)
    one, two = (
        ops.encode_mlp(*arguments, counts=torch.tensor(COUNTS), backend=backend)  # type: ignore[arg-type]
        for backend in ("triton", "reference")
    )
    assert_gradient_close(one, two, 1e-5)


def test_with_gradients_encoding_and_network_stay_two() -> None:
    grid = grid_of(2)
    layers = layers_of({name: value.float().to(DEVICE) for name, value in parameters((8, 9, 3), 1).items()})
    table = random_numbers(1, grid.rows, 2).float().to(DEVICE).requires_grad_()
    x = clear_points(10, grid).float().to(DEVICE)[None]
    results = [
        torch.autograd.grad(ops.encode_mlp(x, table, grid, layers, backend=backend).square().sum(), table)[0]  # type: ignore[arg-type]
        for backend in ("triton", "reference")
    ]
    assert_gradient_close(*results, 1e-4)


# -------------------------------------------------------------------------------------------------- along rays

RAYS = [3, 0, 50, 70, 1, 32, 33]


def composite(backend: ops.Backend, density: Tensor, values: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
    return ops.composite(density, values, edges, counts=torch.tensor(RAYS), backend=backend)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("density", [0.01, 1.0, 40.0])
def test_compositing_is_that_of_the_reference(density: float, channels: int) -> None:
    total = sum(RAYS)
    start = torch.cat([torch.arange(count) / 20.0 for count in RAYS]).double()
    inputs = {
        "density": (density * random_numbers(total).abs()).float().double(),
        "values": random_numbers(total, channels, seed=1),
        "edges": torch.stack((start, start + 0.04), 1).float().double(),
    }
    close(torch.float32, composite, inputs)


def test_what_is_opaque_hides_what_is_behind_it() -> None:
    density = torch.tensor([0.0, math.inf, 1.0], device=DEVICE)
    edges = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], device=DEVICE)
    seen = ops.composite(density, torch.eye(3, device=DEVICE), edges, counts=torch.tensor([3]), backend="triton")
    assert seen.values.tolist() == [[0.0, 1.0, 0.0]]
    assert (seen.alpha.tolist(), seen.depth.tolist()) == ([1.0], [1.5])


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("step", [0.013 if DEVICE == "cuda" else 0.04, 5.0])
def test_marching_finds_exactly_the_samples_of_the_reference(step: float, size: int) -> None:
    generator = seeded(3)
    origins = 2.0 * torch.randn(3, 50, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(3, 50, 3, generator=generator) - origins, dim=-1)
    directions[:, ::7, 1] = 0.0
    directions = torch.nn.functional.normalize(directions, dim=-1).to(DEVICE)
    occupancy = (torch.rand(3, size, size, size, generator=generator) < 0.5).to(DEVICE)
    offset = torch.rand(3, 50, generator=generator).to(DEVICE)
    results = [
        ops.ray_march(origins.to(DEVICE), directions, occupancy, step, offset, backend=backend)  # type: ignore[arg-type]
        for backend in ("triton", "reference")
    ]
    assert len(results[0][0]) > 0
    for got, wanted in zip(*results, strict=True):
        assert got.device.type == DEVICE
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("near", [0.0, 0.3])
def test_marching_in_contracted_space_finds_the_samples_of_the_reference(near: float) -> None:
    generator = seeded(3)
    origins = 2.0 * torch.randn(3, 50, 3, generator=generator).to(DEVICE)
    directions = torch.nn.functional.normalize(torch.randn(3, 50, 3, generator=generator).to(DEVICE) - origins, dim=-1)
    occupancy = (torch.rand(3, 8, 8, 8, generator=generator) < 0.5).to(DEVICE)
    rays = origins, directions, occupancy, 0.05, torch.rand(3, 50, generator=generator).to(DEVICE)
    space = ops.Contracted(near=near)
    (edges, counts), (wanted, known) = (
        ops.ray_march(*rays, space=space, backend=backend)  # type: ignore[arg-type]
        for backend in ("triton", "reference")
    )
    same = counts == known  # rounding may put the middle of a sample into the next cell
    assert float(same.float().mean()) > 0.9
    for got, right, equal in zip(edges.split(counts.tolist()), wanted.split(known.tolist()), same, strict=True):
        if equal:
            torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-5)
    apart = ray_march_padded(*rays, space=space)
    assert torch.equal(apart.counts, counts)
    rows = [apart.edges[first : first + count] for first, count in zip(apart.first, counts, strict=True)]
    assert torch.equal(torch.cat(rows), edges)


def test_marching_apart_finds_the_same_samples() -> None:
    generator = seeded(3)
    origins = 2.0 * torch.randn(2, 70, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(2, 70, 3, generator=generator) - origins, dim=-1)
    origins[0, 0], directions[0, 0] = torch.tensor([[-2.0, -2.0, -2.0], [3**-0.5] * 3])  # the longest way
    occupancy = (torch.rand(2, 8, 8, 8, generator=generator) < 0.8).to(DEVICE)
    occupancy[0] = True
    rays = (
        origins.to(DEVICE),
        directions.to(DEVICE),
        occupancy,
        0.1,
        torch.rand(2, 70, generator=generator).to(DEVICE),
    )
    edges, counts = ops.ray_march(*rays, backend="triton")
    apart = ray_march_padded(*rays)
    assert torch.equal(apart.counts, counts)
    assert len(apart.edges) == 37 * 140
    assert int(counts.max()) >= 35
    rows = [apart.edges[first : first + count] for first, count in zip(apart.first, counts, strict=True)]
    assert torch.equal(torch.cat(rows), edges)


def ray_march_padded(*rays: Any, space: ops.Space = ops.BOX) -> ops.PaddedSamples:
    """By triton, whatever "auto" would take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "select", lambda *_, **__: "triton")
        return ops.ray_march_padded(*rays, space=space)


def test_samples_and_early_termination_are_those_of_the_reference() -> None:
    generator = seeded(4)
    numbers = torch.randint(0, 80, (40,), generator=generator)
    first = numbers.cumsum(0) - numbers
    take = (numbers - 2).clamp(min=0)
    origins, directions = (torch.randn(40, 3, generator=generator).to(DEVICE) for _ in range(2))
    edges = torch.rand(int(numbers.sum()), 2, generator=generator).sort(1).values.to(DEVICE)
    density, opacity = (torch.rand(size, generator=generator).to(DEVICE) for size in (len(edges), 40))
    found = []
    for backend in ("triton", "reference"):
        some = ops.gather_samples(origins, directions, edges, first + 1, take, backend=backend)  # type: ignore[arg-type]
        kept, behind = ops.early_termination(9 * density, edges, numbers, opacity, 0.9, backend=backend)  # type: ignore[arg-type]
        found.append((some, kept, behind))
    (some, kept, behind), (wanted, wanted_kept, wanted_behind) = found
    for got, part in zip(some, wanted, strict=True):
        torch.testing.assert_close(got, part, rtol=1e-6, atol=1e-6)
    assert torch.equal(kept, wanted_kept)
    torch.testing.assert_close(behind, wanted_behind, rtol=1e-5, atol=1e-5)


def test_no_rays_and_empty_grids_give_nothing() -> None:
    nothing = torch.zeros(2, 0, 3, device=DEVICE)
    full = torch.ones(2, 4, 4, 4, dtype=torch.bool, device=DEVICE)
    edges, counts = ops.ray_march(nothing, nothing, full, 0.1, backend="triton")
    assert (edges.shape, counts.shape) == ((0, 2), (0,))
    rays = torch.randn(2, 9, 3, device=DEVICE)
    edges, counts = ops.ray_march(rays, rays, ~full, 0.1, backend="triton")
    assert (edges.shape, int(counts.sum())) == ((0, 2), 0)
    some = ops.gather_samples(rays[0], rays[0], edges, counts[:9], counts[:9], backend="triton")
    assert [len(part) for part in some] == [0, 0, 0]
    seen = ops.composite(edges[:, 0], edges, edges, counts=counts, backend="triton")
    assert not seen.alpha.any()
    assert not seen.values.any()


# --------------------------------------------------------------------------------- what they may not, and contracts


def calls() -> dict[str, tuple[Call, dict[str, Tensor]]]:
    """A small call of each differentiable operation."""
    grid = grid_of(3, smooth=True)
    named = parameters((4, 8, 3), 2)
    table = random_numbers(2, grid.rows, 2)
    start = torch.cat([torch.arange(count) / 20.0 for count in RAYS])
    return {
        "hash_encode": (encode(grid), {"x": clear_points(8, grid).reshape(2, 4, 3), "table": table}),
        "mlp": (mlp([3, 5]), {"x": random_numbers(8, 4), **named}),
        "composite": (
            composite,
            {
                "density": random_numbers(len(start)).abs(),
                "values": random_numbers(len(start), 3),
                "edges": torch.stack((start, start + 0.04), 1),
            },
        ),
    }


@pytest.mark.parametrize("name", ["hash_encode", "mlp", "composite"])
def test_a_second_derivative_is_refused(name: str) -> None:
    call, inputs = calls()[name]
    leaves = {key: value.float().to(DEVICE).requires_grad_() for key, value in inputs.items()}
    for leaf in leaves.values():
        result = call("triton", **leaves)
        total = sum(o.square().sum() for o in ((result,) if isinstance(result, Tensor) else result))
        assert isinstance(total, Tensor)
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=rf"hyperfields(\.|::){name}_triton_backward\b.*no autograd formula"):
            torch.autograd.grad(gradient.square().sum(), list(leaves.values()), allow_unused=True)


@pytest.mark.parametrize("name", ["hash_encode", "mlp", "composite"])
def test_a_scene_does_not_depend_on_the_others(name: str) -> None:
    """Only the sums over the points of a scene may differ in their last bits."""
    call, inputs = calls()[name]
    once, again = (
        outputs_and_gradients(call, "triton", {k: v.float().to(DEVICE) for k, v in inputs.items()}) for _ in range(2)
    )
    for one, two in zip(once[0], again[0], strict=True):
        assert torch.equal(one, two)
    for key in inputs:
        assert_gradient_close(once[1][key], again[1][key], 1e-6)


def test_the_operators_keep_torchs_rules() -> None:
    from hyperfields.ops import _triton

    grid = grid_of(2)
    spec = (list(grid.scales), list(grid.resolutions), list(grid.offsets), False)
    counts = torch.tensor([3, 5], device=DEVICE)
    x = torch.rand(8, 2, device=DEVICE, requires_grad=True)
    table = torch.randn(2, grid.rows, 2, device=DEVICE, requires_grad=True)
    params = torch.randn(2, 2 * 5 + 5 + 5 * 3 + 3, device=DEVICE, requires_grad=True)
    density, edges = (torch.rand(shape, device=DEVICE, requires_grad=True) for shape in ((8,), (8, 2)))
    for operator, arguments in (
        (_triton.hash_encode_triton, (x, table, counts, *spec)),
        (_triton.mlp_triton, (x, params, counts, [2, 5, 3], "relu", 0.0, "float32")),
        (_triton.composite_triton, (density, x, edges, counts)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=OPCHECK, rtol=1e-4, atol=1e-5)


@each_dtype
def test_what_the_kernels_do_not_take_is_refused_by_name(dtype: torch.dtype) -> None:
    grid = grid_of(2)
    x, table = torch.rand(1, 4, 2, device=DEVICE), torch.randn(1, grid.rows, 2, device=DEVICE)
    with pytest.raises(ValueError, match=r"backend 'triton' cannot run this call: dtype is torch\.float64"):
        ops.hash_encode(x.double(), table.double(), grid, backend="triton")
    wide = [(torch.zeros(1, 200, 2, device=DEVICE, dtype=dtype), None)]
    with pytest.raises(ValueError, match=r"1 layers up to 200 wide in float\d\d \(up to 5 layers and \d+ wide are"):
        ops.batched_mlp(x.to(dtype), wide, backend="triton")
    if dtype == torch.float16:
        edges = torch.rand(4, 2, device=DEVICE, dtype=dtype)
        with pytest.raises(ValueError, match=r"along rays the triton kernels take float32"):
            ops.composite(edges[:, 0], edges, edges, counts=torch.tensor([4]), backend="triton")
