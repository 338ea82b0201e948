"""Data as other programs and systems leave them: read, or refused in one line that says what to type."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields import cli
from hyperfields.cameras import orbit
from hyperfields.cli.options import parse_names
from hyperfields.data import Concat, Mesh, Pixels, Subset, Views, frames_of, up_of
from hyperfields.errors import InputError
from hyperfields.runs.meshes import write_mesh
from hyperfields.runs.run import load_run
from hyperfields.scenes import detect_kind, open_family
from hyperfields.scenes._background import border_color, border_pixels, cut_out
from hyperfields.scenes.meshes import read_mesh
from hyperfields.tasks import RADIANCE
from hyperfields.training.inference import infer

SIDE = 24
CUBE = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
FACES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4)]
FACES += [(1, 5, 7), (1, 7, 3)]


def ball(camera: Any, radius: float = 0.5) -> np.ndarray:
    """Straight RGBA of a ball round the origin, red where it faces +X, with soft edges (4 x 4 rays a pixel)."""
    fine = camera.resized(4 * camera.height, 4 * camera.width)
    origins, directions = fine.rays()
    along = -(origins * directions).sum(-1)
    square = (origins + along[:, None] * directions).square().sum(-1)
    hit = square < radius**2
    at = origins + (along - (radius**2 - square).clamp(min=0.0).sqrt())[:, None] * directions
    color = torch.stack((at[:, 0], at[:, 1], at[:, 2]), -1) / (2.0 * radius) + 0.5
    rgba = torch.cat((color * hit[:, None], hit[:, None].float()), -1)
    rgba = rgba.reshape(camera.height, 4, camera.width, 4, 4).mean((1, 3)).numpy()
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return (rgba * 255.0).round().astype(np.uint8)


def scene(folder: Path, *, single: bool = False, count: int = 9, unit: float = 1.0, **more: Any) -> Path:
    """A scene folder of a ball, in `unit`s and with `more` keys."""
    (folder / "train").mkdir(parents=True)
    frames = []
    for i, camera in enumerate(orbit(count, radius=4.0, elevation=0.5, height=SIDE, width=SIDE)):
        Image.fromarray(ball(camera)).save(folder / "train" / f"r_{i}.png")
        pose = camera.T_world_camera.double().numpy() * np.array([1.0, -1.0, -1.0, unit])
        pose[3] = (0.0, 0.0, 0.0, 1.0)
        frames.append({"file_path": f"./train/r_{i}", "transform_matrix": pose.tolist()})
    content = {"camera_angle_x": 0.6911112, **more, "frames": frames}
    (folder / f"transforms{'' if single else '_train'}.json").write_text(json.dumps(content))
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], object], name: str = "transforms_train.json") -> None:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


def off() -> str:
    rows = [" ".join(map(str, v)) for v in CUBE] + [f"3 {' '.join(map(str, f))}" for f in FACES]
    return "8 12 0\n" + "\n".join(rows) + "\n"


# Names and folders ------------------------------------------------------------------------------------------------


def test_pictures_of_all_sorts_are_read_and_the_others_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.bmp", "d.tif", "e.gif", "f.jfif", "g.PNG", "h.ppm", "i.TGA"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name, "JPEG" if name.endswith("jfif") else None)
    for junk in (".DS_Store", "._a.png", "Thumbs.db", "README.md", "IMG_1.HEIC"):
        (tmp_path / junk).write_bytes(b"\0")
    with pytest.warns(UserWarning, match=r"1 file is left out \(IMG_1\.HEIC\); convert them") as told:
        assert open_family(tmp_path).names == tuple("abcdefghi")
    assert len(told) == 1


def test_only_pictures_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"nothing to fit in it; 1 \.heic|nothing to fit in it; 1 \.HEIC"):
        open_family(tmp_path)


def test_names_are_found_as_typed(tmp_path: Path) -> None:
    for name in (unicodedata.normalize("NFD", "café"), "Doe, John", "[1]"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    for typed in (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")):
        assert open_family(tmp_path, scenes=[typed]).names == (unicodedata.normalize("NFC", "café"),)
    assert parse_names(r"Doe\, John, [1]") == ["Doe, John", "[1]"]
    assert open_family(tmp_path, scenes=parse_names(r"Doe\, John,[1]")).names == ("Doe, John", "[1]")
    with pytest.raises(InputError, match=r"Doe, John.*write a comma in a name as \\,"):
        open_family(tmp_path, scenes=parse_names("Doe, John"))


def test_folders_further_down_are_named(tmp_path: Path) -> None:
    for folder in ("cats", "dogs", "__MACOSX"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / folder / "1.png")
    with pytest.raises(InputError, match=r"its folders hold something \(cats, dogs\): give one of them, .*cats with"):
        open_family(tmp_path)


def test_a_mesh_a_folder_is_a_family(tmp_path: Path) -> None:
    for name in ("1a2b", "3c4d"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "model_normalized.off").write_text("OFF\n" + off())
    assert detect_kind(tmp_path) == "shapes"
    assert open_family(tmp_path).names == ("1a2b", "3c4d")


def test_half_a_model_of_colmap_is_told(tmp_path: Path) -> None:
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.txt").touch()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "1.png")
    with pytest.raises(InputError, match=r"sparse/0/images\.txt: is missing; a model of COLMAP has"):
        open_family(tmp_path)


def test_a_zip_of_macos(tmp_path: Path) -> None:
    scene(tmp_path / "lego")
    (tmp_path / "__MACOSX" / "lego").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "lego" / "._transforms_train.json").write_bytes(b"\0")
    assert open_family(tmp_path).names == ("lego",)


@pytest.mark.parametrize("aspect", ["fit", "crop", "pad", None])
def test_pictures_of_another_aspect(tmp_path: Path, aspect: Any) -> None:
    picture = np.full((12, 36, 3), 200, dtype=np.uint8)
    picture[:, 12:24] = 50  # the middle
    Image.fromarray(picture).save(tmp_path / "wide.png")
    family = open_family(tmp_path, size=(6, 6), aspect=aspect)
    image = (family.reference(0) * 255).round()
    if aspect == "fit":
        assert image[0, 0, 0] == 200
        assert image[3, 3, 0] == 50
    elif aspect == "pad":
        assert image[0, 0, 0] == 255
        assert image[3, 0, 0] == 200
        assert image[3, 3, 0] == 50
    else:
        assert bool((image == 50).all())
    assert len(family.notes) == (aspect is None)
    assert all("--aspect fit|crop|pad" in note for note in family.notes)
    with pytest.raises(InputError, match="--aspect: is for images, but the family holds views"):
        open_family(scene(tmp_path / "views"), aspect="crop")


# Transforms files -------------------------------------------------------------------------------------------------


def test_a_single_transforms_file_is_divided(tmp_path: Path) -> None:
    family = open_family(scene(tmp_path / "s", single=True, count=10))
    assert [len(family.reference(0, split)) for split in ("train", "test")] == [8, 2]
    with pytest.raises(InputError, match="none of its 10 pictures is for 'val'"):
        family.reference(0, "val")
    change(
        tmp_path / "s",
        lambda c: c.update(train_filenames=["train/r_1"], test_filenames=["./train/r_2"]),
        "transforms.json",
    )
    assert [len(open_family(tmp_path / "s").reference(0, split)) for split in ("train", "test")] == [1, 1]


def backslashes(content: dict[str, Any]) -> None:
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].replace("/", "\\")


def three_rows(content: dict[str, Any]) -> None:
    for frame in content["frames"]:
        frame["transform_matrix"] = frame["transform_matrix"][:3]


def loud(content: dict[str, Any]) -> None:
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].upper()


@pytest.mark.parametrize("edit", [backslashes, three_rows, loud])
def test_transforms_of_other_systems(tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    plain = open_family(scene(tmp_path / "s"))
    change(tmp_path / "s", edit)
    other = open_family(tmp_path / "s")
    for one, two in zip(plain.reference(0, "train"), other.reference(0, "train"), strict=True):
        assert torch.equal(one.rgba, two.rgba)
        assert torch.equal(one.camera.T_world_camera, two.camera.T_world_camera)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_at_the_start(tmp_path: Path, encoding: str) -> None:
    path = scene(tmp_path / "s") / "transforms_train.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert open_family(tmp_path / "s").names == ("s",)


KEYS: dict[str, tuple[Any, str]] = {
    "latlong": (True, "latlong: is not read; write camera_model EQUIRECTANGULAR"),
    "camera_model": ("VR180_L", "camera_model 'VR180_L' is not read; wanted PINHOLE, .*EQUIRECTANGULAR: undistort"),
    "is_equirectangular": (1, "wanted all directions, twice as wide as high"),
    "rolling_shutter": ([0, 0, 0.1, 0], "rolling_shutter"),
    "k5": (0.1, r"distortion \(k5\)"),
    "distortion_params": ([0.1, 0.0], "distortion_params has 2 numbers; wanted k1, k2, k3, k4, p1, p2"),
    "my_key": (3, "key 'my_key' is not known here; take it out if it may be passed over"),
    "scale": (0, "scale is 0; wanted a number above 0"),
    "offset": ([0, 1], r"offset is \[0, 1\]; wanted 3 finite numbers"),
    "camera_angle_y": (9.0, "camera_angle_y is 9"),
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_is_dropped(tmp_path: Path, key: str) -> None:
    value, complaint = KEYS[key]
    with pytest.raises(InputError, match=complaint) as caught:
        open_family(scene(tmp_path / "s", **{key: value}))
    assert "\n" not in str(caught.value)


def test_keys_of_frames_and_those_that_say_nothing(tmp_path: Path) -> None:
    scene(tmp_path / "s", camera_model="OPENCV", k1=0.0, is_fisheye=False, rolling_shutter=[0, 0, 0, 0], _mine=1)
    change(tmp_path / "s", lambda c: c["frames"][0].update(sharpness=3.0, colmap_im_id=4, rotation=0.1, time=0.0))
    change(tmp_path / "s", lambda c: [frame.update(time=0.0) for frame in c["frames"]])
    open_family(tmp_path / "s")
    change(tmp_path / "s", lambda c: c["frames"][0].update(time=0.5))
    with pytest.raises(InputError, match="several times; a scene that moves is not read"):
        open_family(tmp_path / "s")
    change(tmp_path / "s", lambda c: c["frames"][0].update(time=0.0, what=1))
    with pytest.raises(InputError, match="frame 0: key 'what' is not known"):
        open_family(tmp_path / "s")


def test_a_vertical_angle_is_used(tmp_path: Path) -> None:
    camera = open_family(scene(tmp_path / "s", camera_angle_y=1.0)).reference(0, "train")[0].camera
    assert camera.fy == pytest.approx(0.5 * SIDE / math.tan(0.5))
    assert camera.fx == pytest.approx(0.5 * SIDE / math.tan(0.5 * 0.6911112))


# Masks ------------------------------------------------------------------------------------------------------------


def test_masked_pixels_are_neither_drawn_nor_measured(tmp_path: Path) -> None:
    folder = scene(tmp_path / "s")
    mask = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    mask[:8, :8] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    for i in range(9):
        picture = np.array(Image.open(folder / "train" / f"r_{i}.png"))
        picture[:8, :8] = (255, 0, 255, 255)
        Image.fromarray(picture).save(folder / "train" / f"r_{i}.png")
    unmasked = open_family(folder)
    change(folder, lambda c: [frame.update(mask_path="mask.png") for frame in c["frames"]])
    family = open_family(folder)
    batch = family.batch(torch.tensor([0]), 20_000, torch.Generator().manual_seed(0))
    magenta = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert not bool((batch.rgba == magenta).all(-1).any())
    assert bool((unmasked.batch(torch.tensor([0]), 20_000, torch.Generator()).rgba == magenta).all(-1).any())
    view = family.reference(0, "train")[0]
    assert view.mask is not None
    assert int(view.mask.sum()) == SIDE**2 - 64
    from hyperfields.tasks.base import on_white, picture_metrics

    truth = on_white(view.rgba)[None]
    wrong = truth.clone()
    wrong[:, :8, :8] = 0.5  # only there
    values = picture_metrics(wrong, truth, "s", {}, print, counting=view.mask[None])
    assert values["psnr"] == math.inf
    wrong += 0.1 * (wrong < 0.5)
    whole = (wrong.clamp(0, 1) - truth)[:, view.mask].square().mean()
    values = picture_metrics(wrong, truth, "s", {}, print, counting=view.mask[None])
    assert values["psnr"] == pytest.approx(float(-10 * whole.log10()), abs=1e-3)
    Image.fromarray(np.stack([np.full_like(mask, 255)] * 3 + [mask], -1)).save(folder / "mask.png")
    cut_out = open_family(folder).reference(0, "train")[0].mask  # a mask that is white where it is not transparent
    assert cut_out is not None
    assert bool((cut_out == view.mask).all())
    Image.fromarray(np.zeros_like(mask)).save(folder / "mask.png")
    with pytest.raises(InputError, match="no pixel counts"):
        open_family(folder)


# Backgrounds ------------------------------------------------------------------------------------------------------


def lay_over(folder: Path, color: tuple[int, int, int]) -> None:
    for path in (folder / "train").iterdir():
        rgba = np.array(Image.open(path)).astype(float)
        alpha = rgba[..., 3:] / 255.0
        flat = rgba[..., :3] * alpha + (1.0 - alpha) * np.array(color)
        Image.fromarray((flat + 0.5).astype(np.uint8)).save(path)


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (90, 160, 40)])
def test_alpha_comes_back_from_an_even_background(tmp_path: Path, color: tuple[int, int, int]) -> None:
    truth = list(open_family(scene(tmp_path / "s")).reference(0, "train"))
    lay_over(tmp_path / "s", color)
    family = open_family(tmp_path / "s")
    assert len(family.notes) == 1
    assert "is cut out; choose with --background" in family.notes[0]
    for one, two in zip(truth, family.reference(0, "train"), strict=True):
        assert float((one.rgba[..., 3] - two.rgba[..., 3]).abs().mean()) < 0.02  # edges are a tenth of it
        premultiplied = [v.rgba[..., :3] * v.rgba[..., 3:] for v in (one, two)]
        assert float((premultiplied[0] - premultiplied[1]).abs().mean()) < 0.01
        behind = torch.tensor(color) / 255.0
        laid = [p + (1.0 - v.rgba[..., 3:]) * behind for p, v in zip(premultiplied, (one, two), strict=True)]
        assert float((laid[0] - laid[1]).abs().max()) < 0.03  # over its background it is what it was
    batch = family.batch(torch.tensor([0]), 4000, torch.Generator().manual_seed(0))
    assert isinstance(batch, Pixels)
    assert batch.behind is not None
    torch.testing.assert_close(batch.behind[0, 0], behind)  # the only colour over which they are known
    assert all(view.behind is not None for view in family.reference(0, "train"))
    assert 0.5 < float((batch.rgba[..., 3] == 0.0).float().mean()) < 1.0
    assert open_family(tmp_path / "s", background="scene").reference(0, "train")[0].rgba[..., 3].min() == 1.0
    given = open_family(tmp_path / "s", background="#{:02x}{:02x}{:02x}".format(*color))
    assert torch.equal(given.reference(0, "train")[0].rgba, family.reference(0, "train")[0].rgba)
    assert given.background is not None
    assert not given.notes


def test_photographs_are_scenes(tmp_path: Path) -> None:
    scene(tmp_path / "s")
    generator = np.random.default_rng(0)
    for path in (tmp_path / "s" / "train").iterdir():
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    family = open_family(tmp_path / "s")
    assert bool((family.reference(0, "train")[0].rgba[..., 3] == 1.0).all())
    assert "none found on the borders of s, so every pixel shows the scene" in family.notes[0]
    assert any("lies outside of the box" in note for note in family.notes)  # said in per cent


def test_backgrounds_that_cannot_be(tmp_path: Path) -> None:
    scene(tmp_path / "s")
    with pytest.raises(InputError, match=r"--background white: the pictures of .* have alpha"):
        open_family(tmp_path / "s", background="white")
    lay_over(tmp_path / "s", (255, 255, 255))
    with pytest.raises(InputError, match="--background 'mauvish': wanted white, black, a colour"):
        open_family(tmp_path / "s", background="mauvish")


def test_holes_are_clear_and_highlights_are_not() -> None:
    v, u = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(u, v)
    picture = np.full((64, 64, 4), 255, dtype=np.uint8)
    picture[(radius < 28) & (radius > 10), :3] = (200, 30, 30)
    picture[32, 50, :3] = 255  # a highlight
    assert border_color(border_pixels(picture)) == (255, 255, 255)
    alpha = cut_out(picture, (255, 255, 255))[..., 3]
    assert alpha[32, 32] == 0
    assert alpha[0, 0] == 0
    assert alpha[32, 50] == 255
    assert alpha[32, 46] == 255


# Boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "center"), [(1000.0, (0, 0, 0)), (0.05, (7, -3, 2)), (1.0, (500_000, 4_000_000, 30))])
def test_cameras_of_any_unit_and_centre(tmp_path: Path, unit: float, center: tuple[float, float, float]) -> None:
    scene(tmp_path / "s", unit=unit)

    def move(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            for axis in range(3):
                frame["transform_matrix"][axis][3] += center[axis]

    change(tmp_path / "s", move)
    family = open_family(tmp_path / "s")
    frame = np.array(frames_of(family)["s"])
    assert np.abs(frame[1:] - center).max() < 0.05 * unit  # of a ball of radius 0.5
    assert 0.45 * unit < frame[0] < 0.65 * unit
    assert "exports are in that unit" in family.notes[0]
    for view in family.reference(0, "train"):  # the same pictures of the same ball, by another length
        place = view.camera.T_world_camera[:3, 3].double().numpy() * frame[0] + frame[1:]
        assert np.linalg.norm(place - center) == pytest.approx(4.0 * unit, rel=1e-5)
    facts = RADIANCE.describe(family)
    assert facts["frames"]["s"] == frame.tolist()
    assert facts["radius"] == pytest.approx(4.0 * unit / frame[0], rel=0.05)


def test_usual_cameras_stay_as_they_are(tmp_path: Path) -> None:
    family = open_family(scene(tmp_path / "s"))
    assert frames_of(family) == {}
    assert family.notes == ()
    assert up_of(family) == (0.0, 0.0, 1.0)
    assert "frames" not in RADIANCE.describe(family)


def test_instant_ngps_box(tmp_path: Path) -> None:
    family = open_family(scene(tmp_path / "s", scale=0.25, offset=[0.5, 0.75, 0.5], aabb_scale=2))
    assert frames_of(family) == {"s": (4.0, 0.0, -1.0, 0.0)}


def test_frames_of_parts(tmp_path: Path) -> None:
    one, two = open_family(scene(tmp_path / "one")), open_family(scene(tmp_path / "two", unit=10.0))
    both = Concat([one, two])
    assert set(frames_of(both)) == {"two"}
    assert set(frames_of(Subset(both, [1]))) == {"two"}
    assert frames_of(Subset(both, [0])) == {}


def test_a_camera_at_the_origin(tmp_path: Path) -> None:
    """SLAM: the first camera is the origin, and +Y is up."""
    scene(tmp_path / "s")

    def from_first(content: dict[str, Any]) -> None:
        first = np.linalg.inv(np.array(content["frames"][0]["transform_matrix"]))
        for frame in content["frames"]:
            frame["transform_matrix"] = (first @ np.array(frame["transform_matrix"])).tolist()

    change(tmp_path / "s", from_first)
    family = open_family(tmp_path / "s")
    assert np.abs(np.array(frames_of(family)["s"])[1:] - (0.0, 0.0, -4.0)).max() < 0.05
    facts = RADIANCE.describe(family)
    assert all(math.isfinite(facts[key]) for key in ("radius", "elevation", "fov"))
    assert up_of(family)[1] > 0.8
    json.dumps(facts, allow_nan=False)


def test_cameras_inside_and_straight_above() -> None:
    for pose in (torch.eye(4), torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])):
        data = Views((pose[None], torch.tensor([8.0, 8.0, 4.0, 4.0])), torch.zeros(1, 8, 8, 4, dtype=torch.uint8))
        facts = RADIANCE.describe(data)
        json.dumps(facts, allow_nan=False)
        cameras = orbit(4, radius=facts.get("radius", 4.0), elevation=facts.get("elevation", 0.3))
        for camera in cameras:
            rotation = camera.T_world_camera[:3, :3]
            torch.testing.assert_close(rotation.T @ rotation, torch.eye(3), atol=1e-5, rtol=0.0)
            torch.testing.assert_close(torch.linalg.det(rotation), torch.tensor(1.0))


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 2.0, -0.5)])
def test_orbits_round_any_axis(up: tuple[float, float, float]) -> None:
    axis = torch.nn.functional.normalize(torch.tensor(up), dim=0)
    for camera in orbit(5, radius=3.0, elevation=0.4, up=up):
        place = camera.T_world_camera[:3, 3]
        assert float(place @ axis) == pytest.approx(3.0 * math.sin(0.4), abs=1e-5)
        assert float(-camera.T_world_camera[:3, 1] @ axis) == pytest.approx(math.cos(0.4), abs=1e-5)  # upright
        torch.testing.assert_close(camera.T_world_camera[:3, 2], -place / 3.0, atol=1e-5, rtol=0.0)


# Meshes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", ["OFF\n", "OFF", "off\n", "COFF\n", "OFF # by me\n", "# by me\nOFF\n", "\ufeffOFF\r\n", "", "NOFF "]
)
def test_off_files_of_all_sorts(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.off").write_text(head + off())
    assert read_mesh(tmp_path / "a.off").faces.shape == (12, 3)


@pytest.mark.parametrize("head", ["OFF BINARY\n", "4OFF\n", "PLY\n"])
def test_off_files_that_are_not_read(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.off").write_text(head + off())
    with pytest.raises(InputError, match=r"a\.off: not a readable mesh \((OFF BINARY is|4OFF is|no OFF)"):
        read_mesh(tmp_path / "a.off")


def test_a_padded_stl(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text("OFF\n" + off())
    write_mesh(tmp_path / "a.stl", read_mesh(tmp_path / "a.off"))
    (tmp_path / "a.stl").write_bytes((tmp_path / "a.stl").read_bytes() + bytes(100))
    assert read_mesh(tmp_path / "a.stl").faces.shape == (12, 3)


def test_strips_are_told(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(header + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(InputError, match="triangle strips, which are not read; store faces"):
        read_mesh(tmp_path / "a.ply")


def test_survey_coordinates_come_back_to_a_millimetre(tmp_path: Path) -> None:
    corner = np.array([501_234.567, 4_812_345.678, 312.345])
    points = np.array(CUBE) * (12.0, 8.0, 6.0) + corner
    rows = [f"v {x:.3f} {y:.3f} {z:.3f}" for x, y, z in points] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES]
    (tmp_path / "house.obj").write_text("\n".join(rows) + "\n")
    mesh = read_mesh(tmp_path / "house.obj")
    back = mesh.vertices.double().numpy() * mesh.scale + np.array(mesh.center)
    assert np.abs(np.sort(back, axis=0) - np.sort(points, axis=0)).max() < 1e-3


def test_what_is_up(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text("OFF\n" + off())
    write_mesh(tmp_path / "b.glb", read_mesh(tmp_path / "a.off"))
    family = open_family(tmp_path)
    assert [family.reference(i).up for i in (0, 1)] == [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)]
    assert open_family(tmp_path, up="-x").reference(1).up == (-1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="--up 'w': wanted one of x, y, z, -x, -y, -z"):
        open_family(tmp_path, up="w")


# Runs -------------------------------------------------------------------------------------------------------------


def test_a_run_reads_its_data_as_it_was_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene(tmp_path / "s", single=True, unit=100.0)
    lay_over(tmp_path / "s", (255, 255, 255))
    run, mesh = tmp_path / "run", tmp_path / "s.ply"
    assert (
        cli.main(["fit", str(tmp_path / "s"), "--out", str(run), "--steps", "2", "--up", "z", "--preset", "tiny"]) == 0
    )
    out = capsys.readouterr().out
    assert "background: white, as on the borders of s, is cut out" in out
    assert "box: s: side " in out
    config = json.loads((run / "config.json").read_text())
    assert config["sources"][0]["background"] == "white"
    assert config["sources"][0]["up"] == "z"
    assert 40.0 < config["picture"]["frames"]["s"][0] < 70.0
    assert cli.main(["fit", str(tmp_path / "s"), "--out", str(run), "--steps", "3", "--resume"]) == 0
    assert cli.main(["eval", str(run)]) == 0
    assert cli.main(["render", str(run), "--scene", "s", "--out", str(tmp_path / "s.png")]) == 0
    loaded = load_run(run)
    vertices = Mesh(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(0, 3, dtype=torch.int64))
    frame = loaded["s"].frame
    assert frame is not None
    write_mesh(mesh, vertices._replace(scale=frame[0], center=(frame[1], frame[2], frame[3])))
    codes = infer(loaded, open_family(tmp_path / "s"), steps=1, progress=False)
    assert codes["s"].frame == pytest.approx(frame, abs=1e-6)


def test_an_object_larger_than_the_unit_box_gets_a_larger_one() -> None:
    """Cameras that look at [-1, 1]^3, as those of NeRF-synthetic do, at a ball of radius 1.3."""
    from hyperfields.cameras import orbit
    from hyperfields.data.boxes import Seen, find_box, outside

    cameras = orbit(12, radius=4.0, elevation=0.5, fov=0.9, height=48, width=48)
    rays = [camera.rays() for camera in cameras]
    origins, directions = (np.concatenate([part[k].double().numpy() for part in rays]) for k in (0, 1))
    nearest = origins - (origins * directions).sum(-1, keepdims=True) * directions
    for radius, smallest, largest in ((0.9, 1.0, 1.0), (1.3, 1.3, 1.6)):
        hit = np.linalg.norm(nearest, axis=-1) < radius
        silhouette = Seen(origins[hit], directions[hit])
        box = find_box(cameras, silhouette)
        assert smallest <= box.scale <= largest
        assert box.center == (0.0, 0.0, 0.0)
        assert outside(box, silhouette) < 1e-3
