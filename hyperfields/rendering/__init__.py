"""Rendering: functions of points as pictures. None of it knows what a field is.

Lives here: pictures of image functions (`image`), volume rendering and surfaces (`volume`, `surface`), occupancy that
skips empty space, rendering with static shapes for GPUs, meshes from fields, and rays in blocks with channels
(`pictures`). May import: `ops`, `cameras`, `data`. To add a renderer, write a function that takes a function of packed
points and rays, and returns `base.Rendered`.
"""

from hyperfields.rendering.base import Rendered as Rendered
from hyperfields.rendering.base import on_background as on_background
from hyperfields.rendering.image import sample_image as sample_image
from hyperfields.rendering.meshing import mesh_from_field as mesh_from_field
from hyperfields.rendering.occupancy import OccupancyGrid as OccupancyGrid
from hyperfields.rendering.occupancy import occupancy_grid as occupancy_grid
from hyperfields.rendering.surface import trace_surface as trace_surface
from hyperfields.rendering.volume import render_volume as render_volume
