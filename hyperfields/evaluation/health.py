"""Health of a run: magnitudes of signals and gradients, at step 0 and now, dead units and empty scenes.

Figures are mean squares. Those of step 0 come from a fresh model of the same settings, without what was added later,
and are divided by those of a field with ordinary weights, drawn as its spec says: near 1 is healthy, and what starts
far from 1 has to unlearn first.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from hyperfields.data import SceneDataset
from hyperfields.evaluation.report import scene_places
from hyperfields.evaluation.tables import text_table
from hyperfields.fields import BoundField
from hyperfields.hypernets import shares_networks
from hyperfields.model import HyperField, parameter_groups
from hyperfields.process import seeded
from hyperfields.runs.run import Run
from hyperfields.tasks import Task
from hyperfields.training.verdict import verdict

SCENES, POINTS, PROBES = 8, 256, 4096  # scenes and points of signals, points of the search for opacity
SOUND = (0.5, 2.0)  # range of a healthy ratio at step 0
ALIVE = 0.01  # opacity of a sample, above which a scene is not empty


def doctor(run: Run, data: SceneDataset | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Examine a run, and with its data also the gradients of a batch. No global random state is changed.

    Returns:
        What JSON can hold: `layers` {name {weights activations (at step 0, against an ordinary field) dead (share of
        hidden units that are off at all points, now)}}, `dead_scenes` (views that are empty everywhere), `gradients`
        {group {step_0 now}} (norms; None without data), and `remarks`, a line for each quantity out of range.

    Raises:
        InputError: data of another kind, or without a scene of the run.
    """
    with seeded(seed):  # modules and specs draw from the global generator
        return _examine(run, data, seed)


def _examine(run: Run, data: SceneDataset | None, seed: int) -> dict[str, Any]:
    names, task = run.names[:SCENES], run.task
    field, count, device = run.model.config.field, len(names), run.model.latents.codes.device
    fresh = HyperField(run.model.config.unextended, len(run.names)).to(device)
    points = torch.rand(count, POINTS, field.dims).to(device)
    with torch.no_grad():
        first = fresh.bind(fresh.latents.codes[:count]).weights
        now = run.bind(*names)
        ordinary = {name: torch.stack([e.initial() for _ in range(count)]).to(device) for name, e in field.spec.items()}
        signals = [task.layer_outputs(field, weights, points) for weights in (first, ordinary, now.weights)]
    report: dict[str, Any] = {"layers": {}}
    for name, signal in signals[0].items():
        weight = f"{name}.weight"
        hidden = f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}" in signals[0]
        off = (signals[2][name] < 0.0).all(1).float().mean() if hidden and field.activation != "sine" else None
        report["layers"][name] = {
            "weights": float(first[weight].square().mean()) / (field.spec[weight].bound ** 2 / 3.0),
            "activations": float(signal.square().mean() / signals[1][name].square().mean()),
            "dead": None if off is None else float(off),
        }
    report["dead_scenes"] = _dead(task, now, names)
    report["gradients"] = None if data is None else _gradients(run, fresh, data, seed)
    report["remarks"] = _remarks(report, not shares_networks(run.model.config.generator))
    if data is not None:
        places = scene_places(run, data, run.names)
        lines = verdict(run, data, [places[name] for name in run.names], seed=seed)
        report["remarks"] += [
            line for line in lines if line.split(":")[0].removeprefix("scene ") not in report["dead_scenes"]
        ]
    return report


def _dead(task: Task, bound: BoundField, names: tuple[str, ...]) -> list[str]:
    """Names of scenes whose opacity is below ALIVE at all of PROBES random points."""
    low, high = task.box
    x = low + (high - low) * torch.rand(bound.scenes, PROBES, bound.field.dims).to(bound.device)
    with torch.no_grad():
        opacity = task.opacity(bound, x)
    if opacity is None:
        return []
    return [name for name, most in zip(names, opacity.amax(1).tolist(), strict=True) if most < ALIVE]


def _gradients(run: Run, fresh: HyperField, data: SceneDataset, seed: int) -> dict[str, dict[str, float]]:
    """Norms of the gradient of a batch by group of parameters, of the fresh and of the fitted model."""
    places, config, device = scene_places(run, data, run.names), run.config.train, run.model.latents.codes.device
    local = torch.arange(min(len(run.names), config.scenes), device=device)
    scenes = torch.tensor([places[name] for name in run.names[: len(local)]], device=device)
    norms: dict[str, dict[str, float]] = {}
    for when, model in (("step_0", fresh), ("now", run.model)):
        objective = run.task.objective(
            data,
            model.config.field,
            config,
            len(local),
            device=device,
            loss=config.loss,
        )
        model.zero_grad()
        bound = model(local)
        generator = torch.Generator(device).manual_seed(seed)
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


def _remarks(report: dict[str, Any], direct: bool) -> list[str]:
    """Lines about quantities out of their healthy range."""
    remarks = []
    for name, layer in report["layers"].items():
        for quantity in ("weights", "activations"):
            if not direct and not SOUND[0] < layer[quantity] < SOUND[1]:
                remarks.append(
                    f"{name}: {quantity} at step 0 are {layer[quantity]:.3g} of an ordinary field's; wanted near 1"
                )
        if layer["dead"] is not None and layer["dead"] > 0.5:
            remarks.append(f"{name}: {layer['dead']:.0%} of its units are off at all points")
    remarks += [f"scene {name}: empty everywhere, its density is dead" for name in report["dead_scenes"]]
    for group, norms in (report["gradients"] or {}).items():
        remarks += [f"{group}: its gradient is {v} ({when})" for when, v in norms.items() if not 0.0 < v < math.inf]
    return remarks


def format_doctor(report: dict[str, Any]) -> str:
    """A report of `doctor` as a table."""
    rows = []
    for name, layer in report["layers"].items():
        dead = "n/a" if layer["dead"] is None else f"{layer['dead']:.0%}"
        rows.append((name, f"{layer['weights']:.2f}", f"{layer['activations']:.2f}", dead))
    lines = [text_table(("layer", "weights", "activations", "off now"), rows, rules=False)]
    lines.append("weights, activations: at step 0 against an ordinary field; off: hidden units, at all points")
    for group, norms in (report["gradients"] or {}).items():
        values = ", ".join(f"{when.replace('_', ' ')} {norm:.3g}" for when, norm in norms.items())
        lines.append(f"gradient of {group}: {values}")
    if report["gradients"] is None:
        lines.append("gradients: n/a without the family; say where it is with --family DIR")
    lines += [f"remark: {remark}" for remark in report["remarks"]] or ["remarks: none: all looks healthy"]
    return "\n".join(lines)
