"""The Python front door: what is natural is taken, anything else is refused in one line that says what was wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields.errors import InputError

from ._analytic import FAMILIES


def refused(match: str) -> Any:
    return pytest.raises(InputError, match=match)


def short_fit(data: Any, **options: Any) -> hf.Run:
    return hf.fit(data, **{"steps": 2, "preset": "tiny", "progress": False, **options})


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images(pixels: Tensor) -> hf.Run:
    return short_fit(hf.Images(pixels))


@pytest.fixture(scope="module")
def views() -> hf.Run:
    return short_fit(FAMILIES["views"])


# ------------------------------------------------------------------------------------------ words and lengths


def test_unknown_words_are_refused(images: hf.Run, pixels: Tensor, tmp_path: Path) -> None:
    data, new = hf.Images(pixels), hf.Images(pixels, ["a", "b", "c"])
    with refused("by 'bogus': unknown, wanted one of descent, posterior, encoder, steps"):
        hf.infer(images, data, steps=1, by="bogus")  # type: ignore[arg-type]
    with refused("method 'bogus': unknown, wanted one of extension"):
        hf.add(images, new, tmp_path / "more", steps=1, method="bogus")  # type: ignore[arg-type]
    with refused("cod.pt: suffix .pt cannot hold a file of codes; use .safetensors"):
        hf.infer(images, data, tmp_path / "cod.pt", steps=1)
    with refused("split 'bogus': unknown, wanted one of train, val, test"):
        hf.evaluate(images, data, "bogus")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given", [{"steps": 1.5}, {"steps": "10"}, {"steps": True}, {"seed": -1}, {"seed": 1.5}, {"seed": 2**70}]
)
def test_lengths_and_seeds_are_whole_numbers(images: hf.Run, pixels: Tensor, given: dict[str, Any]) -> None:
    with refused(f"{next(iter(given))} .*: wanted a whole number"):
        short_fit(hf.Images(pixels), **given)
    with refused(f"{next(iter(given))} .*: wanted a whole number"):
        hf.infer(images, hf.Images(pixels), progress=False, **{"steps": 1, **given})


def test_run_and_data_in_the_other_order_are_refused(images: hf.Run, pixels: Tensor) -> None:
    with refused("run: Images came, wanted a Run"):
        hf.evaluate(hf.Images(pixels), images)  # type: ignore[arg-type]
    with refused("run: Images came, wanted a Run"):
        hf.infer(hf.Images(pixels), images, steps=1)  # type: ignore[arg-type]


def test_some_scenes_can_be_measured_by_name(images: hf.Run, pixels: Tensor) -> None:
    report = hf.evaluate(images, hf.Images(pixels), scenes=["1"], perceptual=False)
    assert list(report["scenes"]) == ["1"]
    with refused("scene '9': not in this run"):
        hf.evaluate(images, hf.Images(pixels), scenes=["9"])
    with refused("scenes '1': wanted a list"):
        hf.evaluate(images, hf.Images(pixels), scenes="1")


# ------------------------------------------------------------------------------------------ ways in latent space


def test_slerp_is_exact_at_any_place_of_the_way(images: hf.Run) -> None:
    first, last = images.codes("0"), images.codes("1")
    assert torch.allclose(images.between("0", "1", 0.0, "slerp").code, first)
    assert torch.allclose(images.between("0", "1", 1.0, "slerp").code, last, atol=1e-6)
    near = images.between("0", "1", 0.3, "slerp").code
    assert not torch.equal(images.between("0", "1", 0.3004, "slerp").code, near)  # not rounded to a thousandth
    assert not torch.allclose(images.between("0", "1", 1.5, "slerp").code, last)  # nor held at the ends
    path = hf.interpolate(images.codes("0", "1"), 11, "slerp")
    assert torch.allclose(images.between("0", "1", torch.tensor(0.3), "slerp").code, path[3:4], atol=1e-6)  # type: ignore[arg-type]


def test_ways_that_are_none_are_refused(images: hf.Run) -> None:
    with refused("interpolate mode 'cubic': wanted 'lerp' or 'slerp'"):
        images.between("0", "1", 0.5, "cubic")
    with refused("t nan: wanted a finite number"):
        images.between("0", "1", float("nan"))
    with refused("t 'half': wanted a number"):
        images.between("0", "1", "half")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ scenes


def test_a_scene_is_found_by_number(images: hf.Run) -> None:
    assert images[1].name == images[-2].name == "1"
    with refused("scene 3: this run has 3; wanted a number from 0 to 2"):
        images[3]
    with refused(r"scene slice.*: wanted one name or number; take run\[name\] for each"):
        images[:2]  # type: ignore[index]


def test_weights_of_a_scene_carry_no_gradient_but_points_do(views: hf.Run) -> None:
    scene, names = views[0], views.names[:2]
    views.model.zero_grad()
    for field in (scene.field, views.bind(*names)):
        assert not any(value.requires_grad for value in field.weights.values())
    x, d = torch.zeros(4, 3), torch.tensor([0.0, 0.0, 1.0])
    assert not scene(x, d)[1].requires_grad
    x.requires_grad_()
    scene(x, d)[1].sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in views.model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_points_of_other_floats_are_answered_in_kind(images: hf.Run, dtype: torch.dtype) -> None:
    x = torch.rand(5, 2)
    answer = images[0](x.to(dtype))
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.float(), images[0](x), atol=2e-3, rtol=2e-3)
    assert images[0](x[None]).shape == (1, 5, 3)


def test_points_that_do_not_fit_are_refused(images: hf.Run, views: hf.Run) -> None:
    scene, x = images[0], torch.zeros(4, 3)
    with refused(r"x: shape \[4, 3\] came, wanted \[n 2\] or \[1 n 2\]"):
        scene(x)
    with refused(r"x: shape \[2, 4, 2\] came"):
        scene(torch.zeros(2, 4, 2))
    with refused("x: torch.int64 came, wanted floating point"):
        scene(torch.zeros(4, 2, dtype=torch.int64))
    with refused("x: list came, wanted a tensor"):
        scene([[0.0, 0.0]])  # type: ignore[arg-type]
    with refused("d: images have no directions"):
        scene(torch.zeros(4, 2), x)
    with refused(r"radiance needs directions, wanted scene\(x, d\)"):
        views[0](x)
    with refused(r"d: shape \[5, 3\] came, wanted that of x"):
        views[0](x, torch.zeros(5, 3))
    one = torch.tensor([0.0, 0.6, 0.8])
    assert torch.equal(views[0](x, one)[1], views[0](x, one.expand(4, 3))[1])


def test_pictures_and_meshes_of_sizes_that_cannot_be_are_refused(images: hf.Run, views: hf.Run) -> None:
    assert images[0].render(size=5).shape == (5, 5, 3)
    for size in (0, (4,), (4, 0), (4.0, 4), "big"):
        with refused("size .*: wanted .height, width. or one number"):
            images[0].render(size=size)  # type: ignore[arg-type]
    for background in (2.0, -0.1, float("nan"), "white"):
        with refused("background .*: wanted a grey level"):
            images[0].render(background=background)  # type: ignore[arg-type]
    for resolution in (1, 8.0, "fine"):
        with refused("resolution .*: wanted a whole number of cells a side, at least 2"):
            views[0].mesh(resolution)  # type: ignore[arg-type]
