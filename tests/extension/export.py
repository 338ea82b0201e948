"""An export format of one's own: a callable that writes a scene to a path."""

from __future__ import annotations

from pathlib import Path

from hyperfields import Scene


def write_text(scene: Scene, path: Path) -> None:
    """The picture as text, a digit a pixel."""
    grey = (scene.render().mean(-1).clamp(0.0, 1.0) * 9.0).round().int().tolist()
    path.write_text("\n".join("".join(map(str, row)) for row in grey))
