"""Files are what was asked for, whole or absent; meshes of known fields have known volumes."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.rendering.meshing import mesh_from_field
from hyperfields.runs.atomic import new_folder, require_suffix, write_atomically
from hyperfields.runs.images import write_image
from hyperfields.runs.meshes import MESH_SUFFIXES, write_mesh
from hyperfields.runs.video import write_animation

from ._octahedra import RED, run_of

Field = Callable[[Tensor], Tensor]
TETRAHEDRON = Mesh(
    torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0.25, 0], [0, 0, 1]]),
    torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    scale=3.0,
    center=(10.0, -2.0, 0.1),
)


def ball(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def distance(p: Tensor) -> Tensor:
        value: Tensor = (p - torch.tensor(center)).norm(dim=-1, keepdim=True) - radius
        return value

    return distance


def brick(half: tuple[float, float, float], center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def distance(p: Tensor) -> Tensor:
        q = (p - torch.tensor(center)).abs() - torch.tensor(half)
        value: Tensor = q.clamp_min(0).norm(dim=-1, keepdim=True) + q.amax(-1, keepdim=True).clamp_max(0)
        return value

    return distance


def volume(mesh: Mesh) -> float:
    """By the divergence theorem: positive when the triangles are wound outwards."""
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6.0)


def area(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2.0)


def is_closed(mesh: Mesh) -> bool:
    """Each edge is used exactly once in each direction."""
    edges = torch.cat([mesh.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    here = {tuple(e) for e in edges.tolist()}
    return len(here) == len(edges) and all((b, a) in here for a, b in here)


@pytest.fixture
def skimage() -> None:
    pytest.importorskip("skimage", reason="scikit-image (hyperfields[shapes]) is missing")


@pytest.mark.usefixtures("skimage")
def test_a_ball_has_its_volume_area_place_and_outward_normals() -> None:
    mesh = mesh_from_field(ball(0.4, (0.3, -0.2, 0.1)), resolution=64)
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)
    assert area(mesh) == pytest.approx(4 * math.pi * 0.4**2, rel=0.01)
    assert is_closed(mesh)
    torch.testing.assert_close(mesh.vertices.mean(0), torch.tensor([0.3, -0.2, 0.1]), atol=2e-3, rtol=0)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    outwards = (a + b + c) / 3 - torch.tensor([0.3, -0.2, 0.1])
    assert bool(((normals * outwards).sum(-1) >= -1e-9).all())


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("resolution", [31, 32, 50])
def test_axes_units_and_samples_that_lie_on_the_surface(resolution: int) -> None:
    # At resolution 32 and box 2 the faces x = +-1 hold samples.
    half, center = (1.0, 0.5, 0.25), (0.25, -0.5, 1.0)
    mesh = mesh_from_field(brick(half, center), resolution=resolution, box=2.0)
    assert is_closed(mesh)
    for axis in range(3):
        low, high = float(mesh.vertices[:, axis].min()), float(mesh.vertices[:, axis].max())
        assert (low, high) == pytest.approx((center[axis] - half[axis], center[axis] + half[axis]), abs=1e-4)
    assert volume(mesh) == pytest.approx(8 * math.prod(half), rel=0.05)


@pytest.mark.usefixtures("skimage")
def test_another_level_is_another_radius() -> None:
    mesh = mesh_from_field(ball(0.4), resolution=48, level=0.2)
    torch.testing.assert_close(mesh.vertices.norm(dim=-1).mean(), torch.tensor(0.6), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("stretch", [0.3, 1.0, 1.4, 10.0])
def test_skipping_tiles_changes_nothing_but_the_number_of_questions(stretch: float) -> None:
    asked = [0]

    def distance(p: Tensor) -> Tensor:
        asked[0] += p.shape[1]
        assert p.shape[0] == 1
        assert p.shape[1] <= 4096
        return stretch * torch.minimum(ball(0.3, (-0.5, 0.0, 0.0))(p), brick((0.2, 0.4, 0.1), (0.5, 0.1, 0.2))(p))

    every = mesh_from_field(distance, resolution=40, block=4096, safety=math.inf)
    all_asked, asked[0] = asked[0], 0
    mesh = mesh_from_field(distance, resolution=40, block=4096)
    assert torch.equal(mesh.vertices, every.vertices)
    assert torch.equal(mesh.faces, every.faces)
    if stretch >= 1.0:
        assert asked[0] < 0.5 * all_asked


@pytest.mark.usefixtures("skimage")
def test_a_surface_that_leaves_the_box_is_closed_by_the_box() -> None:
    half_space = mesh_from_field(lambda p: p[..., 2:] - 0.3, resolution=32)
    assert is_closed(half_space)
    assert volume(half_space) == pytest.approx(4 * 1.3, rel=0.01)
    assert float(half_space.vertices.abs().max()) == 1.0
    full = mesh_from_field(lambda p: torch.full_like(p[..., :1], -5.0), resolution=16)
    assert is_closed(full)
    assert volume(full) == pytest.approx(8.0, rel=0.01)


@pytest.mark.usefixtures("skimage")
def test_no_surface_gives_no_faces_and_nan_raises() -> None:
    empty = mesh_from_field(lambda p: torch.ones_like(p[..., :1]), resolution=8)
    assert empty.vertices.shape == (0, 3)
    assert empty.faces.shape == (0, 3)
    with pytest.raises(ValueError, match="not finite"):
        mesh_from_field(lambda p: p[..., :1] * math.nan, resolution=8)


def test_without_skimage_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(InputError, match=r"hyperfields\[shapes\]"):
        mesh_from_field(ball(0.5))


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb", ".stl"])
@pytest.mark.parametrize("frame", ["file", "scene"])
def test_meshes_come_back(suffix: str, frame: str, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="trimesh (hyperfields[shapes]) is missing")
    path = tmp_path / f"mesh{suffix}"
    write_mesh(path, TETRAHEDRON, "file" if frame == "file" else "scene")
    read = trimesh.load_mesh(str(path), process=False)
    corners = torch.tensor(np.asarray(read.vertices)[np.asarray(read.faces)])
    wanted = TETRAHEDRON.vertices.double()
    if frame == "file":
        wanted = wanted * 3.0 + torch.tensor([10.0, -2.0, 0.1], dtype=torch.float64)
    exact = 1e-6 if suffix in (".stl", ".ply") else 1e-11
    torch.testing.assert_close(corners, wanted[TETRAHEDRON.faces], atol=exact, rtol=exact)


def test_meshes_of_radiance_have_their_colours(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="trimesh (hyperfields[shapes]) is missing")
    scene = run_of("views")["big"]
    mesh = scene.mesh(24)
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors, torch.tensor(RED).expand(len(mesh.vertices), 3), atol=2e-3, rtol=0)
    mixed = mesh._replace(colors=torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0)))
    linear = torch.where(mixed.colors <= 0.04045, mixed.colors / 12.92, ((mixed.colors + 0.055) / 1.055) ** 2.4)
    for suffix, wanted in ((".ply", mixed.colors), (".obj", mixed.colors), (".glb", linear), (".stl", None)):
        write_mesh(tmp_path / f"mesh{suffix}", mixed)
        read = trimesh.load(str(tmp_path / f"mesh{suffix}"), force="mesh", process=False)
        assert len(read.faces) == len(mesh.faces)
        if wanted is not None:
            assert np.abs(read.visual.vertex_colors[:, :3] / 255.0 - wanted.numpy()).max() < 0.51 / 255.0
    with open(tmp_path / "mesh.obj") as lines:
        assert {len(line.split()) for line in lines if line.startswith("v ")} == {7}
    assert scene.run.with_codes(["none"], torch.zeros_like(scene.code))["none"].mesh(8).colors is None


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl"])
def test_meshes_come_back_through_open3d(suffix: str, tmp_path: Path) -> None:
    o3d = pytest.importorskip("open3d", reason="open3d (hyperfields[shapes]) is missing", exc_type=ImportError)
    write_mesh(tmp_path / f"mesh{suffix}", TETRAHEDRON)
    read = o3d.io.read_triangle_mesh(str(tmp_path / f"mesh{suffix}"))
    corners = torch.tensor(np.asarray(read.vertices)[np.asarray(read.triangles)])
    wanted = TETRAHEDRON.vertices.double() * 3.0 + torch.tensor([10.0, -2.0, 0.1], dtype=torch.float64)
    torch.testing.assert_close(corners, wanted[TETRAHEDRON.faces], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
@pytest.mark.parametrize(("scale", "center"), [(6.78, (448262.254, 5411932.519, 113.364)), (1e-5, (0.02, 0.01, 0.0))])
def test_a_mesh_far_from_the_origin_comes_back_to_where_it_was(
    suffix: str, scale: float, center: tuple[float, float, float], tmp_path: Path
) -> None:
    """A house at survey coordinates, which float32 would move by half a metre, or a part of a chip."""
    trimesh = pytest.importorskip("trimesh", reason="trimesh (hyperfields[shapes]) is missing")
    path = tmp_path / f"far{suffix}"
    write_mesh(path, TETRAHEDRON._replace(scale=scale, center=center))
    read = trimesh.load_mesh(str(path), process=False)
    local = torch.tensor((np.asarray(read.vertices)[np.asarray(read.faces)] - np.array(center)) / scale)
    torch.testing.assert_close(local.float(), TETRAHEDRON.vertices[TETRAHEDRON.faces], atol=1e-6, rtol=0)


def test_an_stl_far_from_the_origin_says_what_it_loses(tmp_path: Path) -> None:
    pytest.importorskip("trimesh", reason="trimesh (hyperfields[shapes]) is missing")
    with pytest.warns(
        UserWarning, match=r"far\.stl: \.stl has 32 bits .* vertices move by up to 0\.\d+; write a \.ply"
    ):
        write_mesh(tmp_path / "far.stl", TETRAHEDRON._replace(center=(448262.254, 5411932.519, 113.364)))


def test_without_trimesh_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(InputError, match=r"a\.obj: trimesh.*hyperfields\[shapes\]'?, or write a \.ply"):
        write_mesh(tmp_path / "a.obj", TETRAHEDRON)
    write_mesh(tmp_path / "a.ply", TETRAHEDRON)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb", ".stl"])
def test_an_empty_mesh_can_be_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty{suffix}"
    write_mesh(path, Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))
    assert path.stat().st_size > 0


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("channels", [3, 4])
def test_images_come_back(suffix: str, channels: int, tmp_path: Path) -> None:
    ramp = torch.linspace(-0.1, 1.1, 20)
    image = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"), -1)
    image = torch.cat((image, image.flip(0)), -1)[..., :channels]
    path = tmp_path / f"image{suffix}"
    write_image(path, image)
    with Image.open(path) as picture:
        found = torch.from_numpy(np.asarray(picture).copy()).float() / 255
    wanted = image.clamp(0, 1)
    if suffix == ".jpg":
        if channels == 4:
            wanted = wanted[..., :3] * wanted[..., 3:] + 1 - wanted[..., 3:]
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().mean()) < 0.02
        return
    assert found.shape == wanted.shape
    visible = wanted[..., -1] > 0 if channels == 4 else torch.ones(20, 20, dtype=torch.bool)
    torch.testing.assert_close(found[visible], wanted[visible], atol=0.5 / 255 + 1e-6, rtol=0)


def moving(n: int, height: int, width: int) -> list[Tensor]:
    """A disc with a smooth edge that moves over a colour ramp."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    ramp = torch.stack((x, y, 0.5 + 0 * x), -1)
    frames = []
    for i in range(n):
        disc = torch.sigmoid(20 * (0.25 - ((x - i / n) ** 2 + (y - 0.5) ** 2).sqrt()))[..., None]
        frames.append(ramp * (1 - disc) + disc * torch.tensor([0.9, 0.2, 0.1]))
    return frames


