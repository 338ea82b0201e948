"""Archives of the field's data sets, in small: what becomes of them is read, and nothing leaves the target."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hyperfields.data import Views
from hyperfields.scenes import open_family

from ._captures import HEIGHT, WIDTH, cameras, gl_pose, llff, photograph, save, srn

SCRIPT = Path(__file__).parent.parent / "scripts" / "prepare_captures.py"
if not SCRIPT.is_file():  # the tests of the wheel come without
    pytest.skip("scripts are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("prepare_captures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_captures"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["prepare_captures"]


def synthetic(root: Path) -> None:
    import json

    for scene in ("lego", "ship"):
        for split, part in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
            frames = []
            for i in part:
                camera = cameras()[i]
                save(root / scene / split / f"r_{i}.png", photograph(camera, alpha=True))
                save(root / scene / split / f"r_{i}_depth_0001.png", np.zeros((4, 4), dtype=np.uint8))
                frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": gl_pose(camera)})
            content = {"camera_angle_x": 0.6911112, "frames": frames}
            (root / scene / f"transforms_{split}.json").write_text(json.dumps(content))
    (root / "README.txt").write_text("a data set")
    (root.parent / "__MACOSX" / "lego").mkdir(parents=True)
    (root.parent / "__MACOSX" / "lego" / "._transforms_train.json").write_bytes(b"\0")


def llff_data(root: Path) -> None:
    for scene in ("fern", "horns"):
        llff(root / scene, times=1)
        for i, camera in enumerate(cameras()):
            save(root / scene / "images_2" / f"image{i:03d}.png", photograph(camera.resized(HEIGHT // 2, WIDTH // 2)))
        (root / scene / "database.db").write_bytes(b"\0" * 100)


def cars(root: Path) -> None:
    for split in ("cars_train", "cars_test"):
        for scene in ("1a", "2b", "3c"):
            srn(root / split / f"{split[5:]}{scene}")


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as writer:
        for path in sorted(folder.rglob("*")):
            writer.write(path, path.relative_to(folder))
    return archive


def tarred(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as writer:
        writer.add(folder, arcname=".")
    return archive


@pytest.mark.parametrize("pack", [zipped, tarred, lambda folder, archive: folder], ids=["zip", "tar", "folder"])
def test_nerf_synthetic(tmp_path: Path, script: ModuleType, pack: Callable[[Path, Path], Path]) -> None:
    synthetic(tmp_path / "in" / "nerf_synthetic")
    archive = pack(tmp_path / "in", tmp_path / "nerf_synthetic.archive")
    assert script.main(["nerf-synthetic", str(archive), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lego", "ship"]
    assert not list((tmp_path / "out").rglob("*depth*"))
    data = open_family(tmp_path / "out")
    assert [len(data.reference(1, split)) for split in ("train", "val", "test")] == [6, 2, 2]


def test_llff_and_mipnerf360(tmp_path: Path, script: ModuleType) -> None:
    llff_data(tmp_path / "in" / "nerf_llff_data")
    archive = zipped(tmp_path / "in", tmp_path / "a.zip")
    words = ["llff", str(archive), str(tmp_path / "out"), "--factor", "2", "--scenes", "fern"]
    assert script.main(words) == 0
    assert {path.name for path in (tmp_path / "out" / "fern").iterdir()} == {"images_2", "poses_bounds.npy"}
    data = open_family(tmp_path / "out", background="scene")
    assert isinstance(data, Views)
    assert data.names == ("fern",)
    assert data.sizes == ((HEIGHT // 2, WIDTH // 2),)
    pytest.importorskip("pycolmap")
    from .test_scenes_formats_colmap import capture

    capture(tmp_path / "360" / "garden")
    (tmp_path / "360" / "garden" / "database.db").write_bytes(b"\0")
    archive = zipped(tmp_path / "360", tmp_path / "360.zip")
    assert script.main(["mipnerf360", str(archive), str(tmp_path / "g")]) == 0
    assert not (tmp_path / "g" / "garden" / "database.db").exists()
    assert len(open_family(tmp_path / "g").reference(0, "test")) == 2


def test_shapenet_srn(tmp_path: Path, script: ModuleType) -> None:
    cars(tmp_path / "in" / "srn_cars")
    archive = zipped(tmp_path / "in", tmp_path / "a.zip")
    assert script.main(["srn", str(archive), str(tmp_path / "out"), "--scenes", "cars_train/*", "--limit", "2"]) == 0
    assert open_family(tmp_path / "out" / "cars_train", background="scene").names == ("train1a", "train2b")
    alone = zipped(tmp_path / "in" / "srn_cars" / "cars_test", tmp_path / "b.zip")
    assert script.main(["srn", str(alone), str(tmp_path / "test")]) == 0
    assert open_family(tmp_path / "test", background="scene").names == ("test1a", "test2b", "test3c")


def test_abo(tmp_path: Path, script: ModuleType) -> None:
    trimesh = pytest.importorskip("trimesh")
    for name in ("B01", "B02"):
        path = tmp_path / "in" / "3dmodels" / "original" / name[-1] / f"{name}.glb"
        path.parent.mkdir(parents=True)
        trimesh.creation.box().export(path)
    archive = tarred(tmp_path / "in", tmp_path / "abo-3dmodels.tar")
    assert script.main(["abo", str(archive), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["B01.glb", "B02.glb"]


def escaping_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("a/transforms_train.json", "{}")
        writer.writestr("../../evil.txt", "x")


def escaping_tar(path: Path) -> None:
    with tarfile.open(path, "w") as writer:
        for name in ("a/transforms_train.json", "/tmp/evil.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            writer.addfile(info, io.BytesIO(b"{}"))


def damaged_zip(path: Path) -> None:
    escaping_zip(path)
    path.write_bytes(path.read_bytes()[:60])


def empty_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("readme.txt", "nothing")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (escaping_zip, r"holds '../../evil.txt', which leads out of it"),
        (escaping_tar, r"holds '/tmp/evil.txt', which leads out of it"),
        (damaged_zip, "not a readable archive"),
        (empty_zip, "no scene of nerf-synthetic in it; wanted folders with transforms_train.json"),
        (lambda path: None, "is not there; wanted an archive or a folder"),
    ],
)
def test_bad_archives(
    tmp_path: Path,
    script: ModuleType,
    make: Callable[[Path], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "a.zip")
    assert script.main(["nerf-synthetic", str(tmp_path / "a.zip"), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) in (["a.zip"], [])


def test_links_are_left_and_an_older_family_stays(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic(tmp_path / "in" / "nerf_synthetic")
    with tarfile.open(tmp_path / "a.tar", "w") as writer:
        writer.add(tmp_path / "in", arcname=".")
        link = tarfile.TarInfo("./nerf_synthetic/lego/train/r_99.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        writer.addfile(link)
    words = ["nerf-synthetic", str(tmp_path / "a.tar"), str(tmp_path / "out")]
    assert script.main(words) == 0
    assert not (tmp_path / "out" / "lego" / "train" / "r_99.png").exists()
    assert script.main(words) == 2
    assert "exists already" in capsys.readouterr().err
    words[2] = str(tmp_path / "b")
    assert script.main([*words, "--scenes", "chair"]) == 2
    assert "no scene 'chair' in it; there are lego, ship" in capsys.readouterr().err
    assert script.main(["srn", words[1], words[2]]) == 2
    assert "no scene of srn in it; it looks like nerf-synthetic" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
