"""Folders of pictures, choosing scenes, and telling the kinds of folders apart."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hyperfields.scenes
from hyperfields.data import Images, Points, SceneDataset, fingerprint
from hyperfields.errors import InputError
from hyperfields.scenes import READERS, Reader, detect_kind, open_family
from hyperfields.scenes._common import resize_area, resize_straight

SAMPLES = Path(hyperfields.scenes.__file__).parent / "samples"


def save(path: Path, pixels: object) -> None:
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def gradient(height: int, width: int, blue: int = 0) -> np.ndarray:
    """A picture whose pixel in row v, column u is (u, v, blue)."""
    v, u = np.mgrid[:height, :width]
    return np.stack((u, v, np.full_like(u, blue)), axis=-1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("ant", "bee", "cat")):
        save(tmp_path / f"{name}.png", gradient(6, 9, blue=100 * i))
    return tmp_path


def test_a_batch_holds_the_pixels_at_its_points(folder: Path) -> None:
    family = open_family(folder)
    assert isinstance(family, SceneDataset)
    assert family.kind == "images"
    assert family.names == ("ant", "bee", "cat")
    batch = family.batch(torch.tensor([2, 0]), 40, torch.Generator().manual_seed(3))
    assert isinstance(batch, Points)
    # Back from the point to the pixel, whose colour says where it is: right is the first coordinate.
    pixel = batch.x * torch.tensor([9.0, 6.0]) - 0.5
    torch.testing.assert_close(batch.target[..., :2] * 255.0, pixel, atol=1e-4, rtol=0.0)
    blue = torch.tensor([[200.0], [0.0]]).expand(2, 40)
    torch.testing.assert_close(batch.target[..., 2] * 255.0, blue, atol=1e-4, rtol=0.0)
    assert len(torch.unique(batch.x[0], dim=0)) > 20  # drawn all over


def test_the_generator_alone_decides_the_batch(folder: Path) -> None:
    family = open_family(folder)
    scenes = torch.tensor([0, 1])
    first = family.batch(scenes, 16, torch.Generator().manual_seed(5))
    again = family.batch(scenes, 16, torch.Generator().manual_seed(5))
    other = family.batch(scenes, 16, torch.Generator().manual_seed(6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert fingerprint(family) == fingerprint(open_family(folder))
    assert fingerprint(family) != fingerprint(open_family(folder, limit=2))


def test_asking_for_every_pixel_gives_each_once_in_order(folder: Path) -> None:
    family = open_family(folder)
    x, target = family.batch(torch.tensor([1, 2]), 54, torch.Generator())
    assert isinstance(target, torch.Tensor)
    for i, scene in enumerate((1, 2)):
        assert torch.equal(target[i].reshape(6, 9, 3), family.reference(scene))
    assert torch.equal(x[0], x[1])
    assert len(torch.unique(x[0], dim=0)) == 54


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[[255, 0, 0, 255], [255, 0, 0, 51], [0, 0, 0, 0]]])
    truth = open_family(tmp_path).reference(0)
    wanted = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.8, 0.8], [1.0, 1.0, 1.0]]])
    torch.testing.assert_close(truth, wanted, atol=1e-6, rtol=0.0)


def test_resizing_composites_first_so_that_edges_do_not_darken(tmp_path: Path) -> None:
    # Opaque white beside transparent black: on white both are white, and so is their mean.
    save(tmp_path / "a.png", [[[255, 255, 255, 255], [0, 0, 0, 0]]] * 2)
    assert torch.equal(open_family(tmp_path, size=(1, 1)).reference(0), torch.ones(1, 1, 3))


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_beyond_16_bits_are_not_cut(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.array([[1000, value]], dtype=np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=r"deep\.tif: not a readable picture \(whole numbers outside of 0 to 65535"):
        open_family(tmp_path)


def test_grey_palette_and_16_bit_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51]], dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.array([[1000, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    family = open_family(tmp_path)
    assert family.names == ("deep", "grey", "palette")
    deep, grey, palette = (family.reference(i) for i in range(3))
    torch.testing.assert_close(deep[0, :, 1], torch.tensor([1000 / 65535, 1.0]))  # not cut to 8 bits
    torch.testing.assert_close(grey[0], torch.tensor([[0.0] * 3, [0.2] * 3]))
    torch.testing.assert_close(palette[0], torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise to show
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)).save(
        tmp_path / "a.webp", lossless=True, exif=exif
    )
    truth = open_family(tmp_path).reference(0)
    torch.testing.assert_close(truth[:, 0], torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))


def test_exr_is_clamped_and_composited(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR", reason="needs the package OpenEXR (extra exr)")
    # Premultiplied, as the format wants: half covered by red, and a highlight above 1.
    pixels = np.array([[[0.5, 0.0, 0.0, 0.5], [3.0, 0.25, -1.0, 1.0]]], dtype=np.float32)
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, {"RGBA": pixels}).write(str(tmp_path / "a.exr"))
    truth = open_family(tmp_path).reference(0)
    torch.testing.assert_close(truth[0], torch.tensor([[1.0, 0.5, 0.5], [1.0, 0.25, 0.0]]))
    (tmp_path / "a.exr").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.exr"):
        open_family(tmp_path)


def test_exr_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "a.exr").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.exr.*hyperfields\[exr\]"):
        open_family(tmp_path)


def test_resize_area_is_the_mean_over_the_area() -> None:
    pixels = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
    np.testing.assert_allclose(resize_area(pixels, (1, 3))[0, :, 0], [0.5, 2.5, 4.5])
    # 6 -> 4: each new pixel covers one and a half.
    np.testing.assert_allclose(
        resize_area(pixels, (1, 4))[0, :, 0], [1 / 3, 1.5 + 1 / 6, 3.5 - 1 / 6, 5 - 1 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(resize_area(pixels, (2, 6))[:, :, 0], [np.arange(6)] * 2)
    mixed = np.array([[[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]], dtype=np.float32)
    np.testing.assert_allclose(resize_straight(mixed, (1, 1))[0, 0], [1.0, 0.0, 0.0, 0.5])


def test_scenes_and_limit_choose_by_name(folder: Path) -> None:
    assert open_family(folder, scenes=("cat", "a*")).names == ("ant", "cat")
    assert open_family(folder, scenes=("[ab]*",), limit=1).names == ("ant",)
    assert open_family(folder, limit=2).names == ("ant", "bee")
    save(folder / "[x].png", gradient(6, 9))
    assert open_family(folder, scenes=("[x]",)).names == ("[x]",)
    with pytest.raises(InputError, match=r"'caat' among 4; nearest: cat"):
        open_family(folder, scenes=("caat",))
    with pytest.raises(InputError, match="limit: 0"):
        open_family(folder, limit=0)
    with pytest.raises(InputError, match="empty list"):
        open_family(folder, scenes=())


@pytest.mark.parametrize("damage", ["zero", "text", "cut", "cut_jpg"])
def test_a_picture_that_cannot_be_read_is_named(folder: Path, damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    path = folder / ("dog.jpg" if damage == "cut_jpg" else "dog.png")
    save(path, noise)
    whole = path.read_bytes()
    path.write_bytes({"zero": b"", "text": b"no picture\n"}.get(damage, whole[: len(whole) // 2]))
    with pytest.raises(InputError, match=rf"{path.name}: not a readable picture") as caught:
        open_family(folder, size=(6, 9))
    assert "\n" not in str(caught.value)


def test_pictures_of_several_sizes_need_a_size(folder: Path) -> None:
    save(folder / "dog.png", gradient(6, 8))
    with pytest.raises(InputError, match=r"dog\.png: is 6x8 but ant\.png is 6x9.*--size"):
        open_family(folder)
    family = open_family(folder, size=(3, 4))
    assert family.reference(3).shape == (3, 4, 3)
    wanted = torch.from_numpy(gradient(6, 8).reshape(3, 2, 4, 2, 3).mean((1, 3)).astype(np.float32))
    assert float((family.reference(3) * 255.0 - wanted).abs().max()) <= 0.5  # rounded to 8 bits


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    save(folder / "ant.jpg", gradient(6, 9))
    with pytest.raises(InputError, match=r"ant\.png.*ant\.jpg"):
        open_family(folder)


def test_folders_that_cannot_be_a_family(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_family(other / "nowhere")
    with pytest.raises(InputError, match="is empty"):
        open_family(other)
    (other / "notes.txt").write_text("x")
    (other / ".hidden.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"nothing to fit.*\.png.*\.ply.*transforms_train"):
        open_family(other)
    with pytest.raises(InputError, match="is a file"):
        open_family(other / "notes.txt")
    with pytest.raises(InputError, match="holds no shapes, but images"):
        open_family(folder, kind="shapes")
    with pytest.raises(InputError, match="'pictures' came, wanted one of images, shapes, views"):
        open_family(folder, kind="pictures")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size: 0x4"):
        open_family(folder, size=(0, 4))


def test_mixed_kinds_need_a_word(folder: Path) -> None:
    (folder / "thing.ply").write_bytes(b"ply")
    with pytest.raises(InputError, match=r"holds images and shapes; say which with --kind images\|shapes"):
        detect_kind(folder)
    assert open_family(folder, kind="images").names == ("ant", "bee", "cat")


def test_the_samples_are_small_and_say_where_they_come_from() -> None:
    families = sorted(p for p in SAMPLES.iterdir() if p.is_dir())
    assert [p.name for p in families] == ["cars_views", "emoji", "shapes_cars", "toy_cars"]
    # Photographs without poses are pictures: `hyperfields poses` makes views of them.
    assert [detect_kind(p) for p in families] == ["views", "images", "shapes", "images"]
    for path in families:
        text = (path / "README.md").read_text()
        assert "Source:" in text
        assert "Licence:" in text
    assert sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file()) < 8e6


def test_the_emoji_samples() -> None:
    family = open_family(SAMPLES / "emoji")
    assert len(family.names) == 64
    face = family.reference(family.names.index("neutral-face"))
    assert face.shape == (64, 64, 3)
    assert torch.equal(face[0, 0], torch.ones(3))  # the corner is transparent
    red, green, blue = face[44, 20].tolist()  # a cheek: yellow
    assert red > 0.9
    assert 0.6 < green < 0.9
    assert blue < 0.4


def test_a_reader_from_outside(tmp_path: Path) -> None:
    """A format of a user's own, without a change of the package."""

    def open_pcx(folder: Path, *, scenes: object, limit: int | None, views: object) -> Images:
        paths = sorted(folder.glob("*.pcx"))[:limit]
        pictures = [np.asarray(Image.open(path)) for path in paths]
        return Images(torch.from_numpy(np.stack(pictures)), [path.stem for path in paths])

    mine = Reader(
        kind="images",
        name="pcx",
        wants="paintbrush (.pcx)",
        detect=lambda folder: any(folder.glob("*.pcx")),
        open=open_pcx,
        options=frozenset({"views"}),
        claims=lambda folder: (folder / "pcx.txt").exists(),
    )
    for name in ("a", "b"):
        save(tmp_path / f"{name}.pcx", gradient(3, 4))
    with pytest.raises(InputError, match="nothing to fit"):
        open_family(tmp_path)
    readers = (*READERS, mine)
    assert open_family(tmp_path, readers=readers).names == ("a", "b")
    assert open_family(tmp_path, readers=readers, kind="images", limit=1, views=[0]).names == ("a",)
    assert open_family(tmp_path, readers=[mine]).reference(0).shape == (3, 4, 3)
    with pytest.raises(InputError, match="size: is for images and views, but the family holds images; leave it out"):
        open_family(tmp_path, readers=readers, size=(2, 2))
    save(tmp_path / "c.png", gradient(3, 4))
    assert open_family(tmp_path, readers=readers).names == ("c",)  # of one kind, the first reader that detects
    (tmp_path / "pcx.txt").touch()
    (tmp_path / "thing.ply").write_bytes(b"ply")
    assert open_family(tmp_path, readers=readers).names == ("a", "b")  # unless another claims the folder
    with pytest.raises(InputError, match=r"nothing to fit in it; wanted paintbrush \(\.pcx\)$"):
        detect_kind(SAMPLES, [mine])


def test_views_are_chosen_for_views_only(folder: Path) -> None:
    with pytest.raises(InputError, match="--views: is for views, but the family holds images; leave it out"):
        open_family(folder, views=[0])
