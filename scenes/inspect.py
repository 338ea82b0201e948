"""What a folder holds as `fit` reads it: scenes, splits, sizes, cameras, boxes; what is left out, and why."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera
from hyperfields.data import Mesh, SceneDataset, Views
from hyperfields.errors import InputError
from hyperfields.scenes import READERS, _reader, open_family, views
from hyperfields.scenes._common import write_whole
from hyperfields.scenes.drawing import Drawing, write_html, write_png

Progress = Callable[[int, int, str], None]
SPLITS = ("train", "val", "test")
RAYS = 400  # of a picture that are looked at
DRAWN = 64  # scenes in a page


def inspect_family(
    path: str | Path, *, out: Path | None = None, progress: Progress | None = None, **reading: Any
) -> dict[str, Any]:
    """What `fit` would find in a folder, as JSON can hold it.

    Args:
        out: a folder for family.json and, for views, cameras.png (of the first scene) and cameras.html (of all).
        progress: called as (done, total, name) after each scene.
        reading: options of `open_family`.

    Raises:
        InputError: the folder or something in it cannot be used.
    """
    path = Path(path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        data = open_family(path, progress=progress, **reading)
    found: dict[str, Any] = {
        "path": str(path),
        "kind": data.kind,
        "format": _format(path, reading.get("kind")),
        "scenes": [],
        "background": getattr(data, "background", None),
        "up": list(getattr(data, "up", ())) or None,
        "notes": list(getattr(data, "notes", ())),
        "left_out": [str(warning.message) for warning in warned],
    }
    folders = views.scene_folders(path) if isinstance(data, Views) else {}
    drawings = []
    for number, name in enumerate(data.names):
        if isinstance(data, Views):
            scene, drawing = _views(data, number, folders.get(name))
            drawings.append(drawing)
        else:
            scene = _other(data, number)
        found["scenes"].append({"name": name, **scene})
        if progress is not None:
            progress(number + 1, len(data.names), name)
    if out is not None:
        _write(out, found, drawings)
    return found


def _format(path: Path, kind: str | None) -> str:
    """The name of a folder's format, of scenes of posed pictures those of all of them."""
    reader = _reader(path, kind, READERS)
    if reader is not views.READER:
        return reader.name
    known = [known for folder in views.scene_folders(path).values() if (known := views.format_of(folder))]
    return ", ".join(sorted({one.name for one in known}))


def _points(folder: Path | None) -> NDArray[np.float64] | None:
    """Points `[n 3]` on a scene's surfaces, the files' unit, where the files have some."""
    known = None if folder is None else views.format_of(folder)
    return None if folder is None or known is None else known.read(folder, None, None).hints.points


def _views(data: Views, number: int, folder: Path | None) -> tuple[dict[str, Any], Drawing]:
    """A scene of posed pictures, and the drawing of its cameras in the box's frame."""
    splits: dict[str, int] = {}
    cameras: list[Camera] = []
    labels, kinds, masks = [], [], 0
    sizes: Counter[str] = Counter()
    opaque, rays, missed = True, 0, 0
    for split in SPLITS:
        try:
            views = data.reference(number, split)
        except InputError:
            continue
        splits[split] = len(views)
        for i, view in enumerate(views):
            cameras.append(view.camera)
            labels.append(f"{split} {i}")
            kinds.append(split)
            sizes[f"{view.camera.height}x{view.camera.width}"] += 1
            masks += view.mask is not None
            alpha = view.rgba[..., 3]
            opaque = opaque and bool((alpha == 1.0).all())
            visible = alpha > 0.5 if view.mask is None else (alpha > 0.5) & view.mask
            if split == "train":
                count, miss = _outside(view.camera, visible)
                rays, missed = rays + count, missed + miss
    scale, *center = data.frames[number]
    points = _points(folder)
    poses = np.stack([camera.T_world_camera.detach().double().cpu().numpy() for camera in cameras])
    distance = scale * np.linalg.norm(poses[:, :3, 3], axis=-1)
    scene = {
        "splits": splits,
        "sizes": dict(sizes),
        "alpha": not opaque,
        "masks": masks,
        "cameras": _lenses(cameras),
        "box": {"half_side": scale, "center": center},
        "distance": {"nearest": float(distance.min()), "farthest": float(distance.max())},
        "outside": missed / rays if rays else 0.0,
        "points": 0 if points is None else len(points),
    }
    drawing = Drawing.of(
        data.names[number],
        poses,
        [(0.5 * camera.width / camera.fx, 0.5 * camera.height / camera.fy) for camera in cameras],
        labels,
        splits=kinds,
        up=data.up,
        points=None if points is None else (points - np.array(center)) / scale,
        box=(1.0, np.zeros(3)),
    )
    return scene, drawing


def _lenses(cameras: list[Camera]) -> list[dict[str, Any]]:
    """Intrinsics that differ by more than rounding, each with the number of its pictures."""
    groups: dict[Any, dict[str, Any]] = {}
    for camera in cameras:
        lens = camera.lens
        values = {
            "model": "PINHOLE" if lens is None else lens.model,
            "fx": camera.fx,
            "fy": camera.fy,
            "cx": camera.cx,
            "cy": camera.cy,
            "coefficients": [] if lens is None else list(lens.coefficients),
        }
        key = json.dumps({name: _short(value) for name, value in values.items()})
        groups.setdefault(key, {**values, "pictures": 0})["pictures"] += 1
    return list(groups.values())


