"""Captures in the formats of other programs: the same scene comes in by each of them, and damage is one line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields import cli
from hyperfields.cameras import Camera, Lens
from hyperfields.cli.common import data_of
from hyperfields.data import Views
from hyperfields.errors import InputError
from hyperfields.evaluation.report import evaluate
from hyperfields.runs.run import load_run
from hyperfields.scenes import open_family
from hyperfields.scenes._splits import parse_split

from ._captures import (
    HEIGHT,
    WIDTH,
    cameras,
    gl_pose,
    intrinsics,
    llff,
    nerfstudio,
    photograph,
    polycam,
    row,
    save,
    srn,
)


def opened(path: Path, **options: Any) -> Views:
    family = open_family(path, **options)
    assert isinstance(family, Views)
    return family


def in_file(data: Views, camera: Camera, scene: int = 0) -> np.ndarray:
    """The pose of a camera of a data set in the coordinates of its file."""
    scale, *center = data.frames[scene]
    pose = camera.T_world_camera.double().numpy().copy()
    pose[:3, 3] = pose[:3, 3] * scale + np.array(center)
    return pose


def check_cameras(data: Views, views: list[Camera], split: str = "train", scene: int = 0) -> None:
    """The cameras of a split are those given, in the coordinates of the file, and its pictures what they saw."""
    found = data.reference(scene, split)
    assert len(found) == len(views)
    for view, camera in zip(found, views, strict=True):
        np.testing.assert_allclose(in_file(data, view.camera, scene), camera.T_world_camera.double(), atol=2e-5)
        ours = (view.camera.fx, view.camera.fy, view.camera.cx, view.camera.cy)
        assert ours == pytest.approx((camera.fx, camera.fy, camera.cx, camera.cy), rel=1e-6)
        assert (view.camera.height, view.camera.width) == (camera.height, camera.width)
        wanted = photograph(camera).astype(np.float32) / 255.0
        np.testing.assert_allclose(view.rgba[..., :3].numpy(), wanted, atol=1e-6)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# The same scene by every format ---------------------------------------------------------------------------------------

WRITERS = {
    "nerfstudio": nerfstudio,
    "each": lambda f: nerfstudio(f, each=True),
    "srn": srn,
    "llff": llff,
    "polycam": polycam,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_its_cameras(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / "scene")
    views = cameras(height=WIDTH, width=WIDTH) if name == "srn" else cameras()
    data = opened(tmp_path / "scene", background="scene")
    assert data.names == ("scene",)
    check_cameras(data, [camera for i, camera in enumerate(views) if i % 8])
    check_cameras(data, [views[0], views[8]], "test")
    assert any(note.startswith("split: every 8th picture by name is for the test (8 train") for note in data.notes)


def test_a_family_mixes_formats(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
    (tmp_path / "notes").mkdir()
    data = opened(tmp_path, background="scene")
    assert data.names == tuple(sorted(WRITERS))
    assert any("folders that hold no scene are left out (notes)" in note for note in data.notes)
    assert {len(data.reference(i, "test")) for i in range(len(WRITERS))} == {2}


def test_poses_world_to_camera_of_srn(tmp_path: Path) -> None:
    srn(tmp_path / "s", inverted=True)
    check_cameras(opened(tmp_path / "s", background="scene", split="all"), cameras(height=WIDTH, width=WIDTH))


def test_llff_counts_in_pixels_of_larger_pictures(tmp_path: Path) -> None:
    llff(tmp_path / "s", times=4)
    check_cameras(opened(tmp_path / "s", background="scene", split="all"), cameras())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("metadata.json", "rgb/1.jpg"), "Record3D's own export; .* ns-process-data record3d --data"),
        (("cameras.xml",), "Metashape's own export; .* ns-process-data metashape"),
        (("opensfm/reconstruction.json",), "OpenDroneMap's own export; .* ns-process-data odm"),
    ],
)
def test_exports_that_are_not_read_are_told(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for name in files:
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).touch()
    with pytest.raises(InputError, match=said):
        open_family(tmp_path / "s")


# Splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "train", "test"),
    [
        ("every-4", [1, 2, 3, 5, 6, 7, 9], [0, 4, 8]),
        ("0.9", [0, 1, 2, 3, 4, 5, 6, 7, 9], [8]),  # nerfstudio: np.linspace(0, 9, 9, dtype=int)
        ("50%", [0, 2, 4, 6, 9], [1, 3, 5, 7, 8]),
        ("7,3", [7, 3], [0, 1, 2, 4, 5, 6, 8, 9]),
        ("all", list(range(10)), list(range(10))),
        ("files", [1, 2, 3, 4, 5, 6, 7, 9], [0, 8]),
    ],
)
def test_split_rules(tmp_path: Path, text: str, train: list[int], test: list[int]) -> None:
    data = opened(nerfstudio(tmp_path / "s"), split=text, background="scene")
    views = cameras()
    check_cameras(data, [views[i] for i in train])
    check_cameras(data, [views[i] for i in test], "test")
    assert sum(note.startswith("split: ") for note in data.notes) == 1


def test_shares_are_nerfstudios() -> None:
    for count in (2, 3, 7, 50, 301):
        rule = parse_split("0.9")
        assert rule is not None
        wanted = np.linspace(0, count - 1, math.ceil(count * 0.9), dtype=int)
        assert rule.divide(count)["train"] == wanted.tolist()


@pytest.mark.parametrize("text", ["every-1", "every-x", "1.5", "0", "0.0", "3,3", "-1", "some", "", "1,", "100%"])
def test_no_rule(text: str) -> None:
    if text == "0":
        assert parse_split(text) is not None  # number 0 is for training
        return
    with pytest.raises(InputError, match=r"--split .*: wanted files, every-N"):
        parse_split(text)


def test_lists_of_files(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "s")
    views = cameras()
    change(
        tmp_path / "s",
        lambda c: c.update(
            train_filenames=[f"./images/frame_{i:05d}.png" for i in (0, 1, 2)],
            val_filenames=["images/frame_00003.png"],
            test_filenames=["images/frame_00004.png", "images/frame_00005.png"],
        ),
    )
    data = opened(tmp_path / "s", background="scene")
    check_cameras(data, views[:3])
    check_cameras(data, views[3:4], "val")
    check_cameras(data, views[4:6], "test")
    check_cameras(opened(tmp_path / "s", background="scene", split="every-5"), [views[0], views[5]], "test")
    change(tmp_path / "s", lambda c: c.update(test_filenames=["nowhere.png"]))
    with pytest.raises(InputError, match=r"none of test_filenames \(nowhere.png\) is the file_path of a frame"):
        opened(tmp_path / "s")
    llff(tmp_path / "l")
    (tmp_path / "l" / "test.txt").write_text("IMG_0003.png\nIMG_0004.png\n")
    (tmp_path / "l" / "train.txt").write_text("IMG_0001.png\n")
    data = opened(tmp_path / "l", background="scene")
    check_cameras(data, views[3:5], "test")
    check_cameras(data, views[1:2])
    (tmp_path / "l" / "train.txt").write_text("IMG_0001\nIMG_9999.png\n")  # without its suffix, and none
    data = opened(tmp_path / "l", background="scene")
    check_cameras(data, views[1:2])
    assert any("1 names in its lists are no pictures (IMG_9999.png)" in note for note in data.notes)


def test_split_files_are_taken_together_by_a_rule(tmp_path: Path) -> None:
    views = cameras()
    for split, part in (("train", range(6)), ("val", range(6, 10)), ("test", range(6, 10))):
        frames = []
        for i in part:
            camera = views[i]
            save(tmp_path / "s" / "p" / f"{i}.png", photograph(camera))
            frames.append({"file_path": f"p/{i}", "transform_matrix": gl_pose(camera)})
        content = {**intrinsics(views[0]), "frames": frames}
        (tmp_path / "s" / f"transforms_{split}.json").write_text(json.dumps(content))
    check_cameras(opened(tmp_path / "s", background="scene"), views[:6])
    check_cameras(opened(tmp_path / "s", background="scene", split="every-8"), [views[0], views[8]], "test")


# Lenses ---------------------------------------------------------------------------------------------------------------

LENSES: dict[str, tuple[dict[str, Any], Lens | None]] = {
    "instant-ngp": ({"k1": 0.05, "k2": -0.08, "p1": -1e-3, "p2": 2e-4}, Lens("OPENCV", (0.05, -0.08, -1e-3, 2e-4))),
    "ngp fisheye": ({"is_fisheye": True, "k1": 0.1, "k4": 1e-3}, Lens("OPENCV_FISHEYE", (0.1, 0, 0, 1e-3))),
    "fisheye": ({"camera_model": "OPENCV_FISHEYE"}, Lens("OPENCV_FISHEYE", (0, 0, 0, 0))),
    "ngp scripts": ({"camera_model": "OPENCV", "is_fisheye": True, "k1": 0.1}, Lens("OPENCV_FISHEYE", (0.1, 0, 0, 0))),
    "OPENCV": ({"camera_model": "OPENCV", "k1": 0.1}, Lens("OPENCV", (0.1, 0, 0, 0))),
    "k3": ({"camera_model": "OPENCV", "k1": 0.1, "k3": 0.2}, Lens("FULL_OPENCV", (0.1, 0, 0, 0, 0.2, 0, 0, 0))),
    "FULL_OPENCV": ({"camera_model": "FULL_OPENCV", "k4": 0.1}, Lens("FULL_OPENCV", (0, 0, 0, 0, 0, 0.1, 0, 0))),
    "SIMPLE_RADIAL": ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, Lens("OPENCV", (0.1, 0, 0, 0))),
    "params": ({"distortion_params": [0.1, 0.2, 0, 0, 1e-3, 0]}, Lens("OPENCV", (0.1, 0.2, 1e-3, 0))),
    "PINHOLE": ({"camera_model": "PINHOLE", "k1": 0.0}, None),
    "SIMPLE_PINHOLE": ({"camera_model": "SIMPLE_PINHOLE"}, None),
    "perspective": ({"camera_model": "perspective"}, None),
    "none": ({"k1": 0, "k2": 0.0, "is_fisheye": False}, None),
}


@pytest.mark.parametrize("name", LENSES)
def test_lenses_of_transforms_files(tmp_path: Path, name: str) -> None:
    keys, lens = LENSES[name]
    views = [dataclasses.replace(camera, lens=lens) for camera in cameras(4)]
    data = opened(nerfstudio(tmp_path / "s", views, **keys), split="all", background="scene")
    assert [view.camera.lens for view in data.reference(0, "train")] == [lens] * 4
    check_cameras(data, views)


def test_panoramas(tmp_path: Path) -> None:
    views = [Camera.panorama(camera.T_world_camera, 12, 24) for camera in cameras(4)]
    nerfstudio(tmp_path / "s", views, camera_model="EQUIRECTANGULAR")
    change(tmp_path / "s", lambda c: [c.pop(key) for key in ("fl_x", "fl_y", "cx", "cy")])
    data = opened(tmp_path / "s", split="all", background="scene")
    check_cameras(data, views)


def test_a_lens_a_frame(tmp_path: Path) -> None:
    views = cameras(4)
    nerfstudio(tmp_path / "s", views, each=True)
    change(tmp_path / "s", lambda c: c["frames"][2].update(k1=0.1, camera_model="OPENCV"))
    change(tmp_path / "s", lambda c: c["frames"][3].update(camera_model="OPENCV_FISHEYE"))
    found = [view.camera.lens for view in opened(tmp_path / "s", split="all").reference(0, "train")]
    assert found == [None, None, Lens("OPENCV", (0.1, 0, 0, 0)), Lens("OPENCV_FISHEYE", (0, 0, 0, 0))]


def test_degrees_of_instant_ngp(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "s", x_fov=60.0)
    change(tmp_path / "s", lambda c: [c.pop(key) for key in ("fl_x", "fl_y")])
    camera = opened(tmp_path / "s").reference(0, "train")[0].camera
    assert camera.fx == pytest.approx(0.5 * WIDTH / math.tan(math.radians(30.0)))
    assert camera.fy == camera.fx


def test_an_angle_of_a_frame_comes_before_a_focal_length_of_the_file(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "s", cameras(3))
    change(tmp_path / "s", lambda c: c["frames"][1].update(camera_angle_x=1.0))
    found = [view.camera.fx for view in opened(tmp_path / "s", split="all").reference(0, "train")]
    assert found == pytest.approx([cameras()[0].fx, 0.5 * WIDTH / math.tan(0.5), cameras()[0].fx])


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    views = [*cameras(4), *(camera.resized(12, 16) for camera in cameras(4)[:2])]
    data = opened(nerfstudio(tmp_path / "s", views, each=True), split="all", background="scene")
    assert data.sizes == ((12, 16), (HEIGHT, WIDTH))
    check_cameras(data, views)


# What lies beside the pictures ----------------------------------------------------------------------------------------


def test_masks_of_instant_ngp_and_alpha(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "s", cameras(4))
    moving = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    moving[:5] = 255
    Image.fromarray(moving).save(tmp_path / "s" / "images" / "dynamic_mask_frame_00001.png")
    views = opened(tmp_path / "s", split="all", background="scene").reference(0, "train")
    assert views[0].mask is None
    assert views[1].mask is not None
    assert torch.equal(views[1].mask, torch.from_numpy(moving == 0))
    for i in range(4):
        save(tmp_path / "s" / "images" / f"frame_{i:05d}.alpha.png", np.full((HEIGHT, WIDTH), 51, dtype=np.uint8))
    views = opened(tmp_path / "s", split="all").reference(0, "train")
    assert float(views[2].rgba[..., 3].mean()) == pytest.approx(0.2)


def test_the_circle_of_a_fisheye(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "s", cameras(4), camera_model="OPENCV_FISHEYE", fisheye_crop_radius=5.0)
    mask = opened(tmp_path / "s", split="all", background="scene").reference(0, "train")[0].mask
    assert mask is not None
    assert abs(int(mask.sum()) - math.pi * 25.0) < 8
    assert bool(mask[HEIGHT // 2, WIDTH // 2])


def test_points_give_the_box(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    nerfstudio(tmp_path / "s", row(), ply_file_path="points.ply")
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (500, 3))
    rows = "\n".join(" ".join(f"{value:.5f}" for value in point) for point in points)
    head = (
        "ply\nformat ascii 1.0\nelement vertex 500\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "s" / "points.ply").write_text(head + rows + "\n")
    data = opened(tmp_path / "s", background="scene")
    assert 0.9 < data.frames[0][0] < 1.3
    assert np.abs(data.frames[0][1:]).max() < 0.2
    assert any("from the points" in note for note in data.notes)
    (tmp_path / "s" / "points.ply").write_text("ply\nformat")
    with pytest.raises(InputError, match=r"points\.ply: not a readable \.ply"):
        opened(tmp_path / "s")
    (tmp_path / "s" / "points.ply").unlink()
    with pytest.raises(InputError, match=r"ply_file_path 'points.ply' is not there"):
        opened(tmp_path / "s")


def test_what_is_known_and_not_used_is_said(tmp_path: Path) -> None:
    matrix = [[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 2.0]]
    nerfstudio(tmp_path / "s", applied_transform=matrix, applied_scale=0.5, n_extra_learnable_dims=16, aabb_scale=4)
    change(tmp_path / "s", lambda c: c["frames"][1].update(depth_file_path="depth/1.png", sharpness=30.0))
    data = opened(tmp_path / "s", background="scene")
    text = "\n".join(data.notes)
    assert "depth_file_path: depth pictures are not used" in text
    assert "n_extra_learnable_dims" in text
    assert "exports are in the coordinates of its transform_matrix" in text
    check_cameras(data, [camera for i, camera in enumerate(cameras()) if i % 8])  # poses are not moved
    change(tmp_path / "s", lambda c: c.update(applied_transform=[[1, 0], [0, 1]]))
    with pytest.raises(InputError, match="applied_transform is not 3 rows of 4"):
        opened(tmp_path / "s")


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    """instant-ngp's fox has frames without a picture; they are left out, and that is said."""
    nerfstudio(tmp_path / "s")
    for i in (2, 5):
        (tmp_path / "s" / "images" / f"frame_{i:05d}.png").unlink()
    data = opened(tmp_path / "s", background="scene", split="all")
    check_cameras(data, [camera for i, camera in enumerate(cameras()) if i not in (2, 5)])
    assert any("2 of 10 pictures are not there and left out (images/frame_00002.png, " in note for note in data.notes)
    for path in (tmp_path / "s" / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"transforms\.json: none of its 10 pictures is there"):
        opened(tmp_path / "s")


