"""Several radiance scenes in one picture, against closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields import ops
from hyperfields.cameras import Rays, orbit
from hyperfields.errors import InputError
from hyperfields.rendering.composition import Composition, Placement, render_union, turned
from hyperfields.runs.config import FitSettings
from hyperfields.training.fit import Fit

from ._analytic import Balls
from .cli._families import run_cli

RED, GREEN = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


class Fog:
    """A bound field: the scene box full of fog of one density and colour."""

    scenes, device = 1, torch.device("cpu")

    def __init__(self, density: float, color: Tensor, space: Any = ops.BOX) -> None:
        self.amount, self.color, self.space, self.step = density, color, space, 0.02
        self.field = self

    def occupancy(self, cells: int) -> Tensor:
        return torch.ones(1, cells, cells, cells, dtype=torch.bool)

    def visible_samples(self, *_: Any) -> None:
        return None

    def __call__(self, x: Tensor, d: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        assert int(counts.sum()) == len(x)
        assert float(x.abs().max()) <= 1.0 + 1e-4
        assert torch.allclose(d.norm(dim=-1), torch.ones(len(d)), atol=1e-5)
        return torch.full((len(x), 1), self.amount), self.color.expand(len(x), 3)


def along_x(*heights: float, start: float = -10.0) -> Rays:
    """Rays that go in +X, `[1 r 3]`."""
    origins = torch.tensor([[start, 0.03, height] for height in heights])
    return Rays(origins[None], torch.tensor([1.0, 0.0, 0.0]).expand(1, len(heights), 3).contiguous())


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_nearer_hides_what_is_further(swapped: bool, order: tuple[int, int]) -> None:
    near, far = (Fog(1.5, GREEN), Fog(0.7, RED)) if swapped else (Fog(0.7, RED), Fog(1.5, GREEN))
    # Side 1 and side 4, 5 apart: lengths 1 and 4 of a ray.
    parts = [(near, Placement((-3.0, 0.0, 0.0), scale=0.5)), (far, Placement((2.0, 0.0, 0.0), scale=2.0))]
    rendered = render_union([parts[i] for i in order], along_x(0.1, 1.0, 5.0), cells=16)
    first, second = 1.0 - math.exp(-near.amount * 1.0 / 0.5), 1.0 - math.exp(-far.amount * 4.0 / 2.0)
    both = first * near.color + (1.0 - first) * second * far.color
    torch.testing.assert_close(rendered.rgb[0, 0], both, atol=2e-3, rtol=0.0)
    torch.testing.assert_close(rendered.rgb[0, 1], second * far.color, atol=2e-3, rtol=0.0)  # beside the small one
    assert rendered.alpha[0].tolist() == pytest.approx([first + (1.0 - first) * second, second, 0.0], abs=2e-3)
    assert math.isinf(float(rendered.depth[0, 2]))


def test_depth_is_that_of_the_world() -> None:
    parts = [(Fog(1e4, RED), Placement((3.0, 0.0, 0.0), turned(45.0), 2.0))]
    rendered = render_union(parts, along_x(0.0), cells=16)
    # The edge of a box of half side 2 that is turned by 45 degrees; the ray passes 0.03 beside it.
    assert float(rendered.depth[0, 0]) == pytest.approx(13.0 - 2.0 * math.sqrt(2.0) + 0.03, abs=0.05)


def test_densities_add_up_where_boxes_overlap() -> None:
    parts = [(Fog(0.4, RED), Placement()), (Fog(0.6, GREEN), Placement((1.0, 0.0, 0.0)))]
    rendered = render_union(parts, along_x(0.0), cells=16)
    assert float(rendered.alpha[0, 0]) == pytest.approx(1.0 - math.exp(-2.0 * (0.4 + 0.6)), abs=2e-3)
    # 1 of red alone, 1 of both, 1 of green alone
    alone = 1.0 - math.exp(-0.4)
    mixed = math.exp(-0.4) * (1.0 - math.exp(-1.0))
    assert float(rendered.rgb[0, 0, 0]) == pytest.approx(alone + 0.4 * mixed, abs=6e-3)
    assert float(rendered.rgb[0, 0, 1]) == pytest.approx(
        0.6 * mixed + math.exp(-1.4) * (1.0 - math.exp(-0.6)), abs=6e-3
    )


def test_placements_are_rigid_and_scaled() -> None:
    placement = Placement((1.0, 2.0, 3.0), turned(90.0), 2.0)
    point = torch.tensor([0.5, 0.0, 0.25])
    world = 2.0 * torch.tensor(placement.rotation) @ point + torch.tensor(placement.position)
    assert world.tolist() == pytest.approx([1.0, 3.0, 3.5])
    rays = placement.into(Rays(world[None, None], torch.tensor([[[0.0, 1.0, 0.0]]])))
    torch.testing.assert_close(rays.origins[0, 0], point)
    torch.testing.assert_close(rays.directions[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    for wrong in ({"scale": 0.0}, {"position": (math.nan, 0.0, 0.0)}, {"rotation": ((1.0, 0.0, 0.0),) * 3}):
        with pytest.raises(InputError, match="placement"):
            Placement(**wrong)  # type: ignore[arg-type]
    mirrored = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    with pytest.raises(InputError, match="do not mirror"):
        Placement(rotation=mirrored)


def test_one_background_at_most() -> None:
    endless = Fog(0.1, RED, ops.Contracted())
    with pytest.raises(InputError, match="2 scenes fill all of space"):
        Composition([(endless, Placement())] * 2)
    Composition([(endless, Placement()), (Fog(0.1, GREEN), Placement())])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("balls") / "run"
    Fit(Balls(), path, FitSettings(steps=40, preset="tiny")).run()
    return path


def test_scenes_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = hf.load_run(run)
    red, green = loaded["red"], loaded["green"]
    camera = orbit(1, radius=3.0, height=16, width=16)[0]
    alone = hf.compose([red]).render(camera)
    torch.testing.assert_close(alone, red.render(camera), atol=2e-3, rtol=0.0)
    both = hf.compose([(red, hf.Placement((-1.2, 0.0, 0.0))), (green, hf.Placement((1.2, 0.0, 0.0), turned(30.0)))])
    assert both.render(size=24).shape == (24, 24, 3)
    assert both.render(size=24, channel="depth").shape == (24, 24, 3)
    with pytest.raises(InputError, match="several scenes together give rgb, depth"):
        both.render(size=24, channel="normals")
    with pytest.raises(InputError, match="mesh each of them"):
        both.mesh()
    street = tmp_path / "street.json"
    scenes = [{"run": str(run), "scene": "red"}, {"run": str(run), "scene": "green", "position": [2, 0, 0], "turn": 90}]
    street.write_text(json.dumps({"scenes": scenes}))
    assert run_cli("render", "--compose", street, "--out", tmp_path / "street.png", "--size", "24x24") == 0
    assert (tmp_path / "street.png").is_file()
    for change, match in (
        ({"colour": 1}, "key 'colour' is unknown"),
        ({"scale": -1}, "one above 0"),
        ({"position": [1, 2]}, "wanted x y z"),
        ({"turn": 1, "rotation": []}, "one of the two"),
        ({"scene": "gone"}, "gone"),
    ):
        street.write_text(json.dumps({"scenes": [{**scenes[0], **change}]}))
        capsys.readouterr()
        assert run_cli("render", "--compose", street, "--out", tmp_path / "b.png") == 2
        assert match in capsys.readouterr().err
    assert run_cli("render", run, "--compose", street, "--out", tmp_path / "b.png") == 2
    assert not (tmp_path / "b.png").exists()


def test_only_radiance_is_composed() -> None:
    images = Fit(hf.Images(torch.rand(2, 8, 8, 3)), None, FitSettings(steps=1, preset="tiny")).run()
    with pytest.raises(InputError, match="wanted radiance"):
        hf.compose([images["0"]])
    with pytest.raises(InputError, match="no scene came"):
        hf.compose([])
