"""One writer a folder or file: a lock, which the system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from hyperfields.errors import InputError

LOCK = ".lock"


class Lock:
    """A lock for writing, held until `release` or the end of a `with`.

    Its file, which goes when it is released, holds the number of the process. A file system without locks is written
    without one, and so is what an earlier lock of the same process covers.

    Raises:
        InputError: another process holds it, which is named.
    """

    def __init__(self, file: Path, written: Path, folder: Path | None = None) -> None:
        """file: the lock's own. written: what it covers, for the message. folder: to make when it is not there."""
        self.path, self.written, self.file = file, written, -1
        above = () if folder is None else (folder, *folder.parents)
        self.made = [part for part in above if not part.exists()]  # innermost first
        try:
            with contextlib.suppress(OSError):  # what cannot be written says so when it is written
                while self.file < 0:
                    if folder is not None:
                        folder.mkdir(parents=True, exist_ok=True)
                    with contextlib.nullcontext() if folder is None else contextlib.suppress(FileNotFoundError):
                        self._take()  # its last holder may have removed the folder that it made
        except BaseException:
            self._remove_folders()
            raise

    def _take(self) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(file, self.path):  # its last holder has just removed it
                os.close(file)
                return
            with contextlib.suppress(OSError):  # a full disk: held all the same, without a number
                os.truncate(file, 0)
                os.write(file, str(os.getpid()).encode())
        except BlockingIOError:
            number = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            os.close(file)
            if number == str(os.getpid()):  # an earlier fit of this process that nobody runs any more, or around this
                raise OSError from None
            raise InputError(
                f"{self.written}: process {number or '(unknown)'} is writing into it; wait until it ends, stop it, "
                "or choose another --out"
            ) from None
        except OSError:
            os.close(file)
            raise
        self.file = file

    def release(self) -> None:
        """Let others write. Folders that were made for it and are empty go too. May be called again."""
        if self.file >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.file)
            self.file = -1
        self._remove_folders()

    def _remove_folders(self) -> None:
        with contextlib.suppress(OSError):  # the first that is not empty
            for folder in self.made:
                folder.rmdir()
        self.made = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class FolderLock(Lock):
    """The lock on a folder, which is made when it is not there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOCK, folder, folder)


class FileLock(Lock):
    """The lock on a file; in a folder that has a lock, such as a run that is being fitted, the folder's."""

    def __init__(self, path: Path) -> None:
        folder = path.parent / LOCK
        super().__init__(folder if folder.exists() else path.with_name(f".{path.name}{LOCK}"), path)


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
