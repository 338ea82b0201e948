"""Results as files: images, animations, meshes. Every file appears whole or not at all."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.ops.threads import one_torch_thread

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATION_SUFFIXES = (".gif", ".mp4")
MESH_SUFFIXES = (".ply", ".obj", ".glb", ".stl")

_TILE = 4  # samples a side of the tiles that `mesh_from_field` decides about


def require_suffix(path: Path, allowed: tuple[str, ...], what: str) -> str:
    """The suffix of `path` in lower case. Ask before the work starts: the writers below ask again.

    Raises:
        InputError: when it is not one of `allowed`, or the folder of `path` does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        raise InputError(f"{path}: suffix {suffix or '(none)'} cannot hold {what}; use one of {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: folder {path.parent} does not exist; make it first")
    return suffix


def write_image(path: str | Path, image: Tensor) -> None:
    """Write `image` `[h w 3 | 4]` in [0, 1] (straight alpha), clamped, as 8-bit .png, .jpg or .webp.

    A .webp is lossless. A .jpg has no alpha: the image is laid over white.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written.
        ValueError: for another shape.
    """
    path = Path(path)
    from PIL import Image

    suffix = require_suffix(path, IMAGE_SUFFIXES, "an image")
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError(f"write_image: image {list(image.shape)} must be [h w 3] or [h w 4]")
    if suffix in (".jpg", ".jpeg") and image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + (1.0 - image[..., 3:])
    picture = Image.fromarray(_bytes_of(image))
    buffer = io.BytesIO()
    if suffix == ".png":
        picture.save(buffer, "PNG")
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    _write(path, buffer.getvalue())


def write_animation(path: str | Path, frames: Iterable[Tensor], fps: float = 24.0) -> None:
    """Write `frames`, each `[h w 3]` in [0, 1], as .gif (repeats for ever) or .mp4 (H.264).

    A .gif has 256 colours a frame and times in 1/100 s, no frame under 2/100 s; equal neighbours become one
    long frame. An .mp4 needs even sides: an odd one repeats its last row or column.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written, no `av` for an .mp4.
        ValueError: when there are no frames, or they differ in size or are not `[h w 3]`.
    """
    path = Path(path)
    suffix = require_suffix(path, ANIMATION_SUFFIXES, "an animation")
    if not fps > 0.0:
        raise ValueError(f"write_animation: fps {fps} must be above 0")
    arrays = _same_sized(frames)
    _write(path, _gif(arrays, fps) if suffix == ".gif" else _mp4(arrays, fps))


@one_torch_thread()
def mesh_from_field(
    distance: Callable[[Tensor], Tensor],
    *,
    resolution: int = 128,
    box: float = 1.0,
    block: int = 2**18,
    level: float = 0.0,
    safety: float = 1.5,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The surface where `distance` is `level`, as a mesh in the field's frame, triangles wound outwards.

    The box [-box, box]^3 gets `resolution` cells a side. The field is first asked at the centres of tiles of
    4^3 samples. Two sorts of tiles are then asked sample by sample: those where |distance - level| is at
    most `safety` times the reach of the tile (from its centre to the farthest neighbour of its samples),
    and those beside a tile of the other sign. The others take the sign of their centre: they hold no
    surface if the field overestimates distances by less than the factor `safety`. For a field that is not
    nearly a distance (an occupancy) give `safety=math.inf`: all is asked.

    A surface that leaves the box is closed by the box. Without a surface in the box the mesh has no faces.

    Args:
        distance: `[1 n 3]` -> `[1 n 1]`, negative inside, same units as `box`.
        resolution: cells a side.
        box: half of the side of the box.
        block: most points in one call of `distance`.
        level: which level set.
        safety: see above.
        device: where the points for `distance` live; the mesh is on the CPU.

    Not differentiable. Marching cubes of Lewiner, Lopes, Vieira, Tavares, 2003, by scikit-image.

    Raises:
        InputError: when scikit-image is not installed.
        ValueError: when `resolution` is under 2, or the field gives a value that is not finite.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise InputError(
            f"scikit-image, which meshes need, cannot be imported ({error}): pip install 'hyperfields[shapes]'"
        ) from error
    if resolution < 2:
        raise ValueError(f"mesh_from_field: resolution {resolution} must be at least 2")
    spacing = 2.0 * box / resolution
    values = _sample(distance, resolution, box, block, level, safety, torch.device(device))
    # A sample exactly on the surface would make triangles without area. It counts as just inside: outside,
    # the edges of a convex shape would be cut off by a whole cell.
    values[values == 0.0] = -1e-6 * spacing
    if not bool((values < 0.0).any()):
        return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    # Close the surface at the box: outside is far outside, so that the crossing falls on the last sample.
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1, 1, 1), value=1e3 * box)
    # With values that grow outwards, "descent" winds the triangles outwards (a test says so).
    vertices, faces, _, _ = marching_cubes(padded.cpu().numpy(), 0.0, gradient_direction="descent")
    points = torch.from_numpy(np.ascontiguousarray(vertices)).double() - 1.0
    points = (points.clamp(0.0, float(resolution)) * spacing - box).float()
    return Mesh(points, torch.from_numpy(np.ascontiguousarray(faces)).long())


