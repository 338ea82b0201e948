"""nerfstudio's files of camera paths: what its viewer saves and its `ns-render camera-path` reads."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from hyperfields.cameras.camera import Camera
from hyperfields.cameras.keyframes import MOST_FRAMES, MOST_KEYFRAMES, CameraKind, CameraPath, camera, checked
from hyperfields.cameras.poses import FLIP, from_opengl
from hyperfields.errors import InputError

MOST_BYTES = 8_000_000
KINDS: tuple[CameraKind, ...] = get_args(CameraKind)
KEYS = {"keyframes", "camera_path", "camera_type", "render_height", "render_width", "fps", "seconds", "is_cycle"}
KEYS |= {"smoothness_value", "default_fov", "default_transition_sec", "crop", "coordinates"}
MOVED, CAPTURE = "dataparser_transforms.json", "transforms.json"  # that may lie beside a path
BOX = "box"  # of `coordinates`: ours, in the frame of a scene's box; by default that of the capture


class Film(NamedTuple):
    """The cameras of the frames of a film."""

    cameras: list[Camera]
    fps: float
    in_box: bool = True  # false: in the frame of the capture that the scene was read from
    note: str | None = None  # about that frame, where it was taken for granted


def read_camera_path(path: Path, size: tuple[int, int] | None = None) -> Film:
    """The film of a file: the frames of its `camera_path` as they are; where it has keyframes only, between these.

    nerfstudio's viewer saves poses in the frame of its run. They are brought into that of the capture by the run's
    dataparser_transforms.json, and by what the capture's transforms.json says of it, where these lie beside the file.

    size: (height, width) instead of the file's; vertical angles stay.

    Raises:
        InputError: not readable, damaged, too large, or with something in it that is not done here, like a crop.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: is no file; wanted nerfstudio's camera_path.json")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: is larger than {MOST_BYTES / 1e6:.0f} MB; wanted nerfstudio's camera_path.json")
        content = json.loads(path.read_bytes())
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as a camera path ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no camera path; wanted nerfstudio's JSON with camera_path or keyframes")
    try:
        frames = content.get("camera_path")
        one = from_nerfstudio(content | {"keyframes": []} if frames else content, MOST_FRAMES)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    chosen = one if size is None else dataclasses.replace(one, size=size)
    note = None
    if not one.in_box:
        poses, note = _in_capture(path, chosen.poses)
        chosen = dataclasses.replace(chosen, poses=poses)
    if not frames:
        return Film(chosen.cameras(), one.fps, one.in_box, note)
    each = zip(chosen.poses, chosen.fovs.tolist(), strict=True)
    return Film([camera(pose, fov, chosen.size, one.kind) for pose, fov in each], one.fps, one.in_box, note)


