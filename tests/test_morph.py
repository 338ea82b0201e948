"""Figures of morphs, against surfaces and pictures whose figures can be written down."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays, orbit
from hyperfields.errors import InputError
from hyperfields.evaluation import morph
from hyperfields.evaluation.surfaces import Surface, apart, slope_error, surface_of
from hyperfields.fields import BoundField
from hyperfields.rendering.meshing import grid_values
from hyperfields.runs.run import load_run
from hyperfields.runs.scene import Scene
from hyperfields.tasks import task_of

from ._analytic import FAMILIES
from .cli._families import run_cli

pytestmark = pytest.mark.usefixtures("quick_morphs")
pytest.importorskip("skimage", reason="scikit-image (hyperfields[shapes]) is missing", exc_type=ImportError)


class Ball(BoundField):
    """The distance from a ball as a bound field of one shape."""

    def __init__(self, x: float, radius: float, slope: float = 1.0) -> None:
        super().__init__(None, {"none": torch.zeros(1)}, 1)
        self.center, self.radius, self.slope = torch.tensor([x, 0.0, 0.0]), radius, slope

    def __call__(self, points: Tensor, *counts: Tensor | None) -> Tensor:
        return self.slope * ((points - self.center).norm(dim=-1, keepdim=True) - self.radius)


def torus(points: Tensor) -> Tensor:
    ring = torch.stack((points[..., :2].norm(dim=-1) - 0.5, points[..., 2]), -1)
    return ring.norm(dim=-1, keepdim=True) - 0.2


def surface(*fields: Callable[[Tensor], Tensor], cells: int = 48) -> Surface:
    """Of the union of distance functions."""
    return surface_of(grid_values(lambda x: torch.stack([f(x) for f in fields]).amin(0), cells))


def balls(*scenes: tuple[float, float]) -> Any:
    """A run of balls (x, radius), between which balls move and grow evenly."""
    names = tuple(map(str, range(len(scenes))))
    places = dict(zip(names, scenes, strict=True))

    def between(first: str, second: str, t: float) -> Any:
        (x, radius), (other, another) = places[first], places[second]
        return SimpleNamespace(field=Ball(x + t * (other - x), radius + t * (another - radius)))

    class Balls(SimpleNamespace):
        def __getitem__(self, name: str) -> Scene:
            return Scene(self, name, torch.zeros(1, 1), field=Ball(*places[name]))  # type: ignore[arg-type]

    return Balls(
        names=names, kind="shapes", label="balls", task=task_of("shapes"), between=between,
        bind=lambda name: Ball(*places[name]), config=SimpleNamespace(picture={}),
    )  # fmt: skip


def test_surfaces_have_the_parts_holes_and_volumes_of_their_solids() -> None:
    one, two, ring = surface(Ball(0.0, 0.5)), surface(Ball(-0.5, 0.3), Ball(0.5, 0.3)), surface(torus)
    assert [(s.parts, s.euler) for s in (one, two, ring)] == [(1, 2), (2, 4), (1, 0)]
    assert surface(Ball(-0.1, 0.3), Ball(0.1, 0.3)).parts == 1
    hollow = surface_of(grid_values(lambda x: (Ball(0.0, 0.5)(x)).abs() - 0.1, 48))
    assert (hollow.parts, hollow.euler) == (2, 4)  # a cavity is a part of the surface
    assert one.volume == pytest.approx(4.0 / 3.0 * math.pi * 0.5**3, rel=0.01)
    assert ring.volume == pytest.approx(2.0 * math.pi**2 * 0.5 * 0.2**2, rel=0.02)


@pytest.mark.parametrize(("x", "radius"), [(0.0, 0.45), (0.004, 0.5), (0.3, 0.4), (0.45, 0.5)])
def test_distances_of_balls(x: float, radius: float) -> None:
    """Points of a sphere of radius r are | |p - c| - R | from another, and far finer than a cell of 0.042."""
    a, b = surface(Ball(0.0, 0.5)), surface(Ball(x, radius))
    cosine = torch.linspace(-1.0, 1.0, 10001, dtype=torch.float64)
    both = [
        ((r * r + x * x + 2.0 * r * x * cosine).sqrt() - other).abs() for r, other in ((0.5, radius), (radius, 0.5))
    ]
    found = apart(a, b)
    assert found.chamfer == pytest.approx(sum(float(part.mean()) for part in both) / 2, rel=0.03, abs=1e-4)
    assert found.hausdorff == pytest.approx(max(float(part.max()) for part in both), rel=0.03, abs=1e-3)
    assert apart(b, a) == pytest.approx(found)


def test_slopes_are_those_of_the_field() -> None:
    generator = torch.Generator().manual_seed(0)
    for slope, wanted in ((1.0, 0.0), (1.3, 0.3), (0.6, 0.4)):
        ball = Ball(0.1, 0.5, slope)
        found = slope_error(ball, surface_of(grid_values(ball, 32)), generator)
        assert found == pytest.approx(wanted, abs=1e-5)
    assert slope_error(Ball(0.0, 0.5), surface(Ball(0.0, -1.0)), generator) is None


def test_balls_that_move_are_straight_and_even_and_their_blend_is_not() -> None:
    report = morph.measure_morphs(balls((-0.3, 0.35), (0.3, 0.35)))
    figures = report["figures"]
    assert report["notes"] == ["pairs: 1, all that 2 scenes have"]
    for name, wanted in (("parts", 1.0), ("euler", 0.0), ("slope", 0.0), ("volume", 0.0), ("largest_step", 1 / 32)):
        assert figures[name]["codes"] == pytest.approx(wanted, abs=5e-3)
    # A step of s moves a point by s |cos| on the mean, all the way is not twice as far for each of both halves.
    step = 0.6 / 32
    cosine = torch.linspace(-1.0, 1.0, 10001, dtype=torch.float64)
    ends = float(((0.35**2 + 0.6**2 + 0.7 * 0.6 * cosine).sqrt() - 0.35).abs().mean())
    assert figures["way"]["ends"] == pytest.approx(ends, rel=0.03)
    assert figures["way"]["codes"] == pytest.approx(32 * step / 2 / ends, rel=0.03)
    # (|p - a| + |p - b|) / 2 = r is an ellipsoid of half axes r and sqrt(r^2 - 0.3^2): it has half the volume and less.
    volumes = [0.35**3 * 4.0 / 3.0 * math.pi, 0.35 * (0.35**2 - 0.3**2) * 4.0 / 3.0 * math.pi]
    assert figures["volume"]["ends"] == pytest.approx(volumes[0], rel=0.01)
    assert figures["volume"]["blend"] > 0.5 * (1.0 - volumes[1] / volumes[0])
    assert figures["slope"]["blend"] > 0.2
    for name in ("slope", "volume", "largest_step"):
        assert figures[name]["moved"] < 0.5 * figures[name]["blend"]
    assert figures["largest_step"]["blend"] > 2.0 * figures["largest_step"]["codes"]


def test_a_blend_without_a_surface_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Half-way between balls further apart than their radius, no mixed distance is negative."""
    report = morph.measure_morphs(balls((-0.5, 0.2), (0.5, 0.2)))
    assert report["figures"]["parts"] == {"moved": None, "codes": None, "blend": None, "ends": None}
    assert report["pairs"][0]["figures"]["parts"]["codes"] == 1.0
    text = morph.format_morphs(report)
    assert "n/a" in text


