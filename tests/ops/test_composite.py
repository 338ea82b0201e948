"""composite: what optics says about slabs, every backend against the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields import ops

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


def composited(counts: list[int] | None = None) -> Call:
    numbers = None if counts is None else torch.tensor(counts)

    def call(backend: ops.Backend, density: Tensor, values: Tensor, edges: Tensor) -> ops.Composited:
        return ops.composite(density, values, edges, counts=numbers, backend=backend)

    return call


def samples(*shape: int, channels: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Densities from 0 to thick, some of them zero; intervals in order with gaps between some of them."""
    density = random_numbers(*shape, seed=seed).abs() * 3.0
    density = torch.where(random_numbers(*shape, seed=seed + 1) > 1.0, 0.0, density).float().double()
    lengths = random_numbers(*shape, 2, seed=seed + 2).abs() * 0.1
    ends = lengths.flatten(-2).cumsum(-1).reshape(*shape, 2) if shape else lengths
    return {
        "density": density,
        "values": random_numbers(*shape, channels, seed=seed + 3),
        "edges": ends.float().double(),
    }


def slab(density: float, start: float, end: float, pieces: int) -> dict[str, Tensor]:
    """One ray through an even slab of colour (0.2, 0.7) that is cut into pieces, float64."""
    bounds = torch.linspace(start, end, pieces + 1, dtype=torch.float64)
    return {
        "density": torch.full((1, pieces), density, dtype=torch.float64),
        "values": torch.tensor([0.2, 0.7], dtype=torch.float64).expand(1, pieces, 2),
        "edges": torch.stack((bounds[:-1], bounds[1:]), -1)[None],
    }


# ---------------------------------------------------------------------------------------------------- by hand


@each_backend
@pytest.mark.parametrize("pieces", [1, 2, 100])
@pytest.mark.parametrize(("density", "length"), [(0.0, 1.0), (0.3, 2.0), (5.0, 0.7), (1e4, 1.0)])
def test_an_even_slab_has_the_opacity_of_beer_and_lambert(
    backend: ops.Backend, density: float, length: float, pieces: int
) -> None:
    result = ops.composite(**slab(density, 1.5, 1.5 + length, pieces), backend=backend)
    alpha = 1.0 - math.exp(-density * length)
    assert result.alpha.item() == pytest.approx(alpha, abs=1e-12)
    assert result.values[0].tolist() == pytest.approx([0.2 * alpha, 0.7 * alpha], abs=1e-12)


@each_backend
def test_the_depth_of_a_finely_cut_slab_is_the_integral(backend: ops.Backend) -> None:
    sigma, start, end = 2.0, 1.5, 3.0
    result = ops.composite(**slab(sigma, start, end, 2000), backend=backend)
    # integral of t sigma exp(-sigma (t - start)) from start to end
    wanted = start + 1 / sigma - (end + 1 / sigma) * math.exp(-sigma * (end - start))
    assert result.depth.item() == pytest.approx(wanted, abs=1e-6)


@each_backend
def test_two_samples_are_what_is_computed_by_hand(backend: ops.Backend) -> None:
    density = torch.tensor([[math.log(2.0), math.log(4.0)]], dtype=torch.float64)  # opacities 1/2 and 3/4
    values = torch.tensor([[[8.0, 0.0], [0.0, 16.0]]], dtype=torch.float64)
    edges = torch.tensor([[[1.0, 2.0], [4.0, 5.0]]], dtype=torch.float64)
    result = ops.composite(density, values, edges, backend=backend)
    assert result.values[0].tolist() == pytest.approx([4.0, 16.0 * 0.5 * 0.75])
    assert result.alpha.tolist() == pytest.approx([1 - 0.5 * 0.25])
    assert result.depth.tolist() == pytest.approx([0.5 * 1.5 + 0.375 * 4.5])


