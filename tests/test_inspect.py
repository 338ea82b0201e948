"""`hyperfields inspect FAMILY`: what fit would find, against what was put there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.cameras import look_at
from hyperfields.cli import main
from hyperfields.scenes import SAMPLES
from hyperfields.scenes.drawing import VIEWS, Drawing, _axes, write_png
from hyperfields.scenes.inspect import family_rows, inspect_family


def capture(folder: Path, scale: float = 1.0, center: tuple[float, ...] = (0.0, 0.0, 0.0), masks: int = 0) -> Path:
    """Nine opaque pictures of 40x30 from a circle of radius 4, focal length 40 pixels; every eighth is for the test."""
    (folder / "images").mkdir(parents=True)
    frames = []
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    for i in range(9):
        angle = 2.0 * math.pi * i / 9
        pose = look_at(torch.tensor([4.0 * math.cos(angle), 4.0 * math.sin(angle), 0.0]), torch.zeros(3))
        matrix = (pose.double() * torch.tensor([1.0, -1.0, -1.0, 1.0])).numpy()
        matrix[:3, 3] = matrix[:3, 3] * scale + np.array(center)
        Image.fromarray(noise).save(folder / "images" / f"{i}.png")
        frame: dict[str, Any] = {"file_path": f"images/{i}.png", "transform_matrix": matrix.tolist()}
        if i < masks:
            Image.new("L", (40, 30), 255).save(folder / f"mask_{i}.png")
            frame["mask_path"] = f"mask_{i}.png"
        frames.append(frame)
    content = {"fl_x": 40.0, "fl_y": 40.0, "w": 40, "h": 30, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_views_as_they_were_put_there(tmp_path: Path) -> None:
    found = inspect_family(capture(tmp_path / "scene", masks=3))
    (scene,) = found["scenes"]
    assert scene["splits"] == {"train": 7, "test": 2}
    assert scene["sizes"] == {"30x40": 9}
    assert scene["masks"] == 3
    assert not scene["alpha"]
    assert scene["box"] == {"half_side": 1.0, "center": [0.0, 0.0, 0.0]}
    assert scene["distance"]["nearest"] == pytest.approx(4.0, abs=1e-4)
    (lens,) = scene["cameras"]
    assert (lens["model"], lens["pictures"], lens["fx"], lens["cy"]) == ("PINHOLE", 9, 40.0, 15.0)
    assert found["up"] == [0.0, 0.0, 1.0]
    assert found["background"] is None
    json.dumps(found, allow_nan=False)


def test_the_share_outside_is_that_of_the_rays_that_miss(tmp_path: Path) -> None:
    folder = capture(tmp_path / "scene")
    content = json.loads((folder / "transforms.json").read_text())
    side = [[0.0, 0.0, 1.0, 4.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    for frame in content["frames"]:  # all from +X: the near face of the box covers 2 * 40 / 3 pixels a side
        frame["transform_matrix"] = side
    (folder / "transforms.json").write_text(json.dumps(content))
    (scene,) = inspect_family(folder)["scenes"]
    assert scene["box"]["half_side"] == 1.0
    assert scene["outside"] == pytest.approx(1.0 - (80.0 / 3.0) ** 2 / (30.0 * 40.0), abs=0.04)


def test_a_box_in_the_files_unit(tmp_path: Path) -> None:
    (scene,) = inspect_family(capture(tmp_path / "scene", 50.0, (100.0, 0.0, -20.0)))["scenes"]
    assert scene["box"]["center"] == pytest.approx([100.0, 0.0, -20.0], abs=0.1)
    assert 20.0 < scene["box"]["half_side"] < 120.0
    assert scene["distance"]["farthest"] == pytest.approx(200.0, abs=0.5)


def test_command_on_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["inspect", str(SAMPLES / "cars_views"), "--out", str(out), "--limit", "3"]) == 0
    text, error = capsys.readouterr()
    for line in ("views (read as", "3: k_ambulance", "40 train, 2 val, 8 test each; 64x64", "3 PINHOLE", "transparent"):
        assert line in text
    assert "cameras.html" in error
    content = json.loads((out / "family.json").read_text())
    assert [scene["name"] for scene in content["scenes"]] == ["k_ambulance", "k_firetruck", "k_race"]
    page = (out / "cameras.html").read_text()
    assert page.count('"name":') == 3
    assert "http" not in page  # offline
    with Image.open(out / "cameras.png") as picture:
        assert picture.width > 2 * picture.height
    assert main(["inspect", str(SAMPLES / "cars_views"), "--limit", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_images_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "x.HEIC").write_bytes(b"x")
    assert main(["inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "images (read as pictures)" in text
    assert "6x8 (height x width)" in text
    assert "left out" in text
    assert "x.HEIC" in text
    assert "convert them" in text


def test_shapes() -> None:
    pytest.importorskip("open3d", reason="open3d (hyperfields[shapes]) is missing", exc_type=ImportError)
    found = inspect_family(SAMPLES / "shapes_cars", limit=1)
    (scene,) = found["scenes"]
    assert scene["triangles"] == 5000
    rows = dict(family_rows(found))
    assert rows["up"] == "z"
    assert rows["triangles"] == "5,000"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scenes", "3"), "--scenes 3: has no meaning for a family"),
        (("--background", "pink"), "--background"),
        (("--size", "0x3"), "--size '0x3'"),
        (("--preset", "tiny"), "both came; give the folder of a run or of a family, or a preset"),
        (("--kind", "shapes", "--size", "8x8"), "--size 8x8: is of pictures, of which shapes have none"),
    ],
)
def test_options_that_do_not_fit(options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    of = ["--preset", "tiny"] if "--kind" in options else [str(SAMPLES / "cars_views")]
    assert main(["inspect", *of, *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_drawn_from_above_x_is_right_and_y_is_up(tmp_path: Path) -> None:
    right, down = _axes(np.array([0.0, 0.0, 1.0]), np.radians(90.0), 0.0)
    assert np.allclose(right, [1.0, 0.0, 0.0], atol=1e-12)
    assert np.allclose(down, [0.0, -1.0, 0.0], atol=1e-12)
    right, down = _axes(np.array([0.0, 0.0, 1.0]), 0.0, 0.0)
    assert np.allclose(down, [0.0, 0.0, -1.0], atol=1e-12)
    for elevation, turn in VIEWS.values():
        right, down = _axes(np.array([0.6, 0.0, 0.8]), np.radians(elevation), np.radians(turn))
        assert np.allclose([right @ right, down @ down, right @ down], [1.0, 1.0, 0.0], atol=1e-12)
    one = Drawing.of("one", np.eye(4)[None], [(0.5, 0.5)], ["a"])  # one camera, nothing else: no division by 0
    write_png(tmp_path / "one.png", one)
    assert (tmp_path / "one.png").is_file()
