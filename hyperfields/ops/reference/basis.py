"""Definition of `combine_bases`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def combine_bases(coefficients: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Sums `[s n]`, n of all groups; coefficients `[s g k]`, bases `[k n]` of each group."""
    return torch.cat([coefficients[:, group] @ part for group, part in enumerate(bases)], 1)
