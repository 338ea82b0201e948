"""`poses`: what is refused in one line and leaves nothing behind, and videos."""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hyperfields.scenes.poses.photographs import find_photographs, natural
from hyperfields.scenes.poses.video import sharpness, write_frames

from ._families import make_images, run_cli

needs_colmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason="pycolmap (hyperfields[captures]) is missing"
)


def some(folder: Path, count: int = 4, side: int = 40) -> Path:
    return make_images(folder, tuple(f"p{i}" for i in range(count)), side)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda f: None, r"photos: no such file or folder; wanted a folder of"),
    "empty": (lambda f: f.mkdir(), r"photos: no photographs in it or below"),
    "one": (lambda f: some(f, 1), r"photos: 1 photograph in it; wanted 3 at least, better 30"),
    "two": (lambda f: some(f, 2), r"photos: 2 photographs in it; wanted 3 at least"),
    "a text": (lambda f: f.write_text("hello"), r"photos: is a file, but no video that is read"),
    "cut short": (
        lambda f: (some(f) / "p2.png").write_bytes((f / "p1.png").read_bytes()[:60]),
        r"p2\.png: not a readable picture .*; replace or remove the file",
    ),
    "no picture": (
        lambda f: (some(f) / "p3.jpg").write_text("not a picture"),
        r"p3\.jpg: not a readable picture",
    ),
    "tiny": (lambda f: some(f, side=16), r"p0\.png: is 16x16 .*wanted 32 pixels a side at least"),
    "of a phone": (
        lambda f: (f.mkdir(), [(f / f"IMG_{i}.HEIC").write_bytes(b"x") for i in range(5)]),
        r"photos: no photographs in it, and 5 \.HEIC that are not read; convert them",
    ),
    "a video in it": (
        lambda f: (f.mkdir(), (f / "walk.MOV").write_bytes(b"x")),
        r"but walk\.MOV; give the video itself: .*walk\.MOV",
    ),
}


@needs_colmap
@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=list(REFUSED))
def test_refused(make: Callable[[Path], object], text: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    make(tmp_path / "photos")
    assert re.search(text, refused("poses", tmp_path / "photos", "--out", tmp_path / "out"))


@needs_colmap
def test_options_that_do_not_fit(tmp_path: Path, refused: Callable[..., str]) -> None:
    photos, out = some(tmp_path / "photos"), tmp_path / "out"
    assert "--frames 10: is for videos" in refused("poses", photos, "--out", out, "--frames", 10)
    assert "--feature-size 8: wanted a whole number from 32 to 100000" in refused(
        "poses", photos, "--out", out, "--feature-size", 8
    )
    (tmp_path / "walk.mp4").write_bytes(b"x")
    said = refused("poses", tmp_path / "walk.mp4", "--out", out, "--cameras", "folder")
    assert "--cameras folder: is for photographs in folders" in said
    assert "holds no poses that were begun" in refused("poses", photos, "--out", out, "--resume")
    assert "exists already" in refused("poses", photos, "--out", photos)


@needs_colmap
@pytest.mark.parametrize("content", [b"", b"no film" * 50])
def test_video_that_does_not_open(content: bytes, tmp_path: Path, refused: Callable[..., str]) -> None:
    pytest.importorskip("av")
    (tmp_path / "walk.mp4").write_bytes(content)
    assert "walk.mp4: not a readable video" in refused("poses", tmp_path / "walk.mp4", "--out", tmp_path / "out")


def film(path: Path, frames: list[NDArray[np.uint8]]) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def patterned() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A sharp and a blurred picture `[64 96 3]`; their left halves are darker."""
    noise = np.random.default_rng(0).integers(100, 255, (64, 96, 3)).astype(np.float64)
    noise[:, :48] -= 90.0
    blurred = sum(np.roll(noise, (i, j), (0, 1)) for i in range(-1, 2) for j in range(-1, 2)) / 9.0
    return noise.astype(np.uint8), np.asarray(blurred, dtype=np.uint8)


def test_sharpest_frames_of_even_stretches(tmp_path: Path) -> None:
    sharp, blurred = patterned()
    frames = [sharp if i in (1, 5, 6, 11) else blurred for i in range(12)]
    for i in range(12):  # a bright corner that says which
        frames[i] = frames[i].copy()
        frames[i][:8, :8] = 20 * i
    done: list[int] = []
    sizes = write_frames(film(tmp_path / "walk.mp4", frames), 4, tmp_path, lambda at, total, name: done.append(at))
    assert list(sizes.values()) == [(64, 96)] * 4
    numbers = [round(float(np.asarray(Image.open(tmp_path / name))[2:6, 2:6].mean()) / 20) for name in sizes]
    assert numbers == [1, 5, 6, 11]
    assert done == sorted(done)
    assert done[-1] == 1000


def test_frames_are_turned_as_the_phone_was_held(tmp_path: Path) -> None:
    """The matrix of an mp4's track header says it: turned by 90 degrees clockwise when shown."""
    path = film(tmp_path / "walk.mp4", [patterned()[0]] * 6)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes into the box
    assert struct.unpack(">i", content[at : at + 4])[0] == 0x10000
    content[at : at + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000)
    path.write_bytes(content)
    sizes = write_frames(path, 3, tmp_path, lambda at, total, name: None)
    assert set(sizes.values()) == {(96, 64)}
    shown = np.asarray(Image.open(tmp_path / next(iter(sizes))), dtype=float)
    assert shown[:48].mean() < shown[48:].mean() - 50.0  # what was left is above


@needs_colmap
def test_more_frames_than_there_are(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = film(tmp_path / "walk.mp4", [patterned()[0]] * 6)
    assert "has 6 frames" in refused("poses", path, "--out", tmp_path / "out", "--frames", 9)


def test_sharpness() -> None:
    sharp, blurred = (picture.mean(-1).astype(np.float32) for picture in patterned())
    assert sharpness(sharp) > 5.0 * sharpness(blurred) > 0.0


def test_natural_order_and_names(tmp_path: Path) -> None:
    assert sorted(["IMG_10", "IMG_9", "img_1"], key=natural) == ["img_1", "IMG_9", "IMG_10"]
    (tmp_path / "below").mkdir()
    for name in ("b 10.png", "b 9.png", "b_9.jpg", "é.webp", "below/b_9.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    found, notes = find_photographs(tmp_path, below=False)
    assert [photo.name for photo in found] == ["b_9.png", "b_10.png", "b_9.jpg", "é.png"]
    assert notes == ["1 pictures in folders below are left out; take them in with --cameras folder"]
    found, notes = find_photographs(tmp_path, below=True)
    assert ("below_b_9.png", "below") in [(photo.name, photo.folder) for photo in found]
    assert notes == []


@needs_colmap
def test_stop_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperfields.scenes import poses

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(poses, "find_poses", stopped)
    assert run_cli("poses", "my photos", "--out", "out") == 130
    assert "go on with: hyperfields poses 'my photos' --out out --resume" in capsys.readouterr().err
