"""Meshes as files."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix, write_atomically
from hyperfields.runs.images import as_bytes

MESH_SUFFIXES = (".ply", ".obj", ".glb", ".stl")


def write_mesh(path: str | Path, mesh: Mesh, frame: Literal["file", "scene"] = "file") -> None:
    """Write `mesh` as .ply (binary), .obj, .glb or .stl (binary, without shared vertices).

    `frame`: "file" puts the vertices back into the frame of the file that the scene came from
    (p * scale + center), "scene" leaves them. Axes are kept, also in a .glb, whose viewers take +Y as up.

    Colours go along, but not into an .stl: in 8 bits, in an .obj as three more numbers of a vertex, in a .glb linear,
    as glTF has them.

    Far from the origin float32 is too coarse for a vertex: a .ply then has doubles, an .obj as many digits as it
    takes, and a .glb, whose vertices stay in the scene frame, a node with the scale and the translation.

    Raises:
        InputError: for another suffix, a missing folder, a file that cannot be written, no trimesh.

    Warns:
        UserWarning: an .stl, which has float32 only, so far from the origin that vertices move.
    """
    path = Path(path)
    suffix = require_suffix(path, MESH_SUFFIXES, "a mesh")
    scale, center = (float(mesh.scale), mesh.center) if frame == "file" else (1.0, (0.0, 0.0, 0.0))
    inside = mesh.vertices.detach().cpu().double().numpy()  # [v 3], scene frame
    vertices = inside * scale + np.array(center, dtype=np.float64)
    faces = mesh.faces.detach().cpu().numpy().astype(np.int64)
    paint: NDArray[np.uint8] | None = None
    if mesh.colors is not None:
        colors = mesh.colors.detach().cpu().double().clamp(0.0, 1.0)
        paint = as_bytes((_linear(colors) if suffix == ".glb" else colors)[None])[0]
    if suffix == ".ply":
        write_atomically(path, _ply(vertices, faces, paint, doubles=_rounding(vertices) > 1e-6 * abs(scale)))
        return
    trimesh = _trimesh(path)
    if suffix == ".glb":
        scene = trimesh.Scene()
        if len(faces):  # an accessor of a glTF must not be empty
            to_file = np.diag([scale, scale, scale, 1.0])
            to_file[:3, 3] = center
            scene.add_geometry(trimesh.Trimesh(inside, faces, vertex_colors=paint, process=False), transform=to_file)
        write_atomically(path, trimesh.exchange.gltf.export_glb(scene, include_normals=False))
        return
    plain = trimesh.Trimesh(vertices, faces, vertex_colors=paint, process=False)
    if suffix == ".obj":
        digits = max(0, math.ceil(12.0 - math.log10(scale))) if scale > 0.0 else 12  # 1e-12 of the scene frame's unit
        text = trimesh.exchange.obj.export_obj(
            plain,
            include_normals=False,
            include_color=paint is not None,
            include_texture=False,
            digits=digits,
            header=None,
        )
        write_atomically(path, text.encode())
        return
    if (moved := _rounding(vertices)) > 1e-5 * abs(scale):
        warnings.warn(
            f"{path}: .stl has 32 bits a coordinate, so far from the origin vertices move by up to {moved:.2g}; "
            "write a .ply, .obj or .glb",
            stacklevel=2,
        )
    write_atomically(path, trimesh.exchange.stl.export_stl(plain))


def _rounding(vertices: NDArray[np.float64]) -> float:
    """Largest rounding error of a coordinate in float32."""
    return float(np.abs(vertices.astype(np.float32) - vertices).max(initial=0.0))


def _linear(colors: Tensor) -> Tensor:
    """Light of sRGB colours (IEC 61966-2-1)."""
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _ply(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], paint: NDArray[np.uint8] | None, doubles: bool
) -> bytes:
    """A binary .ply (Turk, 1994). Those of trimesh have float32 vertices only."""
    kind, name = ("<f8", "double") if doubles else ("<f4", "float")
    tints = "" if paint is None else "".join(f"property uchar {color}\n" for color in ("red", "green", "blue"))
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        f"property {name} x\nproperty {name} y\nproperty {name} z\n{tints}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    corners = np.empty(len(vertices), dtype=[("place", kind, 3), *([("color", "u1", 3)] if paint is not None else [])])
    corners["place"] = vertices
    if paint is not None:
        corners["color"] = paint
    return header.encode() + corners.tobytes() + rows.tobytes()


def _trimesh(path: Path) -> Any:
    try:
        import trimesh
        import trimesh.exchange.gltf
        import trimesh.exchange.obj
        import trimesh.exchange.stl
    except ImportError as error:
        raise InputError(
            f"{path}: trimesh, which this format needs, cannot be imported ({error}): pip install "
            "'hyperfields[shapes]', or write a .ply"
        ) from error
    return trimesh
