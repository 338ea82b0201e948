"""Rendering: each renderer takes a function of points and gives pictures, rays or meshes; none knows what a field is.

Lives here: `base.py` (the functions that are asked, `Rendered`), `image.py`, `volume.py`, `surface.py` with
`shading.py`, `occupancy.py` (which cells of a scene hold anything), `static_shapes.py` (volume rendering that a GPU
step can record), `meshing.py`, and `pictures.py` (blocks of rays, channels, several rays a pixel).
May import: errors, ops, cameras, data.

To add a renderer, write a function of (fn, rays) that returns `base.Rendered`; a task calls it in `render_rays`.
To add a channel, add its name to `pictures.CHANNELS`, its colours to `apply_colormap`, and the name to the tasks that
can show it.
"""

from hyperfields.rendering.base import PointFn as PointFn
from hyperfields.rendering.base import RadianceFn as RadianceFn
from hyperfields.rendering.base import Rendered as Rendered
from hyperfields.rendering.base import on_background as on_background
from hyperfields.rendering.image import Window as Window
from hyperfields.rendering.image import sample_image as sample_image
from hyperfields.rendering.meshing import mesh_from_field as mesh_from_field
from hyperfields.rendering.occupancy import OccupancyGrid as OccupancyGrid
from hyperfields.rendering.occupancy import occupancy_grid as occupancy_grid
from hyperfields.rendering.surface import trace_surface as trace_surface
from hyperfields.rendering.volume import render_volume as render_volume
