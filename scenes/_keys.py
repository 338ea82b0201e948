"""The keys of transforms files, of instant-ngp, nerfstudio and those who write for them: none is dropped in silence.

Each is used, known to change nothing (`HARMLESS`), known and not used, which is said (`SAID`), or nothing while it is
not set (`UNSET`); any other is refused.
"""

from __future__ import annotations

from typing import Any

from hyperfields.errors import InputError
from hyperfields.scenes._lenses import MODELS, NUMBERS
from hyperfields.scenes._splits import SPLITS

LISTS = {split: f"{split}_filenames" for split in SPLITS}  # nerfstudio's
FISHEYE = ("is_fisheye",)
AROUND = ("equirectangular", "is_equirectangular")

USED = {"frames", "file_path", "transform_matrix", "mask_path", "camera_model", "scale", "offset", "aabb_scale", "up"}
USED |= {"distortion_params", "time", "ply_file_path", "fisheye_crop_radius", "applied_transform", "applied_scale"}
USED |= {"transform_matrix_start", "transform_matrix_end", *NUMBERS, *LISTS.values(), *FISHEYE, *AROUND}
# These say how the file came about, or belong to renderers and trainings that are not ours.
HARMLESS = {"rotation", "sharpness", "motion_blur_score", "blur_score", "colmap_im_id", "colmap_image_id"}
HARMLESS |= {"enable_depth_loading", "integer_depth_scale", "depth_unit_scale_factor", "enable_ray_loading"}
HARMLESS |= {"orientation_override", "auto_scale_poses_override", "n_frames", "image_id", "camera_id", "name"}
HARMLESS |= {"timestamp", "version", "comment", "author", "date", "near", "far", "render_aabb", "render_aabb_to_local"}
HARMLESS |= {"wants_importance_sampling", "importance_sampling", "sharpen", "envmap", "id", "label", "device"}
# Known, and not used for fits: one line says so.
SAID = {
    "depth_file_path": "depth pictures are not used: fits take colours",
    "depth_path": "depth pictures are not used: fits take colours",
    "normal_file_path": "pictures of normals are not used: fits take colours",
    "n_extra_learnable_dims": "numbers that are learned for each picture are not set by the file",
}
# False, 0 or empty they say nothing; else they mean what is not read.
UNSET = {
    "latlong": "is not read; write camera_model EQUIRECTANGULAR if the middle of the pictures is forward",
    "orthographic": "cameras with parallel rays are not read",
    "rolling_shutter": "a rolling shutter is not read; take the key out if it may be passed over",
    "driver_parameters": "a camera that moves while it exposes is not read",
    "white_transparent": "is not read; give --background white instead and take the key out",
    "black_transparent": "is not read; give --background black instead and take the key out",
    "mask_color": "is not read; give each frame a mask_path instead",
    "fix_premult": "is not read; store straight alpha in the pictures and take the key out",
    "from_mitsuba": "other axes are not read; turn the poses to OpenGL's and take the key out",
    "from_na": "other axes are not read; turn the poses to OpenGL's and take the key out",
    **{f"ftheta_p{i}": "an f-theta lens is not read; undistort the pictures" for i in range(5)},
}


def is_set(value: Any) -> bool:
    """True unless a value of JSON is null, false, 0 or empty, or made of such values."""
    if isinstance(value, dict | list):
        return any(map(is_set, value.values() if isinstance(value, dict) else value))
    return bool(value)


def check_keys(entry: dict[str, Any], where: str) -> None:
    """Nothing, when every key of an object of a transforms file is known.

    Raises:
        InputError: a key that would be dropped, or means what is not read.
    """
    for key, value in entry.items():
        if key in UNSET and is_set(value):
            raise InputError(f"{where}: {key}: {UNSET[key]}")
        if key not in USED and key not in HARMLESS and key not in UNSET and key not in SAID:
            if key.startswith(("_", "#", "//")):
                continue
            raise InputError(f"{where}: key {key!r:.60} is not known here; take it out if it may be passed over")


def model_of(entry: dict[str, Any], content: dict[str, Any], where: str) -> str | None:
    """The camera model of a frame, the frame's own before its file's; None where nothing is said.

    Raises:
        InputError: a model that is not read, or several.
    """
    given = {**content, **entry}
    model = given.get("camera_model")
    if model is not None and (not isinstance(model, str) or model.upper() not in MODELS):
        raise InputError(
            f"{where}: camera_model {model!r:.60} is not read; wanted {', '.join(MODELS)}: undistort the pictures "
            "(colmap image_undistorter) and write PINHOLE"
        )
    flags = {"OPENCV_FISHEYE": FISHEYE, "EQUIRECTANGULAR": AROUND}
    asked = [name for name, keys in flags.items() if any(is_set(given.get(key)) for key in keys)]
    if len(asked) > 1:
        raise InputError(f"{where}: a camera that is both {' and '.join(asked)}; take one of the keys out")
    if not asked:
        return model
    [flagged] = asked
    # OPENCV beside is_fisheye is what instant-ngp's scripts write.
    if (
        model is not None
        and flagged.split("_")[-1] not in model.upper()
        and model.upper() not in ("OPENCV", "PERSPECTIVE")
    ):
        raise InputError(f"{where}: camera_model {model} and {flagged} at once; take one of the keys out")
    return model if model is not None and flagged.split("_")[-1] in model.upper() else flagged
