"""Folders of meshes: reading, normalising, sampling, caching."""

from __future__ import annotations

import builtins
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyperfields.scenes
from hyperfields.data import Mesh, Sampling, SceneDataset, fingerprint
from hyperfields.data.shapes import sample_pool
from hyperfields.errors import InputError
from hyperfields.scenes import meshes, open_family
from hyperfields.scenes.meshes import open_meshes, read_mesh

pytest.importorskip("open3d", reason="meshes need open3d and its system libraries (extra shapes)", exc_type=ImportError)

SAMPLES = Path(hyperfields.scenes.__file__).parent / "samples"
FEW = Sampling(points=4000)
CORNERS = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
QUADS = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]  # outward
TRIANGLES = [t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))]
HEADER = (
    "ply\nformat ascii 1.0\nelement vertex {v}\nproperty float x\nproperty float y\nproperty float z\n"
    "element face {f}\nproperty list uchar int vertex_indices\nend_header\n"
)


def ply(points: list[Any], faces: list[Any]) -> str:
    lines = [" ".join(map(str, p)) for p in points] + [" ".join(map(str, (len(f), *f))) for f in faces]
    return HEADER.format(v=len(points), f=len(faces)) + "\n".join(lines) + "\n"


def obj(points: list[Any], faces: list[Any]) -> str:
    lines = [f"v {x} {y} {z}" for x, y, z in points]
    return "\n".join(lines + ["f " + " ".join(str(i + 1) for i in f) for f in faces]) + "\n"


def off(points: list[Any], faces: list[Any]) -> str:
    lines = [" ".join(map(str, p)) for p in points] + [" ".join(map(str, (len(f), *f))) for f in faces]
    return f"OFF\n{len(points)} {len(faces)} 0\n" + "\n".join(lines) + "\n"


def stl(points: list[Any], faces: list[Any]) -> bytes:
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *(x for i in f for x in points[i]), 0) for f in faces)
    return b"binary".ljust(80) + struct.pack("<I", len(faces)) + body


