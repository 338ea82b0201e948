"""Cameras with their lenses, the rays of their pixels, poses, and paths that cameras take.

Frames: OpenCV cameras (+X right, +Y down, +Z forward), right-handed worlds with +Z up. `T_world_camera` takes camera
points to the world. Pixel centres are at + 0.5. Angles are radians. May import: errors. To add a lens,
write its projection in lens.py; to add a path, a function in paths.py that gives cameras.
"""

from hyperfields.cameras.camera import Camera as Camera
from hyperfields.cameras.camera import Rays as Rays
from hyperfields.cameras.keyframes import CameraPath as CameraPath
from hyperfields.cameras.lens import MODELS as MODELS
from hyperfields.cameras.lens import Lens as Lens
from hyperfields.cameras.nerfstudio import Film as Film
from hyperfields.cameras.nerfstudio import read_camera_path as read_camera_path
from hyperfields.cameras.nerfstudio import write_camera_path as write_camera_path
from hyperfields.cameras.paths import middle_pose as middle_pose
from hyperfields.cameras.paths import orbit as orbit
from hyperfields.cameras.paths import spiral as spiral
from hyperfields.cameras.poses import Vector as Vector
from hyperfields.cameras.poses import look_at as look_at
from hyperfields.cameras.poses import turned_to as turned_to
