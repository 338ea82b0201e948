"""Walks through latent space: curves, even timing, sums of codes, and what `latents` tells of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.codes import interpolate
from hyperfields.codes.expressions import terms
from hyperfields.codes.paths import even_places, path_at
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.evaluation.latents import contact_sheet, describe_latents, draw_codes, format_latents
from hyperfields.runs import morphs
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.morphs import Walk
from hyperfields.runs.render import interpolate_run
from hyperfields.runs.scene import Scene
from hyperfields.runs.timing import timed_places
from hyperfields.training.fit import fit
from hyperfields.training.inference import new_code

from ._octahedra import run_of
from .cli._families import run_cli


def mean(path: Path) -> float:
    """Of the pixels of a picture, in [0, 1]."""
    with Image.open(path) as image:
        return float(np.asarray(image).mean()) / 255.0


# ------------------------------------------------------------------------------------------------------- curves


def test_a_smooth_path_has_no_corners_and_passes_all_codes() -> None:
    codes = torch.randn(5, 6, dtype=torch.float64) * torch.tensor([[1.0], [0.2], [3.0], [1.0], [1.0]])
    torch.testing.assert_close(path_at(codes, torch.arange(5.0), "smooth"), codes)
    for stop in (1.0, 2.0, 3.0):
        before, here, after = path_at(codes, torch.tensor([stop - 1e-4, stop, stop + 1e-4]).double(), "smooth")
        ahead, behind = after - here, here - before
        cosine = (ahead @ behind) / (ahead.norm() * behind.norm())
        assert float(cosine) == pytest.approx(1.0, abs=1e-5)  # directions, not lengths: the parameter is per stretch


def test_a_smooth_path_along_a_line_is_straight() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    torch.testing.assert_close(interpolate(codes, 9, "smooth"), interpolate(codes, 9))
    torch.testing.assert_close(interpolate(codes[:2], 5, "smooth"), interpolate(codes[:2], 5))
    assert torch.isfinite(interpolate(codes[[0, 0, 1]], 9, "smooth")).all()


def test_even_places_invert_the_way() -> None:
    """Of x^2 at tenths, even places are about the roots."""
    steps = (torch.linspace(0.0, 1.0, 101) ** 2).diff()
    torch.testing.assert_close(even_places(steps, 11), torch.linspace(0.0, 1.0, 11).sqrt(), atol=5e-3, rtol=0)
    even = torch.linspace(0.0, 1.0, 5)
    for still in (torch.zeros(4), torch.tensor([1.0, float("nan")])):
        torch.testing.assert_close(even_places(still, 5), even)


def test_even_timing_shows_even_changes(tmp_path: Path) -> None:
    """Greys 0.2, 0.3, 0.9: the first stretch is a seventh of the way."""
    run = run_of("images", dark=0.2, grey=0.3, light=0.9)
    scenes = [run[name] for name in run]

    def greys(timing: str) -> list[float]:
        out = tmp_path / timing
        interpolate_run(scenes, out, frames=5, morph="codes", timing=timing)  # type: ignore[arg-type]
        return [mean(p) for p in sorted(out.iterdir())]

    assert greys("even") == pytest.approx([0.2, 0.375, 0.55, 0.725, 0.9], abs=0.012)
    assert greys("linear") == pytest.approx([0.2, 0.25, 0.3, 0.6, 0.9], abs=0.004)
    walk = Walk(scenes, "codes")
    assert timed_places(walk, 5)[::4] == [0.0, 2.0]
    with pytest.raises(InputError, match="timing 'odd': wanted 'even' or 'linear'"):
        timed_places(walk, 5, timing="odd")


def test_a_walk_finds_what_moves_once_and_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, found, looks = run_of("images", a=0.1, b=0.4, c=0.6, d=0.9), [], []

    class Still(morphs.Morph):
        def __init__(self, first: Scene, second: Scene) -> None:
            found.append(first.name)
            self.first = first

        def at(self, t: float) -> Scene:
            return self.first

    monkeypatch.setattr(morphs, "Morph", Still)
    for kept, expected in ((64, "abc"), (2, "abcbc")):  # a and c are kept, until b is needed again
        monkeypatch.setattr(morphs, "KEPT", kept)
        found.clear()
        looks.clear()
        scenes = [run[name] for name in run]
        interpolate_run(scenes, tmp_path / f"{kept}", frames=24, looks=lambda *count: looks.append(count))
        assert "".join(found) == expected
        assert looks == [(look, 25) for look in range(1, 26)]


# -------------------------------------------------------------------------------------------------- expressions


def test_terms() -> None:
    names = ("a", "b", "a - b", "k_tractor-shovel", "two words", "caf\u00e9")
    assert terms("a - b", names) == [(1.0, "a - b")]  # a name first
    assert terms("b + a - b - a", names) == [(1.0, "b"), (1.0, "a - b"), (-1.0, "a")]  # in sums, too
    assert terms("b - a + two words", names) == [(1.0, "b"), (-1.0, "a"), (1.0, "two words")]
    assert terms("k_tractor-shovel", names) == [(1.0, "k_tractor-shovel")]
    assert terms("a + cafe\u0301", names) == [(1.0, "a"), (1.0, "caf\u00e9")]
    assert terms("a-b", names) == [(1.0, "a-b")]


def test_sums_are_of_codes() -> None:
    run = run_of("images", dark=0.2, grey=0.3, light=0.9)
    made = run["light - grey + dark"]
    torch.testing.assert_close(made.code, run.codes("light") - run.codes("grey") + run.codes("dark"))
    assert float(made.render(size=8).mean()) == pytest.approx(0.8, abs=1e-3)
    assert run["grey"].fitted
    with pytest.raises(InputError, match="scene 'lihgt': not in this run; the nearest names are light"):
        run["dark + lihgt"]
    beyond = run.between("light - grey + dark", "grey", 1.5)
    torch.testing.assert_close(beyond.code, 1.5 * run.codes("grey") - 0.5 * made.code)
    inferred = InferredCodes(run, ("x", "y"), run.codes("dark", "light"))
    torch.testing.assert_close(inferred["x - y"].code, run.codes("dark") - run.codes("light"))
    torch.testing.assert_close(inferred["y"].render(size=8), run["light"].render(size=8))
    assert (len(inferred), list(inferred)) == (2, ["x", "y"])
    with pytest.raises(InputError, match="scene 'z': not among the inferred ones; the nearest names are"):
        inferred["z"]
    with pytest.raises(InputError, match="scene 0: wanted a name"):
        inferred[0]  # type: ignore[index]
    weight, value = next(iter(run.bind("dark", "light").weights.items()))
    refined = InferredCodes(run, ("x", "y"), run.codes("dark", "light"), {weight: torch.zeros_like(value)})
    with pytest.raises(InputError, match="have weights of their own"):
        refined["x - y"]


def test_scenes_that_were_fitted_alone_have_no_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Images(torch.tensor([0.2, 0.4, 0.8]).reshape(3, 1, 1, 1).expand(3, 4, 4, 3), ("a", "b", "c"))
    run = fit(data, tmp_path / "run", steps=3, individually=True, progress=False)
    assert run["a"].render().shape == (4, 4, 3)
    refused = "scene 'a - b': is a sum of codes, and the scenes of .* were fitted each alone"
    for ask in (lambda: run["a - b"], lambda: run.codes("c", "a - b"), lambda: run.between("a - b", "c", 0.5)):
        with pytest.raises(InputError, match=refused):
            ask()
    with pytest.raises(InputError, match="fitted each alone, so that their codes have nothing in common"):
        Walk([run["a"], run["b"]], "codes")
    with pytest.raises(InputError, match=r"sample 1: the scenes of .* were fitted each alone"):
        new_code(run, 1)
    assert run_cli("render", run.path, "--scene", "a - b", "--out", tmp_path / "no.png") == 2
    said = capsys.readouterr().err
    assert "fitted each alone" in said
    assert said.count("\n") == 1
    with pytest.raises(InputError, match="scene 'x': not in"):
        run["a - x"]


def test_sums_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("images", dark=0.2, grey=0.3, light=0.9).save(tmp_path / "run").path
    assert run_cli("render", run, "--scene", "light - grey + dark", "--out", tmp_path / "sum.png") == 0
    assert mean(tmp_path / "sum.png") == pytest.approx(0.8, abs=0.01)
    out = tmp_path / "walk"
    words = ("dark", "light - grey + dark", "--morph", "codes", "--mode", "smooth", "--frames", 3)
    assert run_cli("interpolate", run, *words, "--out", out) == 0
    greys = [mean(p) for p in sorted(out.iterdir())]
    assert greys == pytest.approx([0.2, 0.5, 0.8], abs=0.01)
    capsys.readouterr()
    assert run_cli("render", run, "--scene", "light - dark", "--out", tmp_path / "no.png", "--uncertainty") == 2
    assert "is no fitted scene" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


# ------------------------------------------------------------------------------------------------------ latents


def test_draws_stay_where_scenes_are() -> None:
    """Of two far groups, none is drawn between them, where a single Gaussian is densest."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(40, 3, generator=generator) * 0.1
    codes[:20, 0] += 5.0
    codes[20:, 0] -= 5.0
    drawn = draw_codes(codes, 500, generator)
    assert float(drawn[:, 0].abs().min()) > 4.0
    assert 0.02 < float((drawn[:, 1]).std()) < 0.15
    assert torch.equal(draw_codes(codes, 3, torch.Generator().manual_seed(1)),
                       draw_codes(codes, 3, torch.Generator().manual_seed(1)))  # fmt: skip


