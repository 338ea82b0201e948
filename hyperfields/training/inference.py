"""Inference: codes of scenes that a run has not seen, with its networks frozen, all scenes at once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hyperfields.codes.table import LatentTable
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.hypernets import Independent, Residual
from hyperfields.model import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.runs import checkpoint
from hyperfields.runs.checkpoint import Run
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.objective import Objective
from hyperfields.training.optim import Optimization, Progress


@dataclasses.dataclass(frozen=True)
class Codes:
    """Inferred scenes: names, codes `[s z]`, and per scene what to add to its weights when they were refined.

    deviation: of the codes `[s z]`, when a distribution was inferred. family: what was looked at, `path` and so on.
    """

    names: tuple[str, ...]
    codes: Tensor
    residual: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    deviation: Tensor | None = None
    family: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def bind(self, run: Run, *names: str) -> BoundField:
        """The fields of these scenes as one function of points.

        Raises:
            InputError: an unknown name.
        """
        for name in names:
            if name not in self.names:
                raise InputError(f"scene {name!r}: not among the inferred ones: {', '.join(self.names[:10])}")
        rows = [self.names.index(name) for name in names]
        with torch.no_grad():
            return run.model.bind(self.codes[rows], {key: value[rows] for key, value in self.residual.items()})


def infer(
    run: Run,
    family: SceneDataset,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    refine: bool = False,
    prior: float = 1e-5,
    seed: int = 0,
    note: Mapping[str, Any] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Codes:
    """Fit one code a scene to `family` with the run's networks frozen, and write them to `out` (safetensors).

    Args:
        minutes, steps: how long, one of them; half of it goes to the residuals when `refine` is set.
        refine: then fit low-rank residuals of each scene's weights, which a code alone cannot reach.
        prior: weight of the Gaussian prior; more holds codes closer to the fitted ones when there is little data.
        note: what to write down about the family: where it is, which views were looked at.

    Raises:
        InputError: another kind of family, a run without a hypernetwork, or a file that cannot be written.
    """
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; give a family of {run.kind}")
    if isinstance(run.model.config.generator, Independent):
        raise InputError(f"{run.path}: was fitted with --individually, so it has no networks that could infer codes")
    if (minutes is None) == (steps is None):
        raise InputError(f"--minutes {minutes}, --steps {steps}: give one of the two")
    torch.manual_seed(seed)
    model = run.model.requires_grad_(False)
    fitted = model.latents.codes
    device = fitted.device
    scenes = torch.arange(len(family.names), device=device)
    latents = LatentTable(len(scenes), model.config.latent_size).to(device)
    with torch.no_grad():  # from the middle of the fitted codes, the most likely place under the prior
        latents.codes.copy_(fitted.mean(0).expand_as(latents.codes))
    recipe = TrainConfig(**{**run.config["recipe"], "prior": prior})
    progress = Progress()

    def bind_codes(local: Tensor) -> tuple[BoundField, Tensor]:
        codes = latents(local)
        return model.bind(codes), codes

    stages = 2 if refine else 1
    objective = Objective(family, model.config.field, recipe, len(scenes), device)
    first = Optimization(bind_codes, {"latents": [latents.codes]}, objective, scenes, seed)
    descend(first, progress, minutes, steps, (0.0, 1.0 / stages), report)
    codes = latents.codes.detach()
    residual: dict[str, Tensor] = {}
    if refine:
        added = Residual(model.config.field.spec, len(scenes)).to(device)

        def bind_residual(local: Tensor) -> tuple[BoundField, None]:
            return model.bind(codes[local], added(local)), None

        groups = {"networks": list(added.parameters())}
        objective = Objective(family, model.config.field, recipe, len(scenes), device)
        second = Optimization(bind_residual, groups, objective, scenes, seed + 1)
        descend(second, progress, minutes, steps, (1.0 / stages, 1.0), report)
        with torch.no_grad():
            residual = added(scenes)
    found = Codes(family.names, codes, residual, family=note or {})
    write_codes(Path(out), found, run)
    return found


@one_torch_thread()
def descend(
    optimization: Optimization,
    progress: Progress,
    minutes: float | None,
    steps: int | None,
    stage: tuple[float, float],
    report: Callable[[Progress], None],
) -> None:
    """Optimise through one stage (first and last share) of the whole time; its schedule runs from 0 to 1."""
    first, last = stage
    optimization.rehearse()
    started, before = time.monotonic(), progress.seconds
    while True:
        progress.seconds = before + time.monotonic() - started
        whole = progress.step / steps if steps is not None else progress.seconds / (60.0 * (minutes or 1.0))
        if whole >= last:
            return
        progress.fraction = (whole - first) / (last - first)
        optimization.step(progress)
        report(dataclasses.replace(progress, fraction=whole))


def write_codes(path: Path, codes: Codes, run: Run) -> None:
    """Codes and residuals at 16 bits, with the names and the run that they belong to."""
    header = {
        "format": str(checkpoint.FORMAT),
        "names": json.dumps(codes.names),
        "run": run.digest,
        "family": json.dumps(dict(codes.family)),
    }
    tensors = {"codes": codes.codes.half().contiguous()}
    if codes.deviation is not None:
        tensors["deviation"] = codes.deviation.half().contiguous()
    tensors |= {f"residual.{name}": value.half().contiguous() for name, value in codes.residual.items()}
    checkpoint.write_atomically(path, safetensors.torch.save(tensors, header))


def load_codes(path: str | Path, run: Run) -> Codes:
    """Codes written by `infer`.

    Raises:
        InputError: missing, damaged, or of another run.
    """
    tensors, header = checkpoint.read_tensors(Path(path))
    if "codes" not in tensors or "names" not in header:
        raise InputError(f"{path}: not a file of codes; make one with: hyperfields infer RUN FAMILY --out {path}")
    if header.get("run") != run.digest:
        raise InputError(f"{path}: its codes belong to another run than {run.path}")
    residual = {
        name.removeprefix("residual."): value.float().to(run.model.latents.codes.device)
        for name, value in tensors.items()
        if name.startswith("residual.")
    }
    device = run.model.latents.codes.device
    deviation = tensors["deviation"].float().to(device) if "deviation" in tensors else None
    names, family = tuple(json.loads(header["names"])), json.loads(header.get("family", "{}"))
    return Codes(names, tensors["codes"].float().to(device), residual, deviation, family)
