"""Fields: functions of points whose weights are an argument."""

from hyperfields.fields.radiance import (
    ACTIVATION as ACTIVATION,
)
from hyperfields.fields.radiance import (
    CEILING as CEILING,
)
from hyperfields.fields.radiance import Field as Field
from hyperfields.fields.radiance import ImageField as ImageField
from hyperfields.fields.radiance import RadianceField as RadianceField
from hyperfields.fields.radiance import ShapeField as ShapeField
from hyperfields.fields.radiance import kind_of as kind_of
