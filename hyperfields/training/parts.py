"""A family fitted in parts: each scene belongs to one, and the gradients of all are added up.

    gradient of a step = sum over parts p of (scenes of p in the step / scenes of the step) * gradient of p's mean loss

A rank takes some of the parts. Codes, their moments and occupancy of a scene are where its part is and are touched by
nobody else; what all scenes share is the same on every rank, since all apply the same sum. What a part draws in a step
is a function of the seed, the part and the step: there is no state of a sampler, and a fit of so many parts is the same
fit on one process or on as many as divide them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from hyperfields.codes.table import LatentTable
from hyperfields.data import SceneDataset, on_device, training_cameras
from hyperfields.errors import InputError
from hyperfields.model import HyperField, parameter_groups
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import one_torch_thread
from hyperfields.tasks import Objective, TrainConfig
from hyperfields.training.distributed import FAILED, World
from hyperfields.training.optim import Optimizers
from hyperfields.training.step import SYNC_STEPS, smoothing
from hyperfields.training.trainer import Bind, Length, Progress, Regularizer, Trainer, with_prefix

_CODES, _ORDER, _STEP = range(3)  # what random numbers are for


def mixed(*numbers: int) -> int:
    """A seed that follows from numbers, another for all others."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest())


def parts_of_fit(asked: int | None, before: int | None, ranks: int) -> int | None:
    """Number of parts: those asked for, else those that the fit had, where the ranks divide them; else one a rank.

    None: not in parts, for one process.

    Raises:
        InputError: parts asked for that the ranks do not divide.
    """
    if asked is not None and (asked < 1 or asked % ranks):
        raise InputError(f"--parts {asked}: wanted a multiple of the {ranks} ranks")
    parts = asked or before
    if ranks == 1 or (parts is not None and parts % ranks == 0):
        return parts
    return ranks


