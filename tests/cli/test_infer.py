"""`infer`: codes of other scenes, and their use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hyperfields.runs.field_file import load_field
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.run import load_run

from ._families import SIDE, TINY, as_tuple, make_images, make_views, run_cli


def test_infer_then_use_the_codes(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits("views")
    family = make_views(tmp_path / "new")
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 4, "--views", "0,1", "--refine") == 0
    out = capsys.readouterr().out
    assert "views: 2 scenes (as the run)" in out
    assert "steps: a scene takes part in about 1 of 4 for its code, then in 3 for its weights" in out
    assert f"render {run} --codes {codes} --scene disc --out disc.png" in out
    assert run_cli("render", run, "--codes", codes, "--scene", "ring", "--out", tmp_path / "ring.png") == 0
    assert run_cli("export", run, "--codes", codes, "--scene", "ring", "--out", tmp_path / "r.safetensors") == 0
    loaded = load_run(run)
    found = load_codes(codes, loaded)
    assert found.residual
    x = torch.rand(1, 50, 3)
    with torch.no_grad():  # the refined field, not that of the code alone
        alone, bound = load_field(tmp_path / "r.safetensors")(x, x), found.bind("ring")(x, x)
    for got, wanted in zip(as_tuple(alone), as_tuple(bound), strict=True):
        torch.testing.assert_close(got, wanted)


def test_inferred_scenes_are_measured(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `eval --codes` reports are the inferred scenes, with what they cost beside the run."""
    from hyperfields.data import Images
    from hyperfields.scenes import open_family
    from hyperfields.tasks.metrics import psnr

    _, run = fits("images")
    family, codes, out = make_images(tmp_path / "new", ("fox", "cow")), tmp_path / "c.safetensors", tmp_path / "r.json"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 4, "--refine") == 0
    assert run_cli("eval", run, "--codes", codes, "--out", out, "--lpips-weights", tmp_path) == 0
    assert "bytes a scene beside the run" in capsys.readouterr().out
    report, loaded = json.loads(out.read_text()), load_run(run)
    found = load_codes(codes, loaded)
    data = open_family(family, size=(SIDE, SIDE))
    assert isinstance(data, Images)
    for number, name in enumerate(data.names):
        picture = found[name].render()[None]
        wanted = float(psnr(picture, data.reference(number)[None])[0])  # type: ignore[index]
        assert report["scenes"][name]["psnr"] == pytest.approx(wanted, rel=1e-4)
    numbers = loaded.model.config.latent_size + sum(value[0].numel() for value in found.residual.values())
    assert report["bytes_per_scene"] == {"amortised": None, "marginal": 2 * numbers}
    (family / "fox.png").unlink()
    assert run_cli("eval", run, "--codes", codes) == 2
    assert "fox" in capsys.readouterr().err


def test_infer_pictures_of_another_size(fits: Any, tmp_path: Path) -> None:
    """They are brought to the size of the run."""
    _, run = fits("images")
    family = make_images(tmp_path / "new", ("fox",), side=32)
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 4) == 0
    assert run_cli("render", run, "--codes", codes, "--out", tmp_path / "fox.png") == 0  # the only scene
    with Image.open(tmp_path / "fox.png") as picture:
        assert picture.size == (SIDE, SIDE)


def test_unknown_scenes_of_codes(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 2) == 0
    out = ("--out", tmp_path / "x.png")
    assert "nearest names are dog" in refused("render", run, "--codes", codes, "--scene", "dug", *out)
    assert "give one of the 3" in refused("render", run, "--codes", codes, *out)
    model = run / "model.safetensors"
    assert "not a file of codes" in refused("render", run, "--codes", model, "--scene", "dog", *out)
    other = tmp_path / "other"
    assert run_cli("fit", family, "--out", other, *TINY, "--seed", 1) == 0
    assert "another run" in refused("render", other, "--codes", codes, "--scene", "dog", *out)
