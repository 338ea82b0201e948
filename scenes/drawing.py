"""Drawings of cameras, points and boxes: a picture, and a page that turns with the mouse and works offline."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hyperfields.scenes._common import write_whole

FloatArray = NDArray[np.float64]
PAGE = Path(__file__).with_name("cameras.html")
COLORS = {"train": (31, 119, 180), "test": (255, 127, 14), "val": (148, 103, 189)}
BOX, FLOOR, INK = (44, 160, 44), (225, 225, 225), (60, 60, 60)
PANEL, SHARPER = 520, 2  # pixels a side; drawn larger and reduced
POINTS = 6000  # drawn at most
WITHIN = 95.0  # per cent of the points that the view is made for
VIEWS = {"from above": (90.0, 0.0), "from the side": (0.0, 0.0), "at a slant": (28.0, 35.0)}  # elevation, turn, degrees
EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One scene: all in its own frame and unit."""

    name: str
    poses: FloatArray  # [v 4 4] T_world_camera, OpenCV
    slopes: FloatArray  # [v 2] half width and half height over focal length
    labels: list[str]  # of the cameras
    splits: list[str]  # of the cameras: a key of COLORS
    up: FloatArray  # [3]
    points: FloatArray  # [n 3]
    colors: NDArray[np.uint8]  # [n 3]
    box: tuple[float, FloatArray] | None  # half a side, centre [3]

    @classmethod
    def of(
        cls,
        name: str,
        poses: FloatArray,
        slopes: Any,
        labels: Sequence[str],
        *,
        splits: Sequence[str] | None = None,
        up: Any = (0.0, 0.0, 1.0),
        points: FloatArray | None = None,
        colors: NDArray[np.uint8] | None = None,
        box: tuple[float, FloatArray] | None = None,
    ) -> Drawing:
        """A drawing with at most `POINTS` points."""
        points = np.empty((0, 3)) if points is None else points
        colors = np.full((len(points), 3), 128, dtype=np.uint8) if colors is None else colors
        some = np.arange(len(points))
        if len(points) > POINTS:
            some = np.sort(np.random.default_rng(0).choice(len(points), POINTS, replace=False))
        return cls(
            name,
            poses,
            np.minimum(np.asarray(slopes, dtype=np.float64).reshape(-1, 2), 1.0),
            list(labels),
            list(splits) if splits is not None else ["train"] * len(labels),
            np.asarray(up, dtype=np.float64),
            points[some],
            colors[some],
            box,
        )

    def extent(self) -> tuple[FloatArray, float]:
        """Centre `[3]` and radius of what is to be seen: cameras, box and nearly all points."""
        shown = [self.poses[:, :3, 3]]
        if self.box is not None:
            shown.append(self.corners())
        if len(self.points):
            middle = np.median(self.points, axis=0)
            far = np.linalg.norm(self.points - middle, axis=-1)
            near = self.points[far <= np.percentile(far, WITHIN)]
            reach = 3.0 * np.linalg.norm(self.poses[:, :3, 3] - middle, axis=-1).max()
            shown.append(near[np.linalg.norm(near - middle, axis=-1) <= reach])
        every = np.concatenate(shown)
        center = 0.5 * (every.min(axis=0) + every.max(axis=0))
        return center, max(float(np.linalg.norm(every - center, axis=-1).max()), 1e-9)

    def corners(self) -> FloatArray:
        """Corners of the box `[8 3]`; the bits of their numbers say on which side of x, y and z."""
        assert self.box is not None
        signs = np.array([[1.0 if i & bit else -1.0 for bit in (1, 2, 4)] for i in range(8)])
        return np.asarray(self.box[1] + self.box[0] * signs)

    def depth(self, radius: float) -> float:
        """How far cameras are drawn: seen, and not across each other."""
        places = self.poses[:, :3, 3]
        spread = float(np.linalg.norm(places - places.mean(axis=0), axis=-1).max())
        return min(0.11 * radius, 0.25 * spread) if spread > 0.0 else 0.11 * radius

    def frusta(self, depth: float) -> FloatArray:
        """Per camera its centre and the four corners of its picture, at a depth: `[v 5 3]`."""
        signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        local = np.concatenate((self.slopes[:, None] * signs, np.ones((len(self.slopes), 4, 1))), axis=-1) * depth
        corners = np.einsum("vij,vkj->vki", self.poses[:, :3, :3], local) + self.poses[:, None, :3, 3]
        return np.concatenate((self.poses[:, None, :3, 3], corners), axis=1)


