"""The health of a run: do signals and gradients have a sound size, at step 0 and now, and is anything dead.

Figures are mean squares. Those of step 0 come from a fresh model of the same settings, without what was added later,
and are divided by those of a field with ordinary weights, drawn as its spec says: near 1 is healthy, and what starts
far from 1 has to unlearn first.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, RadianceField
from hyperfields.hypernets import Independent
from hyperfields.model import HyperField, parameter_groups
from hyperfields.ops import batched_mlp
from hyperfields.runs.checkpoint import Run
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.weights import Weights, layers

SCENES, POINTS = 8, 256  # looked at
SOUND = (0.5, 2.0)  # range of a healthy ratio at step 0
ALIVE = 0.01  # opacity of a sample, above which a scene is seen at all


def doctor(run: Run, family: SceneDataset | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Look at a run, and with its family also at the gradients of a batch.

    Returns:
        What JSON can hold: `layers` {name {weights activations (at step 0, against an ordinary field) dead (share of
        hidden units that are off at all points, now)}}, `dead_scenes` (views that are empty everywhere), `gradients`
        {group {step_0 now}} (norms; None without a family), and `remarks`, a line for each thing that looks ill.

    Raises:
        InputError: a family of another kind, or that lacks a scene of the run.
    """
    torch.manual_seed(seed)
    names = run.names[:SCENES]
    field, count = run.model.config.field, len(names)
    fresh = HyperField(run.model.config.unextended, len(run.names))
    points = torch.rand(count, POINTS, field.dims)
    with torch.no_grad():
        first = fresh.bind(fresh.latents.codes[:count]).weights
        now = run.bind(*names).weights
        ordinary = {name: torch.stack([e.initial() for _ in range(count)]) for name, e in field.spec.items()}
        signals = [_signals(field, weights, points) for weights in (first, ordinary, now)]
    found: dict[str, Any] = {"layers": {}}
    for name, signal in signals[0].items():
        weight = f"{name}.weight"
        hidden = f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}" in signals[0]
        off = (signals[2][name] < 0.0).all(1).float().mean() if hidden and field.activation != "sine" else None
        found["layers"][name] = {
            "weights": float(first[weight].square().mean()) / (field.spec[weight].bound ** 2 / 3.0),
            "activations": float(signal.square().mean() / signals[1][name].square().mean()),
            "dead": None if off is None else float(off),
        }
    found["dead_scenes"] = _dead(run.bind(*names), names)
    found["gradients"] = None if family is None else _gradients(run, fresh, family, seed)
    found["remarks"] = _remarks(found, isinstance(run.model.config.generator, Independent))
    return found


def _signals(field: Field, weights: Weights, points: Tensor) -> dict[str, Tensor]:
    """What each layer gives before its activation, `[s n o]`; points in [0, 1]."""
    features = field.encoding(points, weights)
    if not isinstance(field, RadianceField):
        return _walk("mlp", features, field, weights)
    found = _walk("density", features, field, weights)
    geometry = list(found.values())[-1][..., 1:]
    directions = torch.nn.functional.normalize(points - 0.5, dim=-1)
    return found | _walk("color", torch.cat((geometry, field.directions(directions)), -1), field, weights)


def _walk(prefix: str, x: Tensor, field: Field, weights: Weights) -> dict[str, Tensor]:
    stack = layers(weights, prefix)
    return {f"{prefix}.{i}": batched_mlp(x, stack[: i + 1], field.activation) for i in range(len(stack))}


def _dead(bound: BoundField, names: tuple[str, ...]) -> list[str]:
    """Scenes of views that are empty wherever one looks."""
    if not isinstance(bound.field, RadianceField):
        return []
    x = torch.rand(bound.scenes, 4096, 3) * 2.0 - 1.0
    with torch.no_grad():
        opacity = 1.0 - torch.exp(-bound.density(x) * bound.field.step)
    return [name for name, most in zip(names, opacity.flatten(1).amax(1).tolist(), strict=True) if most < ALIVE]


def _gradients(run: Run, fresh: HyperField, family: SceneDataset, seed: int) -> dict[str, dict[str, float]]:
    """Norms of the gradient of a batch by group of parameters, of the fresh and of the fitted model."""
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; give a family of {run.kind}")
    missing = [name for name in run.names if name not in family.names]
    if missing:
        raise InputError(f"{run.path}: its scene {missing[0]!r} is not in the family; give the one that was fitted")
    recipe = TrainConfig(**run.config["recipe"])
    local = torch.arange(min(len(run.names), recipe.scenes))
    scenes = torch.tensor([family.names.index(run.names[i]) for i in local.tolist()])
    norms: dict[str, dict[str, float]] = {}
    for when, model in (("step_0", fresh), ("now", run.model)):
        objective = task_of(family.kind).objective(
            family, model.config.field, dataclasses.replace(recipe, prior=0.0), len(local)
        )
        bound, _ = model.bind_scenes(local)
        model.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        objective.update(bound, local, 0, generator)
        loss = objective(bound, scenes, local, generator)
        if loss.requires_grad:  # no ray may have met anything
            loss.backward()
        for group, parameters in parameter_groups(model).items():
            squares = [p.grad.to_dense().square().sum() for p in parameters if p.grad is not None]
            if parameters:
                norms.setdefault(group, {})[when] = math.sqrt(float(sum(squares)))
        model.zero_grad()
    return norms


def _remarks(found: dict[str, Any], direct: bool) -> list[str]:
    """What looks ill, in words."""
    remarks = []
    for name, layer in found["layers"].items():
        for what in ("weights", "activations"):
            if not direct and not SOUND[0] < layer[what] < SOUND[1]:
                remarks.append(f"{name}: {what} at step 0 are {layer[what]:.3g} of an ordinary field's; wanted near 1")
        if layer["dead"] is not None and layer["dead"] > 0.5:
            remarks.append(f"{name}: {layer['dead']:.0%} of its units are off at all points")
    remarks += [f"scene {name}: empty everywhere, its density is dead" for name in found["dead_scenes"]]
    for group, norms in (found["gradients"] or {}).items():
        remarks += [f"{group}: its gradient is {v} ({when})" for when, v in norms.items() if not 0.0 < v < math.inf]
    return remarks


def format_doctor(found: dict[str, Any]) -> str:
    """A report of `doctor` as a table."""
    rows = [("layer", "weights, activations at step 0 against an ordinary field; units that are off now")]
    for name, layer in found["layers"].items():
        dead = "" if layer["dead"] is None else f"; {layer['dead']:.0%}"
        rows.append((name, f"{layer['weights']:.2f}, {layer['activations']:.2f}{dead}"))
    for group, norms in (found["gradients"] or {}).items():
        values = ", ".join(f"{when.replace('_', ' ')} {norm:.3g}" for when, norm in norms.items())
        rows.append((f"gradient of {group}", values))
    if found["gradients"] is None:
        rows.append(("gradients", "n/a without the family; say where it is with --family DIR"))
    rows += [("remark", remark) for remark in found["remarks"]] or [("remarks", "none: all looks healthy")]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