def test_gif_has_the_frames_colours_and_speed_and_loops(tmp_path: Path) -> None:
    frames = moving(7, 33, 47)
    write_animation(tmp_path / "a.gif", iter(frames), fps=30.0)
    durations, pictures = [], []
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        for picture in ImageSequence.Iterator(gif):
            durations.append(picture.info["duration"])
            pictures.append(torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float() / 255)
    assert len(pictures) == 7
    assert sum(durations) == 230  # 7 / 30 s in whole 1/100 s
    for found, wanted in zip(pictures, frames, strict=True):
        assert float((found - wanted).abs().mean()) < 0.02


def test_mp4_has_the_frames_and_colours_and_even_sides(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="av (hyperfields[video]) is missing")
    frames = moving(9, 33, 47)
    write_animation(tmp_path / "a.mp4", frames, fps=12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == 12.5
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(pictures) == 9
    for picture, wanted in zip(pictures, frames, strict=True):
        assert picture.shape == (34, 48, 3)
        found = torch.from_numpy(picture.copy()).float() / 255
        assert float((found[:33, :47] - wanted).abs().mean()) < 0.03


def test_mp4_without_av_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"hyperfields\[video\]"):
        write_animation(tmp_path / "a.mp4", moving(2, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_frames_that_cannot_be_an_animation_raise(tmp_path: Path) -> None:
    for frames, text in (([], "no frames"), ([torch.zeros(4, 4, 3), torch.zeros(4, 6, 3)], "frame 1 is")):
        with pytest.raises(ValueError, match=text):
            write_animation(tmp_path / "a.gif", frames)
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_or_folder_that_cannot_be_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.tiff cannot hold an image; use one of \.png, \.jpg"):
        write_image(tmp_path / "a.tiff", torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match=r"use one of \.gif, \.mp4"):
        write_animation(tmp_path / "a.png", [torch.zeros(2, 2, 3)])
    with pytest.raises(InputError, match=r"\(none\) cannot hold a mesh; use one of \.ply, \.obj"):
        write_mesh(tmp_path / "a", TETRAHEDRON)
    with pytest.raises(InputError, match="does not exist; make it first"):
        write_mesh(tmp_path / "no" / "a.ply", TETRAHEDRON)
    assert require_suffix(tmp_path / "A.PLY", MESH_SUFFIXES, "a mesh") == ".ply"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.ply"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write: dict[str, Callable[[], None]] = {
        "a.png": lambda: write_image(path, torch.zeros(4, 4, 3)),
        "a.gif": lambda: write_animation(path, moving(2, 8, 8)),
        "a.ply": lambda: write_mesh(path, TETRAHEDRON),
    }
    with pytest.raises(InputError, match=r"a\.\w+: cannot be written \(No space left on device\)"):
        write[name]()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_image(tmp_path / "a.png", torch.zeros(2, 2, 3))
    finally:
        os.umask(mask)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "walk") as folder:
        write_atomically(folder / "deep" / "a.txt", b"a")
        assert [left.name for left in (tmp_path / "walk").iterdir()] == [".lock"]
    assert (tmp_path / "walk" / "deep" / "a.txt").read_bytes() == b"a"
    with contextlib.suppress(RuntimeError), new_folder(tmp_path / "other") as folder:
        (folder / "a.txt").touch()
        raise RuntimeError("half way")
    with pytest.raises(InputError, match="walk: exists already"), new_folder(tmp_path / "walk"):
        pass
    with pytest.raises(InputError, match="x: cannot be written"), new_folder(tmp_path / "no" / "x"):
        pass
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "b").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "b", "deep", "empty", "walk"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Threads of one process too: each has a temporary name of its own, and one of the whole files stays."""
    contents = [bytes([number]) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "a.bin", content), contents))
    assert (tmp_path / "a.bin").read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
