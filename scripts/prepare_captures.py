"""Make a family that fit reads from an archive of one of the field's data sets, as it is downloaded.

    python scripts/prepare_captures.py nerf-synthetic nerf_synthetic.zip families/synthetic
    python scripts/prepare_captures.py llff nerf_llff_data.zip families/llff --factor 8
    python scripts/prepare_captures.py mipnerf360 360_v2.zip families/360 --factor 4
    python scripts/prepare_captures.py srn cars_train.zip families/cars --limit 64
    python scripts/prepare_captures.py abo abo-3dmodels.tar families/abo --limit 100

Archives are .zip, .tar, .tar.gz, .tgz, .tar.xz or .tar.bz2, or a folder that was unpacked from one; several may follow
the layout's name. Only what is read is taken: no depth, normals or sparse reconstructions' databases. The family is
there whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from hyperfields.errors import InputError
from hyperfields.runs.atomic import new_folder
from hyperfields.scenes._common import one_line
from hyperfields.scenes.views import format_of
from hyperfields.training.progress import Meter

CHUNK = 2**20
JUNK = ("__MACOSX", ".DS_Store")
PICTURES = (".png", ".jpg", ".jpeg")
MODEL = {f"sparse/0/{name}{suffix}" for name in ("cameras", "images", "points3D") for suffix in (".bin", ".txt")}


class Layout(NamedTuple):
    """A data set's archive: which files say that a folder is a scene, and which of the scene's are taken."""

    marks: tuple[str, ...]  # patterns of paths in a scene's folder
    taken: tuple[str, ...]
    left: tuple[str, ...] = ()  # of those, what is not


LAYOUTS = {
    "nerf-synthetic": Layout(
        ("transforms_train.json",),
        ("transforms_*.json", "train/*.png", "val/*.png", "test/*.png"),
        ("*_depth_*.png", "*_normal_*.png", "*_depth.png", "*_normal.png"),
    ),
    "llff": Layout(("poses_bounds.npy",), ("poses_bounds.npy", *sorted(MODEL), "images*/*")),
    "mipnerf360": Layout(
        ("poses_bounds.npy", "sparse/0/cameras.bin"), ("poses_bounds.npy", *sorted(MODEL), "images*/*")
    ),
    "srn": Layout(("intrinsics.txt",), ("intrinsics.txt", "pose/*.txt", "rgb/*.png")),
}


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    path: PurePosixPath
    size: int


class Source:
    """The files of an archive or a folder; links, devices and what lies outside are never among them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise InputError(f"{path}: is not there; wanted an archive or a folder")
        try:
            self.members = [m for name, size in self._listed() if (m := self._member(name, size)) is not None]
        except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
            raise InputError(f"{path}: not a readable archive ({one_line(error)}); download it again") from error

    def _listed(self) -> Iterator[tuple[str, int]]:
        if self.path.is_dir():
            for file in sorted(self.path.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    yield file.relative_to(self.path).as_posix(), file.stat().st_size
        elif zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and (info.external_attr >> 28) in (0, 8):  # no links
                        yield info.filename, info.file_size
        else:
            with tarfile.open(self.path) as archive:
                for entry in archive:
                    if entry.isreg():
                        yield entry.name, entry.size

    def _member(self, name: str, size: int) -> Member | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
            raise InputError(
                f"{self.path}: holds {name!r:.100}, which leads out of it; this is no archive of a data set"
            )
        if any(part in JUNK or part.startswith("._") for part in path.parts):
            return None
        return Member(name, path, size)

    def streams(self, names: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
        """The files of these names, in the archive's order."""
        if self.path.is_dir():
            for name in sorted(names):
                with (self.path / name).open("rb") as stream:
                    yield name, stream
        elif zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                for info in archive.infolist():
                    if info.filename in names:
                        with archive.open(info) as stream:
                            yield info.filename, stream
        else:
            with tarfile.open(self.path) as archive:
                for entry in archive:
                    if entry.name in names and entry.isreg() and (stream := archive.extractfile(entry)) is not None:
                        yield entry.name, stream


def scenes_in(source: Source, layout: Layout) -> dict[PurePosixPath, list[tuple[Member, str]]]:
    """Folder of a scene -> its files that are taken, each with its path in the scene."""
    folders = set()
    for member in source.members:
        for mark in layout.marks:
            depth = len(PurePosixPath(mark).parts)
            if len(member.path.parts) >= depth and str(PurePosixPath(*member.path.parts[-depth:])) == mark:
                folders.add(PurePosixPath(*member.path.parts[:-depth]))
    scenes: dict[PurePosixPath, list[tuple[Member, str]]] = {folder: [] for folder in sorted(folders)}
    for member in source.members:
        folder = next((parent for parent in member.path.parents if parent in scenes), None)
        if folder is None:
            continue
        inside = str(member.path.relative_to(folder))
        if _matches(inside, layout.taken) and not _matches(inside, layout.left):
            scenes[folder].append((member, inside))
    return scenes


def _matches(path: str, patterns: Sequence[str]) -> bool:
    parts = PurePosixPath(path).parts
    for pattern in patterns:
        wanted = PurePosixPath(pattern).parts
        if len(wanted) == 1 and fnmatch.fnmatchcase(parts[-1], pattern) and (len(parts) == 1 or "*" in pattern[:1]):
            return True
        if len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            return True
    return False


def of_factor(files: list[tuple[Member, str]], factor: int, where: str) -> list[tuple[Member, str]]:
    """The files of a scene without the pictures of other sizes than full / factor."""
    folder = "images" if factor == 1 else f"images_{factor}"
    kept = [
        (member, path)
        for member, path in files
        if not path.startswith("images")
        or (path.split("/")[0] == folder and PurePosixPath(path).suffix.lower() in PICTURES)
    ]
    if not any(path.startswith(folder + "/") for _, path in kept):
        sizes = sorted({path.split("/")[0] for _, path in files if path.startswith("images")})
        raise InputError(f"{where}: has no {folder}, but {', '.join(sizes) or 'no pictures'}; choose with --factor")
    return kept


def prepare(
    layout: str,
    sources: Sequence[Path],
    out: Path,
    *,
    factor: int = 1,
    scenes: Sequence[str] = (),
    limit: int | None = None,
) -> list[str]:
    """Names of the scenes that were written to the new folder `out`.

    Raises:
        InputError: an archive that is damaged, leads out of itself or holds no scene; a name that is not there; a full
            disk; `out` is there already.
    """
    chosen: dict[str, tuple[Source, list[tuple[Member, str]]]] = {}
    for path in sources:
        source = Source(path)
        found = _models(source) if layout == "abo" else _scenes(source, layout, factor)
        for name, files in found.items():
            if name in chosen:
                raise InputError(f"{path}: a second scene {name!r}; prepare the archives one by one")
            chosen[name] = source, files
    if not chosen:
        raise InputError(f"{sources[0]}: no scene of {layout} in it; {_others(sources[0], layout)}")
    missing = [pattern for pattern in scenes if not fnmatch.filter(chosen, pattern)]
    if missing:
        raise InputError(f"{sources[0]}: no scene {missing[0]!r} in it; there are {', '.join(sorted(chosen)[:5])}, ...")
    names = [name for name in sorted(chosen) if not scenes or any(fnmatch.fnmatchcase(name, p) for p in scenes)]
    names = names[:limit]
    total = sum(member.size for name in names for member, _ in chosen[name][1]) or 1
    with new_folder(out) as folder, Meter("preparing") as meter:
        free = shutil.disk_usage(folder).free
        if total > free:
            raise InputError(f"{out}: {total / 1e9:.1f} GB are wanted, {free / 1e9:.1f} GB are free")
        done = 0
        for source in dict.fromkeys(chosen[name][0] for name in names):
            targets = {
                member.name: (folder.joinpath(*PurePosixPath(name).parts) if layout != "abo" else folder) / path
                for name in names
                if chosen[name][0] is source
                for member, path in chosen[name][1]
            }
            for name, size in _copied(source, targets):
                done += size
                meter.show(done / total, name)
        for name in names:
            if layout != "abo" and format_of(folder / name) is None:
                raise InputError(f"{sources[0]}: scene {name} is not whole: no cameras or no pictures")
    return names


def _copied(source: Source, targets: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Name and size of each file that was written."""
    sizes = {member.name: member.size for member in source.members}
    try:
        for name, stream in source.streams(set(targets)):
            target = targets[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                left = sizes[name]
                while left and (chunk := stream.read(min(CHUNK, left))):
                    file.write(chunk)
                    left -= len(chunk)
            if left:
                raise InputError(f"{source.path}: {name} is cut short; download it again")
            yield name, sizes[name]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{source.path}: cannot be unpacked ({one_line(error)}); download it again") from error


def _scenes(source: Source, layout: str, factor: int) -> dict[str, list[tuple[Member, str]]]:
    """Name -> files; the name has the folder above in it where scenes lie in several (cars_train, cars_test)."""
    found = scenes_in(source, LAYOUTS[layout])
    if layout in ("llff", "mipnerf360"):
        found = {folder: of_factor(files, factor, f"{source.path}: {folder}") for folder, files in found.items()}
    above = {folder.parent.name for folder in found}
    named: dict[str, list[tuple[Member, str]]] = {}
    for folder, files in found.items():
        name = folder.name or source.path.name.split(".")[0]
        named[f"{folder.parent.name}/{name}" if len(above) > 1 and folder.parent.name else name] = files
    return named


def _models(source: Source) -> dict[str, list[tuple[Member, str]]]:
    """ABO's meshes: 3dmodels/original/X/NAME.glb."""
    return {m.path.stem: [(m, m.path.name)] for m in source.members if m.path.suffix.lower() == ".glb"}


def _others(path: Path, layout: str) -> str:
    source = Source(path)
    fitting = [name for name, other in LAYOUTS.items() if name != layout and scenes_in(source, other)]
    if not fitting and _models(source):
        fitting = ["abo"]
    if fitting:
        return f"it looks like {' or '.join(fitting)}"
    wanted = " and ".join(LAYOUTS[layout].marks) if layout in LAYOUTS else "*.glb"
    return f"wanted folders with {wanted}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=[*LAYOUTS, "abo"])
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    parser.add_argument("out", type=Path, metavar="FAMILY", help="a new folder")
    parser.add_argument("--scenes", default="", metavar="A,B", help="names, or patterns with *; default: all")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scenes by name")
    parser.add_argument("--factor", type=int, default=1, choices=(1, 2, 4, 8), help="of llff and mipnerf360: images_N")
    asked = parser.parse_args(words)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            if asked.limit is not None and asked.limit < 1:
                raise InputError(f"--limit {asked.limit}: wanted a number of at least 1")
            chosen = [name for name in asked.scenes.split(",") if name]
            names = prepare(
                asked.layout, asked.archives, asked.out, factor=asked.factor, scenes=chosen, limit=asked.limit
            )
        except InputError as error:
            print(f"prepare_captures: error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"prepare_captures: error: {asked.out}: {error.strerror or error}", file=sys.stderr)
            return 2
        print(f"wrote {asked.out}: {len(names)} scenes; next: hyperfields fit {asked.out} --out runs/{asked.out.name}")
        return 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