@each_backend
def test_what_is_in_front_hides_what_is_behind(backend: ops.Backend) -> None:
    edges = torch.tensor([[[1.0, 2.0], [2.0, 3.0]]] * 2)
    red_blue = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    result = ops.composite(torch.full((2, 2), 100.0), red_blue, edges, backend=backend)
    torch.testing.assert_close(result.values, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(result.depth, torch.tensor([1.5, 1.5]))


@each_backend
def test_a_gap_between_samples_takes_no_light(backend: ops.Backend) -> None:
    density, values = torch.tensor([[0.7, 0.9]]), torch.tensor([[[1.0], [3.0]]])
    near = torch.tensor([[[1.0, 1.5], [1.5, 2.5]]])
    far = torch.tensor([[[1.0, 1.5], [7.5, 8.5]]])
    a, b = (ops.composite(density, values, edges, backend=backend) for edges in (near, far))
    torch.testing.assert_close(a.values, b.values)
    torch.testing.assert_close(a.alpha, b.alpha)
    assert b.depth.item() > a.depth.item()


@each_backend
@pytest.mark.parametrize("counts", [[0, 2, 0], [0, 0]], ids=str)
def test_rays_without_samples_give_zeros(backend: ops.Backend, counts: list[int]) -> None:
    total = sum(counts)
    result = ops.composite(
        torch.ones(total),
        torch.ones(total, 3),
        torch.rand(total, 2),
        counts=torch.tensor(counts),
        backend=backend,
    )
    empty = torch.tensor(counts) == 0
    assert result.values.shape == (len(counts), 3)
    for part in result:
        assert not part[empty].any()


@each_backend
def test_a_density_that_is_no_number_gives_none_for_its_ray_alone(backend: ops.Backend) -> None:
    density, edges = torch.tensor([[0.5, math.nan], [0.5, 1.0]]), torch.tensor([[[0.0, 1.0], [1.0, 2.0]]] * 2)
    result = ops.composite(density, torch.ones(2, 2, 1), edges, backend=backend)
    assert result.alpha.isnan().tolist() == [True, False]
    assert result.values.isnan().flatten().tolist() == [True, False]


@each_backend
def test_an_infinite_density_is_opaque(backend: ops.Backend) -> None:
    density, edges = torch.tensor([[math.inf, 1.0]]), torch.tensor([[[0.0, 1.0], [1.0, 2.0]]])
    result = ops.composite(density, torch.tensor([[[3.0], [5.0]]]), edges, backend=backend)
    assert (result.values.item(), result.alpha.item(), result.depth.item()) == (3.0, 1.0, 0.5)


@each_backend
@each_dtype
def test_behind_something_opaque_nothing_is_seen_and_nothing_breaks(backend: ops.Backend, dtype: torch.dtype) -> None:
    density = torch.tensor([[1e8, 1e8, 0.0, 5.0]], dtype=dtype, requires_grad=True)
    values = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]], dtype=dtype, requires_grad=True)
    edges = torch.tensor([[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]], dtype=dtype)
    result = ops.composite(density, values, edges, backend=backend)
    assert result.values.tolist() == [[1.0]]
    assert result.alpha.tolist() == [1.0]
    gradients = torch.autograd.grad(result.values.sum() + result.depth.sum(), (density, values))
    assert gradients[0].tolist() == [[0.0] * 4]
    assert gradients[1].flatten().tolist() == [1.0, 0.0, 0.0, 0.0]


# ----------------------------------------------------------------------------------------------------- parity


