"""Hypernetworks: a latent code in, the weights of a field out. One generator a file, one interface.

A `Hypernet` sees a `WeightSpec` (names, shapes, fan-ins, sources) and never the field. Shared entries are plain
parameters, factored ones are mixed from bases, generated ones go to the generator that the config names.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from hyperfields.configs import parse_choice
from hyperfields.errors import InputError
from hyperfields.hypernets.basis_table import BasisTable
from hyperfields.hypernets.bayes import Bayes, Factors, implicit_divergence
from hyperfields.hypernets.chunked import Chunked
from hyperfields.hypernets.cppn import Cppn
from hyperfields.hypernets.dynamic import Dynamic
from hyperfields.hypernets.extension import Extended, Extension
from hyperfields.hypernets.full import Full
from hyperfields.hypernets.hierarchical import Hierarchical
from hyperfields.hypernets.independent import Independent
from hyperfields.hypernets.low_rank import LowRank
from hyperfields.hypernets.modulation import Modulation
from hyperfields.hypernets.per_layer import PerLayer
from hyperfields.hypernets.residual import Residual
from hyperfields.hypernets.stability import Stability
from hyperfields.hypernets.weight_tokens import WeightTokens
from hyperfields.weights import Weights, WeightSpec

__all__ = [
    "GENERATORS",
    "OF_TIME",
    "SHARING",
    "BasisTable",
    "Bayes",
    "Chunked",
    "Cppn",
    "Dynamic",
    "Extension",
    "Full",
    "Generator",
    "Hierarchical",
    "Hypernet",
    "Independent",
    "LowRank",
    "Modulation",
    "PerLayer",
    "Residual",
    "Stability",
    "WeightTokens",
    "parse",
]

Generator = (
    Full | PerLayer | Hierarchical | Chunked | Cppn | LowRank | Modulation | WeightTokens | Dynamic | Independent
)

# What each is called on the command line, with its default settings.
GENERATORS: dict[str, Callable[[], Generator]] = {
    "full": Full,
    "per-layer": PerLayer,
    "hierarchical": Hierarchical,
    "chunked": Chunked,
    "cppn": Cppn,
    "low-rank": LowRank,
    "lora": lambda: LowRank(mode="add"),
    "scale-shift": Modulation,
    "shift": lambda: Modulation(scale=False),
    "weight-tokens": WeightTokens,
    "direct": Independent,
}
# Of use only where the last number of a code is the time (`sequences`).
OF_TIME: dict[str, Callable[[], Generator]] = {"dynamic": Dynamic}
# What a family can share: all of them but the codes that are the weights.
SHARING = {name: make for name, make in {**GENERATORS, **OF_TIME}.items() if name != "direct"}


def parse(text: str, known: Mapping[str, Callable[[], Generator]] = GENERATORS) -> Generator:
    """A generator by its name, with settings after it: `full`, `low-rank:rank=8`, `chunked:chunk=64:hidden=32`.

    Raises:
        InputError: an unknown name or setting; the text lists those there are.
    """
    made = {name: make() for name, make in known.items()}
    name, found = parse_choice("generator", text, {name: dataclasses.asdict(made[name]) for name in made})
    settings: dict[str, Any] = found
    return dataclasses.replace(made[name], **settings)


class Hypernet(nn.Module):
    """Latents `[s z]` -> `Weights` of every entry of `spec`, `[s ...]` each (`[1 ...]` for shared grid tables).

    At step 0 the weights have the statistics that the spec asks for, whatever the latent.

    Raises:
        InputError: settings of the generator that do not fit the spec.
    """

    def __init__(
        self,
        spec: WeightSpec,
        latent_size: int,
        generator: Generator,
        stability: Stability | None = None,
        bayes: Bayes | None = None,
        extensions: tuple[Extension, ...] = (),
    ) -> None:
        super().__init__()
        self.bayes = bayes or Bayes()
        if self.bayes.kind != "none" and isinstance(generator, Independent):
            raise InputError(
                f"bayes {self.bayes.kind}: Independent generates nothing that could be drawn; leave it out"
            )
        self.noise: torch.Generator | None = None  # while weights are drawn
        self.divergence: Tensor | None = None  # of the weights that were drawn last
        # A code that is the weights themselves is not generated: there is nothing to keep stable.
        self.stability = stability if stability and not isinstance(generator, Independent) else Stability()
        if isinstance(generator, Modulation) and generator.scale and self.stability.normalize:
            raise InputError("stability normalize: would undo the scales of Modulation; leave one of them out")
        self.shared = nn.ParameterDict()
        self.factored = nn.ModuleDict()
        # How the numbers of a code are divided: the generator's own, then those of each extension.
        self.parts = [extension.numbers for extension in extensions]
        self.parts.insert(0, latent_size - sum(self.parts))
        latent_size = self.parts[0]
        generated = {}
        for name, entry in spec.items():
            key = name.replace(".", "/")  # torch reserves the dot
            if entry.source == "generated" or isinstance(generator, Independent):
                generated[name] = entry
            elif entry.source == "shared":
                self.shared[key] = nn.Parameter(entry.initial())
            elif entry.source == "factored":
                self.factored[key] = BasisTable(entry, latent_size)
            else:
                assert_never(entry.source)
        self.spec = generated
        features = self.bayes.features(self.stability.features(latent_size))
        self.generator = generator.build(generated, features, self.stability.share)
        self.stability.prepare(self.generator)
        self.factors = Factors(generated, features, self.bayes) if self.bayes.kind == "factors" else None
        self.extensions = nn.ModuleList(Extended(spec, generated, extension) for extension in extensions)

    def forward(self, codes: Tensor, residual: Mapping[str, Tensor] | None = None) -> Weights:
        """residual: what to add for each of these scenes, as a `Residual` gives it."""
        residual = residual or {}
        # A slice that is not contiguous may be multiplied in another order: old scenes would change in the last bits.
        codes, *numbers = (part.contiguous() for part in codes.split(self.parts, 1))
        added = [extension(part) for extension, part in zip(self.extensions, numbers, strict=True)]
        weights: Weights = {key.replace("/", "."): value[None] for key, value in self.shared.items()}
        shifts = _total(*(part.coefficients for part in added), residual)
        for key, table in self.factored.items():
            name = key.replace("/", ".")
            weights[name] = table(codes, shifts.get(name))
        weights = _total(weights, *(part.tables for part in added))
        changes = _total(*(part.weights for part in added))
        for name, value in self._generated(self.stability.read(codes), changes).items():
            weights[name] = value + residual[name] if name in residual else value
        return weights

    def _generated(self, read: Tensor, changes: Weights) -> Weights:
        features = self.bayes.read(read, self.noise)
        made = self._made(features, changes)
        self.divergence = None
        if self.noise is None or self.bayes.kind == "none":
            return made
        if self.factors is not None:
            made, self.divergence = self.factors(made, features, self.noise)
        elif self.training:
            again = self._made(self.bayes.read(read, self.noise), changes)
            self.divergence = implicit_divergence(made, again, self.spec)
        return made

    def _made(self, features: Tensor, changes: Weights) -> Weights:
        """What the generator gives and extensions change, in bounds."""
        return self.stability.constrain(_total(self.generator(features), changes), self.spec)

    @contextlib.contextmanager
    def drawing(self, generator: torch.Generator) -> Iterator[None]:
        """Within it, weights are drawn from their distribution, if the config has one; outside, their mean is taken."""
        self.noise = generator
        try:
            yield
        finally:
            self.noise = None


def _total(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of what has the same name."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total
