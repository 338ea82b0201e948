"""A GPU that is not there: torch's meta device has shapes and no numbers, so that what reads one raises."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperfields import Rays
from hyperfields.data import Kind, Pixels, Points
from hyperfields.ops import devices, dispatch
from hyperfields.training.step import StaticStep


def triton_or_reference(*_: object, triton: str = "", **__: object) -> str:
    """What "auto" takes on a GPU; `triton` says why it cannot run a call."""
    return "reference" if triton else "triton"


class Fake:
    """A family whose batches come on the device, as real ones do after `to`."""

    names = tuple("abcde")

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind

    def to(self, device: torch.device) -> Fake:
        return self

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        there = {"device": scenes.device}
        if self.kind == "views":
            return Pixels(Rays(*torch.rand(2, len(scenes), n, 3, **there)), torch.rand(len(scenes), n, 4, **there))
        x = torch.rand(len(scenes), n, 2 if self.kind == "images" else 3, **there)
        return Points(x, torch.rand(len(scenes), n, 3 if self.kind == "images" else 1, **there))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        raise NotImplementedError


class Anywhere(torch.Generator):
    """A generator for any device."""

    def __new__(cls, device: object = None) -> Anywhere:
        return super().__new__(cls, "cpu")


class Watching(TorchDispatchMode):
    """Fails on a copy from one device to another; notes the shapes of all that is computed.

    upload: copies to the device are allowed.
    """

    def __init__(self, *, upload: bool = False) -> None:
        super().__init__()
        self.upload = upload
        self.shapes: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torch does not say what comes out of this one: nothing.
        fused = func is torch.ops.aten._fused_adam_.tensor_lr
        found = None if fused else func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)]
        devices = {t.device for t in tensors if t.dim() or t.device.type != "cpu"}  # numbers ride along with a launch
        copied = self.upload and func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        assert copied or len(devices) <= 1, (func, devices)
        self.shapes.append((str(func), [tuple(t.shape) for t in tensors]))
        return found


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device passes for a GPU: steps go ahead of the host, kernels are triton's, generators are anywhere."""
    monkeypatch.setattr(devices, "is_async", lambda device: True)
    monkeypatch.setattr(dispatch, "select", triton_or_reference)  # its operators say what comes out of them
    monkeypatch.setattr(torch, "Generator", Anywhere)
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda parameter: None)
    for name in ("randperm", "rand", "randn", "randint"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, generator=None, plain=plain, **k: plain(*a, **k))
    monkeypatch.setattr(StaticStep, "sync", lambda *_: None)
