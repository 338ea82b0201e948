"""One scene of a run: a function of points that can be rendered, meshed and saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.codes.expressions import code_sum
from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import shares_networks
from hyperfields.runs.cameras import native_size, orbit_cameras, picture_size
from hyperfields.runs.config import finite
from hyperfields.runs.export import Format, export_scene
from hyperfields.runs.images import png
from hyperfields.tasks.base import MESH_RESOLUTION

if TYPE_CHECKING:
    from hyperfields.runs.run import Run

MOST_CELLS = 1024  # a side of the grid that meshes are made from, which is 4 GB


class Scene:
    """A scene of a run, fitted or by any code.

    Call it for its values: images and shapes `scene(x)`, radiance `scene(x, d)`; points `[n d]` or `[1 n d]`.

    name: in files and messages. code: `[1 z]`. field: the function of points behind it.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        code: Tensor,
        *,
        fitted: bool = True,
        field: BoundField | None = None,
        frame: tuple[float, ...] | None = None,
    ) -> None:
        """frame: of a scene that was not fitted, see `Scene.frame`."""
        self.run, self.name, self.code, self.fitted, self._frame = run, name, code, fitted, frame
        if field is None:
            with torch.no_grad():
                field = run.model.bind(code).detach()
        self.field = field

    def __repr__(self) -> str:
        return f"Scene({self.name!r}, {self.run.kind}, {self.run.label})"

    def _repr_png_(self) -> bytes:
        """The scene as notebooks show it, at most 256 pixels a side."""
        height, width = native_size(self.run)
        scale = max(height, width, 256) / 256
        return png(self.render(size=(max(round(height / scale), 1), max(round(width / scale), 1))))

    def __call__(self, x: Tensor, d: Tensor | None = None) -> Any:
        """Values at points: colours `[n c]`, distances `[n 1]`, or density `[n 1]` and colours `[n 3]` along `d`.

        Args:
            x: `[n d]` or `[1 n d]`; images: (x, y) in [0, 1]^2, y down; others: the scene box [-1, 1]^3.
            d: unit directions, of the shape of x, or one for all points `[3]`; radiance only.

        Differentiable in x and d. The answer is of the dtype of x; it is computed in that of the weights.

        Raises:
            InputError: points or directions of another shape or type, or without those that the kind needs.
        """
        x = self._points(x, "x")
        directed = hasattr(self.field.field, "density")
        if directed and d is None:
            raise InputError(f"d: radiance needs directions, wanted scene(x, d) with d {list(x.shape)} or [3]")
        if d is not None:
            if not directed:
                raise InputError(f"d: {self.run.kind} have no directions, wanted scene(x)")
            d = self._points(d.expand(x.shape) if isinstance(d, Tensor) and d.dim() == 1 and len(d) == 3 else d, "d")
            if d.shape != x.shape:
                raise InputError(f"d: shape {list(d.shape)} came, wanted that of x, {list(x.shape)}, or [3]")
        dtype = next(iter(self.field.weights.values())).dtype
        flat = x.dim() == 2
        answer = self.field(*(part.reshape(1, -1, part.shape[-1]).to(dtype) for part in (x, d) if part is not None))
        if isinstance(answer, tuple):
            return tuple((part[0] if flat else part).to(x.dtype) for part in answer)
        return (answer[0] if flat else answer).to(x.dtype)

    def _points(self, x: Tensor, name: str) -> Tensor:
        """Points as the field takes them.

        Raises:
            InputError: no floats `[n d]` or `[1 n d]`.
        """
        dims = self.field.field.dims
        if not isinstance(x, Tensor):
            raise InputError(f"{name}: {type(x).__name__} came, wanted a tensor [n {dims}]; use torch.as_tensor")
        if not x.is_floating_point():
            raise InputError(f"{name}: {x.dtype} came, wanted floating point, such as {name}.float()")
        if x.dim() not in (2, 3) or x.shape[-1] != dims or (x.dim() == 3 and x.shape[0] != 1):
            raise InputError(f"{name}: shape {list(x.shape)} came, wanted [n {dims}] or [1 n {dims}]")
        return x

    def render(
        self,
        camera: Camera | None = None,
        size: int | tuple[int, int] | None = None,
        channel: str = "rgb",
        background: float = 1.0,
    ) -> Tensor:
        """Picture `[h w 3]` in [0, 1]. Not differentiable.

        Args:
            camera: from where, in the frame of the scene's box, to which `camera.into(scene.frame)` brings one of the
                capture; default from the front left. Images have none.
            size: (height, width), or one number for both; default that of the camera, else as fitted.
            channel: "rgb", and for shapes and radiance "depth" and "normals".
            background: grey level behind the scene, in [0, 1].

        Raises:
            InputError: a channel that this kind cannot give, a size or a background that cannot be.
        """
        if not finite(background) or not 0.0 <= background <= 1.0:
            raise InputError(f"background {background!r:.60}: wanted a grey level from 0 (black) to 1 (white)")
        if size is not None:
            size = picture_size(size)
        else:
            size = (camera.height, camera.width) if camera is not None else native_size(self.run)
        if camera is None and self.run.task.has_camera:
            camera = orbit_cameras(self.run, 1, size)[0]
        return self.run.task.picture(self.field, camera, size, channel, background)

    def mesh(self, resolution: int = MESH_RESOLUTION, *, cameras: Sequence[Camera] = ()) -> Mesh:
        """Surface of the scene, in the scene frame; its `scale` and `center` lead back to the file that it came from.

        Args:
            resolution: cells a side.
            cameras: of pictures of a radiance scene, in the frame of its box, such as `data.cameras` gives: what none
                of them sees is left out. By default all that is dense is surface, also where no picture shows it.

        Raises:
            InputError: images have no surface; a resolution that cannot be; cameras for another kind.
        """
        if not isinstance(resolution, int) or isinstance(resolution, bool) or not 2 <= resolution <= MOST_CELLS:
            raise InputError(f"resolution {resolution!r:.60}: wanted cells along a side, from 2 to {MOST_CELLS:,}")
        if cameras and not hasattr(self.field.field, "space"):
            raise InputError(f"cameras: scene {self.name!r} is one of {self.run.kind}; they are for radiance (views)")
        options: dict[str, Any] = {"cameras": cameras} if cameras else {}
        return framed(self.run.task.mesh(self.field, resolution, **options), self.frame)

    @property
    def frame(self) -> tuple[float, ...] | None:
        """(scale, centre x y z) of the scene in the file that it was read from: p_file = p * scale + centre.

        Of a scene that was made of others, the mean of theirs.
        """
        return self.run.config.picture.get("frames", {}).get(self.name) if self.fitted else self._frame

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        resolution: int = MESH_RESOLUTION,
        formats: Mapping[str, Format] | None = None,
    ) -> Path:
        """The path of a file of the scene that needs nothing of the run; its suffix decides: picture, mesh, or field.

        Args:
            resolution: of a mesh, cells a side.
            formats: more of them, suffix -> a callable that writes a scene to a path.

        Raises:
            InputError: a suffix that this kind cannot give, or a file that cannot be written.
        """
        export_scene(self, Path(path), resolution=resolution, formats=formats)
        return Path(path)


