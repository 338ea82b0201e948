"""Pictures larger than those that were fitted: what they show between the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields.data import Images
from hyperfields.rendering.enlarge import enlarged
from hyperfields.rendering.image import Window
from hyperfields.runs.run import Run
from hyperfields.tasks.metrics import psnr, specks

from ._analytic import Discs

SIDE = 24


def faces(side: int) -> Tensor:
    """Two faces `[2 side side 3]`, each pixel the mean over its area: of 8 by 8 points."""
    steps = (torch.arange(side * 8) + 0.5) / (side * 8)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pictures = []
    for shift in (0.0, 0.03):
        fine = torch.ones(side * 8, side * 8, 3)
        spots = (
            (0.5, 0.5, 0.42, (0.95, 0.8, 0.2)),
            (0.35, 0.4, 0.07, (0.2, 0.1, 0.1)),
            (0.66, 0.4, 0.07, (0.2, 0.1, 0.1)),
        )
        for u, v, radius, colour in spots:
            fine[(x - u - shift) ** 2 + (y - v) ** 2 < radius**2] = torch.tensor(colour)
        fine[(y - 0.7).abs() + 0.2 * (x - 0.5).abs() < 0.04] = torch.tensor([0.6, 0.0, 0.1])
        pictures.append(fine.reshape(side, 8, side, 8, 3).mean((1, 3)))
    return torch.stack(pictures)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_enlarged_picture_gives_the_small_one_again_and_is_nearer_to_the_original(factor: int) -> None:
    small, truth = faces(SIDE)[0], faces(factor * SIDE)[0]
    large = enlarged(small, (factor * SIDE, factor * SIDE))
    means = large.reshape(SIDE, factor, SIDE, factor, 3).mean((1, 3))
    torch.testing.assert_close(means, small, atol=2e-6, rtol=0.0)
    cubic = torch.nn.functional.interpolate(
        small.movedim(-1, 0)[None], scale_factor=factor, mode="bicubic", align_corners=False
    )[0].movedim(0, -1)
    assert float(psnr(large.clamp(0, 1), truth)) > float(psnr(cubic.clamp(0, 1), truth)) + 2.0
    quick = enlarged(small, (factor * SIDE, factor * SIDE), steps=0)
    torch.testing.assert_close(quick.reshape(SIDE, factor, SIDE, factor, 3).mean((1, 3)), small, atol=2e-6, rtol=0.0)
    assert float(specks(large, truth)) < float(specks(quick, truth))


@pytest.mark.parametrize("size", [(9, 14), (6, 30), (5, 20), (41, 3), (60, 70)])
def test_other_sizes_are_means_over_areas(size: tuple[int, int]) -> None:
    """An even colour stays; a picture that is even along one side is so in any size, and keeps its mean."""
    even = enlarged(torch.full((5, 7, 2), 0.3), size)
    assert even.shape == (*size, 2)
    torch.testing.assert_close(even, torch.full((*size, 2), 0.3))
    columns = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])[None, :, None].expand(5, 7, 1)
    found = enlarged(columns, size)
    torch.testing.assert_close(found, found[:1].expand_as(found), atol=1e-5, rtol=0.0)
    assert float(found.mean()) == pytest.approx(3.0 / 7.0, abs=1e-2)


def test_it_can_be_stopped() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enlarged(torch.rand(4, 4, 3), (8, 8), pause=stop)


@pytest.fixture(scope="module")
def run() -> Run:
    return hf.fit(Images(faces(SIDE), ("a", "b")), steps=60, progress=False)


def test_pictures_larger_than_the_fitted_ones_are_enlarged(run: Run, tmp_path: Path) -> None:
    scene = run["a"]
    fitted = scene.render()
    steps = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    at_centres = scene(torch.stack((x, y), -1).reshape(-1, 2)).reshape(SIDE, SIDE, 3)
    torch.testing.assert_close(fitted, at_centres.clamp(0.0, 1.0), atol=1e-5, rtol=0.0)
    large = scene.render(size=2 * SIDE)
    torch.testing.assert_close(large, enlarged(fitted, (2 * SIDE, 2 * SIDE)).clamp(0.0, 1.0))
    half = scene.render(size=SIDE // 2)
    torch.testing.assert_close(half, fitted.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3)))
    again = hf.load_run(str(run.save(tmp_path / "run").path))
    assert again.model.config.field.pixels == (SIDE, SIDE)
    assert torch.equal(again["a"].render(size=2 * SIDE), large)
    report = hf.evaluate(run, Images(faces(2 * SIDE), ("a", "b")), perceptual=False)
    truth = faces(2 * SIDE)[0]
    assert report["scenes"]["a"]["psnr"] == pytest.approx(float(psnr(large, truth)), abs=1e-4)
    assert report["scenes"]["a"]["specks"] == pytest.approx(float(specks(large, truth)))


def test_windows_show_parts_of_the_enlarged_picture(run: Run) -> None:
    bound = run.bind("b")
    whole = run.task.picture(bound, None, (4 * SIDE, 4 * SIDE))
    part = run.task.picture(bound, Window(0.25, 0.5, 0.75, 1.0), (2 * SIDE, 2 * SIDE))
    inner = part[4:-4, 4:-4], whole[2 * SIDE + 4 : -4, SIDE + 4 : 3 * SIDE - 4]
    assert float((inner[0] - inner[1]).abs().mean()) < 0.01
    beyond = run.task.picture(bound, Window(-0.5, -0.5, 0.5, 0.5), (2 * SIDE, 2 * SIDE), background=0.25)
    assert bool((beyond[:SIDE] == 0.25).all())
    assert bool((beyond[:, :SIDE] == 0.25).all())
    assert not bool((beyond[SIDE:, SIDE:] == 0.25).any())
    far = run.task.picture(bound, Window(2.0, 2.0, 2.1, 2.1), (8, 8), background=0.5)
    assert bool((far == 0.5).all())


def test_fields_that_were_fitted_anywhere_are_asked_anywhere() -> None:
    run = hf.fit(Discs(), steps=3, preset="tiny", progress=False)
    assert run.model.config.field.pixels is None
    name, side = run.names[0], 2 * run.config.picture["size"][0]
    steps = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    answer: Any = run[name](torch.stack((x, y), -1).reshape(-1, 2))
    torch.testing.assert_close(run[name].render(size=side), answer.reshape(side, side, 3).clamp(0.0, 1.0))


def test_pictures_of_several_sizes_have_no_pixels_in_common() -> None:
    """Those of the first one's size were taken for all."""
    small, large = hf.Images(faces(8), ["a", "b"]), hf.Images(faces(12), ["c", "d"])
    for data in (hf.Concat([small, large]), hf.Subset(hf.Concat([small, large]), [1, 3])):
        assert hf.fit(data, steps=1, preset="tiny", progress=False).model.config.field.pixels is None
    same = hf.Concat([small, hf.Images(faces(8), ["c", "d"])])
    assert hf.fit(same, steps=1, preset="tiny", progress=False).model.config.field.pixels == (8, 8)


def test_a_model_of_another_run_takes_the_pixels_of_its_new_data() -> None:
    """Those of the other run were kept, and pictures asked where nothing had been fitted."""
    model = hf.fit(hf.Images(faces(8)), steps=1, preset="tiny", progress=False).model.config
    assert model.field.pixels == (8, 8)
    assert hf.fit(hf.Images(faces(12)), steps=1, model=model, progress=False).model.config.field.pixels == (12, 12)
    assert hf.fit(Discs(), steps=1, model=model, progress=False).model.config.field.pixels is None
