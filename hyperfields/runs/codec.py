"""Numbers in files: 16 bits each for what a run is made of. Reading gives 32 bits back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from hyperfields.errors import InputError

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def encode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are stored: floating point at 16 bits, whole numbers as they are."""
    return {name: _stored(value.detach()).contiguous() for name, value in tensors.items()}


def decode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors as they are computed with."""
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def round_trip(value: Tensor) -> Tensor:
    """A tensor as it comes back from a file."""
    return _stored(value).to(value.dtype)


def _stored(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def pieces(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor: those on the CPU are not copied.

    Layout: https://huggingface.co/docs/safetensors, section Format.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all are aligned
    entries: dict[str, object] = {"__metadata__": dict(header)}
    place = 0
    for name in order:
        value = tensors[name]
        size = value.numel() * value.element_size()
        span = [place, place + size]
        entries[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": span}
        place += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises:
    InputError: a number that is NaN or infinite; the text names its tensor.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite; restore the file or fit again")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        InputError: missing or damaged.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: is no file; wanted one of safetensors")
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: cannot be read as safetensors: {reason}") from None
