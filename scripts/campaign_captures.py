"""Captures of other programs, and what else is read beside pictures and meshes, for scripts/campaign_inputs.py."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import campaign_families as families
import fuzz_captures
import numpy as np
from fuzz_room import Room
from fuzz_scenes import pictures
from PIL import Image

POSE = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
OPENCV = {"fl_x": 7.0, "fl_y": 7.0, "cx": 3.0, "cy": 2.5, "w": 6, "h": 5, "k1": 0.01, "k2": 0.0, "p1": 0.0, "p2": 0.0}


def pictures_in(folder: Path, *places: str) -> None:
    """Two pictures of 6x5, a.png and b.png."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for stem, content in zip("ab", pictures("PNG", "RGBA", "RGB")(Room(folder)), strict=True):
            (folder / place / f"{stem}.png").write_bytes(content)


def capture(files: Callable[[Room], dict[str, bytes]], place: str) -> Callable[[Path], object]:
    """Writes a scene of two pictures."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as room:
            for path, content in files(Room(Path(room))).items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        pictures_in(folder, place)

    return make


def nerfstudio(room: Room) -> dict[str, bytes]:
    """transforms.json with the keys of nerfstudio, points and lists of names."""
    frames = [{"file_path": f"./{s}.png", "transform_matrix": POSE, "colmap_im_id": i} for i, s in enumerate("ab")]
    content = {
        "camera_model": "OPENCV", **OPENCV, "applied_transform": POSE[:3], "applied_scale": 0.5,
        "ply_file_path": "x.ply", "train_filenames": ["./a.png"], "test_filenames": ["./b.png"], "frames": frames,
    }  # fmt: skip
    return {"transforms.json": json.dumps(content).encode(), "x.ply": fuzz_captures.points(room)["x.ply"]}


def instant_ngp(room: Room) -> dict[str, bytes]:
    """transforms.json with the keys of instant-ngp."""
    del room
    frames = [{"file_path": f"{s}.png", "transform_matrix": POSE, "sharpness": 9.0} for s in "ab"]
    content = {
        **OPENCV, "is_fisheye": True, "fisheye_crop_radius": 4.0, "scale": 0.33, "offset": [0.5, 0.5, 0.5],
        "up": [0.0, 0.0, 1.0], "aabb_scale": 4, "n_extra_learnable_dims": 0, "frames": frames,
    }  # fmt: skip
    del content["p1"], content["p2"]
    return {"transforms.json": json.dumps(content).encode()}


def photographs(folder: Path) -> None:
    """Three photographs in which little is found."""
    (folder / "p").mkdir(parents=True)
    for number in range(3):
        pixels = np.kron(families.picture(number), np.ones((4, 4, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"p/{number}.jpg")


def film(folder: Path) -> None:
    """Three frames."""
    with tempfile.TemporaryDirectory() as room:
        (folder / "v.mp4").write_bytes(fuzz_captures.videos(Room(Path(room)))[0])


def composition(run: Path) -> Callable[[Path], object]:
    """Writes two scenes of a run into a JSON file for render --compose."""

    def make(folder: Path) -> None:
        rotation = [row[:3] for row in POSE[:3]]
        scenes = [{"run": str(run), "scene": "scene0", "position": [0, 0, 0], "turn": 90, "scale": 1}]
        scenes.append({"run": str(run), "scene": "scene1", "position": [1, 0, 0], "rotation": rotation})
        (folder / "c.json").write_text(json.dumps({"scenes": scenes}))

    return make


def camera_path(folder: Path) -> None:
    """Writes what nerfstudio's viewer saves."""
    matrix = [value for row in POSE for value in row]
    entry = {"fov": 50.0, "aspect": 1.0}
    content: dict[str, Any] = {"camera_type": "perspective", "render_height": 8, "render_width": 8, "fps": 2}
    content |= {"seconds": 1.0, "is_cycle": False, "smoothness_value": 0.0, "default_fov": 50.0}
    content["keyframes"] = [{"matrix": matrix, **entry}] * 2
    content["camera_path"] = [{"camera_to_world": matrix, **entry}] * 2
    (folder / "p.json").write_text(json.dumps(content))