def test_pairs_are_drawn_once_each() -> None:
    every = morph.draw_pairs(7, 100, 0)
    assert len(set(every)) == 21 == len(every)
    assert all(0 <= smaller < larger < 7 for larger, smaller in every)
    assert morph.draw_pairs(50, 5, 1) == morph.draw_pairs(50, 5, 1) != morph.draw_pairs(50, 5, 2)
    with pytest.raises(InputError, match="--pairs 0"):
        morph.measure_morphs(balls((0.0, 0.2), (0.0, 0.3)), pairs=0)
    with pytest.raises(InputError, match="holds one scene"):
        morph.measure_morphs(balls((0.0, 0.2)))


def test_total_variation_of_pictures() -> None:
    """A step of height 1 in 8 columns is one of 7 differences of each row; stripes are all of them."""
    step, stripes = torch.zeros(8, 8, 3), torch.zeros(8, 8, 3)
    step[:, 4:], stripes[:, ::2] = 1.0, 1.0
    found = morph.total_variation(torch.stack((step, stripes, 0.5 * (step + step.transpose(0, 1)))))
    torch.testing.assert_close(found, torch.tensor([1 / 7, 1.0, 1 / 7]))


def test_ghosts() -> None:
    assert morph.ghost(torch.tensor([0.0, 1.0, 1.0])) == 0.0
    assert morph.ghost(torch.tensor([0.5, 0.5, 0.0])) == pytest.approx(2.0)
    assert math.isnan(morph.ghost(torch.zeros(3)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from hyperfields.runs.config import FitSettings
    from hyperfields.training.fit import Fit

    @functools.cache
    def get(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind) / "run"
        Fit(FAMILIES[kind], folder, FitSettings(steps=3, preset="tiny")).run()  # type: ignore[index]
        return folder

    return get


def test_the_blend_of_radiance(runs: Callable[[str], Path]) -> None:
    """With itself a field stays what it is; at the ends a blend is these; between it is as dense as the mean."""
    run = load_run(runs("views"))
    a, b = run.bind("red"), run.bind("blue")
    rays = Rays(*(part[None] for part in orbit(1, radius=3.0, height=8, width=8)[0].rays()))
    for fields, t, wanted in (((a, a), 0.3, a), ((a, b), 0.0, a), ((a, b), 1.0, b)):
        shown, truth = morph.render_blend(*fields, t, rays), run.task.render_rays(wanted, rays)
        torch.testing.assert_close(shown.rgb, truth.rgb, atol=2e-3, rtol=0)
        torch.testing.assert_close(shown.alpha, truth.alpha, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["images", "views"])
def test_the_command(
    kind: str, runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import json

    class Mean(torch.nn.Module):
        """A distance between pictures, instead of LPIPS: pictures of a straight way have even steps."""

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean((1, 2, 3))

        def require_size(self, height: int, width: int) -> None:
            """Any."""

    monkeypatch.setattr(morph, "load_lpips", lambda net, weights: Mean())
    monkeypatch.setattr(morph, "PICTURE_STEPS", 4)
    monkeypatch.setattr(morph, "CAMERAS", 1)
    run, out = runs(kind), tmp_path / "morph.json"
    assert run_cli("eval", run, "--morph", "--pairs", 1, "--seed", 3, "--out", out) == 0
    assert "mean of 1 pair " in capsys.readouterr().out
    report = json.loads(out.read_text())
    figures = report["figures"]
    assert list(figures) == [figure.name for figure in morph._measure_of(load_run(run), 0, None).figures]
    assert all(value is not None for name in figures for side, value in figures[name].items() if side != "ends")
    if kind == "images":
        assert figures["ppl"]["blend"] == pytest.approx(figures["ppl"]["ends"], rel=1e-3)
        assert figures["pdv"]["blend"] == pytest.approx(0.0, abs=1e-9)
        assert figures["variation"]["blend"] <= 1.0 + 1e-6  # a norm
        again = tmp_path / "again.json"
        assert run_cli("eval", run, "--morph", "--pairs", 1, "--seed", 3, "--out", again) == 0
        assert json.loads(again.read_text()) == report
    capsys.readouterr()
    for words, told in ((("--morph", "--split", "test"), "--split: is not of --morph"), (("--pairs", 3), "--morph")):
        assert run_cli("eval", run, *words) == 2
        assert told in capsys.readouterr().err
