"""Scene folders of posed pictures, in the formats of many programs, as views."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hyperfields.data import Views
from hyperfields.data.boxes import Box
from hyperfields.data.pictures import MEMORY
from hyperfields.data.shapes import Progress
from hyperfields.errors import InputError
from hyperfields.scenes._box import hinted_box, hinted_up, largest_box
from hyperfields.scenes._common import IMAGE_SUFFIXES, plain_name, select, visible_files, visible_folders
from hyperfields.scenes._frames import Format, Frame, named
from hyperfields.scenes._posed import Capture, open_posed
from hyperfields.scenes._splits import Rule, parse_split
from hyperfields.scenes._transforms import TRANSFORMS
from hyperfields.scenes.colmap import COLMAP
from hyperfields.scenes.llff import LLFF
from hyperfields.scenes.meshes import axis_of
from hyperfields.scenes.polycam import POLYCAM
from hyperfields.scenes.reader import Reader
from hyperfields.scenes.srn import SRN

FORMATS: tuple[Format, ...] = (TRANSFORMS, COLMAP, LLFF, SRN, POLYCAM)  # of a folder with several, the first is read


class Measured(NamedTuple):
    """What is known of scenes that are only measured: their training pictures may be missing."""

    split: str  # the one that is measured, whose pictures then stand for them
    frames: Mapping[str, Sequence[float]]  # scale and centre by scene, of those that are not (1, 0, 0, 0)


# What other programs export without a file that is read -> how to make one of it.
FOREIGN = {
    "Record3D": (("metadata", "metadata.json"), ("rgb", "rgbd"), "ns-process-data record3d --data"),
    "Metashape": (("cameras.xml",), (), "ns-process-data metashape --xml cameras.xml --data"),
    "OpenDroneMap": (("odm_report/shots.geojson", "opensfm/reconstruction.json"), (), "ns-process-data odm --data"),
}


def foreign_capture(folder: Path) -> str | None:
    """What a folder is that another program exported, and how it becomes one that is read; None for any other."""
    for program, (files, folders, command) in FOREIGN.items():
        if any((folder / name).is_file() for name in files) and (
            not folders or any((folder / name).is_dir() for name in folders)
        ):
            return (
                f"{folder} is {program}'s own export; make a transforms.json of it with nerfstudio's {command} {folder}"
            )
    return None


def format_of(folder: Path) -> Format | None:
    """The format of a scene's folder, by names; None where there is none."""
    return next((known for known in FORMATS if known.detect(folder)), None)


def scene_folders(path: Path) -> dict[str, Path]:
    """Scene name -> folder: `path` itself if it is a scene, else those of its sub-folders that are."""
    if format_of(path):
        return {plain_name(path.resolve().name): path}
    return {plain_name(p.name): p for p in visible_folders(path) if format_of(p)}


def open_views(
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    views: Sequence[int] | None = None,
    background: str | None = None,
    up: str | None = None,
    split: str | None = None,
    measured: Measured | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Views:
    """Read a folder whose sub-folders are scenes, of one format or of several, or one scene.

    Formats: transforms files of NeRF-synthetic, instant-ngp and nerfstudio; models of COLMAP; LLFF's poses_bounds.npy;
    ShapeNet-SRN. docs/captures.md says what is read of each. Poses are brought into the box [-1, 1]^3, see
    `data.boxes`. Pixels that a mask leaves out are neither fitted nor measured.

    Args:
        size: (height, width) to which pictures and cameras are brought; by default each picture keeps its own.
        views: numbers of the training pictures to use, default all; the others are in no split. The box is found from
            the cameras of all.
        background: of pictures without alpha: a colour that is cut out, or "scene", every pixel shows the scene.
            Default: the colour of their borders where that is even, else "scene".
        up: the axis of the file that is up in pictures from new cameras, "x", "-y" ...; default found from the cameras.
        split: how the pictures of each scene are divided: "files", "every-8", "0.9" (the share for training), "all", or
            numbers of the training pictures. Default: as files say, else every eighth by name is for the test.
        measured: for measuring only, see `Measured`.
        memory: bytes of training pictures that are kept in memory, default 2 GiB; more of them go to a temporary file.
        progress: called as (pictures done, in all, scene).

    Raises:
        InputError: a file that says where cameras are is missing, damaged, or has something that is not read; a picture
            that is missing, broken, of another shape than its camera, or outside of its scene's folder; a pose that is
            not rigid; a background for pictures with alpha; a full disk.
    """
    rule = parse_split(split)
    folders = scene_folders(folder)
    if not folders:
        raise InputError(
            f"{folder}: no scene in it or in a folder of it; wanted {' or '.join(f.wants for f in FORMATS)}"
        )
    chosen = select(list(folders), scenes, limit)
    opened = open_posed(
        [_capture(name, folders[name], rule, size, measured) for name in chosen],
        size=size,
        views=views,
        background=background,
        up=None if up is None else axis_of(up),
        memory=MEMORY if memory is None else memory,
        progress=progress,
    )
    others = [p.name for p in visible_folders(folder) if p not in folders.values()]
    if others and folder not in folders.values():
        opened.notes = (f"{folder}: folders that hold no scene are left out ({named(others)})", *opened.notes)
    return opened


def _capture(
    name: str, folder: Path, rule: Rule | None, size: tuple[int, int] | None, measured: Measured | None
) -> Capture:
    """A scene; its cameras are read now, its pictures later."""
    known = format_of(folder)
    assert known is not None
    found = known.read(folder, rule, size)
    hints, box = found.hints, hinted_box(found.hints)
    if measured is not None:
        scale, x, y, z = measured.frames.get(name, (1.0, 0.0, 0.0, 0.0))
        box = Box(scale, (x, y, z), "as it was fitted")

    @functools.cache  # it looks at the heads of all pictures
    def frames(split: str) -> Sequence[Frame]:
        if measured is None or split != "train":
            return found.frames(split)
        try:
            return found.frames(split)
        except InputError:
            return found.frames(measured.split)

    return Capture(name, frames, box, largest_box(hints), hinted_up(hints), hints.points, found.notes, folder)


def _claims(folder: Path) -> bool:
    """Pictures and meshes beside what says where the cameras are belong to the scene, and so do those in its folder."""
    if format_of(folder) is not None:
        return True
    return bool(scene_folders(folder)) and not visible_files(folder, IMAGE_SUFFIXES)


READER = Reader(
    kind="views",
    name="captures",
    wants=f"scene folders with {', '.join(known.wants for known in FORMATS)}",
    detect=lambda folder: bool(scene_folders(folder)),
    open=open_views,
    options=frozenset({"size", "views", "background", "up", "split", "measured", "memory", "progress"}),
    claims=_claims,
    names=lambda folder: list(scene_folders(folder)),
)
