"""Colours and marked points of one scene on another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.errors import InputError
from hyperfields.runs.marks import read_marks
from hyperfields.runs.morphs import Morph

from ._octahedra import PICTURES, run_of
from .cli._families import run_cli

pytestmark = pytest.mark.usefixtures("quick_morphs")


def test_a_picture_has_the_colours_of_another() -> None:
    run = run_of("images", dark=0.2, light=0.9)
    painted = Morph(run["light"], run["dark"]).painted()
    assert float(painted.render(size=8).mean()) == pytest.approx(0.9, abs=1e-3)
    shapes = run_of("shapes")
    morph = Morph(shapes["small"], shapes["big"])
    with pytest.raises(InputError, match="shapes have no colours"):
        morph.painted()


def test_radiance_has_the_form_of_one_and_the_colours_of_another(tmp_path: Path) -> None:
    run = run_of("views")
    blue = run.codes("small").clone()
    start = blue.shape[1] - 3  # the last weights are the bias of the colours
    assert blue[0, start:].tolist() == [2.0, -2.0, -2.0]
    with torch.no_grad():
        run.model.latents.codes[run.index("small"), start:] = torch.tensor([-2.0, -2.0, 2.0])
    painted = Morph(run["small"], run["big"]).painted()
    wanted = run["big"].render(size=20)
    shown = painted.render(size=20)
    covered = [(picture.mean(-1) < 0.8).float() for picture in (shown, wanted)]
    assert float((covered[0] - covered[1]).abs().mean()) < 0.03
    inside = shown[9:11, 9:11].mean((0, 1))
    assert float(inside[2]) > 0.8 > 0.2 > float(inside[0])
    folder = run.save(tmp_path / "run").path
    assert run_cli("transfer", folder, "small", "big", "--out", tmp_path / "x.png", "--size", "12x12") == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert np.asarray(picture)[6, 6, 2] > 200


def test_points_are_carried_in_the_coordinates_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tips of an octahedron of radius 0.5, twice as large and shifted in its file, are found on one of 0.8."""
    folder = run_of("shapes").save(tmp_path / "run").path
    frames = PICTURES["shapes"]["frames"]
    assert (frames["small"], frames["big"]) == ([2.0, 1.0, 0.0, 0.0], [4.0, 0.0, 0.0, 5.0])
    marks, out = tmp_path / "marks.txt", tmp_path / "found.csv"
    marks.write_text("# tips\n1 0 1\n\n1, 1.0, 0\n")  # (0, 0, 0.5) and (0, 0.5, 0) in the box
    assert run_cli("transfer", folder, "small", "big", "--points", marks, "--out", out) == 0
    assert "found.csv: 2 points" in capsys.readouterr().out
    found = np.loadtxt(out, delimiter=",")
    wanted = np.array([[0.0, 0.0, 5.0 + 4.0 * 0.8], [0.0, 4.0 * 0.8, 5.0]])
    assert np.abs(found - wanted).max() < 4.0 * 0.15
    for text, told in (
        ("1 2\n", "line 1: '1 2' came, wanted 3 numbers"),
        ("a b c\n", "wanted 3 numbers"),
        ("1 nan 2\n", "wanted 3 numbers"),
        ("# no\n", "holds no points"),
        ("9 9 9\n", "9 9 9 lies outside of 'small'"),
    ):
        marks.write_text(text)
        assert run_cli("transfer", folder, "small", "big", "--points", marks, "--out", tmp_path / "no.txt") == 2
        assert told in capsys.readouterr().err
    assert run_cli("transfer", folder, "small", "big", "--points", marks, "--out", tmp_path / "no.png") == 2
    assert ".png cannot hold points" in capsys.readouterr().err
    assert run_cli("transfer", folder, "small", "big", "--out", tmp_path / "no.png") == 2
    assert "shapes have no colours" in capsys.readouterr().err
    words = ("--points", marks, "--out", tmp_path / "no.txt", "--orbit", 3)
    assert run_cli("transfer", folder, "small", "big", *words) == 2
    assert "leave --orbit and --size out" in capsys.readouterr().err
    assert not list(tmp_path.glob("no.*"))
    with pytest.raises(InputError, match="cannot be read as text"):
        read_marks(tmp_path / "none.txt", 3)
