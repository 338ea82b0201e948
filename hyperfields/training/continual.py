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
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hyperfields.codes.table import LatentTable
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.evaluation.report import evaluate
from hyperfields.hypernets import Extension, Independent
from hyperfields.hypernets.init import spread
from hyperfields.model import BoundField, HyperField, parameter_groups
from hyperfields.runs import checkpoint
from hyperfields.runs.checkpoint import Run
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.inference import Codes, descend, infer
from hyperfields.training.optim import Optimization, Progress

Method = Literal["extension", "output", "frozen", "naive"]
NUMBERS = 16  # that a code gets
WEIGHT = 2.0  # of the regulariser at the end, a tenth of it at the start; squares are in units of initial variances
REPORT, CODES = "add.json", "codes.safetensors"


class _Held(Optimization):
    """Gradient descent on new scenes while the outputs for old codes are held where they were."""

    drift: Callable[[Tensor], Tensor]  # numbers of old scenes -> by how much their weights have moved
    old: int  # how many old scenes there are
    weight: float
    fraction: float = 0.0

    def step(self, progress: Progress) -> None:
        self.fraction = progress.fraction
        super().step(progress)

    def loss(self) -> tuple[Tensor, Tensor]:
        total, data = super().loss()
        if self.weight:
            size = min(self.old, len(self.scenes), self.objective.config.scenes)
            chosen = torch.randperm(self.old, generator=self.generator)[:size]
            # Looser at first, while the rate is high: new scenes find their place, then the old ones go back to theirs.
            total = total + self.weight * 10.0 ** (self.fraction - 1.0) * self.drift(chosen)
        return total, data


def drift(old: HyperField, new: HyperField, scenes: Tensor) -> Tensor:
    """Mean square by which weights of old scenes, by number `[s]`, have moved, in units of their initial variance."""
    with torch.no_grad():
        wanted = old.hypernet(old.latents.codes[scenes])
    found = new.hypernet(new.latents.codes.detach()[scenes])
    spreads = {name: spread(entry) for name, entry in old.config.field.spec.items()}
    squares = [((found[k] - wanted[k]) / spreads[k]).square().flatten(1).sum(1).mean() for k in wanted]
    total: Tensor = torch.stack(squares).sum() / sum(value[0].numel() for value in wanted.values())
    return total


def extend(run: Run, scenes: int, extension: Extension) -> HyperField:
    """The run's model with room for more scenes; those that it has are generated exactly as before.

    Codes of new scenes are drawn with the mean and the spread of the fitted ones, their new numbers from N(0, 1).
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
        fitted = old.latents.codes
        deviation = fitted.std(0) if count > 1 else torch.ones_like(fitted[0])
        codes = model.latents.codes  # from N(0, 1)
        codes[count:, : fitted.shape[1]] = fitted.mean(0) + deviation * codes[count:, : fitted.shape[1]]
        codes[count:, fitted.shape[1]] = 1.0  # what new scenes share can so be told by maps that have no bias
        codes[:count, : fitted.shape[1]] = fitted
        codes[:count, fitted.shape[1] :] = 0.0
    return model


def add(
    run: Run,
    family: SceneDataset,
    out: str | Path,
    *,
    old_family: SceneDataset | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    method: Method = "extension",
    numbers: int = NUMBERS,
    bases: int | None = None,
    weight: float = WEIGHT,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Add the scenes of `family` to a run; the new run goes to the folder `out`, the old one stays as it is.

    Args:
        old_family: data of the scenes that are in the run, only to measure them before and after.
        method: `extension` fits only what is added to the networks and the new codes. `output` fits all networks and
            holds what is generated for old scenes. `frozen` changes no network: codes and low-rank residuals of the new
            scenes go to OUT/codes.safetensors, to be used with the old run. `naive` just goes on fitting, and forgets:
            to compare with. All but `frozen` extend codes and networks in the same way.
        numbers: how many more a code gets. All but `frozen`.
        bases: of a hash grid's tables, which those numbers mix; without, one for every four new scenes.
        weight: of the regulariser of `output` at the end of the fit.

    Returns:
        What is also written to OUT/add.json: `method`, `old` {before after} and `new` {after} (means of the metrics,
        None without the data), `drift` (root mean square by which weights of old scenes moved, in units of their
        initial spread), `bytes_per_scene`.

    Raises:
        InputError: another kind of scenes, names that the run has already, a run without a hypernetwork, an `out` in
            use.
    """
    out = Path(out)
    _check(run, family, out, minutes, steps)
    before = evaluate(run, old_family)["mean"] if old_family is not None else None
    if method == "frozen":
        return _add_frozen(run, family, out, before, minutes=minutes, steps=steps, seed=seed, report=report)
    torch.manual_seed(seed)
    count, new = len(run.names), len(family.names)
    model = extend(run, new, Extension(numbers, math.ceil(new / 4) if bases is None else bases))
    if method == "extension":
        model.hypernet.requires_grad_(False).eval()
        model.hypernet.extensions[-1].requires_grad_(True)
    latents = LatentTable(new, model.config.latent_size)
    latents.codes.data.copy_(model.latents.codes.detach()[count:])
    recipe = TrainConfig(**run.config["recipe"])
    recipe = dataclasses.replace(recipe, scenes=min(recipe.scenes, new))

    def bind(local: Tensor) -> tuple[BoundField, Tensor]:
        codes = latents(local)
        return model.bind(codes), codes

    groups = {name: [p for p in group if p.requires_grad] for name, group in parameter_groups(model).items()}
    groups["latents"] = [latents.codes]
    objective = task_of(family.kind).objective(family, model.config.field, recipe, new)
    work = _Held(bind, groups, objective, torch.arange(new), seed)
    work.drift, work.old = functools.partial(drift, run.model, model), count
    work.weight = weight if method == "output" else 0.0
    progress = Progress()
    descend(work, progress, minutes, steps, (0.0, 1.0), report)
    with torch.no_grad():
        model.latents.codes[count:] = latents.codes
        moved = math.sqrt(float(drift(run.model, model, torch.arange(count))))
    _write(run, family, out, model, method, progress)
    added = checkpoint.load_run(out)
    found: dict[str, Any] = {
        "method": method,
        "old": {"scenes": list(run.names), "before": before, "after": _measure(added, run.names, old_family)},
        "new": {"scenes": list(family.names), "after": _measure(added, family.names, family)},
        "drift": moved,
        "bytes_per_scene": dict(zip(("amortised", "marginal"), model.bytes_per_scene(), strict=True)),
        "steps": progress.step,
        "seconds": progress.seconds,
    }
    checkpoint.write_atomically(out / REPORT, json.dumps(found, indent=1).encode())
    return found


