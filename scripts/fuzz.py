"""Coverage-guided fuzzing of everything that reads files: `make fuzz`, an hour in all, `FUZZ_MINUTES=5` for less.

    python scripts/fuzz.py --minutes 60            all targets of fuzz_targets.py, one after the other
    python scripts/fuzz.py --only png,glb          some of them
    python scripts/fuzz.py --keep                  into tests/corpus/ of what was found the little that reaches new code

Files that reach new code are kept in build/fuzz/corpus/TARGET and are where the next run starts. An exception other
than `InputError`, memory above `--memory`, an input that takes over a minute and a crash of a library are written to
build/fuzz/crashes/, each once, with what was raised beside it; the exit code is then 1. A file of there is read again
by `python scripts/fuzz.py --only TARGET --again FILE`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz_room import Room, Shape, Target

ROOT = Path(__file__).resolve().parents[1]
BUILD, CORPUS = ROOT / "build" / "fuzz", ROOT / "tests" / "corpus"
LARGEST = 16_384  # bytes of an input
SECONDS = 60  # of an input
KEPT = 8_000  # bytes of a target's files in tests/corpus/
FRESH = 2.0  # seconds that are worth another start after a crash


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="in all")
    parser.add_argument("--only", default="", help="targets, with commas between")
    parser.add_argument("--memory", type=int, default=1500, help="MB that one input may take")
    parser.add_argument("--keep", action="store_true", help="choose files for tests/corpus/, without fuzzing")
    parser.add_argument("--again", type=Path, help="read this file once, for its traceback")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of forked processes none has threads of the first
    if not given.keep and not given.again:
        instrument()
    from fuzz_room import Room
    from fuzz_targets import TARGETS

    names = given.only.split(",") if given.only else list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"--only {unknown[0]}: wanted some of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as folder:
        if given.again:
            TARGETS[names[0]].read(Room(Path(folder)), given.again.read_bytes())
            return 0
        if given.keep:
            for name in names:
                (Path(folder) / name).mkdir()
                apart(functools.partial(keep, name, TARGETS[name], Room(Path(folder) / name)))
            return 0
        print(f"{'target':<18}{'runs':>10}{'new files':>11}{'crashes':>9}")
        seconds = 60.0 * given.minutes / len(names)
        crashes = sum(fuzz(name, TARGETS[name], Path(folder), seconds, given.memory) for name in names)
    print(f"{crashes} crashes" + (f", in {BUILD / 'crashes'}" if crashes else ""))
    return 1 if crashes else 0


def instrument() -> None:
    """Import what is fuzzed so that atheris sees which of its code runs."""
    try:
        import atheris
    except ImportError as error:
        raise SystemExit(f"fuzz: atheris is missing ({error}): pip install 'hyperfields[fuzz]'") from None
    from hyperfields import errors

    folder = Path(errors.__file__).parent
    # Bodies of kernels are compiled by numba, which does not know the calls that instrumentation adds.
    kernels = [f"hyperfields.ops._cpu.{path.stem}" for path in (folder / "ops" / "_cpu").glob("*.py")]
    for module in [name for name in sys.modules if name.split(".")[0] == "hyperfields"]:
        del sys.modules[module]
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        atheris.instrument_imports(["hyperfields", "PIL", "trimesh"], [*kernels, "hyperfields.data._winding"]),
    ):
        import fuzz_targets
        import trimesh

        assert fuzz_targets.TARGETS
        assert trimesh.load_scene


def apart(work: Callable[[], object]) -> int:
    """Exit status of a process of its own that did this work, as `os.wait` gives it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def fuzz(name: str, target: Target, folder: Path, seconds: float, memory: int) -> int:
    """Number of crashes of one target, for which there is a line in the table."""
    from fuzz_room import Room

    corpus, crashes, log = BUILD / "corpus" / name, BUILD / "crashes", BUILD / "logs" / f"{name}.txt"
    for path in (corpus, crashes, log.parent):
        path.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    before, known = len(list(corpus.iterdir())), crashes_of(name)
    end = time.monotonic() + seconds
    runs = 0
    while (left := end - time.monotonic()) > FRESH:

        def work(left: float = left) -> None:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            run(name, target, Room(folder / name), corpus, left, memory)

        (folder / name).mkdir(exist_ok=True)
        status = apart(work)
        shutil.rmtree(folder / name, ignore_errors=True)
        runs = counted(log)
        if status == 0 or runs == 0:  # it is at its end, or cannot start
            break
    found = crashes_of(name) - known
    print(f"{name:<18}{runs:>10,}{len(list(corpus.iterdir())) - before:>11}{len(found):>9}", flush=True)
    if runs == 0:
        print(f"{name}: nothing was run, see {log}")
    return len(found) + (runs == 0)


