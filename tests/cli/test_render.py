"""`render`, `interpolate` and `export`: pictures, animations and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.cli.posed import mesh_cameras
from hyperfields.runs.field_file import load_field
from hyperfields.runs.run import load_run

from ._families import MAKERS, SCENES, SIDE, as_tuple, run_cli


@pytest.mark.parametrize("kind", MAKERS)
def test_render_a_picture(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    out = tmp_path / "x.png"
    assert run_cli("render", run, "--scene", SCENES[kind][0], "--out", out, "--size", "20x24") == 0
    with Image.open(out) as picture:
        assert picture.size == (24, 20)


def test_render_the_fitted_picture(fits: Any, tmp_path: Path) -> None:
    """The picture on disk is the field's own, rounded to 8 bits."""
    _, run = fits("images")
    assert run_cli("render", run, "--scene", "dog", "--out", tmp_path / "x.png") == 0
    steps = (torch.arange(SIDE) + 0.5) / SIDE
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    with torch.no_grad():
        wanted = load_run(run).bind("dog")(torch.stack((u, v), -1).reshape(1, -1, 2))
    assert isinstance(wanted, torch.Tensor)
    got = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).float() / 255.0
    torch.testing.assert_close(got, wanted.reshape(SIDE, SIDE, 3).clamp(0.0, 1.0), atol=0.5 / 255 + 1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["shapes", "views"])
def test_render_an_orbit(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    out = tmp_path / "x.gif"
    scene = ("--scene", SCENES[kind][0])
    assert run_cli("render", run, *scene, "--out", out, "--orbit", 3, "--size", "12x12") == 0
    with Image.open(out) as animation:
        assert animation.size == (12, 12)
    for channel in ("depth", "normals"):
        still = tmp_path / f"{channel}.png"
        assert run_cli("render", run, *scene, "--out", still, "--channel", channel, "--size", "12x12") == 0


def test_render_along_a_path(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits("views")
    scene = ("--scene", SCENES["views"][0], "--size", "12x12")
    assert run_cli("render", run, *scene, "--out", tmp_path / "frames", "--path", "spiral", "--frames", 3) == 0
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"frame_{i:04d}.png" for i in range(3)]
    above = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1]
    frames = [{"camera_to_world": above, "fov": 40 + 5 * i, "aspect": 2.0} for i in range(2)]
    content = {"camera_type": "perspective", "render_height": 16, "render_width": 32, "fps": 10, "camera_path": frames}
    path = tmp_path / "camera_path.json"
    path.write_text(json.dumps(content))
    assert run_cli("render", run, *scene[:2], "--out", tmp_path / "x.mp4", "--path", path) == 0
    assert run_cli("render", run, *scene[:2], "--out", tmp_path / "y", "--path", path) == 0
    with Image.open(tmp_path / "y" / "frame_0001.png") as picture:
        assert picture.size == (32, 16)
    path.write_text("{}")
    capsys.readouterr()
    assert run_cli("render", run, *scene[:2], "--out", tmp_path / "z.gif", "--path", path) == 2
    assert "camera_path.json: camera path: damaged" in capsys.readouterr().err
    assert not (tmp_path / "z.gif").exists()


@pytest.mark.usefixtures("quick_morphs")
@pytest.mark.parametrize("kind", MAKERS)
def test_interpolate(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    options = ("--frames", 3, "--size", "12x12")
    assert run_cli("interpolate", run, *SCENES[kind], "--out", tmp_path / "x.gif", *options) == 0
    assert (tmp_path / "x.gif").read_bytes()[:3] == b"GIF"
    if kind == "shapes":  # a folder gets meshes, which have no size
        assert run_cli("interpolate", run, *SCENES[kind], "--out", tmp_path / "frames", *options) == 2
        options = ("--frames", 3)
    options += ("--morph", "codes", "--mode", "slerp")
    assert run_cli("interpolate", run, *SCENES[kind], "--out", tmp_path / "frames", *options) == 0
    suffix = "ply" if kind == "shapes" else "png"
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"frame_{i:03d}.{suffix}" for i in range(3)]
    if kind == "shapes":  # meshes in the coordinates of the files
        assert run_cli("export", run, "--scene", SCENES[kind][-1], "--out", tmp_path / "last.ply") == 0
        assert (tmp_path / "frames" / "frame_002.ply").read_bytes() == (tmp_path / "last.ply").read_bytes()


