"""Selection of the backend that runs a call, and the checks that every op makes first."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

Backend = Literal["auto", "triton", "cpu", "reference", "tcnn"]
Activation = Literal["leaky_relu", "relu", "sine"]

MIN_CAPABILITY = (7, 5)  # compute capability that the triton kernels are compiled for
TCNN_GUIDE = "https://github.com/NVlabs/tiny-cuda-nn#pytorch-extension"
NOT_IN_TCNN = "tinycudann has no such operation"
_CPU_DTYPES = (torch.float32, torch.float64)
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_second_derivatives: ContextVar[bool] = ContextVar("second_derivatives", default=False)


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Context in which `backend="auto"` takes the reference for all that has derivatives: kernels have first ones."""
    before = _second_derivatives.set(True)
    try:
        yield
    finally:
        _second_derivatives.reset(before)


def backends() -> dict[str, str]:
    """Reasons why each backend cannot run here, and what to do; `""` for those that can."""
    return {name: why_unavailable(name) for name in ("triton", "cpu", "reference", "tcnn")}


@functools.cache
def installed(package: str) -> bool:
    """True where a package can be imported; asked once, since it takes a search of `sys.path`."""
    return importlib.util.find_spec(package) is not None


def why_unavailable(backend: str) -> str:
    """Reason why a backend cannot run here, or `""`."""
    if backend == "triton":
        return _why_no_triton()
    if backend == "tcnn":
        return _why_no_tcnn()
    if backend == "cpu" and not installed("numba"):
        return "numba is not installed: pip install numba"
    return ""


def interpreting() -> bool:
    """True where triton's kernels run on the CPU, slowly, for tests: the environment says so."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_triton() -> str:
    if not installed("triton"):
        return "triton is not installed: pip install triton (it comes with CUDA builds of torch on Linux)"
    if interpreting():
        return ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device: the triton kernels run on NVIDIA GPUs"
    return "" if torch.version.hip is None else "an AMD GPU: the triton kernels are tested for NVIDIA's alone"


def _why_no_tcnn() -> str:  # as far as one can tell without a call
    if not installed("tinycudann"):
        return f"tinycudann is not installed (it is built for one's own GPU: {TCNN_GUIDE}); only used when asked for"
    return "" if torch.cuda.is_available() else "tinycudann needs a CUDA device, and torch sees none"


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(device)


def _why_refused(backend: str, refusal: str, tensor: Tensor, others: tuple[Tensor | None, ...]) -> str:
    """Reason why a backend cannot take tensors like these, or `""`; `refusal` is the operation's own reason."""
    device, dtype = tensor.device, tensor.dtype
    if backend == "cpu" and device.type != "cpu":
        return f"tensors are on {device}"
    if backend == "cpu" and dtype not in _CPU_DTYPES:
        return f"dtype is {dtype}, the cpu kernels take float32 and float64"
    if backend in ("triton", "tcnn") and (why := why_unavailable(backend)):
        return why
    if backend in ("triton", "tcnn") and device.type != "cuda" and not (backend == "triton" and interpreting()):
        return f"tensors are on {device}, it takes those on a CUDA device"
    if backend in ("triton", "tcnn") and dtype not in _GPU_DTYPES:
        return f"dtype is {dtype}, it takes float32, float16 and bfloat16"
    if device.type == "cuda" and capability(device) < MIN_CAPABILITY:
        had, least = ".".join(map(str, capability(device))), ".".join(map(str, MIN_CAPABILITY))
        return f"{device} has compute capability {had}, wanted at least {least}"
    forward_mode = getattr(forward_ad, "_current_level", 0) >= 0  # to look at every tensor takes longer
    if forward_mode and any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in (tensor, *others)):
        # torch would give a tangent of zero, silently: an operator without a forward-mode formula loses it.
        return f"forward-mode derivatives (the {backend} kernels have those of reverse mode)"
    return refusal or why_unavailable(backend)


def select(
    backend: Backend, tensor: Tensor, *others: Tensor | None, cpu: str = "", triton: str = "", tcnn: str = ""
) -> str:
    """Name of the backend that runs a call: "triton", "cpu", "reference" or "tcnn".

    Args:
        tensor: with `others` all that may carry a derivative, of one dtype and on one device.
        cpu: reason why this backend cannot take the call, or `""`; so also `triton` and `tcnn`.

    Raises:
        ValueError: a backend that is asked for by name and cannot run the call, or an unknown one.
    """
    refusals = {"triton": triton, "cpu": cpu, "tcnn": tcnn}
    if backend not in ("auto", "reference", *refusals):
        known = ", ".join(map(repr, ("auto", "triton", "cpu", "reference", "tcnn")))
        raise ValueError(f"backend: got {backend!r}, wanted one of {known}")
    if backend == "reference" or (backend == "auto" and _second_derivatives.get() and torch.is_grad_enabled()):
        return "reference"
    selected = backend if backend != "auto" else "triton" if tensor.device.type == "cuda" else "cpu"
    refusal = _why_refused(selected, refusals[selected], tensor, others)
    if refusal and backend != "auto":
        raise ValueError(f"backend {backend!r} cannot run this call: {refusal}; use backend='reference' or 'auto'")
    return "reference" if refusal else selected


def float32_only(dtype: torch.dtype) -> str:
    """Reason why triton's kernels of rays cannot take a dtype, or `""`."""
    return "" if dtype == torch.float32 else f"dtype is {dtype}, along rays the triton kernels take float32"


def pack(x: Tensor, counts: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Packed `[m d]` and counts `[s]`, from `[s n d]` or from packed ones.

    Raises:
        ValueError, TypeError: shapes, dtype or device that do not fit; counts whose sum is not m.
    """
    if x.dim() == 3 and counts is None:
        counts = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        return x.reshape(-1, x.shape[-1]), counts
    if x.dim() != 2 or counts is None or counts.dim() != 1:
        got = None if counts is None else tuple(counts.shape)
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)} with counts {got}; wanted [s n d], or [m d] with counts [s]"
        )
    if counts.dtype != torch.int64 or counts.device not in (x.device, torch.device("cpu")):
        where = "cpu" if x.device.type == "cpu" else f"cpu or {x.device}"
        raise TypeError(f"counts: got {counts.dtype} on {counts.device}, wanted torch.int64 on {where}")
    if counts.device.type != "cpu":
        return x, counts  # to look at its numbers would make the host wait for the device
    if int(counts.sum()) != x.shape[0] or (counts.numel() > 0 and int(counts.min()) < 0):
        raise ValueError(f"counts: sum is {int(counts.sum())}, wanted the {x.shape[0]} points of {name}, none negative")
    return x, counts


def require_same_kind(**tensors: Tensor) -> None:
    """Raises TypeError unless all have one dtype and one device."""
    kinds = {(t.dtype, t.device) for t in tensors.values()}
    if len(kinds) > 1:
        got = ", ".join(f"{name} {t.dtype} on {t.device}" for name, t in tensors.items())
        raise TypeError(f"got {got}; wanted one dtype and one device")


def require_shape(name: str, tensor: Tensor, *shape: int) -> None:
    """Raises ValueError unless a tensor has this shape."""
    if tensor.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, wanted {list(shape)}")


def require_no_gradient(message: str, *tensors: Tensor | None) -> None:
    """Raises ValueError, with a message and what to do, where the derivative of one of these would be lost."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise ValueError(f"{message}; detach them, or call within torch.no_grad()")
