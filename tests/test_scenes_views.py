"""Folders of scene folders with posed pictures."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hyperfields.scenes
from hyperfields.cameras import look_at
from hyperfields.data import Pixels, SceneDataset, View, fingerprint
from hyperfields.errors import InputError
from hyperfields.scenes import open_family
from hyperfields.scenes._common import read_rgba
from hyperfields.scenes._posed import in_order

SAMPLES = Path(hyperfields.scenes.__file__).parent / "samples"
HEIGHT, WIDTH = 5, 7
ANGLE = 2.0 * math.atan(0.5)  # focal length = width in pixels
# Camera to world in the OpenGL convention: 4 above the origin, looking down, +Y up in the picture.
ABOVE = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 1.0]]
# On the +X axis, looking along -X, +Z up in the picture: right is +Y.
BESIDE = [[0.0, 0.0, 1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGBA whose pixel in row v, column u is (u, v, number, 255 - number)."""
    v, u = np.mgrid[:height, :width]
    return np.stack((u, v, np.full_like(u, number), np.full_like(u, 255 - number)), axis=-1).astype(np.uint8)


def make_scene(folder: Path, poses: list[Any], *, split: str = "train", first: int = 0, **numbers: float) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    frames = []
    for i, pose in enumerate(poses):
        Image.fromarray(picture(first + i)).save(folder / split / f"r_{i}.png")
        frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose})
    content = (numbers or {"camera_angle_x": ANGLE}) | {"frames": frames}
    (folder / f"transforms_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_scene(tmp_path / "one", [ABOVE], first=0)
    make_scene(tmp_path / "two", [ABOVE, BESIDE, ABOVE], first=1)
    make_scene(tmp_path / "two", [BESIDE], first=40, split="test")
    (tmp_path / "README.md").write_text("not a scene")
    return tmp_path


def test_opengl_poses_become_opencv(folder: Path) -> None:
    family = open_family(folder)
    assert isinstance(family, SceneDataset)
    assert family.kind == "views"
    assert family.names == ("one", "two")
    (view,) = family.reference(0, "train")
    assert isinstance(view, View)
    wanted = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 4.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(view.camera.T_world_camera, wanted)
    assert view.camera.fx == pytest.approx(WIDTH)
    assert view.camera.fy == pytest.approx(WIDTH)
    assert (view.camera.cx, view.camera.cy) == (WIDTH / 2, HEIGHT / 2)
    assert torch.equal((view.rgba * 255.0).round().byte(), torch.from_numpy(picture(0)))
    # BESIDE by hand and by look_at.
    (other,) = family.reference(1)
    torch.testing.assert_close(other.camera.T_world_camera, look_at(torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3)))


def test_rays_go_where_the_pixels_look(folder: Path) -> None:
    family = open_family(folder)
    view = family.reference(1)[0]
    directions = view.camera.rays().directions.reshape(HEIGHT, WIDTH, 3)
    torch.testing.assert_close(directions[2, 3], torch.tensor([-1.0, 0.0, 0.0]))  # the middle hits the origin
    assert float(directions[2, 6, 1]) > 0.3  # right in the picture is +Y
    assert float(directions[0, 3, 2]) > 0.2  # up is +Z


def test_a_batch_holds_the_colours_seen_along_its_rays(folder: Path) -> None:
    family = open_family(folder)
    batch = family.batch(torch.tensor([1, 0]), 4000, torch.Generator().manual_seed(0))
    assert isinstance(batch, Pixels)
    byte = (batch.rgba * 255.0).round()
    # The colour says which picture and pixel it was: the camera's ray through it is the ray of the batch.
    cameras = {0: family.reference(0, "train")[0].camera}
    cameras |= {1 + i: view.camera for i, view in enumerate(family.reference(1, "train"))}
    assert set(byte[1, :, 2].int().tolist()) == {0}
    assert set(byte[0, :, 2].int().tolist()) == {1, 2, 3}
    for number, camera in cameras.items():
        here = byte[..., 2] == number
        pixel = (byte[..., 1] * WIDTH + byte[..., 0])[here].long()
        rays = camera.rays()
        torch.testing.assert_close(batch.rays.directions[here], rays.directions[pixel], atol=1e-6, rtol=0.0)
        torch.testing.assert_close(batch.rays.origins[here], rays.origins[pixel])
        assert bool((byte[..., 3][here] == 255 - number).all())
        # Every pixel is drawn, about equally often.
        counts = torch.bincount(pixel, minlength=HEIGHT * WIDTH).float()
        assert float(counts.min()) > 0.3 * float(counts.mean())
    again = open_family(folder).batch(torch.tensor([1, 0]), 4000, torch.Generator().manual_seed(0))
    assert torch.equal(again.rgba, batch.rgba)