SUFFIXES = {
    "images": [".png", ".jpg", ".webp", ".safetensors"],
    "shapes": [".png", ".ply", ".obj", ".glb", ".stl", ".safetensors"],
    "views": [".png", ".ply", ".safetensors"],
}


@pytest.mark.parametrize(("kind", "suffix"), [(k, s) for k, found in SUFFIXES.items() for s in found])
def test_export(kind: str, suffix: str, fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits(kind)
    out = tmp_path / f"x{suffix}"
    scene = SCENES[kind][0]
    code = run_cli("export", run, "--scene", scene, "--out", out)
    if code and (kind, suffix) == ("views", ".ply"):  # so short a fit has no surface yet
        assert "has no surface in the box" in capsys.readouterr().err
        return
    assert code == 0
    assert out.stat().st_size > 0
    if suffix == ".safetensors":
        x = torch.rand(1, 50, 2 if kind == "images" else 3)
        points = (x, x / x.norm(dim=-1, keepdim=True)) if kind == "views" else (x,)
        with torch.no_grad():
            alone, bound = load_field(out)(*points), load_run(run).bind(scene)(*points)
        for got, wanted in zip(as_tuple(alone), as_tuple(bound), strict=True):
            torch.testing.assert_close(got, wanted)


def test_a_mesh_as_fine_as_asked(fits: Any, refused: Any, tmp_path: Path) -> None:
    _, run = fits("shapes")
    scene = ("--scene", SCENES["shapes"][0], "--out")
    assert run_cli("export", run, *scene, tmp_path / "coarse.obj", "--resolution", 12) == 0
    vertices = [line for line in (tmp_path / "coarse.obj").read_text().splitlines() if line.startswith("v ")]
    assert len(vertices) == len(load_run(run)[SCENES["shapes"][0]].mesh(12).vertices)
    assert "--resolution: is of meshes" in refused("export", run, *scene, tmp_path / "x.png", "--resolution", 12)
    assert "resolution 4000: wanted cells" in refused("export", run, *scene, tmp_path / "x.ply", "--resolution", 4000)


def test_suffixes(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    scene = ("--scene", "cat", "--out")
    assert ".ply cannot hold" in refused("export", run, *scene, tmp_path / "x.ply")
    assert ".txt cannot hold" in refused("render", run, *scene, tmp_path / "x.txt")
    assert ".gif cannot hold" in refused("render", run, *scene, tmp_path / "x.gif")
    assert ".ply cannot hold" in refused("interpolate", run, "cat", "dog", "--out", tmp_path / "x.ply")
    assert ".txt cannot hold a report" in refused("eval", run, "--out", tmp_path / "x.txt")
    assert "does not exist" in refused("eval", run, "--out", tmp_path / "no" / "x.json")
    assert "does not exist" in refused("export", run, *scene, tmp_path / "no" / "x.png")
    codes = ("--out", tmp_path / "codes.pt", "--steps", 2)
    assert ".pt cannot hold codes" in refused("infer", run, tmp_path, *codes)
    assert "depth" in refused("render", run, *scene, tmp_path / "x.png", "--channel", "depth")


def test_of_a_sum_of_codes_there_are_no_pictures(fits: Any, tmp_path: Path, refused: Any) -> None:
    """Its mesh has all that is dense; cameras and points cannot be had. Both ended in a traceback."""
    _, run = fits("views")
    loaded, text = load_run(run), "disc - ring"
    assert mesh_cameras(loaded, loaded[text], None) == []
    for words in (("--cameras", "--out", tmp_path / "x.json"), ("--points", 9, "--out", tmp_path / "x.ply")):
        said = refused("export", run, "--scene", text, *words)
        assert f"{words[0]}: scene 'disc - ring' is a sum of codes, of which there are no pictures" in said
