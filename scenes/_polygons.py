"""Files whose faces are polygons: .off, .obj and .ply. trimesh splits polygons as if all were convex."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Triangles = tuple[NDArray[np.float64], NDArray[np.int64]]  # vertices [v 3], faces [f 3]
Element = tuple[str, int, list[list[str]]]  # name, rows, words of its properties
MOST = 1000  # corners of a polygon that is not convex: ears are looked for in all of it again and again
CORNERS = ("vertex_indices", "vertex_index")  # the list of a face's corners
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}


def triangulated(points: NDArray[np.float64], polygons: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Triangles `[f 3]` of polygons: of convex ones a fan round the first corner, of others ears that are cut off.

    Raises:
        ValueError: one that is not convex, with more corners than can be looked at.
    """
    plain = np.ones(len(polygons), dtype=np.bool_)
    lengths = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
    for length in np.unique(lengths[lengths > 3]):
        which = np.nonzero(lengths == length)[0].tolist()
        plain[which] = _is_convex(points, np.array([polygons[i] for i in which], dtype=np.int64))
    triangles: list[tuple[int, int, int]] = []
    if len(lengths) and (most := int(lengths[~plain].max(initial=0))) > MOST:
        raise ValueError(f"a face with notches has {most:,} corners, wanted at most {MOST:,}; divide it into triangles")
    for polygon, convex in zip(polygons, plain, strict=True):
        triangles += _fan(polygon) if convex else _ears(points[list(polygon)], polygon)
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _fan(polygon: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(polygon[0], a, b) for a, b in itertools.pairwise(polygon[1:])]