def framed(mesh: Mesh, frame: tuple[float, ...] | None) -> Mesh:
    """The mesh with what leads back to its file, if there is one; see `Scene.frame`."""
    return mesh if frame is None else mesh._replace(scale=frame[0], center=(frame[1], frame[2], frame[3]))


def mean_frame(frames: Iterable[Sequence[float] | None]) -> tuple[float, ...] | None:
    """The frame of a scene that was made of others, see `Scene.frame`: the mean of theirs; None where they have none.

    Its meshes, points and cameras are then where those of the others are.
    """
    known = [frame for frame in frames if frame is not None]
    return tuple(sum(values) / len(known) for values in zip(*known, strict=True)) or None


def scene_of_sum(
    run: Run,
    text: str,
    parts: Sequence[tuple[float, str]],
    code: Callable[[str], Tensor],
    frame: tuple[float, ...] | None = None,
) -> Scene:
    """The scene of a sum of codes.

    Args:
        text: the sum as it was typed, which is the scene's name.
        parts: see `codes.expressions.terms`.
        code: name of a scene -> its code `[1 z]`.
        frame: of the sum, see `mean_frame`.

    Raises:
        InputError: unknown names, or scenes that were fitted alone, whose codes have nothing in common.
    """
    total = code_sum(parts, code)
    if not shares_networks(run.model.config.generator):
        raise InputError(
            f"scene {text!r:.100}: is a sum of codes, and the scenes of {run.label} were fitted each alone, so that "
            "their codes cannot be added; name one, or fit without --individually"
        )
    return Scene(run, text, total, fitted=False, frame=frame)
