"""The report of `evaluate`, against values worked out by hand and scenes whose answer is known."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays, orbit
from hyperfields.data import Kind, Mesh, Pixels, Points, View
from hyperfields.errors import InputError
from hyperfields.evaluation.lpips import LpipsUnavailable
from hyperfields.evaluation.report import evaluate, format_report
from hyperfields.rendering import pictures
from hyperfields.rendering.base import on_background
from hyperfields.rendering.image import sample_image
from hyperfields.rendering.meshing import mesh_from_field
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import Run, load_run
from hyperfields.tasks import RADIANCE, SHAPES, base
from hyperfields.tasks.metrics import ssim
from hyperfields.training.fit import Fit

evaluation = importlib.import_module("hyperfields.evaluation.report")  # the module; the package's name is the function
KEYS = {"kind", "scenes", "mean", "bytes_per_scene", "parameters", "fit_seconds", "peak_memory_bytes"}


class Pictures:
    """A family of images held in memory."""

    kind: Kind = "images"

    def __init__(self, pictures: dict[str, Tensor]) -> None:
        self.names = tuple(pictures)
        self.pictures = list(pictures.values())

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        size = torch.tensor(self.pictures[0].shape[1::-1])
        u, v = (x * size).long().unbind(-1)
        return Points(x, torch.stack([self.pictures[int(s)][v[i], u[i]] for i, s in enumerate(scenes)]))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        return self.pictures[scene]


class Views:
    """One scene: a disc of colour in front of nothing, as three photographs with soft edges."""

    kind: Kind = "views"
    names: tuple[str, ...] = ("disc",)

    def __init__(self, side: int = 12) -> None:
        self.cameras = orbit(3, radius=3.0, height=side, width=side)
        steps = torch.linspace(-1.0, 1.0, side)
        inside = (1.5 - 2.0 * (steps[:, None] ** 2 + steps**2).sqrt()).clamp(0.0, 1.0)
        color = torch.tensor([0.9, 0.2, 0.1]).expand(side, side, 3)
        self.rgba = torch.cat((color, inside[..., None]), -1)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Pixels:
        index = torch.randint(self.rgba.shape[0] ** 2, (len(scenes), n), generator=generator)
        rays = self.cameras[0].rays()
        return Pixels(Rays(rays.origins[index], rays.directions[index]), self.rgba.reshape(-1, 4)[index])

    def reference(self, scene: int, split: str = "test") -> list[View]:
        return [View(camera, self.rgba) for camera in self.cameras]


class Shapes:
    """Balls of several radii."""

    kind: Kind = "shapes"

    def __init__(self, radii: dict[str, float]) -> None:
        self.names = tuple(radii)
        self.radii = torch.tensor(list(radii.values()))

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = 2.0 * torch.rand(len(scenes), n, 3, generator=generator) - 1.0
        return Points(x, x.norm(dim=-1, keepdim=True) - self.radii[scenes][:, None, None])

    def reference(self, scene: int, split: str = "test") -> Mesh:
        return mesh_from_field(ball(float(self.radii[scene])), resolution=96)


def render_views(run: Run, views: list[View]) -> Tensor:
    """The disc as the cameras of `views` see it, on white, `[v h w 3]`."""
    bound, shown = run.bind("disc"), []
    for view in views:
        rays = Rays(*(part[None] for part in view.camera.rays()))
        shown.append(on_background(RADIANCE.render_rays(bound, rays)).reshape(*view.rgba.shape[:2], 3))
    return torch.stack(shown)


def ball(radius: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x.norm(dim=-1, keepdim=True) - radius


def noise(count: int, height: int = 16, width: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"scene{i}": torch.rand(height, width, 3, generator=generator) for i in range(count)}


def fitted(family: Any, folder: Path, **config: Any) -> Run:
    Fit(family, folder / "run", FitSettings(steps=2, preset="tiny", **config)).run()
    return load_run(folder / "run")


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may have weights; the tests below are about a machine that has none."""

    def missing(net: str, weights: Path | None) -> None:
        raise LpipsUnavailable("no weights here")

    monkeypatch.setattr(evaluation, "load_lpips", missing)


