"""Files that announce gigabytes are refused in one line that names them, before anything of that size is there."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import HashGrid
from hyperfields.hypernets import Hierarchical
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs.cameras import picture_size
from hyperfields.runs.config import FitSettings, RunConfig
from hyperfields.runs.run import Run
from hyperfields.scenes import SAMPLES, open_family
from hyperfields.tasks import TrainConfig

for name in ("trimesh", "open3d", "OpenEXR", "pycolmap"):
    pytest.importorskip(name)
HUGE = 2**40
MOST = 300  # MB that a refusal may take; imports of readers among them
NEST = b"[" * 1_000_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, rows: int | None = None, *more: bytes) -> bytes:
    """A grey PNG that is black; `rows` of it are there."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(height if rows is None else rows))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more)
        + chunk(b"IDAT", body + packer.flush()) + chunk(b"IEND", b"")
    )  # fmt: skip


def exr(height: int, width: int) -> bytes:
    """The header of an uncompressed EXR of one channel, and nothing after it."""

    def attribute(name: bytes, kind: bytes, value: bytes) -> bytes:
        return name + b"\x00" + kind + b"\x00" + struct.pack("<I", len(value)) + value

    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"Y\x00" + struct.pack("<IIII", 2, 0, 1, 1) + b"\x00"
    return (
        struct.pack("<II", 20000630, 2)
        + attribute(b"channels", b"chlist", channels) + attribute(b"compression", b"compression", b"\x00")
        + attribute(b"dataWindow", b"box2i", window) + attribute(b"displayWindow", b"box2i", window)
        + attribute(b"lineOrder", b"lineOrder", b"\x00") + attribute(b"pixelAspectRatio", b"float", b"\x00\x00\x80?")
        + attribute(b"screenWindowCenter", b"v2f", bytes(8))
        + attribute(b"screenWindowWidth", b"float", b"\x00\x00\x80?") + b"\x00" + bytes(64)
    )  # fmt: skip


def tiff(height: int, width: int) -> bytes:
    """An uncompressed grey TIFF whose pixels are missing."""
    tags = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1))
    tags += ((278, 4, height), (279, 4, 64))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(64)


def glb(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def accessors(*counts: int) -> list[dict[str, Any]]:
    """Accessors without data, which are zeros: positions, then indices."""
    kinds = ({"componentType": 5126, "type": "VEC3"}, {"componentType": 5125, "type": "SCALAR"})
    return [{**kind, "count": count} for kind, count in zip(kinds, counts, strict=True)]


def safetensors(header: Any, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def pictures() -> Iterator[tuple[str, bytes]]:
    yield "header.png", png(65_000, 65_000, 1)
    yield "bomb.png", png(12_000, 12_000)
    yield "text.png", png(4, 4, 4, chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(100_000_000), 1)))
    yield "profile.png", png(4, 4, 4, chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(100_000_000), 1)))
    yield (
        "a.jpg",
        b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00?\x00" + bytes(9),
    )
    lossless = b"/" + struct.pack("<I", 16382 | 16382 << 14) + bytes(59)
    yield "a.webp", b"RIFF" + struct.pack("<I", 76) + b"WEBPVP8L" + struct.pack("<I", 64) + lossless
    yield "a.exr", exr(60_000, 60_000)
    yield "wide.exr", exr(1, 2**30)
    yield "a.tif", tiff(100_000, 100_000)
    yield "a.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield (
        "a.gif",
        b"GIF89a"
        + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
        + b",\x00\x00\x00\x00"
        + b"\xff" * 4
        + b"\x00\x02\x01\x00;",
    )
    yield (
        "a.tga",
        bytes(2) + b"\x0a" + bytes(9) + struct.pack("<HHBB", 65_535, 65_535, 32, 8) + b"\xff\x00\x00\x00\x00" * 9,
    )
    yield "a.ppm", b"P6 100000 100000 255\n" + bytes(64)


