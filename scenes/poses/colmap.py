"""The stages of structure from motion, by pycolmap, in pieces small enough to show progress and to stop between them.

Features and matches are kept in COLMAP's database: what is in it is not computed again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfields.errors import InputError
from hyperfields.scenes._common import one_line

Matching = Literal["exhaustive", "sequential"]
Lens = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"]
Step = Callable[[int, int, str], None]  # (done, total, name)

SEED = 0
FEATURES = 4096  # of a photograph, the largest ones: twice as many take four times as long to match
BLOCK = 16  # photographs a side of a block of pairs: descriptors are indexed once a block
PAIRS = 64  # matched between two reports of progress
MANY_VIEWS = 12  # photographs by one camera from which OPENCV's four coefficients can be found
NEIGHBOURS = 10  # frames of a sequence that one is matched with, on either side
KEYS = 24  # frames of a sequence, evenly chosen, that are matched with each other: they close loops
TURNED = 0.03  # distance of a rotation from one; neighbours of a video come near it
SMALLEST_MODEL = 3  # photographs
FEW_POINTS = 15  # too few for a camera to stand on


class Seen(NamedTuple):
    """What the database says about a photograph."""

    features: int
    matches: dict[str, int]  # other photograph -> matches that agree with one motion of the camera
    turned: set[str]  # others for which it looks as if the camera had only turned


def require(what: str) -> Any:
    """pycolmap; raises InputError that says what to install."""
    try:
        import pycolmap
    except ImportError as error:
        raise InputError(f"{what}: needs pycolmap ({error}); pip install 'hyperfields[captures]'") from None
    return pycolmap


@contextlib.contextmanager
def quiet(database: Path) -> Iterator[None]:
    """No lines by pycolmap on the terminal: what matters is said by whoever calls it.

    Raises:
        InputError: for what pycolmap raises, as in a database that is damaged.
    """
    logging = require(str(database)).logging
    before = logging.minloglevel
    logging.minloglevel = int(logging.FATAL)
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{database}: pycolmap cannot go on ({one_line(error)}); free some space, or begin again in another --out"
        ) from error
    finally:
        logging.minloglevel = before


@contextlib.contextmanager
def _opened(database: Path) -> Iterator[Any]:
    with require(str(database)).Database.open(database) as opened:
        yield opened


def add_images(database: Path, images: Path, groups: Sequence[Sequence[str]], lens: Lens | None) -> None:
    """Enter the photographs that are not there; those of a group are by one camera."""
    pycolmap = require(str(database))
    with _opened(database) as opened:
        known = {image.name: image.camera_id for image in opened.read_all_images()}
    for group in groups:
        new = [name for name in group if name not in known]
        if not new:
            continue
        model = lens or ("OPENCV" if len(group) >= MANY_VIEWS else "SIMPLE_RADIAL")
        options = pycolmap.ImageReaderOptions(camera_model=model)
        if len(new) < len(group):  # more photographs by a camera that is there
            options.existing_camera_id = next(known[name] for name in group if name in known)
        pycolmap.import_images(database, images, pycolmap.CameraMode.SINGLE, new, options)


def extract(database: Path, images: Path, size: int, step: Step, *, patient: bool = False) -> None:
    """Find the features (SIFT) of photographs that have none, in pictures reduced to `size` pixels at most.

    patient: features that are known again from further aside (affine shapes, pooled over sizes of their domain), which
        takes several times as long.
    """
    pycolmap = require(str(database))
    with _opened(database) as opened:
        every = opened.read_all_images()
        todo = [image.name for image in every if not opened.exists_descriptors(image.image_id)]
    options = pycolmap.FeatureExtractionOptions(max_image_size=size)
    options.sift.max_num_features = FEATURES
    options.sift.estimate_affine_shape = options.sift.domain_size_pooling = patient
    for names in _chunks(todo, 2 * (os.cpu_count() or 1)):
        pycolmap.extract_features(database, images, names, extraction_options=options)
        todo = todo[len(names) :]
        step(len(every) - len(todo), len(every), names[-1])


def pairs_of(names: Sequence[str], matching: Matching) -> list[tuple[str, str]]:
    """Pairs of photographs to match, block by block: all, or those that are near in a sequence and some of the others.

    "sequential": each with its neighbours, and with those twice as far each time; and a few frames all among each
    other, as a camera that comes back sees what it saw.
    """
    count = len(names)
    every = {(i, j) for j in range(count) for i in range(j)}
    if matching == "sequential":
        far = {2**power for power in range(4, count.bit_length())}
        near = {(i, j) for i, j in every if j - i <= NEIGHBOURS or j - i in far}
        keys = sorted({round(k * (count - 1) / (KEYS - 1)) for k in range(KEYS)})
        every = near | {(i, j) for j in keys for i in keys if i < j}
    ordered = sorted(every, key=lambda pair: (pair[0] // BLOCK, pair[1] // BLOCK, pair))
    return [(names[i], names[j]) for i, j in ordered]


def match(database: Path, pairs: Sequence[tuple[str, str]], step: Step, *, patient: bool = False) -> None:
    """Match features of pairs of photographs and keep those that agree with one motion of the camera.

    patient: once a motion is found, look along it for more.
    """
    pycolmap = require(str(database))
    with _opened(database) as opened:
        number = {image.name: image.image_id for image in opened.read_all_images()}
        todo = [(a, b) for a, b in pairs if not opened.exists_two_view_geometry(number[a], number[b])]
    matching = pycolmap.FeatureMatchingOptions(guided_matching=patient)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    for chunk in _chunks(todo, PAIRS):
        with tempfile.NamedTemporaryFile("w", dir=database.parent, suffix=".txt") as listed:
            listed.write("\n".join(f"{a} {b}" for a, b in chunk) + "\n")
            listed.flush()
            pairing = pycolmap.ImportedPairingOptions(match_list_path=listed.name)
            pycolmap.match_image_pairs(
                database,
                matching_options=matching,
                pairing_options=pairing,
                verification_options=verification,
            )
        todo = todo[len(chunk) :]
        step(len(pairs) - len(todo), len(pairs), f"{chunk[-1][0]} and {chunk[-1][1]}")


def seen(database: Path) -> dict[str, Seen]:
    """What the database says about each photograph."""
    pycolmap = require(str(database))
    kind = pycolmap.TwoViewGeometryConfiguration
    with _opened(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        images = {image.image_id: image for image in opened.read_all_images()}
        features = {image.name: opened.num_keypoints_for_image(number) for number, image in images.items()}
        found = list(zip(*opened.read_two_view_geometries(), strict=True))
    matches: dict[str, dict[str, int]] = {name: {} for name in features}
    turned: dict[str, set[str]] = {name: set() for name in features}
    for pair, geometry in found:
        a, b = (images[number] for number in pycolmap.pair_id_to_image_pair(pair))
        inliers = len(geometry.inlier_matches)
        if inliers and geometry.config not in (kind.UNDEFINED, kind.DEGENERATE, kind.WATERMARK):
            matches[a.name][b.name] = matches[b.name][a.name] = inliers
            if geometry.config in (kind.PLANAR, kind.PANORAMIC, kind.PLANAR_OR_PANORAMIC):
                sizes = [(camera.width, camera.height) for camera in (cameras[a.camera_id], cameras[b.camera_id])]
                if turned_by(geometry.H, *sizes) < TURNED:
                    turned[a.name].add(b.name)
                    turned[b.name].add(a.name)
    return {name: Seen(features[name], matches[name], turned[name]) for name in features}


def turned_by(homography: NDArray[np.float64], first: tuple[int, int], second: tuple[int, int]) -> float:
    """How far a homography `[3 3]` between two pictures is from that of a camera that only turned: K2 R K1^-1.

    The least distance of K2^-1 H K1 from a rotation, over the focal lengths that lenses have; 0 for a camera that
    turned, also before a flat thing, where every camera gives a homography.

    first, second: (width, height) of the pictures.
    """
    scaled = homography / np.cbrt(np.linalg.det(homography))
    focal = np.geomspace(0.4, 3.0, 40)
    between = np.linalg.solve(_calibrations(focal, *second), scaled @ _calibrations(focal, *first))
    between /= np.cbrt(np.linalg.det(between))[:, None, None]
    return float(np.linalg.norm(np.swapaxes(between, 1, 2) @ between - np.eye(3), axis=(1, 2)).min())


def _calibrations(focal: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """`[f 3 3]` for focal lengths over the longer side."""
    matrices = np.zeros((len(focal), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = focal * max(width, height)
    matrices[:, :, 2] = 0.5 * width, 0.5 * height, 1.0
    return matrices


def reconstruct(database: Path, images: Path, step: Step, *, patient: bool = False) -> list[Any]:
    """Models (`pycolmap.Reconstruction`), the one with most photographs first; empty when none could be begun.

    patient: begin with pairs, and place cameras, that stand on fewer matches.
    """
    pycolmap = require(str(database))
    options = pycolmap.IncrementalPipelineOptions(random_seed=SEED, min_model_size=SMALLEST_MODEL)
    if patient:
        options.min_num_matches, options.mapper.abs_pose_min_num_inliers = 10, 12
        options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = 30, 8.0
    options.mapper.random_seed = options.triangulation.random_seed = SEED
    options.num_threads = options.mapper.num_threads = 1  # with two, one run in fifteen gives other poses
    pycolmap.set_random_seed(SEED)
    with _opened(database) as opened:
        total = opened.num_images()
    done = 2  # the first pair

    def registered() -> None:
        nonlocal done
        done += 1
        step(min(done, total - 1), total, f"{min(done, total)} photographs")

    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        models = pycolmap.incremental_mapping(database, images, folder, options, next_image_callback=registered)
    step(total, total, f"{total} photographs")
    for model in models.values():
        _drop_unsupported(model)
    sound = [model for model in models.values() if model.num_reg_images() >= SMALLEST_MODEL]
    return sorted(sound, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _drop_unsupported(model: Any) -> None:
    """Take the poses of photographs away that stand on next to no points."""
    while weak := [n for n in model.reg_image_ids() if model.images[n].num_points3D < FEW_POINTS]:
        for number in weak:
            model.deregister_frame(model.images[number].frame_id)


def refine(model: Any) -> None:
    """Bring cameras, lens, points and principal points together once more, where all cameras have many views.

    Not by `pycolmap.bundle_adjustment`, which writes to the terminal whatever the level of its log is.
    """
    pycolmap = require("poses")
    numbers = model.reg_image_ids()
    views = Counter(model.images[number].camera_id for number in numbers)
    if min(views.values()) < 2 * MANY_VIEWS:
        return
    config = pycolmap.BundleAdjustmentConfig()
    for number in numbers:
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(refine_principal_point=True, print_summary=False)
    solver = options.ceres.solver_options
    solver.num_threads, solver.function_tolerance = 1, 1e-6  # one thread, as above
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.update_point_3d_errors()


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield list(items[first : first + size])
