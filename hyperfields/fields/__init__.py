"""Fields: functions of points whose weights are an argument. They own no parameters: a config, a `spec`, a call.

Lives here: encodings of points, one file a kind of field, and `BoundField`, a field with its weights.
May import: `ops`, `weights`, `cameras`.
To add an encoding, write a frozen dataclass with the members of `encodings.Encoding`; to add a field, one with those of
`common.Field`, and a task for its kind (see `hyperfields.tasks`). Neither needs a change here: see docs/extending.md.
"""

from hyperfields.fields.bound import BoundField
from hyperfields.fields.common import Field
from hyperfields.fields.encodings import (
    Encoding,
    FactoredGrid,
    Fourier,
    GridEncoding,
    HashGrid,
    Identity,
    SphericalHarmonics,
)
from hyperfields.fields.image import ImageField
from hyperfields.fields.radiance import RadianceField
from hyperfields.fields.sdf import SDFField

__all__ = [
    "BoundField",
    "Encoding",
    "FactoredGrid",
    "Field",
    "Fourier",
    "GridEncoding",
    "HashGrid",
    "Identity",
    "ImageField",
    "RadianceField",
    "SDFField",
    "SphericalHarmonics",
]
