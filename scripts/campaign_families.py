"""Small families, runs and files of them, for scripts/campaign.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12
TINY = ("--preset", "tiny", "--steps")
TURNS = (
    [[0, 0, 1, 3], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    [[0, 0, -1, -3], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
)
CORNERS = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
QUADS = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]  # outward


def picture(number: int) -> np.ndarray:
    """Bytes `[SIDE SIDE 3]`."""
    v, u = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [0.5 + 0.5 * np.sin(6.0 * (u + 0.3 * number) * (1 + channel) + 4.0 * v) for channel in range(3)]
    return (255 * np.stack(waves, -1)).astype(np.uint8)


def images(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(picture(number)).save(folder / f"picture{number}.png")
    return folder


def shapes(folder: Path, numbers: range) -> Path:
    """Boxes as .ply, .obj, .off and .stl."""
    import trimesh

    folder.mkdir(parents=True)
    for number in numbers:
        suffix = ("ply", "obj", "off", "stl")[number % 4]
        trimesh.creation.box((1.0, 1.0 + 0.4 * number, 1.0)).export(folder / f"box{number}.{suffix}")
    return folder


def views(folder: Path, numbers: range) -> Path:
    for number in numbers:
        scene = folder / f"scene{number}"
        for split in ("train", "test"):
            (scene / split).mkdir(parents=True)
            frames = []
            for i, pose in enumerate(TURNS):
                v, u = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
                alpha = u**2 + v**2 < 0.1 + 0.02 * number
                rgba = np.stack((0.5 + u, 0.5 + v, np.full_like(u, 0.5), alpha.astype(float)), -1)
                Image.fromarray((255 * rgba).astype(np.uint8)).save(scene / split / f"r_{i}.png")
                frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose})
            (scene / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.69, "frames": frames}))
    return folder


MAKERS = {"images": images, "shapes": shapes, "views": views}


def families(root: Path) -> dict[str, Path]:
    """kind -> a family of two scenes; kind + "-new" -> two others."""
    made = {}
    for kind, make in MAKERS.items():
        made[kind], made[f"{kind}-new"] = make(root / kind, range(2)), make(root / f"{kind}-new", range(2, 4))
    return made


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder or a file, with all its links as they are."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return target


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
