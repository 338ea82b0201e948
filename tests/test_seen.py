"""Meshes end where cameras see nothing."""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields.cameras import Camera, Rays, look_at, orbit
from hyperfields.cli import posed
from hyperfields.data import Mesh
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.seen import cells_at, looked_at
from hyperfields.tasks.radiance import RadianceTask

from ._analytic import Balls

pytest.importorskip("skimage")
# Centre and radius: the object, what hangs in a hollow of it, and two more that a fit made up.
OBJECT, HOLLOW, INNER = (0.0, 0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 0.28), (0.05, 0.0, 0.0, 0.12)
BEHIND, ASIDE = (-0.8, 0.0, 0.0, 0.12), (0.0, 0.85, 0.0, 0.12)


def inside(ball: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x - x.new_tensor(ball[:3]), dim=-1) < ball[3]


class Known(RadianceTask):
    """The task with a picture by geometry: what a ray meets first of the balls."""

    def render_rays(self, bound: Any, rays: Rays, **_: Any) -> Rendered:
        depth = torch.full(rays.origins.shape[:2], math.inf)
        for ball in (OBJECT, BEHIND, ASIDE):
            origins = rays.origins - torch.tensor(ball[:3])
            along = -(origins * rays.directions).sum(-1)
            beside = (origins + along[..., None] * rays.directions).square().sum(-1)
            met = along - (ball[3] ** 2 - beside).clamp(min=0.0).sqrt()
            depth = depth.minimum(met.where(beside < ball[3] ** 2, math.inf))
        met = depth.isfinite()[..., None]
        rgb = color(rays.origins + depth[..., None] * rays.directions).where(met, 0.0)
        return Rendered(rgb, depth.isfinite().float(), depth)


def color(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * x


def density(x: Tensor) -> Tensor:
    solid = (inside(OBJECT, x) & ~inside(HOLLOW, x)) | inside(INNER, x) | inside(BEHIND, x) | inside(ASIDE, x)
    return torch.where(solid, 1e4, 0.0)[..., None]


class Bound:
    field, device, density = types.SimpleNamespace(step=0.02), torch.device("cpu"), staticmethod(density)

    def __call__(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        return density(x), color(x)


BOUND: Any = Bound()


def places(mesh: Mesh) -> list[int]:
    """How many vertices there are of each surface: object, hollow, inner, behind, aside."""
    found = []
    for x, y, z, radius in (OBJECT, HOLLOW, INNER, BEHIND, ASIDE):
        away = torch.linalg.vector_norm(mesh.vertices - torch.tensor([x, y, z]), dim=-1)
        found.append(int(((away - radius).abs() < 0.05).sum()))
    return found


def front(count: int) -> list[Camera]:
    """Cameras on the side of +x, which see the object and 0.7 round it, and nothing behind it."""
    made = []
    for i in range(count):
        place = torch.tensor([4.0, 0.4 * math.cos(i), 0.4 * math.sin(i)])
        made.append(Camera(look_at(place, torch.zeros(3)), 95.0, 95.0, 16.0, 16.0, 32, 32))
    return made


def test_what_no_camera_sees_is_no_part_of_the_mesh() -> None:
    whole = Known().mesh(BOUND, 48)
    assert all(places(whole))
    mesh = Known().mesh(BOUND, 48, cameras=front(6))
    kept = places(mesh)
    assert kept[0] == places(whole)[0]  # also its far side: the part hangs together
    assert kept[1:] == [0, 0, 0, 0]
    assert int(mesh.faces.max()) == len(mesh.vertices) - 1
    assert len(mesh.faces.unique()) == len(mesh.vertices)
    # All that can be seen from outside stays where cameras go round.
    around = places(Known().mesh(BOUND, 48, cameras=orbit(8, radius=4.0, height=32, width=32)))
    assert [count > 0 for count in around] == [True, False, False, True, True]


def test_a_mesh_has_the_colours_of_its_surface() -> None:
    for cameras in ([], front(6)):
        mesh = Known().mesh(BOUND, 48, cameras=cameras)
        assert mesh.colors is not None
        outer = (torch.linalg.vector_norm(mesh.vertices, dim=-1) - OBJECT[3]).abs() < 0.05
        error = (mesh.colors - color(mesh.vertices))[outer].abs().amax(-1)
        assert float(error.quantile(0.98)) < 0.02  # normals of steps that cells make lean a little


def test_cells_that_are_in_a_picture() -> None:
    cells = looked_at(front(1))
    x = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, 0.95, 0.0], [0.9, 0.9, -0.9], [1.0, 1.0, 1.0]])
    assert cells_at(cells, x).tolist() == [True, True, False, False, False]
    assert bool(looked_at([Camera.panorama(torch.eye(4), 8, 16)]).all())


def test_cameras_are_for_radiance() -> None:
    run = hf.fit(hf.Images(torch.rand(2, 8, 8, 3)), steps=1, preset="tiny", progress=False)
    with pytest.raises(hf.InputError, match="is one of images; they are for radiance"):
        run["0"].mesh(8, cameras=front(1))
    views = hf.fit(Balls(), steps=1, preset="tiny", progress=False)
    assert not len(views["red"].mesh(8, cameras=front(1)).faces)


def test_without_the_pictures_it_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(*_: Any) -> None:
        raise hf.InputError("cars: is empty")

    run: Any = None
    for there, reason in ((False, "the family is not there"), (True, "cars: is empty")):
        monkeypatch.setattr(posed, "has_data", lambda run, there=there: there)
        monkeypatch.setattr(posed, "_cameras_of", gone)
        assert posed.mesh_cameras(run, types.SimpleNamespace(name="a", fitted=True), None) == []  # type: ignore[arg-type]
        assert f"may be in it ({reason}); give the pictures with --family" in capsys.readouterr().out
    with pytest.raises(hf.InputError, match="is empty"):
        posed.mesh_cameras(run, types.SimpleNamespace(name="a", fitted=True), Path("cars"))  # type: ignore[arg-type]
