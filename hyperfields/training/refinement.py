"""Refinement: every weight of a new scene free, from those that its code generates, some scenes at a time.

    W = W(z) + D,    D minimises  data(W) + pull * mean (D / spread)^2,    spread: of the fitted scenes' weights

Nothing of the run changes. A tensor's rate is in units of its spread, the root mean square by which the weights of the
fitted scenes lie apart: tables that were mixed from bases are ten times as large as those of scenes fitted alone. That
is all that a quick start needs of the family beside its mean: with rates for each number, or for each level of a grid,
it is slower. The pull is a Gaussian prior on changes: few views leave much open.
Source: the weights of a shared start, all free, are those of Vyas et al. 2024, "Learning transferable features for
implicit neural representations".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperfields.data import Pixels, SceneDataset
from hyperfields.fields import BoundField
from hyperfields.model import HyperField
from hyperfields.runs.packing import spread
from hyperfields.runs.run import Run
from hyperfields.tasks.config import Adam, Cosine, TrainConfig
from hyperfields.training.progress import OnStep
from hyperfields.training.trainer import Fields, Length, Progress, StepState, Trainer

GROUP = 8  # scenes at a time: a step then costs each two thirds of what it costs one by itself
SAMPLES = 2**13  # of a scene in a step, at most
RATE_TABLES, RATE_NETWORKS = 0.2, 0.1  # in units of the spread
PULL = 4e-3  # weight of the mean square of changes, in units of the spread, for a scene that is seen in one picture
RAYS = 2**11  # that tell in how many pictures a scene is seen
ADAM = Adam(betas=(0.5, 0.9))  # the start is good and the fit short: long memories overshoot
WARMUP = 30  # steps


def spreads(model: HyperField) -> dict[str, float]:
    """The spread of each tensor. Waits for the model's device."""
    return {name: float(value.mean()) for name, value in spread(model).items()}


def pictures_of(data: SceneDataset) -> int:
    """How many pictures the first scene is seen in; 0 for points, which show all of a scene."""
    batch = data.batch(torch.zeros(1, dtype=torch.int64), RAYS, torch.Generator().manual_seed(0))
    if not isinstance(batch, Pixels):
        return 0
    return len(torch.unique(batch.rays.origins[0] if batch.images is None else batch.images[0], dim=0))


def pull_of(data: SceneDataset) -> float:
    """Weight of the pull: that of one picture over the number of pictures. Points show all of a scene: no pull."""
    pictures = pictures_of(data)
    return PULL / pictures if pictures else 0.0


def groups_of(codes: Tensor) -> tuple[Tensor, ...]:
    """Numbers of scenes that are fitted at a time, `[s]` each, as many in each group as can be."""
    count = len(codes)
    each = math.ceil(count / math.ceil(count / GROUP))
    groups: tuple[Tensor, ...] = torch.arange(count, device=codes.device).split(each)
    return groups


def refine(
    run: Run,
    data: SceneDataset,
    codes: Tensor,
    length: Length,
    progress: Progress,
    *,
    first: float = 0.0,
    seed: int = 0,
    on_step: OnStep = lambda progress: None,
) -> dict[str, Tensor]:
    """What to add to the weights that `codes` `[s z]` generate, `[s ...]` by name: refined for the scenes of `data`.

    Args:
        length: of all of inference, of which the fraction `first` is over; the groups share what is left evenly.
    """
    field = run.model.config.field
    sizes, pull = spreads(run.model), pull_of(data)
    spec = field.spec
    rates = {
        name: (RATE_NETWORKS if spec[name].source == "generated" else RATE_TABLES) * size
        for name, size in sizes.items()
    }
    groups = groups_of(codes)
    parts = []
    for number, scenes in enumerate(groups):
        with torch.no_grad():
            start = {
                name: value.expand(len(scenes), *value.shape[1:]).clone()
                for name, value in run.model.hypernet(codes[scenes]).items()
            }
        own = {name: nn.Parameter(value.clone()) for name, value in start.items()}

        def bind(local: Tensor, generator: torch.Generator, own: Mapping[str, Tensor] = own) -> Fields:
            return Fields(BoundField(field, {name: value[local] for name, value in own.items()}, len(local)))

        def pulled(state: StepState, own: Mapping[str, Tensor] = own, start: Mapping[str, Tensor] = start) -> Tensor:
            squares = [((own[name] - start[name]) / sizes[name]).square().mean() for name in own]
            return pull * torch.stack(squares).sum()

        train = recipe(run, rates, ADAM, len(scenes))
        objective = run.task.objective(data, field, train, len(scenes), device=codes.device, loss=train.loss)
        trainer = Trainer(
            bind, {name: [value] for name, value in own.items()}, objective, scenes, train, seed + number,
            regularizers=[pulled] if pull else [],
        )  # fmt: skip
        trainer.fit(length, progress, stage=stage_of(number, len(groups), first), on_step=on_step)
        parts.append({name: (value.detach() - start[name]) for name, value in own.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def recipe(run: Run, rates: Mapping[str, float], adam: Adam, scenes: int) -> TrainConfig:
    """The run's recipe for a short fit of weights alone: their rates by name, so many scenes in each step."""
    train = run.config.train
    return train.for_new_scenes(
        scenes=scenes, samples=scenes * min(train.samples, SAMPLES), prior=0.0, adam=adam,
        schedule=Cosine(WARMUP), rates=tuple(rates.items()),
    )  # fmt: skip


def stage_of(number: int, groups: int, first: float) -> tuple[float, float]:
    """The stage of a group in a length of which the fraction `first` is over: even shares of what is left."""
    share = (1.0 - first) / groups
    return first + number * share, first + (number + 1) * share