@pytest.mark.usefixtures("no_lpips")
def test_images_by_hand(tmp_path: Path) -> None:
    family = Pictures(noise(3))
    run = fitted(family, tmp_path)
    seen: list[tuple[int, int, str]] = []
    report = evaluate(run, family, progress=lambda *progress: seen.append(progress))
    assert report.keys() >= KEYS
    assert report["kind"] == "images"
    assert report["mean"].keys() == {"psnr", "ssim", "lpips_alex", "lpips_vgg", "specks"}
    assert list(report["scenes"]) == ["scene0", "scene1", "scene2"]
    assert seen == [(1, 3, "scene0"), (2, 3, "scene1"), (3, 3, "scene2")]
    values = []
    for name, truth in zip(family.names, family.pictures, strict=True):
        with torch.no_grad():
            picture = sample_image(run.bind(name), 1, 16, 12)[0].clamp(0.0, 1.0)  # type: ignore[arg-type]
        values.append(-10.0 * math.log10(float((picture - truth).square().mean())))
        assert report["scenes"][name]["psnr"] == pytest.approx(values[-1], abs=1e-3)
        assert report["scenes"][name]["ssim"] == pytest.approx(float(ssim(picture, truth)), abs=1e-5)
        assert report["scenes"][name]["lpips_alex"] is None
    assert report["mean"]["psnr"] == pytest.approx(sum(values) / 3, abs=1e-3)
    assert "lpips_alex: n/a, no weights here" in report["notes"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.usefixtures("no_lpips")
def test_costs_are_those_of_the_files(tmp_path: Path) -> None:
    family = Pictures(noise(3))
    run = fitted(family, tmp_path)
    report = evaluate(run, family)
    networks = sum(p.numel() for p in run.model.hypernet.parameters())
    size = run.model.config.latent_size
    assert report["parameters"] == networks + 3 * size
    assert report["bytes_per_scene"] == {"amortised": 2 * networks / 3 + 2 * size, "marginal": 2 * size}
    header = 4000  # names and shapes in the file
    on_disk = (run.path / "model.safetensors").stat().st_size
    assert 0 <= on_disk - 3 * report["bytes_per_scene"]["amortised"] < header
    summary = json.loads((run.path / "summary.json").read_text())
    assert report["fit_seconds"] == summary["seconds"]
    assert report["peak_memory_bytes"] == summary.get("peak_memory_bytes")


@pytest.mark.usefixtures("no_lpips")
def test_each_alone_reports_in_the_same_form(tmp_path: Path) -> None:
    family = Pictures(noise(2))
    together = evaluate(fitted(family, tmp_path / "a"), family)
    alone = evaluate(fitted(family, tmp_path / "b", individually=True), family)
    assert alone.keys() == together.keys()
    assert (together["individually"], alone["individually"]) == (False, True)
    assert alone["bytes_per_scene"]["amortised"] == alone["bytes_per_scene"]["marginal"]
    assert 2 * alone["parameters"] == len(family.names) * alone["bytes_per_scene"]["amortised"]
    assert "fitted alone" in format_report(alone)


@pytest.mark.usefixtures("no_lpips")
def test_an_equal_picture_is_null_and_said(tmp_path: Path) -> None:
    pictures = noise(3)
    run = fitted(Pictures(pictures), tmp_path)
    with torch.no_grad():
        pictures["scene1"] = sample_image(run.bind("scene1"), 1, 16, 12)[0].clamp(0.0, 1.0)  # type: ignore[arg-type]
    report = evaluate(run, Pictures(pictures))
    assert report["scenes"]["scene1"]["psnr"] is None
    assert report["scenes"]["scene1"]["ssim"] == pytest.approx(1.0)
    others = [report["scenes"][name]["psnr"] for name in ("scene0", "scene2")]
    assert report["mean"]["psnr"] == pytest.approx(sum(others) / 2)
    assert any("scene1" in note and "infinite" in note for note in report["notes"])
    assert "mean psnr: without the 1 of 3 scenes that lack it" in report["notes"]
    assert any("not those that were fitted" in note for note in report["notes"])
    assert "n/a" in format_report(report)


def test_pictures_too_small_are_said(tmp_path: Path) -> None:
    family = Pictures(noise(2, 8, 8))
    report = evaluate(fitted(family, tmp_path), family)
    assert report["mean"]["ssim"] is None
    assert sum(note.startswith("ssim: n/a, pictures of 8x8") for note in report["notes"]) == 1


def test_lpips_is_used_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, and as a mean over all pictures of a scene."""
    asked = []

    def load(net: str, weights: Path | None) -> Callable[[Tensor, Tensor], Tensor]:
        asked.append((net, weights))
        return lambda a, b: (a - b).abs().mean((1, 2, 3)) + (0.0 if net == "alex" else 1.0)

    monkeypatch.setattr(evaluation, "load_lpips", load)
    monkeypatch.setattr(base, "PICTURES", 2)
    family = Views()
    run = fitted(family, tmp_path)
    report = evaluate(run, family, lpips_weights=tmp_path)
    assert asked == [("alex", tmp_path), ("vgg", tmp_path)]
    with torch.no_grad():
        pictures = render_views(run, family.reference(0)).clamp(0.0, 1.0)
    expected = float((pictures - on_white(family.rgba)).abs().mean())
    assert report["mean"]["lpips_alex"] == pytest.approx(expected, abs=1e-6)
    assert report["mean"]["lpips_vgg"] == pytest.approx(expected + 1.0, abs=1e-6)
    assert report["notes"] == [note for note in report["notes"] if "lpips" not in note]


def on_white(rgba: Tensor) -> Tensor:
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


@pytest.mark.usefixtures("no_lpips")
def test_views_are_averaged_on_white(tmp_path: Path) -> None:
    family = Views()
    run = fitted(family, tmp_path)
    report = evaluate(run, family)
    with torch.no_grad():
        pictures = render_views(run, family.reference(0))
    assert pictures.shape == (3, 12, 12, 3)
    errors = (pictures.clamp(0.0, 1.0) - on_white(family.rgba)).square().mean((1, 2, 3))
    expected = float((-10.0 * errors.log10()).mean())
    assert report["mean"]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert report["split"] == "test"


def test_views_in_parts_are_the_views_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Views()
    run = fitted(family, tmp_path)
    with torch.no_grad():
        whole = render_views(run, family.reference(0))
        monkeypatch.setattr(pictures, "RAYS_PER_BLOCK", 50)
        parts = render_views(run, family.reference(0))
        one = render_views(run, family.reference(0)[1:2])
    torch.testing.assert_close(parts, whole, atol=1e-3, rtol=0)  # rays end early, by less than this
    torch.testing.assert_close(one[0], whole[1], atol=1e-3, rtol=0)


@pytest.fixture
def shapes_work() -> None:
    for module in ("open3d", "skimage"):
        pytest.importorskip(module, reason=f"{module} (hyperfields[shapes]) is missing", exc_type=ImportError)


@pytest.mark.usefixtures("shapes_work")
def test_shapes_and_a_field_without_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Shapes({"big": 0.8, "none": 0.5, "small": 0.4})
    run = fitted(family, tmp_path)
    fields = {"big": ball(0.8), "small": ball(0.42), "none": lambda x: torch.ones_like(x[..., :1])}
    for field in fields.values():
        field.device = torch.device("cpu")  # type: ignore[attr-defined]
    monkeypatch.setattr(Run, "bind", lambda self, name: fields[name])
    monkeypatch.setattr(SHAPES, "mesh", lambda bound: mesh_from_field(bound, resolution=96), raising=False)
    report = evaluate(run, family)
    big, none, small = (report["scenes"][name] for name in ("big", "none", "small"))
    assert big["iou"] > 0.995
    assert big["surface_distance"] < 1e-4
    assert big["f_score"] == pytest.approx(1.0)
    assert small["iou"] == pytest.approx((0.40 / 0.42) ** 3, abs=0.01)
    assert small["surface_distance"] == pytest.approx(0.02 / 0.8, rel=0.02)  # of the longest side
    assert none == {
        "iou": 0.0, "surface_distance": None, "chamfer": None, "f_score": 0.0, "normal_consistency": None,
    }  # fmt: skip
    assert report["mean"]["iou"] == pytest.approx((big["iou"] + small["iou"]) / 3)
    distances = (big["surface_distance"] + small["surface_distance"]) / 2
    assert report["mean"]["surface_distance"] == pytest.approx(distances)
    assert sum(note.startswith("none: the field has no surface") for note in report["notes"]) == 1
    assert "mean chamfer: without the 1 of 3 scenes that lack it" in report["notes"]
    text = format_report(report)
    assert "surface distance [side]" in text
    assert "longest side" in text
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_another_kind_is_refused(tmp_path: Path) -> None:
    run = fitted(Pictures(noise(2)), tmp_path)
    with pytest.raises(InputError, match=r"run: holds images, the family holds views"):
        evaluate(run, Views())


def test_a_missing_scene_is_named(tmp_path: Path) -> None:
    pictures = noise(3)
    run = fitted(Pictures(pictures), tmp_path)
    del pictures["scene1"]
    with pytest.raises(InputError, match=r"'scene1' is not in the family \(1 of 3 are missing\)"):
        evaluate(run, Pictures(pictures))


@pytest.mark.usefixtures("no_lpips")
def test_only_the_scenes_of_the_run_count(tmp_path: Path) -> None:
    pictures = noise(4)
    run = fitted(Pictures({name: pictures[name] for name in ("scene1", "scene3")}), tmp_path)
    report = evaluate(run, Pictures(pictures))
    assert list(report["scenes"]) == ["scene1", "scene3"]
    alone = evaluate(run, Pictures({name: pictures[name] for name in ("scene3", "scene1")}))
    assert alone["scenes"] == report["scenes"]


def test_a_model_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    family = Pictures(noise(2))
    run = fitted(family, tmp_path)
    with torch.no_grad():
        run.model.latents.codes[1, 0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        evaluate(run, family)


def test_a_run_without_summary_says_so(tmp_path: Path) -> None:
    family = Pictures(noise(2))
    run = fitted(family, tmp_path)
    assert run.path is not None
    (run.path / "summary.json").write_text("{")
    report = evaluate(load_run(run.path), family)
    assert (report["fit_seconds"], report["peak_memory_bytes"]) == (None, None)
    assert "fit_seconds: not in summary.json of this run" in report["notes"]
    assert "fitted in n/a; peak memory n/a" in format_report(report)


def test_a_long_table_shows_the_worst_and_the_best() -> None:
    scenes = {
        f"s{i:02}": {"psnr": 20.0 + (7 * i) % 30, "ssim": 0.5, "lpips_alex": None, "lpips_vgg": 0.1, "specks": 0.25}
        for i in range(30)
    }
    report: dict[str, Any] = {
        "kind": "images",
        "individually": False,
        "scenes": scenes,
        "mean": {"psnr": 34.5, "ssim": 0.5, "lpips_alex": None, "lpips_vgg": 0.1, "specks": 0.25},
        "bytes_per_scene": {"amortised": 4901.4, "marginal": 128},
        "parameters": 123456,
        "fit_seconds": 120.2,
        "peak_memory_bytes": 812_000_000,
        "notes": ["lpips_alex: n/a, no weights"],
    }
    lines = format_report(report).splitlines()
    assert lines[0].split("  ")[0] == "scene"
    assert "psnr [dB]" in lines[0]
    shown = [line.split()[0] for line in lines[2:9]]
    ranked = sorted(scenes, key=lambda name: scenes[name]["psnr"] or 0.0)
    assert shown == [*ranked[:3], "...", *ranked[-3:]]
    assert lines[5].strip() == "... 24 between"
    assert lines[10].split() == ["mean", "of", "30", "34.50", "0.5000", "n/a", "0.1000", "0.25"]
    assert lines[12] == (
        "4,901 bytes a scene, 128 for one more; 123,456 parameters; fitted in 120 s; peak memory 812 MB"
    )
    assert lines[-1] == "note: lpips_alex: n/a, no weights"
    report["scenes"] = dict(list(scenes.items())[:20])
    assert "between" not in format_report(report)
