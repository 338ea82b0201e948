"""The frame of a found scene: +Z up, the origin where the cameras look, a size like NeRF-synthetic's; and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfields.data.boxes import nearest_point
from hyperfields.scenes._common import write_whole

FloatArray = NDArray[np.float64]
DISTANCE = 4.0  # median of the cameras from the origin
LEVEL = 0.8  # cosine between the mean up of the cameras and the up that their horizons say, to believe the latter
TURNED = 4.0  # how much more the horizons must spread along the second direction than along the first

# COLMAP's parameters -> keys of nerfstudio's and instant-ngp's transforms.json.
KEYS = {
    "SIMPLE_PINHOLE": ("fl", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("fl", "cx", "cy", "k1"),
    "RADIAL": ("fl", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}


class Posed(NamedTuple):
    """Cameras and points of a model."""

    names: list[str]  # of the photographs, sorted
    poses: FloatArray  # [v 4 4] T_world_camera, OpenCV: +X right, +Y down, +Z forward
    cameras: list[Any]  # `pycolmap.Camera` of each
    points: FloatArray  # [n 3]
    colors: NDArray[np.uint8]  # [n 3]


def read_model(model: Any) -> Posed:
    """What a `pycolmap.Reconstruction` holds."""
    images = sorted((model.images[number] for number in model.reg_image_ids()), key=lambda image: str(image.name))
    poses = np.stack([_inverse(image.cam_from_world().matrix()) for image in images])
    points = list(model.points3D.values())
    return Posed(
        [image.name for image in images],
        poses,
        [model.cameras[image.camera_id] for image in images],
        np.array([point.xyz for point in points]).reshape(-1, 3),
        np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3),
    )


def _inverse(matrix: FloatArray) -> FloatArray:
    pose = np.eye(4)
    pose[:3, :3] = matrix[:, :3].T
    pose[:3, 3] = -matrix[:, :3].T @ matrix[:, 3]
    return pose


def placement(poses: FloatArray, points: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Scale, rotation `[3 3]` and translation `[3]` into the frame: p_new = scale * (rotation @ p) + translation."""
    rotation = _turn(up_of(poses), poses)
    origins, axes = poses[:, :3, 3], poses[:, :3, 2]
    center, sound = nearest_point(origins, axes)
    ahead = ((center - origins) * axes).sum(-1) > 0.0
    if sound < 1e-3 or ahead.mean() < 0.8:  # they look side by side, or outwards
        center = np.median(points, axis=0) if len(points) else origins.mean(axis=0)
    distance = float(np.median(np.linalg.norm(origins - center, axis=-1)))
    scale = DISTANCE / distance if distance > 1e-9 else 1.0
    return scale, rotation, -scale * rotation @ center


def up_of(poses: FloatArray) -> FloatArray:
    """The direction `[3]` that is up. Photographers hold cameras level: up is what is across to all horizons, if the
    cameras turned enough to tell; else the mean up of the pictures."""
    mean = -poses[:, :3, 1].mean(axis=0)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    spread, directions = np.linalg.eigh(np.einsum("vi,vj->ij", poses[:, :3, 0], poses[:, :3, 0]) / len(poses))
    level = directions[:, 0] * (1.0 if directions[:, 0] @ mean >= 0.0 else -1.0)
    if spread[1] > TURNED * spread[0] + 1e-3 and level @ mean > LEVEL:
        return np.asarray(level)
    return np.asarray(mean)


def _turn(up: FloatArray, poses: FloatArray) -> FloatArray:
    """The rotation `[3 3]` that brings `up` to +Z and the first camera to the side of -Y."""
    back = poses[0, :3, 2]
    across = np.cross(back, up)
    if np.linalg.norm(across) < 1e-6:  # it looks straight down
        across = poses[0, :3, 0]
    x = across / np.linalg.norm(across)
    return np.stack((x, np.cross(up, x), up))


def transforms(posed: Posed) -> dict[str, Any]:
    """The content of a transforms.json, cameras in OpenGL's axes (+Y up, -Z forward)."""
    cameras = [_intrinsics(camera) for camera in posed.cameras]
    shared = cameras[0] if all(camera == cameras[0] for camera in cameras) else {}
    frames = []
    for name, pose, camera in zip(posed.names, posed.poses, cameras, strict=True):
        matrix = (pose * np.array([1.0, -1.0, -1.0, 1.0])).tolist()
        matrix[3] = [0.0, 0.0, 0.0, 1.0]
        frames.append({"file_path": f"images/{name}", **({} if shared else camera), "transform_matrix": matrix})
    return {**shared, "up": [0.0, 0.0, 1.0], "ply_file_path": "points.ply", "frames": frames}


def _intrinsics(camera: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"camera_model": camera.model_name, "w": camera.width, "h": camera.height}
    for key, value in zip(KEYS[camera.model_name], camera.params, strict=True):
        values |= {"fl_x": float(value), "fl_y": float(value)} if key == "fl" else {key: float(value)}
    return values


def write_transforms(posed: Posed, path: Path) -> None:
    """Write transforms.json whole or not at all."""
    write_whole(path, json.dumps(transforms(posed), indent=1).encode())


def write_ply(points: FloatArray, colors: NDArray[np.uint8], path: Path) -> None:
    """Write points as a binary .ply."""
    layout = [(axis, "<f4") for axis in "xyz"] + [(color, "u1") for color in ("red", "green", "blue")]
    rows = np.empty(len(points), dtype=layout)
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i]
    for i, color in enumerate(("red", "green", "blue")):
        rows[color] = colors[:, i]
    kinds = "".join(f"property {'float' if kind == '<f4' else 'uchar'} {name}\n" for name, kind in layout)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{kinds}end_header\n"
    write_whole(path, header.encode() + rows.tobytes())
