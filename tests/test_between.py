"""What a fit asks of mixed codes: losses against closed forms, and fits whose fields between scenes are better."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields.errors import InputError
from hyperfields.tasks.between import Between, Mixture, color_error, distance_error, radiance_error

SHARE = torch.tensor([0.25, 0.5])[:, None, None]


def ball(radius: float, x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True) - radius


def places(pairs: int = 2, points: int = 400) -> Tensor:
    x = torch.rand(pairs, points, 3, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return x[(x.norm(dim=-1) > 0.2)[..., None].expand_as(x)].reshape(-1, 3)[: pairs * 200].reshape(pairs, 200, 3)


def test_balls_between_balls_cost_nothing() -> None:
    x = places()
    ends = torch.stack((ball(0.4, x), ball(0.8, x)))
    radius = 0.4 + 0.4 * SHARE
    exact = Mixture(lambda y: y.norm(dim=-1, keepdim=True) - radius, x, ends, SHARE)  # type: ignore[arg-type]
    assert float(distance_error(exact)) < 5e-3  # corners of a tetrahedron lie 0.0004 further out, on the mean
    steep = exact._replace(bound=lambda y: 1.5 * (y.norm(dim=-1, keepdim=True) - radius))  # type: ignore[arg-type]
    assert 0.2 < float(distance_error(steep)) - 0.25 < 0.5  # (1.5 - 1)^2, and the relative error of distances


def test_colors_are_wanted_to_be_mixed() -> None:
    x = torch.rand(2, 50, 2)
    ends = torch.stack((torch.zeros(2, 50, 3), torch.ones(2, 50, 3)))
    off = Mixture(lambda y: SHARE.expand(2, 50, 3) + 0.1, x, ends, SHARE)  # type: ignore[arg-type]
    torch.testing.assert_close(color_error(off), torch.tensor(0.01))


def test_what_is_in_one_scene_is_half_there_halfway_and_never_fog() -> None:
    """Solid against empty: at a quarter it is clear, at three quarters as good as opaque."""

    class Constant:
        field = type("Field", (), {"step": 0.02})

        def __init__(self, optical: float) -> None:
            self.density, self.color = torch.full((1, 9, 1), optical / 0.02), torch.full((1, 9, 3), 0.7)

        def __call__(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
            return self.density, self.color

    x = torch.zeros(1, 9, 3)
    ends = torch.stack((torch.zeros(1, 9, 1), torch.full((1, 9, 1), 1e4))), torch.full((2, 1, 9, 3), 0.7)
    for share, optical in ((0.25, 0.1353), (0.5, 1.0), (0.75, 7.389)):
        part = torch.full((1, 1, 1), share)
        assert float(radiance_error(Constant(optical), part, x, x, ends)) < 1e-4  # type: ignore[arg-type]
        assert float(radiance_error(Constant(0.3 * optical), part, x, x, ends)) > 0.1  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"pairs": 0}, {"share": 0.0}, {"start": 2.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"Between: .*{next(iter(wrong))}.*wanted"):
        Between(**wrong)  # type: ignore[arg-type]


def test_presets_do_not_ask_it() -> None:
    assert {hf.preset("default", kind, 4)[1].between.weight for kind in hf.TASKS} == {0.0}
    assert hf.preset("default", "shapes", 4, between=0.1)[1].between.weight == 0.1


def recipe(kind: str, scenes: int, weight: float) -> tuple[hf.ModelConfig, hf.TrainConfig]:
    model, train = hf.preset("tiny", kind, scenes, 16)
    return model, dataclasses.replace(train, samples=512, between=Between(weight, share=0.125, pairs=2, start=0.25))


def test_pictures_between_pictures_come_nearer_to_their_mixture(tmp_path: Path) -> None:
    pixels = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    far: list[float] = []
    for weight in (0.0, 1.0):
        model, train = recipe("images", 4, weight)
        run = hf.fit(hf.Images(pixels), tmp_path / str(weight), steps=80, model=model, train=train, progress=False)
        codes, x = run.model.latents.codes.detach(), torch.rand(1, 400, 2, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ends = [run.model.bind(codes[i : i + 1])(x) for i in range(2)]
            middle = run.model.bind(0.5 * (codes[:1] + codes[1:2]))(x)
        far.append(float((middle - 0.5 * (ends[0] + ends[1])).square().mean()))
    assert far[1] < 0.7 * far[0]
    again = hf.load_run(tmp_path / "1.0")
    assert again.config.train.between == Between(1.0, share=0.125, pairs=2, start=0.25)


def test_a_fit_with_mixed_codes_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    pixels = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    model, train = recipe("images", 3, 0.5)

    def stop(progress: hf.Progress) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    def fit(out: str, **how: Any) -> dict[str, Tensor]:
        given = {"progress": False, **how}
        run = hf.fit(hf.Images(pixels), tmp_path / out, steps=12, model=model, train=train, **given)
        return dict(run.model.state_dict())

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("parts", progress=stop)
    parts = fit("parts", resume=True)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_radiance_fields_take_it_too() -> None:
    poses = torch.eye(4).repeat(2, 3, 1, 1)
    poses[..., 2, 3] = -4.0
    data = hf.Views(
        (poses, torch.tensor([12.0, 12.0, 4.0, 4.0])), torch.full((2, 3, 8, 8, 4), 0.5), box=[(1.0, 0.0, 0.0, 0.0)] * 2
    )
    model, train = recipe("views", 2, 0.1)
    run = hf.fit(data, steps=3, model=model, train=dataclasses.replace(train, samples=256), progress=False)
    assert run.summary["steps"] == 3
