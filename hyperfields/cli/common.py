"""Helpers of verbs: runs, data sets and scenes by name, and lines that are printed about them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.data import SceneDataset
    from hyperfields.runs.config import DataSource, RunConfig
    from hyperfields.runs.inferred import InferredCodes
    from hyperfields.runs.run import Run
    from hyperfields.runs.scene import Scene
    from hyperfields.training.progress import Meter


READING = ("aspect", "background", "up", "split")  # how a family was read, as it is recorded


class Unsound(Exception):
    """A fit that ended, and came to nothing."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with what to type to go on and the exit code."""

    def __init__(self, text: str, code: int = 130) -> None:
        super().__init__(text)
        self.code = code


def load(run: Path, device: str = "cpu") -> Run:
    """A run on a device that is there."""
    from hyperfields.ops.devices import usable_device
    from hyperfields.runs.run import load_run

    return load_run(run, usable_device(device))


EACH = "{scene}"  # in --out: a file for each scene


def recorded(path: Path) -> str:
    """A family's folder or URL, as runs and files of codes record it."""
    from hyperfields.data.store import location

    return location(path)


def is_there(place: str) -> bool:
    """True for a folder that is there; whether a URL is shows when it is read."""
    from hyperfields.data.store import is_url, location

    return is_url(location(place)) or Path(place).is_dir()


