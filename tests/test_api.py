"""The Python front door: what is natural is taken, anything else is refused in one line that says what was wanted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
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
        with refused("resolution .*: wanted cells along a side, from 2 to 1,024"):
            views[0].mesh(resolution)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ what a fit is given


@pytest.mark.parametrize("given", [torch.zeros(2, 8, 8, 3), "folder", [torch.zeros(8, 8, 3)]])
def test_data_that_are_no_scenes_are_refused(given: Any) -> None:
    with refused(f"data: {type(given).__name__} came, wanted scenes; make them with hf.Images"):
        hf.fit(given, steps=1)


def test_codes_are_taken_by_name(pixels: Tensor) -> None:
    run = short_fit(hf.Images(pixels), codes="vae", steps=1)
    assert isinstance(run.config.codes, hf.Variational)
    with refused("codes 'bogus': unknown, wanted one of descent, vae"):
        short_fit(hf.Images(pixels), codes="bogus")
    with refused(r"codes: the class Variational came, wanted an object, such as Variational\(\)"):
        short_fit(hf.Images(pixels), codes=hf.Variational)


def test_models_that_are_none_are_refused(pixels: Tensor) -> None:
    data = hf.Images(pixels)
    for model, message in (
        (hf.LowRank(), r"model: the generator LowRank came.*generator=hf.LowRank"),
        (hf.preset("tiny", "images", 3), "model: a tuple came, wanted a ModelConfig; model, train = hf.preset"),
        ("tiny", "model: str came, wanted a ModelConfig"),
        (hf.preset("tiny", "views", 3)[0], "model: its field is one of views, the data hold images"),
    ):
        with refused(message):
            short_fit(data, model=model)
    with refused("train: dict came, wanted a TrainConfig"):
        short_fit(data, train={})


@pytest.mark.parametrize("data", [FAMILIES["images"], FAMILIES["views"]])
@pytest.mark.parametrize("loss", [torch.nn.MSELoss(), torch.nn.functional.l1_loss])
def test_losses_of_tensors_are_told_of_the_batch(data: Any, loss: Any, tmp_path: Path) -> None:
    with refused(r"loss: it is called as loss\(prediction, batch\): .*; use batch\.(target|rgba)"):
        short_fit(data, loss=loss)
    out = tmp_path / "run"  # free after a fit that failed at once
    with refused("loss: it is called as"):
        short_fit(data, out=out, loss=of_tensors)
    assert short_fit(data, out=out).path == out


def of_tensors(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs()


def test_reduced_losses_and_unreduced_regularizers_are_refused() -> None:
    data = FAMILIES["images"]
    with refused(r"loss: got shape \[\], wanted unreduced values"):
        short_fit(data, loss=lambda prediction, batch: (prediction - batch.target).square().mean())
    with refused("loss: got float, wanted unreduced values"):
        short_fit(data, loss=lambda prediction, batch: 0.0)
    with refused(r"regularizer .*lambda.*: shape \[\d+, \d+\] came, wanted a tensor \[\] or None"):
        short_fit(data, regularizers=[lambda state: state.fields.codes.square()])
    with refused("regularizer .*: str came"):
        short_fit(data, regularizers=[lambda state: "much"])
    assert short_fit(data, regularizers=[lambda state: 0.0, lambda state: None])


# ------------------------------------------------------------------------------------------ data


def test_pictures_come_as_a_list_of_anything(pixels: Tensor) -> None:
    from PIL import Image

    whole = (pixels * 255).to(torch.uint8)
    for given in (list(pixels), [p.numpy() for p in pixels], tuple(pixels)):
        assert torch.equal(hf.Images(given).reference(1), pixels[1])
    opened = [Image.fromarray(picture.numpy()) for picture in whole]
    assert torch.equal(hf.Images(opened).reference(1), hf.Images(whole).reference(1))
    assert hf.Images(pixels, (name for name in "abc")).names == ("a", "b", "c")
    with refused("pixels: the path 'folder' came, wanted pictures; read a folder with hf.open_family"):
        hf.Images("folder")
    with refused(r"pixels: pictures of \[4, 4, 3\], \[12, 12, 3\] came, wanted one size"):
        hf.Images([pixels[0], torch.zeros(4, 4, 3)])
    with refused("pixels: .* came, wanted"):
        hf.Images([opened[0].convert("RGBA")])
    with refused("pixels: object came, wanted"):
        hf.Images(object())
    with refused("names: 3 came, wanted a list of texts"):
        hf.Images(pixels, 3)  # type: ignore[arg-type]


def test_one_mesh_needs_no_list() -> None:
    vertices = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    pool = torch.zeros(1, 8, 4)
    for given in (hf.Mesh(vertices, faces), (vertices, faces), [(vertices, faces)]):
        assert len(hf.Shapes(given, pool=pool).names) == 1
    with refused("meshes: the path 'car.obj' came, wanted meshes"):
        hf.Shapes("car.obj")
    with refused("meshes: int came, wanted a list of meshes"):
        hf.Shapes(3)


def test_cameras_take_arrays_and_lists() -> None:
    camera = hf.Camera(np.eye(4), 8.0, 8.0, 4.0, 4.0, 8, 8)  # type: ignore[arg-type]
    assert camera.T_world_camera.dtype == camera.rays().directions.dtype == torch.float32
    with refused(r"T_world_camera: shape \[3, 3\] came, wanted \[4, 4\]"):
        hf.Camera(np.eye(3), 8.0, 8.0, 4.0, 4.0, 8, 8)  # type: ignore[arg-type]
    assert torch.equal(hf.look_at([0, -3, 0], [0, 0, 0]), hf.look_at(torch.tensor([0.0, -3.0, 0.0]), torch.zeros(3)))
    down = hf.look_at([0, 0, 3], [0, 0, 0])
    assert torch.allclose(down[:3, 2], torch.tensor([0.0, 0.0, -1.0]))
    assert torch.allclose(down[:3, :3] @ down[:3, :3].T, torch.eye(3))
    with refused("look_at: direction .* is zero"):
        hf.look_at([0, 0, 3], [0, 0, 3])
    with refused(r"position: shape \[2\] came"):
        hf.look_at([0, 0], [0, 0, 3])


# ------------------------------------------------------------------------------------------ files and metrics


def test_paths_may_be_text(images: hf.Run, tmp_path: Path) -> None:
    hf.render_scene(images[0], f"{tmp_path}/one.png", size=8)
    hf.export_scene(images[0], f"{tmp_path}/two.png")
    hf.interpolate_run([images["0"], images["1"]], f"{tmp_path}/walk", frames=2, size=8)
    assert {path.name for path in tmp_path.iterdir()} == {"one.png", "two.png", "walk"}


def test_pictures_are_written_from_arrays_grey_and_bytes(tmp_path: Path) -> None:
    from PIL import Image

    whole = torch.randint(0, 256, (6, 5, 3), dtype=torch.uint8)
    path = tmp_path / "picture.png"
    for given in (whole, whole.numpy(), whole.float() / 255.0, (whole.double() / 255.0).numpy()):
        hf.write_image(path, given)
        assert np.array_equal(np.asarray(Image.open(path)), whole.numpy())
    hf.write_image(path, whole[..., 0])
    assert np.array_equal(np.asarray(Image.open(path))[..., 2], whole[..., 0].numpy())
    refusals: tuple[tuple[Any, str], ...] = (
        (whole.int(), "image: torch.int32 came"),
        (torch.full((4, 4, 3), torch.nan), "image: NaN came"),
        (torch.zeros(4, 4, 2), r"image \[4, 4, 2\] must be"),
        ([[0.0]], "image: list came"),
    )
    for wrong, message in refusals:
        with refused(message):
            hf.write_image(path, wrong)


def test_metrics_of_bytes_are_those_of_floats() -> None:
    a, b = (torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8) for _ in range(2))
    for metric in (hf.psnr, hf.ssim):
        assert torch.allclose(metric(a, b), metric(a.float() / 255.0, b.float() / 255.0))
        assert torch.allclose(metric(a, b.float() / 255.0), metric(a, b))
        with refused("torch.int64 came, wanted floats"):
            metric(a.long(), b.long())


# ------------------------------------------------------------------------------------------ classes of one's own


@dataclasses.dataclass(frozen=True)
class Own:
    """A loss that files have to be told of."""

    weight: float = 1.0

    def __call__(self, prediction: Tensor, batch: hf.Points) -> Tensor:
        return self.weight * (prediction - batch.target).square()


def test_one_class_is_trusted_without_a_list(tmp_path: Path) -> None:
    short_fit(FAMILIES["images"], out=tmp_path / "run", loss=Own(2.0))
    assert hf.load_run(tmp_path / "run", trust=Own).config.train.loss == Own(2.0)  # type: ignore[arg-type]
    with refused("trust: 'Own' came, wanted a list of classes and functions"):
        hf.load_run(tmp_path / "run", trust="Own")
    with refused("trust: 'Own' came, wanted a class or a function"):
        hf.load_run(tmp_path / "run", trust=["Own"])


def test_functions_without_a_name_are_not_saved(tmp_path: Path) -> None:
    def local(prediction: Tensor, batch: hf.Points) -> Tensor:
        return (prediction - batch.target).square()

    run = short_fit(FAMILIES["images"], loss=local)
    with refused("the local function local has no name to load it by"):
        run.save(tmp_path / "run")
    with refused("the local function local has no name to load it by"):
        short_fit(FAMILIES["images"], out=tmp_path / "run", loss=local)
