"""Runs whose fields are written down by hand: what their pictures must show is known.

Scenes are octahedra |x| + |y| + |z| <= radius (shapes and views) or even greys (images). The generator
gives codes as weights, so what lies between two octahedra is an octahedron.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfields.data import Kind
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Identity, SphericalHarmonics
from hyperfields.hypernets import Full
from hyperfields.model import HyperField, ModelConfig
from hyperfields.ops.reference.mlp import NEGATIVE_SLOPE
from hyperfields.runs.config import FitSettings, RunConfig
from hyperfields.runs.run import Run
from hyperfields.tasks import TrainConfig
from hyperfields.weights import flatten, numel

STEEP = 200.0  # how fast the logarithm of the density falls
RED = (0.88, 0.12, 0.12)  # of the views
FIELDS: dict[Kind, Field] = {
    "images": ImageField(Identity(2), hidden=()),
    "shapes": SDFField(Identity(3), hidden=(6,)),
    "views": RadianceField(
        Identity(3), hidden=(6,), geometry=1, color_hidden=(), directions=SphericalHarmonics(1), occupancy=16
    ),
}
PICTURES: dict[Kind, dict[str, Any]] = {
    "images": {"size": [6, 8]},
    "shapes": {"frames": {"small": [2.0, 1.0, 0.0, 0.0], "big": [4.0, 0.0, 0.0, 5.0]}},
    "views": {"size": [20, 20], "fov": 0.7, "radius": 3.5, "elevation": 0.5},
}


def code(kind: Kind, value: float) -> Tensor:
    """The weights of an octahedron of radius `value`, or of an image of that grey level, `[1 z]`."""
    field = FIELDS[kind]
    weights = {name: torch.zeros(1, *entry.shape) for name, entry in field.spec.items()}
    if kind == "images":
        weights["mlp.0.bias"][:] = value - 0.5
        return flatten(weights, field.spec)
    prefix = "mlp" if kind == "shapes" else "density"
    weights[f"{prefix}.0.weight"][0] = torch.cat((torch.eye(3), -torch.eye(3)))
    scale = 3.0**-0.5 if kind == "shapes" else -STEEP  # the distance; or the logarithm of the density
    scale /= 1.0 - NEGATIVE_SLOPE  # leaky(x) + leaky(-x) = (1 - NEGATIVE_SLOPE) |x|
    weights[f"{prefix}.1.weight"][0, 0] = scale
    weights[f"{prefix}.1.bias"][0, 0] = -scale * (1.0 - NEGATIVE_SLOPE) * value
    if kind == "views":
        weights["color.0.bias"][0] = torch.tensor([2.0, -2.0, -2.0])
    return flatten(weights, field.spec)


def run_of(kind: Kind, **scenes: float) -> Run:
    """A run with octahedra of these radii (or images of these grey levels), default small 0.5 and big 0.8."""
    scenes = scenes or {"small": 0.5, "big": 0.8}
    field = FIELDS[kind]
    config = ModelConfig(field, Full(), numel(field.spec))
    model = HyperField(config, len(scenes))
    with torch.no_grad():
        model.hypernet.generator.head.weight.copy_(torch.eye(config.latent_size))  # type: ignore[operator, union-attr]
        model.hypernet.generator.head.bias.zero_()  # type: ignore[operator, union-attr]
        model.latents.codes.copy_(torch.cat([code(kind, value) for value in scenes.values()]))
    fit = FitSettings(steps=1)
    settings = RunConfig(kind, tuple(scenes), config, TrainConfig(2, 64), fit, picture=PICTURES[kind])
    return Run(settings, model.eval())
