"""Protocols of papers, the page of a report, and the curve of a fit, through the command line."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.evaluation.page import embedded, error_colors, error_of, spread
from hyperfields.evaluation.protocols import deviation, mean_of
from hyperfields.rendering.base import on_background
from hyperfields.rendering.meshing import mesh_from_field
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import METRICS, MODEL, STATE, load_run
from hyperfields.scenes import open_family
from hyperfields.tasks import RADIANCE, TASKS, TrainConfig
from hyperfields.tasks.base import Pair
from hyperfields.training.curve import Curve
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Length, Progress

from ._analytic import FAMILIES, Balls, Spheres
from ._captures import cameras, srn
from .cli._families import TINY, make_views, run_cli


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of ShapeNet-SRN's layout with 106 pictures, which the protocols count on, and a third."""
    folder = tmp_path_factory.mktemp("srn")
    for name in ("a", "b", "c"):
        srn(folder / name, cameras(106, height=8, width=8))
    return folder


@pytest.fixture(scope="module")
def fitted(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    assert run_cli("fit", family, "--out", run, *TINY, "--limit", 2) == 0
    return run


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperfields.evaluation import report

    monkeypatch.setattr(report, "_load_lpips", lambda *_: {})


def on_white(rgba: Tensor) -> Tensor:
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


def psnr_of(bound: Any, view: Any) -> float:
    rays = Rays(*(part[None] for part in view.camera.rays()))
    with torch.no_grad():
        picture = on_background(RADIANCE.render_rays(bound, rays)).reshape(*view.rgba.shape[:2], 3).clamp(0.0, 1.0)
    return -10.0 * math.log10(float((picture - on_white(view.rgba)).square().mean()))


def error_line(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run_cli(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


# Protocols ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_lpips")
def test_unseen_scenes_by_one_and_two_views(
    family: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    words = ("eval", fitted, "--family", family, "--steps", 3, "--out", out)
    assert run_cli(*words, "--protocol", "srn-2view", "--seeds", 2) == 0
    assert "protocol srn-2view: unseen scenes" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert list(report["scenes"]) == ["c"]  # those that were fitted are left out
    names = [view["name"] for view in report["per_view"]["c"]]
    every = sorted(path.name for path in (family / "c" / "rgb").iterdir())
    assert names == [name for number, name in enumerate(every) if number not in (64, 104)]
    values = [view["psnr"] for view in report["per_view"]["c"]]
    assert report["scenes"]["c"]["psnr"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert report["mean"]["psnr"] == pytest.approx(report["scenes"]["c"]["psnr"])
    first, second = (each["mean"]["psnr"] for each in report["seeds"])
    assert first != second
    assert report["mean"]["psnr"] == pytest.approx((first + second) / 2)
    assert report["deviation"]["psnr"] == pytest.approx(abs(first - second) / math.sqrt(2.0))
    assert report["inference"] == {"minutes": None, "steps": 3, "refine": False}
    assert run_cli(*words, "--protocol", "srn-1view") == 0
    assert len(json.loads(out.read_text())["per_view"]["c"]) == 105


def test_what_protocols_refuse(family: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few"
    srn(few / "d", cameras(10, height=8, width=8))
    words = ("eval", fitted, "--protocol", "srn-1view")
    error = error_line(capsys, *words, "--steps", 1, "--family", few)
    assert "--protocol srn-1view" in error
    assert "there are 10 pictures" in error
    assert "give their folder with --family" in error_line(capsys, *words, "--steps", 1)
    assert "leave --split and --codes out" in error_line(capsys, *words, "--split", "val")
    assert "wanted at least 1" in error_line(capsys, *words, "--steps", 1, "--seeds", 0, "--family", family)
    assert "unknown, wanted one of srn-1view" in error_line(capsys, "eval", fitted, "--protocol", "llff")
    assert "--steps: is of the inference" in error_line(capsys, "eval", fitted, "--steps", 3)
    assert "transforms_test.json" in error_line(capsys, "eval", fitted, "--protocol", "nerf-synthetic")
    assert "--seeds" in error_line(capsys, "eval", fitted, "--protocol", "every-8th", "--seeds", 2)


@pytest.mark.usefixtures("no_lpips")
def test_every_8th_wants_a_fit_that_held_them_out(
    family: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    assert run_cli("eval", fitted, "--protocol", "every-8th", "--out", out) == 0  # held out, though no rule was given
    names = [view["name"] for view in json.loads(out.read_text())["per_view"]["a"]]
    assert names == sorted(path.name for path in (family / "a" / "rgb").iterdir())[::8]
    other = tmp_path / "other"
    assert run_cli("fit", family, "--out", other, *TINY, "--limit", 1, "--split", "0.9") == 0
    assert "--split every-8" in error_line(capsys, "eval", other, "--protocol", "every-8th")


@pytest.mark.usefixtures("no_lpips")
def test_nerf_synthetic_measures_at_the_size_of_the_files(tmp_path: Path) -> None:
    views, run, out = make_views(tmp_path / "views"), tmp_path / "run", tmp_path / "report.json"
    assert run_cli("fit", views, "--out", run, *TINY, "--size", "8x8") == 0
    assert run_cli("eval", run, "--protocol", "nerf-synthetic", "--out", out) == 0
    report, loaded, data = json.loads(out.read_text()), load_run(run), open_family(views)
    for number, name in enumerate(data.names):
        expected = [psnr_of(loaded.bind(name), view) for view in data.reference(number, "test")]  # type: ignore[union-attr]
        found = [view["psnr"] for view in report["per_view"][name]]
        assert found == pytest.approx(expected, abs=1e-3)
    assert report["protocol"] == "nerf-synthetic"


def test_means_and_deviations_of_seeds() -> None:
    rows = [{"view": 3, "name": "x.png", "psnr": 20.0, "ssim": None}, {"view": 3, "name": "x.png", "psnr": 23.0}]
    rows[1]["ssim"] = 0.5
    assert mean_of(rows) == {"view": 3, "name": "x.png", "psnr": 21.5, "ssim": None}
    assert deviation([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5.0 / 3.0))
    assert deviation([1.0]) is None
    assert deviation([1.0, None]) is None


# The page -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_lpips")
def test_a_page_holds_its_pictures_and_asks_for_nothing(fitted: Path, family: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert run_cli("eval", fitted, "--html", path) == 0
    text = path.read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "://" not in re.sub(r"http-equiv", "", text)
    assert text.count('<div class="row">') == 2 * 3  # worst, median and best of two scenes
    assert text.count("data:image/") == 2 * 3 * 4
    data = open_family(family, limit=2)
    truths = [on_white(view.rgba) for scene in (0, 1) for view in data.reference(scene)]  # type: ignore[union-attr]
    stored = re.findall(r'alt="truth" src="data:image/webp;base64,([^"]+)"', text)
    for each in stored:
        with Image.open(io.BytesIO(base64.b64decode(each))) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255.0
        assert min(float((pixels - truth).abs().max()) for truth in truths) <= 0.5 / 255.0 + 1e-6
    report_names = [name for name in ("a", "b") if f">{name}</h2>" in text]
    assert report_names == ["a", "b"]


class Meshed(Spheres):
    """Balls with a mesh to compare with."""

    def reference(self, scene: int, split: str = "test") -> Mesh:
        return mesh_from_field(lambda x: x.norm(dim=-1, keepdim=True) - 0.6, resolution=24)


@pytest.mark.parametrize("kind", ["images", "shapes"])
def test_pages_of_other_kinds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperfields.tasks.shapes.SHOWN", 24)
    if kind == "shapes":
        pytest.importorskip("open3d", exc_type=ImportError)
        pytest.importorskip("skimage", exc_type=ImportError)
    from hyperfields.evaluation.page import write_page
    from hyperfields.evaluation.report import evaluate

    data, task = Meshed() if kind == "shapes" else FAMILIES[kind], TASKS[kind]
    run = Fit(data, None, FitSettings(steps=2, preset="tiny")).run()
    bound = run.bind(run.names[0])
    pairs = task.pairs(bound, data, 0, "test", [])
    assert pairs
    assert all(pair.truth.shape == pair.picture.shape for pair in pairs)
    assert (pairs[0].depth is None) == (kind == "images")
    if kind == "images":
        write_page(tmp_path / "page.html", run, data, evaluate(run, data, perceptual=False))
        text = (tmp_path / "page.html").read_text()
        assert text.count('<div class="row">') == len(run.names)
        with pytest.raises(InputError, match=r"page\.txt: suffix"):
            write_page(tmp_path / "page.txt", run, data, {"scenes": {}})


def test_errors_as_colours() -> None:
    truth = torch.zeros(2, 2, 3)
    picture = truth.clone()
    picture[0, 0] = torch.tensor([0.3, 0.0, 0.0])
    picture[1, 1] = 0.1
    counting = torch.tensor([[True, True], [False, True]])
    error = error_of(Pair(truth, picture, counting=counting))
    assert error[0, 0] == pytest.approx(math.sqrt(0.03))
    assert error[1, 1] == pytest.approx(0.1)
    assert error[1, 0].isnan()
    colors = error_colors(error, 0.1)
    brightness = colors.sum(-1)
    assert brightness[0, 0] == brightness[1, 1] > 2.5  # both at the end of the scale
    assert brightness[0, 1] < 0.05
    assert colors[1, 0].tolist() == pytest.approx([0.75] * 3)


def test_pictures_are_shrunk_and_places_spread() -> None:
    image = torch.rand(200, 100, 3)
    with Image.open(io.BytesIO(base64.b64decode(embedded(image, 0.5).split(",")[1]))) as picture:
        assert picture.size == (50, 100)
    assert spread(3, 12) == [0, 1, 2]
    assert spread(101, 3) == [0, 50, 100]
    assert spread(1, 3) == [0]


# The curve ------------------------------------------------------------------------------------------------


FEW = TrainConfig(4, 2**13, rate_grid=3e-2)  # a quarter of the preset's samples


def views_fit(out: Path | None, *, curve: bool, steps: int = 64, resume: bool = False, **settings: Any) -> Fit:
    chosen = FitSettings(steps=steps, preset="tiny", **settings)
    return Fit(FAMILIES["views"], out, chosen, train=FEW, curve=curve, resume=resume)


@pytest.mark.parametrize("individually", [False, True])
def test_a_curve_changes_no_bit_of_a_fit(tmp_path: Path, individually: bool) -> None:
    data = Balls(names=("red",)) if individually else FAMILIES["views"]
    for name, curve in (("with", True), ("without", False)):
        settings = FitSettings(steps=32, preset="tiny", individually=individually)
        Fit(data, tmp_path / name, settings, train=FEW, curve=curve).run()
    assert (tmp_path / "with" / MODEL).read_bytes() == (tmp_path / "without" / MODEL).read_bytes()
    states = [load_tensors(tmp_path / name / STATE) for name in ("with", "without")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert [point[0] for point in load_run(tmp_path / "with").summary["curve"]] == [1, 2, 4, 8, 16, 32]
    assert "curve" not in load_run(tmp_path / "without").summary


def load_tensors(path: Path) -> dict[str, Tensor]:
    import safetensors.torch

    tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
    return tensors


def test_a_curve_is_the_psnr_of_held_out_pixels(tmp_path: Path) -> None:
    told: list[Any] = []
    fitting = views_fit(tmp_path / "run", curve=True)
    fitting.on_point = told.append
    run = fitting.run()
    logged = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in logged if "held_out_psnr" in line] == [point.step for point in told]
    assert told[-1].psnr > told[0].psnr
    data = FAMILIES["views"]
    scenes = []
    for number, name in enumerate(data.names):
        bound, errors = run.bind(name), []
        for view in data.reference(number, "test"):
            errors.append(10.0 ** (-0.1 * psnr_of(bound, view)))
        scenes.append(-10.0 * math.log10(sum(errors) / len(errors)))
    # A sample of the pixels, and before the numbers were rounded to 16 bits.
    assert told[-1].psnr == pytest.approx(sum(scenes) / len(scenes), abs=0.3)


def test_a_curve_goes_on_with_its_fit(tmp_path: Path) -> None:
    views_fit(tmp_path / "run", curve=True, steps=16).run()
    resumed = views_fit(tmp_path / "run", curve=True, steps=64, resume=True)
    resumed.run()
    assert [point.step for point in resumed.curve.points] == [1, 2, 4, 8, 16, 32, 64]  # type: ignore[union-attr]


def test_moments_of_fits_by_the_clock() -> None:
    curve, bound = Curve(FAMILIES["views"], RADIANCE, Length(minutes=90.0)), lambda scene: None
    curve.probes = {0: lambda bound: 0.01}
    for second in range(1, 5401):
        progress = Progress(step=second, seconds=float(second))
        if curve.due(progress):
            curve.measure(progress, bound)  # type: ignore[arg-type]
    assert [point.seconds for point in curve.points] == [15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 5400]
    assert curve.points[0].psnr == pytest.approx(20.0)


def test_curves_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match="these images hold no views back"):
        Fit(FAMILIES["images"], None, FitSettings(steps=2, preset="tiny"), curve=True)
    with pytest.raises(InputError, match="with --individually"):
        views_fit(None, curve=True, individually=True)
    with pytest.raises(InputError, match="codes by Variational"):
        Fit(FAMILIES["views"], None, FitSettings(steps=2, preset="tiny"), codes="vae", curve=True)


def test_one_scene_prints_its_curve(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, "--scenes", "a") == 0
    out, err = capsys.readouterr()
    assert "held-out psnr [dB]" in out
    assert re.search(r"held out: \d+\.\d\d dB after \d+:\d\d, step 20", err)
