"""A latent code goes into a hypernetwork, which generates the weights of a small neural field.

    import hyperfields as hf

    run = hf.fit(hf.Images(pixels), minutes=1)
    picture = run["3"].render()

The names below are imported when they are first used (PEP 562), so `import hyperfields` itself loads neither torch nor
any kernel, and `hyperfields --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> the module that defines it. A line here needs one under TYPE_CHECKING; a test compares them.
_EXPORTS = {
    "Adam": "tasks.config",
    "Bayes": "hypernets",
    "Between": "tasks",
    "BoundField": "fields",
    "Box": "ops",
    "CAVIA": "codes",
    "Camera": "cameras",
    "CameraPath": "cameras",
    "Chunked": "hypernets",
    "CodeSource": "codes",
    "Codes": "codes",
    "ColorLoss": "tasks.losses",
    "Comparison": "evaluation.compare",
    "Concat": "data",
    "Contracted": "ops",
    "Cosine": "tasks.config",
    "Cppn": "hypernets",
    "DistanceLoss": "tasks.losses",
    "Dynamic": "hypernets",
    "Encoder": "codes",
    "Encoding": "fields",
    "FactoredGrid": "fields",
    "Field": "fields",
    "Fields": "training.trainer",
    "FitContext": "codes",
    "Fourier": "fields",
    "FrameTimes": "codes",
    "Full": "hypernets",
    "GaussianPrior": "training.regularizers",
    "Generator": "hypernets",
    "HashGrid": "fields",
    "Hierarchical": "hypernets",
    "HyperField": "model",
    "Hypernet": "hypernets",
    "Identity": "fields",
    "ImageField": "fields",
    "Images": "data",
    "Independent": "hypernets",
    "InferredCodes": "runs.inferred",
    "InputError": "errors",
    "Lens": "cameras",
    "LowRank": "hypernets",
    "Mesh": "data",
    "Metric": "tasks",
    "ModelConfig": "model",
    "Modulation": "hypernets",
    "Morph": "runs.morphs",
    "Objective": "tasks",
    "OccupancyGrid": "rendering",
    "PerLayer": "hypernets",
    "PhotographConfig": "tasks.photographs",
    "PixelLoss": "tasks.losses",
    "Pixels": "data",
    "Placement": "rendering.composition",
    "Points": "data",
    "Progress": "training.trainer",
    "RadianceField": "fields",
    "Rays": "cameras",
    "RelativeClip": "tasks.config",
    "Rendered": "rendering",
    "Run": "runs.run",
    "SDFField": "fields",
    "Scene": "runs.scene",
    "SceneDataset": "data",
    "SceneLoader": "data",
    "Sequence": "codes",
    "Shapes": "data",
    "SphericalHarmonics": "fields",
    "Stability": "hypernets",
    "StepState": "training.trainer",
    "Subset": "data",
    "TASKS": "tasks",
    "Task": "tasks",
    "TrainConfig": "tasks",
    "Trainer": "training.trainer",
    "Variational": "codes",
    "View": "data",
    "Views": "data",
    "WeightTokens": "hypernets",
    "World": "training.distributed",
    "add": "training.continual",
    "compare": "evaluation.compare",
    "compose": "runs.compose",
    "distributed": "training.distributed",
    "evaluate": "evaluation.report",
    "export_scene": "runs.export",
    "fit": "training.fit",
    "fit_many": "training.many",
    "format_report": "evaluation.report",
    "infer": "training.inference",
    "interpolate": "codes",
    "interpolate_run": "runs.render",
    "load_codes": "runs.inferred",
    "load_field": "runs.field_file",
    "load_run": "runs.run",
    "look_at": "cameras",
    "mesh_from_field": "rendering",
    "occupancy_grid": "rendering",
    "on_background": "rendering",
    "open_family": "scenes",
    "orbit": "cameras",
    "orbit_cameras": "runs.cameras",
    "pack_family": "scenes",
    "parameter_groups": "model",
    "preset": "tasks",
    "psnr": "tasks.metrics",
    "read_camera_path": "cameras",
    "render_picture": "tasks",
    "render_scene": "runs.render",
    "render_volume": "rendering",
    "sample_image": "rendering",
    "shape_metrics": "tasks.metrics",
    "spiral": "cameras",
    "ssim": "tasks.metrics",
    "task_of": "tasks",
    "trace_surface": "rendering",
    "tune_process": "process",
    "write_animation": "runs.video",
    "write_camera_path": "cameras",
    "write_image": "runs.images",
    "write_mesh": "runs.meshes",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # what editors and type checkers see
    from hyperfields.cameras import Camera as Camera
    from hyperfields.cameras import CameraPath as CameraPath
    from hyperfields.cameras import Lens as Lens
    from hyperfields.cameras import Rays as Rays
    from hyperfields.cameras import look_at as look_at
    from hyperfields.cameras import orbit as orbit
    from hyperfields.cameras import read_camera_path as read_camera_path
    from hyperfields.cameras import spiral as spiral
    from hyperfields.cameras import write_camera_path as write_camera_path
    from hyperfields.codes import CAVIA as CAVIA
    from hyperfields.codes import Codes as Codes
    from hyperfields.codes import CodeSource as CodeSource
    from hyperfields.codes import Encoder as Encoder
    from hyperfields.codes import FitContext as FitContext
    from hyperfields.codes import FrameTimes as FrameTimes
    from hyperfields.codes import Sequence as Sequence
    from hyperfields.codes import Variational as Variational
    from hyperfields.codes import interpolate as interpolate
    from hyperfields.data import Concat as Concat
    from hyperfields.data import Images as Images
    from hyperfields.data import Mesh as Mesh
    from hyperfields.data import Pixels as Pixels
    from hyperfields.data import Points as Points
    from hyperfields.data import SceneDataset as SceneDataset
    from hyperfields.data import SceneLoader as SceneLoader
    from hyperfields.data import Shapes as Shapes
    from hyperfields.data import Subset as Subset
    from hyperfields.data import View as View
    from hyperfields.data import Views as Views
    from hyperfields.errors import InputError as InputError
    from hyperfields.evaluation.compare import Comparison as Comparison
    from hyperfields.evaluation.compare import compare as compare
    from hyperfields.evaluation.report import evaluate as evaluate
    from hyperfields.evaluation.report import format_report as format_report
    from hyperfields.fields import BoundField as BoundField
    from hyperfields.fields import Encoding as Encoding
    from hyperfields.fields import FactoredGrid as FactoredGrid
    from hyperfields.fields import Field as Field
    from hyperfields.fields import Fourier as Fourier
    from hyperfields.fields import HashGrid as HashGrid
    from hyperfields.fields import Identity as Identity
    from hyperfields.fields import ImageField as ImageField
    from hyperfields.fields import RadianceField as RadianceField
    from hyperfields.fields import SDFField as SDFField
    from hyperfields.fields import SphericalHarmonics as SphericalHarmonics
    from hyperfields.hypernets import Bayes as Bayes
    from hyperfields.hypernets import Chunked as Chunked
    from hyperfields.hypernets import Cppn as Cppn
    from hyperfields.hypernets import Dynamic as Dynamic
    from hyperfields.hypernets import Full as Full
    from hyperfields.hypernets import Generator as Generator
    from hyperfields.hypernets import Hierarchical as Hierarchical
    from hyperfields.hypernets import Hypernet as Hypernet
    from hyperfields.hypernets import Independent as Independent
    from hyperfields.hypernets import LowRank as LowRank
    from hyperfields.hypernets import Modulation as Modulation
    from hyperfields.hypernets import PerLayer as PerLayer
    from hyperfields.hypernets import Stability as Stability
    from hyperfields.hypernets import WeightTokens as WeightTokens
    from hyperfields.model import HyperField as HyperField
    from hyperfields.model import ModelConfig as ModelConfig
    from hyperfields.model import parameter_groups as parameter_groups
    from hyperfields.ops import Box as Box
    from hyperfields.ops import Contracted as Contracted
    from hyperfields.process import tune_process as tune_process
    from hyperfields.rendering import OccupancyGrid as OccupancyGrid
    from hyperfields.rendering import Rendered as Rendered
    from hyperfields.rendering import mesh_from_field as mesh_from_field
    from hyperfields.rendering import occupancy_grid as occupancy_grid
    from hyperfields.rendering import on_background as on_background
    from hyperfields.rendering import render_volume as render_volume
    from hyperfields.rendering import sample_image as sample_image
    from hyperfields.rendering import trace_surface as trace_surface
    from hyperfields.rendering.composition import Placement as Placement
    from hyperfields.runs.cameras import orbit_cameras as orbit_cameras
    from hyperfields.runs.compose import compose as compose
    from hyperfields.runs.export import export_scene as export_scene
    from hyperfields.runs.field_file import load_field as load_field
    from hyperfields.runs.images import write_image as write_image
    from hyperfields.runs.inferred import InferredCodes as InferredCodes
    from hyperfields.runs.inferred import load_codes as load_codes
    from hyperfields.runs.meshes import write_mesh as write_mesh
    from hyperfields.runs.morphs import Morph as Morph
    from hyperfields.runs.render import interpolate_run as interpolate_run
    from hyperfields.runs.render import render_scene as render_scene
    from hyperfields.runs.run import Run as Run
    from hyperfields.runs.run import load_run as load_run
    from hyperfields.runs.scene import Scene as Scene
    from hyperfields.runs.video import write_animation as write_animation
    from hyperfields.scenes import open_family as open_family
    from hyperfields.scenes import pack_family as pack_family
    from hyperfields.tasks import TASKS as TASKS
    from hyperfields.tasks import Between as Between
    from hyperfields.tasks import Metric as Metric
    from hyperfields.tasks import Objective as Objective
    from hyperfields.tasks import Task as Task
    from hyperfields.tasks import TrainConfig as TrainConfig
    from hyperfields.tasks import preset as preset
    from hyperfields.tasks import render_picture as render_picture
    from hyperfields.tasks import task_of as task_of
    from hyperfields.tasks.config import Adam as Adam
    from hyperfields.tasks.config import Cosine as Cosine
    from hyperfields.tasks.config import RelativeClip as RelativeClip
    from hyperfields.tasks.losses import ColorLoss as ColorLoss
    from hyperfields.tasks.losses import DistanceLoss as DistanceLoss
    from hyperfields.tasks.losses import PixelLoss as PixelLoss
    from hyperfields.tasks.metrics import psnr as psnr
    from hyperfields.tasks.metrics import shape_metrics as shape_metrics
    from hyperfields.tasks.metrics import ssim as ssim
    from hyperfields.tasks.photographs import PhotographConfig as PhotographConfig
    from hyperfields.training.continual import add as add
    from hyperfields.training.distributed import World as World
    from hyperfields.training.distributed import distributed as distributed
    from hyperfields.training.fit import fit as fit
    from hyperfields.training.inference import infer as infer
    from hyperfields.training.many import fit_many as fit_many
    from hyperfields.training.regularizers import GaussianPrior as GaussianPrior
    from hyperfields.training.trainer import Fields as Fields
    from hyperfields.training.trainer import Progress as Progress
    from hyperfields.training.trainer import StepState as StepState
    from hyperfields.training.trainer import Trainer as Trainer


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any misspelt name after seeing it

    def __getattr__(name):
        if name not in _EXPORTS:
            raise AttributeError(f"module 'hyperfields' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f"hyperfields.{_EXPORTS[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
