"""Adam on the CPU kernels: one call for all dense parameters, and one for the rows of a table that a step has met.

Source: Kingma, Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hyperfields.ops import dispatch

Backend = Literal["auto", "reference"]
_PLAIN = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable")  # options that the kernel has not


def _compiled(tensors: Sequence[Tensor]) -> bool:
    """True if the kernels take these tensors."""
    first = tensors[0].dtype
    return (
        first in (torch.float32, torch.float64)
        and all(t.is_cpu and t.dtype == first and t.is_contiguous() for t in tensors)
        and not dispatch.why_unavailable("cpu")
    )


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """Euclidean norm of all gradients together. Waits for their device. Not differentiable."""
    if gradients and _compiled(gradients):
        from hyperfields.ops import _cpu

        return _cpu.gradient_norm_cpu(gradients)
    return float(torch.nn.utils.get_total_norm(list(gradients)))


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`, its state and its results, on our threads where parameters are on the CPU.

    Results do not depend on the number of threads, and are those of torch to the bit, but for the last few numbers of
    a tensor whose size is no multiple of the processor's vectors. Everything that the kernels cannot take (other
    devices and dtypes, weight decay, ...) is torch's own step.
    """

    def __init__(self, params: Iterable[Any], *, backend: Backend = "auto", **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)
        self.backend = backend

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        parameters = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if (
            closure is not None
            or self.backend == "reference"
            or not parameters
            or any(group[name] for group in self.param_groups for name in _PLAIN)
            or not _compiled([p for p, _ in parameters])
            or not all(p.grad.is_contiguous() for p, _ in parameters)
        ):
            return super().step(closure)
        from hyperfields.ops import _cpu

        states = [self._state(p) for p, _ in parameters]
        steps = _cpu.advance_cpu([state["step"] for state in states])
        groups = [(id(group), step) for (_, group), step in zip(parameters, steps, strict=True)]
        settings = {key: _settings(group, key[1]) for key, (_, group) in zip(groups, parameters, strict=True)}
        _cpu.adam_cpu(
            [p.grad for p, _ in parameters], [p for p, _ in parameters], [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [settings[key] for key in groups],
        )  # fmt: skip
        return None

    step.hooked = True  # type: ignore[attr-defined]  # or torch wraps it in records of its profiler: 50 us a step

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        """State of a parameter, under torch's names."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def _settings(group: dict[str, Any], step: float) -> tuple[float, float, float, float, float]:
    b1, b2 = group["betas"]
    return float(group["lr"]) / (1.0 - b1**step), math.sqrt(1.0 - b2**step), group["eps"], b1, b2


class RowAdam(torch.optim.Optimizer):
    """Adam that only touches the rows of a table that have a gradient, `torch.optim.SparseAdam` in its results.

    Gradients are sparse, as `nn.functional.embedding(sparse=True)` gives them; those of a row that comes more than
    once are added up. Nothing in a step depends on what is in a tensor, so it can be recorded into a CUDA graph.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        backend: Backend = "auto",
    ) -> None:
        # torch puts the step of a capturable group where its parameters are.
        super().__init__(groups, {"betas": betas, "eps": eps, "capturable": True})
        self.backend = backend

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(group, table)

    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, group: dict[str, Any], table: Tensor) -> None:
        (b1, b2), lr, eps = group["betas"], group["lr"], group["eps"]
        assert table.grad is not None
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        rows, slopes = table.grad._indices()[0], table.grad._values()
        if not len(rows):
            return
        means, squares = state["exp_avg"], state["exp_avg_sq"]
        if self.backend == "auto" and table.dim() == 2 and _compiled((table, slopes, means, squares)):
            from hyperfields.ops import _cpu

            step = float(state["step"])
            length = float(lr) * math.sqrt(1.0 - b2**step) / (1.0 - b1**step)
            _cpu.row_adam_cpu(rows, slopes, table, means, squares, (length, eps, b1, b2))
            return
        length = lr * (1.0 - b2 ** state["step"]).sqrt() / (1.0 - b1 ** state["step"])
        # Every entry of a row gets the sum of all of them, so that they all write the same.
        first = (rows[:, None] == rows).byte().argmax(1)
        slopes = torch.zeros_like(slopes).index_add_(0, first, slopes)[first]
        mean = means[rows].lerp_(slopes, 1.0 - b1)
        square = squares[rows].lerp_(slopes.square(), 1.0 - b2)
        means.index_copy_(0, rows, mean)
        squares.index_copy_(0, rows, square)
        table.index_copy_(0, rows, table[rows] - length * mean / (square.sqrt() + eps))
