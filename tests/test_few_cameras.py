"""The box of a scene that is known from one, two or four pictures, against that of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hyperfields.data import Views
from hyperfields.scenes import open_family

from ._captures import cameras, gl_pose, intrinsics, photograph, save

SCALE, CENTER = 7.0, (30.0, -20.0, 5.0)  # of the capture's unit: nothing is where cameras usually stand


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of radius 0.5 in the middle of twelve cameras, with alpha."""
    scene = tmp_path_factory.mktemp("few") / "ball"
    frames = []
    for number, camera in enumerate(cameras(12)):
        save(scene / "images" / f"{number:02d}.png", photograph(camera, alpha=True))
        pose = np.array(gl_pose(camera))
        pose[:3, 3] = pose[:3, 3] * SCALE + CENTER
        frames.append(
            {"file_path": f"images/{number:02d}.png", **intrinsics(camera), "transform_matrix": pose.tolist()}
        )
    (scene / "transforms.json").write_text(json.dumps({"frames": frames}))
    return scene


@pytest.mark.parametrize("numbers", [(0,), (5,), (0, 3), (1, 2), (0, 3, 6, 9)])
@pytest.mark.parametrize("by", ["split", "views"])
def test_the_box_of_few_views(folder: Path, numbers: tuple[int, ...], by: str) -> None:
    if by == "split":  # the others are for the test
        data = open_family(folder, split=",".join(map(str, numbers)))
    else:
        data = open_family(folder, split="all", views=numbers)
    assert isinstance(data, Views)
    scale, *center = data.frames[0]
    assert np.allclose(center, CENTER, atol=0.1 * SCALE)
    assert 0.95 * 0.5 * SCALE <= scale <= 1.7 * 0.5 * SCALE  # pixels are coarse
