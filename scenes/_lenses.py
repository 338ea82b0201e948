"""Cameras from the intrinsics that files give: those of transforms files, and COLMAP's models."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hyperfields.cameras import Camera, Lens
from hyperfields.errors import InputError

COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
SIZES = ("w", "h")
ANGLES = ("camera_angle_x", "camera_angle_y")  # radians
DEGREES = ("x_fov", "y_fov")  # instant-ngp's
FOCAL = ("fl_x", "fl_y")
NUMBERS = (*ANGLES, *DEGREES, *FOCAL, "cx", "cy", *SIZES, *COEFFICIENTS)
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")  # bend by k1, k2, k3, p1, p2
FISHEYES = ("FISHEYE", "OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
PANORAMA = "EQUIRECTANGULAR"
MODELS = (*PINHOLES, *PERSPECTIVE, "FULL_OPENCV", *FISHEYES, PANORAMA)
WIDEST, NARROWEST = 200.0, 1e5  # picture's sides over focal lengths, and the other way round
FURTHEST = 20.0  # picture's sides from its corner to the principal point
UNDISTORT = "undistort the pictures to pinhole ones (colmap image_undistorter)"


def numbers_of(entry: Mapping[str, Any], where: str) -> dict[str, float]:
    """The numbers of a camera that an object of a transforms file holds, checked."""
    numbers = {}
    for key in NUMBERS:
        value: Any = entry.get(key)
        if key not in entry or (value is None and key in COEFFICIENTS):
            continue
        if isinstance(value, str):  # nerfstudio's converter leaves those of RealityCapture as text
            with contextlib.suppress(ValueError):
                value = float(value)
        if not is_finite(value):
            raise InputError(f"{where}: {key} is {value!r:.60}; wanted a finite number")
        if key in (*FOCAL, *SIZES) and value <= 0:
            raise InputError(f"{where}: {key} is {value!r:.60}; wanted a number above 0")
        numbers[key] = float(value)
    for key in ANGLES:
        if not 0.0 < numbers.get(key, 1.0) < math.pi:
            raise InputError(f"{where}: {key} is {numbers[key]!r}; wanted radians between 0 and pi")
    for key in DEGREES:
        if not 0.0 < numbers.get(key, 1.0) < 180.0:
            raise InputError(f"{where}: {key} is {numbers[key]!r}; wanted degrees between 0 and 180")
    return numbers


def merged(shared: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """A frame's numbers before its file's; an angle of the frame takes the place of a focal length of the file."""
    same = [set(keys) for keys in zip(FOCAL, ANGLES, DEGREES, strict=True) if own.keys() & set(keys)]
    return {key: value for key, value in shared.items() if not any(key in keys for keys in same)} | dict(own)


LARGEST = 1e15  # of a length, an angle or a size in a file


def is_finite(value: Any) -> bool:
    # Compared, since `isfinite` takes no integers that are too large for a float. Rays are floats of 32 bits.
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def camera_of(
    pose: Tensor, numbers: Mapping[str, float], model: str | None, size: tuple[int, int], where: str
) -> Camera:
    """The camera of a frame in a transforms file, in pixels of the file's own `w` and `h`, else of `size`.

    model: one of `MODELS` in any case, or None: what the coefficients say.
    size: (height, width) of the picture.
    """
    height, width = (numbers["h"], numbers["w"]) if {"w", "h"} <= numbers.keys() else size
    name = None if model is None else model.upper()
    if name == PANORAMA:
        return panorama(pose, round(height), round(width), where)
    fx, fy = _focal(numbers, height, width, where)
    cx, cy = numbers.get("cx", 0.5 * width), numbers.get("cy", 0.5 * height)
    return _sane(Camera(pose, fx, fy, cx, cy, round(width), round(height), _lens(numbers, name, where)), where)


def panorama(pose: Tensor, height: int, width: int, where: str) -> Camera:
    """A camera that sees all round, whose picture is twice as wide as high.

    Raises:
        InputError: it is not.
    """
    if abs(width - 2 * height) > 0.01 * width:
        raise InputError(
            f"{where}: a picture of {height}x{width} (height x width) with an EQUIRECTANGULAR camera; "
            "wanted all directions, twice as wide as high"
        )
    return Camera.panorama(pose, height, width)


def _focal(numbers: Mapping[str, float], height: float, width: float, where: str) -> tuple[float, float]:
    """Focal lengths in pixels: fl_x, else an angle; those of y are those of x where nothing else is said."""
    found: list[float | None] = []
    for side, focal, angle, degrees in zip((width, height), FOCAL, ANGLES, DEGREES, strict=True):
        if focal in numbers:
            found.append(numbers[focal])
        elif degrees in numbers:
            found.append(0.5 * side / math.tan(0.5 * math.radians(numbers[degrees])))
        elif angle in numbers and not (angle == "camera_angle_y" and "fl_x" in numbers):
            found.append(0.5 * side / math.tan(0.5 * numbers[angle]))
        else:
            found.append(None)
    fx, fy = found
    if fx is None and fy is None:
        raise InputError(f"{where}: its transforms file has neither camera_angle_x (radians) nor fl_x (pixels)")
    return (fx or fy or 0.0), (fy or fx or 0.0)


def _lens(numbers: Mapping[str, float], model: str | None, where: str) -> Lens | None:
    """The lens of the coefficients; None for a pinhole."""
    k1, k2, k3, k4, k5, k6, p1, p2 = (numbers.get(key, 0.0) for key in COEFFICIENTS)
    bent = [key for key in COEFFICIENTS if numbers.get(key, 0.0) != 0.0]
    if model in FISHEYES:
        if any((k5, k6, p1, p2)):
            raise InputError(
                f"{where}: a fisheye has k1 to k4, but {', '.join(key for key in bent if key > 'k4')} came too; "
                f"{UNDISTORT}"
            )
        return Lens("OPENCV_FISHEYE", (k1, k2, k3, k4))
    if not bent:
        return None
    if model in PINHOLES:
        raise InputError(
            f"{where}: camera_model {model} has no distortion, but {', '.join(bent)} came; write OPENCV, or these as 0"
        )
    if model == "FULL_OPENCV":
        return Lens("FULL_OPENCV", (k1, k2, p1, p2, k3, k4, k5, k6))
    if any((k4, k5, k6)):
        raise InputError(
            f"{where}: distortion ({', '.join(key for key in bent if key in ('k4', 'k5', 'k6'))}) of a lens that is no "
            "fisheye: OPENCV has k1, k2, k3, p1 and p2; write camera_model FULL_OPENCV if k4 to k6 are its divisors, "
            f"else {UNDISTORT}"
        )
    if k3:
        return Lens("FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    return Lens("OPENCV", (k1, k2, p1, p2))


# COLMAP's model -> how many focal lengths it has; what follows the principal point are the lens's coefficients.
COLMAP = {
    "SIMPLE_PINHOLE": 1,
    "PINHOLE": 2,
    "SIMPLE_RADIAL": 1,
    "RADIAL": 1,
    "OPENCV": 2,
    "FULL_OPENCV": 2,
    "SIMPLE_RADIAL_FISHEYE": 1,
    "RADIAL_FISHEYE": 1,
    "OPENCV_FISHEYE": 2,
    "SIMPLE_FISHEYE": 1,
    "FISHEYE": 2,
}


def colmap_camera(pose: Tensor, model: str, params: Sequence[float], size: tuple[int, int], where: str) -> Camera:
    """A camera of one of COLMAP's models; size: (height, width).

    Raises:
        InputError: a model that is not read, parameters that cannot be.
    """
    if min(size) < 1:
        raise InputError(f"{where}: is for {size[0]}x{size[1]} pixels (height x width); wanted at least 1x1")
    if not all(map(math.isfinite, params)):
        raise InputError(f"{where}: its parameters {list(params)} are not finite numbers")
    if model == PANORAMA:
        return panorama(pose, *size, where)
    if model not in COLMAP:
        raise InputError(f"{where}: camera model {model} is not read; {UNDISTORT}")
    focals = COLMAP[model]
    fx, fy = params[0], params[focals - 1]
    if min(fx, fy) <= 0.0:
        raise InputError(f"{where}: its focal lengths are {fx:g} and {fy:g}; wanted numbers above 0")
    cx, cy, *coefficients = params[focals:]
    lens: Lens | None = None
    if model in ("SIMPLE_FISHEYE", "FISHEYE"):
        lens = Lens("OPENCV_FISHEYE", (0.0,) * 4)
    elif model.endswith("FISHEYE") or any(coefficients):
        lens = Lens(model, tuple(coefficients))
    return _sane(Camera(pose, fx, fy, cx, cy, size[1], size[0], lens), where)


def _sane(camera: Camera, where: str) -> Camera:
    """A camera whose focal lengths and principal point are of the order of its picture: pixels, not millimetres."""
    for focal, centre, side, names in (
        (camera.fx, camera.cx, camera.width, "fl_x, cx, w"),
        (camera.fy, camera.cy, camera.height, "fl_y, cy, h"),
    ):
        if not 1.0 / WIDEST < focal / side < NARROWEST or abs(centre / side) > FURTHEST:
            raise InputError(
                f"{where}: {names} are {focal:g}, {centre:g}, {side:g}; wanted a focal length and a principal point in "
                "pixels of the picture"
            )
    return camera
