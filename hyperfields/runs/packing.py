"""Scenes in few bytes: a code and what is added to the weights it generates, as whole numbers of steps, entropy-coded.

A step of a code's number is a share of its standard deviation over the fitted codes. A step of a weight is a share,
the same for all, of the spread of the fitted scenes' weights, level by level of a table. Both follow from the run: a
scene stores a byte for the share, and the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hyperfields.model import HyperField
from hyperfields.runs import entropy
from hyperfields.weights import WeightEntry, Weights

CODE_STEPS = 8.0  # in a standard deviation
MOST = 64  # fitted scenes that the spread is taken over


@torch.no_grad()
def spread(model: HyperField, *, by_level: bool = False) -> Weights:
    """Root mean square by which the weights of fitted scenes differ from their mean over scenes, a number a tensor.

    Of a tensor that does not differ, a tenth of its own root mean square.

    Returns:
        `[1 ...]` by name, as the weights themselves; `by_level`: a number for each level of a table.
    """
    codes = model.latents.codes.detach()
    chosen = torch.linspace(0, len(codes) - 1, min(len(codes), MOST), device=codes.device).round().long()
    found = {}
    for name, value in model.hypernet(codes[chosen]).items():
        pieces = []
        for begin, end in levels(model.config.field.spec[name]) if by_level else [(0, value.shape[1])]:
            piece = value[:, begin:end]
            away = (piece - piece.mean(0)).square().mean().sqrt()
            whole = piece.square().mean().sqrt().clamp(min=1e-6)
            pieces.append(torch.where(away > 0.01 * whole, away, 0.1 * whole).expand(1, *piece.shape[1:]))
        found[name] = torch.cat(pieces, 1)
    return found


def levels(entry: WeightEntry) -> list[tuple[int, int]]:
    """(first row, row after the last) of the levels of a table; of any other tensor, all of it."""
    return list(itertools.pairwise(entry.groups or (0, entry.shape[0])))


class Packing:
    """Whole numbers for codes and weights of a model's scenes, and bytes for these."""

    def __init__(self, model: HyperField) -> None:
        spec, codes = model.config.field.spec, model.latents.codes.detach()
        self.center = codes.mean(0)
        self.code_step = codes.std(0, correction=0).clamp(min=1e-3) / CODE_STEPS
        self.spread = spread(model, by_level=True)
        tables = [name for name, entry in spec.items() if entry.source != "generated"]
        self.order = [*tables, *(name for name in spec if name not in tables)]
        self.shapes = {name: spec[name].shape for name in self.order}
        rows = {name: spec[name].numel // spec[name].shape[0] for name in tables}
        parts = [(end - begin) * rows[name] for name in tables for begin, end in levels(spec[name])]
        self.groups = [codes.shape[1], *parts, sum(spec[name].numel for name in self.order if name not in tables)]

    def share(self, fineness: int) -> float:
        """A step in units of the spread: 1 at fineness 0, half of it with every 4 more."""
        return float(2.0 ** (-fineness / 4.0))

    def step_of(self, name: str, fineness: int) -> Tensor:
        """Steps of a weight `[1 ...]`."""
        return self.spread[name] * self.share(fineness)

    def code_numbers(self, codes: Tensor) -> Tensor:
        """Codes `[s z]` -> `[s z]` int64."""
        return ((codes - self.center) / self.code_step).round().long()

    def codes(self, numbers: Tensor) -> Tensor:
        """`[s z]` int64 -> codes `[s z]`."""
        return self.center + self.code_step * numbers

    def nothing(self) -> Weights:
        """No changes: zeros by name."""
        return {name: torch.zeros(shape, dtype=torch.int64) for name, shape in self.shapes.items()}

    def pack(self, code: Tensor, changes: Mapping[str, Tensor], fineness: int) -> bytes:
        """Bytes of a scene from whole numbers: of its code `[z]`, and of the changes of its weights by name."""
        return bytes([fineness]) + entropy.encode(self._row(code, changes).numpy(), self.groups)

    def unpack(self, data: bytes) -> tuple[Tensor, Weights]:
        """(code `[1 z]`, what is added to the weights `[1 ...]`) of bytes; of damaged ones, any numbers."""
        fineness = data[0] if data else 0
        numbers = torch.from_numpy(entropy.decode(data[1:], self.groups)).to(self.center.device)
        code, *parts = numbers.split([self.groups[0], *(math.prod(shape) for shape in self.shapes.values())])
        residual = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            residual[name] = part.reshape(1, *shape) * self.step_of(name, fineness)
        return self.codes(code[None]), residual

    def estimate(self, code: Tensor, changes: Mapping[str, Tensor]) -> float:
        """About the bytes of a scene, faster than by `pack`: entropy of the exponents, and the bits below them."""
        bits = 8.0
        for part in self._row(code, changes).split(self.groups):
            exponents = torch.frexp(part.abs().double()).exponent  # 0 for 0, 1 for 1, 2 for 2 and 3
            counts = torch.bincount(exponents.long()).double()
            bits += float((counts * (len(part) / counts.clamp(min=1.0)).log2()).sum()) + float(exponents.sum())
        return bits / 8.0

    def _row(self, code: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([code, *(changes[name].reshape(-1) for name in self.order)]).cpu()
