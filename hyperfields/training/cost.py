"""Cost of a configuration, before anything is allocated: parameters, bytes a scene, operations a point, memory.

Sizes are taken from a model on torch's meta device, which has shapes and no numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hyperfields.errors import InputError
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.weights import numel

STORED = 2  # bytes of a number in a run
SPARE = 0.9  # share of the free memory that a fit may take


@dataclasses.dataclass(frozen=True)
class Counts:
    """Cost of a model of so many scenes. Bytes are those of a run on disk, 16 bits a number."""

    scenes: int
    parameters: dict[str, int]  # by group: grid, networks, latents
    field: int  # weights of one scene's field
    amortised: float  # bytes a scene: all networks and codes over the scenes
    marginal: int  # bytes of one more scene
    alone: int  # bytes of a scene fitted alone
    break_even: int | None  # scenes from which on the family is smaller than its scenes alone; None: never
    flops_point: int  # operations for one point of a bound field, a multiplication and an addition being two
    flops_scene: int  # operations to generate one scene's weights (matrix products)
    memory: int  # bytes that fitting takes at least: parameters, gradients, moments, the weights of a step


def count(config: ModelConfig, scenes: int, step_scenes: int | None = None) -> Counts:
    """Count a configuration.

    Args:
        step_scenes: scenes of a step, for the memory; without, all.

    Raises:
        InputError: settings of the generator that do not fit the field.
    """
    with torch.device("meta"):
        model = HyperField(config, scenes)
        with FlopCounterMode(display=False) as counter:
            model.hypernet(torch.empty(1, config.latent_size))
    groups = {name: sum(p.numel() for p in ps) for name, ps in parameter_groups(model).items()}
    shared = groups["grid"] + groups["networks"]
    field, marginal = numel(config.field.spec), config.latent_size * STORED
    gain = field * STORED - marginal
    step = min(step_scenes or scenes, scenes)
    return Counts(
        scenes=scenes,
        parameters=groups,
        field=field,
        amortised=shared * STORED / scenes + marginal,
        marginal=marginal,
        alone=field * STORED,
        break_even=math.ceil(shared * STORED / gain) if gain > 0 else None,
        flops_point=point_flops(config.field),
        flops_scene=counter.get_total_flops(),
        # Adam keeps two moments; latents have gradients for a step's scenes only. Weights: values and gradients.
        memory=4 * (4 * shared + 3 * groups["latents"] + 2 * step * field),
    )


def point_flops(field: Any) -> int:
    """Operations for one point: the encoding and the matrix products with their biases, activations left out.

    Of a user's field or encoding that does not say (`networks`, `flops`), nothing is counted.
    """
    networks: tuple[tuple[int, ...], ...] = getattr(field, "networks", ())
    products = sum(2 * a * b + b for widths in networks for a, b in itertools.pairwise(widths))
    return products + int(getattr(field.encoding, "flops", 0) if hasattr(field, "encoding") else 0)


def free_memory() -> int:
    """Bytes that a program can still get, 0 when the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def require_memory(config: ModelConfig, scenes: int, step_scenes: int) -> None:
    """Refuse, before anything is allocated, what cannot fit.

    Raises:
        InputError: fitting would take more memory than there is.
    """
    cost, free = count(config, scenes, step_scenes), free_memory()
    if free and cost.memory > SPARE * free:
        raise InputError(
            f"{type(config.generator).__name__}: fitting takes {cost.memory:,} bytes "
            f"({sum(cost.parameters.values()):,} parameters, {cost.field:,} weights a scene), {free:,} are free; "
            "take a smaller latent, field or generator"
        )


def format_counts(config: ModelConfig, counts: Counts) -> list[tuple[str, str]]:
    """Rows of a table."""
    never = "never: one code is as large as a field"
    parameters = ", ".join(f"{name} {number:,}" for name, number in counts.parameters.items())
    return [
        ("field", f"{type(config.field).__name__}, {type(config.field.encoding).__name__}, {counts.field:,} weights"),
        ("generator", f"{config.generator}, latent of {config.latent_size:,} numbers"),
        ("parameters", f"{parameters}; {sum(counts.parameters.values()):,} in all"),
        (
            "bytes a scene",
            f"{counts.amortised:,.0f} amortised over {counts.scenes:,}, {counts.marginal:,} for one more",
        ),
        ("alone", f"{counts.alone:,} bytes a scene"),
        ("break-even", never if counts.break_even is None else f"{counts.break_even:,} scenes"),
        ("operations", f"{counts.flops_point:,} a point, {counts.flops_scene:,} to generate a scene"),
        ("memory", f"{counts.memory:,} bytes at least, to fit it"),
    ]