def write_png(path: Path, drawing: Drawing) -> None:
    """Three views side by side, without perspective."""
    picture = Image.new("RGB", (PANEL * len(VIEWS) * SHARPER, (PANEL + 30) * SHARPER), "white")
    for i, (title, (elevation, turn)) in enumerate(VIEWS.items()):
        panel = Image.new("RGB", (PANEL * SHARPER, PANEL * SHARPER), "white")
        _draw(ImageDraw.Draw(panel), drawing, np.radians(elevation), np.radians(turn))
        picture.paste(panel, (i * PANEL * SHARPER, 30 * SHARPER))
        text = title if i else f"{drawing.name}: {len(drawing.poses)} cameras, {title}"
        ImageDraw.Draw(picture).text(
            ((i * PANEL + 12) * SHARPER, 8 * SHARPER), text, fill=INK, font=ImageFont.load_default(14 * SHARPER)
        )
    small = picture.resize((picture.width // SHARPER, picture.height // SHARPER), Image.Resampling.BOX)
    stored = io.BytesIO()
    small.quantize(128).save(stored, "PNG", optimize=True)
    write_whole(path, stored.getvalue())


def _draw(draw: ImageDraw.ImageDraw, drawing: Drawing, elevation: float, turn: float) -> None:
    center, radius = drawing.extent()
    right, down = _axes(drawing.up, elevation, turn)
    scale = 0.46 * PANEL * SHARPER / radius
    middle = 0.5 * PANEL * SHARPER

    def flat(points: FloatArray) -> FloatArray:
        return np.asarray(middle + scale * (points - center) @ np.stack((right, down), axis=-1))

    for (x, y), color in zip(flat(drawing.points), drawing.colors.tolist(), strict=True):
        draw.rectangle((x - SHARPER, y - SHARPER, x + SHARPER, y + SHARPER), fill=tuple(color))
    if drawing.box is not None:
        corners = flat(drawing.corners())
        for a, b in EDGES:
            draw.line((*corners[a], *corners[b]), fill=BOX, width=SHARPER)
    for corners, split in zip(flat(drawing.frusta(drawing.depth(radius))), drawing.splits, strict=True):
        color = COLORS.get(split, INK)
        for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
            draw.line((*corners[a], *corners[b]), fill=color, width=SHARPER if a else 1)
        x, y = corners[0]
        draw.ellipse((x - 3 * SHARPER, y - 3 * SHARPER, x + 3 * SHARPER, y + 3 * SHARPER), fill=color)


def _axes(up: FloatArray, elevation: float, turn: float) -> tuple[FloatArray, FloatArray]:
    """Right and down `[3]` of a picture by a camera that looks at the scene."""
    up = up / np.linalg.norm(up)
    side = np.array([1.0, 0.0, 0.0]) if abs(up[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    side = side - (side @ up) * up
    side = side / np.linalg.norm(side)
    ahead = np.cross(up, side)
    right = np.cos(turn) * side + np.sin(turn) * ahead
    return right, -np.cos(elevation) * up - np.sin(elevation) * np.cross(up, right)


def write_html(path: Path, drawings: Sequence[Drawing]) -> None:
    """A page that turns with the mouse."""
    content = json.dumps([_plain(drawing) for drawing in drawings], separators=(",", ":"))
    page = PAGE.read_text().replace("/*SCENES*/[]", content.replace("<", "\\u003c"))
    write_whole(path, page.encode())


def _plain(drawing: Drawing) -> dict[str, Any]:
    center, radius = drawing.extent()
    right, _ = _axes(drawing.up, 0.0, 0.0)
    return {
        "name": drawing.name,
        "center": _rounded(center),
        "radius": radius,
        "up": _rounded(drawing.up / np.linalg.norm(drawing.up)),
        "right": _rounded(right),
        "cameras": _rounded(drawing.frusta(0.7 * drawing.depth(radius))),
        "labels": drawing.labels,
        "splits": drawing.splits,
        "points": _rounded(drawing.points.reshape(-1)),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in drawing.colors.tolist()],
        "box": None if drawing.box is None else _rounded(drawing.corners()),
    }


def _rounded(values: FloatArray) -> Any:
    scale = float(np.abs(values).max()) if values.size else 1.0
    digits = max(0, 5 - int(np.floor(np.log10(max(scale, 1e-300)))))
    return np.round(values, digits).tolist()
