"""Devices and precisions that a fit or a rendering may use here, and the errors for those that it may not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from hyperfields.errors import InputError
from hyperfields.ops import dispatch

Precision = Literal["float32", "mixed"]


def usable_device(name: str) -> torch.device:
    """Device of `--device NAME`: "cpu", "cuda", "cuda:1", or another of torch's.

    Raises:
        InputError: torch does not know it, sees none of it, or it is an NVIDIA GPU that is too old.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: torch knows no such device; wanted cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        _require_cuda(name, device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--device {name}: torch sees no Apple GPU here; use --device cpu")
    elif device.type not in ("cpu", "mps"):
        raise InputError(f"--device {name}: wanted cpu, cuda, cuda:N or mps")
    return device


def require_float32() -> None:
    """Raises InputError where torch makes new tensors in another precision than that of weights and kernels."""
    if (default := torch.get_default_dtype()) != torch.float32:
        raise InputError(
            f"torch.set_default_dtype({default}): networks and kernels are in float32; call "
            "torch.set_default_dtype(torch.float32) first"
        )


def _require_cuda(name: str, device: torch.device) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "" if built else f" ({torch.__version__} is a build without CUDA)"
        raise InputError(f"--device {name}: torch sees no CUDA device here{why}; leave --device out to use the cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise InputError(f"--device {name}: torch sees {count} CUDA devices, numbers 0 to {count - 1}")
    if torch.version.hip is None and (had := torch.cuda.get_device_capability(device)) < dispatch.MIN_CAPABILITY:
        had_text, wanted = ".".join(map(str, had)), ".".join(map(str, dispatch.MIN_CAPABILITY))
        raise InputError(
            f"--device {name}: {torch.cuda.get_device_name(device)} has compute capability {had_text}, the kernels "
            f"need {wanted}; use --device cpu"
        )


def is_async(device: torch.device) -> bool:
    """True where a step on `device` never waits for it: triton's kernels need no numbers from it, other paths do."""
    return device.type == "cuda" and not dispatch.why_unavailable("triton")


def require_precision(precision: Precision, device: torch.device) -> None:
    """Raises InputError unless `--precision` can be had on `device`.

    Raises:
        InputError: an unknown precision, or mixed precision without matrix units that triton reaches.
    """
    if precision not in ("float32", "mixed"):
        raise InputError(f"--precision {precision}: wanted float32 or mixed")
    if precision == "float32":
        return
    if device.type != "cuda":
        raise InputError(f"--precision mixed: needs --device cuda; fitting on {device} is in float32")
    if reason := dispatch.why_unavailable("triton"):
        raise InputError(f"--precision mixed: {reason}; use --precision float32")
    had = torch.cuda.get_device_capability(device)
    if had < (8, 0):
        raise InputError(
            f"--precision mixed: needs compute capability 8.0, {device} has {had[0]}.{had[1]}; use --precision float32"
        )


def products(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which generated MLPs compute in `precision`; everything else stays float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.float16)


@contextlib.contextmanager
def saying_what_to_lower(what: str) -> Iterator[None]:
    """Context that turns "out of memory" on a device into one line that says which setting to lower.

    Raises:
        InputError: the device has too little memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        had = str(error).split(". ")[0].splitlines()[0]
        raise InputError(f"the GPU is out of memory ({had}); {what}") from None
