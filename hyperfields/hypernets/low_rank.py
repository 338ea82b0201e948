"""Low-rank generation: a shared weight changed by two thin generated factors; biases are generated.

    multiply: W(z) = W0 * (1 + A(z) B(z))        add: W(z) = W0 + A(z) B(z)        A [o r], B [r i]

Source: multiplicative, Sitzmann et al. 2021, "Light field networks", section 3.1; additive, Hu et al. 2021, "LoRA";
one layer only, all others shared: Kim et al. 2023, "Generalizable implicit neural representations via instance pattern
composers", section 3.2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, require_positive, std_of
from hyperfields.weights import Weights, WeightSpec


@dataclasses.dataclass(frozen=True)
class LowRank(Generator):
    """rank: of the change of each weight matrix, cut to the matrix's own rank. mode: see the formulas above.

    layer: the number of the only layer of each network that changes, from 0; -1 changes them all.
    """

    knob: ClassVar[str] = "rank"
    rates: ClassVar[Mapping[str, float]] = {"images": 2.0, "shapes": 1.0, "views": 2.0}

    rank: int = 4
    mode: Literal["multiply", "add"] = "multiply"
    layer: int = -1

    def __post_init__(self) -> None:
        if self.mode not in ("multiply", "add"):
            raise InputError(f"LowRank mode {self.mode!r}: wanted multiply or add")

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return LowRankGenerator(spec, latent_size, self, share)


class LowRankGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`: matrices by factors, vectors directly, all from one linear head.

    Raises:
        InputError: a rank above that of every matrix, or a layer that the field does not have.
    """

    def __init__(self, spec: WeightSpec, latent_size: int, config: LowRank, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("LowRank", rank=config.rank)
        self.spec, self.mode = dict(spec), config.mode
        self.changing = {name for name in spec if config.layer < 0 or name.split(".")[-2:-1] == [str(config.layer)]}
        ranks = [min(entry.shape) for name, entry in spec.items() if name in self.changing and len(entry.shape) == 2]
        if not ranks:
            last = max(int(name.split(".")[-2]) for name in spec)
            raise InputError(f"LowRank layer: got {config.layer}, wanted 0 to {last}, or -1 for all")
        if config.rank > max(ranks):
            raise InputError(f"LowRank rank: got {config.rank}, but no matrix that changes has more than {max(ranks)}")
        self.base = nn.ParameterDict()
        self.ranks: dict[str, int] = {}
        scales: list[Tensor] = []
        for name, entry in spec.items():
            multiplied = config.mode == "multiply" and len(entry.shape) == 2
            kept = 1.0 if name not in self.changing else 1.0 / (1.0 + share) if multiplied else 1.0 - share
            self.base[name.replace(".", "/")] = nn.Parameter(entry.initial() * math.sqrt(kept))
            if name not in self.changing:
                continue
            if len(entry.shape) == 2:
                rank = self.ranks[name] = min(config.rank, *entry.shape)
                # var(sum_r A B) = r a^2 b^2 = the latent's share of the entry's variance (of 1 when it multiplies)
                target = math.sqrt(share) * (1.0 if multiplied else std_of(entry))
                scales.append(torch.full((rank * sum(entry.shape),), math.sqrt(target / math.sqrt(rank))))
            else:
                scales.append(torch.full((entry.numel,), std_of(entry) * math.sqrt(share)))
        self.head = Head(latent_size, torch.cat(scales))

    def forward(self, codes: Tensor) -> Weights:
        out = self.head(codes)
        weights: Weights = {}
        place = 0
        for name, entry in self.spec.items():
            base = self.base[name.replace(".", "/")]
            if name not in self.changing:
                weights[name] = base.expand(codes.shape[0], *entry.shape)
            elif len(entry.shape) == 2:
                rank, (rows, columns) = self.ranks[name], entry.shape
                a = out[:, place : place + rows * rank].reshape(-1, rows, rank)
                place += rows * rank
                b = out[:, place : place + rank * columns].reshape(-1, rank, columns)
                place += rank * columns
                change = a @ b
                weights[name] = base * (1.0 + change) if self.mode == "multiply" else base + change
            else:
                weights[name] = base + out[:, place : place + entry.numel].reshape(-1, *entry.shape)
                place += entry.numel
        return weights
