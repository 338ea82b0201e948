"""What the documentation tells people to type works: Python blocks are run, commands parsed, links followed."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str, str]]:
    """(heading above, language, content) of each fenced block."""
    found = []
    for match in BLOCK.finditer(text):
        outside = BLOCK.sub("", text[: match.start()])  # a comment of a block is no heading
        headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
        found.append((headings[-1] if headings else "", match["language"].strip(), match["body"]))
    return found


def python_blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(heading, body) for heading, language, body in blocks(text) if language == "python"]


def run_block(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Names that a block defines; it is run as a module of its own, in `folder`, as a reader would."""
    monkeypatch.chdir(folder)
    path = folder / f"{name}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return vars(module)


RECIPES = python_blocks("docs/extending.md")


@pytest.mark.parametrize(("heading", "code"), RECIPES, ids=[heading for heading, _ in RECIPES])
def test_recipes(heading: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_block(f"recipe_{heading.replace(' ', '_').lower()}", code, tmp_path, monkeypatch)


def test_there_is_a_recipe_for_each_extension() -> None:
    headings = [heading for heading, _ in RECIPES]
    assert len(headings) == len(set(headings)) == 11
    linked = re.findall(r"^\| \[(.+?)\]\(#(.+?)\)", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    assert [text.replace("a ", "A ", 1).replace("an ", "An ", 1) for text, _ in linked] == headings
    assert [anchor for _, anchor in linked] == [heading.lower().replace(" ", "-") for heading in headings]
