"""Meta-learning: codes are found by a few gradient steps from a common start, and the networks learn to make that work.

    z_0 = 0,   z_{k+1} = z_k - rates * d loss(z_k) / d z,   networks and rates minimise loss(z_K) on fresh samples

A step longer than `LONGEST` is cut to that length.

Only the code is adapted (Zintgraf et al. 2019, "Fast context adaptation via meta-learning"), with a learned rate for
each of its numbers (Li et al. 2017, "Meta-SGD"; Dupont et al. 2022, "functa", section 3.2). Second order differentiates
through the inner steps, first order takes their gradients as given (Finn et al. 2017, section 5.2).

`reptile_fit` learns a start for the base weights themselves, without any derivative of a derivative: a scene's weights
move from the common start W by some gradient steps, and W moves a share of the way (Nichol, Achiam, Schulman 2018, "On
first-order meta-learning algorithms", section 3, its batched form).

    W <- W + share * mean_s (U_k(W; s) - W)

The compiled kernels have no second derivative, and torch refuses to take one. The inner steps of second order therefore
run on the reference, which takes several times as long; the loss after them runs on the kernels again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperfields import ops
from hyperfields.codes.table import CodeSource
from hyperfields.data import Kind, SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import Field
from hyperfields.hypernets import Independent
from hyperfields.model import BoundField, HyperField, ModelConfig, parameter_groups
from hyperfields.runs.checkpoint import SOURCE, Run, read_tensors
from hyperfields.tasks import task_of
from hyperfields.tasks.objective import Objective
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.inference import Codes
from hyperfields.training.optim import Optimizers, Progress, rate
from hyperfields.weights import Weights


@dataclasses.dataclass(frozen=True)
class Meta:
    """steps: inner ones. order: 1 or 2, see above. rate: of the inner steps at first, they are learned.

    Losses of the inner loop are means over a scene's samples, so the rates are large numbers.
    """

    steps: int = 3
    order: Literal[1, 2] = 1
    rate: float = 3.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.order not in (1, 2) or not self.rate > 0.0:
            raise InputError(f"{self}: wanted at least 1 step, order 1 or 2, and a rate above 0")


# A step moves the numbers of a code by no more than this, root mean square, and networks take smaller steps than with
# codes from a table: else a code overshoots, networks and codes grow together, and the loss ends up infinite.
LONGEST = 0.3
SLOWER = 0.25


def slower(recipe: TrainConfig) -> TrainConfig:
    """The recipe of a preset for a fit whose codes are found by inner steps."""
    return dataclasses.replace(recipe, rate_networks=SLOWER * recipe.rate_networks, rate_grid=SLOWER * recipe.rate_grid)


def adapt(loss: Callable[[Tensor], Tensor], codes: Tensor, rates: Tensor, steps: int, order: int) -> Tensor:
    """Codes `[s z]` after some inner steps.

    Args:
        loss: codes -> the sum of the scenes' losses, so that scenes do not see each other.
        rates: `[z]`.

    Differentiable in the rates; with order 2 in all that the loss depends on.
    """
    if not codes.requires_grad:
        codes = codes.detach().requires_grad_()
    with ops.twice_differentiable() if order == 2 else contextlib.nullcontext():
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(loss(codes), codes, create_graph=order == 2)
            step = rates * gradient
            length = step.square().mean(1, keepdim=True).add(1e-24).sqrt()
            codes = codes - step * (LONGEST / length).clamp(max=1.0)
    return codes


# Rates at first that suit the losses of each kind; they are learned from there.
RATES: dict[Kind, float] = {"images": 3.0, "shapes": 0.3, "views": 5.0}


class InnerSteps(CodeSource):
    """Codes after some inner steps from 0, for `fit.Fit`; the rates `[z]` are learned as their logarithms."""

    name = "cavia"
    prior = False

    def __init__(self, config: ModelConfig, meta: Meta) -> None:
        super().__init__()
        self.meta = meta
        self.log_rates = nn.Parameter(torch.zeros(config.latent_size))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **dataclasses.asdict(self.meta)}

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        rates = self.meta.rate * self.log_rates.exp()
        start = torch.zeros(len(scenes), len(rates), device=rates.device)
        return adapt(loss, start, rates, self.meta.steps, self.meta.order), torch.zeros((), device=rates.device)


class MetaModel(nn.Module):
    """A model and the inner rates `[z]` that go with it."""

    def __init__(self, config: ModelConfig, scenes: int, meta: Meta) -> None:
        super().__init__()
        self.meta = meta
        self.model = HyperField(config, scenes)
        self.rates = nn.Parameter(torch.full((config.latent_size,), meta.rate))

    def codes(self, objective: Objective, scenes: Tensor, local: Tensor, generator: torch.Generator) -> Tensor:
        """Codes `[s z]` of scenes, by number in the objective's family `[s]`, after the inner steps."""

        def loss(codes: Tensor) -> Tensor:
            return objective(self.model.bind(codes), scenes, local, generator) * len(scenes)

        start = torch.zeros(len(scenes), self.rates.shape[0])
        return adapt(loss, start, self.rates, self.meta.steps, self.meta.order)


