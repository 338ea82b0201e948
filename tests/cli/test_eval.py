"""`eval`: the report, and what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperfields.runs.run import load_run
from hyperfields.scenes import open_family
from hyperfields.tasks.metrics import psnr

from ._families import MAKERS, SCENES, SIDE, make_images, make_views, run_cli

KEYS = {"kind", "scenes", "mean", "bytes_per_scene", "parameters", "fit_seconds", "peak_memory_bytes"}


MEANS = {
    "images": {"psnr", "ssim", "lpips_alex", "lpips_vgg", "specks"},
    "views": {"psnr", "ssim", "lpips_alex", "lpips_vgg"},
    "shapes": {"iou", "surface_distance", "chamfer", "f_score", "normal_consistency"},
}


@pytest.mark.parametrize("kind", MAKERS)
def test_eval_writes_the_report(kind: str, fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits(kind)
    capsys.readouterr()
    assert run_cli("eval", run, "--out", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() >= KEYS
    assert report["kind"] == kind
    assert report["mean"].keys() == MEANS[kind]
    assert set(report["scenes"]) == set(load_run(run).names)
    assert all(scene.keys() == MEANS[kind] for scene in report["scenes"].values())
    first = next(value for value in report["mean"].values() if value is not None)
    assert isinstance(first, float)
    assert "mean of" in out
    assert SCENES[kind][0] in out
    assert "bytes a scene" in out


def test_eval_needs_every_scene(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    other = make_images(tmp_path / "other", ("cat", "dog"))
    assert "'eel'" in refused("eval", run, "--family", other)


def test_eval_needs_its_split(fits: Any, refused: Any) -> None:
    _, run = fits("views")
    assert "transforms_val.json" in refused("eval", run, "--split", "val")


def test_images_are_compared_at_the_size_asked_for(
    tmp_path: Path, fits: Any, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = fits("images")
    large = make_images(tmp_path / "large", side=2 * SIDE)
    for words in (("--family", large), ("--family", large, "--size", f"{2 * SIDE}x{2 * SIDE}")):
        assert run_cli("eval", run, *words, "--out", tmp_path / "report.json") == 0
        report = json.loads((tmp_path / "report.json").read_text())
        loaded, data = load_run(run), open_family(large)
        for number, name in enumerate(data.names):
            found = psnr(loaded[name].render(size=2 * SIDE), data.reference(number))
            assert report["scenes"][name]["psnr"] == pytest.approx(float(found), abs=1e-3)
        said = [note for note in report["notes"] if note.startswith("size: ")]
        assert said == ["size: compared at 32x32, fitted at 16x16: what lies between the pixels counts too"]
        assert "specks: of a thousand pixels" in capsys.readouterr().out
    assert run_cli("eval", run, "--size", f"{2 * SIDE}x{2 * SIDE}") == 0
    assert "3 of 3 pictures are smaller than 32x32, cat for one, and were enlarged" in capsys.readouterr().out
    assert "--size '8': wanted height x width" in refused("eval", run, "--size", "8")
    said = refused("eval", run, "--family", large, "--size", "20x32")
    assert "--size 20x32: other parts of the pictures than were fitted, at 16x16" in said
    assert "such as 20x20" in said
    for kind in ("shapes", "views"):
        assert f"--size 8x8: is of images, but the run holds {kind}" in refused("eval", fits(kind)[1], "--size", "8x8")
    for words in ((), ("--morph",)):
        said = refused("eval", fits("shapes")[1], "--lpips-weights", tmp_path, *words)
        assert f"--lpips-weights {tmp_path}: is of pictures, but the run holds shapes" in said


def test_another_kind_than_asked(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    views = make_views(tmp_path / "views")
    assert "holds no images, but views" in refused("eval", run, "--family", views)
    error = refused("infer", run, views, "--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "holds no images, but views" in error
    images = make_images(tmp_path / "images")
    codes = ("--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "views" in refused("infer", run, images, *codes, "--views", "0")
