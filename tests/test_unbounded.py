"""Scenes without walls: renderers, grids, fits and exports in contracted space."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hyperfields import cli, ops
from hyperfields.cameras import Camera, Rays, look_at, orbit
from hyperfields.data import Views
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, HashGrid, RadianceField
from hyperfields.hypernets import LowRank
from hyperfields.model import ModelConfig
from hyperfields.rendering.occupancy import occupancy_grid
from hyperfields.rendering.volume import render_volume
from hyperfields.runs.run import load_run
from hyperfields.runs.tcnn import write_tcnn
from hyperfields.tasks import TrainConfig, preset
from hyperfields.tasks.losses import PixelLoss
from hyperfields.training.fit import fit

FAR = 20.0
SPACE = ops.Contracted(near=0.0)


def wall(x: Tensor, d: Tensor, counts: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing before the plane z = FAR, opaque beyond, painted by the direction from the origin."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    return 1e3 * (x[:, 2:] > FAR).to(x), 0.5 + 0.5 * unit


def ball(x: Tensor, d: Tensor, counts: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return 6.0 * (x.norm(dim=-1, keepdim=True) < 0.7).to(x), torch.full_like(x, 0.25)


def full(size: int = 4) -> Tensor:
    return torch.ones(1, size, size, size, dtype=torch.bool)


def rays_from(origin: tuple[float, float, float], *towards: tuple[float, float, float]) -> Rays:
    directions = torch.nn.functional.normalize(torch.tensor([towards], dtype=torch.float64), dim=-1)
    return Rays(torch.tensor(origin, dtype=torch.float64).expand_as(directions).contiguous(), directions)


# Rendering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [True, False])
def test_a_far_wall_has_its_colour_and_its_distance_to_a_sample(gradients: bool) -> None:
    rays = rays_from((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.3, -0.2, 1.0), (-1.0, 0.5, 1.0))
    with torch.set_grad_enabled(gradients):
        seen = render_volume(wall, rays, full(), step=0.002, space=SPACE)
    torch.testing.assert_close(seen.alpha, torch.ones(1, 3, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(seen.rgb, 0.5 + 0.5 * rays.directions, rtol=0, atol=2e-3)
    distance = FAR / rays.directions[..., 2]
    length = 0.002 * distance.square()  # of a sample out there
    assert bool(((seen.depth - distance).abs() < 1.5 * length).all())


def test_what_is_in_the_box_is_as_in_the_box() -> None:
    rays = rays_from((-0.9, 0.1, 0.0), (1.0, 0.0, 0.0), (1.0, 0.2, -0.1), (1.0, 1.5, 0.0))
    inside, all_round = (render_volume(ball, rays, full(), step=0.001, space=space) for space in (ops.BOX, SPACE))
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(all_round, name), getattr(inside, name), rtol=0, atol=4e-3)
    assert float(inside.alpha.min()) < 0.9 < float(inside.alpha.max())


def test_nothing_is_seen_before_the_near_distance() -> None:
    rays = rays_from((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    seen = render_volume(ball, rays, full(), step=0.001, space=ops.Contracted(near=0.3))
    assert float(seen.alpha) == pytest.approx(1.0 - math.exp(-6.0 * 0.4), abs=5e-3)


def test_cells_cover_all_of_space() -> None:
    def beyond(y: Tensor, counts: Tensor) -> Tensor:
        """Dense from ten units on: in the grid's cube beyond 0.5 (2 - 1/10)."""
        return 100.0 * (SPACE.out_of(y).abs().amax(-1, keepdim=True) > 10.0).to(y)

    cells = occupancy_grid(beyond, 1, 64, step=0.02)[0]
    assert bool(cells[0].all())
    assert bool(cells[:, 63].all())
    assert not bool(cells[4:60, 4:60, 4:60].any())  # 0.95 is in cell 62; a cell next to it is kept
    assert 0.1 < float(cells.float().mean()) < 0.4


# Fields -------------------------------------------------------------------------------------------


def field(space: ops.Space = SPACE) -> tuple[RadianceField, BoundField]:
    made = RadianceField(HashGrid(3, 3, 2, 8, 4, 16), hidden=(8,), geometry=3, color_hidden=(8,), space=space, step=0.1)
    torch.manual_seed(0)
    weights = {name: entry.initial()[None] for name, entry in made.spec.items()}
    return made, BoundField(made, weights, 1)


