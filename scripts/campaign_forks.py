"""Commands in forked processes, for scripts/campaign.py: warm, cheap, killed or with writes that fail.

The parent imports everything and computes nothing, so a child costs what its command costs, and its death nothing.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import io
import json
import multiprocessing
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REAL = [sys.executable, "-P", "-m", "hyperfields"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code (-9: killed; None: it did not end in time) and what it said on stderr."""

    code: int | None
    error: str
    seconds: float

    @property
    def line(self) -> str:
        """The last line on stderr."""
        return (self.error.strip().splitlines() or [""])[-1]

    def refused(self, *names: str) -> str:
        """What is wrong with this as a refusal, which is exit code 2 and one line with one of `names`; or empty."""
        if self.code is None:
            return "does not end"
        if "Traceback" in self.error:
            return f"traceback: {self.line}"
        said = [line for line in self.error.splitlines() if line.startswith("hyperfields: error: ")]
        if self.code != 2:
            return f"exit code {self.code}: {self.line}"
        if len(said) != 1 or said[0] != self.line:
            return f"{len(said)} lines of error: {self.line}"
        return "" if any(name in self.line for name in names) else f"does not name the file: {self.line}"


def run(
    words: Sequence[object],
    scratch: Path,
    *,
    prepare: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
    limit: float = 240.0,
    really: bool = False,
    call: Callable[[list[str]], int] | None = None,
) -> Outcome:
    """The outcome of `hyperfields WORDS` in a process of its own.

    prepare: called in the child before. kill_after: seconds until it gets SIGKILL. limit: seconds until it has to have
    ended. really: a new interpreter, as a user starts it, and not a fork.
    call: instead of the command line.
    """
    texts, error = [str(word) for word in words], scratch / "stderr"
    begin = time.monotonic()
    if really:
        none = subprocess.DEVNULL
        none = subprocess.DEVNULL
        with open(error, "wb") as stream:
            process = subprocess.Popen([*REAL, *texts], stdin=none, stdout=none, stderr=stream)
        pid = process.pid
    else:
        process = None
        if (pid := os.fork()) == 0:
            _child(texts, error, prepare, call)
    status, killed = _wait(pid, begin, kill_after, limit)
    if process is not None:
        process.returncode = status  # it is gone; `Popen` need not ask
    code = None if killed == "late" else status
    return Outcome(code, error.read_text(errors="replace"), time.monotonic() - begin)