def meshes() -> Iterator[tuple[str, bytes]]:
    head = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
    faces = "element face {}\nproperty list uint int vertex_indices\nend_header\n"
    for form in ("ascii", "binary_little_endian"):
        yield f"{form}.ply", (head.format(form, HUGE) + faces.format(HUGE)).encode() + bytes(64)
    corners = (head.format("binary_little_endian", 1) + faces.format(1)).encode() + bytes(12)
    yield "corners.ply", corners + struct.pack("<I", 2**32 - 1) + bytes(64)
    yield "a.stl", bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(500)
    corners = "vertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    yield "normal.stl", f"solid a\nfacet normal 0 x 1\nouter loop\n{corners}endloop\nendfacet\nendsolid a\n".encode()
    yield "a.off", f"OFF\n{HUGE} {HUGE} 0\n0 0 0\n".encode()
    yield "corners.off", b"OFF\n1 1 0\n0 0 0\n999999999999 0 0 0\n"
    yield "a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 999999999999\n"
    part = {"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [part],
    }
    yield "count.glb", glb({**scene, "bufferViews": [], "accessors": accessors(10**9, 3)})
    many = [{"mesh": 0} for _ in range(50_000)]
    copies = {"nodes": many, "scenes": [{"nodes": list(range(50_000))}]}
    yield "copies.glb", glb({**scene, **copies, "bufferViews": [], "accessors": accessors(100_000, 300_000)})
    yield "nest.glb", glb(NEST)


def captures() -> Iterator[tuple[str, bytes]]:
    """Files of captures whose headers promise what is not there."""
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**10, 17)}
    np.lib.format.write_array_header_1_0(header, shape)
    yield "llff/poses_bounds.npy", header.getvalue() + bytes(136)
    one = struct.pack("<Q", 1)
    for name in ("cameras", "images", "points3D"):
        for other in ("cameras", "images", "points3D"):
            yield f"{name}/sparse/{other}.bin", struct.pack("<Q", 2**60) + bytes(200) if other == name else bytes(8)
    yield "track/sparse/cameras.bin", bytes(8)
    yield "track/sparse/images.bin", bytes(8)
    yield "track/sparse/points3D.bin", one + bytes(43) + struct.pack("<Q", 2**60) + bytes(64)


def run(**changes: Any) -> Run:
    config = ModelConfig(ImageField(HashGrid(2, 2, 2, 5, 3, 6), hidden=(5,)), Hierarchical(2), 4)
    settings = RunConfig("images", ("a",), config, TrainConfig(1, 16), FitSettings(steps=1), **changes)
    return Run(settings, HyperField(config, 1).eval())


def runs(folder: Path) -> Iterator[str]:
    """Names of runs with a file that is too large each."""
    run().save(folder / "plain")
    config = json.loads((folder / "plain" / "config.json").read_text())
    weights = (folder / "plain" / "model.safetensors").read_bytes()

    def made(name: str, config: Any, weights: bytes = weights) -> str:
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes(
            config if isinstance(config, bytes) else json.dumps(config).encode()
        )
        (folder / name / "model.safetensors").write_bytes(weights)
        return name

    yield made("size", {**config, "picture": {"size": [60_000, 60_000]}})
    source = {"class": "DataSource", "path": "/", "scenes": ["a"], "size": [2**40, 2**40]}
    yield made("source", {**config, "sources": [source]})
    yield made("latents", {**config, "model": {**config["model"], "latent_size": HUGE}})
    grid = {**config["model"]["field"]["encoding"], "log2_table": 24, "levels": 16, "finest": 100_000}
    del grid["grid"]
    yield made(
        "table", {**config, "model": {**config["model"], "field": {**config["model"]["field"], "encoding": grid}}}
    )
    yield made("nest", NEST)
    yield made("nested", json.dumps(config)[:-1].encode() + b', "x": ' + NEST)
    yield made("length", config, safetensors({}, HUGE))
    shape = {"latents.codes": {"dtype": "F16", "shape": [HUGE, 4], "data_offsets": [0, 8 * HUGE]}}
    yield made("shape", config, safetensors(shape))
    small = {"latents.codes": {"dtype": "F16", "shape": [HUGE, 4], "data_offsets": [0, 64]}}
    yield made("lie", config, safetensors(small))


