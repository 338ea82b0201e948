"""What is written for a run: pictures, animations, walks, single scenes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hyperfields.cameras import CameraPath, write_camera_path
from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.compose import compose
from hyperfields.runs.export import export_scene
from hyperfields.runs.field_file import load_field
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.render import interpolate_run, render_scene
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene
from hyperfields.tasks import render_picture

from ._octahedra import run_of

SIZE = (16, 20)
pytestmark = pytest.mark.usefixtures("quick_morphs")


def pixels(path: Path) -> Tensor:
    """A picture file as `[h w 3]` in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255.0


def frames(path: Path) -> list[Tensor]:
    """The frames of a .gif; equal neighbours are stored once."""
    found = []
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255.0)
    return found


def codes(kind: Kind, *names: str) -> Tensor:
    return run_of(kind).codes(*names)


def ends(kind: Kind) -> list[Scene]:
    run = run_of(kind)
    return [run["small"], run["big"]]


def vertices(path: Path) -> np.ndarray:
    data = path.read_bytes()
    head, body = data.split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    color = [("color", "u1", 3)] if b"uchar red" in head else []
    return np.frombuffer(body, np.dtype([("place", "<f4", 3), *color]), count)["place"]


# --------------------------------------------------------------------------------------------------- render


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_picture_file_holds_the_picture(tmp_path: Path, kind: Kind) -> None:
    run = run_of(kind)
    out = tmp_path / "x.png"
    render_scene(run["big"], out, size=SIZE)
    camera = orbit_cameras(run, 1, SIZE)[0]
    wanted = render_picture(run.bind("big"), camera, SIZE)
    torch.testing.assert_close(pixels(out), wanted, rtol=0, atol=1.0 / 255.0)
    first = out.read_bytes()
    render_scene(run["big"], out, size=SIZE)
    assert out.read_bytes() == first  # no randomness


def test_pictures_have_the_size_that_was_fitted_unless_asked(tmp_path: Path) -> None:
    render_scene(run_of("images")["big"], tmp_path / "x.png")
    assert pixels(tmp_path / "x.png").shape == (6, 8, 3)
    render_scene(run_of("views")["big"], tmp_path / "x.png", channel="depth")
    assert pixels(tmp_path / "x.png").shape == (20, 20, 3)


def test_an_animation_circles_the_scene(tmp_path: Path) -> None:
    run, out = run_of("views"), tmp_path / "x.gif"
    done: list[tuple[int, int]] = []
    render_scene(run["big"], out, orbit=3, size=SIZE, progress=lambda *count: done.append(count))
    assert done == [(1, 3), (2, 3), (3, 3)]
    seen = frames(out)
    assert len(seen) == 3
    for frame, camera in zip(seen, orbit_cameras(run, 3, SIZE), strict=True):
        wanted = render_picture(run.bind("big"), camera, SIZE)
        assert float((frame - wanted).abs().mean()) < 0.01


def framed_run(run: Run, **frames: tuple[float, ...]) -> Run:
    picture = {**run.config.picture, "frames": {name: list(frame) for name, frame in frames.items()}}
    return dataclasses.replace(run, config=dataclasses.replace(run.config, picture=picture))