def each_scene(run: Run, codes: Path | None, out: Path, shard: str | None) -> Iterator[tuple[Scene, Path]]:
    """The scenes of a run, or of a file of codes, with the file that each is written to; of a part, those in it.

    Raises:
        InputError: more parts than scenes, a name that cannot be a file's.
    """
    from hyperfields.cli.options import parse_shard
    from hyperfields.runs.inferred import load_codes
    from hyperfields.runs.merged import part_of

    inferred = None if codes is None else load_codes(codes, run)
    names = part_of((run if inferred is None else inferred).names, parse_shard(shard))
    for name in names:
        if "/" in name or name in (".", "..") or name.startswith("."):
            raise InputError(f"scene {name!r:.100}: cannot be the name of a file; write it alone with --scene")
    for name in names:
        path = Path(str(out).replace(EACH, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield (run if inferred is None else inferred)[name], path


def require_each(out: Path, shard: str | None, given: Mapping[str, object]) -> bool:
    """True where `out` asks for a file for each scene.

    Raises:
        InputError: options that are of one scene, or a part of the scenes in one file.
    """
    if EACH not in str(out):
        if shard is not None:
            raise InputError(f"--shard {shard}: is of many files; give --out 'folder/{EACH}{out.suffix}'")
        return False
    for option, value in given.items():
        if value:
            raise InputError(f"--out {out}: is a file for each scene; leave {option} out")
    return True


def read_data(path: Path, shown: bool = True, /, **options: Any) -> SceneDataset:
    """A data set, with a meter, if it is to be shown, while shapes are sampled."""
    from hyperfields.scenes import open_family
    from hyperfields.training.progress import Meter

    with Meter("sampling") as meter:
        return open_family(path, **options, progress=meter.count if shown else lambda *_: None)


def source_of(
    path: Path, data: SceneDataset, size: tuple[int, int] | None, views: Sequence[int] | None, **reading: str | None
) -> DataSource:
    """The record of where scenes came from; `reading`: aspect, background, up, split, as they were given."""
    from hyperfields.runs.config import DataSource

    if getattr(data, "background", None) is not None:  # as it was found, so that other pictures are cut out alike
        reading["background"] = data.background  # type: ignore[attr-defined]
    views = None if views is None else tuple(views)
    return DataSource(recorded(path), tuple(data.names), size, views, **reading)


def reading_of(source: DataSource | None) -> dict[str, str]:
    """Options that a family was read with, so that it is read alike."""
    from hyperfields.cli.options import present

    if source is None:
        return {}
    return present(aspect=source.aspect, background=source.background, up=source.up, split=source.split)


def notes_of(data: SceneDataset) -> list[str]:
    """Lines about what a reader decided."""
    parts: tuple[SceneDataset, ...] = getattr(data, "parts", ())
    return [*getattr(data, "notes", ()), *(note for part in parts for note in notes_of(part))]


def data_of(
    run: Run, path: Path | None, names: Sequence[str] | None = None, measured: str | None = None, **changes: Any
) -> SceneDataset:
    """The data that scenes of a run were fitted to, at the size that they had.

    Args:
        changes: other values of the records of their sources, `size` or `split`.
        measured: split of views that is needed only; the training pictures may be missing then.
        path: where they are now; of a run whose scenes came from several folders, where those of some of them are.
        names: of the scenes; default all.

    Raises:
        InputError: data that are not there, or lack scenes of the run.
    """
    from hyperfields.data import Concat

    names = list(run.names if names is None else names)
    if not run.config.sources:
        if path is None:
            raise InputError(f"{run.label}: does not say which family was fitted; give it with --family DIR")
        return read_data(path, kind=run.kind, size=changes.get("size", size_of(run)), scenes=names)
    sources, asked = [dataclasses.replace(source, **changes) for source in run.config.sources], set(names)
    chosen = [(source, [name for name in source.scenes if name in asked]) for source in sources]
    wanted, parts, missed = [(source, scenes) for source, scenes in chosen if scenes], [], 0
    for source, scenes in wanted:
        if path is not None:
            try:
                parts.append(_data_of_source(run, source, scenes, path, measured))
                continue
            except InputError:
                missed += 1
                if missed == len(wanted):  # it has the scenes of no source
                    raise
        folder = Path(source.path)
        if not is_there(source.path):
            raise InputError(f"{folder}: the family of {run.label}, is not there; say where with --family DIR")
        parts.append(_data_of_source(run, source, scenes, folder, measured))
    return parts[0] if len(parts) == 1 else Concat(parts)


def _data_of_source(
    run: Run, source: DataSource, scenes: list[str], folder: Path, measured: str | None
) -> SceneDataset:
    """Scenes of one source, from a folder that has them."""
    options: dict[str, Any] = {"kind": run.kind, "size": source.size, "scenes": scenes, **reading_of(source)}
    if measured is not None and run.kind == "views":
        from hyperfields.scenes.views import Measured

        options["measured"] = Measured(measured, run.config.picture.get("frames", {}))
    if source.views is not None:
        try:
            return read_data(folder, **options, views=source.views)
        except InputError:  # pictures that are not measured may be missing
            if measured is None:
                raise
    return read_data(folder, **options)


def read_alike(run: Run, path: Path, given: Mapping[str, str], **options: Any) -> tuple[SceneDataset, dict[str, str]]:
    """Other scenes for a run, read as its own were (aspect, background, up, split), and how that was.

    A colour of the background is of pictures without alpha; those with alpha are read without it, unless it is `given`.
    """
    reading = {**reading_of(run.config.sources[0] if run.config.sources else None), **given}
    try:
        return read_data(path, **options, **reading), reading
    except InputError:
        if "background" not in reading or "background" in given:
            raise
        plain = {key: value for key, value in reading.items() if key != "background"}
        data = read_data(path, **options, **plain)
        if getattr(data, "background", None) is not None:  # without alpha: something else is wrong
            raise
        return data, plain


def has_data(run: Run) -> bool:
    """True when the data of a run are where they were."""
    return bool(run.config.sources) and all(is_there(source.path) for source in run.config.sources)


def size_of(run: Run) -> tuple[int, int] | None:
    """(height, width) of the pictures that a run was fitted to."""
    for source in run.config.sources:
        if source.size is not None:
            return source.size
    size = run.config.picture.get("size")
    return None if size is None else (int(size[0]), int(size[1]))


def observed_data(
    run: Run,
    names: Sequence[str],
    path: Path | None,
    inferred: InferredCodes | None,
    size: tuple[int, int] | None = None,
) -> SceneDataset:
    """The data that scenes were fitted to, or that their codes were inferred from, at the size and views of then.

    size: (height, width) to read them at instead.
    """
    if inferred is None:
        return data_of(run, path, names) if size is None else data_of(run, path, names, size=size)
    folder = path or (Path(inferred.source["path"]) if "path" in inferred.source else None)
    size = size or pair(inferred.source.get("size")) or size_of(run)
    views = inferred.source.get("views")
    if folder is None or not is_there(str(folder)):
        where = f"{folder} is not there" if folder else "nothing says where it was"
        raise InputError(f"the data of scene {names[0]!r}: {where}; say where with --family DIR")
    reading = {key: value for key in READING if isinstance(value := inferred.source.get(key), str)}
    return read_data(folder, kind=run.kind, size=size, scenes=list(names), views=views, **reading)


def require_splits(run: Run, given: Mapping[str, object]) -> None:
    """InputError for an option about views that was given for scenes without."""
    for option, value in given.items():
        if value is not None and not run.task.has_splits:
            raise InputError(f"{option} {value}: is for views, but the run holds {run.kind}; leave it out")


def one_scene(run: Run, scene: str | None, path: Path | None) -> Scene:
    """The scene asked for, fitted or inferred (from the file of codes `path`)."""
    if path is None:
        if scene is None:
            raise InputError(f"--scene: give a scene of {run.label}, e.g. {run.names[0]!r}, or --codes FILE")
        return run[scene]
    from hyperfields.runs.inferred import load_codes

    inferred = load_codes(path, run)
    if scene is None and len(inferred.names) > 1:
        raise InputError(f"--scene: give one of the {len(inferred.names)} of {path}, e.g. {inferred.names[0]!r}")
    return inferred[inferred.names[0] if scene is None else scene]


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report for programs."""
    import json

    from hyperfields.runs.atomic import require_no_run_file, write_atomically

    require_no_run_file(path)
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


def space_line(config: RunConfig) -> str:
    """A line about the space of a run's scenes; empty for those in their boxes."""
    if not getattr(getattr(config.model.field, "space", None), "contracted", False):
        return ""
    how = "as asked" if config.fit.capture.space else "as the pictures show what is all round"
    return f"space: contracted, {how}; choose with --space box|contracted"


def scene_count(count: int) -> str:
    """A number of scenes in words."""
    return f"{count:,} scene{'' if count == 1 else 's'}"


def kind_line(data: SceneDataset, picture: dict[str, Any], how: str) -> str:
    """A line about what was read."""
    size = f", {picture['size'][0]}x{picture['size'][1]}" if "size" in picture else ""
    return f"{data.kind}: {scene_count(len(data.names))}{size} ({how})"