def pool(folder: Path) -> None:
    """Writes samples of a mesh as the cache keeps them."""
    (folder / "pool.npz").write_bytes(_pool())


def _pool() -> bytes:
    from fuzz_scenes import pools

    return pools(Room(Path()))[0]


# Name, kind, maker, file, verb and options: see `campaign_inputs.Format`.
Entry = tuple[str, str, Callable[[Path], object], str, Sequence[object]]


def captures(read: Sequence[object]) -> list[Entry]:
    """What other programs write, each with the command that reads it."""
    text, binary = fuzz_captures.colmap_text, fuzz_captures.colmap_binary
    polycam = capture(fuzz_captures.polycam, "keyframes/images")
    found: list[Entry] = []
    for name in ("cameras", "images", "points3D"):
        found.append((f"COLMAP {name}.txt", "text", capture(text, "images"), f"sparse/0/{name}.txt", read))
        found.append((f"COLMAP {name}.bin", "binary", capture(binary, "images"), f"sparse/0/{name}.bin", read))
    for name in ("rigs", "frames"):
        found.append((f"COLMAP {name}.bin", "binary", capture(binary, "images"), f"sparse/0/{name}.bin", read))
    return [
        *found,
        ("list of names", "text", capture(text, "images"), "train.txt", read),
        ("LLFF poses_bounds.npy", "binary", capture(fuzz_captures.llff, "images"), "poses_bounds.npy", read),
        ("SRN intrinsics.txt", "text", capture(fuzz_captures.srn, "rgb"), "intrinsics.txt", read),
        ("SRN pose", "text", capture(fuzz_captures.srn, "rgb"), "pose/a.txt", read),
        ("Polycam camera", "json", polycam, "keyframes/cameras/a.json", read),
        ("nerfstudio transforms.json", "json", capture(nerfstudio, "."), "transforms.json", read),
        ("nerfstudio points", "text", capture(nerfstudio, "."), "x.ply", read),
        ("instant-ngp transforms.json", "json", capture(instant_ngp, "."), "transforms.json", read),
        ("photograph", "binary", photographs, "p/1.jpg", ("poses", "{in}/p", "--out", "{out}")),
        ("video", "binary", film, "v.mp4", ("poses", "{in}/v.mp4", "--frames", 3, "--out", "{out}")),
    ]


# ------------------------------------------------------------------------------------------------ by hand

Change = Callable[[Path, Random], None]


def rewritten(old: str, new: str) -> Change:
    """Another text in the place of one."""

    def change(path: Path, rng: Random) -> None:
        del rng
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def changed(change: Callable[[Any], object]) -> Change:
    """Another value in a JSON file."""

    def changes(path: Path, rng: Random) -> None:
        del rng
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return changes


def array(change: Callable[[Any], Any]) -> Change:
    """Another array in a .npy file."""

    def changed(path: Path, rng: Random) -> None:
        del rng
        np.save(path, change(np.load(path)), allow_pickle=True)

    return changed


def counted(number: int) -> Change:
    """Another count at the beginning of a binary file of COLMAP."""

    def change(path: Path, rng: Random) -> None:
        del rng
        path.write_bytes(number.to_bytes(8, "little") + path.read_bytes()[8:])

    return change


def _with(rows: Any, column: int, value: float) -> Any:
    rows = rows.copy()
    rows[0, column] = value
    return rows


def _space(content: dict[str, Any]) -> None:
    content["model"]["field"]["space"] = {"class": "os:system"}


