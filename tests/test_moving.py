"""Morphs that move: motions against closed forms, and what lies between scenes that are somewhere else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hyperfields as hf
from hyperfields.errors import InputError
from hyperfields.evaluation.morph import ghost, total_variation
from hyperfields.fields import BoundField
from hyperfields.fields.flow import Flow, Level, places, register
from hyperfields.ops import BOX, Contracted
from hyperfields.runs.inferred import InferredCodes, write_codes
from hyperfields.runs.morphs import Morph, Walk
from hyperfields.tasks import morphs

from ._octahedra import run_of
from .cli._families import run_cli

pytestmark = pytest.mark.usefixtures("quick_morphs")  # what is asked of morphs here are balls

# ------------------------------------------------------------------------------------------------- motions


def test_a_velocity_that_turns_turns() -> None:
    """v = w x p carries points round the middle by the angle w t."""
    x = places(33, 2)
    turning = Flow(torch.stack((-x[..., 1], x[..., 0]), -1))
    points = torch.tensor([[0.5, 0.0], [0.1, -0.4]])
    for time in (0.0, 0.3, -0.8):
        c, s = math.cos(time), math.sin(time)
        turned = points @ torch.tensor([[c, s], [-s, c]])
        torch.testing.assert_close(turning.carried(points, time), turned, atol=5e-3, rtol=0)
    torch.testing.assert_close(turning.carried(turning.carried(points, 0.7), -0.7), points, atol=1e-3, rtol=0)
    there = turning.carried(turning.carried(points, 0.3), 0.4)
    torch.testing.assert_close(there, turning.carried(points, 0.7), atol=1e-3, rtol=0)


def distance(x: Tensor, center: tuple[float, ...], radius: float) -> Tensor:
    return (x - torch.tensor(center)).norm(dim=-1, keepdim=True) - radius


LEVELS = (Level(4, 13, 40),)


def test_a_ball_finds_a_ball() -> None:
    grid = places(25, 3)
    first, second = (-0.2, 0.0, 0.1), (0.15, 0.1, 0.0)
    balls = [distance(grid, center, 0.4) for center in (first, second)]
    flow = register(*balls, morphs.distance_mismatch, LEVELS, bending=1e-4)
    back = register(*balls[::-1], morphs.distance_mismatch, LEVELS, bending=1e-4)
    torch.testing.assert_close(back.velocity, -flow.velocity, atol=2e-3, rtol=0)  # neither is the first
    turned = torch.nn.functional.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    turned = torch.cat((turned, -turned))
    ends = flow.carried(0.4 * turned + torch.tensor(first), 1.0)
    assert float(distance(ends, second, 0.4).abs().max()) < 0.05
    assert float((ends.mean(0) - torch.tensor(second)).norm()) < 0.08


def test_mixed_distances_are_the_ends_at_the_ends_and_lie_between() -> None:
    a, b = torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(0))
    widest = (a - b) * 2.5
    torch.testing.assert_close(morphs.mixed_distance(a, b, widest, 0.0), a)
    torch.testing.assert_close(morphs.mixed_distance(a, b, widest, 1.0), b)
    torch.testing.assert_close(morphs.mixed_distance(a, b, a - b, 0.3), torch.lerp(a, b, 0.3))  # the plain blend
    mixed = morphs.mixed_distance(a, b, widest, 0.4)
    assert bool(((mixed >= torch.minimum(a, b)) & (mixed <= torch.maximum(a, b))).all())


def test_the_widest_difference_is_that_of_the_neighbourhood() -> None:
    difference = torch.zeros(9, 9, 9, 1)
    difference[4, 4, 4], difference[4, 4, 6] = 1.0, -0.01
    widest = morphs.widest_difference(difference, 2)
    assert float(widest[4, 4, 4]) == 1.0  # smoothed within the window
    assert float(widest[4, 4, 6]) < -0.3
    assert float(widest[0, 0, 0]) == 0.0


def test_distances_of_solids_fill_hollows() -> None:
    x = places(33, 3)
    shell = distance(x, (0.1, 0.0, 0.0), 0.5)[..., 0].abs() < 0.09
    found = morphs.solid_distances(shell, 0.2)
    wanted = distance(x, (0.1, 0.0, 0.0), 0.59)[..., 0].clamp(min=-0.2)
    assert float((found - wanted).abs().mean()) < 0.02
    assert float((found - wanted).abs().max()) < 0.1
    assert float(morphs.solid_distances(torch.zeros(5, 5, 5, dtype=torch.bool), 0.2).min()) > 2.0  # nothing is far


# --------------------------------------------------------------------------------- what lies between scenes


class Distance:
    """The distance from a ball, as a field of one scene."""

    kind, dims = "shapes", 3

    def __init__(self, x: float, radius: float) -> None:
        self.center, self.radius = (x, 0.0, 0.0), radius

    def __call__(self, weights: Any, x: Tensor, *rest: Tensor) -> Any:
        return distance(x, self.center, self.radius)


class Cloud(Distance):
    """The same as radiance: dense inside, of one grey."""

    kind, step, occupancy, space = "views", 0.025, 32, BOX

    def cell_density(self, weights: Any, y: Tensor, counts: Tensor | None = None) -> Tensor:
        return 400.0 * torch.sigmoid(-distance(y, self.center, self.radius) / 0.01)

    density = cell_density

    def visible_samples(self, *_: Any) -> None:
        return None

    def __call__(self, weights: Any, x: Tensor, *rest: Tensor) -> Any:
        return self.cell_density(weights, x), torch.full_like(x, self.radius)


class Disc(Distance):
    """A picture of a dark disc, x in [0, 1], on white."""

    kind, dims, channels = "images", 2, 3

    def __call__(self, weights: Any, x: Tensor, *rest: Tensor) -> Any:
        inside = torch.sigmoid(-distance(x - 0.5, self.center[:2], self.radius) / 0.01)
        return (1.0 - 0.8 * inside).expand(*x.shape[:-1], 3)


def bound(field: Any) -> BoundField:
    return BoundField(field, {"none": torch.zeros(1)}, 1)


def middle(weight: Tensor, x: Tensor) -> float:
    """The mean of the first coordinate."""
    return float((weight * x[..., :1]).sum() / weight.sum())


def test_a_shape_moves_where_a_blend_would_lose_it() -> None:
    """The distances of balls further apart than their radius have no negative mean."""
    first, second = bound(Distance(-0.3, 0.25)), bound(Distance(0.3, 0.35))
    morph, x = morphs.ShapeMorph(first, second), places(49, 3).reshape(1, -1, 3)
    assert not bool((torch.lerp(first(x), second(x), 0.5) < 0.0).any())
    assert torch.equal(morph.at(0.0)(x), first(x))
    assert torch.equal(morph.at(1.0)(x), second(x))
    for t, radius in ((0.25, 0.275), (0.5, 0.3), (0.75, 0.325)):
        inside = (morph.at(t)(x) < 0.0).float()
        assert middle(inside, x) == pytest.approx(-0.3 + 0.6 * t, abs=0.06)
        volume = float(inside.mean()) * 8.0
        assert volume == pytest.approx(4.0 / 3.0 * math.pi * radius**3, rel=0.35)
    packed = morph.at(0.5)(x[0, :70], torch.tensor([70]))
    torch.testing.assert_close(packed, morph.at(0.5)(x[:, :70])[0])
    near = x[:, ::501].clone().requires_grad_()  # rendering of normals and measures of slopes ask for it
    (slope,) = torch.autograd.grad(morph.at(0.5)(near).sum(), near)
    assert 0.5 < float(slope.norm(dim=-1).mean()) < 1.5
    there = morph.carried(torch.tensor([[-0.3, 0.25, 0.0]]), 1.0)
    torch.testing.assert_close(there, torch.tensor([[0.3, 0.35, 0.0]]), atol=0.2, rtol=0)
    torch.testing.assert_close(morph.carried(there, -1.0), torch.tensor([[-0.3, 0.25, 0.0]]), atol=0.01, rtol=0)


def test_radiance_moves_and_does_not_turn_to_fog() -> None:
    first, second = bound(Cloud(-0.25, 0.3)), bound(Cloud(0.25, 0.4))
    morph = morphs.RadianceMorph(first, second)
    camera = hf.orbit(1, radius=4.0, height=24, width=24)[0]
    rays = hf.Rays(*(part[None] for part in camera.rays()))
    task = hf.task_of("views")
    alphas = [task.render_rays(field, rays, cells=32).alpha for field in (first, morph.at(0.5), second)]
    fog = [ghost(alpha) for alpha in alphas]
    assert fog[1] < 1.2 * max(fog[0], fog[2])
    assert float(alphas[0].sum()) < float(alphas[1].sum()) < float(alphas[2].sum())
    x = places(33, 3).reshape(1, -1, 3)
    field = morph.at(0.5)
    density, color = field(x, torch.nn.functional.normalize(torch.ones_like(x), dim=-1))
    torch.testing.assert_close(density, field.density(x))
    solid = (density > 100.0).float()
    assert middle(solid, x) == pytest.approx(0.0, abs=0.06)
    assert float((solid * color[..., :1]).sum() / solid.sum()) == pytest.approx(0.35, abs=0.01)
    assert torch.equal(morph.at(0.0)(x, x)[0], first(x, x)[0])


def test_a_picture_moves_and_stays_sharp() -> None:
    first, second = bound(Disc(-0.2, 0.15)), bound(Disc(0.2, 0.2))
    morph, task = morphs.PictureMorph(first, second), hf.task_of("images")
    pictures = [task.picture(field, None, (48, 48)) for field in (first, morph.at(0.5), second)]
    assert float(pictures[1].min()) == pytest.approx(0.2, abs=0.02)  # a blend of discs apart is 0.6 in both
    x = ((torch.arange(48) + 0.5) / 48)[None, :, None]
    assert middle(1.0 - pictures[1][..., :1], x) == pytest.approx(0.5, abs=0.03)
    ends = float(total_variation(torch.stack(pictures[::2])).mean())
    assert float(total_variation(pictures[1][None])) < 1.05 * ends


class Speckled(Disc):
    """A disc at the centres of 32x32 pixels, and black half-way between them."""

    pixels = (32, 32)

    def __call__(self, weights: Any, x: Tensor, *counts: Tensor) -> Tensor:
        between = (torch.pi * (32.0 * x - 0.5)).sin().square().amax(-1, keepdim=True)
        return super().__call__(weights, x, *counts) * (1.0 - between)


def test_a_picture_that_is_known_at_the_centres_of_pixels_alone_moves_without_specks() -> None:
    pairs = [[bound(kind(-0.2, 0.15)), bound(kind(0.2, 0.2))] for kind in (Disc, Speckled)]
    clean, speckled = (morphs.PictureMorph(*pair) for pair in pairs)
    task = hf.task_of("images")
    for size in ((32, 32), (48, 48), (64, 64)):
        smooth, ours = (task.picture(morph.at(0.5), None, size) for morph in (clean, speckled))
        assert float((smooth - ours).abs().mean()) < 0.02
    # Near an end the picture is that of the end, enlarged in another way.
    ends = [task.picture(field, None, (64, 64)) for field in (speckled.at(1e-4), speckled.at(0.0))]
    torch.testing.assert_close(*ends, atol=0.05, rtol=0)


# ----------------------------------------------------------------------------------------- scenes and walks


def test_scenes_between_are_pictures_and_meshes(tmp_path: Path) -> None:
    run = run_of("shapes")
    morph = Morph(run["small"], run["big"])
    assert morph.at(0) is morph.first
    assert morph.at(1.0) is morph.second
    assert morph.at(np.float32(0.5)).name == morph.at(0.5).name
    scene = morph.at(0.5)
    assert float(scene.mesh(24).vertices.abs().sum(-1).max()) == pytest.approx(0.65, abs=0.03)
    assert scene.frame == (3.0, 0.5, 0.0, 2.5)  # half-way in the files, too: saved meshes do not jump at the ends
    other = run_of("shapes", small=0.5, plain=0.8)  # the second is where its file has it
    assert Morph(other["small"], other["plain"]).at(0.5).frame == (1.5, 0.5, 0.0, 0.0)
    scene.save(tmp_path / "x.png")
    assert not scene.fitted
    with pytest.raises(InputError, match="has none of its own; save a picture or a mesh"):
        scene.save(tmp_path / "x.safetensors")
    points = torch.tensor([[0.0, 0.0, 0.5]])
    back = morph.carried(morph.carried(points), back=True)
    torch.testing.assert_close(back, points, atol=0.01, rtol=0)
    torch.testing.assert_close(morph.carried(points.double()), morph.carried(points).double())
    for odd in (points.numpy(), points[:, :2], points.long()):
        with pytest.raises(InputError, match=r"came, wanted a tensor of points \[\.\.\. 3\], floating point"):
            morph.carried(odd)  # type: ignore[arg-type]
    for t in (-0.1, 1.5, float("nan"), "half"):
        with pytest.raises(InputError, match="wanted a number from 0, the first scene, to 1"):
            morph.at(t)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="from shapes to images"):
        Morph(run["small"], run_of("images", grey=0.5)["grey"])
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(InputError, match="networks and kernels are in float32"):
            Morph(run["small"], run["big"])
    finally:
        torch.set_default_dtype(torch.float32)
    views = run_of("views")
    field = dataclasses.replace(views["big"].field.field, space=Contracted())
    outdoors = hf.Scene(views, "all", views["big"].code, field=BoundField(field, views["big"].field.weights, 1))
    for pair in ((views["small"], outdoors), (outdoors, views["small"])):
        with pytest.raises(InputError, match="'small' fills the scene box, 'all' all of space; fit both with one"):
            Morph(*pair)
    with pytest.raises(InputError, match="wanted two scenes"):
        Morph("small", "big")  # type: ignore[arg-type]


def test_walks_go_through_their_scenes() -> None:
    run = run_of("images", dark=0.2, grey=0.3, light=0.9)
    for kind in ("moved", "codes"):
        walk = Walk([run[name] for name in run], kind)  # type: ignore[arg-type]
        greys = [float(run.task.picture(walk.at(place), None, (4, 4)).mean()) for place in (0.0, 0.5, 1.0, 1.75, 2.0)]
        assert greys == pytest.approx([0.2, 0.25, 0.3, 0.75, 0.9], abs=1e-3)
    for words, told in (
        ({"kind": "odd"}, "wanted 'moved' or 'codes'"),
        ({"mode": "smooth"}, "is of a path of codes"),
        ({"kind": "codes", "mode": "odd"}, "wanted 'lerp', 'slerp' or 'smooth'"),
    ):
        with pytest.raises(InputError, match=told):
            Walk([run[0], run[1]], **words)  # type: ignore[arg-type]
    for odd in (run, run[0], [], ["dark", "light"]):
        with pytest.raises(InputError, match=r"wanted a list of scenes, such as \[run\[0\], run\[1\]\]"):
            Walk(odd)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--frames 2\.5: wanted a whole number"):
        hf.interpolate_run([run[0], run[1]], "x.gif", frames=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a walk is between two or more"):
        Walk([run[0]])


def test_codes_are_of_one_run() -> None:
    """Those of another run would be read as codes of the first."""
    scenes = [run_of("images", dark=0.2)["dark"], run_of("images", light=0.9)["light"]]
    with pytest.raises(InputError, match="scene 'light': is of another run than 'dark'"):
        Walk(scenes, "codes")
    assert float(scenes[0].run.task.picture(Walk(scenes).at(0.5), None, (4, 4)).mean()) == pytest.approx(0.55, abs=1e-3)


def test_walks_over_scenes_with_weights_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of refined scenes codes say too little: they move, with their weights, or are refused."""
    run = run_of("images", dark=0.2, light=0.9).save(tmp_path / "run")
    own = {name: torch.zeros(2, *entry.shape) for name, entry in run.model.config.field.spec.items()}
    own["mlp.0.bias"] += 0.1
    write_codes(tmp_path / "new.safetensors", InferredCodes(run, ("x", "y"), run.codes("dark", "light"), own))
    words = ["interpolate", run.path, "x", "y", "--codes", tmp_path / "new.safetensors", "--frames", 2]
    assert run_cli(*words, "--out", tmp_path / "walk") == 0
    greys = [float(torch.from_numpy(np.asarray(Image.open(p)).copy()).float().mean()) / 255 for p in
             sorted((tmp_path / "walk").iterdir())]  # fmt: skip
    assert greys == pytest.approx([0.3, 1.0], abs=0.01)
    capsys.readouterr()
    assert run_cli(*words, "--morph", "codes", "--out", tmp_path / "no") == 2
    assert "has weights of its own" in capsys.readouterr().err
    assert run_cli(*words, "--mode", "slerp", "--out", tmp_path / "no") == 2
    assert "mode 'slerp': is of a path of codes" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
