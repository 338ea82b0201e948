"""Files and folders that appear whole or not at all, and the question whether a name can be written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from hyperfields.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or all of the new one, on the disk when this returns.

    The folder is made when it is not there. Permissions are those of any new file.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing was changed.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes `path` when all went well, and vanishes when not.

    Raises:
        InputError: `path` is not an empty folder, or cannot be made.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already and is not an empty folder; choose another --out")
    temporary = _beside(path)
    try:
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error


def require_suffix(path: Path, allowed: tuple[str, ...], what: str) -> str:
    """The suffix of `path` in lower case. Ask before the work starts: the writers below ask again.

    Raises:
        InputError: when it is not one of `allowed`, or the folder of `path` does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        raise InputError(f"{path}: suffix {suffix or '(none)'} cannot hold {what}; use one of {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: folder {path.parent} does not exist; make it first")
    return suffix


def _beside(path: Path) -> Path:
    """A name for the time of writing, in the same folder, that no other thread or process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
