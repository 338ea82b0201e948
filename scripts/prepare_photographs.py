"""Make scenes/samples/toy_cars: python scripts/prepare_photographs.py FROM TO [COUNT]

Photographs of a toy on a table in a room, as a phone takes them on a walk round it, rendered by ray casting (open3d):
sun with shadows, light of the sky, four samples a pixel, a lens with a little distortion, and hands that are not quite
still. FROM holds Kenney's Car Kit 3.1 as GLB (CC0). The true cameras are not written: they are to be found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import trimesh
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]
HEIGHT, WIDTH, FOCAL, K1 = 480, 360, 400.0, 0.04
SUN = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
SKY_RAYS, REACH = 14, 3.0  # a sample's, and how far they look
SAMPLES = 2  # a side of a pixel
# File, place on the table, turn (degrees), scale.
TOYS = [
    ("firetruck.glb", (0.0, 0.0), 20.0, 1.0),
    ("cone.glb", (1.7, -1.1), 0.0, 1.2),
    ("box.glb", (-1.9, 0.6), 33.0, 1.3),
    ("cone.glb", (-1.2, -1.9), 0.0, 1.2),
]
README = """# Toy cars

{count} photographs of a toy fire engine on a table, {height}x{width} JPEG, as a phone takes them on a walk round it:
what `hyperfields poses` is for. Their cameras are not given. They are rendered (scripts/prepare_photographs.py), with
shadows, a lens with distortion and a room around, from Kenney's models; everything else is drawn by the script.

