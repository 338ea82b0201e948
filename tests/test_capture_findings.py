"""What trying captures by hand brought to light: folders from other machines, and what other programs write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperfields import cli
from hyperfields.data import Views
from hyperfields.errors import InputError
from hyperfields.scenes import open_family

from ._captures import nerfstudio


def opened(path: Path, **options: Any) -> Views:
    data = open_family(path, background="scene", **options)
    assert isinstance(data, Views)
    return data


def change(folder: Path, edit: Callable[[dict[str, Any]], object], name: str = "transforms.json") -> Path:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))
    return folder


def rooted(root: str, key: str = "file_path") -> Callable[[dict[str, Any]], object]:
    """Paths as the machine has them on which they were written."""
    separator = "\\" if "\\" in root else "/"

    def edit(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame[key] = root + frame[key].replace("/", separator)
        content["train_filenames"] = [frame["file_path"] for frame in content["frames"][2:]]
        content["test_filenames"] = [frame["file_path"] for frame in content["frames"][:2]]

    return edit


@pytest.mark.parametrize("root", ["/home/bob/captures/toy/", "C:\\Users\\bob\\toy\\", "\\\\server\\toy\\"])
def test_absolute_paths_of_another_machine_are_followed_by_their_ends(tmp_path: Path, root: str) -> None:
    data = opened(change(nerfstudio(tmp_path / "s"), rooted(root)))
    assert data.files[0] == [f"images/frame_{i:05d}.png" for i in range(2, 10)]
    assert [view.name for view in data.reference(0, "test")] == ["frame_00000.png", "frame_00001.png"]
    forward = root.replace("\\", "/")
    assert any(f"its paths begin with {forward}; what follows is read from {tmp_path / 's'}" in n for n in data.notes)
    (tmp_path / "s" / "images" / "frame_00004.png").unlink()  # left out as any other
    notes = opened(tmp_path / "s").notes
    assert any("1 of 10 pictures are not there and left out (images/frame_00004.png)" in note for note in notes)


def test_absolute_paths_into_the_folder_itself_are_nothing_to_talk_about(tmp_path: Path) -> None:
    plain = opened(nerfstudio(tmp_path / "s")).notes
    data = opened(change(tmp_path / "s", lambda c: [f.update(file_path=str(tmp_path / "s" / f["file_path"]))
                                                    for f in c["frames"]]))  # fmt: skip
    assert data.notes == plain
    assert data.files[0][0] == "images/frame_00001.png"


def test_absolute_paths_that_nothing_follows_say_where_the_pictures_belong(tmp_path: Path) -> None:
    folder = change(nerfstudio(tmp_path / "s"), rooted("/home/bob/"))
    (folder / "images").rename(folder / "pictures")
    wanted = rf"leaves the scene's folder; put the pictures there, this one at {folder}/images/frame_00000\.png"
    with pytest.raises(InputError, match=wanted):
        opened(folder)


def test_the_end_of_an_absolute_path_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "other")
    folder = change(
        nerfstudio(tmp_path / "s"),
        lambda c: c["frames"][0].update(file_path="/x/../../other/images/frame_00000.png"),
    )
    with pytest.raises(InputError, match="leaves the scene's folder"):
        opened(folder)


def test_coefficients_as_text_are_numbers(tmp_path: Path) -> None:
    """nerfstudio's converter of RealityCapture writes the words of its table."""
    folder = nerfstudio(tmp_path / "s", each=True, camera_model="OPENCV")
    change(folder, lambda c: [f.update(k1="0.05", k2="-0.01", k3="0", k4="0", p1="1e-4", p2="0") for f in c["frames"]])
    lens = opened(folder).cameras[0][0].lens
    assert lens is not None
    assert lens.coefficients == (0.05, -0.01, 1e-4, 0.0)
    change(folder, lambda c: c["frames"][3].update(k1="wide"))
    with pytest.raises(InputError, match="frame 3: k1 is 'wide'; wanted a finite number"):
        opened(folder)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_a_scene_without_test_pictures_is_measured_by_its_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As instant-ngp's fox, with transforms_train.json and transforms_val.json."""
    folder = nerfstudio(tmp_path / "s")
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, part in (("train", slice(2, None)), ("val", slice(2))):
        (folder / f"transforms_{split}.json").write_text(json.dumps({**content, "frames": content["frames"][part]}))
    words = ["fit", str(folder), "--out", str(tmp_path / "run"), "--preset", "tiny", "--steps", "4", "--space", "box"]
    cli.main(words)
    text = capsys.readouterr().out
    assert "held-out psnr" in text
    assert f"next: hyperfields eval {tmp_path / 'run'} --split val\n" in text
