"""The surface: every public name is there and typed; the samples are shipped; the pins are plain."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperfields

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", hyperfields.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(hyperfields, name)
    assert name in dir(hyperfields)
    if name != "__version__":
        module = importlib.import_module(f"hyperfields.{hyperfields._EXPORTS[name]}")
        assert value is getattr(module, name)
        assert value.__module__.startswith("hyperfields."), f"{name} is not ours: {value.__module__}"


def test_no_public_name_is_listed_twice() -> None:
    names = [
        key.value
        for node in ast.walk(ast.parse(Path(hyperfields.__file__).read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    ]
    assert len(names) == len(set(names))


def test_type_checkers_see_the_same_names() -> None:
    """`_EXPORTS` and the imports under TYPE_CHECKING say the same."""
    seen = {}
    for node in ast.walk(ast.parse(Path(hyperfields.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hyperfields."):
            for alias in node.names:
                assert alias.asname == alias.name, f"write `import {alias.name} as {alias.name}`: it re-exports"
                seen[alias.name] = (node.module or "").removeprefix("hyperfields.")
    assert seen == hyperfields._EXPORTS


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Camra'.*Camera"):
        getattr(hyperfields, "Camra")  # noqa: B009 - written plainly, type checkers refuse it too


def test_version_is_that_of_the_distribution() -> None:
    assert hyperfields.__version__ == importlib.metadata.version("hyperfields")


def test_package_is_marked_as_typed() -> None:
    assert (Path(hyperfields.__file__).parent / "py.typed").is_file()


def test_command_is_declared() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="hyperfields")
    assert [script.value for script in scripts] == ["hyperfields.cli:main"]


def test_samples_are_shipped_whole() -> None:
    """Everything below scenes/samples is of a kind that package-data lists, so a wheel has it too."""
    import hyperfields.scenes

    samples = Path(hyperfields.scenes.__path__[0]) / "samples"
    files = [path for path in samples.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".png", ".ply", ".json", ".md"}
    assert {".png", ".ply", ".json"} <= {path.suffix for path in files}
    assert sum(path.stat().st_size for path in files) < 8e6


def test_importing_submodules_keeps_lazy_names() -> None:
    """A name that is also a module's attribute resolves the same after the module was imported on its own."""
    code = "import hyperfields.cameras, hyperfields; assert hyperfields.Camera is hyperfields.cameras.Camera"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not (ROOT / "constraints.txt").is_file(), reason="runs in the repository only: no constraints.txt")
def test_constraints_are_plain_pins() -> None:
    """Name and version, nothing else: no host, no path, no hash, nothing editable, no local build."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, wrong
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    assert len(names) == len(lines)
    required = importlib.metadata.requires("hyperfields") or []
    wanted = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in required}
    assert wanted - names - {"hyperfields", "open3d"} == set(), "add these to constraints.txt"
