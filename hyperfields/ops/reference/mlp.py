"""Definition of `batched_mlp`."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops.reference.packing import pad_rows

Layers = list[tuple[Tensor, Tensor | None]]  # weight `[s o i]`, bias `[s o]` or None
NEGATIVE_SLOPE = 0.01  # slope of leaky_relu below 0

ACTIVATIONS = {
    "leaky_relu": lambda h: torch.nn.functional.leaky_relu(h, NEGATIVE_SLOPE),
    "relu": torch.relu,
    "sine": torch.sin,
}


def batched_mlp(x: Tensor, layers: Layers, activation: str, counts: Tensor) -> Tensor:
    """Outputs `[m o]` of one MLP a scene for x `[m i]`, counts `[s]`; the last layer is linear."""
    act = ACTIVATIONS[activation]
    outputs = []
    for scene, points in enumerate(x[: int(counts.sum())].split(counts.tolist())):
        h = points
        for number, (weight, bias) in enumerate(layers):
            h = h @ weight[scene].T
            if bias is not None:
                h = h + bias[scene]
            if number + 1 < len(layers):
                h = act(h)
        outputs.append(h)
    return pad_rows(torch.cat(outputs), x.shape[0]).to(x.dtype)  # autocast may have chosen another