def crashes_of(name: str) -> set[str]:
    """Names of files that crashed; one that only took long, on a busy machine, is none."""
    paths = (BUILD / "crashes").glob(f"{name}-*")
    return {path.name for path in paths if path.suffix != ".txt" and "-slow-unit-" not in path.name}


def counted(log: Path) -> int:
    """Inputs that were run, by libFuzzer's log of one or several starts."""
    starts = re.split(r"^INFO: Running with entropic.*$", log.read_text(errors="replace"), flags=re.MULTILINE)
    numbers = [re.findall(r"^(?:#|stat::number_of_executed_units: )(\d+)", part, re.MULTILINE) for part in starts]
    return sum(max(map(int, part)) for part in numbers if part)


def run(name: str, target: Target, room: Room, corpus: Path, seconds: float, memory: int) -> None:
    """Fuzz one target in this process until its time is over."""
    import atheris
    from fuzz_room import outcome

    crashes = BUILD / "crashes"
    seen: set[str] = set()
    for path in crashes.glob(f"{name}-*.txt"):
        seen.add(path.read_text().splitlines()[0])
    seeds = room.folder / "seeds"
    seeds.mkdir()
    for number, data in enumerate(target.seeds(room)):
        assert number or outcome(target, room, data) == "read", f"{name}: its seed is refused"
        (seeds / str(number)).write_bytes(data)
    words = room.folder / "words"
    words.write_text("".join(f'"{word}"\n' for word in target.words))
    base = peak_memory()

    def record(data: bytes, what: str, text: str) -> None:
        if what not in seen:
            seen.add(what)
            path = crashes / f"{name}-{hashlib.sha1(what.encode()).hexdigest()[:8]}"
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(f"{what}\n{text}\n")

    def one(data: bytes) -> None:
        try:
            outcome(target, room, data)
        except Exception as error:
            record(data, place_of(error), "".join(traceback.format_exception(error)))
        if (peak := peak_memory()) > base + memory * 1024:
            record(data, "memory", f"{(peak - base) // 1024} MB")
            Path("/proc/self/clear_refs").write_text("5")

    options = [
        "fuzz", f"-max_total_time={max(round(seconds), 1)}", f"-max_len={LARGEST}", f"-timeout={SECONDS}",
        f"-rss_limit_mb={base // 1024 + 2 * memory}", f"-artifact_prefix={crashes}/{name}-", "-print_final_stats=1",
        *([f"-dict={words}"] if target.words else []), str(corpus), str(seeds),
        *([str(CORPUS / name)] if (CORPUS / name).is_dir() else []),
    ]  # fmt: skip

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.shape != "bytes" and rng.random() < 0.8:
            with contextlib.suppress(Exception):  # it is not of that shape any more
                changed = in_shape(target.shape, data, target.words, rng)
                if len(changed) <= largest:
                    return changed
        return bytes(atheris.Mutate(data, largest))

    atheris.Setup(options, one, custom_mutator=mutate)
    atheris.Fuzz()


