"""`eval`: the report, and what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperfields.runs.run import load_run

from ._families import MAKERS, SCENES, make_images, make_views, run_cli

KEYS = {"kind", "scenes", "mean", "bytes_per_scene", "parameters", "fit_seconds", "peak_memory_bytes"}


MEANS = {
    "images": {"psnr", "ssim", "lpips_alex", "lpips_vgg"},
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


def test_another_kind_than_asked(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    views = make_views(tmp_path / "views")
    assert "holds no images, but views" in refused("eval", run, "--family", views)
    error = refused("infer", run, views, "--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "holds no images, but views" in error
    images = make_images(tmp_path / "images")
    codes = ("--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "views" in refused("infer", run, images, *codes, "--views", "0")
