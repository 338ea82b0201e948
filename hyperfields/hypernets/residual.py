"""Low-rank residuals of single scenes on top of a frozen hypernetwork, to refine scenes it was not fitted to.

Matrices W(z) + A B, vectors b(z) + d, coefficients of factored tables a(z) + d. At the start all are zero.
Source: Hu et al. 2021, "LoRA", section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperfields.weights import WeightSpec


class Residual(nn.Module):
    """Indices of scenes `[s]` -> changes: `[s ...]` of generated weights, `[s groups*bases]` of factored tables."""

    def __init__(self, spec: WeightSpec, scenes: int, rank: int = 2) -> None:
        super().__init__()
        self.left, self.right, self.plain = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, entry in spec.items():
            key = name.replace(".", "/")
            if entry.source == "factored":
                self.plain[key] = nn.Parameter(torch.zeros(scenes, (len(entry.groups) - 1) * entry.bases))
            elif entry.source == "generated" and len(entry.shape) == 2:
                self.left[key] = nn.Parameter(torch.zeros(scenes, entry.shape[0], rank))
                self.right[key] = nn.Parameter(torch.randn(scenes, rank, entry.shape[1]) * entry.fan_in**-0.5)
            elif entry.source == "generated":
                self.plain[key] = nn.Parameter(torch.zeros(scenes, *entry.shape))

    def forward(self, scenes: Tensor) -> dict[str, Tensor]:
        added = {key: value[scenes] for key, value in self.plain.items()}
        added |= {key: value[scenes] @ self.right[key][scenes] for key, value in self.left.items()}
        return {key.replace("/", "."): value for key, value in added.items()}
