"""Images: fields of colour on [0, 1]^2, fitted to pixels at random points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfields.cameras import Camera, Rays
from hyperfields.data import Mesh, Pixels, Points, SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, ImageField
from hyperfields.hypernets import rate_of
from hyperfields.model import ModelConfig
from hyperfields.ops.devices import Precision
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.enlarge import MOST, STEPS, enlarged
from hyperfields.rendering.image import Window, cut_out, part_of, sample_image, sample_window
from hyperfields.rendering.pictures import CELLS, pixel_means, require_channel
from hyperfields.tasks import losses
from hyperfields.tasks.base import (
    FREQUENCIES,
    MESH_RESOLUTION,
    PICTURE_METRICS,
    Metric,
    Note,
    ObservationConfig,
    Pair,
    PictureMetric,
    Probe,
    first_reference,
    generator_of,
    grid_of,
    mlp_outputs,
    picture_metrics,
    require_one,
    waves,
)
from hyperfields.tasks.between import color_error
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.metrics import SPECK, specks
from hyperfields.tasks.morphs import FieldMorph, PictureMorph
from hyperfields.tasks.objective import Loss, Objective, PointObjective
from hyperfields.weights import Weights

SPECKS = Metric(
    "specks", "specks", "{:.2f}", False,
    f"specks: of a thousand pixels, those further than {SPECK:g} beyond the colours of the truth around them",
)  # fmt: skip
MANY = 256  # images from which a family has larger codes and more bases


class ImageTask:
    """The task of image families; `tasks.base.Task` documents the members."""

    kind: ClassVar[str] = "images"
    field: ClassVar[type] = ImageField
    batch: ClassVar[type[Points] | type[Pixels]] = Points
    box: ClassVar[tuple[float, float]] = (0.0, 1.0)
    channels: ClassVar[tuple[str, ...]] = ("rgb",)
    metrics: ClassVar[tuple[Metric, ...]] = (*PICTURE_METRICS, SPECKS)
    has_camera: ClassVar[bool] = False
    has_mesh: ClassVar[bool] = False
    has_splits: ClassVar[bool] = False
    sized: ClassVar[bool] = True
    unit: ClassVar[str] = "of a colour from 0 to 1"
    supersample: ClassVar[int] = 1
    preview_cells: ClassVar[int] = 0
    loss: Loss = losses.ColorLoss()
    inner_rate: ClassVar[float] = 3.0

    def model(self, preset: str, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
        generator = generator_of(preset, 24)
        many = scenes >= MANY
        bases = {"tiny": 0, "default": 65 if many else 15, "faithful": 128}[preset]
        config = TrainConfig(min(scenes, 128), 2**15, rate_networks=self.network_rate(generator, scenes))
        return ModelConfig(ImageField(grid_of(2, 6, 12, 5, side, bases)), generator, 192 if many else 96), config

    def network_rate(self, generator: Any, scenes: int) -> float:
        # A step of a linear head grows with the size of the code that it reads, and many images get larger codes.
        base = 1.25e-3 if scenes >= MANY else 5e-3
        return base * rate_of(generator, self.kind)

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
        return PointObjective(data, field, config, loss or self.loss, color_error, device=device, precision=precision)

    def describe(self, data: SceneDataset) -> dict[str, Any]:
        picture = first_reference(data)
        assert isinstance(picture, Tensor)
        return {"size": [picture.shape[0], picture.shape[1]]}

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
        require_one(bound)
        require_channel(channel, self.channels)
        window = camera if isinstance(camera, Window) else Window()  # a camera that all kinds are given is passed over
        per_pixel = supersample or self.supersample
        fine = size[0] * per_pixel, size[1] * per_pixel
        image = drawn(bound, window, fine, background, quick=cells < CELLS, pause=pause)
        return pixel_means(image.clamp(0.0, 1.0), per_pixel)

    def render_rays(
        self,
        bound: BoundField,
        rays: Rays,
        *,
        normals: bool = False,
        cells: int = CELLS,
        pause: Callable[[], None] | None = None,
    ) -> Rendered:
        raise TypeError("render_rays: images are not seen along rays; ask `picture`")

    def measure(
        self,
        bound: BoundField,
        data: SceneDataset,
        scene: int,
        split: str,
        perceptual: Mapping[str, PictureMetric],
        note: Note = lambda line: None,
    ) -> dict[str, float]:
        truth = data.reference(scene, split)
        assert isinstance(truth, Tensor)
        picture = drawn(bound, Window(), (truth.shape[0], truth.shape[1]))[None].cpu()
        values = picture_metrics(picture, truth[None], data.names[scene], perceptual, note)
        return {**values, SPECKS.name: float(specks(picture.clamp(0.0, 1.0), truth[None]))}

    def pairs(
        self, bound: BoundField, data: SceneDataset, scene: int, split: str, numbers: Sequence[int]
    ) -> list[Pair]:
        truth = data.reference(scene, split)
        if not isinstance(truth, Tensor) or truth.dim() != 3:  # of a kind of your own
            return []
        picture = drawn(bound, Window(), (truth.shape[0], truth.shape[1]))
        return [Pair(truth, picture.clamp(0.0, 1.0).cpu())]

    def probe(self, data: SceneDataset, scene: int, pixels: int) -> Probe | None:
        return None

    def mesh(self, bound: BoundField, resolution: int = MESH_RESOLUTION) -> Mesh:
        raise InputError("images have no surface; meshes come from shapes and views")

    def morph(self, first: BoundField, second: BoundField) -> FieldMorph:
        if first.field.dims != 2:  # of a kind that was made from this one
            raise InputError(f"morph: nothing moves between {self.kind}; walk by their codes: --morph codes")
        return PictureMorph(first, second)

    def observe(
        self, data: SceneDataset, scenes: Tensor, config: ObservationConfig, generator: torch.Generator
    ) -> Tensor:
        """Patches of whole pictures with their places; nothing is random.

        Raises:
            InputError: pictures of several sizes, or smaller than a patch.
        """
        side, pictures = config.patch, []
        for scene in scenes.tolist():
            picture = data.reference(scene)
            assert isinstance(picture, Tensor)
            pictures.append(picture)
        if len({tuple(picture.shape) for picture in pictures}) > 1 or min(pictures[0].shape[:2]) < side:
            sizes = sorted({f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures})
            raise InputError(f"pictures of {', '.join(sizes)}: wanted one size, at least {side}x{side}; give --size")
        whole = torch.stack(pictures).permute(0, 3, 1, 2).float()
        rows, columns = whole.shape[2] // side, whole.shape[3] // side
        patches = nn.functional.unfold(whole[..., : rows * side, : columns * side], side, stride=side).mT - 0.5
        axes = (torch.linspace(-1.0, 1.0, count, device=whole.device) for count in (rows, columns))
        y, x = torch.meshgrid(*axes, indexing="ij")
        place = waves(torch.stack((x, y), -1).reshape(1, -1, 2)).expand(len(scenes), -1, -1)
        return torch.cat((2.0 * patches, place), -1)

    def observed_features(self, config: ObservationConfig) -> int:
        return 3 * config.patch**2 + 2 * (1 + 2 * FREQUENCIES)

    def layer_outputs(self, field: Any, weights: Weights, points: Tensor) -> dict[str, Tensor]:
        return mlp_outputs("mlp", field.encoding(points, weights), field, weights)

    def opacity(self, bound: BoundField, points: Tensor) -> Tensor | None:
        return None


def drawn(
    bound: BoundField,
    window: Window,
    size: tuple[int, int],
    background: float = 1.0,
    *,
    quick: bool = False,
    pause: Callable[[], None] | None = None,
) -> Tensor:
    """A part of one image as `[*size c]`: the field at the centres of pixels. Where these are not those that it was
    fitted to, the picture of those in another size: means over areas, or enlarged.

    quick: a less sharp enlargement, and no means.
    """
    fitted: tuple[int, int] | None = getattr(bound.field, "pixels", None)
    extent = window.bottom - window.top, window.right - window.left
    pairs = zip(size, extent, fitted or size, strict=True)
    scale = max(side / max(part * pixels, 1e-9) for side, part, pixels in pairs)
    whole = window == Window()
    as_it_is = (whole and size == fitted) or (scale <= 1.0 and (quick or not whole))
    if fitted is None or as_it_is:
        if whole and pause is None:
            return sample_image(bound, 1, *size, bound.device)[0]
        return sample_window(bound, window, *size, background, device=bound.device, pause=pause)
    picture = sample_image(bound, 1, *fitted, bound.device)[0].clamp(0.0, 1.0)
    steps = 0 if quick else STEPS
    if whole:
        return enlarged(picture, size, steps=steps, pause=pause)
    near, place = part_of(picture, window)
    factor = min(math.ceil(scale), MOST)
    fine = enlarged(near, (factor * near.shape[0], factor * near.shape[1]), steps=steps, pause=pause)
    return cut_out(fine, place, size, background)


IMAGES = ImageTask()
