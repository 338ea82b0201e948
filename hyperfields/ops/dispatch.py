"""Which backend runs a call: those there are, why one cannot, and what every op checks first."""

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


OLDEST = (7, 5)  # compute capability that the triton kernels are compiled for
_CPU_DTYPES = (torch.float32, torch.float64)
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


_TWICE: ContextVar[bool] = ContextVar("twice", default=False)


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within it, `backend="auto"` takes the reference for all that has derivatives; kernels have first ones."""
    before = _TWICE.set(True)
    try:
        yield
    finally:
        _TWICE.reset(before)


def backends() -> dict[str, str]:
    """Each backend with `""` when it can run here, else with the reason why not and what to do."""
    return {name: missing(name) for name in ("triton", "cpu", "reference", "tcnn")}


@functools.cache
def installed(package: str) -> bool:
    """Whether a package can be imported; asked once, since it takes a search of `sys.path`."""
    return importlib.util.find_spec(package) is not None


def missing(backend: str) -> str:
    """Why a backend cannot run here, or nothing."""
    if backend == "triton":
        return _triton_missing()
    if backend == "tcnn":
        from hyperfields.ops import _tcnn

        return _tcnn.missing()
    if backend == "cpu" and not installed("numba"):
        return "numba is not installed: pip install numba"
    return ""


def interpreting() -> bool:
    """Whether triton's kernels run on the CPU, slowly, for tests: the environment says so."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str:
    if not installed("triton"):
        return "triton is not installed: pip install triton (it comes with CUDA builds of torch on Linux)"
    if interpreting():
        return ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device: the triton kernels run on NVIDIA GPUs"
    return "" if torch.version.hip is None else "an AMD GPU: the triton kernels are tested for NVIDIA's alone"


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _refused(backend: str, refusal: str, tensor: Tensor, others: tuple[Tensor | None, ...]) -> str:
    """Why a backend cannot take tensors like these, or nothing; `refusal` is what the operation itself says."""
    device, dtype = tensor.device, tensor.dtype
    if backend == "cpu" and device.type != "cpu":
        return f"tensors are on {device}"
    if backend == "cpu" and dtype not in _CPU_DTYPES:
        return f"dtype is {dtype}, the cpu kernels take float32 and float64"
    if backend in ("triton", "tcnn") and (why := missing(backend)):
        return why
    if backend in ("triton", "tcnn") and device.type != "cuda" and not (backend == "triton" and interpreting()):
        return f"tensors are on {device}, it takes those on a CUDA device"
    if backend in ("triton", "tcnn") and dtype not in _GPU_DTYPES:
        return f"dtype is {dtype}, it takes float32, float16 and bfloat16"
    if device.type == "cuda" and capability(device) < OLDEST:
        had, wanted = ".".join(map(str, capability(device))), ".".join(map(str, OLDEST))
        return f"{device} has compute capability {had}, wanted at least {wanted}"
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in (tensor, *others)):
        # torch would give a tangent of zero, silently: an operator without a forward-mode formula loses it.
        return f"forward-mode derivatives (the {backend} kernels have those of reverse mode)"
    return refusal or missing(backend)


def choose(
    backend: Backend, tensor: Tensor, *others: Tensor | None, cpu: str = "", triton: str = "", tcnn: str = ""
) -> str:
    """The backend to use; `cpu`, `triton` and `tcnn` say why those cannot take this call, or are empty.

    `tensor` and `others` are all that may carry a derivative; they have one dtype and one device.
    """
    refusals = {"triton": triton, "cpu": cpu, "tcnn": tcnn}
    if backend not in ("auto", "reference", *refusals):
        wanted = ", ".join(map(repr, ("auto", "triton", "cpu", "reference", "tcnn")))
        raise ValueError(f"backend: got {backend!r}, wanted one of {wanted}")
    if backend == "reference" or (backend == "auto" and _TWICE.get() and torch.is_grad_enabled()):
        return "reference"
    chosen = backend if backend != "auto" else "triton" if tensor.device.type == "cuda" else "cpu"
    refusal = _refused(chosen, refusals[chosen], tensor, others)
    if refusal and backend != "auto":
        raise ValueError(f"backend {backend!r} cannot run this call: {refusal}; use backend='reference' or 'auto'")
    return "reference" if refusal else chosen


NO_TCNN = "tinycudann has no such operation"


def float32_only(dtype: torch.dtype) -> str:
    return "" if dtype == torch.float32 else f"dtype is {dtype}, along rays the triton kernels take float32"


def pack(x: Tensor, counts: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """`[s n d]` or packed `[m d]` with counts -> packed and counts."""
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


def without_gradient(what: str, *tensors: Tensor | None) -> None:
    """Raises ValueError where a derivative would be lost: `what` does not give one."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise ValueError(f"{what}; detach them, or call within torch.no_grad()")


def same_kind(**tensors: Tensor) -> None:
    kinds = {(t.dtype, t.device) for t in tensors.values()}
    if len(kinds) > 1:
        got = ", ".join(f"{name} {t.dtype} on {t.device}" for name, t in tensors.items())
        raise TypeError(f"got {got}; wanted one dtype and one device")
