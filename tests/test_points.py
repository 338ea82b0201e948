"""Clouds of points in the coordinates of the input, against a ball whose surface is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hyperfields import ops
from hyperfields.cameras import Rays, orbit
from hyperfields.errors import InputError
from hyperfields.rendering.base import Rendered
from hyperfields.runs.points import Cloud, point_cloud, write_points

from .cli._families import TINY, make_images, run_cli

RADIUS = 0.6
FRAME = (250.0, 4.0e5, -2.0, 7.0)  # far away, as captures in metres of a map are


def ball(_: Any, rays: Rays) -> Rendered:
    """An opaque ball, coloured by the height of what is seen."""
    o, d = rays.origins[0], rays.directions[0]
    along = (o * d).sum(-1)
    root = (along.square() - o.square().sum(-1) + RADIUS**2).clamp(min=0.0).sqrt()
    hit = root > 0.0
    t = torch.where(hit, -along - root, torch.inf)
    height = (o + torch.where(hit, t, 0.0)[:, None] * d)[:, 2:] / RADIUS
    rgb = torch.cat((0.5 + 0.5 * height, height * 0.0, height * 0.0), 1) * hit[:, None]
    return Rendered(rgb[None], hit.float()[None], t[None])


def scene(frame: Any = FRAME) -> Any:
    field = SimpleNamespace(field=SimpleNamespace(space=ops.BOX), device=torch.device("cpu"))
    run = SimpleNamespace(task=SimpleNamespace(render_rays=ball), kind="views")
    return SimpleNamespace(field=field, run=run, name="ball", frame=frame)


def read_ply(path: Path) -> tuple[Any, Any]:
    head, body = path.read_bytes().split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    rows = np.frombuffer(body, dtype=[("place", "<f8", 3), ("color", "u1", 3)])
    assert len(rows) == count
    return rows["place"], rows["color"]


def test_points_are_on_the_surface_in_the_files_own_coordinates(tmp_path: Path) -> None:
    cloud = point_cloud(scene(), orbit(6, radius=3.0, height=32, width=32), 500)
    assert 400 <= len(cloud.points) <= 500
    write_points(tmp_path / "ball.ply", cloud)
    places, colors = read_ply(tmp_path / "ball.ply")
    inside = (places - np.array(FRAME[1:])) / FRAME[0]
    assert np.abs(np.linalg.norm(inside, axis=1) - RADIUS).max() < 1e-5
    expected = 255.0 * (0.5 + 0.5 * inside[:, 2] / RADIUS)
    assert np.abs(colors[:, 0] - expected).max() <= 1.0
    again = point_cloud(scene(None), orbit(6, radius=3.0, height=32, width=32), 500)
    assert torch.allclose(again.points.norm(dim=1), torch.tensor(RADIUS, dtype=torch.float64), atol=1e-5)


def test_what_gives_no_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="wanted at least 1"):
        point_cloud(scene(), [], 10)
    with pytest.raises(InputError, match="no ray ends at anything"):
        write_points(tmp_path / "none.ply", Cloud(torch.zeros(0, 3).double(), torch.zeros(0, 3)))
    with pytest.raises(InputError, match="suffix"):
        write_points(tmp_path / "none.obj", Cloud(torch.zeros(1, 3).double(), torch.zeros(1, 3)))
    assert not list(tmp_path.iterdir())
    run = tmp_path / "run"
    assert run_cli("fit", make_images(tmp_path / "images"), "--out", run, *TINY) == 0
    capsys.readouterr()
    assert run_cli("export", run, "--scene", "cat", "--points", 10, "--out", tmp_path / "a.ply") == 2
    assert "leave --points out" in capsys.readouterr().err