def test_a_field_contracts_its_points_and_scales_its_density() -> None:
    made, bound = field()
    boxed = dataclasses.replace(made, space=ops.BOX)
    x = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)) * 3.0
    d = torch.nn.functional.normalize(torch.ones(1, 50, 3), dim=-1)
    density, rgb = bound(x, d)
    inner, same = boxed(bound.weights, SPACE.into(x), d)
    torch.testing.assert_close(density, inner * SPACE.density_scale(x))
    torch.testing.assert_close(rgb, same)
    torch.testing.assert_close(bound.density(x), density, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(bound.cell_density(SPACE.into(x)), inner, rtol=1e-5, atol=1e-9)
    assert torch.equal(
        boxed.density(bound.weights, 0.3 * SPACE.into(x)), boxed.cell_density(bound.weights, 0.3 * SPACE.into(x))
    )


def test_the_kernel_and_the_waves_render_the_same_field() -> None:
    _, bound = field(ops.Contracted(near=0.1))
    rays = Rays(*(part[None] for part in orbit(1, radius=2.0, height=6, width=6)[0].rays()))
    cells = bound.occupancy(8)
    with torch.no_grad():
        settings = {"step": bound.field.step, "space": bound.field.space}
        fast = render_volume(bound, rays, cells, visible=bound.visible_samples, **settings)
        waves = render_volume(bound, rays, cells, **settings)
    torch.testing.assert_close(fast.rgb, waves.rgb, rtol=0, atol=2e-3)
    assert float(fast.alpha.mean()) > 0.1


def test_tinycudann_cannot_have_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format tcnn: this field lives in contracted space"):
        write_tcnn(tmp_path / "a.safetensors", field()[1], {})


# Fits ---------------------------------------------------------------------------------------------


def room(count: int = 6, side: int = 16) -> Views:
    """Pictures from within of an infinite sky, coloured by direction."""
    cameras, pictures = [], []
    for k in range(count):
        angle = 2.0 * math.pi * k / count
        place = torch.tensor([0.3 * math.cos(angle), 0.3 * math.sin(angle), 0.0])
        pose = look_at(place, place + torch.tensor([math.cos(angle), math.sin(angle), 0.1]))
        camera = Camera(pose, 0.5 * side, 0.5 * side, 0.5 * side, 0.5 * side, side, side)
        d = camera.rays().directions.reshape(side, side, 3)
        cameras.append(camera)
        pictures.append(torch.cat((0.5 + 0.4 * d, torch.ones(side, side, 1)), -1))
    return Views(cameras, torch.stack(pictures), box=[(1.0, 0.0, 0.0, 0.0)])


def recipe(**changes: object) -> dict[str, object]:
    made = RadianceField(
        HashGrid(3, 4, 2, 10, 4, 16), hidden=(16,), geometry=7, color_hidden=(16,), space=ops.Contracted(), step=0.1,
        occupancy=16,
    )  # fmt: skip
    train = TrainConfig(
        1, 2**11, rate_grid=2e-2, loss=PixelLoss(background_opacity_l1=0.0, distortion=0.01), near_gradients=0.5
    )
    model = ModelConfig(made, LowRank(4), 4)
    return {"model": model, "train": dataclasses.replace(train, **changes)}  # type: ignore[arg-type]


def test_a_sky_is_fitted_and_its_run_renders_and_resumes(tmp_path: Path) -> None:
    data = room()
    settings = {"space": "contracted", "refine_poses": True, "appearance": True, "progress": False, **recipe()}
    run = fit(data, tmp_path / "run", steps=150, **settings)  # type: ignore[arg-type]
    bound, view = run.bind("0"), data.reference(0, "train")[0]
    with torch.no_grad():
        picture = run.task.picture(bound, view.camera, (16, 16))
    assert float((picture - view.rgba[..., :3]).square().mean()) < 2e-2  # a box would show nothing at all
    loaded = load_run(tmp_path / "run")
    assert loaded.config.fit.capture.refine_poses
    for name, shape in (("poses", (6, 3, 4)), ("appearance", (6, 12))):
        assert loaded.photographs[name].shape == shape
        assert torch.equal(loaded.photographs[name], run.photographs[name])
        assert float(loaded.photographs[name].std(0).max()) > 0.0
    report = run.task.measure(bound, data, 0, "train", {}, photographs=loaded.config.train.photographs)
    assert report["psnr"] > 20.0


def test_a_fit_goes_on_exactly_with_poses_and_colours(tmp_path: Path) -> None:
    settings = {"refine_poses": True, "appearance": True, "progress": False, **recipe()}
    data = room()
    whole = fit(data, steps=12, **settings)  # type: ignore[arg-type]
    from hyperfields.runs.config import FitSettings
    from hyperfields.tasks.captures import CaptureSettings
    from hyperfields.training.fit import Fit

    capture = CaptureSettings(refine_poses=True, appearance=True)
    parts = recipe()

    def fitting(resume: bool) -> Fit:
        return Fit(data, tmp_path / "run", FitSettings(steps=12, capture=capture), resume=resume, **parts)  # type: ignore[arg-type]

    class Enough(KeyboardInterrupt):
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 5:
            raise Enough

    with pytest.raises(KeyboardInterrupt):
        fitting(False).run(stop)
    again = fitting(True).run()
    assert torch.equal(again.photographs["poses"], whole.photographs["poses"])
    assert torch.equal(again.photographs["appearance"], whole.photographs["appearance"])


def test_presets_of_captures() -> None:
    for scenes in (1, 8, 100):
        for name in ("tiny", "default", "faithful"):
            model, train = preset(name, "views", scenes, 480, unbounded=True)
            assert model.field.space.contracted
            assert train.scenes <= scenes
            assert not preset(name, "views", scenes, 480)[0].field.space.contracted


def test_pictures_alone_are_refused() -> None:
    from hyperfields.data import Images

    with pytest.raises(InputError, match="--appearance: of photographs with cameras, but the family holds images"):
        fit(Images(torch.rand(2, 8, 8, 3)), steps=1, appearance=True)
    with pytest.raises(InputError, match="--individually: learns nothing of single pictures"):
        fit(room(), steps=1, individually=True, refine_poses=True, progress=False)


# Cameras ------------------------------------------------------------------------------------------


def test_cameras_are_exported_in_the_coordinates_of_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "yard"
    folder.mkdir()
    frames = []
    for number, camera in enumerate(orbit(5, radius=3.0, height=12, width=10)):
        noise = np.random.default_rng(number).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        pose = camera.T_world_camera.double().numpy() * np.array([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = pose[:3, 3] * 7.0 + [10.0, 20.0, 30.0]
        frames.append({"file_path": f"{number}.png", "transform_matrix": pose.tolist()})
    lens = {
        "fl_x": 9.0,
        "fl_y": 10.0,
        "cx": 5.0,
        "cy": 6.0,
        "w": 10,
        "h": 12,
        "k1": 0.05,
        "k2": 0.0,
        "p1": 0.001,
        "p2": 0.0,
    }
    (folder / "transforms.json").write_text(json.dumps({**lens, "camera_model": "OPENCV", "frames": frames}))
    run, out = tmp_path / "run", tmp_path / "transforms.json"
    arguments = ["fit", str(folder), "--out", str(run), "--steps", "2", "--split", "all", "--preset", "tiny"]
    assert cli.main([*arguments, "--refine-poses"]) == 0
    assert "space: contracted, as the pictures show what is all round" in capsys.readouterr().out
    assert cli.main(["export", str(run), "--cameras", "--out", str(out)]) == 0
    assert "5 cameras, corrected in the fit" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {key: written[key] for key in lens} == pytest.approx(lens)
    moved = 0.0
    for got, wanted in zip(written["frames"], frames, strict=True):
        assert got["file_path"] == wanted["file_path"]
        apart = np.abs(np.array(got["transform_matrix"]) - np.array(wanted["transform_matrix"])).max()
        moved = max(moved, float(apart))
    assert 1e-6 < moved < 0.3  # two steps of a thousandth of a unit, which is 7 or more of the file's
    (folder / "transforms.json").write_text(out.read_text())
    assert cli.main(["inspect", str(folder)]) == 0  # what is written can be read
