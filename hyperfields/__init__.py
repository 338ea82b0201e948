"""A latent code goes into a hypernetwork, which generates the weights of a small field.

The names below are imported when they are first used (PEP 562), so `import hyperfields` itself loads neither
torch nor any kernel, and `hyperfields --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> the module that defines it. A line here needs one under TYPE_CHECKING; a test compares them.
_EXPORTS = {
    "BoundField": "model",
    "Camera": "cameras",
    "Chunked": "hypernets",
    "FrameTimes": "codes.sequence",
    "Codes": "training.inference",
    "Comparison": "evaluation.compare",
    "Cppn": "hypernets",
    "Independent": "hypernets",
    "Dynamic": "hypernets",
    "EncodedModel": "codes.encoder",
    "EncoderConfig": "codes.encoder",
    "FactoredGrid": "fields.encodings",
    "SceneDataset": "data",
    "FitConfig": "training.fit",
    "Fourier": "fields.encodings",
    "Full": "hypernets",
    "HashGrid": "fields.encodings",
    "Hierarchical": "hypernets",
    "HyperField": "model",
    "Identity": "fields.encodings",
    "ImageField": "fields",
    "InputError": "errors",
    "LowRank": "hypernets",
    "Mesh": "data",
    "Meta": "codes.cavia",
    "ModelConfig": "model",
    "Modulation": "hypernets",
    "PerLayer": "hypernets",
    "Pixels": "data",
    "Points": "data",
    "Posterior": "training.posterior",
    "Progress": "training.optim",
    "RadianceField": "fields",
    "Rays": "cameras",
    "TrainConfig": "tasks.presets",
    "Rendered": "rendering.volume",
    "Reptile": "codes.cavia",
    "Run": "runs.checkpoint",
    "SequenceModel": "codes.sequence",
    "SDFField": "fields",
    "SphericalHarmonics": "fields.encodings",
    "Stability": "hypernets",
    "View": "data",
    "WeightTokens": "hypernets",
    "add": "training.continual",
    "compare": "evaluation.compare",
    "encoded_fit": "codes.encoder",
    "evaluate": "evaluation.report",
    "export_scene": "runs.render",
    "fit": "training.fit",
    "fit_sequences": "codes.sequence",
    "format_report": "evaluation.report",
    "infer": "training.inference",
    "infer_posterior": "training.posterior",
    "interpolate": "codes.table",
    "interpolate_run": "runs.render",
    "load_codes": "training.inference",
    "load_encoded": "codes.encoder",
    "load_field": "runs.checkpoint",
    "load_run": "runs.checkpoint",
    "look_at": "cameras",
    "mesh_from_field": "runs.export",
    "meta_fit": "codes.cavia",
    "occupancy_grid": "rendering.volume",
    "on_background": "rendering.volume",
    "orbit": "cameras",
    "orbit_cameras": "rendering.pictures",
    "preset": "tasks.presets",
    "psnr": "evaluation.metrics",
    "render_picture": "rendering.pictures",
    "render_run": "runs.render",
    "render_volume": "rendering.volume",
    "reptile_fit": "codes.cavia",
    "sample_image": "rendering.volume",
    "shape_metrics": "evaluation.metrics",
    "ssim": "evaluation.metrics",
    "trace_surface": "rendering.volume",
    "tune_process": "process",
    "write_animation": "runs.export",
    "write_image": "runs.export",
    "write_mesh": "runs.export",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # what editors and type checkers see
    from hyperfields.cameras import Camera as Camera
    from hyperfields.cameras import Rays as Rays
    from hyperfields.cameras import look_at as look_at
    from hyperfields.cameras import orbit as orbit
    from hyperfields.codes.cavia import Meta as Meta
    from hyperfields.codes.cavia import Reptile as Reptile
    from hyperfields.codes.cavia import meta_fit as meta_fit
    from hyperfields.codes.cavia import reptile_fit as reptile_fit
    from hyperfields.codes.encoder import EncodedModel as EncodedModel
    from hyperfields.codes.encoder import EncoderConfig as EncoderConfig
    from hyperfields.codes.encoder import encoded_fit as encoded_fit
    from hyperfields.codes.encoder import load_encoded as load_encoded
    from hyperfields.codes.sequence import FrameTimes as FrameTimes
    from hyperfields.codes.sequence import SequenceModel as SequenceModel
    from hyperfields.codes.sequence import fit_sequences as fit_sequences
    from hyperfields.codes.table import interpolate as interpolate
    from hyperfields.data import Mesh as Mesh
    from hyperfields.data import Pixels as Pixels
    from hyperfields.data import Points as Points
    from hyperfields.data import SceneDataset as SceneDataset
    from hyperfields.data import View as View
    from hyperfields.errors import InputError as InputError
    from hyperfields.evaluation.compare import Comparison as Comparison
    from hyperfields.evaluation.compare import compare as compare
    from hyperfields.evaluation.metrics import psnr as psnr
    from hyperfields.evaluation.metrics import shape_metrics as shape_metrics
    from hyperfields.evaluation.metrics import ssim as ssim
    from hyperfields.evaluation.report import evaluate as evaluate
    from hyperfields.evaluation.report import format_report as format_report
    from hyperfields.fields import ImageField as ImageField
    from hyperfields.fields import RadianceField as RadianceField
    from hyperfields.fields import SDFField as SDFField
    from hyperfields.fields.encodings import FactoredGrid as FactoredGrid
    from hyperfields.fields.encodings import Fourier as Fourier
    from hyperfields.fields.encodings import HashGrid as HashGrid
    from hyperfields.fields.encodings import Identity as Identity
    from hyperfields.fields.encodings import SphericalHarmonics as SphericalHarmonics
    from hyperfields.hypernets import Chunked as Chunked
    from hyperfields.hypernets import Cppn as Cppn
    from hyperfields.hypernets import Dynamic as Dynamic
    from hyperfields.hypernets import Full as Full
    from hyperfields.hypernets import Hierarchical as Hierarchical
    from hyperfields.hypernets import Independent as Independent
    from hyperfields.hypernets import LowRank as LowRank
    from hyperfields.hypernets import Modulation as Modulation
    from hyperfields.hypernets import PerLayer as PerLayer
    from hyperfields.hypernets import Stability as Stability
    from hyperfields.hypernets import WeightTokens as WeightTokens
    from hyperfields.model import BoundField as BoundField
    from hyperfields.model import HyperField as HyperField
    from hyperfields.model import ModelConfig as ModelConfig
    from hyperfields.process import tune_process as tune_process
    from hyperfields.rendering.pictures import orbit_cameras as orbit_cameras
    from hyperfields.rendering.pictures import render_picture as render_picture
    from hyperfields.rendering.volume import Rendered as Rendered
    from hyperfields.rendering.volume import occupancy_grid as occupancy_grid
    from hyperfields.rendering.volume import on_background as on_background
    from hyperfields.rendering.volume import render_volume as render_volume
    from hyperfields.rendering.volume import sample_image as sample_image
    from hyperfields.rendering.volume import trace_surface as trace_surface
    from hyperfields.runs.checkpoint import Run as Run
    from hyperfields.runs.checkpoint import load_field as load_field
    from hyperfields.runs.checkpoint import load_run as load_run
    from hyperfields.runs.export import mesh_from_field as mesh_from_field
    from hyperfields.runs.export import write_animation as write_animation
    from hyperfields.runs.export import write_image as write_image
    from hyperfields.runs.export import write_mesh as write_mesh
    from hyperfields.runs.render import export_scene as export_scene
    from hyperfields.runs.render import interpolate_run as interpolate_run
    from hyperfields.runs.render import render_run as render_run
    from hyperfields.tasks.presets import TrainConfig as TrainConfig
    from hyperfields.tasks.presets import preset as preset
    from hyperfields.training.continual import add as add
    from hyperfields.training.fit import FitConfig as FitConfig
    from hyperfields.training.fit import fit as fit
    from hyperfields.training.inference import Codes as Codes
    from hyperfields.training.inference import infer as infer
    from hyperfields.training.inference import load_codes as load_codes
    from hyperfields.training.optim import Progress as Progress
    from hyperfields.training.posterior import Posterior as Posterior
    from hyperfields.training.posterior import infer_posterior as infer_posterior


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any misspelt name after seeing it

    def __getattr__(name):
        if name not in _EXPORTS:
            raise AttributeError(f"module 'hyperfields' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f"hyperfields.{_EXPORTS[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
