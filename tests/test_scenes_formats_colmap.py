"""Models of COLMAP, made by its own library: text and binary, its cameras, several models, damage."""

from __future__ import annotations

import builtins
import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperfields import cli
from hyperfields.cameras import Camera, Lens
from hyperfields.data import Views
from hyperfields.errors import InputError
from hyperfields.scenes import detect_kind, open_family

from ._captures import HEIGHT, WIDTH, cameras, photograph, row, save
from .test_scenes_formats import check_cameras, in_file

pycolmap = pytest.importorskip("pycolmap")

MODELS: dict[str, tuple[list[float], Lens | None]] = {
    "SIMPLE_PINHOLE": ([], None),
    "PINHOLE": ([], None),
    "SIMPLE_RADIAL": ([0.05], Lens("SIMPLE_RADIAL", (0.05,))),
    "RADIAL": ([0.05, 0.01], Lens("RADIAL", (0.05, 0.01))),
    "OPENCV": ([0.05, 0.01, 1e-3, 2e-3], Lens("OPENCV", (0.05, 0.01, 1e-3, 2e-3))),
    "FULL_OPENCV": ([0.1, 0, 0, 0, 0, 0.1, 0, 0], Lens("FULL_OPENCV", (0.1, 0, 0, 0, 0, 0.1, 0, 0))),
    "SIMPLE_RADIAL_FISHEYE": ([0.1], Lens("SIMPLE_RADIAL_FISHEYE", (0.1,))),
    "RADIAL_FISHEYE": ([0.1, 0.01], Lens("RADIAL_FISHEYE", (0.1, 0.01))),
    "OPENCV_FISHEYE": ([0.1, 0.01, 0.0, 0.0], Lens("OPENCV_FISHEYE", (0.1, 0.01, 0, 0))),
    "SIMPLE_FISHEYE": ([], Lens("OPENCV_FISHEYE", (0, 0, 0, 0))),
    "FISHEYE": ([], Lens("OPENCV_FISHEYE", (0, 0, 0, 0))),
}
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE")


def name_of(i: int) -> str:
    return f"photo {i:03d}.png"


def reconstruction(
    views: list[Camera], model: str = "PINHOLE", coefficients: list[float] | None = None, times: int = 1
) -> Any:
    """A model of these cameras, whose pictures are so many times larger."""
    made = pycolmap.Reconstruction()
    first = views[0]
    focal = [first.fx * times] if model in ONE_FOCAL else [first.fx * times, first.fy * times]
    params = [*focal, first.cx * times, first.cy * times, *(coefficients or [])]
    if model == "EQUIRECTANGULAR":
        params = [first.width, first.height]
    width, height = first.width * times, first.height * times
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params, camera_id=3)
    made.add_camera_with_trivial_rig(camera)
    for i, view in enumerate(views):
        inverse = np.linalg.inv(view.T_world_camera.double().numpy())
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(inverse[:3, :3]), inverse[:3, 3])
        made.add_image_with_trivial_frame(pycolmap.Image(name=name_of(i), camera_id=3, image_id=i + 1), pose)
    for point in np.random.default_rng(0).uniform(-0.5, 0.5, (60, 3)):
        made.add_point3D(point, pycolmap.Track(), np.zeros(3, dtype=np.uint8))
    return made


def capture(
    folder: Path, views: list[Camera] | None = None, *, text: bool = False, at: str = "sparse/0", **more: Any
) -> Path:
    """A scene's folder with a model and its pictures."""
    views = cameras() if views is None else views
    for i, view in enumerate(views):
        save(folder / "images" / name_of(i), photograph(view))
    write(folder / at, reconstruction(views, **more), text)
    return folder


def write(folder: Path, model: Any, text: bool = False) -> None:
    folder.mkdir(parents=True)
    (model.write_text if text else model.write_binary)(str(folder))


