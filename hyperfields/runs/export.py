"""Files of single scenes, which need nothing of the run: pictures, meshes, fields, and formats of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.cameras import Camera
from hyperfields.errors import InputError
from hyperfields.runs.atomic import require_suffix
from hyperfields.runs.field_file import write_field
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import MESH_SUFFIXES, write_mesh
from hyperfields.tasks.base import MESH_RESOLUTION

if TYPE_CHECKING:
    from hyperfields.runs.scene import Scene

FIELD_SUFFIX = ".safetensors"

Format = Callable[["Scene", Path], None]


def export_scene(
    scene: Scene,
    out: str | Path,
    *,
    resolution: int = MESH_RESOLUTION,
    cameras: Sequence[Camera] = (),
    formats: Mapping[str, Format] | None = None,
) -> None:
    """Write one scene as a file that needs nothing of the run.

    Every kind gives a picture (.png, .jpg, .webp) and the field alone (.safetensors), which `load_field` reads; shapes,
    in the frame of their file, and radiance also a mesh (.ply, .obj, .glb, .stl).

    Args:
        resolution: of a mesh, cells a side.
        cameras: of a mesh, see `Scene.mesh`.
        formats: more of them, suffix -> a callable that writes a scene to a path; they win over ours.

    Raises:
        InputError: a suffix that this kind cannot give, a mesh without faces, or a file that cannot be written.
    """
    out = Path(out)
    run, task, more = scene.run, scene.run.task, dict(formats or {})
    meshes = MESH_SUFFIXES if task.has_mesh else ()
    allowed = dict.fromkeys((*IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX, *more))
    suffix = require_suffix(out, tuple(allowed), f"a scene of {run.kind}")
    if suffix in more:
        _write_with(more[suffix], scene, out)
    elif suffix == FIELD_SUFFIX:
        write_field(out, scene.field, field_facts(scene))
    elif suffix in meshes:
        mesh = scene.mesh(resolution, cameras=cameras)
        if not len(mesh.faces):
            raise InputError(f"{out}: scene {scene.name!r} has no surface in the box at this level; nothing written")
        write_mesh(out, mesh)
    else:
        write_image(out, scene.render())


def _write_with(write: Format, scene: Scene, out: Path) -> None:
    """Call a format of one's own; what it began before it raised does not stay.

    Raises:
        InputError: it wrote no such file.
    """
    before = out.exists()
    try:
        write(scene, out)
    except BaseException:
        if not before:
            out.unlink(missing_ok=True)
        raise
    if not out.exists():
        raise InputError(f"{out}: the format for {out.suffix} has not written it; it gets the scene and this path")


def field_facts(scene: Scene) -> dict[str, Any]:
    """What a file of a scene's field says beside it: its name, its kind, its pictures, and its own frame."""
    picture = {key: value for key, value in scene.run.config.picture.items() if key != "frames"}
    if scene.frame is not None:
        picture["frames"] = {scene.name: scene.frame}
    return {"name": scene.name, "kind": scene.run.kind, "picture": picture}
