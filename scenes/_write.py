"""Cameras as a transforms.json that this package, nerfstudio and instant-ngp read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperfields.cameras import Camera
from hyperfields.errors import InputError

# Lens models of COLMAP -> the name and the keys of nerfstudio's files, in the order of the coefficients.
KEYS = {
    "SIMPLE_RADIAL": ("OPENCV", ("k1",)),
    "RADIAL": ("OPENCV", ("k1", "k2")),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "FULL_OPENCV": ("FULL_OPENCV", ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1",)),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
    "EQUIRECTANGULAR": ("EQUIRECTANGULAR", ()),
}


def transforms(cameras: Sequence[Camera], files: Sequence[str], frame: Sequence[float]) -> dict[str, Any]:
    """The content of a transforms.json, in OpenGL's axes (+Y up, -Z forward) and the coordinates of the input.

    Args:
        cameras: in the scene frame.
        files: of their pictures.
        frame: scale and centre that lead back: p_file = p * scale + centre.

    Raises:
        InputError: a lens that these files have no name for.
    """
    scale, *center = frame
    known = [_intrinsics(camera) for camera in cameras]
    shared = known[0] if all(each == known[0] for each in known) else {}
    frames = []
    for camera, file, each in zip(cameras, files, known, strict=True):
        pose = camera.T_world_camera.double().numpy() * np.array([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = pose[:3, 3] * scale + center
        frames.append({"file_path": file, **({} if shared else each), "transform_matrix": pose.tolist()})
    return {**shared, "frames": frames}


def _intrinsics(camera: Camera) -> dict[str, Any]:
    values: dict[str, Any] = {"camera_model": "OPENCV", "w": camera.width, "h": camera.height}
    values |= {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    if camera.lens is None:
        return values
    if camera.lens.model not in KEYS:
        raise InputError(f"lens {camera.lens.model}: transforms files have no name for it; export undistorted pictures")
    name, keys = KEYS[camera.lens.model]
    return values | {"camera_model": name} | dict(zip(keys, camera.lens.coefficients, strict=True))
