"""Files and folders that appear whole or not at all, and the question whether a name can be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hyperfields.errors import InputError
from hyperfields.runs.lock import LOCK, FolderLock

Buffer = bytes | memoryview
RUN_FILES = ("config.json", "model.safetensors", "codes.safetensors", "photographs.safetensors", "summary.json")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # see `_beside`


def write_atomically(path: Path, data: bytes | Iterable[Buffer]) -> None:
    """Write a file so that it is either the old one or all of the new one, on the disk when this returns.

    The data may come in pieces, so that a large file is never in memory as a whole. The folder is made when it is not
    there. Permissions are those of any new file.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing was changed.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes | Iterable[Buffer]]) -> None:
    """Write files that belong together: none takes its place before all are on the disk. See `write_atomically`."""
    temporary = {path: _beside(path) for path in files}
    path = Path()
    try:
        try:
            for path, data in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(temporary[path], "xb") as file:
                    for piece in (data,) if isinstance(data, bytes) else data:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
            for path in files:
                os.replace(temporary[path], path)
        except BaseException:
            for left in temporary.values():
                with contextlib.suppress(OSError):
                    left.unlink()
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error


def append(path: Path, text: str) -> None:
    """Write at the end of a log of lines. What a kill or a full disk cuts is the last line, which readers pass over.

    Raises:
        InputError: the disk is full or the file cannot be written.
    """
    try:
        with open(path, "a") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free some space") from error


@contextlib.contextmanager
def new_folder(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """A folder to write into that becomes `path` when all went well, and vanishes when not. Others are locked out.

    parents: make the folders above it too.

    Raises:
        InputError: `path` is not an empty folder, or cannot be made, or another process writes into it.
    """
    temporary = _beside(path)
    try:
        if not parents and not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"folder {path.parent} does not exist")
        with contextlib.nullcontext() if path.is_file() else FolderLock(path) as lock:
            if path.exists() and not (path.is_dir() and {left.name for left in path.iterdir()} <= {LOCK}):
                raise InputError(f"{path}: exists already and is not an empty folder; choose another --out")
            temporary.mkdir()
            try:
                yield temporary
                if lock is not None:
                    lock.release()  # a folder is only replaced when it is empty
                os.replace(temporary, path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    except InputError as error:  # of the file as it would have been called
        raise InputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error


def holds_files(folder: Path) -> bool:
    """True unless a folder is empty, but for a lock and temporary files of writers that were killed."""
    return any(left.name != LOCK and not TEMPORARY.fullmatch(left.name) for left in folder.iterdir())


def require_room(folder: Path, what: str = "the run") -> None:
    """Nothing, when a folder is new or empty: asked before long work, and again by `new_folder` as it begins.

    Raises:
        InputError: it is a file, or holds files of anybody's.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; wanted a new or an empty folder for {what}")
    if folder.is_dir() and holds_files(folder):
        raise InputError(f"{folder}: holds other files; wanted a new or an empty folder for {what}")


def require_suffix(path: Path, allowed: tuple[str, ...], what: str, *, makes_folder: bool = False) -> str:
    """The suffix of `path` in lower case. Ask before the work starts: the writers below ask again.

    makes_folder: the folder of `path` may be made when it is written.

    Raises:
        InputError: when it is not one of `allowed`, the folder of `path` does not exist, or `path` is a file of a run.
    """
    suffix = path.suffix.lower()
    require_no_run_file(path)
    if suffix not in allowed:
        raise InputError(f"{path}: suffix {suffix or '(none)'} cannot hold {what}; use one of {', '.join(allowed)}")
    if not path.parent.is_dir() and not makes_folder:
        raise InputError(f"{path}: folder {path.parent} does not exist; make it first")
    return suffix


def require_no_run_file(path: Path) -> None:
    """InputError for a file that belongs to a run, which would be lost."""
    if path.name in RUN_FILES and (path.parent / RUN_FILES[0]).is_file():
        raise InputError(f"{path}: is a file of the run in this folder; choose another --out")


def _beside(path: Path) -> Path:
    """A name for the time of writing, in the same folder, that no other thread or process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
