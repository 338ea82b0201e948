"""The `Task` protocol, everything that depends on a kind of scenes, and functions that tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data import Mesh, Pixels, Points, SceneDataset, View
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field
from hyperfields.fields.encodings import FactoredGrid, HashGrid
from hyperfields.hypernets import Full, Generator, Hierarchical, Modulation
from hyperfields.model import ModelConfig
from hyperfields.ops import batched_mlp
from hyperfields.ops.devices import Precision
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.image import Window
from hyperfields.rendering.pictures import CELLS
from hyperfields.tasks import metrics
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.morphs import FieldMorph
from hyperfields.tasks.objective import Loss, Objective
from hyperfields.weights import Weights, layers

Preset = Literal["tiny", "default", "faithful"]
PRESETS: tuple[Preset, ...] = ("tiny", "default", "faithful")
MESH_RESOLUTION = 192  # cells a side of [-1, 1]^3
PICTURES = 16  # that a perceptual metric compares at a time
FREQUENCIES = 4  # of the positional encoding of observations

PictureMetric = Callable[[Tensor, Tensor], Tensor]  # pictures, truth [b h w 3] in [0, 1] -> [b]; ValueError: too small
Note = Callable[[str], None]  # takes a line with the reason of a missing value
Each = Callable[[int, str, dict[str, float]], None]
Probe = Callable[[BoundField], float]  # one scene's field -> an error


class Metric(NamedTuple):
    """One number of how good a scene is."""

    name: str  # key in reports
    heading: str  # of its column, with the unit
    format: str = "{:.4f}"
    higher_is_better: bool = True
    legend: str = ""  # a line below the table


class Pair(NamedTuple):
    """A picture of a scene beside the truth, for people to look at."""

    truth: Tensor  # [h w 3] on white, in [0, 1]
    picture: Tensor  # [h w 3], likewise
    depth: Tensor | None = None  # [h w 3] as colours, where the kind has depths
    counting: Tensor | None = None  # [h w] bool, pixels that are measured; None: all


class ObservationConfig(Protocol):
    """Sizes of the observations of an encoder."""

    @property
    def patch(self) -> int: ...  # side of a picture's patches, pixels
    @property
    def points(self) -> int: ...  # centres (shapes) or rays (views)
    @property
    def near(self) -> int: ...  # points of a centre's patch, itself among them


class Task(Protocol):
    """Everything that depends on the kind of scenes. Others ask a task for what it can do, never for its kind."""

    kind: ClassVar[str]
    field: ClassVar[type]  # class of its fields
    batch: ClassVar[type[Points] | type[Pixels]]  # of its data sets
    box: ClassVar[tuple[float, float]]  # range of a field's points, each axis
    channels: ClassVar[tuple[str, ...]]  # of a picture; the first is the default
    metrics: ClassVar[tuple[Metric, ...]]  # the first one ranks, and of it more is better
    has_camera: ClassVar[bool]  # pictures depend on a camera
    has_mesh: ClassVar[bool]
    has_splits: ClassVar[bool]  # the data hold views for training and others for testing
    sized: ClassVar[bool]  # the data are pictures of a size
    unit: ClassVar[str]  # of a field's values, as it ends a sentence about an error
    supersample: ClassVar[int]  # squared, rays of a pixel of a good picture
    preview_cells: ClassVar[int]  # resolution of a mesh to look at, 0 without meshes

    @property
    def loss(self) -> Loss:
        """Loss of a fit that asks for no other."""

    inner_rate: ClassVar[float]  # first rate of inner steps on codes; suits the size of the losses

    def model(self, preset: str, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
        """The model of a preset and how it is fitted.

        Args:
            scenes: how many there are: bases that many scenes share are cheap, so more scenes get more.
            side: longest side of the pictures in pixels, where the data are sized; sets the finest level.

        Raises:
            InputError: an unknown preset.
        """

    def network_rate(self, generator: Any, scenes: int) -> float:
        """Peak rate of the networks of a generator's config."""

    def objective(
        self,
        data: SceneDataset,
        field: Field,
        config: TrainConfig,
        scenes: int,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        loss: Loss | None = None,
    ) -> Objective:
        """The objective of a fit of `scenes` scenes. `loss` replaces the task's; see `tasks.objective`."""

    def describe(self, data: SceneDataset) -> dict[str, Any]:
        """Facts about the pictures or frames of the data, as JSON, so that a run renders without its data."""

    def picture(
        self,
        bound: BoundField,
        camera: Camera | Window | None,
        size: tuple[int, int],
        channel: str = "rgb",
        background: float = 1.0,
        *,
        supersample: int | None = None,
        cells: int = CELLS,
        pause: Callable[[], None] | None = None,
    ) -> Tensor:
        """One scene as `[h w 3]` in [0, 1]. Not differentiable.

        Args:
            bound: one scene.
            camera: the camera, brought to `size`; without cameras the window that is shown, all when None.
            size: (height, width) in pixels.
            background: grey level behind the scene.
            supersample: a pixel is the mean of this number squared of rays or points; default: the task's.
            cells: along a side of the occupancy grid of views: fewer are computed faster.
            pause: called every few hundredths of a second; what it raises ends the picture.

        Raises:
            InputError: a channel that this kind cannot give.
            ValueError: several scenes, or no camera where there has to be one.
        """

    def render_rays(
        self,
        bound: BoundField,
        rays: Rays,
        *,
        normals: bool = False,
        cells: int = CELLS,
        pause: Callable[[], None] | None = None,
    ) -> Rendered:
        """Rays `[1 r 3]` of one scene, in blocks: `[1 r ...]`. Not differentiable. TypeError without cameras."""

    def measure(
        self,
        bound: BoundField,
        data: SceneDataset,
        scene: int,
        split: str,
        perceptual: Mapping[str, PictureMetric],
        note: Note = lambda line: None,
    ) -> dict[str, float]:
        """The metrics of one scene's field against scene number `scene` of the data; nan or inf: cannot be had.

        Args:
            perceptual: learned distances by name; "alex" gives the metric "lpips_alex".
            note: called with the reasons of missing values.

        Kinds with splits also take `each`, called as (number of the view in its split, its name, its metrics).
        """

    def pairs(
        self, bound: BoundField, data: SceneDataset, scene: int, split: str, numbers: Sequence[int]
    ) -> list[Pair]:
        """Pictures of one scene's field beside the truth, as `measure` compares them.

        Args:
            numbers: of the views in their split; kinds without splits choose their own.
        """

    def probe(self, data: SceneDataset, scene: int, pixels: int) -> Probe | None:
        """The mean squared error of colours at a fixed sample of `pixels` that are held out from fits, of which images
        hold nothing back; None where there are none."""

    def mesh(self, bound: BoundField, resolution: int = MESH_RESOLUTION) -> Mesh:
        """The surface of one scene in its frame, from `resolution` cells a side. InputError where there is none."""

    def morph(self, first: BoundField, second: BoundField) -> FieldMorph:
        """The way from one scene's field to another's, on which what they have in common moves. Takes seconds.

        Kinds without one are walked by codes alone.
        """

    def observe(
        self, data: SceneDataset, scenes: Tensor, config: ObservationConfig, generator: torch.Generator
    ) -> Tensor:
        """Observations of scenes `[s]` for an encoder: `[s m features]`."""

    def observed_features(self, config: ObservationConfig) -> int:
        """Features of an observation."""

    def layer_outputs(self, field: Any, weights: Weights, points: Tensor) -> dict[str, Tensor]:
        """Outputs of each layer before its activation, `[s n o]` by name; points `[s n d]` in [0, 1]."""

    def opacity(self, bound: BoundField, points: Tensor) -> Tensor | None:
        """Opacity of a sample at points `[s n d]`, `[s n]`; None for kinds that cannot be empty."""