@each_backend
@each_dtype
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("k", [0, 1, 65])
@pytest.mark.parametrize("rays", [1, 3])
def test_forward_and_gradients_are_those_of_the_reference(
    rays: int, k: int, channels: int, dtype: torch.dtype, backend: str
) -> None:
    assert_parity(composited(), backend, samples(rays, k, channels=channels), dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("counts", [[5, 0, 1, 0, 64], [0, 7], [0, 0, 0], [1001]], ids=str)
def test_ragged_rays_are_those_of_the_reference(counts: list[int], dtype: torch.dtype, backend: str) -> None:
    pieces = [samples(count, seed=10 * i) for i, count in enumerate(counts)]
    inputs = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    # Thin enough that the far samples of the longest ray are seen too.
    inputs["density"] = (inputs["density"] * 0.1).float().double()
    assert_parity(composited(counts), backend, inputs, dtype)


@each_backend
def test_rays_in_one_batch_are_the_rays_one_by_one(backend: ops.Backend) -> None:
    counts, inputs = [4, 0, 9], samples(13)
    batch = composited(counts)(backend, **inputs)
    parts = [
        composited()(backend, **{name: t[None] for name, t in zip(inputs, piece, strict=True)})
        for piece in zip(*[t.split(counts) for t in inputs.values()], strict=True)
    ]
    for got, wanted in zip(batch, [torch.cat(column) for column in zip(*parts, strict=True)], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-14)


@each_backend
def test_memory_order_does_not_matter(backend: ops.Backend) -> None:
    plain = samples(6, 8)
    strange = {name: t.transpose(0, 1).contiguous().transpose(0, 1) for name, t in plain.items()}
    assert not strange["edges"].is_contiguous()
    results = []
    for inputs in (plain, strange):
        leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
        output = composited()(backend, **leaves)
        total = sum(part.sum() for part in output)
        assert isinstance(total, Tensor)
        results.append((*output, *torch.autograd.grad(total, list(leaves.values()))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@needs_cpu
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    inputs = {name: t.float() for name, t in samples(999, 9).items()}
    assert_same_at_any_number_of_threads(composited(), inputs)


# ------------------------------------------------------------------------------------------------ derivatives


def test_the_reference_has_first_and_second_derivatives() -> None:
    counts = [2, 0, 3]
    call = composited(counts)

    def positional(density: Tensor, values: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        return tuple(call("reference", density=density, values=values, edges=edges))

    inputs = samples(5, channels=2)
    inputs["density"] = inputs["density"] + 0.1
    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(positional, leaves)
    assert torch.autograd.gradgradcheck(positional, leaves)


@needs_cpu
def test_the_cpu_kernels_refuse_a_second_derivative() -> None:
    assert_second_derivative_is_refused(composited(), samples(3, 4), "composite_cpu_backward")


@needs_cpu
def test_a_forward_mode_derivative_is_refused_or_right() -> None:
    assert_forward_derivative_is_refused_or_right(composited(), samples(3, 4))


# ---------------------------------------------------------------------------------------------------- refusal


def test_a_dtype_that_is_not_compiled_is_refused_by_name() -> None:
    inputs = {name: t.half() for name, t in samples(2, 3).items()}
    with pytest.raises(ValueError, match=r"backend 'cpu' cannot run this call: dtype is torch\.float16"):
        composited()("cpu", **inputs)


D, V, E = torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(2, 3, 2)


@pytest.mark.parametrize(
    ("density", "values", "edges", "counts", "error", "message"),
    [
        (
            D[..., None],
            V,
            E,
            None,
            ValueError,
            r"got density \(2, 3, 1\), values \(2, 3, 4\), edges \(2, 3, 2\)",
        ),
        (
            D,
            V,
            E[..., :1],
            None,
            ValueError,
            r"edges \(2, 3, 1\); wanted \[\.\.\.\], \[\.\.\. c\] and \[\.\.\. 2\]",
        ),
        (D[0], V[0], E[0], None, ValueError, r"values: got shape \(3, 4\) with counts None"),
        (
            D[0],
            V[0],
            E[0],
            torch.tensor([1, 1]),
            ValueError,
            "counts: sum is 2, wanted the 3 points of values",
        ),
        (D, V.double(), E, None, TypeError, r"density torch\.float32 on cpu, values torch\.float64 on cpu"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    density: Tensor,
    values: Tensor,
    edges: Tensor,
    counts: Tensor | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ops.composite(density, values, edges, counts=counts)