READ = """
import json, re, sys, warnings
from pathlib import Path
import hyperfields.scenes.meshes, hyperfields.runs.field_file, hyperfields.runs.run, trimesh, OpenEXR
from hyperfields.errors import InputError
from hyperfields.runs.field_file import load_field
from hyperfields.runs.run import load_run
from hyperfields.scenes import open_family
from hyperfields.scenes.meshes import MESH_SUFFIXES, read_mesh
warnings.simplefilter("ignore")

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

for path in sorted(Path(sys.argv[1]).iterdir()):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    try:
        if (path / "model.safetensors").is_file():
            load_run(path)
        elif path.is_dir():
            views = (path / "images").is_dir() or (path / "transforms.json").is_file()
            open_family(path, kind="views" if views else None, size=(4, 4))
        elif path.suffix in MESH_SUFFIXES:
            read_mesh(path)
        else:
            load_field(path)
        text = None
    except InputError as error:
        text = str(error)
    except Exception as error:
        text = "CRASH " + repr(error)
    print(json.dumps([path.name, text, peak() - before]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, int]]:
    """Name -> (what was said, MB that it took), all read in one process of their own."""
    folder = tmp_path_factory.mktemp("huge")
    for name, data in pictures():
        (folder / f"{name}.folder").mkdir()
        (folder / f"{name}.folder" / name).write_bytes(data)
    for name, data in meshes():
        (folder / name).write_bytes(data)
    assert list(runs(folder))
    (folder / "header.safetensors").write_bytes(safetensors({}, HUGE))
    (folder / "deep.safetensors").write_bytes(safetensors({"__metadata__": {"field": NEST.decode()}}))
    (folder / "views").mkdir()
    (folder / "views" / "transforms.json").write_bytes(b'{"frames": ' + NEST)
    for name, data in captures():
        path = folder / "capture" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for scene in sorted((folder / "capture").iterdir()):
        (scene / "images").mkdir()
        (scene / "images" / "a.png").write_bytes(png(5, 6))
        scene.rename(folder / f"{scene.name}.folder")
    (folder / "capture").rmdir()
    (folder / "large.png.folder").mkdir()
    (folder / "large.png.folder" / "a.png").write_bytes(png(6000, 6000))
    done = subprocess.run([sys.executable, "-P", "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    assert done.stderr == ""  # not even by libraries
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (text, memory) for name, text, memory in lines}


FINE = {"plain", "normal.stl", "large.png.folder", "text.png.folder", "profile.png.folder"}


def test_they_are_refused_in_one_line(outcomes: dict[str, tuple[str | None, int]]) -> None:
    for name, (text, _) in outcomes.items():
        if name not in FINE:
            assert text, name
            assert name.removesuffix(".folder") in text, text
            assert "CRASH" not in text, text
            assert "\n" not in text
            assert len(text) < 600, text
    assert [name for name in FINE if (outcomes[name][0] or "").startswith("CRASH")] == []
    assert outcomes["plain"][0] is None
    assert outcomes["large.png.folder"][0] is None
    assert len(outcomes) > 30


def test_they_take_little_memory(outcomes: dict[str, tuple[str | None, int]]) -> None:
    for name, (text, memory) in outcomes.items():
        assert memory < (MOST if name != "large.png.folder" else 600), (name, memory, text)


def test_sizes_that_are_asked_for_are_bounded() -> None:
    with pytest.raises(InputError, match="at most 134,217,728 pixels"):
        picture_size((60_000, 60_000))
    with pytest.raises(InputError, match="at most 134,217,728 pixels"):
        open_family(SAMPLES / "emoji", size=(60_000, 60_000))