- Source: 3-D models by Kenney (Car Kit 3.1).
- Licence: CC0 1.0.
"""


class World:
    """Triangles with textures."""

    def __init__(self) -> None:
        self.scene = o3d.t.geometry.RaycastingScene()
        self.parts: list[tuple[Floats, Floats]] = []  # per geometry: corners' texture coordinates [f 3 2], texture

    def add(self, vertices: Floats, faces: Any, uv: Floats, texture: Floats) -> None:
        self.scene.add_triangles(vertices.astype(np.float32), np.asarray(faces, dtype=np.uint32))
        self.parts.append((uv[np.asarray(faces)], texture))

    def plane(self, corner: Any, across: Any, along: Any, texture: Floats) -> None:
        a, b, c = (np.array(v, dtype=float) for v in (corner, across, along))
        uv = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        self.add(np.stack((a, a + b, a + b + c, a + c)), [[0, 1, 2], [0, 2, 3]], uv, texture)

    def toy(self, path: Path, place: tuple[float, float], turn: float, scale: float) -> None:
        loaded = trimesh.load(path)
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        for node in loaded.graph.nodes_geometry:
            pose, name = loaded.graph[node]
            mesh = loaded.geometry[name]
            x, up, z = (trimesh.transform_points(mesh.vertices, pose) * scale).T
            x, y = c * x + s * z, s * x - c * z  # +Y up to +Z up
            texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), dtype=float) / 255.0
            vertices = np.stack((x + place[0], y + place[1], up), axis=-1)
            self.add(vertices, mesh.faces, np.asarray(mesh.visual.uv) * [1.0, -1.0] + [0.0, 1.0], texture)

    def colors(self, origins: Floats, directions: Floats, rng: np.random.Generator) -> Floats:
        """Light `[n 3]` that comes along rays."""
        hit = self._cast(origins, directions)
        out = np.tile([0.93, 0.95, 0.97], (len(origins), 1))
        there = np.isfinite(hit["t_hit"])
        normals = hit["primitive_normals"][there]
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
        normals *= -np.sign((normals * directions[there]).sum(-1, keepdims=True))
        points = origins[there] + hit["t_hit"][there, None] * directions[there] + 1e-3 * normals
        albedo = self._albedo(hit["geometry_ids"][there], hit["primitive_ids"][there], hit["primitive_uvs"][there])
        sun = np.maximum(normals @ SUN, 0.0) * ~self._blocked(points, np.broadcast_to(SUN, points.shape), np.inf)
        sky = np.zeros(len(points))
        for _ in range(SKY_RAYS):
            toward = rng.normal(size=points.shape)
            toward = toward / np.linalg.norm(toward, axis=-1, keepdims=True) + normals
            toward /= np.maximum(np.linalg.norm(toward, axis=-1, keepdims=True), 1e-6)
            sky += ~self._blocked(points, toward, REACH)
        out[there] = albedo * (0.62 * sun + 0.5 * sky / SKY_RAYS)[:, None]
        return out

    def _cast(self, origins: Floats, directions: Floats) -> dict[str, Any]:
        rays = np.concatenate((origins, directions), axis=-1).astype(np.float32)
        return {name: value.numpy() for name, value in self.scene.cast_rays(o3d.core.Tensor(rays)).items()}

    def _blocked(self, origins: Floats, directions: Floats, far: float) -> NDArray[np.bool_]:
        rays = np.concatenate((origins, directions), axis=-1).astype(np.float32)
        return np.asarray(self.scene.test_occlusions(o3d.core.Tensor(rays), tfar=far).numpy())

    def _albedo(self, geometry: Any, primitive: Any, weights: Floats) -> Floats:
        out = np.zeros((len(geometry), 3))
        for number, (corners, texture) in enumerate(self.parts):
            mine = geometry == number
            if not mine.any():
                continue
            w = weights[mine]
            w = np.concatenate((1.0 - w.sum(-1, keepdims=True), w), axis=-1)
            uv = np.einsum("nk,nkc->nc", w, corners[primitive[mine]])
            rows, columns = texture.shape[:2]
            x, y = uv[:, 0] * columns - 0.5, uv[:, 1] * rows - 0.5
            i, j = np.floor(x).astype(int), np.floor(y).astype(int)
            a, b = (x - i)[:, None], (y - j)[:, None]
            at = [texture[(j + dj) % rows, (i + di) % columns] for dj in (0, 1) for di in (0, 1)]
            out[mine] = (at[0] * (1 - a) + at[1] * a) * (1 - b) + (at[2] * (1 - a) + at[3] * a) * b
        return out


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, ...]) -> Floats:
    """Smooth noise `[h w 1]` of several sizes, mean 0."""
    total = np.zeros((height, width))
    for cell in cells:
        small = Image.fromarray(rng.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return total[..., None] / len(cells)


def playmat(rng: np.random.Generator, side: int = 1400, shapes: int = 420) -> Floats:
    """A cloth with shapes of many colours on it."""
    picture = Image.new("RGB", (side, side), (196, 187, 168))
    draw = ImageDraw.Draw(picture)
    palette = [(176, 74, 58), (60, 99, 130), (226, 170, 70), (84, 130, 92), (235, 228, 214), (70, 60, 66)]
    for _ in range(shapes):
        x, y, size = *rng.uniform(0, side, 2), rng.uniform(10, 46)
        color = palette[rng.integers(len(palette))]
        if rng.random() < 0.5:
            draw.ellipse((x - size, y - size, x + size, y + size), fill=color)
        else:
            angle = rng.uniform(0, np.pi)
            corners = [angle + k * 2.0 * np.pi / n for n in [int(rng.integers(3, 6))] for k in range(n)]
            draw.polygon([(x + size * np.cos(c), y + size * np.sin(c)) for c in corners], fill=color)
    return np.clip(np.asarray(picture) / 255.0 + 0.05 * noise(rng, side, side, (3, 9, 40)), 0.0, 1.0)


def bricks(rng: np.random.Generator, height: int = 500, width: int = 1500) -> Floats:
    """A wall of bricks with posters."""
    out = np.full((height, width, 3), 0.78)
    for row, y in enumerate(range(0, height, 34)):
        for x in range(-(row % 2) * 44, width, 88):
            shade = rng.uniform(0.75, 1.15)
            out[y + 3 : y + 32, max(x + 3, 0) : max(x + 86, 0)] = np.array([0.66, 0.47, 0.4]) * shade
    for x in range(90, width - 200, 330):
        out[110:320, x : x + 160] = playmat(rng, 210, 40)[:, :160]
    return np.clip(out + 0.04 * noise(rng, height, width, (4, 25)), 0.0, 1.0)


def boards(rng: np.random.Generator, side: int = 900) -> Floats:
    """A wooden floor."""
    out = np.zeros((side, side, 3))
    for x in range(0, side, 60):
        out[:, x : x + 58] = np.array([0.55, 0.4, 0.27]) * rng.uniform(0.75, 1.2)
    return np.clip(out + 0.09 * noise(rng, side, side, (6, 40)), 0.0, 1.0)


def room(source: Path) -> World:
    """Toys on a table in a room; the table's top is z = 0."""
    rng, world = np.random.default_rng(0), World()
    for name, place, turn, scale in TOYS:
        world.toy(source / name, place, turn, scale)
    world.plane((-3.4, -3.4, 0.0), (6.8, 0, 0), (0, 6.8, 0), playmat(rng))
    world.plane((-12, -12, -4), (24, 0, 0), (0, 24, 0), boards(rng))
    for corner, across in (((-12, 12), (24, 0)), ((12, 12), (0, -24)), ((12, -12), (-24, 0)), ((-12, -12), (0, 24))):
        world.plane((*corner, 4.5), (*across, 0), (0, 0, -8.5), bricks(rng))
    return world


