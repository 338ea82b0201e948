"""Radiance: fields of density and colour in [-1, 1]^3, fitted to photographs along their rays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data import Mesh, Pixels, Points, SceneDataset, View, frames_of, is_unbounded, up_of
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, RadianceField
from hyperfields.hypernets import rate_of
from hyperfields.model import ModelConfig
from hyperfields.ops.devices import Precision
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.base import Rendered, on_background
from hyperfields.rendering.composition import Composition
from hyperfields.rendering.image import Window
from hyperfields.rendering.meshing import mesh_from_field, vertex_normals
from hyperfields.rendering.pictures import (
    CELLS,
    RAYS_PER_BLOCK,
    apply_colormap,
    camera_picture,
    render_rays,
    require_channel,
)
from hyperfields.rendering.seen import cells_at, looked_at, seen_parts
from hyperfields.rendering.surface import surface_normals
from hyperfields.rendering.volume import render_volume
from hyperfields.tasks import losses
from hyperfields.tasks.alignment import aligned
from hyperfields.tasks.base import (
    FREQUENCIES,
    MESH_RESOLUTION,
    PICTURE_METRICS,
    Each,
    Metric,
    Note,
    ObservationConfig,
    Pair,
    PictureMetric,
    Probe,
    behind_views,
    first_reference,
    generator_of,
    grid_of,
    mlp_outputs,
    on_white,
    picture_rows,
    require_camera,
    require_one,
    waves,
)
from hyperfields.tasks.captures import capture_model
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.morphs import FieldMorph, RadianceMorph
from hyperfields.tasks.objective import Loss, Objective, RayObjective
from hyperfields.tasks.photographs import PhotographConfig, fitted_colors
from hyperfields.weights import Weights

INSIDE = 0.5  # of the box: nearer to its middle no camera circles a scene
WIDEST = 0.5 * math.pi  # angle of pinholes that show scenes of fisheyes and panoramas
UPRIGHT = (0.0, 0.0, 1.0)
MESH_SAMPLES = 2.0  # of a ray, that are more opaque than clear in a mesh; with one, outlines lie within pictures
PROBED = 8  # test views that a curve of quality is measured on


class RadianceTask:
    """The task of families of photographed scenes; `tasks.base.Task` documents the members."""

    kind: ClassVar[str] = "views"
    field: ClassVar[type] = RadianceField
    batch: ClassVar[type[Points] | type[Pixels]] = Pixels
    box: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    channels: ClassVar[tuple[str, ...]] = ("rgb", "depth", "normals")
    metrics: ClassVar[tuple[Metric, ...]] = PICTURE_METRICS
    has_camera: ClassVar[bool] = True
    has_mesh: ClassVar[bool] = True
    has_splits: ClassVar[bool] = True
    sized: ClassVar[bool] = True
    unit: ClassVar[str] = "of a colour from 0 to 1"
    supersample: ClassVar[int] = 1
    preview_cells: ClassVar[int] = 80
    loss: Loss = losses.PixelLoss()
    inner_rate: ClassVar[float] = 5.0

    def model(self, preset: str, scenes: int, side: int, *, unbounded: bool = False) -> tuple[ModelConfig, TrainConfig]:
        """unbounded: the pictures show what is all round, so that the scenes live in contracted space."""
        generator = generator_of(preset, 32)
        if unbounded:
            return capture_model(generator, preset, scenes, side, self.network_rate(generator, scenes))
        # Few scenes have little to share and get a basis each and one for all; beyond 16, a fifth as many bases as
        # scenes, so that a scene costs about a quarter of what it costs alone.
        shared = 1 + (scenes if scenes <= 16 else min(max(scenes // 5, 6), 64))
        bases = {"tiny": 0, "default": shared, "faithful": 64}[preset]
        # Cells finer than the pixels fit the known views and spoil the others.
        field = RadianceField(grid_of(3, 8, 13, 8, min(side, 128), bases), step=0.025)
        if scenes == 1 and side > 128 and preset != "tiny":  # one large object: its own table, and nothing to share
            field = RadianceField(grid_of(3, 8, 17, 16, 256, 1), step=0.02, occupancy=64)
        samples = 2**11 * min(max(scenes, 16), 32)
        rate = self.network_rate(generator, scenes)
        return ModelConfig(field, generator, 64), TrainConfig(
            min(scenes, 32), samples, rate_grid=3e-2, rate_networks=rate
        )

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
        return RayObjective(data, field, config, scenes, loss or self.loss, device=device, precision=precision)

    def describe(self, data: SceneDataset) -> dict[str, Any]:
        views = first_reference(data)
        assert not isinstance(views, Tensor | Mesh)
        camera = views[0].camera
        position = camera.T_world_camera[:3, 3]
        up, frames = up_of(data), {name: list(frame) for name, frame in frames_of(data).items()}
        radius = float(position.norm())
        facts: dict[str, Any] = {
            "size": [camera.height, camera.width],
            "fov": min(2.0 * math.atan(0.5 * camera.width / camera.fx), WIDEST),
        }
        if radius > INSIDE:  # a camera in the middle of the scene says nothing about one that circles it
            sine = float(position @ torch.tensor(up) / position.norm())
            facts |= {"radius": radius, "elevation": math.asin(max(-1.0, min(1.0, sine)))}
        if is_unbounded(data):
            facts["unbounded"] = True
        return facts | ({} if up == UPRIGHT else {"up": list(up)}) | ({"frames": frames} if frames else {})

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
            _renderer(bound, cells, channel == "normals"),
            require_camera(camera, bound.device),
            size,
            channel,
            background,
            supersample=supersample or self.supersample,
            pause=pause,
        )

    @one_torch_thread()
    def render_rays(
        self,
        bound: BoundField,
        rays: Rays,
        *,
        normals: bool = False,
        cells: int = CELLS,
        pause: Callable[[], None] | None = None,
    ) -> Rendered:
        """Normals come from differences of the transmittance round the mean depth of each ray: smoother than those of
        the depth, and a few points a ray."""
        return render_rays(_renderer(bound, cells, normals), rays, pause=pause)

    def measure(
        self,
        bound: BoundField,
        data: SceneDataset,
        scene: int,
        split: str,
        perceptual: Mapping[str, PictureMetric],
        note: Note = lambda line: None,
        *,
        photographs: PhotographConfig | None = None,
        each: Each = lambda number, name, values: None,
    ) -> dict[str, float]:
        """photographs: what was learned of each training picture, and is now found of those that are measured."""
        views, number = data.reference(scene, split), 0
        assert not isinstance(views, Tensor | Mesh)
        if photographs is not None and photographs.poses:
            note(f"{data.names[scene]}: poses of the pictures were corrected before they were compared, as in the fit")
        if photographs is not None and photographs.appearance:
            note(f"{data.names[scene]}: right halves are compared, with colours fitted to the left halves")
        rows: list[tuple[int, dict[str, float]]] = []  # views, their means
        for part in _parts(views):
            first, number = number, number + len(part)
            pictures, truth, counting, _ = self._compared(bound, part, photographs)
            some = counting.flatten(1).any(1)
            if not bool(some.any()):
                continue
            where = None if bool(counting.all()) else counting[some]
            found = picture_rows(pictures[some], truth[some], data.names[scene], perceptual, note, counting=where)
            rows.append((int(some.sum()), {name: float(values.mean()) for name, values in found.items()}))
            for row, place in enumerate(some.nonzero().flatten().tolist()):
                each(first + place, part[place].name, {name: float(values[row]) for name, values in found.items()})
        if not rows:
            raise InputError(f"scene {data.names[scene]}: in no view of its split {split!r} a pixel counts")
        return {name: _mean([(count, row[name]) for count, row in rows]) for name in rows[0][1]}

    def pairs(
        self,
        bound: BoundField,
        data: SceneDataset,
        scene: int,
        split: str,
        numbers: Sequence[int],
        *,
        photographs: PhotographConfig | None = None,
    ) -> list[Pair]:
        views, pairs = data.reference(scene, split), []
        assert not isinstance(views, Tensor | Mesh)
        for number in numbers:
            pictures, truth, counting, rendered = self._compared(bound, [views[number]], photographs)
            depth = on_background(apply_colormap(rendered, "depth")).reshape(*truth.shape[1:2], -1, 3)
            depth = depth[:, -truth.shape[2] :].cpu()  # of right halves, where those are compared
            where = None if bool(counting.all()) else counting[0]
            pairs.append(Pair(truth[0], pictures[0].clamp(0.0, 1.0), depth, where))
        return pairs

    def probe(self, data: SceneDataset, scene: int, pixels: int) -> Probe | None:
        """Of up to `PROBED` held-out views, evenly spread, as their cameras are given."""
        if (split := held_out(data, scene)) is None:
            return None
        views = data.reference(scene, split)
        assert not isinstance(views, Tensor | Mesh)
        chosen = sorted({round(i * (len(views) - 1) / max(PROBED - 1, 1)) for i in range(min(PROBED, len(views)))})
        generator, parts = torch.Generator().manual_seed(0), []
        for view in (views[number] for number in chosen):
            rays, behind = view.camera.rays(), behind_views([view])
            truth = on_white(view.rgba, behind[0]).reshape(-1, 3)
            seen = rays.directions.isfinite().all(-1)
            known = (seen if view.mask is None else seen & view.mask.flatten()).nonzero().squeeze(1)
            if len(known):
                index = known[torch.randint(len(known), (pixels // len(chosen),), generator=generator)]
                backs = behind[0].expand(len(index), 3)
                parts.append((rays.origins[index], rays.directions[index], truth[index], backs))
        if not parts:
            return None
        origins, directions, truth, behind = (torch.cat(values) for values in zip(*parts, strict=True))

        def error(bound: BoundField) -> float:
            rays = Rays(origins[None].to(bound.device), directions[None].to(bound.device))
            picture = on_background(self.render_rays(bound, rays), behind.to(bound.device))[0].clamp(0.0, 1.0).cpu()
            return float((picture.double() - truth).square().mean())

        return error

    def _compared(
        self, bound: BoundField, views: list[View], photographs: PhotographConfig | None
    ) -> tuple[Tensor, Tensor, Tensor, Rendered]:
        """Pictures and truth `[v h w 3]` of views of one size, where they count `[v h w]` bool, and all their rays."""
        if photographs is not None and photographs.poses:
            views = [view._replace(camera=camera) for view, camera in zip(views, aligned(bound, views), strict=True)]
        rays = [view.camera.to(bound.device).rays() for view in views]
        together = Rays(*(torch.cat(parts)[None] for parts in zip(*rays, strict=True)))
        behind = behind_views(views)[:, None, None]
        truth = on_white(torch.stack([view.rgba for view in views]), behind)
        rendered = self.render_rays(bound, together)
        backs = behind.expand(truth.shape).reshape(1, -1, 3).to(bound.device)
        pictures = on_background(rendered, backs).reshape(truth.shape).cpu()
        seen = together.directions.isfinite().all(-1).reshape(truth.shape[:3]).cpu()
        masks = [torch.ones(truth.shape[1:3], dtype=torch.bool) if v.mask is None else v.mask for v in views]
        counting = seen & torch.stack(masks)
        if photographs is not None and photographs.appearance:
            pictures = torch.stack([fitted_colors(*pair) for pair in zip(pictures, truth, strict=True)])
            right = slice(truth.shape[2] // 2, None)
            return pictures[:, :, right], truth[:, :, right], counting[:, :, right], rendered
        return pictures, truth, counting, rendered

    def mesh(self, bound: BoundField, resolution: int = MESH_RESOLUTION, *, cameras: Sequence[Camera] = ()) -> Mesh:
        """The surface in the scene box where two samples become more opaque than clear, with its colours.

        cameras: of pictures of the scene; places that none of them has in its picture are clear, and parts of the
            surface that none of them sees are left out.
        """
        step, known = bound.field.step, looked_at(cameras).to(bound.device) if cameras else None

        def clearness(x: Tensor) -> Tensor:
            clear = torch.exp(-MESH_SAMPLES * step * bound.density(x)) - 0.5
            return clear if known is None else clear.where(cells_at(known, x)[..., None], 0.5)

        mesh = mesh_from_field(clearness, resolution=resolution, safety=math.inf, device=bound.device)

        def depth(camera: Camera) -> Tensor:
            rays = camera.to(bound.device).rays()
            shown = self.render_rays(bound, Rays(*(part[None] for part in rays)))
            ends = shown.depth.where(shown.alpha > 0.5, math.inf)
            return ends.reshape(camera.height, camera.width)

        away = 4.0 / resolution
        if cameras and len(mesh.faces):
            mesh = seen_parts(mesh, cameras, depth, 2.0 * step + away)
        return self._colored(bound, mesh, away) if len(mesh.faces) else mesh

    @torch.no_grad()
    def _colored(self, bound: BoundField, mesh: Mesh, away: float) -> Mesh:
        """A mesh with the colours that rays see which come straight down onto its vertices from so far away."""
        normals, vertices = (part.to(bound.device) for part in (vertex_normals(mesh), mesh.vertices))
        down = torch.where(normals.any(-1, keepdim=True), -normals, normals.new_tensor([0.0, 0.0, -1.0]))
        shown = self.render_rays(bound, Rays((vertices - away * down)[None], down[None]))
        _, there = bound(vertices[None], down[None])  # for rays that meet nothing
        colors = torch.where(shown.alpha[..., None] > 0.5, shown.rgb / shown.alpha[..., None], there)
        return mesh._replace(colors=colors[0].clamp(0.0, 1.0).float().cpu())

    def morph(self, first: BoundField, second: BoundField) -> FieldMorph:
        return RadianceMorph(first, second)

    def observe(
        self, data: SceneDataset, scenes: Tensor, config: ObservationConfig, generator: torch.Generator
    ) -> Tensor:
        """Rays as Pluecker coordinates with their colours (premultiplied) and opacity.

        Also where alpha is a guess: they are what an encoder reads and not what it is measured by, and stay what they
        are whatever colour lies behind.
        """
        batch = data.batch(scenes, config.points, generator)
        assert isinstance(batch, Pixels)
        origins, directions = batch.rays
        moment = torch.linalg.cross(origins, directions)
        color = batch.rgba[..., :3] * batch.rgba[..., 3:]
        return torch.cat((waves(directions), waves(moment), color, batch.rgba[..., 3:]), -1)

    def observed_features(self, config: ObservationConfig) -> int:
        return 6 * (1 + 2 * FREQUENCIES) + 4

    def layer_outputs(self, field: Any, weights: Weights, points: Tensor) -> dict[str, Tensor]:
        outputs = mlp_outputs("density", field.encoding(points, weights), field, weights)
        geometry = list(outputs.values())[-1][..., 1:]
        directions = field.directions(torch.nn.functional.normalize(points - 0.5, dim=-1))
        return outputs | mlp_outputs("color", torch.cat((geometry, directions), -1), field, weights)

    def opacity(self, bound: BoundField, points: Tensor) -> Tensor | None:
        return 1.0 - torch.exp(-bound.cell_density(points) * bound.field.step).squeeze(-1)


def held_out(data: SceneDataset, scene: int = 0) -> str | None:
    """The split of pictures to measure a scene by: "test", else "val"; None where it has neither."""
    for split in ("test", "val"):
        with contextlib.suppress(InputError):
            data.reference(scene, split)
            return split
    return None


def _parts(views: Sequence[View]) -> Iterator[list[View]]:
    """Views of one size that follow one another, as many at a time as are rendered in a block."""
    part: list[View] = []
    for view in views:
        area = view.rgba.shape[0] * view.rgba.shape[1]
        if part and (view.rgba.shape != part[0].rgba.shape or area * (len(part) + 1) > RAYS_PER_BLOCK):
            yield part
            part = []
        part.append(view)
    if part:
        yield part


def _mean(values: Sequence[tuple[int, float]]) -> float:
    """The mean of means, of those that are not NaN."""
    known = [(count, value) for count, value in values if not math.isnan(value)]
    return sum(count * value for count, value in known) / sum(count for count, _ in known) if known else math.nan


def _renderer(bound: BoundField | Composition, cells: int, normals: bool) -> Callable[[Rays], Rendered]:
    """Rays `[1 r 3]` of one scene -> what they see; `cells` a side of the grid that skips empty space."""
    if isinstance(bound, Composition):
        if normals:
            raise InputError("channel 'normals': several scenes together give rgb, depth")
        return lambda rays: bound.render(rays, cells)
    step = bound.field.step

    def transmittance_proxy(x: Tensor, counts: Tensor) -> Tensor:  # grows outwards, as a distance does
        return torch.exp(-step * bound.density(x, counts))

    def render(rays: Rays) -> Rendered:
        rendered = render_volume(
            bound, rays, bound.occupancy(cells), step=step, space=bound.field.space, visible=bound.visible_samples
        )
        if not normals:
            return rendered
        hit = rendered.depth[0].isfinite().nonzero().squeeze(1)
        x = torch.addcmul(rays.origins[0, hit], rendered.depth[0, hit, None], rays.directions[0, hit])
        unit = torch.zeros_like(rays.origins)
        counts = torch.tensor([len(hit)], device=x.device)
        unit[0, hit] = surface_normals(transmittance_proxy, x, counts, reach=step)
        return rendered._replace(normals=unit)

    return render


RADIANCE = RadianceTask()