def glb(points: list[Any], faces: list[Any]) -> bytes:
    """With a node that doubles x, which a reader has to apply."""
    halved = np.array(points, dtype=np.float32) * np.array([0.5, 1.0, 1.0], dtype=np.float32)
    data = halved.tobytes() + np.array(faces, dtype=np.uint16).tobytes()
    start, count = halved.nbytes, 3 * len(faces)
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [2, 1, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteLength": start},
            {"buffer": 0, "byteOffset": start, "byteLength": 2 * count},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"}
            | {"min": halved.min(0).tolist(), "max": halved.max(0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": count, "type": "SCALAR"},
        ],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def binary_ply(points: list[Any], faces: list[Any], order: str = "little") -> bytes:
    sign = "<" if order == "little" else ">"
    rows = b"".join(struct.pack(f"{sign}B{len(f)}i", len(f), *f) for f in faces)
    header = HEADER.format(v=len(points), f=len(faces)).replace("ascii", f"binary_{order}_endian")
    return header.encode() + np.array(points, dtype=f"{sign}f4").tobytes() + rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def box(a: float = 1.0, b: float = 1.0, c: float = 1.0, at: float = 0.0) -> list[Any]:
    return [(at + a * x, at + b * y, at + c * z) for x, y, z in CORNERS]


def box_distance(points: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Signed distance to the box |x| <= half (negative inside)."""
    q = points.abs() - half
    return q.clamp(min=0.0).norm(dim=-1, keepdim=True) + q.amax(-1, keepdim=True).clamp(max=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    monkeypatch.setenv("HYPERFIELDS_CACHE", str(folder))
    return folder


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("ply", ply(box(4, 2, 2, at=10), TRIANGLES)),
        ("obj", obj(box(4, 2, 2, at=10), QUADS)),  # polygons are split
        ("off", off(box(4, 2, 2, at=10), QUADS)),
        ("stl", stl(box(4, 2, 2, at=10), TRIANGLES)),  # a corner per triangle: to be joined
        ("glb", glb(box(4, 2, 2, at=10), TRIANGLES)),
    ],
)
def test_every_format_gives_the_box_in_the_scene_frame(tmp_path: Path, suffix: str, content: str | bytes) -> None:
    mesh = read_mesh(write(tmp_path / f"box.{suffix}", content))  # a warning would be an error: it is closed
    assert len(mesh.vertices) == 8
    assert len(mesh.faces) == 12
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([0.9, 0.45, 0.45]))
    torch.testing.assert_close(mesh.vertices.amin(0), -torch.tensor([0.9, 0.45, 0.45]))
    back = mesh.vertices * mesh.scale + torch.tensor(mesh.center)
    torch.testing.assert_close(back.amin(0), torch.tensor([10.0, 10.0, 10.0]))
    torch.testing.assert_close(back.amax(0), torch.tensor([14.0, 12.0, 12.0]))
    corners = mesh.vertices[mesh.faces]
    volume = torch.linalg.det(corners).sum() / 6.0
    torch.testing.assert_close(volume, torch.tensor(1.8 * 0.9 * 0.9))  # every face, and still outward


MIXED = [*QUADS[:2], *TRIANGLES[4:]]
PYRAMID = [(0, 0, 0), (2, 0, 0), (3, 1, 0), (1.5, 2, 0), (0, 1, 0), (1, 0.8, 2)]
SIDES = [(4, 3, 2, 1, 0), *((i, (i + 1) % 5, 5) for i in range(5))]
NOTCHED = [(x, y, z) for z in (0, 1) for x, y in ((0, 0), (2, 0), (2, 2), (1, 0.2), (0, 2))]
WALLS = [(4, 3, 2, 1, 0), (5, 6, 7, 8, 9), *((i, (i + 1) % 5, (i + 1) % 5 + 5, i + 5) for i in range(5))]
ODDITIES: dict[str, tuple[str | bytes, float]] = {  # file -> content, volume
    "mixed.ply": (ply(box(), MIXED), 1.0),
    "mixed_little.ply": (binary_ply(box(), MIXED), 1.0),
    "mixed_big.ply": (binary_ply(box(), MIXED, "big"), 1.0),
    "quads.ply": (binary_ply(box(), QUADS), 1.0),
    "five.obj": (obj(PYRAMID, SIDES), 8 / 3),
    "five.off": (off(PYRAMID, SIDES), 8 / 3),
    "five.ply": (binary_ply(PYRAMID, SIDES), 8 / 3),
    "glued.off": (off(box(), QUADS).replace("OFF\n", "OFF"), 1.0),  # as in ModelNet40
    "commented.off": (off(box(), QUADS).replace("OFF\n", "OFF # by hand\n\n").replace("\n", "\r\n"), 1.0),
    "colored.off": (off(box(), QUADS).replace("3 1\n", "3 1 0.5 0.5 0.5\n").replace("OFF", "COFF"), 1.0),
    "notched.obj": (obj(NOTCHED, WALLS), 2.2),
    "notched.off": (off(NOTCHED, WALLS), 2.2),
    "notched.ply": (ply(NOTCHED, WALLS), 2.2),
    "notched_binary.ply": (binary_ply(NOTCHED, WALLS), 2.2),
    "between.obj": ("\n".join(obj([box()[i] for i in q], []) + "f -4 -3 -2 -1  # back" for q in QUADS), 1.0),
    "tabs.obj": (obj(box(), QUADS).replace("v ", "v\t").replace("\n", " \r\n"), 1.0),
    "backwards.obj": (obj(box(), []) + "\n".join("f " + " ".join(str(i - 8) for i in f) for f in QUADS), 1.0),
    "material.obj": ("mtllib nowhere.mtl\nusemtl red\n" + obj(box(), QUADS), 1.0),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_polygons_and_what_programs_make_of_the_formats(tmp_path: Path, name: str) -> None:
    content, volume = ODDITIES[name]
    mesh = read_mesh(write(tmp_path / name, content))  # closed, and without a warning
    corners = mesh.vertices[mesh.faces].double()
    assert float(torch.linalg.det(corners).sum() / 6.0) * mesh.scale**3 == pytest.approx(volume, rel=1e-5)
    if name.startswith("notched"):  # nothing lies over the notch
        sides = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert float(sides.norm(dim=-1).sum() / 2.0) * mesh.scale**2 == pytest.approx(10.4 + 2 * 4.24**0.5, rel=1e-5)


def test_polygons_that_would_take_minutes_are_refused(tmp_path: Path) -> None:
    angles = np.linspace(0.0, 2.0 * np.pi, 3000, endpoint=False)
    star = [(r * np.cos(a), r * np.sin(a), 0.0) for a, r in zip(angles, np.tile((1.0, 0.5), 1500), strict=True)]
    path = write(tmp_path / "star.obj", obj(star, [tuple(range(3000))]))
    with pytest.raises(InputError, match=r"star\.obj: .*a face with notches has 3,000 corners, wanted at most 1,000"):
        read_mesh(path)


def test_distances_of_a_box_are_exact_and_negative_inside(tmp_path: Path) -> None:
    write(tmp_path / "box.ply", ply(box(4, 2, 2, at=10), TRIANGLES))
    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    family = open_meshes(tmp_path, sampling=FEW)
    assert isinstance(family, SceneDataset)
    assert family.kind == "shapes"
    x, target = family.batch(torch.tensor([1, 0]), 3000, torch.Generator().manual_seed(0))
    assert x.shape == (2, 3000, 3)
    for points, distance, half in zip(x, target, ((0.9, 0.9, 0.9), (0.9, 0.45, 0.45)), strict=True):
        wanted = box_distance(points, torch.tensor(half))
        torch.testing.assert_close(distance, wanted, atol=2e-6, rtol=0.0)
        assert 0.2 < float((distance < 0).float().mean()) < 0.8
    assert float(x.abs().max()) <= 1.0


def test_distances_of_a_sphere(tmp_path: Path) -> None:
    steps = 60
    points: list[Any] = [(0.0, 0.0, 5.0)]
    for i in range(1, steps):
        for j in range(steps):
            t, p = np.pi * i / steps, 2 * np.pi * j / steps
            points.append((5 * np.sin(t) * np.cos(p), 5 * np.sin(t) * np.sin(p), 5 * np.cos(t)))
    points.append((0.0, 0.0, -5.0))
    ring = [(1 + i * steps + j, 1 + i * steps + (j + 1) % steps) for i in range(steps - 1) for j in range(steps)]
    faces: list[Any] = [(0, a, b) for a, b in ring[:steps]]
    faces += [(len(points) - 1, b, a) for a, b in ring[-steps:]]
    for a, b in ring[:-steps]:
        faces += [(a, a + steps, b + steps), (a, b + steps, b)]
    write(tmp_path / "ball.ply", ply(points, faces))
    x, target = open_meshes(tmp_path, sampling=FEW).batch(torch.tensor([0]), 4000, torch.Generator())
    # A polyhedron of 60 steps lies at most 0.9 (1 - cos(3 degrees)) inside its sphere, along both angles.
    torch.testing.assert_close(target, x.norm(dim=-1, keepdim=True) - 0.9, atol=0.0026, rtol=0.0)


def test_the_pool_is_spread_as_said(tmp_path: Path) -> None:
    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    mesh = read_mesh(tmp_path / "cube.ply")
    distance = np.abs(sample_pool(mesh, Sampling(points=2000, near=1.0, wide=0.0), seed=1)[:, 3])
    assert distance.mean() == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.1)
    uniform = sample_pool(mesh, Sampling(points=4000, near=0.0, wide=0.0), seed=1)
    assert (uniform[:, 3] < 0).mean() == pytest.approx(0.9**3, abs=0.03)
    assert np.abs(uniform[:, :3].mean(0)).max() < 0.05
    surface = sample_pool(mesh, Sampling(points=6000, near=1.0, near_sigma=0.0, wide=0.0), seed=1)
    sides = [(np.abs(surface[:, a] - s) < 1e-6).mean() for a in range(3) for s in (-0.9, 0.9)]
    np.testing.assert_allclose(sides, 1 / 6, atol=0.03)  # by area
    wide = Sampling(points=2000, near=0.0, wide=1.0, wide_sigma=5.0)
    assert np.abs(sample_pool(mesh, wide, seed=1)[:, :3]).max() <= 1.0  # noise stays in the box


def test_a_pool_is_cached_by_content(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    said: list[tuple[int, int, str]] = []
    first = open_meshes(tmp_path, sampling=FEW, progress=lambda *args: said.append(args))
    assert said == [(1, 1, "cube")]
    (pool,) = cache.iterdir()
    (tmp_path / "cube.ply").rename(tmp_path / "renamed.ply")
    with monkeypatch.context() as patch:
        patch.setattr(meshes, "sample_pool", lambda *_, **__: pytest.fail("sampled again"))
        again = open_meshes(tmp_path, sampling=FEW)
    probe = torch.tensor([0]), 64
    for a, b in zip(first.batch(*probe, torch.Generator()), again.batch(*probe, torch.Generator()), strict=True):
        assert torch.equal(a, b)

    whole = pool.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damage in (bytes(flipped), whole[:1000], b""):
        pool.write_bytes(damage)
        mended = open_meshes(tmp_path, sampling=FEW)
        assert fingerprint(mended) == fingerprint(again)
        assert np.load(pool)["pool"].shape == (4000, 4)

    open_meshes(tmp_path, sampling=Sampling(points=5000))  # other settings, other pool
    write(tmp_path / "renamed.ply", ply(box(2), TRIANGLES))
    open_meshes(tmp_path, sampling=FEW)  # other content, other pool
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    cached = fingerprint(open_meshes(tmp_path, sampling=FEW))
    monkeypatch.setenv("HYPERFIELDS_CACHE", str(write(tmp_path / "file", "") / "below"))
    with pytest.warns(UserWarning, match="HYPERFIELDS_CACHE: cannot be written"):
        family = open_meshes(tmp_path, sampling=FEW)
    assert fingerprint(family) == cached  # the points depend on the mesh alone

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("HYPERFIELDS_CACHE", str(cache / "new"))
    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        open_meshes(tmp_path, sampling=FEW)
    assert list((cache / "new").iterdir()) == []  # nothing half written is left


def test_an_open_surface_is_sampled_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "lid.ply", ply(box(), TRIANGLES[2:]))
    with pytest.warns(UserWarning, match=r"lid\.ply: an open surface.*guess"):
        family = open_meshes(tmp_path, sampling=FEW)
    _, target = family.batch(torch.tensor([0]), 100, torch.Generator())
    assert bool(target.isfinite().all())


def test_two_boxes_that_share_an_edge_are_closed(tmp_path: Path) -> None:
    upper = [(x + 1, y + 1, z) for x, y, z in box()]
    both = TRIANGLES + [tuple(i + 8 for i in t) for t in TRIANGLES]
    mesh = read_mesh(write(tmp_path / "two.ply", ply(box() + upper, both)))
    assert len(mesh.vertices) == 14


def glb_of(tree: dict[str, Any]) -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<II", len(text), 0x4E4F534A) + text
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunk)) + chunk


# A file whose data are elsewhere: neither an address nor another file is looked for.
ADDRESS = glb_of({"asset": {"version": "2.0"}, "buffers": [{"byteLength": 4, "uri": "http://localhost:1/mesh.bin"}]})

BROKEN: dict[str, tuple[str | bytes, str]] = {
    "zero.ply": (b"", "not a readable mesh"),
    "zero.obj": (b"", "not a readable mesh"),
    "zero.glb": (b"", "not a readable mesh"),
    "cut.ply": (ply(box(), TRIANGLES)[:-9], "not a readable mesh"),
    "cut.off": (off(box(), TRIANGLES)[:-9], "not a readable mesh"),
    "cut.stl": (stl(box(), TRIANGLES)[:-9], "not a readable mesh"),
    "cut.glb": (glb(box(), TRIANGLES)[:-9], "not a readable mesh"),
    "points.ply": (ply(box(), []), "has no faces, only 8 points.*make a surface"),
    "nan.ply": (ply([(0, 0, 0), (1, "nan", 0), (0, 1, 0)], [(0, 1, 2)]), "NaN or infinite"),
    "inf.obj": (obj([(0, 0, 0), (1, "inf", 0), (0, 1, 0)], [(0, 1, 2)]), "NaN or infinite"),
    "far.ply": (ply(box(), [(0, 1, 99)]), "vertex 99 of 8"),
    "far.off": (off(box(), [(0, 1, 99)]), "vertex 99 of 8"),
    "far.obj": (obj(box(), [(0, 1, 99)]), "not a readable mesh|vertex 99 of 8"),
    "cut_mixed.ply": (binary_ply(box(), MIXED)[:-5], "not a readable mesh"),
    "cut_row.off": (off(box(), QUADS)[:-3], "not a readable mesh"),
    "cut_row.ply": (ply(box(), TRIANGLES)[:-3], "not a readable mesh"),
    "cut_quads.ply": (ply(box(), QUADS)[:-12], "not a readable mesh"),
    "comma.stl": (b"solid a\nfacet normal 0 0 0\nouter loop\nvertex 0 0,5 0\n", "vertex 0 0,5 0.*with a point"),
    "comma.obj": ("v 0,5 0 0\n", "v 0,5 0 0.*with a point"),
    "cut_text.stl": (b"solid a\nfacet normal 0 0 0\nouter loop\nvertex 0 0 0\n", "not a readable mesh"),
    "text.stl": (b"hello", "not a readable mesh"),
    "noise.glb": (b"glTF" + bytes(range(60)), "not a readable mesh"),
    "points.obj": (obj(box(), []), "has no faces"),
    "address.glb": (ADDRESS, "not a readable mesh"),
    "dot.ply": (ply([(1, 1, 1)] * 3, [(0, 1, 2)]), "all vertices are at one place"),
    "line.ply": (ply([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [(0, 1, 2)]), "without area"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mesh_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    content, complaint = BROKEN[name]
    write(tmp_path / name, content)
    with pytest.raises(InputError, match=complaint) as caught:
        open_family(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # the readers' own messages are kept off the console


def test_size_is_not_for_shapes(tmp_path: Path) -> None:
    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    with pytest.raises(InputError, match="size: is for images and views"):
        open_family(tmp_path, size=(8, 8))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ModuleNotFoundError("No module named 'open3d'"), r"hyperfields\[shapes\]"),
        (ImportError("libX11.so.6: cannot open shared object file"), "apt-get install .*libx11-6"),
    ],
)
def test_without_open3d_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ImportError, advice: str
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open3d":
            raise error
        return real(name, *args, **kwargs)

    write(tmp_path / "cube.ply", ply(box(), TRIANGLES))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf"cube\.ply.*{advice}"):
        open_family(tmp_path)


def test_the_car_samples() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all are closed
        family = open_meshes(SAMPLES / "shapes_cars", sampling=FEW)
    assert len(family.names) == 16
    for scene in range(16):
        mesh = family.reference(scene)
        assert isinstance(mesh, Mesh)
        assert float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) == pytest.approx(1.8, abs=1e-5)
    _, target = family.batch(torch.arange(16), 4000, torch.Generator())
    inside = (target < 0).float().mean(dim=(1, 2))
    assert float(inside.min()) > 0.2
    assert float(inside.max()) < 0.6