def test_latents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("images", dark=0.2, grey=0.3, light=0.9)
    report = describe_latents(run, samples=4, seed=2)
    assert sum(axis["share"] for axis in report["axes"]) == pytest.approx(1.0)
    assert report["scene"] == "grey"  # nearest to the mean
    assert [row["scene"] for row in report["neighbours"]] == ["dark", "light"]
    ends = {report["axes"][0]["least"], report["axes"][0]["most"]}
    assert ends == {"dark", "light"}
    text = format_latents(report)
    assert "near grey" in text
    sheet = contact_sheet(run, report, run["grey"])
    rows = len(report["axes"]) + 3
    assert sheet.shape[0] % rows == 0
    middle = sheet[sheet.shape[0] // rows // 2, sheet.shape[1] // 2]  # of the first axis: the mean of the codes
    assert float(middle.mean()) == pytest.approx(float(scene_mean(run)), abs=0.02)
    folder, out, picture = run.save(tmp_path / "run").path, tmp_path / "latents.json", tmp_path / "sheet.png"
    words = ("--scene", "light - grey + dark", "--samples", 2, "--sheet", picture, "--out", out)
    assert run_cli("latents", folder, *words) == 0
    assert json.loads(out.read_text())["neighbours"][0]["scene"] == "light"
    with Image.open(picture) as image:
        assert image.height > 90
    capsys.readouterr()
    assert run_cli("latents", folder, "--axes", 0) == 2
    assert "--axes 0: wanted at least 1" in capsys.readouterr().err


def scene_mean(run) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Grey of the scene at the mean of all codes."""
    field = run.model.bind(run.codes(*run.names).mean(0, keepdim=True))
    return run.task.picture(field, None, (8, 8)).mean()
