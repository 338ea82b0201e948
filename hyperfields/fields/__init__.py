"""Fields: functions of points whose weights are an argument."""

from hyperfields.fields.radiance import (
    ACTIVATION as ACTIVATION,
)
from hyperfields.fields.radiance import (
    MAX_LOG_DENSITY as MAX_LOG_DENSITY,
)
from hyperfields.fields.radiance import Field as Field
from hyperfields.fields.radiance import ImageField as ImageField
from hyperfields.fields.radiance import RadianceField as RadianceField
from hyperfields.fields.radiance import SDFField as SDFField
from hyperfields.fields.radiance import kind_of as kind_of
