"""Packed elements and the scenes or rays that own them."""

from __future__ import annotations

import torch
from torch import Tensor


def owners(counts: Tensor) -> Tensor:
    """Index `[sum of counts]` of the scene or ray that owns each packed element."""
    return torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)


def ranks(counts: Tensor, owner: Tensor) -> Tensor:
    """Rank `[sum of counts]` of each packed element among those of its owner, from 0."""
    return torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]


def pad_rows(rows: Tensor, total: int) -> Tensor:
    """`rows [m c]` with zeros behind them: `[total c]`, for points that belong to nobody."""
    return torch.nn.functional.pad(rows, (0, 0, 0, total - len(rows))) if total > len(rows) else rows