def opened(path: Path, **options: Any) -> Views:
    family = open_family(path, **options)
    assert isinstance(family, Views)
    return family


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("at", ["sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "."])
def test_models_where_programs_leave_them(tmp_path: Path, at: str, text: bool) -> None:
    if at == ".":
        capture(tmp_path / "s")
        shutil.copytree(tmp_path / "s" / "images", tmp_path / "t" / "images")
        for path in (tmp_path / "s" / "sparse" / "0").iterdir():
            shutil.copy(path, tmp_path / "t")
        folder = tmp_path / "t"
    else:
        folder = capture(tmp_path / "s", text=text, at=at)
    assert detect_kind(folder) == "views"
    data = opened(folder, background="scene")
    views = cameras()
    check_cameras(data, [views[i] for i in range(10) if i % 8])
    check_cameras(data, [views[0], views[8]], "test")


@pytest.mark.parametrize("model", MODELS)
def test_its_cameras(tmp_path: Path, model: str) -> None:
    coefficients, lens = MODELS[model]
    views = [dataclasses.replace(camera, lens=lens) for camera in cameras(4)]
    folder = capture(tmp_path / "s", views, model=model, coefficients=coefficients)
    data = opened(folder, split="all", background="scene")
    check_cameras(data, views)
    # Points project where the library says.
    found = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    points = np.random.default_rng(1).uniform(-0.4, 0.4, (20, 3))
    scale, *center = data.frames[0]
    for i, view in enumerate(data.reference(0, "train")):
        image = found.images[i + 1]
        wanted = found.cameras[3].img_from_cam(image.cam_from_world() * points)
        ours = view.camera.project(torch.from_numpy((points - np.array(center)) / scale))
        np.testing.assert_allclose(ours, wanted, atol=1e-3)


def test_panoramas(tmp_path: Path) -> None:
    views = [Camera.panorama(camera.T_world_camera, 12, 24) for camera in cameras(4)]
    check_cameras(opened(capture(tmp_path / "s", views, model="EQUIRECTANGULAR"), split="all"), views)


@pytest.mark.parametrize("model", ["FOV", "THIN_PRISM_FISHEYE", "EUCM", "DIVISION"])
def test_cameras_that_are_not_read(tmp_path: Path, model: str) -> None:
    coefficients = {"FOV": [0.9], "THIN_PRISM_FISHEYE": [0.1] + [0.0] * 7, "EUCM": [0.5, 1.0], "DIVISION": [0.1]}[model]
    folder = capture(tmp_path / "s", cameras(3), model=model, coefficients=coefficients)
    with pytest.raises(
        InputError, match=rf"sparse/0: camera 3 of photo 000\.png: camera model {model} is not read; und"
    ):
        open_family(folder)


def test_the_largest_model_is_taken_and_the_others_are_said(tmp_path: Path) -> None:
    views = cameras()
    folder = capture(tmp_path / "s", views[:3])
    for i, view in enumerate(views):
        save(folder / "images" / name_of(i), photograph(view))
    write(folder / "sparse" / "1", reconstruction(views))
    write(folder / "sparse" / "2", reconstruction(views[:2]), text=True)
    data = opened(folder, split="all", background="scene")
    check_cameras(data, views)
    assert any("sparse/1, with 10 pictures, is read; left out: 0 with 3, 2 with 2" in note for note in data.notes)


def test_the_model_itself_may_be_given(tmp_path: Path) -> None:
    folder = capture(tmp_path / "s")
    check_cameras(opened(folder / "sparse" / "0", split="all", background="scene"), cameras())


def test_smaller_pictures(tmp_path: Path) -> None:
    views = cameras()
    folder = capture(tmp_path / "s", views, times=4)
    for times in (2, 4):
        for i, view in enumerate(views):
            small = view.resized(HEIGHT // times, WIDTH // times)
            # LLFF's scripts rename them; their order is that of the names.
            save(folder / f"images_{times}" / f"image{i:03d}.png", photograph(small))
    check_cameras(opened(folder, split="all", background="scene"), views)
    data = opened(folder, split="all", background="scene", size=(HEIGHT // 2, WIDTH // 2))
    check_cameras(data, [view.resized(HEIGHT // 2, WIDTH // 2) for view in views])
    assert any("those of images_2, 9x12, are read: they suffice for --size" in note for note in data.notes)
    shutil.rmtree(folder / "images")
    data = opened(folder, split="all", background="scene")
    check_cameras(data, [view.resized(HEIGHT // 2, WIDTH // 2) for view in views])
    assert any("those of images_2 have other names: taken in order" in note for note in data.notes)


def test_huge_pictures_give_way_to_smaller_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperfields.scenes._photos.LONGEST", WIDTH - 1)
    views = cameras(3)
    folder = capture(tmp_path / "s", views)
    for times in (2, 4):
        for i, view in enumerate(views):
            save(folder / f"images_{times}" / name_of(i), photograph(view.resized(HEIGHT // times, WIDTH // times)))
    data = opened(folder, split="all")
    assert data.sizes == ((HEIGHT // 2, WIDTH // 2),)
    assert any("are longer than 23 pixels; choose with --size HxW" in note for note in data.notes)


def test_masks_and_lists_and_missing_pictures(tmp_path: Path) -> None:
    views = cameras()
    folder = capture(tmp_path / "s")
    mask = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    mask[:4] = 0
    for i in range(9):
        save(folder / "masks" / (name_of(i) + ".png" if i % 2 else name_of(i)), mask)
    (folder / "images" / name_of(4)).unlink()
    (folder / "sparse" / "0" / "test.txt").write_text("\n".join(name_of(i) for i in (1, 9)))
    (folder / "sparse" / "0" / "train.txt").write_text("\n".join(name_of(i) for i in (0, 2, 3, 5)))
    data = opened(folder, background="scene")
    check_cameras(data, [views[i] for i in (0, 2, 3, 5)])
    masks = [view.mask for view in data.reference(0, "test")]
    assert masks[1] is None
    assert torch.equal(masks[0], torch.from_numpy(mask > 0))
    text = "\n".join(data.notes)
    model = folder / "sparse" / "0"
    assert f"1 of 10 pictures of {model} are not there and left out (photo 004.png)" in text
    assert "masks: 1 pictures have none: all of them counts" in text
    assert "split: by its lists of names (4 train and 2 test)" in text


def test_points_give_the_box(tmp_path: Path) -> None:
    data = opened(capture(tmp_path / "s", row()), background="scene")
    scale, *center = data.frames[0]
    assert np.abs(center).max() < 0.1
    assert 0.35 < scale < 0.6
    assert any("from the points" in note for note in data.notes)


def test_several_cameras_and_a_rig(tmp_path: Path) -> None:
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 2, 4, 30
    options.camera_width, options.camera_height = 40, 30
    options.camera_params = [50.0, 20.0, 15.0, 0.05]
    made = pycolmap.synthesize_dataset(options)
    folder = tmp_path / "s"
    write(folder / "sparse" / "0", made)
    for image in made.images.values():
        save(folder / "images" / image.name, np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    data = opened(folder, split="all")
    views = data.reference(0, "train")
    assert len(views) == 8
    for image, view in zip(sorted(made.images.values(), key=lambda image: str(image.name)), views, strict=True):
        wanted = np.eye(4)
        wanted[:3] = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(in_file(data, view.camera), wanted, atol=1e-4)


# Damage ---------------------------------------------------------------------------------------------------------------


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: int(share * len(content))])

    return damage


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        text = (model / name).read_text()
        assert old in text
        (model / name).write_text(text.replace(old, new, 1))

    return damage


def posed(numbers: str) -> Callable[[Path], None]:
    """The pose of the first picture replaced by QW QX QY QZ TX TY TZ."""

    def damage(model: Path) -> None:
        lines = (model / "images.txt").read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("1 "))
        words = lines[at].split(None, 8)
        lines[at] = " ".join((words[0], numbers, words[8]))
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        for name in ("rigs.txt", "frames.txt"):  # in whose place the library then takes the pictures' own poses
            (model / name).unlink()

    return damage


def emptied(model: Path) -> None:
    pycolmap.Reconstruction().write_binary(str(model))


def without_pictures(model: Path) -> None:
    shutil.rmtree(model.parent.parent / "images")


DAMAGES: dict[str, tuple[bool, Callable[[Path], None], str]] = {
    "cameras.bin cut": (False, cut("cameras.bin", 0.7), r"cameras\.bin: is cut short, at camera 1 of 1"),
    "cameras.bin empty": (False, cut("cameras.bin", 0.0), r"cameras\.bin: is cut short, at its count"),
    "images.bin cut": (False, cut("images.bin", 0.5), r"images\.bin: is cut short, at picture \d of 5"),
    "points3D.bin cut": (False, cut("points3D.bin", 0.5), r"points3D\.bin: is cut short, at point \d+ of 60"),
    "frames.bin cut": (False, cut("frames.bin", 0.5), r"frames\.bin: is cut short, at frame \d of 5"),
    "rigs.bin cut": (False, cut("rigs.bin", 0.5), r"rigs\.bin: is cut short, at rig 1 of 1"),
    "longer": (
        False,
        lambda m: (m / "images.bin").write_bytes((m / "images.bin").read_bytes() + b"abc") and None,
        r"images\.bin: has 3 bytes too many",
    ),
    "no points": (False, lambda m: (m / "points3D.bin").unlink(), r"points3D\.bin: is missing"),
    "cameras.txt cut": (True, cut("cameras.txt", 0.9), r"cameras\.txt: line 4: camera 3: \d parameters came|line 4"),
    "images.txt cut": (True, cut("images.txt", 0.5), r"images\.txt: (line \d+|is cut short: says 5 entries)"),
    "points3D.txt cut": (True, cut("points3D.txt", 0.5), r"points3D\.txt: (line \d+|is cut short: says 60 entries)"),
    "frames.txt cut": (True, cut("frames.txt", 0.5), r"frames\.txt: (line \d+|is cut short: says 5)"),
    "model": (True, replaced("cameras.txt", "PINHOLE", "FANCY"), r"cameras\.txt: line 4: camera 3: model 'FANCY' is"),
    "focal": (
        True,
        replaced("cameras.txt", "PINHOLE 24 18 ", "PINHOLE 24 18 -"),
        r"0: camera 3 of photo 000\.png: its",
    ),
    "width": (
        True,
        replaced("cameras.txt", "PINHOLE 24 18", "PINHOLE 48 18"),
        r"photo 000\.png: is 18x24 .*says 18x48",
    ),
    "NaN": (
        True,
        replaced("cameras.txt", "PINHOLE 24 18 ", "PINHOLE 24 18 nan "),
        r"cameras\.txt: line 4: camera 3: 5",
    ),
    "camera": (True, replaced("images.txt", " 3 photo", " 9 photo"), "sparse/0: pycolmap cannot read it"),
    "quaternion": (True, posed("0 0 0 0 1 1 1"), r"images\.txt: line 5 \(photo 000\.png\): the pose .* is not rigid"),
    "position": (True, posed("1 0 0 0 nan 1 1"), r"images\.txt: line 5 \(photo 000\.png\): the pose .* is not rigid"),
    "frames.bin pose": (
        False,
        lambda m: (
            (m / "frames.bin").write_bytes(
                (m / "frames.bin").read_bytes()[:16] + bytes(32) + (m / "frames.bin").read_bytes()[48:]
            )
            and None
        ),
        r"frames\.bin: frame 1 of 5: the pose .* is not rigid",
    ),
    "no image": (False, emptied, r"images\.bin: no picture with a pose"),
    "no pictures": (False, without_pictures, r"none of the 5 pictures of .*sparse/0 is there \(photo 000\.png"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, damage, complaint = DAMAGES[name]
    folder = capture(tmp_path / "s", cameras(5), text=text)
    damage(folder / "sparse" / "0")
    with pytest.raises(InputError, match=complaint) as caught:
        open_family(folder, split="all")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the library says nothing of its own


def test_any_damage_is_one_line(tmp_path: Path) -> None:
    """Bytes of every file cut off or changed: it loads or is refused; nothing hangs, dies or takes all memory."""
    source = {kind: capture(tmp_path / kind, cameras(4), text=kind == "text") for kind in ("binary", "text")}
    generator = random.Random(0)
    for folder in source.values():
        model = folder / "sparse" / "0"
        for path in sorted(model.iterdir()):
            whole = path.read_bytes()
            for attempt in range(16):
                content = bytearray(whole)
                if attempt % 2:
                    del content[generator.randrange(len(content)) :]
                else:
                    for _ in range(3):
                        content[generator.randrange(len(content))] = generator.randrange(256)
                path.write_bytes(bytes(content))
                said = str(folder)
                try:
                    open_family(folder, split="all", background="scene")
                except InputError as error:
                    said = str(error)
                assert "\n" not in said
                assert str(folder) in said
            path.write_bytes(whole)


def test_the_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = capture(tmp_path / "s", cameras(3))
    ordinary = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pycolmap":
            raise ImportError(name)
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["fit", str(folder), "--out", str(tmp_path / "run"), "--steps", "1"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith('sparse/0: needs pycolmap; pip install "hyperfields[captures]"')
    assert "\n" not in said


def test_a_fit_of_a_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = capture(tmp_path / "s", text=True), tmp_path / "run"
    assert cli.main(["fit", str(folder), "--out", str(run), "--steps", "2", "--preset", "tiny"]) == 0
    assert "split: every 8th picture by name is for the test (8 train and 2 test)" in capsys.readouterr().out
    assert (run / "model.safetensors").is_file()