def _is_convex(points: NDArray[np.float64], polygons: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which polygons `[k n]` turn one way all round; those with corners that are no points are left to others."""
    known = ((polygons >= 0) & (polygons < len(points))).all(axis=1)
    with np.errstate(all="ignore"):  # NaN is refused later
        ring = points[polygons[known]]
        edge = np.roll(ring, -1, axis=1) - ring
        turn = np.cross(np.roll(edge, 1, axis=1), edge)
        along = np.einsum("knx,kx->kn", turn, _normals(ring))
        convex = np.logical_not(known)
        convex[known] = ~(along < -1e-9 * np.abs(along).max(axis=1, keepdims=True)).any(axis=1)
    return convex


def _normals(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the area of polygons `[k n 3]` as vectors `[k 3]` (Newell)."""
    ring = ring - ring[:, :1]
    area: NDArray[np.float64] = np.cross(ring, np.roll(ring, -1, axis=1)).sum(axis=1)
    return area


def _ears(ring: NDArray[np.float64], polygon: Sequence[int]) -> list[tuple[int, int, int]]:
    """Triangles of a polygon with corners at `ring` `[n 3]`: ears are cut off, one after another (Meisters, 1975). Of
    one that crosses itself, what is left when there is no ear any more is a fan."""
    normal = _normals(ring[None])[0]
    axis = int(np.abs(normal).argmax())
    plane = [(axis + 1) % 3, (axis + 2) % 3][:: 1 if normal[axis] > 0.0 else -1]
    flat, left, triangles = ring[:, plane], list(range(len(polygon))), list[tuple[int, int, int]]()
    while len(left) > 3:
        ear = next((k for k in range(len(left)) if _is_ear(flat, left, k)), None)
        if ear is None:
            break
        triangles.append((polygon[left[ear - 1]], polygon[left[ear]], polygon[left[(ear + 1) % len(left)]]))
        del left[ear]
    return triangles + _fan([polygon[k] for k in left])


def _is_ear(flat: NDArray[np.float64], left: Sequence[int], k: int) -> bool:
    """True if the triangle at corner `k` of a polygon `left` in the plane holds no other corner."""
    a, b, c = flat[left[k - 1]], flat[left[k]], flat[left[(k + 1) % len(left)]]

    def beyond(p: NDArray[np.float64], q: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        area: NDArray[np.float64] = (q[0] - p[0]) * (x[..., 1] - p[1]) - (q[1] - p[1]) * (x[..., 0] - p[0])
        return area

    if not beyond(a, b, c) > 0.0:
        return False
    rest = flat[left]
    rest = rest[~np.any([(rest == corner).all(axis=1) for corner in (a, b, c)], axis=0)]
    return not ((beyond(a, b, rest) >= 0.0) & (beyond(b, c, rest) >= 0.0) & (beyond(c, a, rest) >= 0.0)).any()


def read_obj(content: bytes) -> Triangles:
    """An .obj file (Wavefront): its vertices and faces; lines, points and curves are left out.

    Numbers below 0 count back from the last vertex above the line, which trimesh takes for the last one of the file.

    Raises:
        ValueError: a line that is none of its own.
    """
    text = content.removeprefix(b"\xef\xbb\xbf").replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    points: list[list[float]] = []
    polygons: list[list[int]] = []
    for line in text.splitlines():
        words = line.partition(b"#")[0].split()
        if not words or words[0] not in (b"v", b"f"):
            continue
        try:
            if words[0] == b"v":
                x, y, z = map(float, words[1:4])
                points.append([x, y, z])
            elif len(words) > 3:
                corners = [int(word.partition(b"/")[0]) for word in words[1:]]
                polygons.append([corner - 1 if corner > 0 else len(points) + corner for corner in corners])
                if 0 in corners:
                    raise ValueError("vertices are counted from 1")
        except ValueError as error:
            why = "numbers are written with a point" if b"," in line else str(error)
            raise ValueError(f"{line[:60].decode('utf-8', 'replace')!r} came; {why}") from None
    known = np.array(points, dtype=np.float64).reshape(-1, 3)
    return known, triangulated(known, polygons)


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
    return points, triangulated(points, polygons)


def read_ply(content: bytes) -> Triangles:
    """A .ply file (Turk, 1994), row by row: slower than trimesh, which wants as many corners in every face.

    Raises:
        ValueError: another format, or data are missing.
    """
    head = re.match(rb"ply\r?\n.*?end_header\r?\n", content, re.DOTALL)
    form = head and re.search(rb"format (ascii|binary_little|binary_big)", head[0])
    if head is None or form is None:
        raise ValueError("no header of a PLY")
    elements = list(_elements(head[0].decode("ascii", "replace")))
    if form[1] == b"ascii":
        points, polygons = _text_rows(content[head.end() :], elements)
    else:
        points, polygons = _binary_rows(content, head.end(), elements, "<" if form[1] == b"binary_little" else ">")
    return points, triangulated(points, polygons)


def _text_rows(body: bytes, elements: Sequence[Element]) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Vertices and polygons of a .ply in text."""
    lines = [words for line in body.splitlines() if (words := line.split())]
    points: list[list[float]] = []
    polygons: list[list[int]] = []
    for name, length, properties in elements:
        rows, lines = lines[:length], lines[length:]
        if len(rows) < length:
            raise ValueError("it is shorter than its header says")
        for row in rows:
            values: dict[str, list[bytes]] = {}
            for kind, *_, key in properties:
                start, end = (1, 1 + int(row[0])) if kind == "list" else (0, 1)
                values[key], row = row[start:end], row[end:]
            if name == "vertex":
                points.append([float(values[axis][0]) for axis in "xyz"])
            elif name == "face":
                polygons.append([int(corner) for key in CORNERS for corner in values.get(key, ())])
    return np.array(points, dtype=np.float64).reshape(-1, 3), polygons


def _binary_rows(
    content: bytes, place: int, elements: Sequence[Element], endian: str
) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Vertices and polygons of a binary .ply, whose rows begin at `place`."""
    points: NDArray[np.float64] = np.empty((0, 3))
    polygons: list[list[int]] = []
    for name, length, properties in elements:
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
                if name == "face" and words[-1] in CORNERS:
                    polygons.append(np.frombuffer(content, kind, count, place).tolist())
                place += count * kind.itemsize
    if place > len(content):
        raise ValueError("it is shorter than its header says")
    return points, polygons


def _elements(header: str) -> Iterator[Element]:
    """(name, number of rows, words of its properties) of each element."""
    for block in re.split(r"^element\s+", header, flags=re.MULTILINE)[1:]:
        first, *lines = block.splitlines()
        name, length = first.split()[:2]
        if int(length) < 0:
            raise ValueError(f"{length} rows of {name}")
        yield name, int(length), [words[1:] for line in lines if (words := line.split())[:1] == ["property"]]
