"""Compression: new scenes in so many bytes each, by codes and the few changes of weights that are worth their bytes.

    W = W(z) + step * round(u),    u minimises  data(W) + weight * sum log(1 + 4 |u|),    steps: `runs.packing`

The code is rounded first; what that loses, changes of weights make good. Gradients go through the rounding as if it was
not there, so a change that stays small costs nothing, and one that is worth its bytes grows beyond the first step. The
weight of the bytes is a scene's own and follows its size: more while it is above the bytes that are wanted, less while
it is below.
Sources: the penalty is that of Candes, Wakin, Boyd 2008, "Enhancing sparsity by reweighted l1 minimization"; a weight
that follows the size is that of He et al. 2024, "RECOMBINER", section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.runs.packing import Packing
from hyperfields.runs.run import Run
from hyperfields.tasks.config import Adam
from hyperfields.training.progress import OnStep
from hyperfields.training.refinement import WARMUP, groups_of, recipe, stage_of
from hyperfields.training.trainer import Fields, Length, Progress, StepState, Trainer

SHARE = 8  # of a step, as `Packing.step_of` reads it
RATE_TABLES, RATE_NETWORKS = 0.1, 0.05  # in units of the spread
ADAM = Adam(betas=(0.8, 0.95))
DEAD = 0.6  # a change below so many steps is none
CONTROL = 5  # steps between two looks at the sizes
BITS_PER_NAT = 3.0  # of the penalty, roughly: sets the first weight of the bytes


class _Changes(nn.Module):
    """Changes of some scenes' weights in steps, `[s ...]` by name, with the weight of their bytes `[s]`."""

    def __init__(self, packing: Packing, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.packing, self.start = packing, start
        self.steps = {name: packing.step_of(name, SHARE) for name in start}
        self.values = {name: nn.Parameter(torch.zeros_like(value)) for name, value in start.items()}

    def weights(self, local: Tensor) -> dict[str, Tensor]:
        made = {}
        for name, values in self.values.items():
            mine = values[local]
            made[name] = self.start[name][local] + self.steps[name] * (mine + (rounded(mine) - mine).detach())
        return made

    def penalty(self, local: Tensor) -> Tensor:
        """`[s]`, about the number of bits over `BITS_PER_NAT`."""
        return torch.stack([(1.0 + 4.0 * v[local].abs()).log().flatten(1).sum(1) for v in self.values.values()]).sum(0)

    @torch.no_grad()
    def numbers(self, scene: int, least: float = DEAD) -> dict[str, Tensor]:
        """Whole numbers of a scene by name; changes below `least` steps are left out."""
        return {
            name: torch.where(value[scene].abs() < least, 0.0, rounded(value[scene])).long()
            for name, value in self.values.items()
        }


def rounded(values: Tensor) -> Tensor:
    """Whole numbers, towards 0: from `DEAD` it is 1, from 1 + `DEAD` 2."""
    return values.sign() * (values.abs() + (1.0 - DEAD)).floor()


def compress(
    run: Run,
    data: SceneDataset,
    codes: Tensor,
    length: Length,
    progress: Progress,
    size: int,
    *,
    first: float = 0.0,
    seed: int = 0,
    on_step: OnStep = lambda progress: None,
) -> tuple[bytes, ...]:
    """A scene of `data` each, in at most `size` bytes; `codes` `[s z]` are theirs. `Packing.unpack` reads them.

    Args:
        length: of all of inference, of which the fraction `first` is over; the groups share what is left evenly.

    Raises:
        InputError: fewer bytes than a code alone takes.
    """
    packing, field = Packing(run.model), run.model.config.field
    whole = packing.code_numbers(codes)
    nothing = packing.nothing()
    least = max(len(packing.pack(row, nothing, SHARE)) for row in whole)
    if size < least:
        raise InputError(f"--bytes {size}: a code alone takes up to {least}; wanted no fewer")
    groups = groups_of(whole)
    packed: list[bytes] = []
    for number, scenes in enumerate(groups):
        with torch.no_grad():
            generated = run.model.hypernet(packing.codes(whole[scenes]))
            changes = _Changes(packing, {k: v.expand(len(scenes), *v.shape[1:]).clone() for k, v in generated.items()})
        budget = _Budget(packing, changes, whole[scenes], size)

        def bind(local: Tensor, generator: torch.Generator, changes: _Changes = changes) -> Fields:
            return Fields(BoundField(field, changes.weights(local), len(local)))

        rates = {
            name: (RATE_NETWORKS if field.spec[name].source == "generated" else RATE_TABLES) / packing.share(SHARE)
            for name in changes.values
        }
        train = recipe(run, rates, ADAM, len(scenes))
        objective = run.task.objective(data, field, train, len(scenes), device=codes.device, loss=train.loss)
        trainer = Trainer(
            bind, {name: [value] for name, value in changes.values.items()}, objective, scenes, train, seed + number,
            regularizers=[budget],
        )  # fmt: skip

        def after(state: Progress, budget: _Budget = budget) -> None:
            budget.follow(state)
            on_step(state)

        trainer.fit(length, progress, stage=stage_of(number, len(groups), first), on_step=after)
        packed += [budget.pack(scene) for scene in range(len(scenes))]
    return tuple(packed)


class _Budget:
    """Regularizer: the weight of the bytes of each scene, which follows what they come to."""

    def __init__(self, packing: Packing, changes: _Changes, codes: Tensor, size: int) -> None:
        self.packing, self.changes, self.codes, self.size = packing, changes, codes, size
        self.factor = torch.ones(len(codes), device=codes.device)
        self.loss, self.steps = 0.0, 0

    def __call__(self, state: StepState) -> Tensor:
        # Where quality is traded well, a per cent of the bytes is worth about a per cent of the loss.
        weight = self.loss * BITS_PER_NAT / (8.0 * self.size)
        local = torch.arange(len(self.codes), device=self.codes.device)
        return weight * (self.factor * self.changes.penalty(local)).mean()

    def follow(self, progress: Progress) -> None:
        """Look at the loss, and now and then at the sizes."""
        self.loss, self.steps = 0.0 if math.isnan(progress.loss) else progress.loss, self.steps + 1
        if self.steps % CONTROL or self.steps < WARMUP:
            return
        for scene in range(len(self.codes)):
            found = self.packing.estimate(self.codes[scene], self.changes.numbers(scene))
            self.factor[scene] *= min(max((found / self.size) ** 0.5, 0.8), 1.25)

    def pack(self, scene: int) -> bytes:
        """The scene in no more bytes than wanted: the smallest changes are left out first."""
        low, high = DEAD, 2.0**12
        packed = self._pack(scene, low)
        if len(packed) <= self.size:
            return packed
        for _ in range(16):
            middle = math.sqrt(low * high)
            packed = self._pack(scene, middle)
            low, high = (low, middle) if len(packed) <= self.size else (middle, high)
        return self._pack(scene, high)

    def _pack(self, scene: int, least: float) -> bytes:
        return self.packing.pack(self.codes[scene], self.changes.numbers(scene, least), SHARE)
