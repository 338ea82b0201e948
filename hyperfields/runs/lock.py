"""One writer a run: a lock on its folder, which the system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from hyperfields.errors import InputError

LOCK = ".lock"


class FolderLock:
    """The lock on a folder, which is made when it is not there; held until `release`.

    The file holds the number of the process. A file system without locks is written without one.

    Raises:
        InputError: another process holds it, which is named.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.file = folder / LOCK, -1
        with contextlib.suppress(OSError):  # what cannot be written says so when it is written
            folder.mkdir(parents=True, exist_ok=True)
            while self.file < 0:
                self._take()

    def _take(self) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(file, self.path):  # its last holder has just removed it
                os.close(file)
                return
            os.truncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        except BlockingIOError:
            number = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            os.close(file)
            if number == str(os.getpid()):  # an earlier fit of this process that nobody runs any more
                raise OSError from None
            raise InputError(
                f"{self.path.parent}: process {number or '(unknown)'} is writing into it; wait until it ends, stop it, "
                "or choose another --out"
            ) from None
        except OSError:
            os.close(file)
            raise
        self.file = file

    def release(self) -> None:
        """Let others write. May be called again."""
        if self.file >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.file)
            self.file = -1

    def __del__(self) -> None:
        self.release()


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
