"""Small families on disk, and commands run on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperfields.cli import main

SIDE = 16


ANGLE = 0.69


CORNERS = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]


QUADS = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]  # outward


HEADER = (
    "ply\nformat ascii 1.0\nelement vertex {v}\nproperty float x\nproperty float y\nproperty float z\n"
    "element face {f}\nproperty list uchar int vertex_indices\nend_header\n"
)


TINY = ("--preset", "tiny", "--steps", "20")
FINISHED = ("--steps", "120")  # shapes: a mesh of an unfinished fit is rubble of a million triangles


def make_images(folder: Path, names: tuple[str, ...] = ("cat", "dog", "eel"), side: int = SIDE) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        v, u = np.mgrid[:side, :side] / side
        pixels = np.stack((u, v, np.full_like(u, number / 4)), -1)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def box_ply(width: float = 1.0, faces: int = 6) -> str:
    """A box of `width`; with less than 6 faces it is open."""
    triangles = [t for a, b, c, d in QUADS[:faces] for t in ((a, b, c), (a, c, d))]
    lines = [f"{width * x} {y} {z}" for x, y, z in CORNERS]
    lines += [f"3 {a} {b} {c}" for a, b, c in triangles]
    return HEADER.format(v=len(CORNERS), f=len(triangles)) + "\n".join(lines) + "\n"


def make_shapes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "brick.ply").write_text(box_ply(2.0))
    (folder / "cube.ply").write_text(box_ply(1.0))
    return folder


def make_views(folder: Path) -> Path:
    """Two scenes of a disc, each seen from 4 sides."""
    turns = [
        [[0.0, 0.0, 1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        [[0.0, 0.0, -1.0, -3.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
    ]
    for number, name in enumerate(("disc", "ring")):
        for split in ("train", "test"):
            (folder / name / split).mkdir(parents=True)
            frames = []
            for i, pose in enumerate(turns):
                v, u = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
                alpha = (u**2 + v**2 < 0.1) & ((u**2 + v**2 > 0.02) | (number == 0))
                rgba = np.stack((0.5 + u, 0.5 + v, np.full_like(u, 0.5), alpha.astype(float)), -1)
                Image.fromarray((255 * rgba).astype(np.uint8)).save(folder / name / split / f"r_{i}.png")
                frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose})
            content = {"camera_angle_x": ANGLE, "frames": frames}
            (folder / name / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "images": make_images,
    "shapes": make_shapes,
    "views": make_views,
}


SCENES = {"images": ("cat", "dog"), "shapes": ("brick", "cube"), "views": ("disc", "ring")}


def run_cli(*words: object) -> int:
    return main([str(word) for word in words])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


KILLED = """
import importlib, os, signal, sys
from hyperfields.cli import main

importlib.import_module("hyperfields.training.fit").CHECKPOINT_SECONDS = 0.0  # after every step
replace, states = os.replace, 0

def replace_or_die(source, target):
    global states
    states += str(target).endswith("resume.safetensors")
    if states == 7:  # the worst moment: the new file is whole but not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
sys.exit(main(sys.argv[1:]))
"""


def as_tuple(answer: Any) -> tuple[torch.Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def spoil(folder: Path, what: str) -> None:
    """Turn a good family of images into a bad one."""
    path = folder / "dog.png"
    data = path.read_bytes()
    if what == "zero bytes":
        path.write_bytes(b"")
    elif what == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif what == "no picture":
        path.write_text("a dog")
    elif what == "other size":
        Image.new("RGB", (8, 9)).save(path)
