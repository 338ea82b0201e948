"""Gradient descent: optimisers, their schedule, and the steps that a fit, an inference or an addition is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from hyperfields.codes.table import gaussian_prior
from hyperfields.model import BoundField
from hyperfields.ops import devices
from hyperfields.ops.adam import FusedAdam, RowAdam, gradient_norm
from hyperfields.ops.profiling import region
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.objective import Objective

WARM_UP = 50  # steps of a rising rate
CLIP = 1.5  # times the running mean of the gradient's norm
FINAL_RATE = 0.01  # of the peak, at the end of the cosine
LOOK = 16  # steps on a GPU from one look of the host at what came of them to the next


@dataclasses.dataclass
class Progress:
    """How far a fit is. A `--minutes` fit follows the clock, a `--steps` fit its steps."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan  # smoothed
    fraction: float = 0.0
    scene: int = 0  # the scene at work, when scenes are fitted individually


class Optimizers:
    """Adam for grids and networks, a lazy one for latents (only the rows of the batch), one schedule for all."""

    def __init__(self, groups: dict[str, list[nn.Parameter]], recipe: TrainConfig) -> None:
        rates = {"grid": recipe.rate_grid, "networks": recipe.rate_networks, "latents": recipe.rate_latents}
        # Rows of a table that few points reach have tiny gradients, which a small eps keeps alive; in the networks the
        # same eps blows noise up to full steps, and fits diverge.
        eps = {"grid": 1e-15, "networks": 1e-6}
        settings: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-15}
        dense: list[dict[str, Any]] = [
            {"params": parameters, "lr": rates[name], "peak": rates[name], "eps": eps[name]}
            for name, parameters in groups.items()
            if name != "latents" and parameters
        ]
        self.dense = [parameter for group in dense for parameter in group["params"]]
        self.norm: float | Tensor = math.inf  # running mean of the gradient's norm; on a GPU it stays there
        self.all: list[torch.optim.Optimizer] = []
        if dense:
            self.all.append(FusedAdam(dense, **settings))
        if groups.get("latents"):
            rate = rates["latents"]
            self.all.append(RowAdam([{"params": groups["latents"], "lr": rate, "peak": rate}], **settings))
        for device in {p.device for parameters in groups.values() for p in parameters}:
            if devices.is_async(device):
                self._stay_on(device)

    def _stay_on(self, device: torch.device) -> None:
        """Rates and the running norm live on the GPU: a recorded step reads them there."""
        self.norm = torch.full((), math.inf, device=device)
        for optimizer in self.all:
            # torch warns of steps that may be recorded and are not; some are.
            optimizer._warned_capturable_if_run_uncaptured = True
            for group in optimizer.param_groups:
                group["capturable"], group["lr"] = True, torch.zeros((), device=device)

    def step(self, loss: Tensor, factor: float) -> None:
        self.set_rate(factor)
        self.descend(loss)

    def set_rate(self, factor: float) -> None:
        """The rates of the next step; on a GPU they are written to where a graph reads them."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["peak"] * factor)
                else:
                    group["lr"] = group["peak"] * factor

    def descend(self, loss: Tensor) -> None:
        for optimizer in self.all:
            optimizer.zero_grad()
        with region("rest of backward"):
            loss.backward()
        with region("optimisers"):
            self._clip()
            for optimizer in self.all:
                optimizer.step()

    def _clip(self) -> None:
        """Cut a gradient that is far larger than the last ones: heads of large codes blow up on a single outlier."""
        gradients = [parameter.grad for parameter in self.dense if parameter.grad is not None]
        if not gradients:
            return
        if isinstance(self.norm, Tensor):
            self._clip_there(gradients, self.norm)
            return
        norm = gradient_norm(gradients)
        limit = CLIP * self.norm
        if norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        seen = min(norm, limit)
        self.norm = seen if math.isinf(self.norm) else 0.95 * self.norm + 0.05 * seen

    def _clip_there(self, gradients: list[Tensor], before: Tensor) -> None:
        """The same on a GPU, without asking it for a number."""
        norm = torch.nn.utils.get_total_norm(gradients)
        limit = CLIP * before
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        seen = torch.minimum(norm, limit)
        before.copy_(torch.where(before.isinf(), seen, 0.95 * before + 0.05 * seen))

    def state(self) -> dict[str, Tensor]:
        moments = {
            f"{number}/{index}/{key}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.all)
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
        }
        return {"norm": torch.as_tensor(self.norm).detach().double().cpu(), **moments}

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


def rate(progress: Progress) -> float:
    """Share of the peak rate: a short linear warm-up, then half a cosine over the fit."""
    warm = min(1.0, (progress.step + 1) / WARM_UP)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress.fraction, 1.0)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)


class SceneSampler:
    """Scenes in random order without replacement, some a step."""

    def __init__(self, scenes: int, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.scenes, self.batch_size = scenes, min(batch_size, scenes)
        self.order, self.place = torch.arange(scenes, device=device), scenes

    def draw(self, generator: torch.Generator) -> Tensor:
        if self.place + self.batch_size > self.scenes:
            order = torch.randperm(self.scenes, generator=generator, device=self.order.device)
            self.order, self.place = order, 0
        self.place += self.batch_size
        return self.order[self.place - self.batch_size : self.place]


class Optimization:
    """Gradient descent on some scenes of a family: everything that a step reads or changes."""

    def __init__(
        self,
        bind: Callable[[Tensor], tuple[BoundField, Tensor | None]],  # numbers among `scenes` -> fields, codes
        groups: dict[str, list[nn.Parameter]],
        objective: Objective,
        scenes: Tensor,  # [s] numbers in the family
        seed: int,
    ) -> None:
        device = objective.device
        self.bind, self.objective, self.scenes = bind, objective, scenes.to(device)
        self.optimizers = Optimizers(groups, objective.recipe)
        self.deck = SceneSampler(len(scenes), objective.recipe.scenes, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.local = torch.zeros(self.deck.batch_size, dtype=torch.int64, device=device)  # the scenes of this step
        self.data = torch.zeros((), device=device)  # its loss, on a GPU
        self.mean: Tensor | None = None  # smoothed, there
        self.graphs: Graphs | None = None
        self.penalty: Tensor | None = None  # what `bind` wants added to the loss of this step

    def prepare(self) -> Hashable:
        """Begin a step, with what the host does of it; steps of one kind return the same."""
        self.local.copy_(self.deck.draw(self.generator))
        return self.objective.prepare()

    def loss(self) -> tuple[Tensor, Tensor]:
        """(what is minimised, the data's part of it) for the scenes of this step."""
        local = self.local
        with region("hypernetwork"):
            bound, codes = self.bind(local)
        data = self.objective.loss(bound, self.scenes[local], local, self.generator)
        prior = 0.0 if codes is None else self.objective.recipe.prior * gaussian_prior(codes).mean()
        extra, self.penalty = self.penalty, None
        return data + prior + (0.0 if extra is None else extra), data.detach()

    def rehearse(self) -> None:
        """One step that changes nothing: compiles the kernels before the clock starts."""
        before = self.state()
        self.prepare()

        def once() -> None:
            total = self.loss()[0]
            if total.requires_grad:
                total.backward()

        if self.graphs is None:
            once()
        else:
            self.graphs.call(once)
        self.restore(before)

    def step(self, progress: Progress) -> None:
        kind = self.prepare()
        weight = 0.1 if progress.step < 100 else 0.01
        if devices.is_async(self.objective.device):
            self._step_there(kind, progress, weight)
        else:
            total, data = self.loss()
            if total.requires_grad:  # no ray may have met an occupied cell
                self.optimizers.step(total, rate(progress))
            value = _finite(float(data), progress)
            progress.loss = value if math.isnan(progress.loss) else (1 - weight) * progress.loss + weight * value
        progress.step += 1

    def _step_there(self, kind: Hashable, progress: Progress, weight: float) -> None:
        """A step on a GPU, which the host does not wait for; now and then it looks."""
        self.optimizers.set_rate(rate(progress))
        if self.graphs is None:
            self.work()
        else:
            self.graphs(kind, self.work, self.generator)
        if self.mean is None:
            self.mean = self.data.clone() if math.isnan(progress.loss) else torch.full_like(self.data, progress.loss)
        self.mean.lerp_(self.data, weight)
        if progress.step % LOOK == 0:
            self.look(progress)

    def work(self) -> None:
        """What a step does on the device: it reads and writes only what stays in its place, and never waits."""
        total, data = self.loss()
        self.optimizers.descend(total)
        self.data.copy_(data)

    def look(self, progress: Progress) -> None:
        """Bring what the host knows of the last steps up to date: on a GPU it does not look after every one."""
        if self.mean is not None:
            progress.loss = _finite(float(self.mean), progress)
            self.objective.look()

    def state(self) -> dict[str, Tensor]:
        return {
            "generator": self.generator.get_state(),
            "deck.order": self.deck.order.clone(),
            "deck.place": torch.tensor(self.deck.place),
            **{f"optimizer.{name}": value.clone() for name, value in self.optimizers.state().items()},
            **{f"objective.{name}": value.clone() for name, value in self.objective.state().items()},
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.graphs is not None:
            self.graphs.forget()  # the state of optimisers moves to other places
        self.generator.set_state(state["generator"])
        self.deck.order, self.deck.place = state["deck.order"].to(self.deck.order.device), int(state["deck.place"])
        self.optimizers.restore(part(state, "optimizer."))
        self.objective.restore(part(state, "objective."))


def _finite(loss: float, progress: Progress) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at step {progress.step}; lower the rates")
    return loss


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