def peak_memory() -> int:
    """The most memory that this process had, kB; `clear_refs` starts it anew."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def place_of(error: BaseException) -> str:
    """What was raised and where, by which crashes are told apart."""
    error = error.__cause__ or error if type(error).__name__ == "Crash" else error
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "hyperfields" in frame.filename or "scenes" in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} in {last.name}"


# Changes that keep sums and lengths right -------------------------------------------------------------

DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**62, 2**70, -(2**62), 10**400, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", "x", "../../etc/passwd", "os:system", "\n", "\ud800", "x" * 999, [], [1], [1, 2, 3], [[]],
    [-1, 10**9], {}, {"a": 1}, {"class": "Full", "hidden": 0}, {"class": None}, {"function": "builtins:eval"}, DEEP,
    [2**30] * 8,
)  # fmt: skip


def in_shape(shape: Shape, data: bytes, words: tuple[str, ...], rng: random.Random) -> bytes:
    """A changed file; raises nearly anything when it is not of the shape."""
    if shape == "json":
        return changed_json(data, words, rng)
    if shape == "lines":
        lines = data.splitlines() or [b"{}"]
        place = rng.randrange(len(lines))
        lines[place] = changed_json(lines[place], words, rng)
        return b"\n".join(lines)
    if shape == "glb":
        magic, version, _, size, kind = struct.unpack("<4sIIII", data[:20])
        header, rest = changed_json(data[20 : 20 + size], words, rng), data[20 + size :]
        header += b" " * (-len(header) % 4)
        whole = struct.pack("<4sIIII", magic, version, 20 + len(header) + len(rest), len(header), kind)
        return whole + header + rest
    (size,) = struct.unpack("<Q", data[:8])
    text, rest = data[8 : 8 + size], data[8 + size :]
    content = json.loads(text)
    metadata = content.get("__metadata__") or {}
    nested = [key for key, value in metadata.items() if value[:1] in ("{", "[")]
    if nested and rng.random() < 0.5:
        key = rng.choice(nested)
        metadata[key] = changed_json(metadata[key].encode(), words, rng).decode()
        text = json.dumps(content).encode()
    elif rest and rng.random() < 0.4:
        place = rng.randrange(len(rest))
        number = rng.choice((b"\x00\x7c", b"\x00\x7e", b"\xff\xff\xff\xff", b"\x00\x00\x80\x7f", rng.randbytes(4)))
        rest = (rest[:place] + number + rest[place + len(number) :])[: len(rest)]
    else:
        text = changed_json(text, words, rng)
    return struct.pack("<Q", len(text)) + text + rest


def changed_json(text: bytes, words: tuple[str, ...], rng: random.Random) -> bytes:
    """A JSON text with one to three values replaced, exchanged, doubled, renamed or taken away."""
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(places_in(value))
        if not places:
            return json.dumps(rng.choice(VALUES)).encode()
        parent, key = rng.choice(places)
        way = rng.randrange(10)
        if way == 0:
            del parent[key]
        elif way == 1:
            other, at = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[at]))
        elif way == 2 and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif way == 3 and isinstance(parent, dict):
            parent[rng.choice(words) if words else rng.choice(["class", "a", *parent])] = parent.pop(key)
        elif way == 4 and words:
            parent[key] = rng.choice(words)
        elif way in (5, 6) and isinstance(parent[key], int | float):
            parent[key] = rng.choice((-parent[key], parent[key] + 1, parent[key] * 2, parent[key] * 1e9, 0))
        else:
            parent[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value but its root."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places_in(value[key])


# What is kept -----------------------------------------------------------------------------------------


def keep(name: str, target: Target, room: Room) -> None:
    """Write to tests/corpus/ what crashed, and the shortest files that reach lines of ours which no other reaches."""
    from fuzz_room import outcome

    lines: set[tuple[str, int]] = set()

    def reached(data: bytes) -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = set()

        def trace(frame: Any, event: str, _: Any) -> Any:
            path = frame.f_code.co_filename
            if "hyperfields" not in path and "scenes" not in path:
                return None
            if event == "line":
                found.add((path, frame.f_lineno))
            return trace

        sys.settrace(trace)
        try:
            with contextlib.suppress(Exception):
                outcome(target, room, data)
        finally:
            sys.settrace(None)
        return found - lines

    for data in target.seeds(room):
        lines |= reached(data)
    folder, total = CORPUS / name, 0
    mine = [path for path in folder.glob("*")] if folder.is_dir() else []
    for path in mine:
        lines |= reached(path.read_bytes())
        total += path.stat().st_size
    crashed = sorted(BUILD / "crashes" / file for file in crashes_of(name))
    found = sorted((BUILD / "corpus" / name).glob("*"), key=lambda path: (path.stat().st_size, path.name))
    for path in (*crashed, *found):
        data = path.read_bytes()
        kept = folder / hashlib.sha1(data).hexdigest()[:12]
        new = reached(data)
        if total + len(data) <= KEPT and not kept.is_file() and (new or path in crashed):
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            lines |= new
            total += len(data)
    print(f"{name:<18}{total:>8,} bytes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
