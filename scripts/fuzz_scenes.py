"""Targets of the fuzzer: pictures, meshes and scenes of posed pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_room import Room
from PIL import Image

from hyperfields.data import Sampling
from hyperfields.data.shapes import sample_pool
from hyperfields.scenes import open_family
from hyperfields.scenes.meshes import _load_pool, read_mesh

# Pictures -----------------------------------------------------------------------------------------


def picture(suffix: str) -> Callable[[Room, bytes], object]:
    """A reader of a family of one picture."""

    def read(room: Room, data: bytes) -> object:
        return open_family(room.put(f"{suffix[1:]}/a{suffix}", data).parent, size=(4, 4))

    return read


def pictures(format: str, *modes: str, **options: Any) -> Callable[[Room], list[bytes]]:
    """Small pictures of several modes."""

    def seeds(room: Room) -> list[bytes]:
        del room
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4)).astype(np.uint8)
        files = []
        for mode in modes:
            image = Image.fromarray(pixels)
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6  # turned
            image.save(stream, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}), **options)
            files.append(stream.getvalue())
        return files

    return seeds


def exrs(room: Room) -> list[bytes]:
    """EXR files of two compressions, in scanlines."""
    import OpenEXR

    bands = {name: np.linspace(0.0, 1.0, 20, dtype=np.float32).reshape(4, 5) for name in "RGBA"}
    files = []
    for compression in (OpenEXR.NO_COMPRESSION, OpenEXR.ZIP_COMPRESSION, OpenEXR.PIZ_COMPRESSION):
        header = {"compression": compression, "type": OpenEXR.scanlineimage}
        path = room.folder / "seed.exr"
        with OpenEXR.File(header, bands) as file:
            file.write(str(path))
        files.append(path.read_bytes())
    return files


# Meshes -------------------------------------------------------------------------------------------

POINTS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], dtype=np.float64)
FACES = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)], dtype=np.int64)


def mesh(suffix: str) -> Callable[[Room, bytes], object]:
    """A reader of a mesh, with a few signed distances to it."""

    def read(room: Room, data: bytes) -> object:
        found = read_mesh(room.put(f"meshes/a{suffix}", data))
        return sample_pool(found, Sampling(points=16), seed=0)

    return read


def meshes(*formats: str, **options: Any) -> Callable[[Room], list[bytes]]:
    """A tetrahedron in formats of trimesh."""

    def seeds(room: Room) -> list[bytes]:
        del room
        import trimesh

        written = [trimesh.Trimesh(POINTS, FACES, process=False).export(file_type=name, **options) for name in formats]
        return [data if isinstance(data, bytes) else data.encode() for data in written]

    return seeds


def plys(room: Room) -> list[bytes]:
    """PLY files: binary, text, with a face of four corners, with an element of its own."""
    rows = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in POINTS)
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    polygons = "element face 3\nproperty list uchar int vertex_indices\nend_header\n"
    text = head + polygons + rows + "3 0 1 3\n4 0 2 1 3\n3 1 2 3\n"
    binary = text[: text.index("end_header")].replace("ascii", "binary_little_endian") + "end_header\n"
    body = POINTS.astype("<f4").tobytes()
    for corners in ([0, 1, 3], [0, 2, 1, 3], [1, 2, 3]):
        body += bytes([len(corners)]) + np.array(corners, dtype="<i4").tobytes()
    return [*meshes("ply")(room), text.encode(), binary.encode() + body]


def offs(room: Room) -> list[bytes]:
    """OFF files: as usual, and with the counts in the first line and a face of four corners."""
    return [*meshes("off")(room), b"OFF4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n4 0 1 2 3 255 0 0\n3 0 1 3\n"]


def objs(room: Room) -> list[bytes]:
    """OBJ files: as usual, and with groups, normals, texture coordinates and indices from the end."""
    more = b"mtllib a.mtl\no part\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvn 0 0 1\ng one\nusemtl red\n"
    return [*meshes("obj")(room), more + b"f 1/1/1 3/1/1 2/1/1\nf -4//1 -3//1 -1//1\ns off\nf 2 3 4\nf 1 4 3\n"]


def stls(room: Room) -> list[bytes]:
    return meshes("stl", "stl_ascii")(room)


def glbs(room: Room) -> list[bytes]:
    """glb files: a mesh, and two nodes that show it with transforms."""
    import trimesh

    part = trimesh.Trimesh(POINTS, FACES, process=False)
    scene = trimesh.Scene()
    scene.add_geometry(part, node_name="a")
    scene.add_geometry(part, node_name="b", transform=trimesh.transformations.translation_matrix((2.0, 0.0, 0.0)))
    return [*meshes("glb")(room), scene.export(file_type="glb")]


def pool(room: Room, data: bytes) -> object:
    """Samples of a mesh that were kept."""
    return _load_pool(room.put("pool.npz", data), Sampling(points=4))


def pools(room: Room) -> list[bytes]:
    del room
    stream = io.BytesIO()
    np.savez(stream, pool=np.zeros((4, 4), dtype=np.float32))
    return [stream.getvalue()]


# Scenes of posed pictures -------------------------------------------------------------------------

TRANSFORMS_WORDS = (
    *("frames", "file_path", "transform_matrix", "mask_path", "camera_model", "scale", "offset", "aabb_scale", "up"),
    *("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "p1", "distortion_params"),
    *("train_filenames", "time", "is_fisheye", "white_transparent", "OPENCV", "./a", "./b.png", "../a.png"),
)


def transforms(name: str) -> Callable[[Room, bytes], object]:
    """A reader of a scene with this transforms file."""

    def read(room: Room, data: bytes) -> object:
        scene = room.folder / "scene"
        if not scene.is_dir():
            for stem, content in zip("abc", pictures("PNG", "RGBA", "RGB", "L")(room), strict=True):
                room.put(f"scene/{stem}.png", content)
            room.put("scene/transforms_test.json", transforms_files(room)[0])
            room.put("scene/x.ply", plys(room)[1])
        for other in scene.glob("transforms*.json"):
            if other.name != name and (name == "transforms.json" or other.name != "transforms_test.json"):
                other.unlink()
        room.put(f"scene/{name}", data)
        return list(open_family(scene, kind="views", size=(5, 6)).reference(0, "test"))

    return read


def transforms_files(room: Room) -> list[bytes]:
    """Transforms files of NeRF-synthetic, instant-ngp and nerfstudio."""
    del room
    pose = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    frames = [{"file_path": f"./{stem}", "transform_matrix": pose} for stem in "aab"]
    intrinsics = {"fl_x": 7.0, "fl_y": 7.0, "cx": 3.0, "cy": 2.5, "w": 6, "h": 5, "k1": 0.0, "p1": 0.0}
    ngp = {"aabb_scale": 2, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "up": [0, 0, 1], **intrinsics}
    studio = {"camera_model": "OPENCV", **intrinsics, "applied_transform": pose[:3], "ply_file_path": "x.ply"}
    files: list[dict[str, Any]] = [
        {"camera_angle_x": 0.69, "frames": frames},
        {**ngp, "frames": [{**frame, "sharpness": 1.0} for frame in frames]},
        {**studio, "frames": [{**frame, "mask_path": "c.png", "colmap_im_id": 1} for frame in frames]},
        {**studio, "train_filenames": ["./a"], "test_filenames": ["./b"], "frames": frames},
    ]
    return [json.dumps(file).encode() for file in files]
