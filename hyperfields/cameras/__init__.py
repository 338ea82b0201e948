"""Cameras with their lenses, the rays of their pixels, poses, and paths that cameras take.

Frames: OpenCV cameras (+X right, +Y down, +Z forward), right-handed worlds with +Z up. `T_world_camera` takes camera
points to the world. Pixel centres are at + 0.5. Angles are radians. May import: errors.
"""

from hyperfields.cameras.camera import Camera as Camera
from hyperfields.cameras.camera import Rays as Rays
from hyperfields.cameras.camera import Vector as Vector
from hyperfields.cameras.camera import look_at as look_at
from hyperfields.cameras.camera import orbit as orbit
from hyperfields.cameras.camera import turned_to as turned_to