def _check(run: Run, family: SceneDataset, out: Path, minutes: float | None, steps: int | None) -> None:
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; add scenes of {run.kind}")
    if isinstance(run.model.config.generator, Independent):
        raise InputError(f"{run.path}: was fitted with --individually, so it has no networks to add scenes to")
    known = [name for name in family.names if name in run.names]
    if known:
        raise InputError(f"scene {known[0]!r}: is in {run.path} already ({len(known)} are); choose with --scenes")
    if (minutes is None) == (steps is None):
        raise InputError(f"--minutes {minutes}, --steps {steps}: give one of the two")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is in use; wanted a new or an empty folder for the new run")


def _measure(run: Run, names: tuple[str, ...], family: SceneDataset | None) -> dict[str, Any] | None:
    """Means of the metrics of some scenes."""
    if family is None:
        return None
    mean: dict[str, Any] = evaluate(run.with_codes(names, run.codes(*names)), family)["mean"]
    return mean


@dataclasses.dataclass(frozen=True)
class _Refined(Run):
    """Scenes with residuals, as a run that can be measured."""

    added: Codes

    def bind(self, *names: str) -> BoundField:
        return self.added.bind(self, *names)


def _add_frozen(
    run: Run, family: SceneDataset, out: Path, before: dict[str, Any] | None, **options: Any
) -> dict[str, Any]:
    """Codes and residuals of new scenes beside a run that does not change."""
    codes = infer(run, family, out / CODES, refine=True, **options)
    numbers = codes.codes[0].numel() + sum(value[0].numel() for value in codes.residual.values())
    base = run.with_codes(codes.names, codes.codes)
    refined = _Refined(base.path, base.config, base.model, codes)
    found = {
        "method": "frozen",
        "old": {"scenes": list(run.names), "before": before, "after": before},
        "new": {"scenes": list(codes.names), "after": evaluate(refined, family)["mean"]},
        "drift": 0.0,
        "bytes_per_scene": {"amortised": None, "marginal": 2 * numbers},
    }
    checkpoint.write_atomically(out / REPORT, json.dumps(found, indent=1).encode())
    return found


def _write(run: Run, family: SceneDataset, out: Path, model: HyperField, method: Method, progress: Progress) -> None:
    """The new run. It has no state: a fit cannot go on with it, since the data of its scenes are two families."""
    picture = {**run.config.get("picture", {})}
    if "frames" in picture:
        picture["frames"] = {**picture["frames"], **task_of(family.kind).describe(family)["frames"]}
    config = {
        **run.config,
        "scenes": [*run.names, *family.names],
        "model": checkpoint.to_json(model.config),
        "fingerprint": None,
        "picture": picture,
        "added": {"to": str(run.path), "scenes": list(family.names), "method": method},
        "versions": checkpoint.versions(),
    }
    checkpoint.write_config(out, config)
    checkpoint.write_model(out, model)
    summary = {"steps": progress.step, "seconds": progress.seconds, "loss": progress.loss}
    checkpoint.write_atomically(out / checkpoint.SUMMARY, json.dumps(summary, indent=1).encode())


def format_added(found: dict[str, Any]) -> str:
    """A report of `add` as text."""
    lines = []
    for group in ("old", "new"):
        part = found[group]
        head = f"{len(part['scenes'])} {group} scenes"
        if part["after"] is None:
            lines.append(f"{head}: n/a without their data; say where they are with --old DIR")
            continue
        before = part.get("before") or {}
        values = []
        for name, value in part["after"].items():
            if value is not None:
                was = f"{before[name]:.4g} -> " if before.get(name) is not None else ""
                values.append(f"{name} {was}{value:.4g}")
        lines.append(f"{head}: {', '.join(values)}")
    sizes = found["bytes_per_scene"]
    amortised = "" if sizes["amortised"] is None else f"{sizes['amortised']:,.0f} bytes a scene, "
    lines.append(f"{amortised}{sizes['marginal']:,} for one more; weights of old scenes moved by {found['drift']:.3g}")
    return "\n".join(lines)
