"""Hypernetworks: a latent code in, the weights of a field out. One generator a file, one interface.

A `Hypernet` sees a `WeightSpec` (names, shapes, fan-ins, sources) and never the field. Shared entries are plain
parameters, factored ones are mixed from bases, generated ones go to the generator that the config names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor, nn

from hyperfields.hypernets.direct import Direct, DirectGenerator
from hyperfields.hypernets.factored import Factored
from hyperfields.hypernets.full import Full, FullGenerator
from hyperfields.hypernets.low_rank import LowRank, LowRankGenerator
from hyperfields.hypernets.modulation import Modulation, ModulationGenerator
from hyperfields.hypernets.residual import Residual
from hyperfields.weights import Weights, WeightSpec

__all__ = ["Direct", "Factored", "Full", "Generator", "Hypernet", "LowRank", "Modulation", "Residual"]

Generator = Full | LowRank | Modulation | Direct


class Hypernet(nn.Module):
    """Latents `[s z]` -> `Weights` of every entry of `spec`, `[s ...]` each (`[1 ...]` for shared grid tables).

    At step 0 the weights have the statistics that the spec asks for, whatever the latent.
    """

    def __init__(self, spec: WeightSpec, latent_size: int, generator: Generator) -> None:
        super().__init__()
        self.shared = nn.ParameterDict()
        self.factored = nn.ModuleDict()
        generated = {}
        for name, entry in spec.items():
            key = name.replace(".", "/")  # torch reserves the dot
            if entry.source == "generated" or isinstance(generator, Direct):
                generated[name] = entry
            elif entry.source == "shared":
                self.shared[key] = nn.Parameter(entry.initial())
            elif entry.source == "factored":
                self.factored[key] = Factored(entry, latent_size)
            else:
                assert_never(entry.source)
        self.generator: nn.Module
        if isinstance(generator, Full):
            self.generator = FullGenerator(generated, latent_size, generator)
        elif isinstance(generator, LowRank):
            self.generator = LowRankGenerator(generated, latent_size, generator)
        elif isinstance(generator, Modulation):
            self.generator = ModulationGenerator(generated, latent_size, generator)
        elif isinstance(generator, Direct):
            self.generator = DirectGenerator(generated)
        else:
            assert_never(generator)

    def forward(self, codes: Tensor, residual: Mapping[str, Tensor] | None = None) -> Weights:
        """residual: what to add for each of these scenes, as a `Residual` gives it."""
        residual = residual or {}
        weights: Weights = {key.replace("/", "."): value[None] for key, value in self.shared.items()}
        for key, table in self.factored.items():
            name = key.replace("/", ".")
            weights[name] = table(codes, residual.get(name))
        for name, value in self.generator(codes).items():
            weights[name] = value + residual[name] if name in residual else value
        return weights
