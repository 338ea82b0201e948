"""Codes: where the latent of each scene comes from.

Lives here: the table of an auto-decoder (`table`), sources that make codes in every step (`variational`, `encoder`,
`cavia`, `sequence`), paths through latent space (`paths`) and its map (`latent_map`), sums of scenes as they
are typed (`expressions`). May import: `ops`, `data`, `weights`, `hypernets`. To add a source, write one file with a
frozen dataclass on `source.Codes` and the `source.CodeSource` that it builds, and a line in `SOURCES` for a name on the
command line; from outside the package the two classes are enough: docs/extending.md.
"""

import dataclasses
from typing import Any

from hyperfields.codes.cavia import CAVIA
from hyperfields.codes.encoder import Encoder
from hyperfields.codes.paths import interpolate
from hyperfields.codes.sequence import FrameTimes, Sequence, frame_times_from_names
from hyperfields.codes.source import Codes, CodeSource, FitContext
from hyperfields.codes.table import LatentTable
from hyperfields.codes.variational import Variational
from hyperfields.configs import parse_choice

# Names on the command line: `fit --by NAME`.
SOURCES: dict[str, type[Codes]] = {
    "vae": Variational,
    "encoder": Encoder,
    "cavia": CAVIA,
    "time": Sequence,
}

__all__ = [
    "CAVIA",
    "SOURCES",
    "CodeSource",
    "Codes",
    "Encoder",
    "FitContext",
    "FrameTimes",
    "LatentTable",
    "Sequence",
    "Variational",
    "frame_times_from_names",
    "interpolate",
    "parse",
]


def parse(text: str, what: str = "codes") -> Codes | None:
    """A source of codes by its name, with settings after it: `vae:weight=1e-5`, `cavia:order=2`; `descent`, the table
    of an auto-decoder, is None.

    Args:
        what: is chosen, for the message.

    Raises:
        InputError: an unknown name or setting; the text lists those there are.
    """
    known = {"descent": {}, **{name: dataclasses.asdict(make()) for name, make in SOURCES.items()}}
    name, given = parse_choice(what, text, known)
    settings: dict[str, Any] = given
    return None if name == "descent" else SOURCES[name](**settings)
