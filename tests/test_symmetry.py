"""Symmetry of a family: found where the scenes have it, and only there; few views of a new scene then count twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays, orbit
from hyperfields.data import Pixels, Views
from hyperfields.fields import RadianceField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full
from hyperfields.model import ModelConfig
from hyperfields.rendering import Rendered
from hyperfields.runs.inferred import load_codes
from hyperfields.tasks import TrainConfig
from hyperfields.training import symmetry
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

from ._analytic import Balls


def balls(*centre: float) -> Any:
    """Four balls round a place, each in a grey and a size of its own: what `plane_of` asks of a model and a task."""

    def render(scene: Tensor, rays: Rays, cells: int) -> Rendered:
        origins = rays.origins - torch.tensor(centre)
        along = (origins * rays.directions).sum(-1, keepdim=True)
        alpha = ((origins - along * rays.directions).norm(dim=-1) < 0.3 + 0.1 * scene).float()
        return Rendered(0.2 * scene * alpha[..., None].expand(*alpha.shape, 3), alpha, along.squeeze(-1))

    model = SimpleNamespace(
        latents=SimpleNamespace(codes=torch.arange(4.0)[:, None]), bind=lambda code: code.squeeze(), config=None
    )
    return model, SimpleNamespace(render_rays=render)


@pytest.mark.parametrize(
    ("centre", "axis"), [((0.4, 0.0, 0.3), 1), ((0.0, 0.4, 0.3), 0), ((0.4, 0.3, 0.0), 2), ((0.4, 0.4, 0.4), None)]
)
def test_a_plane_is_found_where_all_scenes_are_symmetric(centre: tuple[float, ...], axis: int | None) -> None:
    assert symmetry.plane_of(*balls(*centre), Balls()) == axis


def test_a_share_of_the_rays_is_mirrored_and_nothing_else() -> None:
    plain = Balls().batch(torch.arange(3), 40, torch.Generator().manual_seed(0))
    wrapped = symmetry.Mirrored(Balls(), 1)
    wrapped.share = 0.25
    mirrored = wrapped.batch(torch.arange(3), 40, torch.Generator().manual_seed(0))
    assert isinstance(mirrored, Pixels)
    flip = torch.tensor([1.0, -1.0, 1.0])
    for old, new in zip(plain.rays, mirrored.rays, strict=True):
        assert torch.equal(new[:, :10], old[:, :10] * flip)
        assert torch.equal(new[:, 10:], old[:, 10:])
    assert torch.equal(mirrored.rgba, plain.rgba)


def test_few_views_count_as_their_mirror_images_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    field = RadianceField(Fourier(3, 1), hidden=(4,), geometry=1, color_hidden=(4,))
    run = fit(Balls(), steps=1, model=ModelConfig(field, Full(), 2), train=TrainConfig(4, 256), progress=False)
    run.save(tmp_path / "run")
    few, many = (Views(orbit(count, radius=3.0, height=8, width=8), torch.rand(count, 8, 8, 4)) for count in (2, 9))
    seen: list[Any] = []
    monkeypatch.setattr(symmetry, "plane_of", lambda model, task, data: seen.append(data) or 1)
    found = infer(run, few, tmp_path / "codes.safetensors", steps=4, progress=False)
    assert found.source["mirror"] == "y"
    assert load_codes(tmp_path / "codes.safetensors", run).source["mirror"] == "y"
    assert "mirror" not in infer(run, many, steps=4, progress=False).source
    assert seen == [few]
    monkeypatch.setattr(symmetry, "plane_of", lambda model, task, data: None)
    assert "mirror" not in infer(run, few, steps=4, progress=False).source


def test_a_fit_looks_once_and_goes_on_with_what_it_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept with the state; many pictures are as they are."""
    field = RadianceField(Fourier(3, 1), hidden=(4,), geometry=1, color_hidden=(4,))
    settings = {"model": ModelConfig(field, Full(), 2), "train": TrainConfig(2, 256), "progress": False}
    few = Views([orbit(2, radius=3.0, height=8, width=8)] * 2, torch.rand(2, 2, 8, 8, 4))
    many = Views([orbit(9, radius=3.0, height=8, width=8)] * 2, torch.rand(2, 9, 8, 8, 4))
    seen: list[Any] = []
    monkeypatch.setattr(symmetry, "plane_of", lambda model, task, data: seen.append(data) or 2)
    whole = fit(few, steps=10, **settings)
    assert whole.summary["mirror"] == "z"
    assert seen == [few]
    fit(few, tmp_path / "run", steps=6, **settings)
    assert len(seen) == 2
    resumed = fit(few, tmp_path / "run", steps=10, resume=True, **settings)
    assert resumed.summary["mirror"] == "z"
    assert len(seen) == 2
    assert "mirror" not in fit(many, steps=10, **settings).summary
    monkeypatch.setattr(symmetry, "plane_of", lambda model, task, data: None)
    plain = fit(few, steps=10, **settings)
    assert "mirror" not in plain.summary
    assert not torch.equal(plain.model.latents.codes, whole.model.latents.codes)
