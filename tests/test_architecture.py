"""Imports point down only (docs/architecture.md): every import, inside functions too, against LAYERS."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Room -> layer. A module may import its own layer and those below, and circles are not allowed.
# `__init__` is the front door of hyperfields: it may see everything, and nothing inside comes back to it.
LAYERS = {
    "errors": 0,
    "process": 0,
    "ops": 0,
    "configs": 0,
    "weights": 1,
    "cameras": 1,
    "data": 1,
    "rendering": 2,
    "hypernets": 2,
    "fields": 3,
    "codes": 3,
    "model": 4,
    "tasks": 5,
    "runs": 6,
    "training": 7,
    "evaluation": 8,
    "cli": 9,
    "scenes": 9,
    "viewer": 9,
    "scripts": 10,
    "__init__": 11,
    "__main__": 11,
}
# Tighter than the layer: the only other rooms that these may import.
ONLY = {"ops": {"errors", "process"}, "scenes": {"cameras", "errors", "data"}}
# The definition of the ops must not lean on what is tested against it: of ours it imports only the layout of
# the grid and the spherical harmonics, which are plain formulas and import nothing.
ALONE = {
    "hyperfields.ops.reference": {"hyperfields.ops.grid", "hyperfields.ops.spherical_harmonics"},
    "hyperfields.ops.grid": set[str](),
    "hyperfields.ops.spherical_harmonics": set[str](),
}


def sources() -> dict[str, Path]:
    """Module name -> file, wherever hyperfields is installed, and the repository's scripts if it has any."""
    found: dict[str, Path] = {}
    for package in ("hyperfields", "hyperfields.scenes", "hyperfields.viewer"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found |= modules(Path(folder), package)
    return found | modules(Path(__file__).parents[1] / "scripts", "scripts")


def modules(folder: Path, package: str) -> dict[str, Path]:
    """Module name -> file, for the Python files below `folder`."""
    return {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(folder.rglob("*.py"))
    }


def room(module: str) -> str:
    parts = module.split(".")
    return "scripts" if parts[0] == "scripts" else parts[1] if len(parts) > 1 else "__init__"


def alone(module: str) -> str | None:
    """The module or package in ALONE that `module` is or lies in."""
    return next((name for name in ALONE if module == name or module.startswith(f"{name}.")), None)


def executed(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run when a module is loaded: not those in functions, nor those for type checkers."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def imports(module: str, path: Path, known: set[str], *, when_loaded: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module) of everything of ours that `module` imports, at any depth of its code unless `when_loaded`."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in executed(tree) if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names if (base, alias.name) != ("hyperfields", "__version__")]
            # `from package import module` imports the module, `from module import name` the module before it
            targets = [f"{base}.{name}" if f"{base}.{name}" in known else base for name in names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] in ("hyperfields", "scripts"):
                yield node.lineno, target


def violations(files: dict[str, Path]) -> list[str]:
    """One line for each import that does not point down, and for each file without a layer."""
    found: list[str] = []
    for module, path in files.items():
        here = room(module)
        if here not in LAYERS:
            found.append(f"{path}: {here!r} has no layer; add it to LAYERS in tests/test_architecture.py")
            continue
        for line, target in sorted(set(imports(module, path, set(files)))):
            there = room(target)
            where = f"{path}:{line}: {module} (layer {LAYERS[here]}) imports {target}"
            if there not in LAYERS:
                found.append(f"{where}, which has no layer; add it to LAYERS in tests/test_architecture.py")
            elif there == "__init__":
                found.append(f"{where}; import the module that defines the name")
            elif LAYERS[there] > LAYERS[here]:
                found.append(f"{where} (layer {LAYERS[there]}); imports point down")
            elif here in ONLY and there != here and there not in ONLY[here]:
                found.append(f"{where}; {here} may import only {', '.join(sorted(ONLY[here]))}")
            elif (
                (name := alone(module)) and alone(target) != name and target not in ALONE[name] | {"hyperfields.errors"}
            ):
                found.append(f"{where}; of ours it may import only {', '.join(sorted(ALONE[name])) or 'errors'}")
    return found


def graph_of(files: dict[str, Path], *, when_loaded: bool) -> dict[str, set[str]]:
    """Module -> the modules that it imports; with `when_loaded` only those that loading it loads."""
    return {
        module: {t for _, t in imports(module, path, set(files), when_loaded=when_loaded) if t in files and t != module}
        for module, path in files.items()
    }


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Circles of a graph, each once, as `a -> b -> a`."""
    found: list[str] = []
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> None:
        if node in trail:
            found.append(" -> ".join([*trail[trail.index(node) :], node]))
        elif node not in done:
            for target in sorted(graph[node]):
                visit(target, [*trail, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def rooms_of(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> the other rooms that its modules import."""
    rooms: dict[str, set[str]] = {}
    for module, targets in graph.items():
        rooms.setdefault(room(module), set()).update(room(target) for target in targets)
    return {here: there - {here} for here, there in rooms.items()}


def test_imports_point_down() -> None:
    found = violations(sources())
    assert not found, "\n" + "\n".join(found)


def test_no_import_circles() -> None:
    """None between rooms, wherever an import stands; none between modules while they are loaded."""
    files = sources()
    found = circles(rooms_of(graph_of(files, when_loaded=False))) + circles(graph_of(files, when_loaded=True))
    assert not found, "\n" + "\n".join(found)


def test_the_top_is_small_and_every_room_says_what_lives_in_it() -> None:
    """A text of a few lines: what lives here, what it may import, and how to add one more."""
    top = {
        path.name
        for path in sources()["hyperfields"].parent.iterdir()
        if path.name not in ("__pycache__", "scenes", "viewer")
    }
    assert len(top) <= 20, sorted(top)
    for name, path in sources().items():
        if path.name != "__init__.py" or name.count(".") != 1:
            continue
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        missing = [words for words in ("may import", "To add") if words.lower() not in text.lower().replace("\n", " ")]
        assert not missing, f"{name}: its opening text says nothing of {missing}"
        assert 3 <= len(text.splitlines()) <= 24, name


def test_the_walk_sees_the_package() -> None:
    assert {"hyperfields", "hyperfields.cameras", "hyperfields.runs.run", "hyperfields.scenes"} <= set(sources())


# Wrong line -> what the message says; each is written into the file named first, beside empty files.
BREACHES = [
    ("cameras.py", "from hyperfields.errors import InputError", None),
    ("cameras.py", "from hyperfields import __version__", None),
    ("weights.py", "def f():\n    import hyperfields.fields", "weights.py:2: hyperfields.weights (layer 1)"),
    ("weights.py", "from . import fields", "imports hyperfields.fields (layer 3)"),
    ("ops/_cpu.py", "from ..weights import WeightSpec", "imports hyperfields.weights (layer 1)"),
    ("ops/reference/march.py", "from hyperfields.ops import _cpu", "may import only hyperfields.ops.grid"),
    ("ops/reference/march.py", "from .. import _cpu", "may import only hyperfields.ops.grid"),
    ("ops/reference/march.py", "from hyperfields.ops.grid import GridSpec, PRIMES", None),
    ("ops/reference/march.py", "from hyperfields.ops.reference.packing import owners", None),
    ("ops/grid.py", "from hyperfields.ops import hash_encode", "of ours it may import only errors"),
    ("scenes/images.py", "from hyperfields.tasks.losses import l2", "may import only cameras, data, errors"),
    ("training/fit.py", "from hyperfields.scenes import open_family", "imports hyperfields.scenes (layer 9)"),
    ("training/fit.py", "from hyperfields import Camera", "import the module that defines the name"),
    ("novelty.py", "", "'novelty' has no layer; add it to LAYERS"),
    ("training/fit.py", "from hyperfields.novelty import x", "has no layer; add it to LAYERS"),
]


@pytest.mark.parametrize(("name", "code", "expected"), BREACHES)
def test_what_breaks_the_rule_is_named(tmp_path: Path, name: str, code: str, expected: str | None) -> None:
    stems = ["__init__", "fields", "weights", "ops/__init__", "ops/_cpu", "ops/grid", "scenes/__init__"]
    stems += ["ops/reference/__init__", "ops/reference/packing"]
    for file, text in {**{f"{stem}.py": "" for stem in stems}, name: code}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text(text)
    found = violations(modules(tmp_path, "hyperfields"))
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]
        assert name in found[0]


