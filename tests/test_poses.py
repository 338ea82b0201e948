"""`hyperfields poses`: cameras found from photographs whose cameras are known, and what is said when they are not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.cli import main
from hyperfields.errors import InputError
from hyperfields.scenes import open_family
from hyperfields.scenes.inspect import inspect_family

from ._photographs import arc, photograph, write_photographs

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (hyperfields[captures]) is missing")
from hyperfields.scenes.poses import colmap, find_poses  # noqa: E402
from hyperfields.scenes.poses import world as frame_of  # noqa: E402
from hyperfields.scenes.poses.report import nothing_found  # noqa: E402

COUNT = 8
TURNED = 2  # number of the photograph that is stored lying on its side


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs, one of them stored turned, with an EXIF tag that says so, one with a name with spaces."""
    folder = write_photographs(tmp_path_factory.mktemp("photos"), arc(COUNT))
    turned = folder / f"a_{TURNED:02}.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.open(turned).rotate(90, expand=True).save(turned.with_suffix(".jpg"), quality=95, subsampling=0, exif=exif)
    turned.unlink()
    (folder / "a_03.png").rename(folder / "a_03 (copy).png")
    return folder


@pytest.fixture(scope="module")
def capture(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of them."""
    out = tmp_path_factory.mktemp("captures") / "box"
    assert main(["poses", str(photos), "--out", str(out), "--lens", "SIMPLE_PINHOLE"]) == 0
    return out


def poses_of(capture: Path) -> dict[str, Any]:
    """Picture -> T_world_camera `[4 4]` in OpenCV's axes."""
    content = json.loads((capture / "transforms.json").read_text())
    turn = np.diag([1.0, -1.0, -1.0, 1.0])
    return {Path(f["file_path"]).name: np.array(f["transform_matrix"]) @ turn for f in content["frames"]}


def errors(found: list[Any], true: list[Any]) -> tuple[float, float]:
    """Largest error of rotations (degrees) and of positions (over the spread of the cameras), after the similarity
    that brings the found positions nearest to the true ones (Umeyama 1991)."""
    a, b = np.stack(found)[:, :3, 3], np.stack(true)[:, :3, 3]
    ca, cb = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(cb.T @ ca)
    fix = np.diag([1.0, 1.0, np.linalg.det(u @ vt)])
    turn = u @ fix @ vt
    scale = np.trace(np.diag(s) @ fix) / (ca**2).sum()
    off = np.linalg.norm(scale * ca @ turn.T - cb, axis=-1).max() / np.linalg.norm(cb, axis=-1).max()
    angles = [
        np.degrees(np.arccos(np.clip((np.trace((turn @ f[:3, :3]).T @ t[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
        for f, t in zip(found, true, strict=True)
    ]
    return float(max(angles)), float(off)


def test_cameras_are_the_true_ones(capture: Path) -> None:
    found = poses_of(capture)
    assert len(found) == COUNT
    true = [camera.T_world_camera.double().numpy() for camera in arc(COUNT)]
    angle, off = errors([found[name] for name in sorted(found)], true)
    assert angle < 1.0
    assert off < 0.01
    content = json.loads((capture / "transforms.json").read_text())
    assert content["fl_x"] == content["fl_y"] == pytest.approx(220.0, rel=0.02)
    assert content["camera_model"] == "SIMPLE_PINHOLE"
    assert (content["h"], content["w"]) == (180, 240)


def test_up_is_z_and_the_size_is_known(capture: Path) -> None:
    poses = np.stack(list(poses_of(capture).values()))
    true = np.stack([camera.T_world_camera.double().numpy() for camera in arc(COUNT)])
    ups = np.einsum("vij,vj->vi", poses[:, :3, :3], np.swapaxes(true[:, :3, :3], 1, 2)[:, :, 2])  # the true up, found
    assert (ups[:, 2] > np.cos(np.radians(2.0))).all()
    assert np.median(np.linalg.norm(poses[:, :3, 3], axis=-1)) == pytest.approx(frame_of.DISTANCE, rel=0.01)


def test_photographs_are_upright(capture: Path) -> None:
    for path in (capture / "images").iterdir():
        with Image.open(path) as picture:
            assert picture.size == (240, 180)
            assert picture.getexif().get(0x0112, 1) == 1
    with Image.open(capture / "images" / f"a_{TURNED:02}.jpg") as picture:
        off = np.abs(np.asarray(picture, dtype=float) - photograph(arc(COUNT)[TURNED])).mean()
    assert off < 6.0  # what JPEG does to noise, twice


def test_fit_reads_the_folder(capture: Path) -> None:
    views = open_family(capture)
    assert views.kind == "views"
    assert len(views.reference(0, "train")) + len(views.reference(0, "test")) == COUNT
    assert views.up == (0.0, 0.0, 1.0)
    (scene,) = inspect_family(capture)["scenes"]
    assert scene["points"] == json.loads((capture / "poses.json").read_text())["points"]
    assert scene["distance"]["nearest"] < frame_of.DISTANCE < scene["distance"]["farthest"]


def test_files_for_other_programs_agree(capture: Path) -> None:
    model = pycolmap.Reconstruction(capture / "sparse" / "0")
    found = poses_of(capture)
    for image in model.images.values():
        matrix = np.linalg.inv(found[image.name])[:3]
        assert np.allclose(matrix, image.cam_from_world().matrix(), atol=1e-9)
    header, _, body = (capture / "points.ply").read_bytes().partition(b"end_header\n")
    count = len(model.points3D)
    assert f"element vertex {count}".encode() in header
    assert len(body) == 15 * count
    for name in ("cameras.png", "cameras.html"):
        assert (capture / name).stat().st_size > 3000
    page = (capture / "cameras.html").read_text()
    assert "http" not in page  # offline
    assert "a_00.png" in page


def test_the_report_tells_of_each_photograph(capture: Path) -> None:
    content = json.loads((capture / "poses.json").read_text())
    assert content["posed"] == COUNT
    assert content["wrong"] is None
    for photo in content["photographs"]:
        assert photo["features"] > 200
        assert photo["points"] > 30
        assert photo["others"] >= 2
        assert photo["best"][0] in poses_of(capture)
        assert Path(photo["source"]).is_file()


def test_same_again_and_silent(photos: Path, capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stages: dict[str, int] = {}

    def note(stage: str, done: int, total: int, name: str) -> None:
        assert 0 < done <= total
        stages[stage] = stages.get(stage, 0) + 1

    find_poses(photos, tmp_path / "again", lens="SIMPLE_PINHOLE", progress=note)
    assert list(stages) == ["photographs", "features", "matches", "mapping"]
    assert (tmp_path / "again" / "transforms.json").read_bytes() == (capture / "transforms.json").read_bytes()
    out, err = capfd.readouterr()
    assert out == err == ""
    assert pycolmap.logging.minloglevel == 0  # as it was


def test_last_adjustment(capture: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It is made where a camera has many views, frees the principal point, and is silent."""
    model = pycolmap.Reconstruction(capture / "sparse" / "0")
    colmap.refine(model)
    assert model.cameras[1].params[1:].tolist() == [120.0, 90.0]
    monkeypatch.setattr(colmap, "MANY_VIEWS", COUNT // 2)
    before = model.compute_mean_reprojection_error()
    colmap.refine(model)
    assert model.compute_mean_reprojection_error() < 1.05 * before
    assert 0.0 < np.abs(model.cameras[1].params[1:] - (120.0, 90.0)).max() < 8.0
    assert capfd.readouterr() == ("", "")


def test_goes_on_where_it_was_stopped(
    photos: Path, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, done: int, total: int, name: str) -> None:
        if stage == "matches":
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        find_poses(photos, out, lens="SIMPLE_PINHOLE", progress=stop)
    assert not (out / "transforms.json").exists()
    with pytest.raises(InputError, match="go on with --resume"):
        find_poses(photos, out)
    with pytest.raises(InputError, match=r"--lens OPENCV: was begun with SIMPLE_PINHOLE"):
        find_poses(photos, out, lens="OPENCV", resume=True)

    def again(*arguments: Any, **options: Any) -> None:
        raise AssertionError("computed twice")

    for stage in ("extract_features", "match_image_pairs", "import_images"):
        monkeypatch.setattr(pycolmap, stage, again)
    find_poses(photos, out, resume=True)
    assert (out / "transforms.json").read_bytes() == (capture / "transforms.json").read_bytes()


def test_damaged_database(photos: Path, capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(capture, tmp_path / "capture")
    (tmp_path / "capture" / "colmap" / "database.db").write_bytes(b"SQLite format 3\0" + b"nothing" * 500)
    assert main(["poses", str(photos), "--out", str(tmp_path / "capture"), "--resume"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "database.db: pycolmap cannot go on" in error
    settings = tmp_path / "capture" / "colmap" / "settings.json"
    settings.write_text(settings.read_text()[:50])
    with pytest.raises(InputError, match=r"settings\.json: damaged"):
        find_poses(photos, tmp_path / "capture", resume=True)


def test_stop_of_the_mapping(photos: Path, capture: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, name: str) -> None:
        if stage == "mapping":
            raise KeyboardInterrupt

    shutil.copytree(capture, tmp_path / "capture")
    with pytest.raises(KeyboardInterrupt):
        find_poses(photos, tmp_path / "capture", resume=True, progress=stop)
    assert sorted(p.name for p in (tmp_path / "capture" / "colmap").iterdir()) == ["database.db", "settings.json"]


def test_photographs_that_came_since(photos: Path, capture: Path, tmp_path: Path) -> None:
    more = shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(capture, tmp_path / "capture")
    settings = tmp_path / "capture" / "colmap" / "settings.json"
    settings.write_text(settings.read_text().replace(str(photos), str(more)))
    for path in sorted(photos.iterdir()):
        shutil.copystat(path, more / path.name)
    (more / "a_07.png").rename(more / "z.png")
    with pytest.raises(InputError, match=r"a_07\.png was there"):
        find_poses(more, tmp_path / "capture", resume=True)
    (more / "z.png").rename(more / "a_07.png")
    Image.fromarray(photograph(arc(COUNT + 3)[5])).save(more / "b.png")
    found = find_poses(more, tmp_path / "capture", resume=True)
    assert (found.posed, found.cameras) == (COUNT + 1, 1)


def test_photographs_of_something_else_are_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = shutil.copytree(photos, tmp_path / "photos")
    write_photographs(mixed, arc(1), seed=5, first=50)
    Image.new("RGB", (120, 90), (90, 120, 90)).save(mixed / "wall.png")
    assert main(["poses", str(mixed), "--out", str(tmp_path / "out"), "--feature-size", "240"]) == 0
    text = capsys.readouterr().out
    assert f"poses: {COUNT} of {COUNT + 2} photographs" in text
    assert "2 sizes (9 of 180x240, 1 of 90x120" in text
    assert "a_50.png: " in text
    assert "matches no other photograph" in text
    assert "wall.png: only 0 features" in text
    assert "what to do:" in text


def test_too_little_is_no_success(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "photos"
    few.mkdir()
    for path in sorted(photos.iterdir())[4:7]:
        shutil.copy(path, few)
    for number in range(4):
        write_photographs(few, arc(1), seed=20 + number, first=50 + number)
    assert main(["poses", str(few), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]  # a slow machine also shows progress
    assert "only 3 of 7 photographs have a pose" in error


def test_nothing_overlaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        write_photographs(tmp_path / "photos", arc(1), seed=20 + number, first=number)
    small = ("--feature-size", "120")
    assert main(["poses", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *small]) == 1
    out, error = capsys.readouterr()
    assert "next:" not in out
    assert out.count(" features, but it matches no other photograph\n") == 4
    error = error.splitlines()[-1]
    assert "none of 4 photographs matches another; they have to overlap" in error
    assert not (tmp_path / "out" / "transforms.json").exists()
    content = json.loads((tmp_path / "out" / "poses.json").read_text())
    assert [photo["others"] for photo in content["photographs"]] == [0, 0, 0, 0]
    with pytest.raises(InputError):
        open_family(tmp_path / "out")


def test_photographs_that_hang_together_are_named() -> None:
    matches = {"a": "b", "b": "a", "c": "d", "d": "c", "e": ""}
    seen = {name: colmap.Seen(500, {other: 20} if other else {}, set()) for name, other in matches.items()}
    line = nothing_found(seen)
    assert "only 2 of 10 pairs match: a, b | c, d; 1 match none (e); take photographs from places" in line


def test_turned_on_the_spot(tmp_path: Path) -> None:
    cameras = arc(1) * 4
    for i, camera in enumerate(cameras):
        angle = torch.tensor(0.08 * (i - 2))
        turn = torch.eye(4)
        turn[0, 0] = turn[2, 2] = torch.cos(angle)
        turn[0, 2], turn[2, 0] = torch.sin(angle), -torch.sin(angle)
        cameras[i] = type(camera)(camera.T_world_camera @ turn, *(220.0, 220.0, 120.0, 90.0), 240, 180)
    photos = write_photographs(tmp_path / "photos", cameras)
    found = find_poses(photos, tmp_path / "out", lens="SIMPLE_PINHOLE", feature_size=160)
    assert found.wrong is not None
    assert "as if the camera turned and did not move; walk round" in found.wrong


def test_turned_cameras_are_told_from_flat_things() -> None:
    calibration = np.array([[250.0, 0.0, 120.0], [0.0, 250.0, 90.0], [0.0, 0.0, 1.0]])
    angle = np.radians(8.0)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    moved = turn - np.outer([0.3, 0.0, 0.0], [0.0, 0.0, 1.0])  # before a plane at distance 1, by 0.3, looking back

    def between(matrix: Any) -> float:
        return colmap.turned_by(2.7 * calibration @ matrix @ np.linalg.inv(calibration), (240, 180), (240, 180))

    assert between(turn) < 0.01 < colmap.TURNED < 0.1 < between(moved)
    assert between(np.eye(3) + np.outer([0.3, 0.0, 0.0], [0.0, 0.0, 1.0])) > 0.1  # only shifted


def test_a_camera_for_each(photos: Path, tmp_path: Path) -> None:
    found = find_poses(photos, tmp_path / "out", cameras="each", lens="SIMPLE_PINHOLE")
    assert (found.posed, found.cameras) == (COUNT, COUNT)
    content = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert "fl_x" not in content
    assert all(frame["fl_x"] == pytest.approx(220.0, rel=0.1) for frame in content["frames"])


def test_missing_pycolmap(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(InputError, match=r"pip install 'hyperfields\[captures\]'"):
        find_poses(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