def write_mesh(path: str | Path, mesh: Mesh, frame: Literal["file", "scene"] = "file") -> None:
    """Write `mesh` as .ply (binary), .obj, .glb or .stl (binary, without shared vertices).

    `frame`: "file" puts the vertices back into the frame of the file that the scene came from
    (p * scale + center), "scene" leaves them. Axes are kept, also in a .glb, whose viewers take +Y as up.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written.
    """
    path = Path(path)
    suffix = require_suffix(path, MESH_SUFFIXES, "a mesh")
    vertices = mesh.vertices.detach().cpu().double()
    if frame == "file":
        vertices = vertices * mesh.scale + torch.tensor(mesh.center, dtype=torch.float64)
    v = vertices.numpy().astype("<f4")
    f = mesh.faces.detach().cpu().numpy().astype("<u4")
    encode = {".ply": _ply, ".obj": _obj, ".glb": _glb, ".stl": _stl}[suffix]
    _write(path, encode(v, f))


def _write(path: Path, data: bytes) -> None:
    """`data` as `path`: under a temporary name in the same folder, flushed to the disk, renamed."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.chmod(name, 0o666 & ~_umask())  # mkstemp's own is private
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _bytes_of(image: Tensor) -> np.ndarray:
    """Colours in [0, 1] as 8 bit, rounded."""
    return (image.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def _same_sized(frames: Iterable[Tensor]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for i, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[-1] != 3:
            raise ValueError(f"write_animation: frame {i} is {list(frame.shape)}, must be [h w 3]")
        arrays.append(_bytes_of(frame))
        if arrays[i].shape != arrays[0].shape:
            raise ValueError(f"write_animation: frame {i} is {arrays[i].shape[:2]}, the first is {arrays[0].shape[:2]}")
    if not arrays:
        raise ValueError("write_animation: no frames")
    return arrays


def _gif(frames: list[np.ndarray], fps: float) -> bytes:
    from PIL import Image

    # Each frame its own palette, from its own colours; without dithering still parts stay still.
    pictures = [Image.fromarray(f).quantize(256, Image.Quantize.MEDIANCUT) for f in frames]
    # Times are whole 1/100 s: rounding the end of each frame keeps the speed right on average.
    ends = [round(100.0 * (i + 1) / fps) for i in range(len(frames))]
    times = [10 * max(b - a, 2) for a, b in itertools.pairwise([0, *ends])]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _mp4(frames: list[np.ndarray], fps: float) -> bytes:
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"av, which .mp4 needs, cannot be imported ({error}): pip install 'hyperfields[video]', or write a .gif"
        ) from error
    height, width = frames[0].shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"  # the only layout that every player shows
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@torch.no_grad()
def _sample(
    distance: Callable[[Tensor], Tensor],
    resolution: int,
    box: float,
    block: int,
    level: float,
    safety: float,
    device: torch.device,
) -> Tensor:
    """`distance - level` at the samples of the grid, `[r+1 r+1 r+1]` (x, y, z), exact near the surface."""
    spacing = 2.0 * box / resolution
    tiles = -(-(resolution + 1) // _TILE)

    def ask(indices: Tensor) -> Tensor:
        """Values at positions `[n 3]` counted in samples."""
        points = (indices * spacing - box).to(device)
        value = distance(points[None]).reshape(-1).float().cpu() - level
        if not bool(torch.isfinite(value).all()):
            raise ValueError("mesh_from_field: the field gives values that are not finite")
        return value

    def blocks(n: int, each: int) -> Iterator[slice]:
        return (slice(i, i + each) for i in range(0, n, each))

    steps = torch.arange(tiles, dtype=torch.float32)
    corners = torch.cartesian_prod(steps, steps, steps) * _TILE  # [tiles^3 3], first sample of each tile
    middle = 0.5 * (_TILE - 1)
    coarse = torch.cat([ask(corners[part] + middle) for part in blocks(len(corners), block)])
    # One sample more than to the tile's own corners: then an edge of the grid that crosses the surface has
    # both its ends asked, and no vertex is placed by a value that was filled in.
    reach = 3.0**0.5 * (middle + 1.0) * spacing
    near = coarse.abs() <= safety * reach
    # Tiles beside one of the other sign are asked too: no false surface appears between two signs filled in.
    cube = (coarse < 0.0).float().reshape(1, 1, tiles, tiles, tiles)
    pool = torch.nn.functional.max_pool3d
    mixed = pool(cube, 3, 1, 1) + pool(1.0 - cube, 3, 1, 1) > 1.5
    chosen = (near | mixed.flatten()).nonzero().squeeze(1)

    values = coarse[:, None].repeat(1, _TILE**3)
    step = torch.arange(_TILE, dtype=torch.float32)
    inner = torch.cartesian_prod(step, step, step)  # [64 3]
    for part in blocks(len(chosen), max(1, block // _TILE**3)):
        which = chosen[part]
        indices = (corners[which][:, None] + inner).reshape(-1, 3)
        values[which] = ask(indices).reshape(-1, _TILE**3)
    grid = values.reshape(tiles, tiles, tiles, _TILE, _TILE, _TILE).permute(0, 3, 1, 4, 2, 5)
    side = tiles * _TILE
    end = resolution + 1
    return grid.reshape(side, side, side)[:end, :end, :end].contiguous()


def _ply(v: np.ndarray, f: np.ndarray) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(v)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(f)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(f), dtype=[("n", "u1"), ("v", "<i4", 3)])
    rows["n"], rows["v"] = 3, f
    return header.encode() + v.tobytes() + rows.tobytes()


def _obj(v: np.ndarray, f: np.ndarray) -> bytes:
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in v.tolist()]  # 9 digits: float32 comes back exactly
    lines += [f"f {a} {b} {c}" for a, b, c in (f.astype(np.int64) + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _stl(v: np.ndarray, f: np.ndarray) -> bytes:
    rows = np.zeros(len(f), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = v[f.astype(np.int64)]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    rows["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    rows["corners"] = corners
    return bytes(80) + struct.pack("<I", len(f)) + rows.tobytes()


def _glb(v: np.ndarray, f: np.ndarray) -> bytes:
    """glTF 2.0, binary container: a JSON chunk and one buffer (Khronos glTF 2.0 specification, section 4)."""
    if len(f) == 0:  # a glTF accessor must not be empty
        document: dict[str, Any] = {"asset": {"version": "2.0"}}
        data = b""
    else:
        positions, indices = v.tobytes(), f.tobytes()
        data = positions + indices
        document = {
            "asset": {"version": "2.0", "generator": "hyperfields"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
            "accessors": [
                {
                    "bufferView": 0,
                    "componentType": 5126,  # float
                    "count": len(v),
                    "type": "VEC3",
                    "min": v.min(0).tolist(),
                    "max": v.max(0).tolist(),
                },
                {"bufferView": 1, "componentType": 5125, "count": f.size, "type": "SCALAR"},  # unsigned int
            ],
            "bufferViews": [
                {"buffer": 0, "byteOffset": 0, "byteLength": len(positions), "target": 34962},
                {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices), "target": 34963},
            ],
            "buffers": [{"byteLength": len(data)}],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    if data:
        chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
