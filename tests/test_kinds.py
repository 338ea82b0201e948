"""Kinds of scenes are known to tasks, to readers, and to nobody else: a new kind is a task, a line and a reader."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

KINDS = {"images", "shapes", "views"}
FIELDS = {"ImageField", "SDFField", "RadianceField"}
# What is left, by file; the rooms of tasks know kinds, and what people type is checked by others.
ALLOWED = {
    "data/base.py": 2,  # Kind and KINDS, the names themselves
    "fields/image.py": 1,  # each field says whose it is
    "fields/sdf.py": 1,
    "fields/radiance.py": 1,
    "data/images.py": 1,  # each data set too
    "data/shapes.py": 1,
    "data/views.py": 1,
    "runs/merged.py": 1,  # the name of an option, `--views`
}
MOST = 10
ELSEWHERE = ("tasks", "cli", "viewer", "scenes")


def lines_that_ask(path: Path) -> Iterator[int]:
    """Lines with a kind as a literal, or with `isinstance` of a class of fields."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in KINDS:
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            classes = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            if classes & FIELDS:
                yield node.lineno


def is_table(path: Path, line: int) -> bool:
    """True for the rates of a generator: measured factors by kind, 1 for a kind that is not among them."""
    return "rates: ClassVar" in path.read_text(encoding="utf-8").splitlines()[line - 1]


def test_kinds_are_known_to_tasks_alone() -> None:
    spec = importlib.util.find_spec("hyperfields")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations)))
    found: dict[str, set[int]] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] not in ELSEWHERE:
            lines = {line for line in lines_that_ask(path) if not is_table(path, line)}
            if lines:
                found[name] = lines
    over = {name: sorted(lines) for name, lines in found.items() if len(lines) > ALLOWED.get(name, 0)}
    assert not over, f"ask a task instead: {over}"
    assert sum(len(lines) for lines in found.values()) <= MOST
