"""Scene folders of ShapeNet-SRN (Scene Representation Networks): intrinsics.txt, pose/*.txt and rgb/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._common import IMAGE_SUFFIXES, one_line, visible_files
from hyperfields.scenes._frames import (
    Array,
    Divided,
    Format,
    Frame,
    fitted,
    lists_of_names,
    named,
    require_rigid,
    tensor_pose,
)
from hyperfields.scenes._lenses import colmap_camera
from hyperfields.scenes._splits import Rule

INTRINSICS = "intrinsics.txt"


def read_srn(folder: Path, rule: Rule | None, size: tuple[int, int] | None = None) -> Divided:
    """The pictures of a scene by name, with poses camera to world, OpenCV, 16 numbers a file.

    Raises:
        InputError: intrinsics or a pose that cannot be, a picture without a pose, a pose without a picture.
    """
    path = folder / INTRINSICS
    focal, cx, cy, height, width, inverted = _intrinsics(path)
    pictures = {p.stem: p for p in visible_files(folder / "rgb", IMAGE_SUFFIXES)}
    poses = {p.stem: p for p in visible_files(folder / "pose", (".txt",))}
    for these, others, what in ((pictures, poses, "pose"), (poses, pictures, "picture")):
        missing = [these[stem].name for stem in sorted(these) if stem not in others]
        if missing:
            raise InputError(f"{folder}: {len(missing)} of {len(these)} without a {what} ({named(missing)})")
    frames = []
    for stem in sorted(pictures):
        pose: Array = _numbers(poses[stem], 16).reshape(4, 4)
        require_rigid(pose, f"{poses[stem]}: the pose")
        if inverted:
            pose = np.asarray(np.linalg.inv(pose), dtype=np.float64)
        params = (focal, cx, cy)
        camera = colmap_camera(tensor_pose(pose), "SIMPLE_PINHOLE", params, (height, width), str(path))
        frames.append(Frame(pictures[stem], fitted(camera, pictures[stem], INTRINSICS)))
    names = [frame.image.name for frame in frames]
    return Divided(str(folder / "rgb"), frames, rule, lists=lists_of_names(folder), names=names)


def _intrinsics(path: Path) -> tuple[float, float, float, int, int, bool]:
    """Focal length, principal point, height, width, and whether poses are world to camera.

    Lines: f cx cy 0; the middle of the object's box; the nearest depth; height width; and perhaps 1 for poses world to
    camera.
    """
    words = _numbers(path)
    if len(words) not in (10, 11):
        raise InputError(f"{path}: {len(words)} numbers came, wanted f cx cy 0, 0 0 0, near, height width")
    height, width = words[8], words[9]
    if not (1.0 <= height < 1e5 and 1.0 <= width < 1e5 and height % 1.0 == 0.0 and width % 1.0 == 0.0):
        raise InputError(f"{path}: height {height:g}, width {width:g}; wanted whole pixels")
    focal, cx, cy = map(float, words[:3])
    return focal, cx, cy, int(height), int(width), len(words) == 11 and words[10] != 0.0


def _numbers(path: Path, count: int | None = None) -> Array:
    """The finite numbers of a small text file."""
    try:
        words = path.read_text(encoding="utf-8-sig").split()
        numbers = np.array([float(word) for word in words], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as numbers ({one_line(error)})") from error
    if (count is not None and len(numbers) != count) or not np.isfinite(numbers).all():
        raise InputError(f"{path}: {len(numbers)} numbers came, wanted {count or 'some'} that are finite")
    return numbers


SRN = Format(
    name="srn",
    wants="intrinsics.txt with pose and rgb (ShapeNet-SRN)",
    detect=lambda folder: (folder / INTRINSICS).is_file() and (folder / "rgb").is_dir(),
    read=read_srn,
)