def _wait(pid: int, begin: float, kill_after: float | None, limit: float) -> tuple[int, str]:
    killed = ""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), killed
        passed = time.monotonic() - begin
        if not killed and (passed > limit or (kill_after is not None and passed > kill_after)):
            killed = "late" if passed > limit else "asked"
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _child(words: list[str], error: Path, prepare: Callable[[], None], call: Callable[[list[str]], int] | None) -> None:
    """The command, in a fork; does not return."""
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        stream = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, file in enumerate((null, null, stream)):
            os.dup2(file, number)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)  # no terminal: no bars
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        from hyperfields.cli import main

        try:
            prepare()
            code = (call or main)(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def little_memory(extra: int) -> None:
    """From here on this process gets no more than `extra` bytes above what it has, and a minute of a core."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 60
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


# ------------------------------------------------------------------------------------------------ writes

CHANGES = ("replace", "rename", "link", "symlink", "unlink", "remove", "rmdir")
MAKING = ("mkdir", "truncate", "ftruncate", "fsync", "fdatasync")


class Writes:
    """Every write below a folder, counted, of which one can be made to fail, and all after it, or to be the last thing
    that this process does.

    A write is the opening of a file for writing, each write into it, its sync, a new folder, a renaming, a removal.
    """

    def __init__(self, root: Path, at: int | None, way: str) -> None:
        """at: the number of the first that fails. way: "full" (a full disk can still rename and remove), "read-only",
        "kill"; the first half of what was to be written is written."""
        self.root, self.at, self.way, self.seen = f"{root.resolve()}{os.sep}", at, way, 0

    def install(self) -> None:
        """From here on the writes of this process are counted."""
        for name in CHANGES + MAKING:
            setattr(os, name, self._wrap(getattr(os, name), name))
        real_open, real_write, real_io = os.open, os.write, io.open

        def os_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self._below(path, options.get("dir_fd")):
                self._event("open", str(path))
            return real_open(path, flags, *args, **options)

        def os_write(file: int, data: Any) -> int:
            if self._below(file, None):
                self._event("write", None, lambda: real_write(file, bytes(data)[: len(data) // 2]))
            return real_write(file, data)

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            ours = set(mode) & set("wax+") and not options.get("opener") and self._below(file, None)
            if ours and not isinstance(file, int):
                self._event("open", str(file))
            stream = real_io(file, mode, *args, **options)
            if ours:
                write = stream.write

                def counted(data: Any) -> Any:
                    def half() -> None:
                        write(data[: len(data) // 2])
                        stream.flush()

                    self._event("write", None, half)
                    return write(data)

                stream.write = counted
            return stream

        os.open, os.write = os_open, os_write
        io.open = opened
        builtins.open = opened

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **options: Any) -> Any:
            if self._below(path, options.get("dir_fd")):
                self._event(name, str(path))
            return real(path, *args, **options)

        return wrapped

    def _below(self, path: Any, folder: int | None) -> bool:
        with contextlib.suppress(OSError, TypeError, ValueError):
            if isinstance(path, int):
                return os.readlink(f"/proc/self/fd/{path}").startswith(self.root)
            text = os.fsdecode(path)
            if folder is not None:
                text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
            return os.path.abspath(text).startswith(self.root)
        return False

    def _event(self, name: str, path: str | None, half: Callable[[], Any] = lambda: None) -> None:
        number, self.seen = self.seen, self.seen + 1
        if self.at is None or number < self.at or (self.way == "full" and name in CHANGES):
            return
        if number == self.at:
            half()
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.way == "full" else errno.EROFS
        raise OSError(code, os.strerror(code), path) if path is not None else OSError(code, os.strerror(code))


def count_writes(words: Sequence[object], root: Path, scratch: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """The number of writes below `root` of a command that nothing disturbs.

    Raises:
        RuntimeError: it fails.
    """
    told = scratch / "count"

    def counted() -> None:
        prepare()
        writes = Writes(root, None, "")
        writes.install()
        real = os._exit

        def leave(code: int) -> None:
            told_file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            number = writes.seen
            os.write(told_file, str(number).encode())
            real(code)

        os._exit = leave  # type: ignore[assignment]

    done = run(words, scratch, prepare=counted)
    if done.code != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.code}: {done.error}")
    return int(told.read_text())


# ------------------------------------------------------------------------------------------------ many cases


def scatter(count: int, work: Callable[[int], dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Results of work(0) ... work(count - 1) as they come, made by forked processes that take turns.

    A case that raises gives {"case": number, "failure": text}.
    """
    order = multiprocessing.get_context("fork").Value("i", 0)
    pipes: dict[int, bytes] = {}
    for _ in range(workers):
        read, write = os.pipe()
        if os.fork() == 0:
            for other in (read, *pipes):
                os.close(other)
            _work(count, work, order, write)
        os.close(write)
        pipes[read] = b""
    while pipes:
        for pipe in select.select(list(pipes), [], [])[0]:
            data = os.read(pipe, 2**16)
            *lines, rest = (pipes[pipe] + data).split(b"\n")
            yield from map(json.loads, lines)
            pipes[pipe] = rest
            if not data:
                os.close(pipe)
                del pipes[pipe]
                os.wait()


def _work(count: int, work: Callable[[int], dict[str, Any]], order: Any, out: int) -> None:
    """Cases one after the other, in a fork; does not return."""
    code = 1
    try:
        while True:
            with order.get_lock():
                number = order.value
                order.value += 1
            if number >= count:
                break
            try:
                result = work(number)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                result = {"failure": text}
            os.write(out, json.dumps({"case": number, **result}).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)