def cameras(count: int) -> list[Floats]:
    """Poses `[4 4]` (OpenCV) of a walk: once round, rising and falling, by hand."""
    rng, poses = np.random.default_rng(1), []
    for i in range(count):
        angle = 2.0 * np.pi * i / count
        radius, height = 5.6 + 0.5 * np.sin(3.0 * angle), 3.0 + 1.1 * np.sin(2.0 * angle + 0.5)
        eye = np.array([radius * np.cos(angle), radius * np.sin(angle), height]) + rng.normal(scale=0.08, size=3)
        forward = np.array([0.0, 0.0, 0.55]) + rng.normal(scale=0.12, size=3) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, np.array([0.0, 0.0, 1.0]) + rng.normal(scale=0.02, size=3))
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=-1)
        pose[:3, 3] = eye
        poses.append(pose)
    return poses


def photograph(world: World, pose: Floats, rng: np.random.Generator) -> Image.Image:
    total = np.zeros((HEIGHT * WIDTH, 3))
    for number in range(SAMPLES**2):
        offset = (np.array(divmod(number, SAMPLES)) + 0.5) / SAMPLES
        v, u = np.mgrid[:HEIGHT, :WIDTH] + offset[:, None, None]
        bent = np.stack(((u - 0.5 * WIDTH) / FOCAL, (v - 0.5 * HEIGHT) / FOCAL), axis=-1).reshape(-1, 2)
        straight = bent
        for _ in range(20):
            straight = bent / (1.0 + K1 * (straight**2).sum(-1, keepdims=True))
        directions = np.concatenate((straight, np.ones((len(bent), 1))), axis=-1) @ pose[:3, :3].T
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        total += world.colors(np.broadcast_to(pose[:3, 3], directions.shape), directions, rng)
    light = np.clip(total / SAMPLES**2, 0.0, 1.0)
    return Image.fromarray((255.0 * light + 0.5).astype(np.uint8).reshape(HEIGHT, WIDTH, 3))


def main(source: Path, target: Path, count: int = 32) -> None:
    target.mkdir(parents=True, exist_ok=True)
    world, rng = room(source), np.random.default_rng(2)
    for i, pose in enumerate(cameras(count)):
        photograph(world, pose, rng).save(target / f"IMG_{i + 1:04}.jpg", quality=85, optimize=True)
    (target / "README.md").write_text(README.format(count=count, height=HEIGHT, width=WIDTH))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