def test_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from hyperfields import b")
    (tmp_path / "b.py").write_text("from hyperfields.a import f")
    files = modules(tmp_path, "hyperfields")
    assert circles(rooms_of(graph_of(files, when_loaded=False))) == ["a -> b -> a"]
    assert circles(graph_of(files, when_loaded=True)) == []
    (tmp_path / "a.py").write_text("class A:\n    from hyperfields import b")
    assert circles(graph_of(files, when_loaded=True)) == ["hyperfields.a -> hyperfields.b -> hyperfields.a"]


def loaded_by(statement: str, before: str = "") -> set[str]:
    """Top-level modules that `statement` brings into a new Python, or into one that did what stands `before`."""
    loaded = "{m.split('.')[0] for m in sys.modules}"
    code = f"import json, sys\n{before}\nbefore = {loaded}\n{statement}\nprint(json.dumps(sorted({loaded} - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {
    "torch",
    "numba",
    "open3d",
    "skimage",
    "scipy",
    "lpips",
    "torchvision",
    "imageio",
    "matplotlib",
    "av",
    "triton",
    "tinycudann",
}


@pytest.mark.parametrize("module", ["hyperfields", "hyperfields.cli"])
def test_import_is_light(module: str) -> None:
    """`hyperfields --help` has half a second, and torch alone takes more."""
    assert not loaded_by(f"import {module}") & HEAVY


def test_importing_ops_loads_no_kernel() -> None:
    extra = loaded_by("import hyperfields.ops", "import torch")
    assert not extra & {"numba", "triton", "tinycudann"}


def test_importing_scenes_loads_no_reader() -> None:
    extra = loaded_by("import hyperfields.scenes", "import torch")
    assert not extra & {"open3d", "skimage", "trimesh", "imageio", "av"}
