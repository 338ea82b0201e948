"""Families of scenes read from folders: images, shapes, posed views."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from hyperfields.data import KINDS, Kind, SceneDataset
from hyperfields.errors import InputError
from hyperfields.scenes._common import IMAGE_SUFFIXES, visible_files
from hyperfields.scenes.images import Images, open_images
from hyperfields.scenes.meshes import MESH_SUFFIXES, Progress, Shapes, open_meshes
from hyperfields.scenes.views import Views, open_views, scene_folders

__all__ = ["Images", "Shapes", "Views", "detect_kind", "open_family"]


def open_family(
    path: str | PathLike[str],
    *,
    kind: Kind | None = None,
    size: tuple[int, int] | None = None,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    views: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> SceneDataset:
    """Open a folder of images, meshes or scene folders; its `kind` says which it was.

    Args:
        path: a folder of pictures, of meshes, of scene folders (NeRF-synthetic layout), or one such scene.
        kind: needed only when the folder holds several kinds.
        size: (height, width) of the pictures, for images and views.
        scenes: names or fnmatch patterns; default all.
        limit: only the first so many by name, counted after `scenes`.
        views: numbers of the training pictures to use, for views only; default all.
        progress: called as (done, total, name) after each shape.

    Raises:
        InputError: the folder or something in it cannot be used: see `open_images`, `open_meshes`,
            `open_views`.
    """
    folder = Path(path)
    kind = detect_kind(folder) if kind is None else kind
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} came, wanted one of {', '.join(KINDS)}")
    held = _kinds(folder)
    if kind not in held:
        raise InputError(f"{folder}: holds no {kind}, but {' and '.join(held) or 'nothing to fit'}")
    if size is not None and min(size) < 1:
        raise InputError(f"size: {size[0]}x{size[1]} came, wanted HxW of at least 1x1")
    if views is not None and kind != "views":
        raise InputError(f"views: are for a family of views, but this one holds {kind}; leave it out")
    if kind == "shapes":
        if size is not None:
            raise InputError("size: is for images and views, but the family holds shapes; leave it out")
        return open_meshes(folder, scenes=scenes, limit=limit, progress=progress)
    if kind == "images":
        return open_images(folder, size=size, scenes=scenes, limit=limit)
    return open_views(folder, size=size, scenes=scenes, limit=limit, views=views)


def detect_kind(path: str | PathLike[str]) -> Kind:
    """What a folder holds: "images", "shapes" or "views".

    Raises:
        InputError: no folder, an empty one, nothing in it that can be fitted, or more than one kind.
    """
    folder = Path(path)
    held = _kinds(folder)
    if any(folder.glob("transforms*.json")):
        return "views"  # pictures beside a transforms file are its views
    if len(held) > 1:
        raise InputError(f"{folder}: holds {' and '.join(held)}; say which with --kind {'|'.join(held)}")
    if not held:
        raise InputError(
            f"{folder}: nothing to fit in it; wanted pictures ({', '.join(IMAGE_SUFFIXES)}), meshes "
            f"({', '.join(MESH_SUFFIXES)}) or scene folders with transforms_train.json"
        )
    return held[0]


def _kinds(folder: Path) -> list[Kind]:
    """The kinds that a folder holds; raises InputError when it is no readable folder or an empty one."""
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; wanted the folder of a family")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; wanted the folder that holds the family")
    try:
        if not any(folder.iterdir()):
            raise InputError(f"{folder}: is empty; wanted pictures, meshes or scene folders")
        holds = {
            "images": bool(visible_files(folder, IMAGE_SUFFIXES)),
            "shapes": bool(visible_files(folder, MESH_SUFFIXES)),
            "views": bool(scene_folders(folder)),
        }
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [kind for kind in KINDS if holds[kind]]