MIRROR = [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
# What it is -> (format, how it is written). All of them have to be refused.
BY_HAND: dict[str, tuple[str, Change]] = {
    "a lens of nobody": ("COLMAP cameras.txt", rewritten("OPENCV", "MY_LENS")),
    "a parameter less": ("COLMAP cameras.txt", rewritten(" 0.01 0 0 0", " 0.01 0 0")),
    "a camera that is not there": ("COLMAP images.txt", rewritten("4 1 a.png", "4 7 a.png")),
    "a rotation of nothing": ("COLMAP images.txt", rewritten("1 1 0 0 0", "1 0 0 0 0")),
    "pictures somewhere else": ("COLMAP images.txt", rewritten(" 1 ", " 1 ../../../../etc/")),
    "2^60 cameras": ("COLMAP cameras.bin", counted(2**60)),
    "2^60 pictures": ("COLMAP images.bin", counted(2**60)),
    "fewer points than said": ("COLMAP points3D.bin", counted(9)),
    "names of nobody": ("list of names", lambda path, rng: path.write_text("nobody.png\n") and None),
    "15 columns": ("LLFF poses_bounds.npy", array(lambda rows: rows[:, :15])),
    "a row for a picture that is not there": ("LLFF poses_bounds.npy", array(lambda rows: rows[[0, 1, 1]])),
    "objects in an array": ("LLFF poses_bounds.npy", array(lambda rows: np.array([{"a": 1}], dtype=object))),
    "depths below 0": ("LLFF poses_bounds.npy", array(lambda rows: _with(rows, 15, -1.0))),
    "a focal length of 0": ("LLFF poses_bounds.npy", array(lambda rows: _with(rows, 14, 0.0))),
    "half a pixel": ("SRN intrinsics.txt", rewritten("5 6", "5.5 6")),
    "a pose of 15 numbers": ("SRN pose", rewritten(" 0 0 0 1", " 0 0 1")),
    "a camera without a place": ("Polycam camera", changed(lambda c: c.pop("t_03"))),
    "a camera that is mirrored": ("Polycam camera", changed(lambda c: c.update(t_00=-1.0))),
    "points somewhere else": ("nerfstudio transforms.json", changed(lambda c: c.update(ply_file_path="/etc/passwd"))),
    "what is not undone": ("nerfstudio transforms.json", changed(lambda c: c.update(applied_transform=[[0] * 4] * 3))),
    "three coefficients": ("nerfstudio transforms.json", changed(lambda c: c.update(distortion_params=[1, 2, 3]))),
    "a list of nobody": ("nerfstudio transforms.json", changed(lambda c: c.update(train_filenames=["x.png"]))),
    "a scale of 0": ("instant-ngp transforms.json", changed(lambda c: c.update(scale=0))),
    "an offset of two": ("instant-ngp transforms.json", changed(lambda c: c.update(offset=[1, 2]))),
    "a rolling shutter": ("instant-ngp transforms.json", changed(lambda c: c.update(rolling_shutter=[1, 0, 0, 0]))),
    "two lenses": ("instant-ngp transforms.json", changed(lambda c: c.update(equirectangular=True))),
    "a space of the system": ("config.json of a capture", changed(_space)),
    "a crop": ("camera path", changed(lambda c: c.update(crop={"crop_scale": [1, 1, 1]}))),
    "a million frames": ("camera path", changed(lambda c: c.update(camera_path=[], fps=1e6, seconds=1e6))),
    "a camera from behind": ("camera path", changed(lambda c: c["camera_path"][0].update(fov=200.0))),
    "a scene of no run": ("composition", changed(lambda c: c["scenes"][0].update(run="nowhere"))),
    "a rotation that mirrors": ("composition", changed(lambda c: c["scenes"][1].update(rotation=MIRROR))),
    "a scale of 1e400": ("composition", changed(lambda c: c["scenes"][0].update(scale=10**400))),
    "settings of nobody": ("settings of poses", changed(lambda c: c["settings"].update(lens="MY_LENS"))),
}  # fmt: skip
