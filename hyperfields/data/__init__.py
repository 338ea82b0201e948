"""Scenes in memory, or in a store: what can be fitted.

`SceneDataset` is the protocol, with the plain tuples it speaks in; `Images`, `Shapes` and `Views` hold tensors of one
kind, `Subset` and `Concat` compose data sets, `SceneLoader` is the iterator for loops of your own. `packed` has the
kinds from a `store`: files of many scenes, on a disk or behind a URL. All other files are opened by the readers in
scenes/. May import: errors, cameras, ops. To add data of your own, write a class with the members of `SceneDataset`; to
add a format, write a reader in scenes/.
"""

from hyperfields.data.base import KINDS as KINDS
from hyperfields.data.base import SPLITS as SPLITS
from hyperfields.data.base import Kind as Kind
from hyperfields.data.base import LazyViews as LazyViews
from hyperfields.data.base import Mesh as Mesh
from hyperfields.data.base import Movable as Movable
from hyperfields.data.base import Pixels as Pixels
from hyperfields.data.base import Points as Points
from hyperfields.data.base import SceneDataset as SceneDataset
from hyperfields.data.base import View as View
from hyperfields.data.base import expect as expect
from hyperfields.data.base import fingerprint as fingerprint
from hyperfields.data.base import frames_of as frames_of
from hyperfields.data.base import is_unbounded as is_unbounded
from hyperfields.data.base import known_frames as known_frames
from hyperfields.data.base import on_device as on_device
from hyperfields.data.base import picture_files as picture_files
from hyperfields.data.base import require_scenes as require_scenes
from hyperfields.data.base import stays_on_device as stays_on_device
from hyperfields.data.base import training_cameras as training_cameras
from hyperfields.data.base import up_of as up_of
from hyperfields.data.compose import Concat as Concat
from hyperfields.data.compose import Subset as Subset
from hyperfields.data.images import Images as Images
from hyperfields.data.loader import SceneLoader as SceneLoader
from hyperfields.data.loader import SceneSampler as SceneSampler
from hyperfields.data.pictures import Pictures as Pictures
from hyperfields.data.shapes import Sampling as Sampling
from hyperfields.data.shapes import Shapes as Shapes
from hyperfields.data.views import Views as Views