def _short(value: Any) -> Any:
    return (
        [f"{one:.4g}" for one in value]
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else f"{value:.5g}"
    )


def _outside(camera: Camera, visible: torch.Tensor) -> tuple[int, int]:
    """How many rays of some visible pixels there are, and how many of them miss the box [-1, 1]^3."""
    index = visible.reshape(-1).nonzero().squeeze(1)
    index = index[torch.linspace(0, len(index) - 1, min(RAYS, len(index)), dtype=torch.float64).long()]
    origins, directions = (part.reshape(-1, 3)[index].double() for part in camera.rays())
    low, high = (-1.0 - origins) / directions, (1.0 - origins) / directions
    enter = torch.minimum(low, high).nan_to_num(-torch.inf).amax(-1).clamp(min=0.0)
    leave = torch.maximum(low, high).nan_to_num(torch.inf).amin(-1)
    return len(index), int((enter > leave).sum())


def _other(data: SceneDataset, number: int) -> dict[str, Any]:
    reference = data.reference(number, "test")
    if isinstance(reference, Mesh):
        return {
            "triangles": len(reference.faces),
            "vertices": len(reference.vertices),
            "box": {"half_side": reference.scale, "center": list(reference.center)},
            "up": list(reference.up),
        }
    height, width = reference.shape[:2]  # type: ignore[union-attr]
    return {"size": f"{height}x{width}"}


def _write(out: Path, found: dict[str, Any], drawings: list[Drawing]) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; wanted a folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "family.json", json.dumps(found, indent=1).encode())
    if drawings:
        write_png(out / "cameras.png", drawings[0])
        write_html(out / "cameras.html", drawings[:DRAWN])


def family_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """`inspect_family` as rows of a table."""
    scenes = found["scenes"]
    names = ", ".join(scene["name"] for scene in scenes[:4]) + (", ..." if scenes[4:] else "")
    rows = [
        ("family", found["path"]),
        ("kind", f"{found['kind']} (read as {found['format']})"),
        ("scenes", f"{len(scenes)}: {names}"),
    ]
    if found["kind"] == "views":
        rows += _view_rows(found)
    elif found["kind"] == "shapes":
        sides = [2.0 * scene["box"]["half_side"] for scene in scenes]
        rows.append(("triangles", _span([scene["triangles"] for scene in scenes], "{:,}")))
        rows.append(("box", f"side {_span(sides, '{:.4g}')}, unit of the files"))
        axes = Counter(_axis(scene["up"]) for scene in scenes)
        several = ", ".join(f"{axis} of {count:,}" for axis, count in axes.most_common())
        rows.append(("up", several if len(axes) > 1 else next(iter(axes))))
    else:
        rows.append(("pictures", ", ".join(dict.fromkeys(scene["size"] for scene in scenes)) + " (height x width)"))
    rows += [("left out", text) for text in found["left_out"]]
    return rows + [("note", text) for text in found["notes"]]


def _view_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    scenes = found["scenes"]
    counts = []
    for split in SPLITS:
        numbers = [scene["splits"].get(split, 0) for scene in scenes]
        if any(numbers):
            counts.append(f"{_span(numbers, '{:,}')} {split}")
    each = " each" if len(scenes) > 1 else ""
    sizes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for scene in scenes:
        sizes.update(scene["sizes"])
        models.update(lens["model"] for lens in scene["cameras"])
    several = [f"{size} ({count:,})" for size, count in sizes.most_common(4)] if len(sizes) > 1 else list(sizes)
    kinds = ", ".join(f"{count:,} {model}" for model, count in models.items())
    focal = _span([lens["fx"] for scene in scenes for lens in scene["cameras"]], "{:.4g}")
    distance = _span([value for scene in scenes for value in scene["distance"].values()], "{:.3g}")
    box = scenes[0]["box"]
    place = ", ".join(f"{value:.4g}" for value in box["center"])
    whose = "" if all(scene["box"] == box for scene in scenes) else f" ({scenes[0]['name']}; others differ)"
    worst = max(scenes, key=lambda scene: float(scene["outside"]))
    where = f", most in {worst['name']}" if len(scenes) > 1 and worst["outside"] else ""
    masks = sum(scene["masks"] for scene in scenes)
    points = _span([scene["points"] for scene in scenes], "{:,}")
    transparent = sum(scene["alpha"] for scene in scenes)
    back = "transparent" if transparent == len(scenes) else "none, every pixel shows the scene"
    if found["background"]:
        back = f"{found['background']}, cut out"
    return [
        ("pictures", f"{', '.join(counts)}{each}; {', '.join(several)}{', ...' * (len(sizes) > 4)} (height x width)"),
        ("cameras", f"{kinds}; focal length {focal} pixels"),
        ("box", f"side {2.0 * box['half_side']:.4g} round ({place}), unit of the files{whose}"),
        ("distance", f"cameras are {distance} from the middle of the box"),
        ("outside", f"{worst['outside']:.1%} of what pictures show misses the box{where}"),
        ("up", _axis(found["up"])),
        ("background", back),
        ("masks", f"{masks:,} pictures" if masks else "none"),
        ("points", points if points != "0" else "none"),
    ]


def _span(values: list[Any], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _axis(up: list[float]) -> str:
    for i, name in enumerate("xyz"):
        for sign in (1.0, -1.0):
            if abs(up[i] - sign) < 1e-6:
                return f"{'-' * (sign < 0)}{name}"
    return ", ".join(f"{value:.3f}" for value in up)
