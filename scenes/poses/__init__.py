"""Photographs or a video in, a capture out: cameras found by structure from motion, in a folder that `fit` reads.

May import: cameras, data, errors, and what readers share. Needs pycolmap (extra `captures`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from hyperfields.errors import InputError
from hyperfields.scenes._common import write_whole
from hyperfields.scenes.drawing import Drawing, write_html, write_png
from hyperfields.scenes.poses import colmap, photographs, report, video, world
from hyperfields.scenes.poses.colmap import Lens, Matching
from hyperfields.scenes.poses.report import Photo, Poses, text_of

__all__ = ["Cameras", "Lens", "Matching", "Photo", "Poses", "find_poses", "text_of"]

Cameras = Literal["one", "each", "folder"]
Progress = Callable[[str, int, int, str], None]  # (stage, done, total, name)
FEATURE_SIZE = 1600
ENOUGH, FEW = 0.8, 40  # with less than this share posed, of not more than so many photographs, another way is tried
MOST = 100_000  # frames, and pixels that features are found at
MANY = 150  # photographs up to which all pairs are matched


def find_poses(
    photos: str | Path,
    out: str | Path,
    *,
    cameras: Cameras | None = None,
    lens: Lens | None = None,
    frames: int | None = None,
    feature_size: int | None = None,
    matching: Matching | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Poses:
    """What was found about the cameras of photographs; the capture is in `out`.

    `out` holds transforms.json (instant-ngp's and nerfstudio's form, +Z up, the origin where the cameras look, their
    median distance 4), images/ (upright copies), points.ply, sparse/0 (COLMAP's binary model, same frame), cameras.png
    and cameras.html (drawings), poses.json (all that is said about each photograph) and colmap/ (features and matches,
    which `resume` uses again). The same photographs give the same poses.

    Args:
        photos: a folder of photographs, or a video.
        out: a new folder; with `resume`, one that was begun.
        cameras: "one": all photographs of a size are by one camera; "each": intrinsics of its own for each; "folder":
            photographs in a folder below are by one camera. Default "one".
        lens: COLMAP's camera model. Default OPENCV for a camera with 12 photographs or more, else SIMPLE_RADIAL.
        frames: of a video that are used. Default 60.
        feature_size: pixels of the longer side that features are found at. Default 1600.
        matching: "exhaustive": all pairs; "sequential": neighbours by name, and some others. Default "sequential" for
            a video with more than 60 frames and for more than 150 photographs.
        resume: go on with what was begun in `out`, also with photographs that came since.
        progress: called as (stage, done, total, name) between pieces of work; what it raises stops the work.

    Raises:
        InputError: pycolmap is missing; too few photographs, one that cannot be read; a video that does not open; an
            `out` that holds something else; with `resume`, nothing begun there, other settings, changed photographs.
    """
    photos, out = Path(photos), Path(out)
    pycolmap = colmap.require("poses")
    given = {"cameras": cameras, "lens": lens, "frames": frames, "feature_size": feature_size, "matching": matching}
    is_video = photos.is_file() and photos.suffix.lower() in photographs.VIDEO_SUFFIXES
    settings = _settings(given, is_video)
    found: list[photographs.Photograph] = []
    notes: list[str] = []
    if not is_video:
        found, notes = photographs.find_photographs(photos, below=settings["cameras"] == "folder")
    with _workplace(out, resume) as work:
        settings = _begin(work, photos, found, given, settings, resume)
        tell = progress or (lambda stage, done, total, name: None)
        images = out / "images"
        images.mkdir(exist_ok=True)
        if is_video:
            sizes = _frames(photos, settings["frames"], images, work, tell)
            sources = dict.fromkeys(sizes, str(photos))
            folders = dict.fromkeys(sizes, "")
        else:
            sizes = photographs.prepare(found, images, _stage(tell, "photographs"))
            sources = {photo.name: str(photo.source) for photo in found}
            folders = {photo.name: photo.folder for photo in found}
        names = list(sizes)
        groups = _groups(names, sizes, folders, settings["cameras"])
        if settings["cameras"] == "one" and len(groups) > 1:
            counts = ", ".join(f"{len(group)} of {'{}x{}'.format(*sizes[group[0]])}" for group in groups[:4])
            notes.append(
                f"photographs have {len(groups)} sizes ({counts}{', ...' * (len(groups) > 4)}; height x width): one "
                "camera is taken for each"
            )
        database = work / "database.db"
        how = settings["matching"] or _matching(len(names), is_video)
        if how == "sequential" and not is_video and settings["matching"] is None:
            notes.append(
                f"{len(names)} photographs: only neighbours by name are matched, and some others; choose all pairs "
                "with --matching exhaustive, which takes long"
            )
        with colmap.quiet(database):
            solving = images, groups, settings, colmap.pairs_of(names, how), tell
            seen, models = _solved(database, *solving)
            if _count(models) < ENOUGH * len(names) and len(names) <= FEW:
                again = _solved(work / "patient.db", *solving, patient=True)
                if _count(again[1]) > _count(models):
                    seen, models = again
                    notes.append("few matches at first; features were sought again, patiently")
            model = models[0] if models else None
            if model is not None:
                colmap.refine(model)
                scale, rotation, shift = world.placement(*_before(model))
                model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), shift))
        found_poses = _report(out, names, sources, seen, model, [m.num_reg_images() for m in models], notes)
        _write(found_poses, model)
    return found_poses


def _solved(
    database: Path,
    images: Path,
    groups: list[list[str]],
    settings: dict[str, Any],
    pairs: list[tuple[str, str]],
    tell: Progress,
    *,
    patient: bool = False,
) -> tuple[dict[str, colmap.Seen], list[Any]]:
    """What was seen, and the models that were found, the largest first."""
    how = ", patiently" if patient else ""
    colmap.add_images(database, images, groups, settings["lens"])
    size = settings["feature_size"]
    colmap.extract(database, images, size, _stage(tell, f"features{how}"), patient=patient)
    colmap.match(database, pairs, _stage(tell, f"matches{how}"), patient=patient)
    models = colmap.reconstruct(database, images, _stage(tell, f"mapping{how}"), patient=patient)
    return colmap.seen(database), models


def _count(models: list[Any]) -> int:
    """Photographs with a pose."""
    return models[0].num_reg_images() if models else 0


def _settings(given: dict[str, Any], is_video: bool) -> dict[str, Any]:
    """Settings with defaults, checked."""
    for name, kinds in (("cameras", Cameras), ("lens", Lens), ("matching", Matching)):
        if given[name] is not None and given[name] not in get_args(kinds):
            raise InputError(f"{name}: {given[name]!r} came, wanted one of {', '.join(get_args(kinds))}")
    for name, least in (("frames", photographs.FEWEST), ("feature_size", photographs.SMALLEST)):
        value = given[name]
        if value is not None and not (isinstance(value, int) and least <= value <= MOST):
            option = name.replace("_", "-")
            raise InputError(f"--{option} {value!r:.40}: wanted a whole number from {least} to {MOST}")
    if given["frames"] is not None and not is_video:
        raise InputError(f"--frames {given['frames']}: is for videos; leave it out, all photographs are used")
    if given["cameras"] == "folder" and is_video:
        raise InputError("--cameras folder: is for photographs in folders; of a video leave it out, or give each")
    defaults = {"cameras": "one", "frames": video.FRAMES if is_video else None, "feature_size": FEATURE_SIZE}
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


@contextlib.contextmanager
def _workplace(out: Path, resume: bool) -> Iterator[Path]:
    """The folder with features and matches. An `out` that was made here vanishes when the photographs are refused."""
    work = out / "colmap"
    if resume and not (work / "settings.json").is_file():
        raise InputError(f"{out}: holds no poses that were begun; leave --resume out")
    if not resume and (work / "settings.json").is_file():
        raise InputError(f"{out}: holds poses that were begun; go on with --resume, or choose another --out")
    if not resume and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not an empty folder; choose another --out")
    existed = out.exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        yield work
    except InputError:
        if not resume:
            for path in (out / "images", work):
                shutil.rmtree(path, ignore_errors=True)
            if not existed:
                with contextlib.suppress(OSError):
                    out.rmdir()
        raise
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: {error.strerror or error}; free some space or choose another --out"
        ) from error


def _begin(
    work: Path,
    photos: Path,
    found: list[photographs.Photograph],
    given: dict[str, Any],
    settings: dict[str, Any],
    resume: bool,
) -> dict[str, Any]:
    """Write down what is done, or check that it is what was begun; the settings that hold."""
    path = work / "settings.json"
    state = {photo.name: [photo.source.stat().st_size, photo.source.stat().st_mtime_ns] for photo in found}
    if resume:
        try:
            old = json.loads(path.read_bytes())
            before, begun = old["photographs"], old["settings"]
            known = isinstance(before, dict) and "photos" in old and _settings(begun, not found) == begun
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # InputError is a ValueError
            known = False
        if not known:
            raise InputError(f"{path}: damaged; begin again in another --out")
        for name, value in given.items():
            if value is not None and value != begun[name]:
                option = name.replace("_", "-")
                raise InputError(
                    f"--{option} {value}: was begun with {begun[name]}; leave it out, or choose another --out"
                )
        if old["photos"] != str(photos.resolve()):
            raise InputError(f"{photos}: was begun with {old['photos']}; give that, or choose another --out")
        gone = [name for name in before if name not in state] if found else []
        if gone:
            raise InputError(f"{photos}: {gone[0]} was there when this was begun; restore it, or choose another --out")
        changed = [name for name, value in state.items() if before.get(name, value) != value]
        if changed:
            raise InputError(f"{photos}: {changed[0]} has changed since this was begun; choose another --out")
        settings = begun
    content = {"photos": str(photos.resolve()), "settings": settings, "photographs": state}
    write_whole(path, json.dumps(content, indent=1).encode())
    return settings


def _frames(photos: Path, count: int, images: Path, work: Path, tell: Progress) -> dict[str, tuple[int, int]]:
    """The frames of a video, chosen once; name -> (height, width)."""
    listed = work / "frames.json"
    if listed.is_file():
        try:
            content = json.loads(listed.read_bytes())
            return {str(name): (int(height), int(width)) for name, (height, width) in content.items()}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise InputError(f"{listed}: damaged; remove it, and the frames are chosen again") from None
    sizes = video.write_frames(photos, count, images, _stage(tell, "video"))
    write_whole(listed, json.dumps(sizes).encode())
    return sizes


def _groups(
    names: list[str], sizes: dict[str, tuple[int, int]], folders: dict[str, str], cameras: Cameras
) -> list[list[str]]:
    """Photographs by one camera each."""
    groups: dict[object, list[str]] = {}
    for name in names:
        key = name if cameras == "each" else (sizes[name], folders[name] if cameras == "folder" else "")
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _matching(count: int, is_video: bool) -> Matching:
    return "sequential" if count > (video.FRAMES if is_video else MANY) else "exhaustive"


def _stage(tell: Progress, stage: str) -> Callable[[int, int, str], None]:
    return lambda done, total, name: tell(stage, done, total, name)


def _before(model: Any) -> tuple[world.FloatArray, world.FloatArray]:
    posed = world.read_model(model)
    return posed.poses, posed.points


def _report(
    out: Path,
    names: list[str],
    sources: dict[str, str],
    seen: dict[str, colmap.Seen],
    model: Any,
    models: list[int],
    notes: list[str],
) -> Poses:
    images = {} if model is None else {model.images[n].name: model.images[n] for n in model.reg_image_ids()}
    photos = []
    for name in names:
        one, posed = seen[name], name in images
        photos.append(
            Photo(
                name,
                sources[name],
                posed,
                one.features,
                len(one.matches),
                sum(one.matches.values()),
                tuple(sorted(one.matches, key=lambda other: -one.matches[other])[:3]),
                images[name].num_points3D if posed else 0,
                None if posed else report.why_not(name, one, set(images)),
            )
        )
    used = {} if model is None else {image.camera_id: model.cameras[image.camera_id] for image in images.values()}
    focal = [camera.mean_focal_length() / max(camera.width, camera.height) for camera in used.values()]
    error = None if model is None else float(model.compute_mean_reprojection_error())
    return Poses(
        out,
        tuple(photos),
        len(used),
        ", ".join(dict.fromkeys(camera.model_name for camera in used.values())) or None,
        0 if model is None else model.num_points3D(),
        error,
        tuple(models),
        tuple(notes),
        report.nothing_found(seen) if error is None else report.unsound(seen, set(images), error, focal),
    )


def _write(poses: Poses, model: Any) -> None:
    """Write the capture; transforms.json, which makes it one, comes last."""
    out = poses.folder
    write_whole(out / "poses.json", json.dumps(poses.as_json(), indent=1).encode())
    if model is None:
        for name in ("transforms.json", "points.ply", "cameras.png", "cameras.html"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "sparse", ignore_errors=True)
        return
    posed = world.read_model(model)
    sparse = out / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    model.write(sparse)
    world.write_ply(posed.points, posed.colors, out / "points.ply")
    drawing = Drawing.of(
        out.resolve().name,
        posed.poses,
        [(0.5 * c.width / c.focal_length_x, 0.5 * c.height / c.focal_length_y) for c in posed.cameras],
        posed.names,
        points=posed.points,
        colors=posed.colors,
    )
    write_png(out / "cameras.png", drawing)
    write_html(out / "cameras.html", [drawing])
    world.write_transforms(posed, out / "transforms.json")
