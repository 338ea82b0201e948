"""What a .glb file announces, summed before anything of that size is made: a few bytes can announce gigabytes."""

from __future__ import annotations

import json
import struct
from typing import Any

SMALL = 2**22  # rows that any file may lead to; a larger file, as many as it has bytes


def refuse_huge(content: bytes) -> None:
    """Nothing, when the vertices and corners of a file's scene, copies by nodes among them, fit its size.

    What is damaged in another way is left to the reader.

    Raises:
        ValueError: they do not.
    """
    try:
        (size,) = struct.unpack("<I", content[12:16])
        header = json.loads(content[20 : 20 + size])
        counts = [int(accessor["count"]) for accessor in header.get("accessors", [])]
        costs = [sum(_rows(part, counts) for part in mesh["primitives"]) for mesh in header.get("meshes", [])]
        nodes = header.get("nodes", [])
        shown = [child for node in nodes for child in node.get("children", [])]
        shown += [root for scene in header.get("scenes", []) for root in scene.get("nodes", [])]
        copies = sum(costs[nodes[node]["mesh"]] for node in shown if "mesh" in nodes[node])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return
    announced = max(*counts, copies, 0) if counts else copies
    if announced > max(SMALL, len(content)):
        raise ValueError(f"it announces {announced:,} vertices and corners, more than {len(content):,} bytes can hold")


def _rows(primitive: dict[str, Any], counts: list[int]) -> int:
    """Vertices and corners of a part of a mesh."""
    used = (primitive.get("indices"), primitive["attributes"].get("POSITION"))
    return sum(counts[index] for index in used if index is not None)
