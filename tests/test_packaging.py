"""The surface: every public name is there and typed; the samples are shipped; the pins are plain."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
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
        if inspect.isclass(value) or inspect.isfunction(value):
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


def test_importing_leaves_the_process_as_it_is() -> None:
    """No environment variable, thread count, random state or default type changes, whatever is imported."""
    code = """
import os, random, signal, sys, warnings
import numpy, numba, torch
def state():
    numbers = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    host = dict(os.environ), signal.getsignal(signal.SIGINT), warnings.filters[:]
    return host, numbers, torch.get_num_threads(), torch.get_default_dtype()
before = state()
import hyperfields, hyperfields.scenes
for name in hyperfields.__all__:
    getattr(hyperfields, name)
for a, b in zip(before, state(), strict=True):
    assert a == b, (a, b)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_package_is_marked_as_typed() -> None:
    assert (Path(hyperfields.__file__).parent / "py.typed").is_file()


def test_command_is_declared() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="hyperfields")
    assert [script.value for script in scripts] == ["hyperfields.cli:main"]


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="runs in the repository only")
def test_every_room_is_in_the_wheel() -> None:
    """`packages` names each folder with Python files once, and `package-data` has a pattern for every other file."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / path for name, path in settings["package-dir"].items()}
    if not all(folder.is_dir() for folder in folders.values()):
        pytest.skip("runs in the repository only: no folders of the package")
    packages: set[str] = set()
    unlisted: list[Path] = []
    for name, top in folders.items():
        packages |= {".".join((name, *file.parent.relative_to(top).parts)) for file in top.rglob("*.py")}
        patterns = {key: value for key, value in settings["package-data"].items() if (key + ".").startswith(name + ".")}
        places = {key: top.joinpath(*key.removeprefix(name).split(".")[1:]) for key in patterns}
        shipped = {file for key, several in patterns.items() for one in several for file in places[key].glob(one)}
        others = {file for file in top.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
        unlisted += sorted(file for file in others - shipped if file.suffix not in (".nbi", ".nbc"))
    assert sorted(settings["packages"]) == sorted(packages), "say so in `packages` of pyproject.toml"
    assert not unlisted, "add these to package-data of pyproject.toml"


@pytest.mark.skipif(not (ROOT / "scripts/setup.sh").is_file(), reason="runs in the repository only")
def test_every_place_says_the_same_lowest_python() -> None:
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    major, minor = lowest.split(".")
    setup = (ROOT / "scripts/setup.sh").read_text()
    assert set(re.findall(r"Python (\d\.\d+)", setup)) == {lowest}
    assert f"sys.version_info < ({major}, {minor})" in setup
    assert f'"{lowest}"' in (ROOT / ".github/workflows/ci.yml").read_text()
    assert f"Python {lowest}" in (ROOT / "README.md").read_text()


def test_samples_are_shipped_whole() -> None:
    """Everything below scenes/samples is of a kind that package-data lists, so a wheel has it too."""
    import hyperfields.scenes

    samples = Path(hyperfields.scenes.__path__[0]) / "samples"
    files = [path for path in samples.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".png", ".jpg", ".ply", ".json", ".md"}
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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    packages = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in required}
    assert packages - names - {"hyperfields", "open3d"} == set(), "add these to constraints.txt"