def test_one_scene_is_a_family_of_one(folder: Path) -> None:
    family = open_family(folder / "two")
    assert family.names == ("two",)
    assert len(family.reference(0, "train")) == 3
    Image.fromarray(picture(0)).save(folder / "two" / "thumbnail.png")
    assert open_family(folder / "two").kind == "views"  # pictures beside a transforms file do not confuse


def test_instant_ngp_numbers(tmp_path: Path) -> None:
    numbers = {"fl_x": 20.0, "fl_y": 30.0, "cx": 6.0, "cy": 4.0, "w": 14, "h": 10, "k1": 0.0}
    make_scene(tmp_path / "a", [ABOVE], camera_angle_x=1.0, **numbers)
    content = json.loads((tmp_path / "a" / "transforms_train.json").read_text())
    content["frames"][0]["file_path"] += ".png"
    (tmp_path / "a" / "transforms_train.json").write_text(json.dumps(content))
    camera = open_family(tmp_path).reference(0, "train")[0].camera
    # The file counts in pixels of 10x14, the picture has 5x7.
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (10.0, 15.0, 3.0, 2.0)
    assert (camera.height, camera.width) == (HEIGHT, WIDTH)


def test_resizing_keeps_the_field_of_view_and_the_colour_at_edges(tmp_path: Path) -> None:
    make_scene(tmp_path / "a", [ABOVE])
    block = np.zeros((4, 4, 4), dtype=np.uint8)
    block[..., 1] = 255  # transparent green ...
    block[0, 0] = (255, 0, 0, 255)  # ... and one opaque red pixel
    Image.fromarray(block).save(tmp_path / "a" / "train" / "r_0.png")
    family = open_family(tmp_path, size=(2, 2))
    view = family.reference(0, "train")[0]
    torch.testing.assert_close(view.rgba[0, 0], torch.tensor([1.0, 0.0, 0.0, 0.25]))
    assert float(view.rgba[..., 3].sum()) == pytest.approx(0.25)
    assert view.camera.fx == pytest.approx(2.0)
    assert (view.camera.cx, view.camera.cy, view.camera.height, view.camera.width) == (1.0, 1.0, 2, 2)
    batch = family.batch(torch.tensor([0]), 500, torch.Generator())
    red = batch.rgba[..., 3] > 0
    torch.testing.assert_close(batch.rgba[red][0], torch.tensor([1.0, 0.0, 0.0, 64 / 255]))
    wanted = torch.nn.functional.normalize(torch.tensor([-0.25, 0.25, -1.0]), dim=0)  # the upper left pixel
    torch.testing.assert_close(batch.rays.directions[red][0], wanted)


def test_a_picture_without_alpha_is_opaque(folder: Path) -> None:
    Image.fromarray(picture(0)[..., :3]).save(folder / "one" / "train" / "r_0.png")
    rgba = open_family(folder).reference(0, "train")[0].rgba
    assert torch.equal(rgba[..., 3], torch.ones(HEIGHT, WIDTH))


