"""What `make campaign` found, each mended: kills between two files, and writes that fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch

import hyperfields as hf
from hyperfields.cameras.nerfstudio import read_camera_path
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.evaluation import compare
from hyperfields.runs import atomic
from hyperfields.runs.atomic import append, holds_files, new_folder, require_suffix, write_together
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.compose import read_composition
from hyperfields.runs.run import MODEL, SOURCE, SUMMARY
from hyperfields.runs.tcnn import read_tcnn
from hyperfields.scenes._common import SILENT, write_whole
from hyperfields.training import continual
from hyperfields.training.continual import add
from hyperfields.training.inference import infer


class Killed(BaseException):
    """In place of SIGKILL: nothing that catches errors sees it."""


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)))


def fit(images: Images, out: Path, steps: int = 3, **options: object) -> hf.Run:
    return hf.fit(images, out, steps=steps, preset="tiny", progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [SUMMARY, SOURCE])
def test_a_fit_that_was_killed_between_its_last_files_writes_all_of_them(
    images: Images, tmp_path: Path, missing: str
) -> None:
    fit(images, tmp_path / "run", codes="vae")
    whole = {name: (tmp_path / "run" / name).read_bytes() for name in (MODEL, SOURCE, SUMMARY)}
    for name in (MODEL, SOURCE, SUMMARY)[(MODEL, SOURCE, SUMMARY).index(missing) :]:
        (tmp_path / "run" / name).unlink()
    fit(images, tmp_path / "run", codes="vae", resume=True)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in (MODEL, SOURCE)} == {
        name: whole[name] for name in (MODEL, SOURCE)
    }
    assert json.loads((tmp_path / "run" / SUMMARY).read_bytes())["steps"] == 3


def test_an_encoder_of_another_state_of_the_fit_is_refused(images: Images, tmp_path: Path) -> None:
    shorter = fit(images, tmp_path / "run", codes="encoder").digest
    infer(hf.load_run(tmp_path / "run"), images, by="encoder", progress=False)
    old = (tmp_path / "run" / SOURCE).read_bytes()
    fit(images, tmp_path / "run", 5, codes="encoder", resume=True)
    (tmp_path / "run" / SOURCE).write_bytes(old)  # killed after the model was written
    longer = hf.load_run(tmp_path / "run")
    assert longer.digest != shorter
    with pytest.raises(InputError, match=r"codes.safetensors: is not of this model.safetensors"):
        infer(longer, images, by="encoder", progress=False)


def test_scenes_are_added_to_a_folder_wholly_or_not_at_all(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = fit(images, tmp_path / "run"), Images(torch.rand(1, 8, 8, 3), names=["new"])

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(continual, "write_model", killed)
        patch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)  # nobody clears up after a kill
        with pytest.raises(Killed):
            add(run, new, tmp_path / "more", steps=1, progress=False)
    assert not (tmp_path / "more" / "config.json").exists()
    assert add(run, new, tmp_path / "more", steps=1, progress=False).names == ("0", "1", "new")


def test_what_a_kill_leaves_is_no_other_file(images: Images, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".config.json.0badcafe.tmp"):
        (run / name).touch()
    assert not holds_files(run)
    fit(images, run)
    assert holds_files(run)


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "a.json"
    write_together({first: b"1", second: b"1"})
    real, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"a\.json: cannot be written \(No space left on device\)"):
            write_together({first: b"2", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_errors_name_files_as_they_would_have_been_called(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"walk/x\.json: suffix"), new_folder(tmp_path / "walk") as folder:
        require_suffix(folder / "x.json", (".png",), "a picture")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"log\.jsonl: cannot be written"):
        append(tmp_path / "none" / "log.jsonl", "{}\n")


def test_nothing_is_written_over_a_file_of_a_run(images: Images, tmp_path: Path) -> None:
    fit(images, tmp_path / "run")
    with pytest.raises(InputError, match="is a file of the run in this folder"):
        require_suffix(tmp_path / "run" / "codes.safetensors", (".safetensors",), "codes")
    assert require_suffix(tmp_path / "run" / "new.safetensors", (".safetensors",), "codes") == ".safetensors"


@pytest.mark.parametrize(("key", "value"), [("pose", 1e300), ("fl_x", 1e299), ("offset", 1e200)])
def test_numbers_of_cameras_that_no_float_holds_are_refused_with_their_file(
    tmp_path: Path, key: str, value: float
) -> None:
    from hyperfields.runs.images import write_image

    pose = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, value if key == "pose" else 3.0], [0, 0, 0, 1]]
    content: dict[str, object] = {"fl_x": 9.0, "aabb_scale": 4}
    content["frames"] = [{"file_path": f"{i}.png", "transform_matrix": pose} for i in range(2)]
    for i in range(2):
        write_image(tmp_path / f"{i}.png", torch.rand(8, 8, 3))
    if key != "pose":
        content[key] = value if key == "fl_x" else [value, 0.0, 0.0]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"transforms\.json.*(finite|above 0)"):
        hf.open_family(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "codes.safetensors")
    with pytest.raises(InputError, match=r"codes.safetensors: is no file"):
        read_tensors(tmp_path / "codes.safetensors")


@pytest.mark.parametrize("way", ["pipe", "zeros"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.json"
    if way == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for read in (read_camera_path, lambda path: read_composition(path, none), read_tcnn):
        with pytest.raises(InputError, match=r"a\.json: is no file; wanted"):
            read(path)


def none(*_: object) -> NoReturn:
    raise InputError("nowhere: not a run")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"run": "nowhere"}, "scene 0: nowhere: not a run"),
        ({"run": "x", "turn": 10**400}, "scene 0: wanted numbers"),
        ({"run": "x", "scale": 10**400}, "scene 0: .*wanted numbers"),
    ],
)
def test_compositions_are_refused_with_their_file(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"scenes": [entry]}))
    with pytest.raises(InputError, match=rf"c\.json: {message}"):
        read_composition(tmp_path / "c.json", none)


def test_results_of_a_comparison_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe{}\n")
    assert compare._read_results(tmp_path) == []


def test_files_of_captures_are_the_old_ones_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "transforms.json"
    path.write_bytes(b"old")

    def full(file: Path, data: bytes) -> None:
        with open(file, "wb") as stream:
            stream.write(data[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device: .*/transforms\.json'"):
            write_whole(path, b"newer")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("transforms.json", b"old")]
    write_whole(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("settings.json", "[]"),
        ("settings.json", {"photographs": [], "settings": {}, "photos": ""}),
        ("settings.json", {"photographs": {}, "settings": {"lens": "MY_LENS"}, "photos": ""}),
        ("frames.json", '{"a.png": 3}'),
    ],
)
def test_what_was_begun_with_poses_and_is_damaged_is_refused(tmp_path: Path, name: str, content: object) -> None:
    pytest.importorskip("pycolmap")
    from hyperfields.scenes.poses import _settings, find_poses

    video = tmp_path / "walk.mp4"
    video.write_bytes(b"0")
    given: dict[str, object] = dict.fromkeys(("cameras", "lens", "frames", "feature_size", "matching"))
    whole = {"photos": str(video.resolve()), "settings": _settings(given, True), "photographs": {}}
    (tmp_path / "out" / "colmap").mkdir(parents=True)
    (tmp_path / "out" / "colmap" / "settings.json").write_text(json.dumps(whole))
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "out" / "colmap" / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: damaged"):
        find_poses(video, tmp_path / "out", resume=True)


def test_double_precision_by_default_is_refused_in_a_line(images: Images, tmp_path: Path) -> None:
    run = fit(images, tmp_path / "run", 1)
    torch.set_default_dtype(torch.float64)
    try:
        for call in (
            lambda: fit(images, tmp_path / "other"),
            lambda: hf.load_run(tmp_path / "run"),
            lambda: hf.infer(run, images, steps=1, progress=False),
            lambda: hf.add(run, images, tmp_path / "other", steps=1, progress=False),
            lambda: hf.evaluate(run, images, perceptual=False),
        ):
            with pytest.raises(InputError, match=r"set_default_dtype\(torch.float64\): .*float32\) first"):
                call()
    finally:
        torch.set_default_dtype(torch.float32)
    assert not (tmp_path / "other").exists()


def test_threads_that_decode_at_once_leave_standard_error_as_it_was() -> None:
    before = os.fstat(2)
    SILENT.__enter__()  # one begins, another begins, the first ends before the second
    SILENT.__enter__()
    assert not os.path.samestat(os.fstat(2), before)
    SILENT.__exit__()
    assert not os.path.samestat(os.fstat(2), before)
    SILENT.__exit__()
    assert os.path.samestat(os.fstat(2), before)


def test_a_pipe_in_a_model_of_colmap_is_not_waited_for(tmp_path: Path) -> None:
    from hyperfields.scenes._colmap_files import check_model, count_images

    (tmp_path / "cameras.bin").write_bytes(bytes(8))
    os.mkfifo(tmp_path / "images.bin")
    assert count_images(tmp_path) == 0
    with pytest.raises(InputError, match=r"images\.(txt|bin): is missing"):
        check_model(tmp_path)