# What tasks share ---------------------------------------------------------------------------------


def generator_of(preset: str, code: int) -> Generator:
    """Generator of a preset; `code` is the width of the hierarchical generator's.

    Raises:
        InputError: an unknown preset.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: wanted one of {', '.join(PRESETS)}")
    # The default is the best of those compared at equal bytes and minutes (NUMBERS.md, section Generators).
    generators: dict[str, Generator] = {"tiny": Modulation(), "default": Hierarchical(code), "faithful": Full()}
    return generators[preset]


def grid_of(dims: int, levels: int, log2_table: int, coarsest: int, finest: int, bases: int) -> HashGrid | FactoredGrid:
    """A hash grid with 2 features a level: shared by all scenes when `bases` is 0, else combined from bases."""
    finest = max(finest, coarsest)
    if bases == 0:
        return HashGrid(dims, levels, 2, log2_table, coarsest, finest)
    return FactoredGrid(dims, levels, 2, log2_table, coarsest, finest, bases=bases)


def first_reference(data: SceneDataset) -> Tensor | Mesh | Sequence[View]:
    """The reference of the first scene, from whichever split there is."""
    for split in ("test", "val"):
        try:
            return data.reference(0, split)
        except InputError:
            pass
    return data.reference(0, "train")


def require_one(bound: BoundField) -> None:
    """ValueError unless `bound` is one scene."""
    if bound.scenes != 1:
        raise ValueError(f"picture: got {bound.scenes} scenes, wanted one")


def require_camera(camera: Camera | Window | None, device: torch.device) -> Camera:
    """The camera on `device`; ValueError when it is none."""
    if not isinstance(camera, Camera):
        given = "no camera" if camera is None else "a window"
        raise ValueError(f"picture: got {given}, shapes and views need a camera")
    return camera.to(device)


def on_white(rgba: Tensor, behind: Tensor | None = None) -> Tensor:
    """Straight `[... 4]` over white, or over the colour `behind` `[... 3]` where that is not NaN: `[... 3]`."""
    clear = 1.0 - rgba[..., 3:]
    return rgba[..., :3] * rgba[..., 3:] + (clear if behind is None else clear * behind.nan_to_num(1.0))


def behind_views(views: Sequence[View], other: float = 1.0) -> Tensor:
    """Colours `[v 3]` over which views are compared: their own where alpha is a guess, else a grey, white."""
    return torch.stack([torch.full((3,), other) if view.behind is None else view.behind for view in views])


PICTURE_METRICS = (
    Metric("psnr", "psnr [dB]", "{:.2f}"),
    Metric("ssim", "ssim"),
    Metric("lpips_alex", "lpips alex", higher_is_better=False),
    Metric("lpips_vgg", "lpips vgg", higher_is_better=False),
)


def picture_metrics(
    pictures: Tensor,
    truth: Tensor,
    name: str,
    perceptual: Mapping[str, PictureMetric],
    note: Note,
    counting: Tensor | None = None,
) -> dict[str, float]:
    """Means over b of `picture_rows`."""
    rows = picture_rows(pictures, truth, name, perceptual, note, counting)
    return {key: float(values.mean()) for key, values in rows.items()}


def picture_rows(
    pictures: Tensor,
    truth: Tensor,
    name: str,
    perceptual: Mapping[str, PictureMetric],
    note: Note,
    counting: Tensor | None = None,
) -> dict[str, Tensor]:
    """`PICTURE_METRICS` of pictures `[b h w 3]`, clamped to [0, 1], against the truth: `[b]` each; nan: cannot be had.

    name: of the scene, for notes. counting: `[b h w]` bool, pixels that count, some of each picture; elsewhere the
    truth is taken for right, which ssim and lpips cannot tell from a perfect match.
    """
    pictures = pictures.clamp(0.0, 1.0)
    psnr = metrics.psnr(pictures, truth)
    if counting is not None:
        pictures = torch.where(counting[..., None], pictures, truth)
        share = counting.float().mean((1, 2))
        psnr = metrics.psnr(pictures, truth) + 10.0 * torch.log10(share)
    missing = torch.full((len(truth),), math.nan)
    values = {"psnr": psnr, "ssim": missing}
    if bool(psnr.isposinf().any()):
        note(f"{name}: equal to the truth, so its psnr is infinite: n/a")
    size = "x".join(map(str, truth.shape[1:3]))
    if min(truth.shape[1:3]) >= metrics.SSIM_WINDOW:
        values["ssim"] = metrics.ssim(pictures, truth)
    else:
        note(f"ssim: n/a, pictures of {size} do not hold its window of {metrics.SSIM_WINDOW} pixels")
    for net in ("alex", "vgg"):
        values[f"lpips_{net}"] = missing
        if net in perceptual:
            try:
                parts = zip(pictures.split(PICTURES), truth.split(PICTURES), strict=True)
                values[f"lpips_{net}"] = torch.cat([perceptual[net](a, b) for a, b in parts])
            except ValueError as error:  # too small for the trunk
                note(f"lpips_{net}: n/a, {error}")
    return values


def waves(x: Tensor) -> Tensor:
    """Places `[... d]` -> themselves and their sines and cosines, `[... d (1 + 2 FREQUENCIES)]`."""
    frequencies = 2.0 ** torch.arange(FREQUENCIES, device=x.device) * 0.5 * math.pi
    angles = (x[..., None] * frequencies).flatten(-2)
    return torch.cat((x, angles.sin(), angles.cos()), -1)


def mlp_outputs(prefix: str, x: Tensor, field: Any, weights: Weights) -> dict[str, Tensor]:
    """Outputs of each layer of an MLP before its activation, `[s n o]` by name; x `[s n i]`."""
    stack = layers(weights, prefix)
    return {f"{prefix}.{i}": batched_mlp(x, stack[: i + 1], field.activation) for i in range(len(stack))}
