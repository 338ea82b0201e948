"""Optimisers of a fit: Adam for grids and networks, a row-wise one for latents, and the clipping of gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hyperfields.ops import devices
from hyperfields.ops.adam import FusedAdam, RowAdam, gradient_norm
from hyperfields.ops.profiling import region
from hyperfields.tasks.config import TrainConfig


class Optimizers:
    """Adam for grids and networks, a lazy one for latents (only the rows of the batch), one schedule for all."""

    def __init__(self, groups: dict[str, list[nn.Parameter]], config: TrainConfig) -> None:
        """groups: parameters by name; `latents` are tables with sparse gradients, all others are dense.

        Raises:
            InputError: a group without a rate.
        """
        adam, self.clip = config.adam, config.clip
        settings: dict[str, Any] = {"betas": adam.betas, "eps": adam.eps}
        dense: list[dict[str, Any]] = [
            {
                "params": parameters,
                "lr": config.rate(name),
                "peak": config.rate(name),
                "eps": adam.eps_networks if name == "networks" else adam.eps,
            }
            for name, parameters in groups.items()
            if name != "latents" and parameters
        ]
        self.latents = groups.get("latents") or []
        self.dense = [parameter for group in dense for parameter in group["params"]]
        self.norm: float | Tensor = math.inf  # running mean of the gradient's norm; on a GPU it stays there
        self.all: list[torch.optim.Optimizer] = []
        if dense:
            self.all.append(FusedAdam(dense, **settings))
        if groups.get("latents"):
            rate = config.rate("latents")
            self.all.append(RowAdam([{"params": groups["latents"], "lr": rate, "peak": rate}], **settings))
        for device in {p.device for parameters in groups.values() for p in parameters}:
            if devices.is_async(device):
                self._make_capturable(device)

    def _make_capturable(self, device: torch.device) -> None:
        """Rates and the running norm live on the GPU: a recorded step reads them there."""
        self.norm = torch.full((), math.inf, device=device)
        for optimizer in self.all:
            # torch warns of steps that may be recorded and are not; some are.
            optimizer._warned_capturable_if_run_uncaptured = True
            for group in optimizer.param_groups:
                group["capturable"], group["lr"] = True, torch.zeros((), device=device)

    def set_rate(self, factor: float) -> None:
        """The rates of the next step; on a GPU they are written to where a graph reads them."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["peak"] * factor)
                else:
                    group["lr"] = group["peak"] * factor

    def backward_and_step(self, loss: Tensor) -> None:
        for parameter in (*self.dense, *self.latents):
            parameter.grad = None
        with region("rest of backward"):
            loss.backward()
        self.apply()

    def apply(self) -> None:
        """A step with the gradients that are there.

        Raises:
            FloatingPointError: one is not finite; nothing was applied.
        """
        with region("optimisers"):
            self._clip()
            self._require_finite_latents()
            for optimizer in self.all:
                optimizer.step()

    def _clip(self) -> None:
        """Cut a gradient that is far larger than the last ones: heads of large codes blow up on a single outlier."""
        gradients = [parameter.grad for parameter in self.dense if parameter.grad is not None]
        if not gradients:
            return
        if isinstance(self.norm, Tensor):
            self._clip_on_device(gradients, self.norm)
            return
        norm = gradient_norm(gradients)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradients is {norm}")
        if not self.clip.limit:
            return
        limit = self.clip.limit * self.norm
        if norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        clipped, memory = min(norm, limit), self.clip.memory
        self.norm = clipped if math.isinf(self.norm) else memory * self.norm + (1.0 - memory) * clipped

    def _require_finite_latents(self) -> None:
        """Before anything is applied: codes are not part of the norm that is clipped."""
        if isinstance(self.norm, Tensor):
            return
        for table in self.latents:
            if table.grad is not None and not math.isfinite(float(table.grad._values().sum())):
                raise FloatingPointError("a gradient of the latents is not finite")

    def _clip_on_device(self, gradients: list[Tensor], before: Tensor) -> None:
        """The same on a GPU, without asking it for a number."""
        norm = torch.nn.utils.get_total_norm(gradients)
        if not self.clip.limit:
            return
        limit, memory = self.clip.limit * before, self.clip.memory
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        clipped = torch.minimum(norm, limit)
        before.copy_(torch.where(before.isinf(), clipped, memory * before + (1.0 - memory) * clipped))

    def state(self) -> dict[str, Tensor]:
        moments = {
            f"{number}/{index}/{key}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.all)
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        # A number of Python's would become one of 32 bits.
        norm = torch.as_tensor(self.norm, dtype=torch.float64).detach().cpu()
        return {"norm": norm, **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.norm, Tensor):
            self.norm.copy_(state["norm"])
        else:
            self.norm = float(state["norm"])
        state = {name: value for name, value in state.items() if name != "norm"}
        for number, optimizer in enumerate(self.all):
            whole = optimizer.state_dict()
            entries: dict[int, dict[str, Any]] = {}
            for name, value in state.items():
                owner, index, key = name.split("/")
                if int(owner) == number:
                    entries.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": entries, "param_groups": whole["param_groups"]})
