"""Scene folders with a model of COLMAP, in text or binary, by pycolmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyperfields.errors import InputError
from hyperfields.scenes._colmap_files import check_model, count_images, names_in, suffix_of
from hyperfields.scenes._common import one_line, visible_folders
from hyperfields.scenes._frames import (
    Divided,
    Format,
    Frame,
    Hints,
    fitted,
    lists_of_names,
    named,
    require_rigid,
    tensor_pose,
)
from hyperfields.scenes._lenses import colmap_camera
from hyperfields.scenes._photos import find_photos, mask_of
from hyperfields.scenes._points import some_points
from hyperfields.scenes._splits import Rule

# Where models lie in a scene's folder, the first that holds some; a folder of numbers is one model each.
PLACES = ("sparse", "colmap/sparse", "dense/sparse", "colmap", "colmap_sparse", "colmap_text", "text", "model", "")


def models_of(folder: Path) -> list[Path]:
    """The models of a scene's folder: of `sparse`, of its folders, or the folder itself."""
    for place in PLACES:
        base = folder / place
        candidates = [folder] if not place else [base, *(visible_folders(base) if base.is_dir() else ())]
        if found := [path for path in candidates if _is_model(path)]:
            return found
    return []


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def detect(folder: Path) -> bool:
    """True for a folder with a model in a place of its own; a folder of pictures may lie beside it."""
    return bool(models_of(folder))


def read_colmap(folder: Path, rule: Rule | None, size: tuple[int, int] | None = None) -> Divided:
    """The pictures of the largest model of a scene.

    Raises:
        InputError: pycolmap is missing; a model that is damaged, without pictures, or with a camera that is not read;
            pictures that are not there.
    """
    models = models_of(folder)
    if not models:
        raise InputError(f"{folder}: no model of COLMAP; wanted sparse/0 with cameras, images and points3D")
    counts = {model: count_images(model) for model in models}
    model = max(models, key=lambda path: counts[path])
    notes = []
    if len(models) > 1:
        others = [f"{path.name} with {counts[path]}" for path in models if path != model]
        notes.append(f"model: {model}, with {counts[model]} pictures, is read; left out: {named(others)}")
    check_model(model)
    images, points = _read(model)
    unposed = sorted(name for name, pose, *_ in images if pose is None)
    if unposed:
        notes.append(f"{model}: {len(unposed)} pictures without a pose are left out ({named(unposed)})")
    posed = sorted((image for image in images if image[1] is not None), key=lambda image: image[0])
    if not posed:
        raise InputError(f"{model / ('images' + suffix_of(model))}: no picture with a pose; wanted at least one")
    names = [name for name, *_ in posed]
    roots = [folder, *[parent for parent in model.parents if parent.is_relative_to(folder)], *folder.parents[:2]]
    photos = find_photos(roots, names, size)
    if photos is None:
        raise InputError(
            f"{folder}: none of the {len(names)} pictures of {model} is there ({named(names)}); put them into "
            f"{folder / 'images'}"
        )
    if photos.missing:
        notes.append(
            f"{photos.folder}: {len(photos.missing)} of {len(names)} pictures of {model} are not there and left "
            f"out ({named(photos.missing)})"
        )
    notes += [photos.note] if photos.note else []
    frames, kept = [], []
    for name, pose, number, camera_model, params, shape in posed:
        if name not in photos.found:
            continue
        where = f"{model}: camera {number} of {name}"
        camera = colmap_camera(tensor_pose(pose), camera_model, params, shape, where)
        image = photos.found[name]
        frames.append(Frame(image, fitted(camera, image, str(model)), mask_of(image, photos.folder, name)))
        kept.append(name)
    masked = sum(frame.mask is not None for frame in frames)
    if 0 < masked < len(frames):
        notes.append(f"{photos.folder.parent / 'masks'}: {len(frames) - masked} pictures have none: all of them counts")
    lists = lists_of_names(model) or lists_of_names(folder)
    return Divided(str(model), frames, rule, hints=Hints(points=points), notes=notes, lists=lists, names=kept)


def _read(model: Path) -> tuple[list[tuple[Any, ...]], Any]:
    """(name, pose or None, camera's number, model, parameters, (height, width)) of each picture, and the points."""
    pycolmap = require_pycolmap(str(model))
    try:
        level = pycolmap.logging.minloglevel
        pycolmap.logging.minloglevel = 3  # what it says when it fails is in the exception
        try:
            found = pycolmap.Reconstruction(str(model))
        finally:
            pycolmap.logging.minloglevel = level
        images, names = [], names_in(model)
        for image in found.images.values():
            camera = found.cameras[image.camera_id]
            pose = None
            if image.has_pose:
                pose = np.eye(4)
                pose[:3] = image.cam_from_world().inverse().matrix()
                require_rigid(pose, f"{model}: the pose of {names.get(image.image_id, image.name)}")
            shape = int(camera.height), int(camera.width)
            name = names.get(image.image_id, image.name)
            images.append((name, pose, camera.camera_id, camera.model.name, list(camera.params), shape))
        points = np.array([point.xyz for point in found.points3D.values()], dtype=np.float64).reshape(-1, 3)
    except InputError:
        raise
    except Exception as error:  # pybind turns what C++ throws into ValueError, IndexError, MemoryError, KeyError ...
        text = one_line(error).split("Check failed:")[-1].strip()
        raise InputError(f"{model}: pycolmap cannot read it ({text:.120}); make or copy it again") from error
    return images, some_points(points)


def require_pycolmap(where: str) -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise InputError(f'{where}: needs pycolmap; pip install "hyperfields[captures]"') from error
    return pycolmap


COLMAP = Format(
    name="colmap",
    wants="sparse/0 of COLMAP with images",
    detect=detect,
    read=read_colmap,
)
