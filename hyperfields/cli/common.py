"""Helpers of verbs: runs, data sets and scenes by name, and lines that are printed about them."""

from __future__ import annotations

import difflib
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.data import SceneDataset
    from hyperfields.fields import BoundField
    from hyperfields.runs.config import DataSource
    from hyperfields.runs.run import Run
    from hyperfields.runs.scene import Scene
    from hyperfields.training.inference import InferredCodes
    from hyperfields.training.progress import Meter


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with what to type to go on."""


def load(run: Path, device: str = "cpu") -> Run:
    """A run on a device that is there."""
    from hyperfields.ops.devices import usable_device
    from hyperfields.runs.run import load_run

    return load_run(run, usable_device(device))


def read_data(path: Path, **options: Any) -> SceneDataset:
    """A data set, with a meter while shapes are sampled."""
    from hyperfields.scenes import open_family
    from hyperfields.training.progress import Meter

    with Meter("sampling") as meter:
        return open_family(path, **options, progress=meter.count)


def source_of(
    path: Path, data: SceneDataset, size: tuple[int, int] | None, views: Sequence[int] | None, **reading: str | None
) -> DataSource:
    """The record of where scenes came from; `reading`: aspect, background, up, as they were given."""
    from hyperfields.runs.config import DataSource

    if getattr(data, "background", None) is not None:  # as it was found, so that other pictures are cut out alike
        reading["background"] = data.background  # type: ignore[attr-defined]
    views = None if views is None else tuple(views)
    return DataSource(str(path.absolute()), tuple(data.names), size, views, **reading)


def reading_of(source: DataSource | None) -> dict[str, str]:
    """Options that a family was read with, so that it is read alike."""
    from hyperfields.cli.options import present

    return {} if source is None else present(aspect=source.aspect, background=source.background, up=source.up)


def notes_of(data: SceneDataset) -> list[str]:
    """Lines about what a reader decided."""
    parts: tuple[SceneDataset, ...] = getattr(data, "parts", ())
    return [*getattr(data, "notes", ()), *(note for part in parts for note in notes_of(part))]


def data_of(run: Run, path: Path | None) -> SceneDataset:
    """The scenes of a run from the data that were fitted, at the size that they had; `path` is where they are now.

    Raises:
        InputError: data that are not there, or lack scenes of the run.
    """
    from hyperfields.data import Concat

    sources = run.config.sources
    size = size_of(run)
    if path is not None and (len(sources) < 2 or holds_all(path, run)):
        reading = reading_of(sources[0] if sources else None)
        return read_data(path, kind=run.kind, size=size, scenes=list(run.names), **reading)
    if not sources:
        raise InputError(f"{run.label}: does not say which family was fitted; give it with --family DIR")
    parts = []
    for source in sources:
        folder = Path(source.path)
        if not folder.is_dir():
            raise InputError(f"{folder}: the family of {run.label}, is not there; say where with --family DIR")
        options = {"size": source.size, "scenes": list(source.scenes), **reading_of(source)}
        parts.append(read_data(folder, kind=run.kind, **options))
    return parts[0] if len(parts) == 1 else Concat(parts)


def holds_all(path: Path, run: Run) -> bool:
    """Whether a folder has every scene of a run of several sources."""
    try:
        read_data(path, kind=run.kind, size=size_of(run), scenes=list(run.names))
    except InputError:
        return False
    return True


def has_data(run: Run) -> bool:
    """Whether the data of a run are where they were."""
    return bool(run.config.sources) and all(Path(source.path).is_dir() for source in run.config.sources)


def size_of(run: Run) -> tuple[int, int] | None:
    """(height, width) of the pictures that a run was fitted to."""
    for source in run.config.sources:
        if source.size is not None:
            return source.size
    size = run.config.picture.get("size")
    return None if size is None else (int(size[0]), int(size[1]))


def observed_data(run: Run, names: Sequence[str], path: Path | None, inferred: InferredCodes | None) -> SceneDataset:
    """The data that scenes were fitted to, or that their codes were inferred from, at the size and views of then."""
    if inferred is None:
        if path is None and has_data(run):
            from hyperfields.data import Subset

            data = data_of(run, None)
            return Subset(data, [data.names.index(name) for name in names])
        folder, size, views = path, size_of(run), None
    else:
        noted = dict(inferred.source)
        folder = path or (Path(noted["path"]) if "path" in noted else None)
        size, views = pair(noted.get("size")) or size_of(run), noted.get("views")
    if folder is None or not folder.is_dir():
        where = f"{folder} is not there" if folder else "nothing says where it was"
        raise InputError(f"what was seen of {names[0]!r}: {where}; say where with --family DIR")
    return read_data(folder, kind=run.kind, size=size, scenes=list(names), views=views)


def fields_of(run: Run, name: str, inferred: InferredCodes | None, samples: int) -> tuple[BoundField, list[BoundField]]:
    """A scene's field, and fields drawn from the distributions over its code and weights, if there are any."""
    from hyperfields.training.inference import draw_fields

    if inferred is None:
        return run.bind(name), draw_fields(run, run.codes(name), samples=samples)
    row = slice(inferred.index(name), inferred.index(name) + 1)
    std = None if inferred.std is None else inferred.std[row]
    residual = {key: value[row] for key, value in inferred.residual.items()}
    return inferred.bind(run, name), draw_fields(run, inferred.codes[row], std, residual, samples=samples)


def one_scene(run: Run, scene: str | None, path: Path | None) -> Scene:
    """The scene asked for, fitted or inferred (from the file of codes `path`)."""
    if path is None:
        if scene is None:
            raise InputError(f"--scene: give a scene of {run.label}, e.g. {run.names[0]!r}, or --codes FILE")
        scene = typed(scene, run.names)
        return run[scene]
    from hyperfields.training.inference import load_codes

    inferred = load_codes(path, run)
    if scene is None and len(inferred.names) > 1:
        raise InputError(f"--scene: give one of the {len(inferred.names)} of {path}, e.g. {inferred.names[0]!r}")
    name = inferred.names[0] if scene is None else typed(scene, inferred.names)
    if name not in inferred.names:
        near = difflib.get_close_matches(name, inferred.names, 3, 0.0)
        raise InputError(f"scene {name!r}: not in {path}; the nearest names are {', '.join(near)}")
    return inferred.scene(run, name)


def typed(name: str, names: Sequence[str]) -> str:
    """A scene's name as it is stored, however its accents were typed."""
    plain = unicodedata.normalize("NFC", name)
    return name if name in names else next((n for n in names if unicodedata.normalize("NFC", n) == plain), name)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report for programs."""
    import json

    from hyperfields.runs.atomic import write_atomically

    write_atomically(path, json.dumps(report, indent=1, allow_nan=False).encode())


def pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) from JSON."""
    return None if size is None else (int(size[0]), int(size[1]))


def frames_shown(meter: Meter) -> Callable[[int, int], None]:
    """A callable that shows how many frames are done."""
    return lambda done, total: meter.show(done / total, f"frame {done} of {total}")


def next_line(*words: object) -> str:
    """The line that says what to type next."""
    return f"next: {shlex.join(['hyperfields', *map(str, words)])}"


def scene_count(count: int) -> str:
    """A number of scenes in words."""
    return f"{count:,} scene{'' if count == 1 else 's'}"


def kind_line(data: SceneDataset, picture: dict[str, Any], how: str) -> str:
    """A line about what was read."""
    size = f", {picture['size'][0]}x{picture['size'][1]}" if "size" in picture else ""
    return f"{data.kind}: {scene_count(len(data.names))}{size} ({how})"