# Damage ---------------------------------------------------------------------------------------------------------------


def frame(i: int = 1, **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda c: c["frames"][i].update(values))


def shared(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda c: c.update(values))


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def saved(rows: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "poses_bounds.npy", rows)


def of_row(i: int, column: int, value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = np.load(folder / "poses_bounds.npy")
        rows[i, column] = value
        np.save(folder / "poses_bounds.npy", rows)

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "fl_x 0": ("nerfstudio", shared(fl_x=0), r"transforms\.json: fl_x is 0; wanted a number above 0"),
    "fl_x mm": ("nerfstudio", shared(fl_x=0.01), r"frame 0: .*fl_x, cx, w are 0\.01.*in pixels of the picture"),
    "w 0": ("nerfstudio", shared(w=0), r"w is 0; wanted a number above 0"),
    "fl_x of a frame": ("each", frame(fl_x=-1.0), r"frame 1: fl_x is -1\.0"),
    "turned": ("nerfstudio", shared(w=HEIGHT, h=WIDTH), r"frame_00000\.png: is 18x24 .*says 24x18; turn the picture"),
    "size": ("nerfstudio", shared(w=40), r"frame_00000\.png: is 18x24 .*says 18x40; mend h and w"),
    "model": ("nerfstudio", shared(camera_model="OMNI"), r"frame 0: camera_model 'OMNI' is not read; wanted PINHOLE"),
    "model of a frame": ("each", frame(camera_model=3), "frame 1: camera_model 3 is not read"),
    "PINHOLE k1": (
        "nerfstudio",
        shared(camera_model="PINHOLE", k1=0.1),
        "frame 0: .*PINHOLE has no distortion, but k1",
    ),
    "fisheye p1": ("nerfstudio", shared(is_fisheye=True, p1=0.1), "frame 0: .*a fisheye has k1 to k4, but p1 came too"),
    "two models": ("nerfstudio", shared(is_fisheye=1, equirectangular=1), "both OPENCV_FISHEYE and EQUIRECTANGULAR"),
    "model and flag": (
        "nerfstudio",
        shared(is_fisheye=1, camera_model="PINHOLE"),
        "PINHOLE and OPENCV_FISHEYE at once",
    ),
    "k4": ("nerfstudio", shared(k4=0.1), r"distortion \(k4\) of a lens that is no fisheye"),
    "ftheta": ("nerfstudio", shared(ftheta_p0=0.1), "ftheta_p0: an f-theta lens is not read"),
    "pose": ("nerfstudio", frame(transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()), "frame 1: .*not a rigid pose"),
    "moving": (
        "nerfstudio",
        frame(transform_matrix_start=np.eye(4).tolist(), transform_matrix_end=np.eye(4).tolist()),
        "frame 1: transform_matrix_start: a camera that moves",
    ),
    "radius": ("nerfstudio", shared(fisheye_crop_radius="big"), "fisheye_crop_radius is 'big'; wanted pixels"),
    "mask": ("nerfstudio", frame(mask_path="m.png"), "frame 1: no picture at mask_path 'm.png'"),
    "no intrinsics": ("srn", written("intrinsics.txt", "1 2 3"), r"intrinsics\.txt: 3 numbers came, wanted f cx cy 0"),
    "words": ("srn", written("intrinsics.txt", "f cx cy"), r"intrinsics\.txt: not readable as numbers"),
    "f 0": ("srn", written("intrinsics.txt", "0 12 12 0 0 0 0 1 24 24"), r"intrinsics\.txt: its focal lengths are 0"),
    "height": ("srn", written("intrinsics.txt", "25 12 12 0 0 0 0 1 24 -4"), "height 24, width -4; wanted whole"),
    "pose text": ("srn", written("pose/000003.txt", "1 0 0"), r"000003\.txt: 3 numbers came, wanted 16"),
    "pose NaN": (
        "srn",
        written("pose/000003.txt", "nan " * 16),
        r"000003\.txt: 16 numbers came, wanted 16 that are fin",
    ),
    "pose scaled": (
        "srn",
        written("pose/000003.txt", "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1"),
        r"000003\.txt: .*not a rigid",
    ),
    "no pose": ("srn", lambda f: (f / "pose" / "000003.txt").unlink(), r"1 of 10 without a pose \(000003\.png\)"),
    "no rgb": ("srn", lambda f: (f / "rgb" / "000003.png").unlink(), r"1 of 10 without a picture \(000003\.txt\)"),
    "npy cut": ("llff", cut("poses_bounds.npy", 200), r"poses_bounds\.npy: not readable as an array"),
    "npy text": ("llff", written("poses_bounds.npy", "hello"), r"poses_bounds\.npy: not readable as an array"),
    "npy objects": ("llff", saved(np.array([{}, []], dtype=object)), r"poses_bounds\.npy: not readable as an array"),
    "npy shape": ("llff", saved(np.zeros((10, 16))), r"poses_bounds\.npy: float64 \[10, 16\] came, wanted numbers"),
    "npy empty": ("llff", saved(np.zeros((0, 17))), r"poses_bounds\.npy: has no row"),
    "npy rows": ("llff", saved(np.zeros((9, 17))), r"poses_bounds\.npy: has 9 poses but .*images has 10 pictures"),
    "row pose": ("llff", of_row(2, 0, 5.0), r"poses_bounds\.npy: row 2 \(IMG_0002\.png\): the pose is not a rigid"),
    "row focal": ("llff", of_row(2, 14, 0.0), r"row 2 \(IMG_0002\.png\): its focal lengths are 0 and 0"),
    "row NaN": ("llff", of_row(2, 4, math.nan), r"row 2 \(IMG_0002\.png\): height nan"),
    "row depth": ("llff", of_row(2, 15, -1.0), r"row 2 \(IMG_0002\.png\): depths from -1 to 6"),
    "polycam pose": (
        "polycam",
        written("keyframes/corrected_cameras/103.json", json.dumps({"t_00": 1.0, "t_01": "x"})),
        r"103\.json: t_01 is 'x'; wanted a finite number",
    ),
    "polycam list": ("polycam", written("keyframes/corrected_cameras/103.json", "[]"), r"103\.json: t_00 is None"),
    "row size": ("llff", of_row(2, 4, 99.0), r"IMG_0002\.png: is 18x24 .*poses_bounds\.npy says 99x24"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    form, damage, complaint = DAMAGES[name]
    WRITERS[form](tmp_path / "scene")
    damage(tmp_path / "scene")
    with pytest.raises(InputError, match=complaint) as caught:
        open_family(tmp_path / "scene", split="all")
    assert "scene" in str(caught.value)
    assert "\n" not in str(caught.value)


# By the command -------------------------------------------------------------------------------------------------------


def test_eval_needs_only_the_split_that_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = cameras(9)
    family, held = tmp_path / "family" / "ball", tmp_path / "held" / "ball"
    for folder, split, part in ((family, "train", range(1, 9)), (held, "test", range(2))):
        frames = []
        for i in part:
            camera = views[i]
            save(folder / split / f"{i}.png", photograph(camera, alpha=True))
            moved = np.array(gl_pose(camera))
            moved[:3, 3] += 30.0  # far from the unit box: it has to be that of the fit
            frames.append({"file_path": f"{split}/{i}", "transform_matrix": moved.tolist()})
        (folder / f"transforms_{split}.json").write_text(json.dumps({**intrinsics(views[0]), "frames": frames}))
    run = tmp_path / "run"
    assert cli.main(["fit", str(family.parent), "--out", str(run), "--steps", "2", "--preset", "tiny"]) == 0
    loaded = load_run(run)
    data = data_of(loaded, held.parent, measured="test")
    check = opened(family.parent, background=None).reference(0, "train")[0].camera  # the same frame as that of the fit
    np.testing.assert_allclose(data.reference(0, "test")[1].camera.T_world_camera, check.T_world_camera, atol=1e-5)
    report = evaluate(loaded, data, "test", perceptual=False)
    assert math.isfinite(report["scenes"]["ball"]["psnr"])
    assert any("not those that were fitted" in note for note in report["notes"])
    capsys.readouterr()
    assert cli.main(["eval", str(run), "--family", str(held.parent), "--split", "val"]) == 2
    assert "transforms_val.json: is missing; splits of this scene: test; wanted 'val'" in capsys.readouterr().err


def test_a_run_remembers_its_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, run = nerfstudio(tmp_path / "s"), tmp_path / "run"
    words = ["fit", str(family), "--out", str(run), "--steps", "2", "--preset", "tiny", "--split", "every-3"]
    assert cli.main(words) == 0
    assert "split: every 3rd picture by name is for the test (6 train and 4 test)" in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["sources"][0]["split"] == "every-3"
    assert cli.main(["fit", str(family), "--out", str(tmp_path / "x"), "--steps", "2", "--split", "every-1"]) == 2
    assert "--split 'every-1': wanted files, every-N" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_one_photograph_is_no_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = nerfstudio(tmp_path / "s", cameras(1))
    assert cli.main(["fit", str(family), "--out", str(tmp_path / "run"), "--steps", "2"]) == 2
    assert "one training picture came; a scene needs pictures from two places" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_polycam_has_of_a_picture_alone_is_said(tmp_path: Path) -> None:
    keyframes = polycam(tmp_path / "scene") / "keyframes"
    (keyframes / "corrected_images" / "101.png").unlink()
    (keyframes / "corrected_cameras" / "103.json").unlink()
    notes = "\n".join(open_family(tmp_path / "scene").notes)
    assert "corrected_images: 1 pictures without a camera are left out (103.png)" in notes
    assert "corrected_cameras: 1 cameras without a picture are left out (101.json)" in notes
