"""What a format reads: the pictures of a scene with their cameras, before a pixel is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera
from hyperfields.errors import InputError, NoViews
from hyperfields.scenes._common import one_line, picture_size
from hyperfields.scenes._lenses import LARGEST
from hyperfields.scenes._splits import EVERY_8, SPLITS, Rule, by_lists

Array = NDArray[np.float64]
RIGID = 1e-3  # of a rotation's columns from orthonormal ones
ASPECT = 0.02  # by which the shapes of a picture, its camera and its mask may differ
NAMED = 3  # files that a line names


class Frame(NamedTuple):
    """One picture with its camera."""

    image: Path
    camera: Camera  # for the picture's own size; T_world_camera is float64, in the unit of the file
    mask: Path | None = None  # picture that is 0 where nothing counts
    hides: bool = False  # the mask is the other way round: it is 0 where pixels count
    circle: float | None = None  # of a fisheye: pixels further from the middle of the picture do not count
    alpha: Path | None = None  # grey picture with the alpha of the first


class Hints(NamedTuple):
    """What a scene's files say about where it is."""

    scale: float | None = None  # instant-ngp: p * scale + offset lies in the unit cube
    offset: Array | None = None  # [3]
    aabb_scale: float | None = None  # side of the cube round (0.5, 0.5, 0.5) that holds the scene
    up: Array | None = None  # [3]
    points: Array | None = None  # [n 3] on its surfaces, the file's unit


class Capture(Protocol):
    """A scene's folder as a format reads it. `frames` of a split raises InputError where there is none, or a fault."""

    @property
    def hints(self) -> Hints: ...

    @property
    def notes(self) -> Sequence[str]: ...  # about what was chosen or left out

    def frames(self, split: str) -> list[Frame]: ...


class Format(NamedTuple):
    """A layout of a scene's folder. `detect` looks at names only; `read` gives its pictures, divided by a rule, or as
    its files say (None). `size` (height, width) is what pictures will be brought to: where the same are there in
    several sizes, the smallest that suffice are read."""

    name: str
    wants: str  # what it looks for
    detect: Callable[[Path], bool]
    read: Callable[[Path, Rule | None, tuple[int, int] | None], Capture]


class Divided:
    """All pictures of a scene in one list, divided by a rule.

    Raises:
        InputError: no picture, or numbers in the rule that are not there.
    """

    def __init__(
        self,
        where: str,
        frames: Sequence[Frame],
        rule: Rule | None,
        *,
        hints: Hints = Hints(),  # noqa: B008
        notes: Sequence[str] = (),
        lists: dict[str, set[str]] | None = None,  # split -> names of pictures, where files say
        names: Sequence[str] | None = None,  # of the pictures, as in the lists; default their files'
    ) -> None:
        if not frames:
            raise InputError(f"{where}: no picture with a camera; wanted at least one")
        self.where, self._frames, self.hints = where, list(frames), hints
        if rule is None and lists and any(lists.values()):
            names = names or [frame.image.name for frame in frames]
            self._numbers, how = by_lists(names, lists), "by its lists of names"
            known = {*names, *(name.rpartition(".")[0] for name in names)}
            unknown = sorted(set().union(*lists.values()) - known)
            if unknown:
                notes = (*notes, f"{where}: {len(unknown)} names in its lists are no pictures ({named(unknown)})")
        else:
            rule = rule or EVERY_8
            try:
                self._numbers, how = rule.divide(len(frames)), str(rule)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        counts = " and ".join(f"{len(v)} {k}" for k, v in self._numbers.items() if k != "val" and v)
        self.notes = (*notes, f"split: {how} ({counts}); choose with --split every-8|0.9|all|...")

    def frames(self, split: str) -> list[Frame]:
        """The pictures of a split, in the order of their list."""
        chosen = [self._frames[i] for i in self._numbers.get(split, ())]
        if not chosen:
            there = [f"{name} {len(part)}" for name, part in self._numbers.items() if part]
            raise NoViews(
                f"{self.where}: none of its {len(self._frames)} pictures is for {split!r} ({', '.join(there)}); "
                "divide them with --split"
            )
        return chosen


def same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """True when two (height, width) have about the same ratio."""
    return abs(one[1] * other[0] / (one[0] * other[1]) - 1.0) <= ASPECT


def fitted(camera: Camera, image: Path, says: str, size: tuple[int, int] | None = None) -> Camera:
    """A camera brought to the size (height, width) that its picture has, which is looked at where it is not given.

    Raises:
        InputError: the picture has another shape.
    """
    height, width = size or picture_size(image)
    if (height, width) == (camera.height, camera.width):
        return camera
    if not same_shape((camera.height, camera.width), (height, width)):
        turned = same_shape((camera.width, camera.height), (height, width))
        remedy = "turn the picture back as it was taken" if turned else "mend h and w"
        raise InputError(
            f"{image}: is {height}x{width} (height x width) but {says} says {camera.height}x{camera.width}; {remedy}"
        )
    return camera.resized(height, width)


def require_rigid(pose: Array, where: str) -> None:
    """Nothing, when `[4 4]` is a rotation and a translation.

    Raises:
        InputError: it is not.
    """
    if pose.shape != (4, 4) or not (np.abs(pose) < LARGEST).all():
        raise InputError(f"{where} is not 3 or 4 rows of 4 finite numbers")
    rotation = pose[:3, :3]
    skew = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    straight = np.abs(pose[3] - (0.0, 0.0, 0.0, 1.0)).max() < RIGID
    if skew > RIGID or np.linalg.det(rotation) < 0.0 or not straight:
        raise InputError(
            f"{where} is not a rigid pose (columns off by {skew:.2g} from orthonormal, "
            f"determinant {np.linalg.det(rotation):.3g}, last row {pose[3].tolist()}); "
            "wanted a rotation, a translation and 0 0 0 1"
        )


def tensor_pose(pose: Array) -> torch.Tensor:
    """A pose `[4 4]` as a camera keeps it, float64."""
    return torch.from_numpy(np.ascontiguousarray(pose, dtype=np.float64))


def named(names: Sequence[str]) -> str:
    """The first names of several."""
    return ", ".join(f"{name:.100}" for name in names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def list_of_names(folder: Path, split: str) -> set[str]:
    """Names of pictures in a file like train.txt, one a line; empty where there is none."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        return set()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable list of names ({one_line(error)})") from error
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def lists_of_names(folder: Path) -> dict[str, set[str]]:
    """The lists of a folder, by split."""
    return {split: names for split in SPLITS if (names := list_of_names(folder, split))}
