"""Targets of the fuzzer: captures of other programs, videos and photographs.

Where a format has several files, the first byte of an input tells which of them the rest is; the others are valid.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz_room import Room
from fuzz_scenes import pictures, plys, transforms_files
from PIL import Image

from hyperfields.scenes import open_family
from hyperfields.scenes.poses.photographs import Photograph, prepare
from hyperfields.scenes.poses.video import write_frames

Files = dict[str, bytes]  # path below the scene's folder -> content
POSE = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0]])


def capture(name: str, files: Callable[[Room], Files]) -> Callable[[Room, bytes], object]:
    """A reader of a scene one of whose files is given."""

    def read(room: Room, data: bytes) -> object:
        scene, valid = f"{name}/scene", files(room)
        if not (room.folder / scene).is_dir():
            for stem, content in zip("ab", pictures("PNG", "RGBA", "RGB")(room), strict=True):
                for folder in ("images", "rgb", "keyframes/images", "."):
                    room.put(f"{scene}/{folder}/{stem}.png", content)
            room.put(f"{scene}/c.png", pictures("PNG", "L")(room)[0])
            for path, content in valid.items():
                room.put(f"{scene}/{path}", content)
        path = list(valid)[data[0] % len(valid)] if data else next(iter(valid))
        changed = room.put(f"{scene}/{path}", data[1:])
        try:
            return list(open_family(room.folder / scene, kind="views", size=(5, 6)).reference(0, "test"))
        finally:
            changed.write_bytes(valid[path])

    return read


def seeds(files: Callable[[Room], Files]) -> Callable[[Room], list[bytes]]:
    """Each of the valid files."""
    return lambda room: [bytes([number]) + content for number, content in enumerate(files(room).values())]


def colmap_text(room: Room) -> Files:
    """A model of COLMAP in text."""
    del room
    images = "".join(f"{i} 1 0 0 0 0 0 4 1 {name}.png\n1.5 2 1 2 2 -1\n" for i, name in ((1, "a"), (2, "b")))
    return {
        "sparse/0/cameras.txt": b"# Number of cameras: 1\n1 OPENCV 6 5 7 7 3 2.5 0.01 0 0 0\n",
        "sparse/0/images.txt": f"# Number of images: 2, mean observations per image: 1\n{images}".encode(),
        "sparse/0/points3D.txt": b"1 0 0 0 255 0 0 0.1 1 0 2 0\n",
        "train.txt": b"# to fit\na.png\n",
        "test.txt": b"b.png\n",
    }


def colmap_binary(room: Room) -> Files:
    """The same in binary, with rigs and frames, as COLMAP writes them."""
    import pycolmap

    folder = room.folder / "colmap"
    if not folder.is_dir():
        for path, content in list(colmap_text(room).items())[:3]:
            room.put(f"colmap/text/{Path(path).name}", content)
        folder.joinpath("binary").mkdir()
        pycolmap.Reconstruction(str(folder / "text")).write_binary(str(folder / "binary"))
    return {f"sparse/0/{path.name}": path.read_bytes() for path in sorted(folder.joinpath("binary").iterdir())}


def points(room: Room) -> Files:
    """The points of a transforms file."""
    return {"transforms.json": transforms_files(room)[2], "x.ply": plys(room)[1]}


def llff(room: Room) -> Files:
    """poses_bounds.npy of two pictures."""
    del room
    matrix = np.concatenate((POSE[:, [1, 0, 2, 3]] * [-1.0, 1.0, 1.0, 1.0], [[5.0], [6.0], [7.0]]), axis=1)
    stream = io.BytesIO()
    np.save(stream, np.stack([np.concatenate((matrix.ravel(), [1.0, 9.0]))] * 2))
    return {"poses_bounds.npy": stream.getvalue()}


def srn(room: Room) -> Files:
    """Intrinsics and poses of ShapeNet-SRN."""
    del room
    pose = " ".join(f"{value:g}" for value in (*POSE.ravel(), 0, 0, 0, 1)).encode()
    return {
        "intrinsics.txt": b"7. 3. 2.5 0.\n0. 0. 0.\n1.\n5 6\n",
        "pose/a.txt": pose,
        "pose/b.txt": pose,
    }


def polycam(room: Room) -> Files:
    """A camera of Polycam's raw data for each picture."""
    del room
    camera = {f"t_{i}{j}": POSE[i, j] for i in range(3) for j in range(4)} | {
        "fx": 7.0,
        "fy": 7.0,
        "cx": 3.0,
        "cy": 2.5,
    }
    content = json.dumps({**camera, "width": 6, "height": 5, "blur_score": 9.0}).encode()
    return {f"keyframes/cameras/{stem}.json": content for stem in "ab"}


def photograph(room: Room, data: bytes) -> object:
    """A photograph on its way into a capture."""
    source, images = room.put("photographs/a.jpg", data), room.folder / "images"
    images.mkdir(exist_ok=True)
    for old in images.iterdir():
        old.unlink()
    return prepare([Photograph(source, "a.jpg", "")], images, lambda done, total, name: None)


def photograph_files(room: Room) -> list[bytes]:
    """JPEG files with a focal length and an orientation, and a PNG."""
    del room
    files = []
    for form, orientation in (("JPEG", 1), ("JPEG", 6), ("PNG", 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif.get_ifd(0x8769)[0x920A] = 26.0
        stream = io.BytesIO()
        Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(stream, form, exif=exif, quality=20)
        files.append(stream.getvalue())
    return files


def video(room: Room, data: bytes) -> object:
    """Frames of a video."""
    path, images = room.put("video.mp4", data), room.folder / "frames"
    images.mkdir(exist_ok=True)
    return write_frames(path, 2, images, lambda done, total, name: None)


def videos(room: Room) -> list[bytes]:
    """Three frames in two containers."""
    import av

    files = []
    for form, codec in (("mp4", "libx264"), ("avi", "mjpeg")):
        path = room.folder / f"seed.{form}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=2)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuvj420p"
            for number in range(3):
                pixels = np.full((48, 64, 3), 60 * number, dtype=np.uint8)
                pixels[number * 8 : number * 8 + 8] = 200
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        files.append(path.read_bytes())
    return files
