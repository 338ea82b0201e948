"""Which files of a folder are cut or damaged, by readers of other packages, for scripts/campaign.py."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from PIL import Image
from safetensors import safe_open

TEMPORARY = re.compile(r"\..+\.tmp")  # a file of a writer that was killed or may not remove it: nobody reads it


def damaged_files(folder: Path, known: frozenset[bytes] = frozenset()) -> list[str]:
    """A line for each file that cannot be read whole; temporary ones, locks and the last line of a log are let be.

    known: contents that are whole.
    """
    wrong = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(TEMPORARY.fullmatch(part) for part in parts) or path.name.endswith(".lock"):
            continue
        if path.read_bytes() in known:
            continue
        try:
            _read(path)
        except Exception as error:
            wrong.append(f"{path.relative_to(folder)}: {type(error).__name__}: {str(error)[:80]}")
    return wrong


def _read(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        json.loads(path.read_bytes())
    elif suffix == ".jsonl":
        *lines, _ = path.read_text().split("\n")
        for line in lines:
            json.loads(line)
    elif suffix == ".safetensors":
        with safe_open(path, "np") as file:
            for key in file.keys():  # noqa: SIM118
                file.get_tensor(key)
    elif suffix in (".png", ".jpg", ".webp", ".gif"):
        with Image.open(path) as opened:
            for frame in range(getattr(opened, "n_frames", 1)):
                opened.seek(frame)
                opened.load()
    elif suffix in (".ply", ".obj", ".glb", ".stl"):
        import trimesh

        scene = trimesh.load_scene(io.BytesIO(path.read_bytes()), file_type=suffix[1:])
        if not sum(len(part.faces) for part in scene.dump()):
            raise ValueError("no faces")
    elif suffix == ".mp4":
        import av

        with av.open(str(path)) as film:
            if not sum(1 for _ in film.decode(video=0)):
                raise ValueError("no frames")
    elif suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as stored:
            for key in stored:
                stored[key]
