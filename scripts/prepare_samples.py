"""Make scenes/samples from the full data: python scripts/prepare_samples.py FROM TO

FROM holds emoji/ (with its index.json), shapes_cars/ and cars_views/. The same versions of numpy and pillow
write the same bytes.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hyperfields.scenes._common import as_bytes, as_unit, read_rgba, resize_straight

T = TypeVar("T")
SIDE = 64
EMOJI, SHAPES, SETS = 64, 16, 12
VIEWS = {"train": 40, "val": 2, "test": 8}

README_EMOJI = """# Emoji faces

{count} of the face emoji of Noto Color Emoji, 64x64 RGBA PNG with straight alpha; a file is named after the
Unicode name of its character.

- Source: the bitmaps of the font in the Debian package fonts-noto-color-emoji 2.042 (136x128), cropped to
  128x128, here reduced to 64x64 (mean of 2x2 pixels under premultiplied alpha).
- Licence: the artwork Apache License 2.0, the font SIL Open Font License 1.1. Copyright 2013-2017 Google Inc.
"""
README_CARS = """- Source: 3-D models by Kenney (Car Kit 3.1, `k_*`) and Quaternius (Basic Car Pack, Car Pack,
  Public Transport Pack, Realistic Car Pack, `q_*`).
- Licence: CC0 1.0 (both authors).
"""
README_SHAPES = """# Car shapes

{count} road vehicles, closed binary PLY meshes of about 5,000 triangles; front towards -Y, +Z up.
They were wrapped at 0.5 % of the longest side, so edges are slightly rounded. Copied unchanged: only the
number of cars was reduced. The cars of `cars_views` are among them.

"""
README_VIEWS = """# Car views

{count} of the cars of `shapes_cars` as pictures: 64x64 RGBA PNG with straight alpha in the NeRF-synthetic
layout, {train} training, {val} validation and {test} test views each; longest side 2 in the box [-1, 1]^3,
front towards -Y, +Z up. The test views follow one path round all cars.
Rendered with Blender Cycles at 128x128; here reduced to 64x64 (mean of 2x2 pixels under premultiplied alpha)
and to fewer cars and views.

"""


def spread(items: list[T], count: int) -> list[T]:
    """`count` of the items, evenly spaced, the first among them."""
    return [items[i * len(items) // count] for i in range(count)]


def reduce_picture(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    rgba = as_bytes(resize_straight(as_unit(read_rgba(source)), (SIDE, SIDE)))
    rgba[rgba[..., 3] == 0] = 0  # nothing to see there, and it packs better
    Image.fromarray(np.ascontiguousarray(rgba)).save(target, optimize=True)


def main(source: Path, target: Path) -> None:
    entries = json.loads((source / "emoji" / "index.json").read_text())
    for entry in spread([e for e in entries if e["group"] == "face"], EMOJI):
        name = re.sub("[^a-z0-9]+", "-", entry["name"].lower())
        reduce_picture(source / "emoji" / entry["file"], target / "emoji" / f"{name}.png")
    (target / "emoji" / "README.md").write_text(README_EMOJI.format(count=EMOJI))

    cars = spread(sorted(path.stem for path in (source / "shapes_cars").glob("*.ply")), SHAPES)
    (target / "shapes_cars").mkdir()
    for name in cars:
        shutil.copyfile(source / "shapes_cars" / f"{name}.ply", target / "shapes_cars" / f"{name}.ply")
    (target / "shapes_cars" / "README.md").write_text(README_SHAPES.format(count=SHAPES) + README_CARS)

    for name in spread(cars, SETS):
        for split, count in VIEWS.items():
            content = json.loads((source / "cars_views" / name / f"transforms_{split}.json").read_text())
            frames = []
            for frame in spread(content["frames"], count):
                frames.append({key: frame[key] for key in ("file_path", "transform_matrix")})
                picture = f"{name}/{frame['file_path']}.png"
                reduce_picture(source / "cars_views" / picture, target / "cars_views" / picture)
            content = {"camera_angle_x": content["camera_angle_x"], "w": SIDE, "h": SIDE, "frames": frames}
            path = target / "cars_views" / name / f"transforms_{split}.json"
            path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    text = README_VIEWS.format(count=SETS, **VIEWS) + README_CARS
    (target / "cars_views" / "README.md").write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if Path(sys.argv[2]).exists():
        sys.exit(f"{sys.argv[2]}: exists already; remove it first")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