def divide(data: SceneDataset, parts: int) -> list[Tensor]:
    """Numbers of the scenes of each part, `[n]` int64 in rising order.

    Parts differ by one scene at most; of views, they have about as many pictures each.
    """
    count = len(data.names)
    sizes = torch.tensor([len(cameras) for cameras in training_cameras(data)] or [1] * count)
    order = torch.sort(sizes, descending=True, stable=True).indices
    rounds = order[: count // parts * parts].reshape(-1, parts).clone()
    rounds[1::2] = rounds[1::2].flip(1)  # there and back: whoever chose first chooses last
    rest = order[len(rounds) * parts :]
    return [torch.cat((rounds[:, part], rest[part : part + 1])).sort().values for part in range(parts)]


def shares(config: TrainConfig, scenes: int, parts: int) -> list[TrainConfig]:
    """The recipe of each part: its scenes of a step, and their samples.

    Raises:
        InputError: fewer scenes in the family, or in a step, than parts.
    """
    if parts > scenes:
        raise InputError(f"{parts} parts: more than the {scenes} scenes; start as many ranks at most")
    total = min(config.scenes, scenes)
    if parts > total:
        raise InputError(f"{parts} parts: more than the {total} scenes of a step; start as many ranks at most")
    counts = [total // parts + (part < total % parts) for part in range(parts)]
    each = max(config.samples // total, 1)
    return [dataclasses.replace(config, scenes=count, samples=count * each) for count in counts]


def first_codes(seed: int, part: int, scenes: int, size: int) -> Tensor:
    """Codes `[scenes size]` that those of a part start from, N(0, 1)."""
    return torch.randn(scenes, size, generator=torch.Generator().manual_seed(mixed(seed, _CODES, part)))


class Part(Trainer):
    """The scenes of one part, for their losses: parameters are those of all parts, and no step is taken here.

    Args:
        number: of the part. first: row of its first scene in the tables of this process.
        bind: fields of scenes by their rows in these tables.
        weight: of its loss: its share of a step's scenes.
    """

    def __init__(
        self,
        number: int,
        first: int,
        weight: float,
        bind: Bind,
        objective: Objective,
        scenes: Tensor,
        config: TrainConfig,
        seed: int,
        regularizers: Sequence[Regularizer],
    ) -> None:
        super().__init__(
            lambda local, generator: bind(local + first, generator), {}, objective, scenes, config, seed,
            regularizers=regularizers,
        )  # fmt: skip
        self.number, self.weight, self.seed = number, weight, seed
        self.rows = slice(first, first + len(scenes))
        self._epoch = -1

    def prepare(self) -> Hashable:
        """Draws what the step of this number takes, whichever came before."""
        batch = len(self.local)
        epoch, place = divmod(self.steps, len(self.scenes) // batch)
        if epoch != self._epoch:
            drawing = torch.Generator().manual_seed(mixed(self.seed, _ORDER, self.number, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.scenes), generator=drawing).split(batch)
        self.local.copy_(self._order[place])
        if place + 1 < len(self.scenes) // batch:
            self.objective.expect(self.scenes[self._order[place + 1]])
        self.generator.manual_seed(mixed(self.seed, _STEP, self.number, self.steps))
        return self.objective.plan(self.steps)

    def split_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State of the objective: (what has a row a scene, the rest)."""
        state, count = self.objective.state(), len(self.scenes)
        rows = {name: value for name, value in state.items() if value.dim() > 0 and len(value) == count}
        return rows, {name: value for name, value in state.items() if name not in rows}


class SharedGradients:
    """Gradients of what all scenes share, as views of one buffer for each sort of number: what ranks add up."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.buffers: list[Tensor] = []

    def clear(self) -> None:
        """Zeros, wherever a gradient will come or not."""
        if not self.buffers:
            self._make()
        for buffer in self.buffers:
            buffer.zero_()

    def _make(self) -> None:
        for kind in dict.fromkeys((p.dtype, p.device) for p in self.parameters):
            mine = [p for p in self.parameters if (p.dtype, p.device) == kind]
            buffer = torch.zeros(sum(p.numel() for p in mine), dtype=kind[0], device=kind[1])
            for parameter, part in zip(mine, buffer.split([p.numel() for p in mine]), strict=True):
                parameter.grad = part.view_as(parameter)
            self.buffers.append(buffer)


class PartsTrainer:
    """Gradient descent on the parts of this process, in step with those of the others.

    Args:
        parts: of this process.
        groups: parameters by role; `latents` have a row for each scene of this process.
        config: of the whole step.
    """

    def __init__(
        self, parts: Sequence[Part], groups: dict[str, list[nn.Parameter]], config: TrainConfig, world: World
    ) -> None:
        self.parts, self.config, self.world = tuple(parts), config, world
        self.scenes = torch.cat([part.scenes for part in parts])  # of the rows of the tables
        self.optimizers = Optimizers(groups, config)
        self.gradients = SharedGradients(self.optimizers.dense)
        self.steps = 0
        self._taken, self._sent = 0, world.sent  # steps by this process; bytes before them
        self.clock: Callable[[], float] = lambda: 0.0  # seconds of the fit

    def fit(
        self, length: Length, progress: Progress, *, on_step: Callable[[Progress], float | None] = lambda progress: None
    ) -> None:
        """Steps to the end of the length; seconds are those of the first rank. See `Trainer.fit`."""
        if self.steps == 0:
            progress.loss = math.nan
        with one_torch_thread():
            self.warm_up()
            started = time.monotonic() - progress.seconds
            self.clock = lambda: time.monotonic() - started
            while (done := length.done(progress)) < 1.0:
                progress.fraction = done
                self.step(progress)
                progress.fraction = length.done(progress)
                on_step(progress)

    def sync(self, progress: Progress) -> None:
        """See `Trainer.sync`: each step waits for its loss."""

    def step(self, progress: Progress) -> None:
        """One step of descent, of all ranks. All that they have to agree on goes with one sum of a few numbers."""
        value, found = self._backward(progress.fraction)
        with region("all-reduce"):
            for buffer in self.gradients.buffers:
                self.world.sum(buffer)
            seconds = self.clock() if self.world.first else 0.0
            broken = not self._finite_latents()
            value, parts, spoilt, seconds = self.world.totals(value, found, broken, seconds)
        if not math.isfinite(value) or spoilt:
            what = "a gradient of the latents is not finite" if math.isfinite(value) else f"the loss is {value}"
            self.world.end(FloatingPointError(f"{what} at step {progress.step}; lower the rates"), FAILED)
        if parts:  # no ray of any part may have met an occupied cell
            self.optimizers.set_rate(self.config.schedule(self.steps, progress.fraction))
            try:
                self.optimizers.apply()
            except FloatingPointError as error:
                what = f"{error} at step {progress.step}; lower the rates"
                self.world.end(FloatingPointError(what), FAILED)
        weight = smoothing(self.steps)
        progress.loss = value if math.isnan(progress.loss) else (1 - weight) * progress.loss + weight * value
        if self.steps % SYNC_STEPS == 0:
            for part in self.parts:
                part.objective.sync()
        self.steps, self._taken = self.steps + 1, self._taken + 1
        progress.step, progress.seconds = progress.step + 1, max(seconds, progress.seconds)

    @property
    def bytes_a_step(self) -> int:
        """Bytes of gradients that this process gives to the sum of a step."""
        return (self.world.sent - self._sent) // max(self._taken, 1)

    def _backward(self, fraction: float) -> tuple[float, int]:
        """(loss of the data, parts that had a gradient) of this process; gradients are where optimisers look."""
        self.gradients.clear()
        for table in self.optimizers.latents:
            table.grad = None
        value, found = 0.0, 0
        for part in self.parts:
            part.steps, part.fraction = self.steps, fraction
            part.prepare()
            total, data = part.loss()
            value += part.weight * float(data)
            if total.requires_grad:
                found += 1
                with region("rest of backward"):
                    (part.weight * total).backward()
        for table in self.optimizers.latents:
            if table.grad is None:  # all ranks count the same steps
                table.grad = torch.sparse_coo_tensor(
                    torch.zeros(1, 0, dtype=torch.int64), table.new_zeros(0, *table.shape[1:]), table.shape,
                    device=table.device, check_invariants=False,
                )  # fmt: skip
        return value, found

    def _finite_latents(self) -> bool:
        gradients = [table.grad for table in self.optimizers.latents if table.grad is not None]
        return all(bool(gradient._values().isfinite().all()) for gradient in gradients)

    def in_order(self, rows: Tensor) -> Tensor:
        """Rows `[n ...]` of tables of this process in the order of the scenes, when it has all of them."""
        ordered = torch.empty_like(rows)
        ordered[self.scenes] = rows.detach()
        return ordered

    def warm_up(self) -> None:
        """One step's losses that change nothing: compiles the kernels before the clock starts."""
        before = [{name: value.clone() for name, value in part.objective.state().items()} for part in self.parts]
        self._backward(0.0)
        for part, state in zip(self.parts, before, strict=True):
            part.objective.restore(state)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(what is the same on all ranks, what has a row for each scene of this one), by flat names."""
        state = {f"optimizer.{name}": value for name, value in self.optimizers.state().items()}
        rows = {name: value for name, value in state.items() if self.is_table(name) and value.dim() > 0}
        shared = {name: value for name, value in state.items() if name not in rows}
        return {"steps": torch.tensor(self.steps), **shared}, rows

    def load_state_dict(self, shared: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.steps = int(shared["steps"])
        self.optimizers.restore(with_prefix({**shared, **rows}, "optimizer."))

    def is_table(self, name: str) -> bool:
        """True for the name of an entry of the state that belongs to a table with a row a scene."""
        return name.startswith(f"optimizer.{len(self.optimizers.all) - 1}/")


def parts_trainer(
    model: HyperField,
    data: SceneDataset,
    config: TrainConfig,
    seed: int,
    parts: int,
    world: World,
    device: torch.device,
    *,
    bind: Bind,
    objective: Callable[[SceneDataset, TrainConfig, int], Objective],
    penalties: Callable[[Objective], Sequence[Regularizer]],
) -> PartsTrainer:
    """The trainer of the parts of this process; the table of `model`, which comes without scenes, gets their codes.

    Args:
        config: of the whole step.
        parts: their number on all ranks.
        objective: (data, recipe, number of scenes) -> that of a part. penalties: its regularizers.

    Raises:
        InputError: fewer scenes in the family, or in a step, than parts.
    """
    recipes, divided, data = shares(config, len(data.names), parts), divide(data, parts), on_device(data, device)
    mine: list[Part] = []
    first, total = 0, sum(recipe.scenes for recipe in recipes)
    for number in range(world.rank, parts, world.size):
        scenes, recipe = divided[number], recipes[number]
        made = objective(data, recipe, len(scenes))
        mine.append(Part(number, first, recipe.scenes / total, bind, made, scenes, recipe, seed, penalties(made)))
        first += len(scenes)
    size = model.config.latent_size
    codes = torch.cat([first_codes(seed, part.number, len(part.scenes), size) for part in mine])
    model.latents = LatentTable(len(codes), size, sparse=True, start=codes).to(device)
    return PartsTrainer(mine, parameter_groups(model), config, world)
