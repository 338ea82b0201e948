"""A latent code goes into a hypernetwork, which generates the weights of a small field.

The names below are imported when they are first used (PEP 562), so `import hyperfields` itself loads neither
torch nor any kernel, and `hyperfields --help` stays quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Threads of torch that have nothing to do spin for milliseconds before they sleep, and take the cores from the kernels
# here: a fit is a third slower. OpenMP reads this once, when torch is imported, so it only helps before that.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "2000"

# Public name -> the module that defines it. A line here needs one under TYPE_CHECKING; a test compares them.
_EXPORTS = {
    "Bound": "model",
    "Camera": "cameras",
    "Chunked": "hypernets",
    "Clock": "sequences",
    "Codes": "infer",
    "Comparison": "compare",
    "Cppn": "hypernets",
    "Direct": "hypernets",
    "Dynamic": "hypernets",
    "EncodedModel": "encoder",
    "EncoderConfig": "encoder",
    "FactoredGrid": "encodings",
    "Family": "families",
    "FitConfig": "fit",
    "Fourier": "encodings",
    "Full": "hypernets",
    "HashGrid": "encodings",
    "Hierarchical": "hypernets",
    "HyperField": "model",
    "Identity": "encodings",
    "ImageField": "fields",
    "InputError": "errors",
    "LowRank": "hypernets",
    "Mesh": "families",
    "Meta": "meta",
    "ModelConfig": "model",
    "Modulation": "hypernets",
    "PerLayer": "hypernets",
    "Pixels": "families",
    "Points": "families",
    "Posterior": "posterior",
    "Progress": "optimization",
    "RadianceField": "fields",
    "Rays": "cameras",
    "Recipe": "presets",
    "Rendered": "render",
    "Reptile": "meta",
    "Run": "checkpoint",
    "SequenceModel": "sequences",
    "ShapeField": "fields",
    "SphericalHarmonics": "encodings",
    "Stability": "hypernets",
    "View": "families",
    "WeightTokens": "hypernets",
    "add": "continual",
    "compare": "compare",
    "encoded_fit": "encoder",
    "evaluate": "evaluate",
    "export_scene": "movie",
    "fit": "fit",
    "fit_sequences": "sequences",
    "format_report": "evaluate",
    "infer": "infer",
    "infer_posterior": "posterior",
    "interpolate": "latents",
    "interpolate_run": "movie",
    "load_codes": "infer",
    "load_encoded": "encoder",
    "load_field": "checkpoint",
    "load_run": "checkpoint",
    "look_at": "cameras",
    "mesh_from_field": "export",
    "meta_fit": "meta",
    "occupancy_grid": "render",
    "on_background": "render",
    "orbit": "cameras",
    "orbit_cameras": "picture",
    "preset": "presets",
    "psnr": "metrics",
    "render_picture": "picture",
    "render_run": "movie",
    "render_volume": "render",
    "reptile_fit": "meta",
    "sample_image": "render",
    "shape_metrics": "metrics",
    "ssim": "metrics",
    "trace_surface": "render",
    "write_animation": "export",
    "write_image": "export",
    "write_mesh": "export",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # what editors and type checkers see
    from hyperfields.cameras import Camera as Camera
    from hyperfields.cameras import Rays as Rays
    from hyperfields.cameras import look_at as look_at
    from hyperfields.cameras import orbit as orbit
    from hyperfields.checkpoint import Run as Run
    from hyperfields.checkpoint import load_field as load_field
    from hyperfields.checkpoint import load_run as load_run
    from hyperfields.compare import Comparison as Comparison
    from hyperfields.compare import compare as compare
    from hyperfields.continual import add as add
    from hyperfields.encoder import EncodedModel as EncodedModel
    from hyperfields.encoder import EncoderConfig as EncoderConfig
    from hyperfields.encoder import encoded_fit as encoded_fit
    from hyperfields.encoder import load_encoded as load_encoded
    from hyperfields.encodings import FactoredGrid as FactoredGrid
    from hyperfields.encodings import Fourier as Fourier
    from hyperfields.encodings import HashGrid as HashGrid
    from hyperfields.encodings import Identity as Identity
    from hyperfields.encodings import SphericalHarmonics as SphericalHarmonics
    from hyperfields.errors import InputError as InputError
    from hyperfields.evaluate import evaluate as evaluate
    from hyperfields.evaluate import format_report as format_report
    from hyperfields.export import mesh_from_field as mesh_from_field
    from hyperfields.export import write_animation as write_animation
    from hyperfields.export import write_image as write_image
    from hyperfields.export import write_mesh as write_mesh
    from hyperfields.families import Family as Family
    from hyperfields.families import Mesh as Mesh
    from hyperfields.families import Pixels as Pixels
    from hyperfields.families import Points as Points
    from hyperfields.families import View as View
    from hyperfields.fields import ImageField as ImageField
    from hyperfields.fields import RadianceField as RadianceField
    from hyperfields.fields import ShapeField as ShapeField
    from hyperfields.fit import FitConfig as FitConfig
    from hyperfields.fit import fit as fit
    from hyperfields.hypernets import Chunked as Chunked
    from hyperfields.hypernets import Cppn as Cppn
    from hyperfields.hypernets import Direct as Direct
    from hyperfields.hypernets import Dynamic as Dynamic
    from hyperfields.hypernets import Full as Full
    from hyperfields.hypernets import Hierarchical as Hierarchical
    from hyperfields.hypernets import LowRank as LowRank
    from hyperfields.hypernets import Modulation as Modulation
    from hyperfields.hypernets import PerLayer as PerLayer
    from hyperfields.hypernets import Stability as Stability
    from hyperfields.hypernets import WeightTokens as WeightTokens
    from hyperfields.infer import Codes as Codes
    from hyperfields.infer import infer as infer
    from hyperfields.infer import load_codes as load_codes
    from hyperfields.latents import interpolate as interpolate
    from hyperfields.meta import Meta as Meta
    from hyperfields.meta import Reptile as Reptile
    from hyperfields.meta import meta_fit as meta_fit
    from hyperfields.meta import reptile_fit as reptile_fit
    from hyperfields.metrics import psnr as psnr
    from hyperfields.metrics import shape_metrics as shape_metrics
    from hyperfields.metrics import ssim as ssim
    from hyperfields.model import Bound as Bound
    from hyperfields.model import HyperField as HyperField
    from hyperfields.model import ModelConfig as ModelConfig
    from hyperfields.movie import export_scene as export_scene
    from hyperfields.movie import interpolate_run as interpolate_run
    from hyperfields.movie import render_run as render_run
    from hyperfields.optimization import Progress as Progress
    from hyperfields.picture import orbit_cameras as orbit_cameras
    from hyperfields.picture import render_picture as render_picture
    from hyperfields.posterior import Posterior as Posterior
    from hyperfields.posterior import infer_posterior as infer_posterior
    from hyperfields.presets import Recipe as Recipe
    from hyperfields.presets import preset as preset
    from hyperfields.render import Rendered as Rendered
    from hyperfields.render import occupancy_grid as occupancy_grid
    from hyperfields.render import on_background as on_background
    from hyperfields.render import render_volume as render_volume
    from hyperfields.render import sample_image as sample_image
    from hyperfields.render import trace_surface as trace_surface
    from hyperfields.sequences import Clock as Clock
    from hyperfields.sequences import SequenceModel as SequenceModel
    from hyperfields.sequences import fit_sequences as fit_sequences


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any misspelt name after seeing it

    def __getattr__(name):
        if name not in _EXPORTS:
            raise AttributeError(f"module 'hyperfields' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f"hyperfields.{_EXPORTS[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value


class _Package(ModuleType):
    """`hyperfields.fit` is the function, also after something has imported the module of that name.

    The import of a submodule sets it as an attribute of its package, whatever was there (Python's language
    reference, 5.4.2). Here the public name wins; the module is `importlib.import_module("hyperfields.fit")`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _EXPORTS.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
