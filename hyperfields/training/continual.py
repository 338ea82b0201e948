"""Adding scenes to a fitted run without forgetting those that are in it, and without their data.

A code gets more numbers, which old scenes leave at 0 (`hypernets.extension`). Then either all that was there stays as
it is and only the extension is fitted, so that old scenes cannot change; or everything is, and what is generated for
old codes is held where it was:

    loss = data of the new scenes + weight / s * sum over old scenes of |h(z_old) - h*(z_old)|^2,   h* as it was

Sources: Rusu et al. 2016, "Progressive neural networks"; von Oswald, Henning, Grewe, Sacramento 2020, "Continual
learning with hypernetworks", equation 2.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from hyperfields.codes import LatentTable
from hyperfields.configs import parts_of
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.hypernets import Extension, shares_networks
from hyperfields.hypernets.init import std_of
from hyperfields.model import HyperField, parameter_groups
from hyperfields.process import seeded
from hyperfields.runs.atomic import new_folder, write_atomically
from hyperfields.runs.config import DataSource, require_seed, versions, write_config
from hyperfields.runs.run import SUMMARY, Run, load_run, require_data, require_pixels, write_model
from hyperfields.training.inference import infer
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.trainer import Fields, Length, Progress, StepState, Trainer

Method = Literal["extension", "output", "frozen", "naive"]
EXTRA_DIMS = 16  # that a code gets
WEIGHT = 2.0  # of the regulariser at the end, a tenth of it at the start; squares are in units of initial variances
ADDED, CODES = "add.json", "codes.safetensors"


def drift(old: HyperField, new: HyperField, scenes: Tensor) -> Tensor:
    """Mean square by which weights of old scenes, by number `[s]`, have moved, in units of their initial variance.

    In units of 1 for weights that begin at 0.
    """
    with torch.no_grad():
        before = old.hypernet(old.latents.codes[scenes])
    after = new.hypernet(new.latents.codes.detach()[scenes])
    stds = {name: std_of(entry) or 1.0 for name, entry in old.config.field.spec.items()}
    squares = [((after[k] - before[k]) / stds[k]).square().flatten(1).sum(1).mean() for k in before]
    total: Tensor = torch.stack(squares).sum() / sum(value[0].numel() for value in before.values())
    return total


@dataclasses.dataclass(frozen=True)
class Drift:
    """Regularizer: outputs for old codes are held where they were (von Oswald et al. 2020, equation 2)."""

    old: HyperField
    new: HyperField
    weight: float
    batch: int  # old scenes of a step

    def __call__(self, state: StepState) -> Tensor:
        count = self.old.latents.codes.shape[0]
        device = state.scenes.device
        chosen = torch.randperm(count, generator=state.generator, device=device)[: min(self.batch, count)]
        # Looser at first, while the rate is high: new scenes find their place, then the old ones go back to theirs.
        firmness: float = self.weight * 10.0 ** (state.fraction - 1.0)
        return firmness * drift(self.old, self.new, chosen)


def extend(run: Run, scenes: int, extension: Extension) -> HyperField:
    """The run's model with room for more scenes; those that it has are generated exactly as before.

    Codes of new scenes are drawn with the mean and the standard deviation of the fitted ones, their new numbers from
    N(0, 1). Draws from torch's global generator, as modules do.
    """
    old = run.model
    config = dataclasses.replace(
        old.config,
        latent_size=old.config.latent_size + extension.numbers,
        extensions=(*old.config.extensions, extension),
    )
    count = len(run.names)
    model = HyperField(config, count + scenes)
    model.hypernet.load_state_dict({**model.hypernet.state_dict(), **old.hypernet.state_dict()})
    with torch.no_grad():
        fitted = old.latents.codes.cpu()
        std = fitted.std(0) if count > 1 else torch.ones_like(fitted[0])
        codes = model.latents.codes  # from N(0, 1)
        codes[count:, : fitted.shape[1]] = fitted.mean(0) + std * codes[count:, : fitted.shape[1]]
        codes[count:, fitted.shape[1]] = 1.0  # what new scenes share can so be told by maps that have no bias
        codes[:count, : fitted.shape[1]] = fitted
        codes[:count, fitted.shape[1] :] = 0.0
    return model.to(old.latents.codes.device)


@torch.inference_mode(False)  # wherever it is called
@torch.enable_grad()
def add(
    run: Run,
    data: SceneDataset,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    method: Method = "extension",
    numbers: int = EXTRA_DIMS,
    bases: int | None = None,
    weight: float = WEIGHT,
    bytes_per_scene: int | None = None,
    seed: int = 0,
    sources: tuple[DataSource, ...] = (),
    progress: bool | OnStep = True,
) -> Run:
    """The run with the scenes of `data` added, in the folder `out`; the old run stays as it is.

    Args:
        method: `extension` fits only what is added to the networks and the new codes. `output` fits all networks and
            holds what is generated for old scenes. `frozen` changes no network: codes of the new scenes and what is
            added to their weights go to OUT/codes.safetensors, to be used with the old run, which is returned. `naive`
            just goes on fitting, and forgets: to compare with. All but `frozen` extend codes and networks alike.
        numbers: how many more a code gets. All but `frozen`.
        bases: of a hash grid's tables, which those numbers mix; without, one for every four new scenes.
        weight: of the regulariser of `output` at the end of the fit.
        bytes_per_scene: that code and changes of a new scene may take with `frozen`; without, 16 bits a weight.
        sources: where the new scenes came from, for the config of the new run.
        progress: True shows a bar; or called with the `Progress` after each step.

    Raises:
        InputError: another kind of scenes, names that the run has already, a run without a hypernetwork, an `out` in
            use.
    """
    if method not in get_args(Method):
        raise InputError(f"method {method!r:.60}: unknown, wanted one of {', '.join(get_args(Method))}")
    require_seed(seed)
    _check(run, data)
    length, out = Length(minutes, steps), Path(out)
    if bytes_per_scene is not None and method != "frozen":
        raise InputError(f"--bytes: goes with --method frozen, not with {method}; leave it out")
    with new_folder(out, parents=True) as folder:  # all of the new run is there, or nothing
        if method == "frozen":
            infer(
                run, data, folder / CODES, minutes=minutes, steps=steps, refine=bytes_per_scene is None,
                bytes_per_scene=bytes_per_scene, seed=seed, progress=progress,
            )  # fmt: skip
            return run
        new = len(data.names)
        with seeded(seed):
            model = extend(run, new, Extension(numbers, math.ceil(new / 4) if bases is None else bases))
        state = _fit_added(run, data, model, length, method, weight, seed, progress)
        _write(run, data, folder, model, method, sources, state)
    return load_run(out, model.latents.codes.device, trust=parts_of(run.config))


def _fit_added(
    run: Run, data: SceneDataset, model: HyperField, length: Length, method: Method, weight: float, seed: int,
    progress: bool | OnStep,
) -> Progress:  # fmt: skip
    """Fit what was added to a model, and what `method` lets change of the rest."""
    count, new = len(run.names), len(data.names)
    if method == "extension":
        model.hypernet.requires_grad_(False).eval()
        model.hypernet.extensions[-1].requires_grad_(True)
    table = LatentTable(new, model.config.latent_size, sparse=True, start=model.latents.codes[count:])
    train = run.config.train.for_new_scenes(scenes=min(run.config.train.scenes, new))

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        codes = table(local)
        return Fields(model.bind(codes), codes)

    groups = {name: [p for p in group if p.requires_grad] for name, group in parameter_groups(model).items()}
    groups["latents"] = [table.codes]
    objective = run.task.objective(data, model.config.field, train, new, device=table.codes.device, loss=train.loss)
    held = [Drift(run.model, model, weight, min(new, train.scenes))] if method == "output" and weight else []
    trainer = Trainer(
        bind, groups, objective, torch.arange(new), train, seed, regularizers=(GaussianPrior(train.prior), *held)
    )
    state = Progress()
    with shown(progress, "add") as on_step:
        trainer.fit(length, state, on_step=on_step)
    with torch.no_grad():
        model.latents.codes[count:] = table.codes
    return state


def _check(run: Run, data: SceneDataset) -> None:
    require_data(run, data)
    if not shares_networks(run.model.config.generator):
        raise InputError(f"{run.label}: was fitted with --individually, so it has no networks to add scenes to")
    known = [name for name in data.names if name in run.names]
    if known:
        raise InputError(f"scene {known[0]!r}: is in {run.label} already ({len(known)} are); choose with --scenes")
    require_pixels(run, data)


def _write(
    run: Run, data: SceneDataset, out: Path, model: HyperField, method: Method, sources: tuple[DataSource, ...],
    progress: Progress,
) -> None:  # fmt: skip
    """Write the new run. It has no state: a fit cannot go on with it, since its scenes are of two data sets."""
    picture = {**run.config.picture}
    if frames := {**picture.get("frames", {}), **run.task.describe(data).get("frames", {})}:
        picture["frames"] = frames
    config = dataclasses.replace(
        run.config,
        scenes=(*run.names, *data.names),
        model=model.config,
        fingerprint=None,
        picture=picture,
        sources=(*run.config.sources, *sources),
        added=(*run.config.added, {"to": run.label, "scenes": tuple(data.names), "method": method}),
        versions=versions(),
    )
    write_config(out, config)
    write_model(out, model)
    summary = {"steps": progress.step, "seconds": progress.seconds, "loss": progress.loss}
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1).encode())
