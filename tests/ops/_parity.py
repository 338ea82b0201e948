"""How a backend is compared with the reference: same numbers in, values and all gradients out, as vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from hyperfields import ops

Call = Callable[..., Any]  # call(backend, **inputs) -> Tensor or a tuple of them

# The reference is among them: in float32 it is compared with itself in float64. What cannot run says why.
each_backend = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=why))
        for name, why in ops.backends().items()
        if name in ("cpu", "reference")  # triton and tcnn: tests/ops/test_triton.py, tests/gpu
    ],
)
needs_cpu = pytest.mark.skipif(bool(ops.backends()["cpu"]), reason=ops.backends()["cpu"] or "runs here")
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

TOLERANCE = {torch.float16: 4e-3, torch.float32: 1e-5, torch.float64: 1e-12}


# 0, the same numbers in every run, unless `make test-gpu` says otherwise: it tests with new ones.
FRESH = int(os.environ.get("TEST_SEED", "0"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 1_000_003 * FRESH)


def random_numbers(*shape: int, seed: int = 0) -> Tensor:
    """N(0, 1), float64, whose values float32 has too: both precisions can start from the same numbers."""
    return torch.randn(shape, generator=seeded(seed)).double()


def assert_gradient_close(actual: Tensor, expected: Tensor, tolerance: float, name: str = "gradient") -> None:
    """Relative L2, cosine, and the magnitude of every row that matters; the message shows the worst element.

    An elementwise comparison with an absolute tolerance passes when half of the rows are zero; this does not.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, wanted {tuple(expected.shape)}"
    assert torch.isfinite(actual).all(), f"{name}: {int((~torch.isfinite(actual)).sum())} elements are not finite"
    actual, expected = actual.detach().double(), expected.detach().double()
    size = float(expected.norm())
    if size == 0.0:
        assert not actual.any(), f"{name}: wanted zeros, got elements up to {float(actual.abs().max())}"
        return
    error = (actual - expected).abs()
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), tuple(error.shape)))
    relative = float(error.norm()) / size
    cosine = float((actual * expected).sum()) / (float(actual.norm()) * size + 1e-300)
    lengths, wanted = (t.reshape(-1, t.shape[-1]).norm(dim=1) for t in (actual, expected))
    matters = wanted > 1e-3 * wanted.max()
    ratio = lengths[matters] / wanted[matters]
    low, high = float(ratio.min()), float(ratio.max())
    message = (
        f"{name}: relative L2 {relative:.2e}, 1 - cosine {1 - cosine:.1e}, rows {low:.5f} to {high:.5f} "
        f"as long; worst at {worst}: got {float(actual[worst]):.9g}, wanted {float(expected[worst]):.9g}"
    )
    rows = 100.0 * tolerance  # a row may be a thousand times shorter than the longest one
    assert relative < tolerance, message
    assert 1.0 - cosine < tolerance, message
    assert 1.0 - rows < low, message
    assert high < 1.0 + rows, message


def outputs_and_gradients(
    call: Call, backend: str, inputs: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Forward, then the gradient of every input for random cotangents (the same ones for every backend)."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    result = call(backend, **leaves)
    outputs = (result,) if isinstance(result, Tensor) else tuple(result)
    cotangents = [random_numbers(*o.shape, seed=1000 + i).to(o) for i, o in enumerate(outputs)]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    return tuple(o.detach() for o in outputs), dict(zip(leaves, gradients, strict=True))


def assert_parity(call: Call, backend: str, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """`call(backend, **inputs)` in `dtype` does what the reference does in float64, from the same numbers."""
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    exact = {name: value.double() for name, value in inputs.items()}
    outputs, gradients = outputs_and_gradients(call, backend, inputs)
    wanted_outputs, wanted_gradients = outputs_and_gradients(call, "reference", exact)
    tolerance = TOLERANCE[dtype]
    assert len(outputs) == len(wanted_outputs)
    for output, wanted in zip(outputs, wanted_outputs, strict=True):
        assert output.dtype == dtype
        largest = float(wanted.abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(output.double(), wanted, rtol=tolerance, atol=tolerance * largest)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert_gradient_close(gradient, wanted_gradients[name], 10.0 * tolerance, f"gradient of {name}")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch runs on `number` threads inside, and on as many as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_at_any_number_of_threads(call: Call, inputs: Mapping[str, Tensor]) -> None:
    """The cpu kernels give the same bits with 1 and with 2 threads, forward and backward."""
    with threads(1):
        outputs, gradients = outputs_and_gradients(call, "cpu", inputs)
    with threads(2):
        again, gradients_again = outputs_and_gradients(call, "cpu", inputs)
    for one, two in zip(outputs, again, strict=True):
        assert torch.equal(one, two)
    for name in gradients:
        assert torch.equal(gradients[name], gradients_again[name]), name


def assert_second_derivative_is_refused(call: Call, inputs: Mapping[str, Tensor], operator: str) -> None:
    """Differentiating any gradient of the cpu kernels again raises and names the operator; zero is a lie."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    for leaf in leaves.values():
        result = call("cpu", **leaves)
        total = sum(o.square().sum() for o in ((result,) if isinstance(result, Tensor) else result))
        assert isinstance(total, Tensor)
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=rf"hyperfields(\.|::){operator}\b.*no autograd formula"):
            torch.autograd.grad(gradient.square().sum(), list(leaves.values()), allow_unused=True)


def assert_forward_derivative_is_refused_or_right(call: Call, inputs: Mapping[str, Tensor]) -> None:
    """The kernels have no forward-mode derivatives: torch would give tangents of zero, silently."""
    for name, value in inputs.items():
        direction = random_numbers(*value.shape, seed=77)
        with forward_ad.dual_level(), warnings.catch_warnings():
            # torch 2.13 itself uses its deprecated torch.jit.script where forward mode is first used.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            dual = {**inputs, name: forward_ad.make_dual(value, direction)}
            tangents = []
            for backend in ("auto", "reference"):
                result = call(backend, **dual)
                outputs = (result,) if isinstance(result, Tensor) else result
                tangents.append([forward_ad.unpack_dual(output).tangent for output in outputs])
            for got, wanted in zip(*tangents, strict=True):
                assert (got is None) == (wanted is None), f"the tangent of {name} is lost"
                assert got is None or torch.equal(got, wanted), name
            assert any(tangent is not None and tangent.any() for tangent in tangents[1]), name
            with pytest.raises(ValueError, match="backend 'cpu' cannot run this call: forward-mode derivatives"):
                call("cpu", **dual)


# opcheck's tests that say something about an operator of ours. Left out is test_aot_dispatch_static, which
# test_aot_dispatch_dynamic repeats with shapes that are not known beforehand.
OPCHECK = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