def test_a_split_that_is_not_there(folder: Path) -> None:
    family = open_family(folder)
    with pytest.raises(InputError, match=r"one.transforms_test\.json.*missing.*splits of this scene: train;"):
        family.reference(0)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A damage to a scene folder: `change` works on the content of its transforms file."""

    def damage(scene: Path) -> None:
        path = scene / "transforms_train.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def pose(rows: Any) -> Callable[[Path], None]:
    return edit(lambda content: content["frames"][1].update(transform_matrix=rows))


def path_is(value: Any) -> Callable[[Path], None]:
    return edit(lambda content: content["frames"][1].update(file_path=value))


def link_out(scene: Path) -> None:
    shutil.move(scene / "train" / "r_1.png", scene.parent / "one" / "spare.png")
    (scene / "train" / "r_1.png").symlink_to(scene.parent / "one" / "spare.png")


SCALED = [[2.0 * x for x in row[:3]] + row[3:] for row in ABOVE[:3]] + [ABOVE[3]]
MIRRORED = [[-1.0, 0.0, 0.0, 0.0], *ABOVE[1:]]
NAN = [[math.nan, 0.0, 0.0, 0.0], *ABOVE[1:]]
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no train": (
        lambda s: (s / "transforms_train.json").unlink(),
        r"transforms_train\.json: is missing.*test",
    ),
    "not JSON": (
        lambda s: (s / "transforms_train.json").write_text("{"),
        r"transforms_train\.json: not readable",
    ),
    "binary": (lambda s: (s / "transforms_train.json").write_bytes(b"\xff\xfe\x80"), "not readable as JSON"),
    "a list": (lambda s: (s / "transforms_train.json").write_text("[]"), "no list of frames"),
    "no frames": (edit(lambda c: c.update(frames=[])), "no list of frames"),
    "no angle": (edit(lambda c: c.pop("camera_angle_x")), r"r_0\.png: .*neither camera_angle_x .* nor fl_x"),
    "angle 0": (edit(lambda c: c.update(camera_angle_x=0.0)), r"transforms_train\.json: camera_angle_x is 0"),
    "angle text": (edit(lambda c: c.update(camera_angle_x="wide")), "camera_angle_x is 'wide'"),
    "angle NaN": (edit(lambda c: c.update(camera_angle_x=math.nan)), "camera_angle_x is nan"),
    "focal": (edit(lambda c: c.update(fl_x=-3)), "fl_x is -3"),
    "lens": (edit(lambda c: c.update(k1=0.1, k4=0.01)), r"frame 0: .*distortion \(k4\) of a lens that is no fisheye"),
    "shape": (edit(lambda c: c.update(w=5, h=7)), r"r_0\.png: is 5x7 .* transforms file says 7x5"),
    "frame type": (edit(lambda c: c["frames"].append(3)), "frame 3: int came"),
    "no matrix": (
        edit(lambda c: c["frames"][1].pop("transform_matrix")),
        "frame 1: transform_matrix is not 3 or 4",
    ),
    "2 rows": (pose(ABOVE[:2]), "frame 1: transform_matrix is not 3 or 4"),
    "ragged": (pose([[1.0], [2.0, 3.0]]), "frame 1: transform_matrix is not 3 or 4"),
    "NaN": (pose(NAN), "frame 1: transform_matrix is not 3 or 4"),
    "scaled": (pose(SCALED), "frame 1: .*not a rigid pose"),
    "mirrored": (pose(MIRRORED), "frame 1: .*not a rigid pose"),
    "last row": (pose([*ABOVE[:3], [0.0, 0.0, 0.1, 1.0]]), "frame 1: .*not a rigid pose"),
    "no picture": (
        lambda s: (s / "train" / "r_1.png").unlink(),
        r"frame 1: no picture at file_path './train/r_1'",
    ),
    "broken": (lambda s: (s / "train" / "r_1.png").write_bytes(b""), r"r_1\.png: not a readable picture"),
    "up": (path_is("../one/train/r_0"), "frame 1: file_path '../one/train/r_0' leaves the scene's folder"),
    "up to nothing": (path_is("../../nothing"), "leaves the scene's folder"),
    "absolute": (path_is("/etc/hostname"), "frame 1: file_path '/etc/hostname' leaves the scene's folder"),
    "link": (link_out, "frame 1: file_path './train/r_1' leaves the scene's folder"),
    "null": (path_is("a\0b"), "frame 1: file_path"),
    "long": (path_is("x" * 5000), "frame 1: file_path"),
    "number": (path_is(7), "frame 1: file_path is 7"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_named(folder: Path, name: str) -> None:
    damage, complaint = DAMAGES[name]
    damage(folder / "two")
    with pytest.raises(InputError, match=complaint) as caught:
        open_family(folder)
    assert "two" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert open_family(folder, scenes=("one",)).names == ("one",)  # the others can still be used


def test_what_says_nothing_is_said(tmp_path: Path) -> None:
    """Frames that repeat others, of which one would be for the test, and pictures without a visible pixel."""
    make_scene(tmp_path / "s", [ABOVE, BESIDE, ABOVE], fl_x=5.0)
    path = tmp_path / "s" / "transforms.json"
    content = json.loads((tmp_path / "s" / "transforms_train.json").read_text())
    (tmp_path / "s" / "transforms_train.json").unlink()
    path.write_text(json.dumps(content | {"frames": content["frames"] * 2}))
    opened = open_family(tmp_path, split="every-3")
    assert [note for note in opened.notes if "transforms.json: 3 frames repeat others and are left out" in note]
    assert [len(opened.reference(0, split)) for split in ("train", "test")] == [2, 1]
    for number in range(3):
        clear = picture(number)
        clear[..., 3] = 0
        Image.fromarray(clear).save(tmp_path / "s" / "train" / f"r_{number}.png")
    assert [note for note in open_family(tmp_path).notes if "all pictures of s are transparent all over" in note]
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "s" / "black.png")
    content["frames"][1]["mask_path"] = "black.png"
    path.write_text(json.dumps(content))
    notes = open_family(tmp_path, split="all").notes
    assert [note for note in notes if "masks: in 1 of 3 pictures of s no pixel counts" in note]


def test_pictures_on_another_disk(folder: Path, tmp_path: Path) -> None:
    """A folder of the scene may be a link; what is in it may not lead further."""
    whole = fingerprint(open_family(folder))
    away = tmp_path / "disk" / "pictures"
    away.parent.mkdir()
    shutil.move(folder / "two" / "train", away)
    (folder / "two" / "train").symlink_to(away)
    opened = open_family(folder)
    assert fingerprint(opened) == whole
    assert [note for note in opened.notes if f"two/train is a link: pictures are read from {away}" in note]
    shutil.move(away / "r_1.png", away.parent / "r_1.png")
    (away / "r_1.png").symlink_to(away.parent / "r_1.png")
    with pytest.raises(InputError, match=r"train/r_1' leaves the scene's folder; move the picture there, or link"):
        open_family(folder)


def test_standard_error_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is turned off while libtiff decodes, on any thread."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for suffix in ("tif", "png"):
        Image.fromarray(picture(0, 64, 64)).save(tmp_path / f"a.{suffix}")
    paths = [tmp_path / name for name in ("a.tif", "a.png")] * 60
    assert len({pixels.tobytes() for pixels in in_order(read_rgba, paths)}) == 1
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_a_broken_test_split_is_found_when_asked_for(folder: Path) -> None:
    (folder / "two" / "test" / "r_0.png").write_bytes(b"junk")
    family = open_family(folder)
    with pytest.raises(InputError, match=r"r_0\.png: not a readable picture"):
        list(family.reference(1))


def test_a_folder_without_scenes_has_no_views(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="holds no views, but nothing to fit"):
        open_family(tmp_path, kind="views")


def test_the_car_samples() -> None:
    family = open_family(SAMPLES / "cars_views")
    assert len(family.names) == 12
    shapes = {p.stem for p in (SAMPLES / "shapes_cars").glob("*.ply")}
    assert set(family.names) <= shapes
    assert fingerprint(family) == fingerprint(open_family(SAMPLES / "cars_views"))
    taxi = family.names.index("k_taxi")
    views = family.reference(taxi)
    assert [len(family.reference(taxi, split)) for split in ("train", "val", "test")] == [40, 2, 8]
    for view in views:
        assert view.rgba.shape == (64, 64, 4)
        # The car is round the origin, in the middle of the picture, and nowhere at its border.
        assert float(view.rgba[30:34, 30:34, 3].min()) > 0.9
        assert float(view.rgba[0, :, 3].max()) == 0.0
        origin = -view.camera.T_world_camera[:3, :3].T @ view.camera.T_world_camera[:3, 3]
        torch.testing.assert_close(origin, torch.tensor([0.0, 0.0, 4.0311]), atol=2e-3, rtol=0.0)