def meta_fit(
    family: SceneDataset,
    config: ModelConfig,
    meta: Meta,
    recipe: TrainConfig,
    *,
    steps: int,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> MetaModel:
    """Learn networks and rates so that a few inner steps give a scene's code. The model's table then holds such codes.

    Raises:
        InputError: a model without a hypernetwork.
    """
    if isinstance(config.generator, Independent):
        raise InputError("Independent: has no networks that could be meta-learned; take another generator")
    torch.manual_seed(seed)
    count = len(family.names)
    found = MetaModel(config, count, meta)
    objective = task_of(family.kind).objective(family, config.field, recipe, count)
    groups = {**parameter_groups(found.model), "latents": []}
    optimizers = Optimizers(groups, recipe)
    slow = torch.optim.Adam([found.rates], lr=0.01 * meta.rate)
    generator, progress = torch.Generator().manual_seed(seed), Progress()
    for step in range(steps):
        progress.step, progress.fraction = step, step / steps
        scenes = torch.randperm(count, generator=generator)[: min(recipe.scenes, count)]
        codes = found.codes(objective, scenes, scenes, generator)
        slow.zero_grad()
        bound = found.model.bind(codes)
        objective.update(bound, scenes, step, generator)
        loss = objective(bound, scenes, scenes, generator)
        optimizers.step(loss, rate(progress))
        slow.step()
        progress.loss = float(loss.detach())
        report(progress)
    with torch.no_grad():
        for first in range(0, count, recipe.scenes):
            scenes = torch.arange(first, min(first + recipe.scenes, count))
            with torch.enable_grad():
                codes = found.codes(objective, scenes, scenes, generator)
            found.model.latents.codes[scenes] = codes
    return found


@dataclasses.dataclass(frozen=True)
class Reptile:
    """steps, rate: of a scene's own descent (Adam). share: how far the start follows at first; it falls to 0."""

    steps: int = 8
    rate: float = 1e-2
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0.0 or not 0.0 < self.share <= 1.0:
            raise InputError(f"{self}: wanted at least 1 step, a rate above 0 and a share above 0 and at most 1")


def adapt_weights(
    start: Weights, objective: Objective, scenes: Tensor, reptile: Reptile, generator: torch.Generator
) -> tuple[Weights, float]:
    """(weights `[s ...]` of scenes `[s]` after their own descent from `start` `[1 ...]`, the last loss).

    Scenes do not see each other. Not differentiable.
    """
    own = {name: value.detach().expand(len(scenes), *value.shape[1:]).clone() for name, value in start.items()}
    leaves = [value.requires_grad_() for value in own.values()]
    # Adam scales each number by itself, so that the mean over scenes in the loss changes nothing.
    optimizer = torch.optim.Adam(leaves, lr=reptile.rate, betas=(0.0, 0.99), eps=1e-15)
    last = 0.0
    for _ in range(reptile.steps):
        optimizer.zero_grad()
        loss = objective(BoundField(objective.field, own, len(scenes)), scenes, scenes, generator)
        if loss.requires_grad:  # no ray may have met an occupied cell
            loss.backward()
            optimizer.step()
        last = float(loss.detach())
    return {name: value.detach() for name, value in own.items()}, last


def reptile_fit(
    family: SceneDataset,
    field: Field,
    reptile: Reptile,
    recipe: TrainConfig,
    *,
    steps: int,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Weights:
    """Learn weights `[1 ...]` of a field from which any scene of the family is a few steps away.

    The grid's table, where the field has one, is learned as well: a factored one as a plain one.
    """
    torch.manual_seed(seed)
    count = len(family.names)
    start: Weights = {name: entry.initial()[None] for name, entry in field.spec.items()}
    objective = task_of(family.kind).objective(family, field, recipe, count)
    generator, progress = torch.Generator().manual_seed(seed), Progress()
    for step in range(steps):
        progress.step, progress.fraction = step, step / steps
        scenes = torch.randperm(count, generator=generator)[: min(recipe.scenes, count)]
        own, progress.loss = adapt_weights(start, objective, scenes, reptile, generator)
        objective.update(BoundField(field, own, len(scenes)), scenes, step, generator)
        share = reptile.share * (1.0 - progress.fraction)
        start = {name: value + share * (own[name].mean(0, keepdim=True) - value) for name, value in start.items()}
        report(progress)
    return start


class CommonStart(CodeSource):
    """Reptile for `fit.Fit`, with a model whose codes are the weights themselves (`Independent`): a learned start `[n]`.

    The way from the start to where scenes get is handed to the outer Adam as if it were a gradient, as section 3 of
    Nichol et al. suggests; `reptile_fit` takes plain steps of it.
    """

    name = "reptile"
    prior = False

    def __init__(self, config: ModelConfig, reptile: Reptile) -> None:
        super().__init__()
        self.reptile = reptile
        self.start = nn.Parameter(torch.cat([entry.initial().flatten() for entry in config.field.spec.values()]))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **dataclasses.asdict(self.reptile)}

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        own = self.start.detach().expand(len(scenes), -1).clone().requires_grad_()
        optimizer = torch.optim.Adam([own], lr=self.reptile.rate, betas=(0.0, 0.99), eps=1e-15)
        for _ in range(self.reptile.steps):
            optimizer.zero_grad()
            total = loss(own)
            if total.requires_grad:  # no ray may have met an occupied cell
                total.backward()
                optimizer.step()
        reached = own.detach()
        return reached, 0.5 * (self.start - reached.mean(0)).square().sum()


def infer_by_steps(run: Run, family: SceneDataset, *, seed: int = 0) -> Codes:
    """Codes of scenes that a run has not seen, by the steps that it has learned to start from, or to take.

    Raises:
        InputError: another kind of family, or a run that was not fitted for it.
    """
    settings = dict(run.config.get("codes") or {})
    name = settings.pop("name", None)
    source: CodeSource
    if name == InnerSteps.name:
        source = InnerSteps(run.model.config, Meta(**settings))
    elif name == CommonStart.name:
        source = CommonStart(run.model.config, Reptile(**settings))
    else:
        raise InputError(f"{run.path}: was not fitted for a few steps; make such a run by: fit --by cavia or reptile")
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; give a family of {run.kind}")
    tensors, _ = read_tensors(run.path / SOURCE)
    source.load_state_dict({name: value.float() for name, value in tensors.items()})
    recipe, count = TrainConfig(**run.config["recipe"]), len(family.names)
    objective = task_of(family.kind).objective(family, run.model.config.field, recipe, count)
    generator = torch.Generator().manual_seed(seed)
    model, found = run.model.requires_grad_(False), []
    for scenes in torch.arange(count).split(recipe.scenes):

        def loss(codes: Tensor, scenes: Tensor = scenes) -> Tensor:
            return objective(model.bind(codes), scenes, scenes, generator) * len(scenes)

        found.append(source.settled(scenes, generator, loss))
    return Codes(family.names, torch.cat(found))
