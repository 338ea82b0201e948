"""Small captures in the layouts of other programs: pictures of a ball, made from their cameras."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperfields.cameras import Camera, look_at, orbit

HEIGHT, WIDTH = 18, 24
GL = np.array([1.0, -1.0, -1.0, 1.0])


def cameras(count: int = 10, *, radius: float = 4.0, height: int = HEIGHT, width: int = WIDTH) -> list[Camera]:
    """Cameras round the origin, all different."""
    return orbit(count, radius=radius, elevation=0.5, height=height, width=width)


def row(count: int = 6) -> list[Camera]:
    """Cameras side by side that all look along +Y at the origin's surroundings."""
    made = []
    for i in range(count):
        place = torch.tensor([0.2 * i - 0.1 * count, -12.0, 0.0])
        pose = look_at(place, place + torch.tensor([0.0, 1.0, 0.0]))
        made.append(Camera(pose, 30.0, 30.0, 0.5 * WIDTH, 0.5 * HEIGHT, WIDTH, HEIGHT))
    return made


def photograph(camera: Camera, *, alpha: bool = False, noise: int = 0) -> np.ndarray:
    """A ball round the origin, whose colour is its normal, before a pattern of the ray's direction."""
    origins, directions = (part.double() for part in camera.rays())
    directions = torch.nan_to_num(directions)
    along = -(origins * directions).sum(-1)
    square = (origins + along[:, None] * directions).square().sum(-1)
    hit = square < 0.25
    at = origins + (along - (0.25 - square).clamp(min=0.0).sqrt())[:, None] * directions
    behind = 0.5 + 0.5 * torch.sin(9.0 * directions)
    colour = torch.where(hit[:, None], at + 0.5, behind)
    if alpha:
        colour = torch.cat((colour, hit[:, None].double()), -1)
    pixels = (colour * 255.0).round().clamp(0, 255).numpy().astype(np.uint8)
    return pixels.reshape(camera.height, camera.width, -1)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def gl_pose(camera: Camera) -> list[list[float]]:
    pose = camera.T_world_camera.double().numpy() * GL
    pose[3] = (0.0, 0.0, 0.0, 1.0)
    result: list[list[float]] = pose.tolist()
    return result


def intrinsics(camera: Camera) -> dict[str, Any]:
    return {
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "w": camera.width,
        "h": camera.height,
    }


def nerfstudio(folder: Path, views: Sequence[Camera] | None = None, *, each: bool = False, **more: Any) -> Path:
    """A scene with one transforms.json; intrinsics of the file, or with `each` of every frame."""
    views = cameras() if views is None else views
    frames = []
    for i, camera in enumerate(views):
        save(folder / "images" / f"frame_{i:05d}.png", photograph(camera))
        own = intrinsics(camera) if each else {}
        frames.append({"file_path": f"images/frame_{i:05d}.png", **own, "transform_matrix": gl_pose(camera)})
    content = {**({} if each else intrinsics(views[0])), **more, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def srn(folder: Path, views: Sequence[Camera] | None = None, *, inverted: bool = False) -> Path:
    """A scene of ShapeNet-SRN."""
    views = cameras(height=WIDTH, width=WIDTH) if views is None else views
    first = views[0]
    flag = "1\n" if inverted else ""
    folder.mkdir(parents=True)
    (folder / "intrinsics.txt").write_text(
        f"{first.fx:.6f} {first.cx:.6f} {first.cy:.6f} 0.\n0. 0. 0.\n1.\n{first.height} {first.width}\n{flag}"
    )
    (folder / "pose").mkdir()
    for i, camera in enumerate(views):
        save(folder / "rgb" / f"{i:06d}.png", photograph(camera))
        pose = camera.T_world_camera.double().numpy()
        pose = np.linalg.inv(pose) if inverted else pose
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(repr(float(value)) for value in pose.reshape(-1)))
    return folder


def llff(folder: Path, views: Sequence[Camera] | None = None, times: int = 1) -> Path:
    """A scene of LLFF whose intrinsics are for pictures that are so many times larger."""
    views = cameras() if views is None else views
    rows = []
    for i, camera in enumerate(views):
        save(folder / "images" / f"IMG_{i:04d}.png", photograph(camera))
        pose = camera.T_world_camera.double().numpy()
        right, down, forward = pose[:3, 0], pose[:3, 1], pose[:3, 2]
        sizes = np.array([camera.height, camera.width, camera.fx]) * times
        matrix = np.stack((down, right, -forward, pose[:3, 3], sizes), axis=1)
        rows.append(np.concatenate((matrix.reshape(-1), [3.0, 6.0])))
    np.save(folder / "poses_bounds.npy", np.stack(rows))
    return folder


def polycam(folder: Path, views: Sequence[Camera] | None = None) -> Path:
    """A scene of Polycam's raw data."""
    for i, camera in enumerate(cameras() if views is None else views):
        save(folder / "keyframes" / "corrected_images" / f"{100 + i}.png", photograph(camera))
        pose = gl_pose(camera)
        content: dict[str, Any] = {f"t_{r}{c}": pose[r][c] for r in range(3) for c in range(4)}
        content |= {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy, "blur_score": 90.0}
        content |= {"width": camera.width, "height": camera.height}
        path = folder / "keyframes" / "corrected_cameras" / f"{100 + i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "keyframes" / "images").mkdir()
    (folder / "keyframes" / "cameras").mkdir()
    return folder
