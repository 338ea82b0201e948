"""One scene of a run: a function of points that can be rendered, meshed and saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh
from hyperfields.fields import BoundField
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.export import Format, export_scene
from hyperfields.runs.images import png

if TYPE_CHECKING:
    from hyperfields.runs.run import Run


class Scene:
    """A scene of a run, fitted or by any code.

    Call it for its values: images and shapes `scene(x)`, radiance `scene(x, d)`; points `[n d]` or `[s n d]`.

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
        """frame: of a scene that was not fitted, in the file that it was read from."""
        self.run, self.name, self.code, self.fitted, self._frame = run, name, code, fitted, frame
        if field is None:
            with torch.no_grad():
                field = run.model.bind(code)
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
            d: unit directions, of the shape of x; radiance only.

        Differentiable in x and d.
        """
        arguments = [part if part.dim() == 3 else part[None] for part in (x, d) if part is not None]
        answer = self.field(*arguments)
        if x.dim() == 3:
            return answer
        return tuple(part[0] for part in answer) if isinstance(answer, tuple) else answer[0]

    def render(
        self,
        camera: Camera | None = None,
        size: tuple[int, int] | None = None,
        channel: str = "rgb",
        background: float = 1.0,
    ) -> Tensor:
        """Picture `[h w 3]` in [0, 1]. Not differentiable.

        Args:
            camera: from where; default from the front left. Images have none.
            size: (height, width); default that of the camera, else as fitted.
            channel: "rgb", and for shapes and radiance "depth" and "normals".
            background: grey level behind the scene.

        Raises:
            InputError: a channel that this kind cannot give.
        """
        if size is None:
            size = (camera.height, camera.width) if camera is not None else native_size(self.run)
        if camera is None and self.run.task.has_camera:
            camera = orbit_cameras(self.run, 1, size)[0]
        return self.run.task.picture(self.field, camera, size, channel, background)

    def mesh(self, resolution: int = 192) -> Mesh:
        """Surface of the scene, in the scene frame; its `scale` and `center` lead back to the file that it came from.

        Args:
            resolution: cells a side.

        Raises:
            InputError: images have no surface.
        """
        mesh = self.run.task.mesh(self.field, resolution)
        frame = self.frame
        return mesh if frame is None else mesh._replace(scale=frame[0], center=(frame[1], frame[2], frame[3]))

    @property
    def frame(self) -> tuple[float, ...] | None:
        """(scale, centre x y z) of the scene in the file that it was read from: p_file = p * scale + centre."""
        return self.run.config.picture.get("frames", {}).get(self.name) if self.fitted else self._frame

    def save(self, path: str | os.PathLike[str], *, formats: Mapping[str, Format] | None = None) -> Path:
        """The path of a file of the scene that needs nothing of the run; its suffix decides: picture, mesh, or field.

        Args:
            formats: more of them, suffix -> a callable that writes a scene to a path.

        Raises:
            InputError: a suffix that this kind cannot give, or a file that cannot be written.
        """
        export_scene(self, Path(path), formats=formats)
        return Path(path)
