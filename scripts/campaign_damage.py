"""Ways to damage a file, for scripts/campaign.py. To add one, write a function of (path, random numbers) and a line in
`WAYS`: what it is called, the kinds of files that it is for, and whether such a file may be read all the same.
"""

from __future__ import annotations

import copy
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**62, 2**70, -(2**62), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x",
    "images", "../../etc/passwd", "/etc/passwd", "os:system", "x" * 999, "a\x00b", [], [1], [1, 2, 3], [[]],
    [-1, 10**9], {}, {"a": 1}, {"class": "os:system"}, {"class": None}, {"function": "builtins:eval"}, DEEP,
    [2**30] * 8,
]  # fmt: skip
HUGE = 2**31 - 1


class Way(NamedTuple):
    """A way to damage a file."""

    change: Callable[[Path, Random], None]
    kinds: frozenset[str] | None = None  # of files: binary, text, json, tensors; None for all
    readable: bool = True  # what is left may be a good file


# ------------------------------------------------------------------------------------------------ bytes


def empty(path: Path, rng: Random) -> None:
    path.write_bytes(b"")


def cut(path: Path, rng: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, max(len(data) - 8, 2))])


def flipped(path: Path, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def head(path: Path, rng: Random) -> None:
    """Other bytes near the beginning."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 64))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    path.write_bytes(data)


def zeros(path: Path, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)


def doubled(path: Path, rng: Random) -> None:
    data = path.read_bytes()
    at = rng.randrange(len(data))
    path.write_bytes(data[:at] + data[max(at - 200, 0) :])


def noise(path: Path, rng: Random) -> None:
    path.write_bytes(rng.randbytes(rng.choice((1, 7, 100, 4096))))


def other(path: Path, rng: Random) -> None:
    """A file of something else under this name."""
    path.write_bytes(
        rng.choice((b"<html><body>404</body></html>\n", b"%PDF-1.7\n%\xe2\xe3\n", b"PK\x03\x04" + bytes(60)))
    )


def pointer(path: Path, rng: Random) -> None:
    """What git leaves in place of a large file that was not fetched."""
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")


# ------------------------------------------------------------------------------------------------ no file


def folder(path: Path, rng: Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, rng: Random) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path, rng: Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path, rng: Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path, rng: Random) -> None:
    path.unlink()
    path.symlink_to("not there")


def locked(path: Path, rng: Random) -> None:
    """A file that may not be read; the command then runs as a user that is not root."""
    path.chmod(0)


# ------------------------------------------------------------------------------------------------ JSON and texts


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value, but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def swapped_value(value: Any, rng: Random) -> Any:
    """A JSON value in which one or two others stand somewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        if not (there := list(places(value))):
            break
        *above, last = rng.choice(there)
        parent = value
        for key in above:
            parent = parent[key]
        parent[last] = copy.deepcopy(rng.choice(VALUES))
    return value


def swapped(path: Path, rng: Random) -> None:
    path.write_text(json.dumps(swapped_value(_json(path), rng)))


def gone(path: Path, rng: Random) -> None:
    """A key or an element less."""
    value = _json(path)
    *above, last = rng.choice(list(places(value)) or [()])
    parent = value
    for key in above:
        parent = parent[key]
    del parent[last]
    path.write_text(json.dumps(value))


def _json(path: Path) -> Any:
    """The JSON of a file; of lines, the first."""
    text = path.read_text()
    return json.loads(text if path.suffix == ".json" else text.splitlines()[0])


def root(path: Path, rng: Random) -> None:
    path.write_text(
        rng.choice(("[]", "null", "3", '"x"', "{}", "NaN", "[{}]", "[" * 100_000, '{"a":' * 50_000, "{", "1e999"))
    )


def encoding(path: Path, rng: Random) -> None:
    text = path.read_text(encoding="latin-1")
    coded = text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp500")))
    path.write_bytes(
        rng.choice((coded, b"\xff\xfe" + text.encode("latin-1"), b"\xed\xa0\x80" + text.encode("latin-1")))
    )


def number(path: Path, rng: Random) -> None:
    """Another number, or what is none, somewhere in a text."""
    text = path.read_text(encoding="latin-1")
    found = list(re.finditer(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", text))
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.choice(found)
        new = rng.choice(
            ("nan", "inf", "-inf", "1e400", "-1", "0", "9" * 20, str(HUGE), "x", "", "1,5", "0x10", "1e38")
        )
        text = text[: at.start()] + new + text[at.end() :]
        found = list(re.finditer(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", text))
    path.write_bytes(text.encode("latin-1"))


def line(path: Path, rng: Random) -> None:
    """A line of a text gone, doubled, or very long."""
    lines = path.read_bytes().split(b"\n")
    at = rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[at] * 20_000], [b"\x00"]))
    path.write_bytes(b"\n".join(lines))


# ------------------------------------------------------------------------------------------------ headers


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _with_header(path: Path, text: str, body: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + body)


def tensors(path: Path, rng: Random) -> None:
    """Another value in the header of a file of tensors."""
    header, body = _header(path.read_bytes())
    _with_header(path, json.dumps(swapped_value(header, rng)), body)


def facts(path: Path, rng: Random) -> None:
    """Another value in a fact of the header that is JSON itself."""
    header, body = _header(path.read_bytes())
    known = header.get("__metadata__", {})
    if known:
        key = rng.choice(sorted(known))
        try:
            known[key] = json.dumps(swapped_value(json.loads(known[key]), rng))
        except ValueError:
            known[key] = rng.choice(("", "x", "[" * 50_000, "null"))
    _with_header(path, json.dumps(header), body)


def bits(path: Path, rng: Random) -> None:
    """Numbers that are not finite, or all zero."""
    _, body = _header(path.read_bytes())
    path.write_bytes(path.read_bytes()[: -len(body)] + rng.choice((b"\xff", b"\x00", b"\x7c")) * len(body))


def length(path: Path, rng: Random) -> None:
    """A header that is said to be longer than the file, or as long as no memory is."""
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", rng.choice((0, 1, 2**31, 2**40, 2**63, len(data), len(data) - 8))) + data[8:])


def promises(path: Path, rng: Random) -> None:
    """A header that promises gigabytes."""
    data = bytearray(path.read_bytes())
    side = rng.choice((30_000, 65_000, 2_000_000, HUGE))
    suffix = path.suffix.lower()
    if suffix == ".png":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", side, side)
    elif suffix in (".gif", ".tga", ".jpg", ".webp", ".tif"):
        small = struct.pack(">HH" if suffix == ".jpg" else "<HH", min(side, 65_000), min(side, 65_000))
        at = {".gif": 6, ".tga": 12, ".webp": 26}.get(suffix, 0)
        at = data.index(b"\xff\xc0") + 5 if suffix == ".jpg" else at
        if suffix == ".tif":  # every small value of a directory entry
            start = struct.unpack("<I", data[4:8])[0]
            for entry in range(struct.unpack("<H", data[start : start + 2])[0]):
                field = start + 2 + 12 * entry
                if struct.unpack("<H", data[field : field + 2])[0] in (256, 257):
                    data[field + 8 : field + 12] = struct.pack("<HH", 65_000, 0)
        else:
            data[at : at + 4] = small
    elif suffix == ".exr":
        for name in (b"dataWindow", b"displayWindow"):
            at = data.index(name) + len(name) + 1 + len(b"box2i") + 1 + 4
            data[at : at + 16] = struct.pack("<4i", 0, 0, side, side)
    elif suffix == ".stl" and not data.startswith(b"solid"):
        data[80:84] = struct.pack("<I", side)
    elif suffix == ".glb":
        data[8:16] = struct.pack("<II", HUGE, HUGE)
    elif suffix == ".bin":
        data[:8] = struct.pack("<Q", rng.choice((side, 2**40, 2**63)))
    elif suffix == ".npy":
        data = bytearray(re.sub(rb"\(\d+", b"(9" + b"9" * rng.randrange(1, 10), bytes(data), count=1))
    else:  # counts as text
        data = bytearray(re.sub(rb"\b\d+\b", str(side).encode(), bytes(data), count=rng.choice((1, 2, 3))))
    path.write_bytes(data)


NO_FILES = ("folder", "pipe", "device", "loop", "dangling")  # then the folder is named
_text, _json_kinds, _tensors = frozenset(("text",)), frozenset(("json",)), frozenset(("tensors",))
WAYS: dict[str, Way] = {
    "empty": Way(empty, None, False),
    "cut": Way(cut),
    "flipped": Way(flipped),
    "head": Way(head),
    "zeros": Way(zeros),
    "doubled": Way(doubled),
    "noise": Way(noise, None, False),
    "other": Way(other, None, False),
    "pointer": Way(pointer, None, False),
    "folder": Way(folder),
    "pipe": Way(pipe),
    "device": Way(device),
    "loop": Way(loop),
    "dangling": Way(dangling),
    "locked": Way(locked, None, False),
    "promises": Way(promises, frozenset(("binary", "text"))),
    "number": Way(number, _text | _json_kinds),
    "number again": Way(number, _text),
    "line": Way(line, _text | _json_kinds),
    "encoding": Way(encoding, _text | _json_kinds),
    "swapped": Way(swapped, _json_kinds),
    "swapped again": Way(swapped, _json_kinds),
    "swapped once more": Way(swapped, _json_kinds),
    "gone": Way(gone, _json_kinds),
    "root": Way(root, _json_kinds, False),
    "tensors": Way(tensors, _tensors),
    "tensors again": Way(tensors, _tensors),
    "facts": Way(facts, _tensors),
    "facts again": Way(facts, _tensors),
    "bits": Way(bits, _tensors),
    "length": Way(length, _tensors),
}
