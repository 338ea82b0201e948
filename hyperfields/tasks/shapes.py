"""Shapes: fields of signed distance in [-1, 1]^3, fitted to distances at points round their surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays, orbit
from hyperfields.data import Mesh, Pixels, Points, SceneDataset, known_frames
from hyperfields.fields import BoundField, Field, SDFField
from hyperfields.hypernets import rate_of
from hyperfields.model import ModelConfig
from hyperfields.ops.devices import Precision
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.image import Window
from hyperfields.rendering.meshing import mesh_from_field
from hyperfields.rendering.pictures import CELLS, camera_picture, render_rays, require_channel
from hyperfields.rendering.surface import trace_surface
from hyperfields.tasks import losses
from hyperfields.tasks.base import (
    FREQUENCIES,
    MESH_RESOLUTION,
    Metric,
    Note,
    ObservationConfig,
    Pair,
    PictureMetric,
    Probe,
    generator_of,
    grid_of,
    mlp_outputs,
    require_camera,
    require_one,
    waves,
)
from hyperfields.tasks.between import distance_error
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.mesh_picture import mesh_picture
from hyperfields.tasks.metrics import shape_metrics
from hyperfields.tasks.morphs import FieldMorph, ShapeMorph
from hyperfields.tasks.objective import Loss, Objective, PointObjective
from hyperfields.weights import Weights

FAR = 0.3  # a distance that an encoder sees as far, scene units
SHOWN = 320  # pixels a side of a shape beside the truth
SIDE = "side: the longest side of the truth's bounding box"


class ShapeTask:
    """The task of families of meshes; `tasks.base.Task` documents the members."""

    kind: ClassVar[str] = "shapes"
    field: ClassVar[type] = SDFField
    batch: ClassVar[type[Points] | type[Pixels]] = Points
    box: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    channels: ClassVar[tuple[str, ...]] = ("rgb", "depth", "normals")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("iou", "iou"),
        Metric("surface_distance", "surface distance [side]", "{:.5f}", higher_is_better=False, legend=SIDE),
        Metric("chamfer", "chamfer [side^2]", "{:.3g}", higher_is_better=False),
        Metric("f_score", "f-score at 1 %"),
        Metric("normal_consistency", "normal consistency"),
    )
    has_camera: ClassVar[bool] = True
    has_mesh: ClassVar[bool] = True
    has_splits: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    unit: ClassVar[str] = "in the scene's units"
    supersample: ClassVar[int] = 2  # surfaces have edges that are thinner than a pixel
    preview_cells: ClassVar[int] = 112
    loss: Loss = losses.DistanceLoss()
    inner_rate: ClassVar[float] = 0.3

    def model(self, preset: str, scenes: int, side: int) -> tuple[ModelConfig, TrainConfig]:
        generator = generator_of(preset, 32)
        bases = {"tiny": 0, "default": 17, "faithful": 64}[preset]
        config = TrainConfig(min(scenes, 32), 2**16, rate_networks=self.network_rate(generator, scenes))
        return ModelConfig(SDFField(grid_of(3, 6, 14, 6, 62, bases)), generator, 64), config

    def network_rate(self, generator: Any, scenes: int) -> float:
        return 5e-3 * rate_of(generator, self.kind)

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
        return PointObjective(
            data, field, config, loss or self.loss, distance_error, device=device, precision=precision
        )

    def describe(self, data: SceneDataset) -> dict[str, Any]:
        """Frames of the scenes in their files; none of data without reference meshes (NotImplementedError)."""
        known = known_frames(data)
        try:
            if len(known) == len(data.names):  # told without reading a mesh
                frames = {name: list(frame) for name, frame in known.items()}
                first = data.reference(0)
            else:
                meshes = {name: data.reference(scene) for scene, name in enumerate(data.names)}
                frames = {name: [mesh.scale, *mesh.center] for name, mesh in meshes.items() if isinstance(mesh, Mesh)}
                first = next(iter(meshes.values()))
        except NotImplementedError:
            return {"frames": {}}
        up = up_of_mesh(first)
        return {"frames": frames, **({} if up is None else {"up": up})}

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
        return camera_picture(
            lambda rays: trace_surface(bound, rays),
            require_camera(camera, bound.device),
            size,
            channel,
            background,
            supersample=supersample or self.supersample,
            pause=pause,
        )

    def render_rays(
        self,
        bound: BoundField,
        rays: Rays,
        *,
        normals: bool = False,
        cells: int = CELLS,
        pause: Callable[[], None] | None = None,
    ) -> Rendered:
        return render_rays(lambda block: trace_surface(bound, block), rays, pause=pause)

    def measure(
        self,
        bound: BoundField,
        data: SceneDataset,
        scene: int,
        split: str,
        perceptual: Mapping[str, PictureMetric],
        note: Note = lambda line: None,
    ) -> dict[str, float]:
        truth = data.reference(scene)
        assert isinstance(truth, Mesh)
        values = shape_metrics(self.mesh(bound), truth)
        if values["surface_distance"] == math.inf:
            name = data.names[scene]
            note(f"{name}: the field has no surface in the box: iou and f_score are 0, the others n/a")
        return values

    def pairs(
        self, bound: BoundField, data: SceneDataset, scene: int, split: str, numbers: Sequence[int]
    ) -> list[Pair]:
        """From both sides."""
        truth, pairs = data.reference(scene), []
        assert isinstance(truth, Mesh)
        size = (SHOWN, SHOWN)
        for camera in orbit(2, radius=4.7, elevation=math.radians(25.0), up=truth.up, start=math.radians(-135.0),
                            height=SHOWN, width=SHOWN):  # fmt: skip
            picture, depth = (self.picture(bound, camera, size, channel).cpu() for channel in ("rgb", "depth"))
            shown = mesh_picture(truth, camera, size, supersample=self.supersample)
            pairs.append(Pair(shown, picture, depth))
        return pairs

    def probe(self, data: SceneDataset, scene: int, pixels: int) -> Probe | None:
        return None

    def mesh(self, bound: BoundField, resolution: int = MESH_RESOLUTION) -> Mesh:
        return mesh_from_field(bound, resolution=resolution, device=bound.device)

    def morph(self, first: BoundField, second: BoundField) -> FieldMorph:
        return ShapeMorph(first, second)

    def observe(
        self, data: SceneDataset, scenes: Tensor, config: ObservationConfig, generator: torch.Generator
    ) -> Tensor:
        """Points of which the first are centres; each is observed with its nearest ones, relative to it."""
        batch = data.batch(scenes, config.points * config.near // 2, generator)
        assert isinstance(batch, Points)
        centers = batch.x[:, : config.points]
        near = torch.cdist(centers, batch.x).topk(config.near, largest=False).indices  # [s m near]
        scene = torch.arange(len(batch.x), device=near.device)[:, None, None]
        offsets = (batch.x[scene, near] - centers[:, :, None]).flatten(2)
        distances = (batch.target[scene, near] / FAR).clamp(-2.0, 2.0).flatten(2)
        return torch.cat((waves(centers), 4.0 * offsets, distances), -1)

    def observed_features(self, config: ObservationConfig) -> int:
        return 3 * (1 + 2 * FREQUENCIES) + 4 * config.near

    def layer_outputs(self, field: Any, weights: Weights, points: Tensor) -> dict[str, Tensor]:
        return mlp_outputs("mlp", field.encoding(points, weights), field, weights)

    def opacity(self, bound: BoundField, points: Tensor) -> Tensor | None:
        return None


def up_of_mesh(mesh: Any) -> list[float] | None:
    """The direction that is up in pictures of a mesh; None where that is +Z, as usual."""
    return list(mesh.up) if isinstance(mesh, Mesh) and mesh.up != (0.0, 0.0, 1.0) else None


SHAPES = ShapeTask()
