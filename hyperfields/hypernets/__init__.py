"""Hypernetworks: a latent code in, the weights of a field out. One generator a file, one interface.

Lives here: `Hypernet`, which sees a `WeightSpec` (names, shapes, fan-ins, sources) and never the field; generators;
what stabilises them (`stability`), makes them distributions (`bayes`), extends them (`extension`). Shared entries are
plain parameters, factored ones are combined from bases, generated ones go to the generator. May import: `ops`,
`weights`, `configs`. To add a generator, write one file with a frozen dataclass on `base.Generator`, and a line in
`GENERATORS` for a name on the command line; from outside the package the dataclass is enough: docs/extending.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from hyperfields.configs import parse_choice, parse_settings
from hyperfields.errors import InputError
from hyperfields.hypernets.base import Generator, rate_of, shares_networks
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
    "Stability",
    "WeightTokens",
    "parse",
    "parse_bayes",
    "parse_stability",
    "rate_of",
    "shares_networks",
]


# Names on the command line, with default settings.
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
# Of use only where the last number of a code is the time (`codes.Sequence`).
OF_TIME: dict[str, Callable[[], Generator]] = {"dynamic": Dynamic}
# Generators that share networks: all but the codes that are the weights.
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


def parse_stability(text: str, what: str = "stability") -> Stability:
    """Stability from its settings: `share=0.2:spectral=4`.

    Args:
        what: is set, for the message.

    Raises:
        InputError: an unknown setting; the text lists those there are.
    """
    settings: dict[str, Any] = parse_settings(what, text, dataclasses.asdict(Stability()))
    return Stability(**settings)


def parse_bayes(text: str, what: str = "bayes") -> Bayes:
    """A distribution over weights by its kind, with settings after it: `none`, `factors:weight=1e-8`, `noise`.

    Args:
        what: is chosen, for the message.

    Raises:
        InputError: an unknown kind or setting; the text lists those there are.
    """
    settings = {key: value for key, value in dataclasses.asdict(Bayes()).items() if key != "kind"}
    of_kind = {
        "none": (),
        "factors": tuple(key for key in settings if key != "numbers"),
        "noise": ("weight", "numbers"),
    }
    known = {kind: {key: settings[key] for key in keys} for kind, keys in of_kind.items()}
    kind, given = parse_choice(what, text, known)
    return dataclasses.replace(Bayes(kind), **given)  # type: ignore[arg-type]


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
        if self.bayes.kind != "none" and not shares_networks(generator):
            name = type(generator).__name__
            raise InputError(f"bayes {self.bayes.kind}: {name} generates nothing that could be drawn; leave it out")
        # A code that is the weights themselves is not generated: there is nothing to keep stable.
        self.stability = stability if stability and shares_networks(generator) else Stability()
        if isinstance(generator, Modulation) and generator.scale and self.stability.normalize:
            raise InputError("stability normalize: would undo the scales of Modulation; leave one of them out")
        self.shared = nn.ParameterDict()
        self.factored = nn.ModuleDict()
        # Dimensions of a code: the generator's own, then those of each extension.
        self.parts = [extension.numbers for extension in extensions]
        self.parts.insert(0, latent_size - sum(self.parts))
        latent_size = self.parts[0]
        generated = {}
        for name, entry in spec.items():
            key = name.replace(".", "/")  # torch reserves the dot
            if entry.source == "generated" or not shares_networks(generator):
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
        """Weights of scenes by their codes `[s z]`; of a distribution over weights, the mean.

        residual: what to add to weights of these scenes, `[s ...]` each by name.
        """
        return self._weights(codes, residual, None)[0]

    def sample(
        self, codes: Tensor, generator: torch.Generator, residual: Mapping[str, Tensor] | None = None
    ) -> tuple[Weights, Tensor | None]:
        """(weights drawn from their distribution, its divergence from the prior `[]`), for `bayes` other than none.

        Without a distribution these are the weights of `forward`, and None.
        """
        return self._weights(codes, residual, generator)

    def _weights(
        self, codes: Tensor, residual: Mapping[str, Tensor] | None, generator: torch.Generator | None
    ) -> tuple[Weights, Tensor | None]:
        # A slice that is not contiguous may be multiplied in another order: old scenes would change in the last bits.
        codes, *numbers = (part.contiguous() for part in codes.split(self.parts, 1))
        added = [extension(part) for extension, part in zip(self.extensions, numbers, strict=True)]
        weights: Weights = {key.replace("/", "."): value[None] for key, value in self.shared.items()}
        shifts = _total(*(part.coefficients for part in added))
        for key, table in self.factored.items():
            name = key.replace("/", ".")
            weights[name] = table(codes, shifts.get(name))
        weights = _total(weights, *(part.tables for part in added))
        changes = _total(*(part.weights for part in added))
        generated, divergence = self._generated(self.stability.read(codes), changes, generator)
        return _total(weights, generated, residual or {}), divergence

    def _generated(
        self, read: Tensor, changes: Weights, generator: torch.Generator | None
    ) -> tuple[Weights, Tensor | None]:
        features = self.bayes.read(read, generator)
        weights = self._bounded(features, changes)
        if generator is None or self.bayes.kind == "none":
            return weights, None
        if self.factors is not None:
            drawn: tuple[Weights, Tensor] = self.factors(weights, features, generator)
            return drawn
        if not self.training:
            return weights, None
        again = self._bounded(self.bayes.read(read, generator), changes)
        return weights, implicit_divergence(weights, again, self.spec)

    def _bounded(self, features: Tensor, changes: Weights) -> Weights:
        """Output of the generator with the changes of extensions, in the bounds of `stability`."""
        weights = self.generator(features)
        _require_weights(self.generator, weights, self.spec)
        return self.stability.constrain(_total(weights, changes), self.spec)


def _require_weights(generator: nn.Module, weights: Any, spec: WeightSpec) -> None:
    """Raises InputError for weights that are not those of the spec: a generator of one's own can be wrong."""
    name = type(generator).__name__
    if not isinstance(weights, Mapping) or weights.keys() != spec.keys():
        came = sorted(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise InputError(f"{name}: gave the weights {came!s:.200}, wanted {', '.join(sorted(spec))}")
    for key, entry in spec.items():
        if weights[key].shape[1:] != entry.shape:
            wanted = f"[s, {', '.join(map(str, entry.shape))}]"
            raise InputError(f"{name}: gave {key!r} of shape {list(weights[key].shape)}, wanted {wanted}")


def _total(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of what has the same name."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total