def _in_capture(path: Path, poses: Tensor) -> tuple[Tensor, str]:
    """Poses `[k 4 4]` of a file in the frame of the capture's files, and a line about that.

    nerfstudio: p_run = scale (transform p), where the transform begins at what was there before the capture's own
    applied_transform and applied_scale.
    """
    moved, capture = path.with_name(MOVED), path.with_name(CAPTURE)
    if not moved.is_file():
        return poses, (
            f"{path}: its poses are taken in the coordinates of the capture's files; nerfstudio's viewer saves them in "
            f"those of its run: if it is from there, lay the run's {MOVED} and the capture's {CAPTURE} beside it"
        )
    if not capture.is_file():
        raise InputError(
            f"{moved}: leads to the coordinates before the applied_transform of a capture; lay its {CAPTURE} beside it"
        )
    run, files = (_json(file) for file in (moved, capture))
    transform, scale = _rows(run.get("transform"), moved), run.get("scale")
    applied, unit = _rows(files.get("applied_transform", torch.eye(4).tolist()), capture), files.get("applied_scale", 1)
    for file, value in ((moved, scale), (capture, unit)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-9 < value < 1e9:
            raise InputError(f"{file}: a scale of {value!r:.60}; wanted a number above 0")
    assert isinstance(scale, int | float)
    turn = applied @ torch.linalg.inv(transform)
    inside = poses.double()
    inside[:, :3, 3] *= unit / scale
    text = f"{path}: its poses are brought from the coordinates of nerfstudio's run by {MOVED}"
    return (turn @ inside).to(poses.dtype), text


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: {type(content).__name__} came, wanted an object")
    return content


def _rows(value: Any, file: Path) -> Tensor:
    """Three or four rows of four numbers as `[4 4]` float64, a rotation and a translation."""
    whole = torch.eye(4, dtype=torch.float64)
    try:
        given = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        given = whole[:0]
    rows = given.shape in ((3, 4), (4, 4)) and bool(given.isfinite().all())
    matrix = torch.cat((given, whole[len(given) :])) if rows else torch.zeros_like(whole)
    turn = matrix[:3, :3] @ matrix[:3, :3].T
    if not (turn - whole[:3, :3]).abs().max() < 1e-3 or not torch.equal(matrix[3], whole[3]):
        raise InputError(f"{file}: its transform is no rotation with a translation, 3 rows of 4 numbers")
    return matrix


def write_camera_path(file: Path, path: CameraPath) -> None:
    """Write a path as nerfstudio does; `ns-render camera-path` renders it."""
    file.write_text(json.dumps(to_nerfstudio(path), indent=1))


def to_nerfstudio(path: CameraPath) -> dict[str, Any]:
    """The content of a file.

    Matrices are row by row, cameras OpenGL's (+X right, +Y up, -Z forward), angles vertical and in degrees.
    """
    height, width = path.size

    def entries(poses: Tensor, fovs: Tensor, name: str) -> list[dict[str, Any]]:
        matrices, degrees = (poses @ FLIP).flatten(1).tolist(), fovs.double().rad2deg().tolist()
        pairs = zip(matrices, degrees, strict=True)
        return [{name: matrix, "fov": fov, "aspect": width / height} for matrix, fov in pairs]

    return {
        "keyframes": entries(path.poses, path.fovs, "matrix"),
        "camera_type": path.kind,
        "render_height": height,
        "render_width": width,
        "fps": path.fps,
        "seconds": path.seconds,
        "is_cycle": path.loop,
        "smoothness_value": 0.0,
        **({"coordinates": BOX} if path.in_box else {}),
        "camera_path": entries(*path.at(path.frame_times()), "camera_to_world"),
    }


def from_nerfstudio(content: str | dict[str, Any], most: int = MOST_KEYFRAMES) -> CameraPath:
    """A path from the content of a file; without keyframes, each frame of its path becomes one.

    most: keyframes that it may have.

    Raises:
        InputError: damaged, too large, not such a file, or with something in it that is not done here.
    """
    if isinstance(content, str) and len(content) > MOST_BYTES:
        raise InputError(f"camera path: {len(content)} bytes, wanted at most {MOST_BYTES}")
    try:
        fields = json.loads(content) if isinstance(content, str) else content
        entries = fields.get("keyframes") or fields["camera_path"]
        if not isinstance(entries, list):
            raise TypeError
        _refuse_unread(fields, entries)
        entries = entries[: most + 1]
        path = CameraPath(
            from_opengl([_matrix(entry) for entry in entries]) if entries else torch.zeros(0, 4, 4),
            torch.tensor([_fov(entry) for entry in entries]),
            float(fields.get("seconds", 4.0)),
            float(fields.get("fps", 24.0)),
            (int(fields.get("render_height", 256)), int(fields.get("render_width", 256))),
            bool(fields.get("is_cycle", False)),
            fields.get("camera_type", "perspective"),
            fields.get("coordinates") == BOX,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("camera path: damaged, not the JSON that nerfstudio and this viewer write") from None
    return checked(path, most)


def _refuse_unread(fields: dict[str, Any], entries: list[Any]) -> None:
    """Raises InputError for what would be dropped."""
    if unknown := sorted(set(fields) - KEYS):
        raise InputError(f"camera path: key {unknown[0]!r} is not known here; take it out if it may be passed over")
    if fields.get("crop"):
        raise InputError("camera path: a crop is not done here; take the key crop out")
    kind = fields.get("camera_type", "perspective")
    if kind not in KINDS:
        raise InputError(f"camera path: camera_type {kind!r:.60} is not done here, wanted one of {', '.join(KINDS)}")
    for entry in entries:
        if entry.get("override_transition_enabled"):
            raise InputError(
                "camera path: a keyframe has a time of its own, which is not done here; give all the same, or keep the "
                "camera_path in the file"
            )
    if len({repr(entry.get("time")) for entry in entries}) > 1:
        raise InputError("camera path: its frames have several times, but the scenes here do not move")


def _matrix(entry: Any) -> list[float]:
    values = entry["matrix"] if "matrix" in entry else entry["camera_to_world"]
    if isinstance(values, str):  # an older version writes the list as text
        values = json.loads(values)
    if isinstance(values, list) and values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    return [float(value) for value in values]


def _fov(entry: Any) -> float:
    fov = math.radians(float(entry.get("fov", 40.0)))
    if not 0.02 <= fov <= 3.0:
        raise ValueError(f"fov {fov}")
    return fov
