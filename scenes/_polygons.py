"""Files whose faces are polygons of several sizes, which trimesh does not read: .off, and binary .ply."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Triangles = tuple[NDArray[np.float64], NDArray[np.int64]]  # vertices [v 3], faces [f 3]
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}


def fans(polygons: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Triangles `[f 3]` of polygons, each a fan round its first corner."""
    triangles = [(p[0], a, b) for p in polygons for a, b in itertools.pairwise(p[1:])]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def read_off(content: bytes) -> Triangles:
    """An .off file (Geomview's, ASCII); its counts may follow OFF in the same line, colours are left out.

    Raises:
        ValueError: another format, or rows are missing.
    """
    plain = re.sub(rb"#[^\r\n]*", b"", content.removeprefix(b"\xef\xbb\xbf"))
    head = re.match(rb"\s*(?:ST)?C?N?(4?)(n?)(?:OFF|off)(?:\s+(BINARY)\b|(?![A-Za-z]))", plain)
    if head is None and not re.match(rb"\s*\d+\s+\d+", plain):  # the word may be left out
        raise ValueError("no OFF at its start")
    if head is not None and any(head.groups()):
        raise ValueError(f"{head[0].decode().strip()} is not read; store it as plain OFF")
    lines = (line.split() for line in plain[head.end() if head else 0 :].splitlines())
    counts, *rows = [line for line in lines if line] or [[]]
    if len(counts) < 2:
        raise ValueError("no numbers of vertices and faces")
    vertices, faces = int(counts[0]), int(counts[1])
    if min(vertices, faces) < 0 or len(rows) < vertices + faces:
        raise ValueError(f"{vertices} vertices and {faces} faces announced, {len(rows)} rows there")
    points = np.array([row[:3] for row in rows[:vertices]], dtype=np.float64).reshape(-1, 3)
    polygons = [[int(corner) for corner in row[1 : 1 + int(row[0])]] for row in rows[vertices : vertices + faces]]
    if any(len(p) != int(row[0]) for p, row in zip(polygons, rows[vertices:], strict=False)):
        raise ValueError("a face with fewer corners than it announces")
    return points, fans(polygons)


def read_binary_ply(content: bytes) -> Triangles:
    """A binary .ply file (Turk, 1994), row by row: slower than trimesh, which wants as many corners in every face.

    Raises:
        ValueError: another format, or data are missing.
    """
    head = re.match(rb"ply\r?\n.*?end_header\r?\n", content, re.DOTALL)
    order = head and re.search(rb"format binary_(little|big)_endian", head[0])
    if head is None or order is None:
        raise ValueError("no header of a binary PLY")
    endian, place = "<" if order[1] == b"little" else ">", head.end()
    points: NDArray[np.float64] = np.empty((0, 3))
    polygons: list[list[int]] = []
    for name, length, properties in _elements(head[0].decode("ascii", "replace")):
        if all(len(words) == 2 for words in properties):
            row = np.dtype([(words[1], endian + TYPES[words[0]]) for words in properties])
            data = np.frombuffer(content, row, length, place)
            place += length * row.itemsize
            if name == "vertex":
                points = np.stack([data[axis] for axis in "xyz"], axis=-1).astype(np.float64)
            continue
        for _ in range(length):
            for words in properties:
                count = 1
                if words[0] == "list":
                    size = np.dtype(endian + TYPES[words[1]])
                    count, place = int(np.frombuffer(content, size, 1, place)[0]), place + size.itemsize
                    if count < 0:
                        raise ValueError(f"a list of {count} entries")
                kind = np.dtype(endian + TYPES[words[-2]])
                if name == "face" and words[-1] in ("vertex_indices", "vertex_index"):
                    polygons.append(np.frombuffer(content, kind, count, place).tolist())
                place += count * kind.itemsize
    if place > len(content):
        raise ValueError("it is shorter than its header says")
    return points, fans(polygons)


def _elements(header: str) -> Iterator[tuple[str, int, list[list[str]]]]:
    """(name, number of rows, words of its properties) of each element."""
    for block in re.split(r"^element\s+", header, flags=re.MULTILINE)[1:]:
        first, *lines = block.splitlines()
        name, length = first.split()[:2]
        yield name, int(length), [words[1:] for line in lines if (words := line.split())[:1] == ["property"]]
