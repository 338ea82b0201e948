"""Definition of `linear_heads`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_heads(codes: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Outputs `[s n]` of all heads; codes `[s g k]`, weights `[n k]` and biases `[n]` of each of the g heads."""
    heads = zip(codes.unbind(1), weights, biases, strict=True)
    return torch.cat([torch.nn.functional.linear(code, weight, bias) for code, weight, bias in heads], 1)