def test_a_film_along_a_camera_path(tmp_path: Path) -> None:
    """Poses of a file are in the frame of the capture; a folder gets a picture a frame, as `render_picture` has it."""
    run = run_of("views")
    around = orbit_cameras(run, 3, SIZE)
    frame = (2.0, 5.0, -1.0, 0.5)
    outside = torch.stack([camera.T_world_camera.clone() for camera in around])
    outside[:, :3, 3] = outside[:, :3, 3] * frame[0] + torch.tensor(frame[1:])
    fov = 2.0 * math.atan(0.5 * SIZE[0] / around[0].fy)
    keys = CameraPath(outside, torch.full((3,), fov), 1.5, 2.0, SIZE, in_box=False)
    write_camera_path(tmp_path / "path.json", keys)
    scene = Scene(run, "big", run.codes("big"), fitted=False, frame=frame)
    render_scene(scene, tmp_path / "frames", path=tmp_path / "path.json")
    names = sorted(file.name for file in (tmp_path / "frames").iterdir())
    assert names == [f"frame_{i:04d}.png" for i in range(3)]
    for name, camera in zip(names, around, strict=True):
        wanted = render_picture(run.bind("big"), camera, SIZE)
        assert float((pixels(tmp_path / "frames" / name) - wanted).abs().mean()) < 2e-3
    fitted = framed_run(run, big=frame, small=frame)
    for made in (fitted["big + big - big"], fitted.between("big", "small", 0.0)):  # of a scene that was made, too
        out = tmp_path / made.name
        render_scene(made, out, path=tmp_path / "path.json")
        assert [file.read_bytes() for file in sorted(out.iterdir())] == [
            file.read_bytes() for file in sorted((tmp_path / "frames").iterdir())
        ]
    told: list[str] = []
    render_scene(compose([fitted["big"]]), tmp_path / "composed", path=tmp_path / "path.json", note=told.append)
    assert told == [
        f"{tmp_path / 'path.json'}: its poses are taken in the frame of the scene box, since 'big' is of no capture"
    ]
    shifted = framed_run(run, big=frame, small=(4.0, 1.0, 1.0, 1.0))
    assert shifted["big - small"].frame == (3.0, 3.0, 0.0, 0.75)
    assert shifted["big - small + small"].frame == pytest.approx((10 / 3, 7 / 3, 1 / 3, 2.5 / 3))
    assert InferredCodes(run, ("x", "y"), run.codes("big", "small"))["x - y"].frame is None
    render_scene(scene, tmp_path / "x.gif", path="spiral", frames=5, size=SIZE)
    assert len(frames(tmp_path / "x.gif")) == 5
    with pytest.raises(InputError, match=r"--frames 2: is of an orbit or a spiral"):
        render_scene(scene, tmp_path / "y.gif", path=tmp_path / "path.json", frames=2)


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("images", "x.gif", {}, r"x\.gif: suffix \.gif cannot hold a rendering of images; use one of \.png"),
        ("images", "x.png", {"orbit": 8}, "no camera circles images"),
        ("views", "x.png", {"orbit": 8}, r"--orbit 8: .*x\.png; use a \.gif or \.mp4"),
        ("shapes", "x.gif", {"orbit": 0}, "--orbit 0: .*at least 1 frame"),
        ("shapes", "x.gif", {"frames": -1}, "--frames -1: .*at least 1 frame"),
        ("shapes", "x.gif", {"orbit": 2, "path": "spiral"}, "--orbit 2: is --path orbit --frames 2 in one"),
        ("images", "x.png", {"path": "spiral"}, "--path spiral: no camera circles images .*leave it out"),
        ("views", "x.png", {"path": "spiral"}, "--path spiral: .*a folder without suffix"),
        ("views", "x", {}, r"x: suffix \(none\) cannot hold a rendering"),
        ("views", "x.gif", {"path": "no.json"}, r"no\.json: not readable as a camera path"),
        ("shapes", "x.ply", {}, r"suffix \.ply cannot hold a rendering"),
        ("images", "x.png", {"channel": "depth"}, "these scenes give rgb"),
        ("views", "no/x.png", {}, "folder .*no does not exist"),
    ],
)
def test_what_a_kind_cannot_give_is_refused(
    tmp_path: Path, kind: Kind, name: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        render_scene(run_of(kind)["big"], tmp_path / name, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_one_scene_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 2 scenes, wanted one"):
        render_scene(Scene(run_of("views"), "both", codes("views", "big", "small")), tmp_path / "x.png")


# ---------------------------------------------------------------------------------------------- interpolate


def test_a_walk_over_images_goes_evenly_from_end_to_end(tmp_path: Path) -> None:
    run, out = run_of("images", dark=0.2, light=0.8), tmp_path / "walk"
    done: list[tuple[int, int]] = []
    interpolate_run([run["dark"], run["light"]], out, frames=4, progress=lambda *count: done.append(count))
    assert sorted(p.name for p in out.iterdir()) == [f"frame_00{i}.png" for i in range(4)]
    greys = [float(pixels(p).mean()) for p in sorted(out.iterdir())]
    assert greys == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.003)
    assert done[-1] == (4, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["walk"]  # nothing temporary is left


def test_a_walk_over_shapes_writes_meshes(tmp_path: Path) -> None:
    out = tmp_path / "walk"
    out.mkdir()  # an empty folder is taken
    scenes = ends("shapes")
    interpolate_run(scenes, out, frames=3, resolution=32, timing="linear")
    assert sorted(p.name for p in out.iterdir()) == [f"frame_00{i}.ply" for i in range(3)]
    first, last = (np.array(scene.frame) for scene in scenes)  # of files: (scale, centre)
    frames = [first, 0.5 * (first + last), last]
    boxed = [(vertices(p) - frame[1:]) / frame[0] for p, frame in zip(sorted(out.iterdir()), frames, strict=True)]
    assert [np.abs(corners).sum(1).max() for corners in boxed] == pytest.approx([0.5, 0.65, 0.8], abs=0.03)


def test_a_walk_as_an_animation_grows_and_may_circle(tmp_path: Path) -> None:
    still, turning = tmp_path / "still.gif", tmp_path / "turning.gif"
    interpolate_run(ends("views"), still, frames=3, size=SIZE, timing="linear")
    interpolate_run(ends("views"), turning, frames=3, size=SIZE, orbit=True, timing="linear")
    seen, turned = frames(still), frames(turning)
    covered = [float((frame.mean(-1) < 0.9).sum()) for frame in seen]
    assert covered[0] < covered[1] < covered[2]
    torch.testing.assert_close(seen[0], turned[0])  # the circle begins where the still camera is
    assert float((seen[1] - turned[1]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("images", "x.png", {}, r"suffix \.png cannot hold a walk; use \.gif, \.mp4 or a folder"),
        ("images", "x.gif", {"orbit": True}, "no camera circles images"),
        ("shapes", "x", {"orbit": True}, "no camera circles meshes"),
        ("views", "x.gif", {"frames": 1}, "--frames 1: wanted at least 2"),
        ("views", "no/x", {"frames": 2}, "no/x: cannot be written"),
    ],
)
def test_walks_that_cannot_be_are_refused(
    tmp_path: Path, kind: Kind, name: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        interpolate_run(ends(kind), tmp_path / name, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_full_folder_stays_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "walk"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(InputError, match="walk: exists already and is not an empty folder"):
        interpolate_run(ends("images"), out, frames=2)
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_a_walk_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interpolate_run(ends("images"), tmp_path / "walk", progress=stop)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_field_alone_answers_as_the_bound_scene(tmp_path: Path, kind: Kind) -> None:
    run, out = run_of(kind), tmp_path / "x.safetensors"
    export_scene(run["big"], out)
    bound, alone = run.bind("big"), load_field(out)
    x = torch.rand(1, 50, 2 if kind == "images" else 3)
    points = (x, torch.nn.functional.normalize(x, dim=-1)) if kind == "views" else (x,)
    torch.testing.assert_close(alone(*points), bound(*points))


def test_a_shape_goes_back_into_the_frame_of_its_file(tmp_path: Path) -> None:
    out = tmp_path / "x.ply"
    export_scene(run_of("shapes")["small"], out, resolution=32)  # p_file = 2 p + (1, 0, 0)
    v = vertices(out) - np.array([1.0, 0.0, 0.0])
    assert np.abs(v).sum(1).max() == pytest.approx(1.0, abs=0.01)
    # A scene that the run was not fitted to came from no file that the run knows.
    export_scene(Scene(run_of("shapes"), "small", codes("shapes", "big"), fitted=False), out, resolution=32)
    assert np.abs(vertices(out)).sum(1).max() == pytest.approx(0.8, abs=0.01)


def test_views_become_the_mesh_of_what_is_opaque(tmp_path: Path) -> None:
    export_scene(run_of("views")["small"], tmp_path / "x.ply", resolution=32)
    assert b"property uchar red" in (tmp_path / "x.ply").read_bytes()[:300]
    reach = np.abs(vertices(tmp_path / "x.ply")).sum(1)
    assert reach.max() == pytest.approx(0.5, abs=0.04)
    assert reach.min() > 0.4


def test_pictures_are_exported_as_they_were_fitted(tmp_path: Path) -> None:
    export_scene(run_of("images", grey=0.3)["grey"], tmp_path / "x.png")
    torch.testing.assert_close(pixels(tmp_path / "x.png"), torch.full((6, 8, 3), 0.3), rtol=0, atol=0.003)


@pytest.mark.parametrize(
    ("kind", "name", "out", "message"),
    [
        ("images", "big", "x.ply", r"suffix \.ply cannot hold a scene of images; use one of \.png"),
        ("views", "big", "x.gif", r"suffix \.gif cannot hold a scene of views"),
        ("shapes", "bog", "x.ply", "scene 'bog': not in this run; the nearest names are big"),
    ],
)
def test_exports_that_cannot_be_are_refused(tmp_path: Path, kind: Kind, name: str, out: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_scene(run_of(kind)[name], tmp_path / out)
    assert not list(tmp_path.iterdir())
