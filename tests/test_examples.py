"""The examples run: scripts by their `main`, notebooks cell by cell, all at tiny sizes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from hyperfields.scenes import SAMPLES

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
LONGEST = 60  # lines of a script
STEPS = {"steps": 4}
MINUTES = {"minutes": 0.001}  # one step
# Arguments of `main` that make a script short; those with `out` write into it.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "fit_images": MINUTES,
    "fit_views": MINUTES,
    "own_generator": STEPS,
    "own_loop": STEPS,
    "own_loss": STEPS,
    "photographs": {**MINUTES, "size": (16, 12)},
    "unseen": MINUTES,
}
WRITTEN = {
    "fit_images": {"first.png", "walk.gif"},
    "fit_views": {"turn.gif", "depth.png", "car.safetensors"},
    "photographs": {"capture", "turn.gif"},
    "unseen": {"unseen.png"},
}


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module, as `import` would give it."""
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def some_pictures(folder: Path) -> Path:
    """A folder of three sample pictures."""
    folder.mkdir()
    for picture in sorted((SAMPLES / "emoji").glob("*.png"))[:3]:
        shutil.copy(picture, folder)
    return folder


def some_photographs(folder: Path) -> Path:
    """A folder of six photographs of toys, one beside the other, small."""
    folder.mkdir()
    for path in sorted((SAMPLES / "toy_cars").glob("*.jpg"))[:6]:
        with Image.open(path) as picture:
            picture.resize((180, 240), Image.Resampling.BOX).save(folder / path.name, quality=95)
    return folder


def test_all_are_listed_and_short() -> None:
    assert {path.stem for path in SCRIPTS} == set(ARGUMENTS)
    listed = re.findall(r"\]\(((?:notebooks/)?\w+\.(?:py|ipynb))\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(path.relative_to(EXAMPLES).as_posix() for path in (*SCRIPTS, *NOTEBOOKS))
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < LONGEST, path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_script(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = dict(ARGUMENTS[path.stem])
    if path.stem == "fit_images":
        arguments |= {"folder": some_pictures(tmp_path / "pictures")}
    if path.stem == "photographs":
        pytest.importorskip("pycolmap", reason="pycolmap (hyperfields[captures]) is missing")
        arguments |= {"photos": some_photographs(tmp_path / "photographs")}
    load(path, monkeypatch).main(**arguments)
    written = {file.name for file in (tmp_path / "out").glob("*")}
    assert written == WRITTEN.get(path.stem, set())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_has_no_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what runs and shows the cells of a notebook, in this process."""
    shells = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("HYPERFIELDS_EXAMPLE_STEPS", "4")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nothing in the user's home
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell puts one of its own there
    monkeypatch.chdir(tmp_path)
    shell, shown = shells.InteractiveShell(), 0
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"])).raise_error()
            shown += bool(capsys.readouterr().out)
    assert shown >= 3
